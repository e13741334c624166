"""Trust: promises by pencil, bands that hold what they say, scans unlike those of training."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import small_plan
from scipy.ndimage import gaussian_filter

from medseg import documents, io
from medseg.cli import run
from medseg.crossvalidation import predict_held_out
from medseg.errors import UsageError
from medseg.labels import LabelSet
from medseg.planning.plan import Normalization, Plan
from medseg.postprocessing import BestDocument
from medseg.prediction import Extras, Predictor, Wishes, load_predictor, predict_files
from medseg.trust import LabelOverlap, OverlapSums, TrustDocument, bands, calibrate, describe_scan, judge, load_trust
from medseg.trust.bands import MEAN, bands_of
from medseg.trust.calibration import fit_temperature
from medseg.trust.drift import drifts, training_scans
from medseg.volume import Geometry, Volume
from medseg.workspace import Workspace

LEFT = LabelSet({"left": (1,)})


def logits_of(*foreground: float) -> torch.Tensor:
    """Logits (2, n, 1, 1) of voxels whose foreground has these probabilities."""
    p = torch.tensor(foreground, dtype=torch.float64)
    return torch.stack([torch.log(1 - p), torch.log(p)])[:, :, None, None]


def mask(*values: int) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]


def test_a_promise_by_pencil() -> None:
    sums = OverlapSums(LEFT, [1.0])
    sums.hear([logits_of(0.9, 0.8, 0.3)], mask(1, 1, 0))
    sums.hear([logits_of(0.0001)], mask(0))
    (found,) = sums.found()
    assert found.expected == pytest.approx(2 * 1.7 / (2 + 2.0001), abs=1e-6)
    assert (found.label, found.voxels, found.agreement) == ("left", 2, None)


def test_folds_that_disagree_lower_the_promise() -> None:
    agreeing, divided = OverlapSums(LEFT, [1.0, 1.0]), OverlapSums(LEFT, [1.0, 1.0])
    agreeing.hear([logits_of(0.9, 0.9, 0.1)] * 2, mask(1, 1, 0))
    divided.hear([logits_of(0.9, 0.9, 0.1), logits_of(0.9, 0.1, 0.1)], mask(1, 1, 0))
    assert agreeing.found()[0].expected == pytest.approx(2 * 1.8 / (2 + 1.9), abs=1e-6)
    assert divided.found()[0].expected == pytest.approx(2 * 1.4 / (2 + 1.5), abs=1e-6)
    assert agreeing.found()[0].agreement == 1.0
    assert divided.found()[0].agreement == pytest.approx((1 + 2 / 3) / 2)


def test_a_temperature_makes_promises_smaller() -> None:
    sums = OverlapSums(LEFT, [2.0])
    sums.hear([logits_of(0.9)], mask(1))
    p = 3 / (3 + 1)  # the square root of the odds 9
    assert sums.found()[0].expected == pytest.approx(2 * p / (1 + p), abs=1e-6)


def test_regions_are_promised_as_regions_and_empty_masks_promise_nothing() -> None:
    regions = LabelSet({"whole": (1, 2), "core": (2,)}, region_order=(1, 2))
    likely = torch.tensor([[0.9, 0.8], [0.7, 0.2]], dtype=torch.float64)  # two regions, two voxels
    sums = OverlapSums(regions, [1.0])
    sums.hear([torch.logit(likely)[:, :, None, None]], mask(2, 1))
    whole, core = sums.found()
    assert whole.expected == pytest.approx(2 * 1.7 / (2 + 1.7), abs=1e-6)
    assert core.expected == pytest.approx(2 * 0.7 / (1 + 0.9), abs=1e-6)
    empty = OverlapSums(LEFT, [1.0])
    empty.hear([logits_of(0.1)], mask(0))
    assert empty.found()[0] == LabelOverlap("left", 0, None, None)


@pytest.mark.parametrize("regions", [False, True])
def test_the_temperature_that_spoilt_logits_is_found(regions: bool) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, 40_000))
    if regions:
        labels = LabelSet({"whole": (1, 2), "core": (2,)}, region_order=(1, 2))
        wanted = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    else:
        labels = LEFT
        truth = rng.random(40_000) < 1 / (1 + np.exp(logits[0] - logits[1]))
        wanted = np.stack([~truth, truth])
    assert fit_temperature([(2.5 * logits, wanted)], labels) == pytest.approx(2.5, rel=0.05)


def test_bands_by_pencil() -> None:
    """Nineteen cases that promise 0.9: the true Dice lacks 1 to 19 times 0.01, the ends are the ends of the band."""
    true = 1 - 0.01 * np.arange(1, 20)
    left, mean = bands_of(("left",), np.full((19, 1), 0.9), true[:, None])
    assert (left.cases, left.level, mean.label) == (19, 0.9, MEAN)
    assert left.around(0.9) == pytest.approx((0.81, 0.9, 0.99))
    assert left.around(0.5) == pytest.approx((0.05, 0.5, 0.95))
    assert bands_of(("left",), np.full((9, 1), 0.9), true[:9, None]) == ()
    (few, _) = bands_of(("left",), np.full((11, 1), 0.9), true[:11, None])
    assert few.level == pytest.approx(10 / 12)


def test_a_label_that_is_seldom_there_has_no_band() -> None:
    promised = np.column_stack([np.full(30, 0.9), np.where(np.arange(30) < 4, 0.8, np.nan)])
    found = bands_of(("common", "rare"), promised, promised - 0.05)
    assert [band.label for band in found] == ["common", MEAN]


def test_bands_hold_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(400):
        lack = rng.gamma(4, 0.03, 60).clip(0, 0.9)
        true = 1 - (lack * rng.lognormal(0, 0.3, 60)).clip(0, 1)
        (band, _) = bands_of(("left",), 1 - lack[:40, None], true[:40, None])
        for promised, dice in zip(1 - lack[40:], true[40:], strict=True):
            low, _, high = band.around(promised)
            inside.append(low <= dice <= high)
    assert 0.89 < np.mean(inside) < 0.93


def scan(shape=(10, 20, 30), spacing=(3.0, 1.0, 1.0), scale=1.0, shift=0.0, seed=0) -> Volume:
    values = np.random.default_rng(seed).normal(100, 20, (1, *shape)) * scale + shift
    return Volume(values.astype(np.float32), Geometry.from_spacing(shape, spacing))


def plan(scheme: str = "ct", orientation: str = "RAS") -> Plan:
    made = small_plan(orientation=orientation)
    configuration = dataclasses.replace(made.configurations[0], normalization=(Normalization(scheme),))  # type: ignore[arg-type]
    return dataclasses.replace(made, configurations=(configuration,))


def outside(volume: Volume, plan: Plan) -> list[str]:
    training = training_scans([describe_scan(scan(seed=seed), plan) for seed in range(20)])
    return [number.name for number in drifts(describe_scan(volume, plan), training) if number.outside]


def test_scans_like_those_of_training_do_not_drift() -> None:
    for seed in range(20, 40):
        assert outside(scan(seed=seed), plan()) == []
        assert outside(scan(seed=seed), plan("zscore")) == []


def test_what_drifts_is_named() -> None:
    assert outside(scan(spacing=(5.0, 1.0, 1.0)), plan()) == ["spacing z (mm)", "field of view z (mm)"]
    assert outside(scan((10, 20, 40)), plan()) == ["field of view x (mm)"]
    smooth = scan()
    blurred = smooth.with_array(gaussian_filter(smooth.array, (0, 2, 0, 0)))
    assert "channel 0: sharpness z (SD)" in outside(blurred, plan("zscore"))
    slip = outside(scan(shift=1024), plan())
    assert len(slip) == 3
    assert "channel 0: 50 % of voxels below" in slip
    assert outside(scan(shift=1024, scale=7), plan("zscore")) == []
    dark = scan()
    assert outside(dark.with_array(np.minimum(dark.array, 90)), plan("zscore")) != []


def test_axes_are_the_patients_whatever_the_file_stores() -> None:
    volume = scan()
    turned = volume.changed(volume.geometry.change_to("ASR"))
    assert outside(turned, plan()) == []
    assert "spacing z (mm)" in outside(turned, plan(orientation="stored"))
    (number,) = [n for n in drifts(describe_scan(scan((10, 20, 40)), plan()), _training()) if n.outside]
    assert str(number) == "field of view x (mm) is 40, in training 30 to 30"


def _training():
    return training_scans([describe_scan(scan(seed=seed), plan()) for seed in range(20)])


def document(*, usual: float = 0.8) -> TrustDocument:
    made = [bands.Band(name, 50, 0.9, 0.5, 1.0, 2.0, usual) for name in ("left", "right", MEAN)]
    return TrustDocument(1, "3d_fullres", (0,), {"0": 1.0}, tuple(made), {"left": 1.0, "right": 0.4}, _training())


def test_a_verdict_says_what_to_look_at() -> None:
    fine = judge(
        document(), [LabelOverlap("left", 9, 0.9, 0.95), LabelOverlap("right", 9, 0.8, 0.85)], scan(), plan(), "a"
    )
    assert fine.reasons == ()
    assert (fine.labels[0].low, fine.labels[0].dice, fine.labels[0].high) == pytest.approx((0.8, 0.9, 0.95))
    assert (fine.mean.low, fine.mean.fold_agreement) == pytest.approx((0.7, 0.9))
    poor = judge(
        document(), [LabelOverlap("left", 9, 0.7, None), LabelOverlap("right", 0, None, None)], scan(), plan(), "a"
    )
    assert [reason.partition(":")[0] for reason in poor.reasons] == [MEAN, "left"]
    assert poor.labels[1].low is None
    missed = judge(document(), [LabelOverlap("left", 0, None, None)], scan(spacing=(5, 1, 1)), plan(), "a")
    assert missed.reasons[0] == "no left, which 100% of training cases have"
    assert any(reason.startswith("spacing z (mm) is 5") for reason in missed.reasons)
    assert missed.mean.low is None
    turned = scan().changed(scan().geometry.change_to("LPS"))
    stored = dataclasses.replace(document(), scans=training_scans([describe_scan(scan(), plan(orientation="stored"))]))
    verdict = judge(stored, [], turned, plan(orientation="stored"), "a")
    assert any("stored as LPS, training as RAS" in reason for reason in verdict.reasons)


def test_listening_to_a_prediction_does_not_change_it(trained: Path) -> None:
    predictor = load_predictor(trained / "workspace" / "models" / "3d_fullres", None, "cpu", "fp32")
    path = next((trained / "dataset" / "imagesTs").iterdir())
    volume = io.read(path)
    sums = OverlapSums(predictor.plan.labels, [1.0, 1.0])
    heard = predictor.segment(volume, case="a", extras=Extras(hear=sums.hear))
    plain, likely = predictor.predict_probabilities(path)
    np.testing.assert_array_equal(heard.array, plain.array)
    for overlap, (name, values) in zip(sums.found(), predictor.plan.labels.classes.items(), strict=True):
        assert overlap.label == name
        assert overlap.voxels == np.isin(plain.array, values).sum()
    one = Predictor(
        dataclasses.replace(predictor.members[0].model, weights={"0": predictor.members[0].model.weights["0"]})
    )
    single = OverlapSums(predictor.plan.labels, [1.0])
    mask, likely = one.predict_probabilities(path)
    one.segment(volume, case="a", extras=Extras(hear=single.hear))
    for output, overlap in enumerate(single.found(), start=1):
        inside = mask.array == output
        if inside.any():
            promised = 2 * likely[output][inside].sum() / (inside.sum() + likely[output].sum())
            assert overlap.expected == pytest.approx(promised, rel=1e-3)


def test_from_cross_validation_to_a_list(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    workspace = Workspace.open(trained / "workspace")
    (workspace.root / "best.json").unlink(missing_ok=True)
    model, scans, out = workspace.model_folder("3d_fullres"), trained / "dataset" / "imagesTs", trained / "trusted"
    arguments = ["predict", str(scans), "-o", str(out), "-w", str(workspace.root), "--device", "cpu", "--trust"]
    (model / "trust.json").unlink(missing_ok=True)
    assert run(arguments) == 2
    assert "medseg calibrate" in capsys.readouterr().err
    assert run(["calibrate", "-w", str(workspace.root), "--device", "cpu"]) == 2
    assert "train more folds" in capsys.readouterr().err
    monkeypatch.setattr(bands, "FEWEST_CASES", 4)
    assert run(["calibrate", "-w", str(workspace.root), "--device", "cpu"]) == 0
    assert "temperature" in capsys.readouterr().out
    trust = load_trust(model)
    assert trust.folds == (0, 1)
    assert trust.scans.cases == 4
    assert {band.cases for band in trust.bands} <= {4}
    assert run(arguments) == 0
    said = capsys.readouterr().out
    assert "look at " in said
    written = documents.read_json(out / "trust.json")["cases"]
    rows = list(csv.DictReader((out / "trust.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == [entry["case"] for entry in written]
    assert {name["label"] for name in written[0]["labels"]} == {"liver", "vessel", "cyst"}
    assert run([*arguments, "--json"]) == 0  # kept from before, with what was said
    again = json.loads(capsys.readouterr().out)
    assert again["trust"] == written
    single = out / "one.nii.gz"
    scan_path = next(scans.iterdir())
    predict_files([scan_path], single, models=[model], device="cpu", wishes=Wishes(trust=trust))
    assert documents.read_json(out / "one_trust.json")["cases"][0]["mean"]["label"] == MEAN


def test_of_pairs_no_dice_is_expected(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(bands, "FEWEST_CASES", 4)
    workspace = Workspace.open(trained / "workspace")
    for name in ("2d", "3d_fullres"):
        predict_held_out(workspace, (name,), device="cpu")
        calibrate(workspace, name)
    BestDocument(1, "noise", ("2d", "3d_fullres"), (), (0, 1), (), ()).save(workspace.root / "best.json")
    out = trained / "paired"
    scans = trained / "dataset" / "imagesTs"
    arguments = [
        "predict",
        str(scans),
        "-o",
        str(out),
        "-w",
        str(workspace.root),
        "--device",
        "cpu",
        "--trust",
        "--json",
    ]
    assert run(arguments) == 0
    (verdict,) = json.loads(capsys.readouterr().out)["trust"]
    assert verdict["mean"]["dice"] is None
    assert verdict["mean"]["fold_agreement"] is None or 0 <= verdict["mean"]["fold_agreement"] <= 1
    assert len(verdict["drift"]) == 12


def test_calibration_needs_probabilities(trained: Path) -> None:
    workspace = Workspace.open(trained / "workspace")
    predict_held_out(workspace, ("2d",), device="cpu")
    victim = next(workspace.model_folder("2d").glob("fold_0/validation/*.npz"))
    kept = victim.read_bytes()
    victim.unlink()
    with pytest.raises(UsageError, match="medseg calibrate"):
        calibrate(workspace, "2d")
    victim.write_bytes(kept)
