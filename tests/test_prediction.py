"""Prediction: on the scan's own grid, on the same anatomy, averaged over mirrors and folds."""

from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch
from examples import oblique_geometry, small_configuration, small_plan

import medseg
from medseg import documents, io, networks
from medseg.device import prediction_precision
from medseg.errors import DataError, ModelError, UsageError
from medseg.labels import LabelSet
from medseg.model import (
    MODEL_FILE,
    PREVIOUS_FOLDER,
    WEIGHTS_FILE,
    FoldFacts,
    Model,
    ModelDocument,
    load_model,
    save_tensors,
)
from medseg.prediction import (
    Extras,
    Job,
    PredictionSettings,
    Predictor,
    Wishes,
    estimate_cases,
    load_predictor,
    predict_cases,
    predict_files,
)
from medseg.preprocessing import PreparedPlanes, prepare_planes
from medseg.volume import Geometry, LabelVolume, Volume

BALL = LabelSet({"ball": (7,)})


class Bright(torch.nn.Module):
    """Says ball where a voxel is brighter than 0.5."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([0.5 - x, x - 0.5], dim=1)


def small_model(folds: int = 1, labels: LabelSet = BALL, dimensions: int = 3) -> Model:
    spacing, patch = ((1.2, 1.0, 1.0), (8, 8, 8)) if dimensions == 3 else ((1.0, 1.0), (8, 8))
    plan = small_plan(small_configuration(spacing, patch), labels=labels)
    configuration = plan.configurations[0]
    weights = {}
    for fold in range(folds):
        generator = torch.Generator().manual_seed(fold)
        network = networks.build(configuration.network, 1, labels.output_count, generator=generator)
        weights[str(fold)] = network.state_dict()
    return Model(plan, configuration, tuple(range(dimensions)), "fp32", weights)


def bright_predictor(labels: LabelSet = BALL, dimensions: int = 3) -> Predictor:
    predictor = Predictor(small_model(labels=labels, dimensions=dimensions), device="cpu")
    predictor.members[0].networks = (Bright(),)
    return predictor


def all_logits(predictor: Predictor, scan: PreparedPlanes) -> torch.Tensor:
    slabs = predictor.members[0].slabs(scan, predictor.placements[0])
    return torch.cat([slab.clone() for slab in slabs], dim=1)


def ball(geometry: Geometry) -> tuple[Volume, np.ndarray, np.ndarray]:
    """A bright ball of 6 mm off every plane of symmetry, where it lies, and its centre in mm."""
    centre = geometry.to_mm((np.array(geometry.shape) - 1) * np.array([0.3, 0.65, 0.4]))
    index = np.stack(np.meshgrid(*(np.arange(size) for size in geometry.shape), indexing="ij"), axis=-1)
    inside = np.linalg.norm(geometry.to_mm(index) - centre, axis=-1) < 6
    return Volume(np.where(inside, 1.0, 0.01).astype(np.float32)[None], geometry), inside, centre


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "ASL", "SRP", "PIR", "LAI"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_an_oblique_anisotropic_scan_gets_its_mask_on_its_own_grid_and_anatomy(tmp_path, orientation, dimensions):
    geometry = oblique_geometry((19, 24, 22), (2.4, 0.9, 1.1), orientation, 17)
    volume, inside, centre = ball(geometry)
    source = tmp_path / "scan.nii.gz"
    io.write(volume, source)
    mask = bright_predictor(dimensions=dimensions).predict(source)
    io.write(mask, tmp_path / "mask.nii.gz", like=source)
    scan, written = nib.load(source), nib.load(tmp_path / "mask.nii.gz")
    assert scan.shape == written.shape
    np.testing.assert_array_equal(scan.affine, written.affine)
    found = np.asarray(written.dataobj)
    assert set(np.unique(found)) == {0, 7}
    where = nib.affines.apply_affine(written.affine, np.argwhere(found == 7)).mean(0)
    assert np.linalg.norm(where - centre) < 0.5 * max(geometry.spacing_mm)
    overlap = 2 * np.sum((mask.array == 7) & inside) / (np.sum(mask.array == 7) + np.sum(inside))
    assert overlap > 0.8
    assert mask.labels == {"ball": 7}


def test_mirrored_copies_are_averaged():
    model = small_model()
    predictor = Predictor(model, device="cpu", precision="fp32")
    geometry = Geometry.from_spacing((8, 8, 8), (1.2, 1.0, 1.0))
    image = np.random.default_rng(0).normal(1, 0.3, (1, 8, 8, 8)).astype(np.float32)
    prepared = prepare_planes(Volume(image, geometry), model.plan, model.configuration, case="a")
    network = predictor.members[0].networks[0]
    batch = prepared.planes(0, 8)[None]
    with torch.inference_mode():
        axes = [[], [2], [3], [4], [2, 3], [2, 4], [3, 4], [2, 3, 4]]
        expected = sum(network(batch.flip(flip)).flip(flip) for flip in axes)[0] / 8
        once = network(batch)[0]
    torch.testing.assert_close(all_logits(predictor, prepared), expected, atol=1e-5, rtol=1e-4)
    plain = Predictor(model, device="cpu", precision="fp32", settings=PredictionSettings(mirror=False))
    torch.testing.assert_close(all_logits(plain, prepared), once, atol=1e-5, rtol=1e-4)


def test_folds_are_averaged():
    model = small_model(folds=2)
    settings = PredictionSettings(mirror=False)
    geometry = Geometry.from_spacing((8, 9, 10), (1.2, 1.0, 1.0))
    volume = Volume(np.random.default_rng(0).normal(1, 0.3, (1, 8, 9, 10)).astype(np.float32), geometry)
    prepared = prepare_planes(volume, model.plan, model.configuration, case="a")
    both = all_logits(Predictor(model, "cpu", "fp32", settings), prepared)
    single = [
        all_logits(Predictor(dataclasses.replace(model, weights={fold: tensors}), "cpu", "fp32", settings), prepared)
        for fold, tensors in model.weights.items()
    ]
    torch.testing.assert_close(both, (single[0] + single[1]) / 2, atol=1e-5, rtol=1e-4)


def test_regions_overlap_and_are_written_in_their_order():
    labels = LabelSet({"whole": (1, 2), "core": (2,)}, region_order=(1, 2))
    predictor = bright_predictor(labels)

    class TwoRegions(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x - 0.3, x - 0.7], dim=1)

    predictor.members[0].networks = (TwoRegions(),)
    image = np.repeat(np.array([0.1, 0.5, 0.9], np.float32), 4)[None, :, None, None] * np.ones(
        (1, 12, 8, 8), np.float32
    )
    array = predictor.predict(Volume(image, Geometry.from_spacing((12, 8, 8), (1.2, 1, 1)))).array
    assert array[:, 4, 4].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_model_is_saved_and_loaded_whole(tmp_path):
    model = small_model(folds=2)
    documents.save(ModelDocument(1, model.plan, model.configuration.name), tmp_path / MODEL_FILE)
    for fold, tensors in model.weights.items():
        facts = FoldFacts((0, 1, 2) if fold == "0" else (1, 2), "fp32" if fold == "0" else "bf16", 5, 1.0, 0)
        save_tensors(tmp_path / f"fold_{fold}" / WEIGHTS_FILE, tensors, {"fold": documents.to_json(facts)})
    both = load_model(tmp_path)
    assert (both.mirror_axes, both.precision) == ((1, 2), "fp32")
    assert tuple(load_model(tmp_path).weights) == ("0", "1")
    assert tuple(load_model(tmp_path, folds=(1,)).weights) == ("1",)
    with pytest.raises(ModelError, match=r"no trained fold 4 \(found 0, 1\)"):
        load_model(tmp_path, folds=(4,))
    with pytest.raises(ModelError, match="a model is a folder"):
        load_model(tmp_path / "fold_0")
    volume = ball(Geometry.from_spacing((8, 9, 10), (1, 1, 1)))[0]
    assert medseg.load_model(tmp_path, folds=(0,), device="cpu").predict(volume).array.shape == (8, 9, 10)


def test_weights_of_another_topology_are_refused():
    model = small_model()
    tensors = next(iter(model.weights.values()))
    name = next(iter(tensors))
    broken = dataclasses.replace(model, weights={"0": {**tensors, name: tensors[name][:1]}})
    with pytest.raises(ModelError, match=f"fold 0 of 3d_fullres: the weights do not fit the plan: {name}"):
        broken.build_networks()


def test_a_scan_with_other_channels_is_refused(tmp_path):
    volume = Volume(np.ones((2, 4, 4, 4), np.float32), Geometry.from_spacing((4, 4, 4), (1, 1, 1)))
    with pytest.raises(DataError, match="expected 1 channels"):
        bright_predictor().predict(volume)


def test_nothing_is_left_of_a_case_that_fails(tmp_path):
    good = ball(Geometry.from_spacing((8, 8, 8), (2, 2, 2)))[0]
    io.write(good, tmp_path / "good.nii.gz")
    (tmp_path / "bad.nii.gz").write_bytes(b"nothing")
    jobs = [Job(name, (tmp_path / f"{name}.nii.gz",), tmp_path / "out" / f"{name}.nii.gz") for name in ("bad", "good")]
    result = predict_cases(bright_predictor(), jobs)
    assert list(result.masks) == ["good"]
    assert list(result.failures) == ["bad"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.nii.gz"]


@pytest.mark.parametrize("step", [0, 1.5, -1])
def test_a_step_beyond_reason_is_refused(step):
    with pytest.raises(UsageError, match="--step"):
        PredictionSettings(step=step)


def test_prediction_is_never_coarser_than_training():
    cpu = torch.device("cpu")
    assert prediction_precision("auto", cpu, "fp32") == "fp32"
    assert prediction_precision("auto", cpu, "fp16") == "fp32"
    assert prediction_precision("bf16", cpu, "fp32") == "bf16"
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        prediction_precision("fp16", cpu, "fp32")


@pytest.mark.parametrize("kind", ["tiny", "tiny_resenc", "tiny_2d"])
@pytest.mark.parametrize("mirror", [True, False])
def test_models_of_the_peer_predict_what_the_peer_does(shared, kind, mirror):
    """Label maps of nnU-Net 2.8.1 for three scans; it sums logits in half precision, which moves a few voxels."""
    root = shared / f"nnunet_model_{kind}"
    predictor = load_predictor(root, (0,), "cpu", settings=PredictionSettings(mirror=mirror))
    for reference in sorted((root / f"predictions_{'tta' if mirror else 'notta'}").glob("*.nii.gz"))[:2]:
        image = shared / "nnunet_model_tiny/images" / reference.name.replace(".nii.gz", "_0000.nii.gz")
        found, expected = predictor.predict(image).array, np.asarray(nib.load(reference).dataobj).T
        assert (found == expected).mean() > 0.999
        for label in (1, 2):
            a, b = found == label, expected == label
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.998


def test_one_output_file_holds_one_case(tmp_path, monkeypatch):
    monkeypatch.setattr("medseg.prediction.files.load_predictor", lambda *_: bright_predictor())
    for name in ("a", "b"):
        io.write(ball(Geometry.from_spacing((8, 8, 8), (2, 2, 2)))[0], tmp_path / "in" / f"{name}.nrrd")
    with pytest.raises(UsageError, match="2 scans need a folder"):
        predict_files([tmp_path / "in"], tmp_path / "mask.nii.gz", models=["m"])
    result = predict_files([tmp_path / "in"], tmp_path / "out", models=["m"], ending=".nii.gz")
    assert sorted(path.name for path in result.masks.values()) == ["a.nii.gz", "b.nii.gz"]


class Echo(torch.nn.Module):
    """Says ball where the previous stage did: its second input channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([0.5 - x[:, 1:], x[:, 1:] - 0.5], dim=1)


