"""Models whose folds trained different networks."""

from __future__ import annotations

import math
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import LABELS, small_configuration, small_plan

from medseg import documents, networks
from medseg.crossvalidation.folds import _bring_along
from medseg.errors import ModelError
from medseg.interop.nnunet.export import export_model
from medseg.model import (
    FOLD_PLAN_FILE,
    MODEL_FILE,
    PREVIOUS_FOLDER,
    WEIGHTS_FILE,
    FoldFacts,
    ModelDocument,
    fold_folder,
    load_model,
    save_tensors,
)
from medseg.planning.plan import Decision, Plan
from medseg.prediction import Predictor, load_predictor
from medseg.volume import Geometry, Volume


def plan_of(features: tuple[int, int] = (4, 8), **changes: object) -> Plan:
    own = small_configuration()
    return small_plan(replace(own, network=replace(own.network, features=features), **changes))  # type: ignore[arg-type]


NARROW, WIDE = plan_of(), plan_of((6, 12))
NARROW_AGAIN = plan_of(batch_size=5, decisions=(Decision("batch_size", "5", "there was time"),))


def write_fold(folder: Path, fold: int, plan: Plan, alone: bool = True, name: str | None = None) -> None:
    """Random weights for a plan, with the plan beside them."""
    configuration = plan.configuration(name)
    channels = 1 + (2 if configuration.previous_stage else 0)
    generator = torch.Generator().manual_seed(fold)
    network = networks.build(configuration.network, channels, LABELS.output_count, generator=generator)
    facts = {"fold": documents.to_json(FoldFacts((), "fp32", 1, 1.0, 0))}
    save_tensors(fold_folder(folder, fold) / WEIGHTS_FILE, network.state_dict(), facts)
    if alone:
        plan.save(fold_folder(folder, fold) / FOLD_PLAN_FILE)


def write_model(folder: Path, *plans: Plan) -> Path:
    """A model with a fold for each plan; as in training, the document has the last one's."""
    for fold, plan in enumerate(plans):
        write_fold(folder, fold, plan)
    documents.save(ModelDocument(1, plans[-1], "3d_fullres"), folder / MODEL_FILE)
    return folder


def scan() -> Volume:
    array = np.random.default_rng(0).normal(size=(1, 9, 12, 10)).astype(np.float32)
    return Volume(array, Geometry.from_spacing((9, 12, 10), (1.0, 1.0, 1.0)))


def test_folds_with_one_network_are_together(tmp_path):
    """Batches and reasons make no difference to what a network says."""
    model = load_model(write_model(tmp_path, NARROW, WIDE, NARROW_AGAIN))
    assert [tuple(part.weights) for part in model.parts] == [("0", "2"), ("1",)]
    assert [tuple(other.weights) for other in model.others] == [("1",)]
    assert [part.configuration.network.features for part in model.parts] == [(4, 8), (6, 12)]
    assert [part.others for part in model.parts] == [(), ()]
    assert load_model(tmp_path, (0, 2)).others == ()
    assert load_model(tmp_path, (1,)).configuration.network.features == (6, 12)


@pytest.mark.parametrize("change", [{"spacing_mm": (2.0, 1.0, 1.0)}, {"patch_size": (16, 8, 8)}])
def test_folds_on_other_grids_and_patches_are_apart(tmp_path, change):
    assert len(load_model(write_model(tmp_path, NARROW, plan_of(**change))).others) == 1


def test_a_fold_without_a_plan_has_the_model_s(tmp_path):
    write_model(tmp_path, NARROW, WIDE)
    (fold_folder(tmp_path, 1) / FOLD_PLAN_FILE).unlink()
    model = load_model(tmp_path)
    assert [part.configuration.network.features for part in model.parts] == [(4, 8), (6, 12)]
    Predictor(model, "cpu", "fp32")


def test_models_of_other_folds_have_other_digests(tmp_path):
    write_model(tmp_path, NARROW, NARROW_AGAIN, WIDE)
    digests = [load_model(tmp_path, folds).digest for folds in ((0,), (0, 1), (0, 1, 2), (0, 2), (2,))]
    assert len(set(digests)) == 5
    whole = load_model(tmp_path)
    assert whole.digest == load_model(tmp_path).digest
    moved = replace(whole, others=(replace(whole.others[0], plan=NARROW),))
    assert moved.digest != whole.digest


