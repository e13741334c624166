"""Engines: one contract over the table, which one is chosen, and that masks, memory and records hold with each."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import small_configuration, small_plan
from hypothesis import given, settings
from test_footprint import linux, measured, write_scan
from test_networks import noise, small_spec, specs
from test_prediction import BALL, Bright, ball, cascade_model, small_model

from medseg import engines, io, networks
from medseg.architecture import NetworkSpec
from medseg.engines import ENGINES, TORCH, candidates, fastest, require_engine
from medseg.errors import UsageError
from medseg.labels import LabelSet
from medseg.model import Model
from medseg.prediction import Extras, Job, PredictionSettings, Predictor, member, predict_cases
from medseg.prediction.outputs import NO_WISHES
from medseg.prediction.record import RECORD_FILE, run_key
from medseg.volume import Geometry, Volume

CPU = torch.device("cpu")
FAST = "openvino"


def opened(name: str, network: torch.nn.Module, *window: int) -> engines.EngineNetwork:
    if not ENGINES[name].installed():
        pytest.skip(f"{name} is not installed")
    return ENGINES[name].open(network, window, 1)


def logits_agree(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-4 * max(1.0, float(expected.abs().max())), rtol=1e-3)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("family", ["plain_unet", "residual_unet"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_contract(name: str, family: str, dimensions: int) -> None:
    """The network's logits for any number of windows, the same bits each time, in memory of the caller's."""
    network = networks.build(small_spec(family, dimensions), 2, 3).eval()
    size = (4, 8, 12)[-dimensions:]
    computed = opened(name, network, 2, *size)
    batch = noise(3, 2, *size)
    with torch.inference_mode():
        expected = network(batch)
        found = computed(batch)
        kept = found.clone()
        assert found.dtype == torch.float32
        assert found.shape == (3, 3, *size)
        logits_agree(found, expected)
        for windows in (batch[:1], batch[1:], batch.flip(2).flip(2)):
            logits_agree(computed(windows), network(windows))
        mirrored = computed(batch.flip(-1))
        logits_agree(mirrored, network(batch.flip(-1)))
        torch.testing.assert_close(found, kept, rtol=0, atol=0)
        computed.release()
        torch.testing.assert_close(computed(batch), kept, rtol=0, atol=0)
        found.zero_()
        torch.testing.assert_close(computed(batch), kept, rtol=0, atol=0)


@pytest.mark.skipif(not ENGINES[FAST].installed(), reason="OpenVINO is not installed")
@settings(max_examples=25, deadline=None)
@given(spec=specs())
def test_openvino_computes_every_network_that_can_be_planned(spec: NetworkSpec) -> None:
    network = networks.build(spec, 2, 3).eval()
    with torch.no_grad():  # of what is one or zero at the start nothing would be seen
        for index, parameter in enumerate(network.parameters()):
            parameter.add_(noise(*parameter.shape, seed=index) * 0.3)
    batch = noise(2, 2, *(4 * step for step in spec.divisor))
    with torch.inference_mode():
        logits_agree(ENGINES[FAST].open(network, batch.shape[1:], 1)(batch), network(batch))


def test_a_network_of_another_kind_is_refused_by_name_and_left_to_pytorch() -> None:
    with pytest.raises(UsageError, match="--engine openvino does not know Bright; use --engine torch"):
        opened(FAST, Bright(), 1, 4, 4, 4)
    engine, computed = fastest(tuple(ENGINES.values()), Bright(), (1, 4, 4, 4), 1)
    assert engine is TORCH
    assert computed(torch.ones(1, 1, 4, 4, 4))[0, 1].unique().tolist() == [0.5]


class Slow:
    """PyTorch with a pause for each window."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds, self.released = name, seconds, 0

    def open(self, network: torch.nn.Module, window: tuple[int, ...], threads: int) -> Slow:
        return self

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        import time

        time.sleep(self.seconds)
        return batch

    def release(self) -> None:
        self.released += 1


@pytest.mark.parametrize(("first", "second", "chosen"), [(0.02, 0.01, 1), (0.01, 0.02, 0), (0.02, 0.0199, 0)])
def test_another_engine_is_used_only_where_it_is_faster(first: float, second: float, chosen: int) -> None:
    both = (Slow("first", first), Slow("second", second))
    engine, _ = fastest(both, Bright(), (1, 2, 2, 2), 1)  # type: ignore[arg-type]
    assert engine is both[chosen]
    assert [each.released for each in both] == [1, 1]