def cascade_model() -> Model:
    """Two stages; the first sees the scan at a coarser spacing."""
    first = small_model()
    second = dataclasses.replace(
        small_configuration((1.0, 0.9, 0.9)), name="3d_cascade_fullres", previous_stage="3d_lowres"
    )
    network = networks.build(second.network, 2, BALL.output_count)
    return Model(first.plan, second, (), "fp32", {"0": network.state_dict()}, previous=first)


def cascade_predictor() -> Predictor:
    predictor = Predictor(cascade_model(), "cpu", "fp32")
    predictor.members[0].networks = (Echo(),)
    assert predictor.previous[0] is not None
    predictor.previous[0].members[0].networks = (Bright(),)
    return predictor


@pytest.mark.parametrize("orientation", ["RAS", "LSA", "PIR"])
def test_the_second_stage_of_a_cascade_sees_the_mask_of_the_first(orientation):
    geometry = oblique_geometry((24, 26, 22), (1.5, 1.0, 1.2), orientation, 12)
    volume, inside, _ = ball(geometry)
    mask = cascade_predictor().predict(volume).array == 7
    assert 2 * (mask & inside).sum() / (mask.sum() + inside.sum()) > 0.85
    given = np.roll(inside, 3, axis=0)
    told = cascade_predictor().predict(volume, previous=LabelVolume(given * np.uint8(7), geometry)).array == 7
    assert 2 * (told & given).sum() / (told.sum() + given.sum()) > 0.9