class Sure(torch.nn.Module):
    """Says left everywhere, with a logit."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), torch.full_like(x, self.logit), torch.full_like(x, -99.0)], dim=1)


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def test_every_fold_counts_the_same(tmp_path):
    """Two folds' logits, 1 and 3, are averaged to 2; the third has -4. Of two models each counts half."""
    write_model(tmp_path, NARROW, NARROW_AGAIN, WIDE)
    model = load_model(tmp_path)

    def likely(models) -> float:
        predictor = Predictor(models, "cpu", "fp32")
        assert math.isclose(sum(member.share for member in predictor.members), 1)
        for member in predictor.members:
            member.networks = (Sure(1.0), Sure(3.0)) if len(member.networks) == 2 else (Sure(-4.0),)
        return float(predictor.predict_probabilities(scan())[1][1].mean())

    mixed = (2 * sigmoid(2) + sigmoid(-4)) / 3
    assert likely(model) == pytest.approx(mixed, abs=1e-5)
    alone = load_model(tmp_path, (2,))
    assert likely([model, alone]) == pytest.approx((mixed + sigmoid(-4)) / 2, abs=1e-5)


def test_folds_are_averaged_as_models_are(tmp_path):
    write_model(tmp_path, NARROW, WIDE)
    apart = [load_model(tmp_path, (fold,)) for fold in (0, 1)]
    one = Predictor(load_model(tmp_path), "cpu", "fp32").predict_probabilities(scan())[1]
    two = Predictor(apart, "cpu", "fp32").predict_probabilities(scan())[1]
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_export_names_the_folds_that_go_together(tmp_path):
    model = write_model(tmp_path / "model", NARROW, WIDE, NARROW_AGAIN)
    with pytest.raises(ModelError, match=r"folds 0, 2 and 1 have different networks.* --fold 0,2$") as caught:
        export_model(model, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    export_model(model, tmp_path / "out", folds=(0, 2))


def test_a_zip_has_the_plan_of_every_fold(tmp_path):
    model = write_model(tmp_path / "model", NARROW, WIDE)
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for path in model.rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path))
    found = load_predictor(tmp_path / "model.zip", device="cpu").predict(scan())
    np.testing.assert_array_equal(found.array, load_predictor(model, device="cpu").predict(scan()).array)


def cascade_plan(features: tuple[int, int] = (4, 8)) -> Plan:
    coarse, fine = plan_of(features).configurations[0], small_configuration()
    return replace(
        NARROW,
        configurations=(
            replace(coarse, name="3d_lowres", spacing_mm=(1.5, 1.5, 1.5)),
            replace(fine, name="3d_cascade_fullres", previous_stage="3d_lowres"),
        ),
    )


def test_a_first_stage_comes_along_with_the_plan_of_every_fold(tmp_path):
    stage, whole = tmp_path / "3d_lowres", tmp_path / "3d_cascade_fullres"
    for fold, features in enumerate([(4, 8), (6, 12)]):
        write_fold(stage, fold, cascade_plan(features), name="3d_lowres")
    documents.save(ModelDocument(1, cascade_plan((6, 12)), "3d_lowres"), stage / MODEL_FILE)
    write_fold(whole, 0, cascade_plan(), name="3d_cascade_fullres")
    documents.save(ModelDocument(1, cascade_plan(), "3d_cascade_fullres"), whole / MODEL_FILE)
    _bring_along(stage, whole / PREVIOUS_FOLDER)
    previous = load_model(whole).previous
    assert previous is not None
    assert [part.configuration.network.features for part in previous.parts] == [(4, 8), (6, 12)]
    Predictor(load_model(whole), "cpu", "fp32").predict(scan())
    with pytest.raises(ModelError, match=f"folds of its {PREVIOUS_FOLDER} have different networks"):
        export_model(whole, tmp_path / "out")
    assert not (tmp_path / "out").exists()