def test_which_engines_come_into_question() -> None:
    cuda = torch.device("cuda")
    for name in ("auto", "torch"):
        assert candidates(name, cuda, "fp32") == (TORCH,)
        assert candidates(name, CPU, "bf16") == (TORCH,)
    assert candidates("torch", CPU, "fp32") == (TORCH,)
    for device, precision in ((cuda, "fp32"), (CPU, "bf16")):
        with pytest.raises(UsageError, match=f"computes in fp32 on a CPU, found {precision} on {device.type}"):
            candidates(FAST, device, precision)


def test_an_engine_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--engine magic: expected auto, torch or openvino"):
        PredictionSettings(engine="magic")
    monkeypatch.setattr(type(ENGINES[FAST]), "installed", lambda self: False)
    with pytest.raises(UsageError, match=r"^--engine openvino is not installed: pip install medseg\[openvino\]$"):
        require_engine(FAST)
    require_engine("auto")
    assert candidates("auto", CPU, "fp32") == (TORCH,)


def quick(monkeypatch: pytest.MonkeyPatch, engine: str = FAST) -> None:
    """Any scan is enough to choose an engine, and that one wins."""
    monkeypatch.setattr(member, "LEAST_PASSES", 0)
    monkeypatch.setattr(member, "LEAST_VOXELS", 0)

    def chosen(engines, network, window, threads):
        return ENGINES[engine], ENGINES[engine].open(network, window, threads)

    monkeypatch.setattr(member, "fastest", chosen)


needs_openvino = pytest.mark.skipif(not ENGINES[FAST].installed(), reason="OpenVINO is not installed")


def with_engine(model: Model | list[Model], engine: str, **settings: object) -> Predictor:
    return Predictor(model, "auto", "auto", PredictionSettings(engine=engine, **settings))  # type: ignore[arg-type]


def image(shape: tuple[int, int, int] = (11, 13, 18), seed: int = 0) -> Volume:
    values = np.random.default_rng(seed).normal(1, 0.4, (1, *shape)).astype(np.float32)
    return Volume(values, Geometry.from_spacing(shape, (1.2, 1.0, 1.0)))


REGIONS = LabelSet({"whole": (1, 2), "core": (2,)}, region_order=(1, 2))


def residual_model() -> Model:
    configuration = small_configuration((1.2, 1.0, 1.0))
    configuration = dataclasses.replace(
        configuration, network=dataclasses.replace(configuration.network, family="residual_unet")
    )
    plan = small_plan(configuration, labels=BALL)
    network = networks.build(configuration.network, 1, BALL.output_count)
    return Model(plan, configuration, (0, 2), "fp32", {"0": network.state_dict()})


MODELS = {
    "plain": small_model,
    "2d": lambda: small_model(dimensions=2),
    "folds": lambda: small_model(folds=3),
    "regions": lambda: small_model(labels=REGIONS),
    "cascade": cascade_model,
    "residual": residual_model,
    "several": lambda: [small_model(), small_model(dimensions=2)],
}


@needs_openvino
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("mirror", [True, False])
def test_both_engines_give_the_same_masks(kind: str, mirror: bool) -> None:
    model, scan = MODELS[kind](), image()
    found = [with_engine(model, engine, mirror=mirror).predict_probabilities(scan) for engine in ("torch", FAST)]
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-4)
    assert (found[0][0].array == found[1][0].array).mean() > 0.999
    again = with_engine(model, FAST, mirror=mirror).predict_probabilities(scan)
    np.testing.assert_array_equal(again[1], found[1][1])


@needs_openvino
def test_disagreement_of_folds_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = []
    for engine in ("torch", FAST):
        scan = image()
        entropy, disagreement = np.zeros((2, *scan.geometry.shape), np.uint8)
        predictor = with_engine(small_model(folds=3), engine)
        predictor.segment(scan, case="a", extras=Extras(entropy=entropy, disagreement=disagreement))
        maps.append(disagreement)
    assert (maps[0] == maps[1]).mean() > 0.999
    assert maps[0].any()