def test_a_cascade_without_its_first_stage_needs_a_mask():
    predictor = Predictor(dataclasses.replace(cascade_model(), previous=None), "cpu")
    volume, _, _ = ball(Geometry.from_spacing((12, 12, 12), (2, 2, 2)))
    with pytest.raises(UsageError, match="scan: 3d_cascade_fullres needs the mask of 3d_lowres"):
        predictor.predict(volume)


def test_a_cascade_takes_its_first_stage_along(tmp_path):
    model = cascade_model()
    assert model.previous is not None
    plan = dataclasses.replace(model.plan, configurations=(model.previous.configuration, model.configuration))
    for folder, stage in ((tmp_path, model), (tmp_path / PREVIOUS_FOLDER, model.previous)):
        facts = FoldFacts(stage.mirror_axes, "fp32", 10, 1.0, 0)
        documents.save(ModelDocument(1, plan, stage.configuration.name), folder / MODEL_FILE)
        save_tensors(folder / "fold_0" / WEIGHTS_FILE, stage.weights["0"], {"fold": documents.to_json(facts)})
    loaded = load_model(tmp_path)
    assert loaded.previous is not None
    assert loaded.previous.configuration == model.previous.configuration
    volume, _, _ = ball(oblique_geometry((12, 13, 14), (2, 1, 1), "LPS", 10))
    np.testing.assert_array_equal(
        Predictor(loaded, "cpu", "fp32").predict(volume).array, Predictor(model, "cpu", "fp32").predict(volume).array
    )