@needs_openvino
def test_an_engine_is_measured_once_and_only_where_that_is_repaid(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = with_engine(small_model(), "auto")
    predictor.predict(image())
    assert predictor.members[0].engine is TORCH
    assert predictor.members[0].undecided
    quick(monkeypatch)
    monkeypatch.setattr(member, "LEAST_PASSES", predictor.members[0].passes((11, 13, 18)) * 2)
    predictor.predict(image())
    assert predictor.members[0].engine is TORCH
    predictor.scans = 2
    predictor.predict(image())
    assert predictor.members[0].engine is ENGINES[FAST]
    monkeypatch.setattr(member, "fastest", None)  # is not asked again
    predictor.predict(image())
    assert predictor.engines().startswith("openvino 2")


def test_engines_of_all_stages_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch, "torch")
    predictor = with_engine(cascade_model(), "auto")
    predictor.predict(image())
    stage = predictor.previous[0]
    assert stage is not None
    assert not predictor.members[0].undecided
    assert not stage.members[0].undecided
    assert predictor.engines() == f"torch {torch.__version__}"


@needs_openvino
def test_the_engine_asked_for_decides_device_and_precision() -> None:
    half = dataclasses.replace(small_model(), precision="bf16")
    predictor = with_engine(half, FAST)
    assert (predictor.device.type, predictor.members[0].precision) == ("cpu", "fp32")
    with pytest.raises(UsageError, match="--engine openvino computes in fp32 on a CPU, found bf16"):
        Predictor(half, "cpu", "bf16", PredictionSettings(engine=FAST))


@needs_openvino
def test_records_name_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg.prediction.files import predict_files

    io.write(ball(Geometry.from_spacing((8, 8, 8), (2, 2, 2)))[0], tmp_path / "in" / "a.nii.gz")
    monkeypatch.setattr(
        "medseg.prediction.files.load_predictor",
        lambda models, folds, device, precision, settings: Predictor(small_model(), "cpu", "fp32", settings),
    )
    for engine, word in (("torch", "torch"), (FAST, "openvino"), ("auto", "torch")):
        done = predict_files(
            [tmp_path / "in"], tmp_path / "out", models=["m"], settings=PredictionSettings(engine=engine)
        )
        assert not done.kept
        record = json.loads((tmp_path / "out" / RECORD_FILE).read_text())
        assert record["engines"]["a.nii.gz"].startswith(word)


def test_what_an_engine_chosen_by_measuring_gave_is_kept() -> None:
    """By the key that masks had before there was a choice."""
    keys = {name: run_key(with_engine(small_model(), name), NO_WISHES, ()) for name in ("auto", "torch")}
    assert keys["auto"] != keys["torch"]


IMPORTED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from test_engines import with_engine, small_model, image
predictor = with_engine(small_model(), "openvino")
assert "openvino" not in sys.modules
predictor.predict(image())
assert "openvino" in sys.modules
assert "openvino_telemetry" not in sys.modules
assert not os.listdir(os.environ["HOME"]), os.listdir(os.environ["HOME"])
"""


@needs_openvino
def test_openvino_is_loaded_late_without_telemetry_and_leaves_no_files(tmp_path: Path) -> None:
    import os

    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", IMPORTED, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(home)})
    assert done.returncode == 0, done.stderr


@linux
@needs_openvino
@pytest.mark.parametrize("engine", [FAST, "auto"])
def test_the_peak_stays_below_what_was_said(tmp_path: Path, engine: str) -> None:
    write_scan(tmp_path, (70, 120, 130))
    said, peak, _ = measured(tmp_path, engine=engine)
    assert peak < said
    assert said < 1.8 * peak, "an upper bound should not be far above"


@needs_openvino
@pytest.mark.parametrize(("what", "bytes_or_windows"), [("held_bytes", 10**12), ("windows_at_once", 10**9)])
def test_where_memory_is_short_pytorch_computes(tmp_path: Path, monkeypatch, what: str, bytes_or_windows: int) -> None:
    """Measuring would take too much, or the windows would."""
    quick(monkeypatch)
    io.write(image(), tmp_path / "a.nii.gz")

    def engine_of_a_prediction() -> str:
        predictor = with_engine(small_model(), "auto", max_ram_bytes=10**10)
        done = predict_cases(predictor, [Job("a", (tmp_path / "a.nii.gz",), tmp_path / "m.nii.gz")])
        assert not done.failures
        return predictor.engines().split()[0]

    assert engine_of_a_prediction() == "openvino"
    monkeypatch.setattr(type(ENGINES[FAST]), what, lambda self, count: bytes_or_windows)
    assert engine_of_a_prediction() == "torch"
    predictor = with_engine(small_model(), FAST, max_ram_bytes=10**10)
    done = predict_cases(predictor, [Job("a", (tmp_path / "a.nii.gz",), tmp_path / "m.nii.gz")])
    assert "predicting needs at least" in done.failures["a"]