def test_configurations_are_averaged_as_probabilities():
    """Two models on grids of their own: the mean of what each says on the grid of the scan."""
    fine, coarse = small_model(), small_model()
    coarse = dataclasses.replace(coarse, configuration=small_configuration((2.5, 1.5, 1.5)))
    flat = small_model(dimensions=2)
    geometry = oblique_geometry((14, 15, 16), (1.7, 1.1, 0.9), "LPI", 15)
    volume = Volume(np.random.default_rng(1).normal(1, 0.4, (1, *geometry.shape)).astype(np.float32), geometry)
    models = [fine, coarse, flat]
    alone = [Predictor(model, "cpu", "fp32").predict_probabilities(volume)[1] for model in models]
    mask, likely = Predictor(models, "cpu", "fp32").predict_probabilities(volume)
    np.testing.assert_allclose(likely, np.mean(alone, axis=0), atol=1e-5)
    np.testing.assert_array_equal(mask.array == 7, likely[1] > likely[0])
    mask.geometry.require_equal(geometry, "the mask", "the scan")


def test_models_of_other_labels_are_not_averaged():
    with pytest.raises(UsageError, match="models can be averaged if they have the same labels"):
        Predictor([small_model(), small_model(labels=LabelSet({"other": (7,)}))], "cpu")


@pytest.mark.parametrize("labels", [BALL, LabelSet({"whole": (1, 2), "core": (2,)}, region_order=(1, 2))])
def test_probabilities_and_mask_agree(labels):
    geometry = oblique_geometry((9, 10, 11), (1.7, 1.1, 0.9), "SAL", 15)
    volume = Volume(np.random.default_rng(1).normal(1, 0.4, (1, *geometry.shape)).astype(np.float32), geometry)
    predictor = Predictor(small_model(folds=2, labels=labels), "cpu", "fp32")
    mask, likely = predictor.predict_probabilities(volume)
    np.testing.assert_array_equal(mask.array, predictor.predict(volume).array)
    if labels is BALL:
        np.testing.assert_allclose(likely.sum(0), 1, atol=1e-5)
        np.testing.assert_array_equal(mask.array == 7, likely[1] > likely[0])
    else:
        np.testing.assert_array_equal(mask.array, np.where(likely[1] > 0.5, 2, likely[0] > 0.5))


class Sure(torch.nn.Module):
    """Says ball everywhere, more or less surely."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), torch.full_like(x, self.logit)], dim=1)


def test_uncertainty_by_hand():
    """Of three folds one says background: a third disagrees; even odds are all the entropy there is."""
    predictor = Predictor(small_model(folds=3), "cpu", "fp32")
    volume, _, _ = ball(Geometry.from_spacing((10, 9, 8), (1.2, 1, 1)))
    array = volume.array.copy()
    array[:, 0] = 0  # cropped away
    volume = volume.with_array(array)
    maps = Extras(None, np.zeros((10, 9, 8), np.uint8), np.zeros((10, 9, 8), np.uint8))
    predictor.members[0].networks = (Sure(3.0), Sure(2.0), Sure(-1.0))
    mask = predictor.segment(volume, case="a", extras=maps).array
    assert (mask[1:] == 7).all()
    assert (mask[0] == 0).all()
    p = 1 / (1 + np.exp(-4 / 3))
    expected = round(-100 * (p * np.log2(p) + (1 - p) * np.log2(1 - p)))
    assert maps.entropy is not None and maps.disagreement is not None
    assert set(maps.entropy[1:].ravel().tolist()) == {expected}
    assert set(maps.disagreement[1:].ravel().tolist()) == {33}
    assert not maps.entropy[0].any() and not maps.disagreement[0].any()


def test_what_is_wished_lies_beside_the_mask(tmp_path):
    geometry = oblique_geometry((9, 10, 11), (1.7, 1.1, 0.9), "SAL", 15)
    volume, _, _ = ball(geometry)
    io.write(volume, tmp_path / "a.nii.gz")
    predictor = Predictor(small_model(folds=2), "cpu", "fp32")
    wishes = Wishes(probabilities=True, uncertainty=True)
    job = Job("a", (tmp_path / "a.nii.gz",), tmp_path / "out" / "a.nii.gz")
    assert not predict_cases(predictor, [job], wishes=wishes).failures
    _, likely = predictor.predict_probabilities(tmp_path / "a.nii.gz")
    found = np.load(tmp_path / "out" / "a.npz")["probabilities"]
    np.testing.assert_allclose(found, likely, atol=1e-6)
    entropy = io.read(tmp_path / "out" / "a_entropy.nii.gz")
    entropy.geometry.require_equal(io.read(tmp_path / "a.nii.gz").geometry, "entropy", "scan")
    bits = -(likely * np.log2(np.maximum(likely, 1e-30))).sum(0)
    np.testing.assert_allclose(entropy.array[0], 100 * bits, atol=0.51)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a.nii.gz", "a.npz", "a_entropy.nii.gz", "a_disagreement.nii.gz"}


def test_the_same_command_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    made: list[str] = []
    real = Predictor.segment

    def counted(self, volume, *, case, **others):
        made.append(case)
        return real(self, volume, case=case, **others)

    monkeypatch.setattr(Predictor, "segment", counted)
    models = {"m": bright_predictor(), "other": Predictor(small_model(folds=2), "cpu", "fp32")}
    monkeypatch.setattr("medseg.prediction.files.load_predictor", lambda paths, *_: models[paths[0]])
    scans, masks = tmp_path / "in", tmp_path / "out"
    for name in ("a", "b", "c"):
        io.write(ball(Geometry.from_spacing((8, 8, 8), (2, 2, 2)))[0], scans / f"{name}.nrrd")
    predict_files([scans], masks, models=["m"], should_stop=lambda: len(made) >= 2)
    assert made == ["a", "b"]
    result = predict_files([scans], masks, models=["m"])
    assert made == ["a", "b", "c"]
    assert result.kept == ("a", "b")
    assert sorted(result.masks) == ["a", "b", "c"]
    (masks / "b.nrrd").unlink()  # a mask that went away
    io.write(ball(Geometry.from_spacing((9, 8, 8), (2, 2, 2)))[0], scans / "c.nrrd")  # a scan that was exchanged
    assert predict_files([scans], masks, models=["m"]).kept == ("a",)
    assert made[3:] == ["b", "c"]
    assert predict_files([scans], masks, models=["other"]).kept == ()  # another model


def test_an_estimate_is_made_without_predicting(tmp_path):
    volume, _, _ = ball(Geometry.from_spacing((40, 41, 42), (1.2, 1, 1)))
    io.write(volume, tmp_path / "a.nii.gz")
    predictor = Predictor(cascade_model(), "cpu", "fp32")
    jobs = [Job("a", (tmp_path / "a.nii.gz",), tmp_path / "mask.nii.gz")]
    (estimate,) = estimate_cases(predictor, jobs, Wishes())
    assert estimate.need.vram_bytes == 0
    assert 1e8 < estimate.need.ram_bytes < 4e9
    assert 0 < estimate.seconds < 600
    assert not (tmp_path / "mask.nii.gz").exists()
