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
from medseg.model import MODEL_FILE, WEIGHTS_FILE, FoldFacts, Model, ModelDocument, load_model, save_tensors
from medseg.prediction import Job, PredictionSettings, Predictor, load_predictor, predict_cases, predict_files
from medseg.preprocessing import prepare
from medseg.volume import Geometry, Volume

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
    predictor.networks = (Bright(),)
    return predictor


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
    prepared = prepare(Volume(image, geometry), model.plan, model.configuration, case="a")
    network = predictor.networks[0]
    batch = torch.from_numpy(prepared.image)[None]
    with torch.inference_mode():
        axes = [[], [2], [3], [4], [2, 3], [2, 4], [3, 4], [2, 3, 4]]
        expected = sum(network(batch.flip(flip)).flip(flip) for flip in axes)[0] / 8
        once = network(batch)[0]
    torch.testing.assert_close(predictor.logits(prepared), expected, atol=1e-5, rtol=1e-4)
    plain = Predictor(model, device="cpu", precision="fp32", settings=PredictionSettings(mirror=False))
    torch.testing.assert_close(plain.logits(prepared), once, atol=1e-5, rtol=1e-4)


def test_folds_are_averaged():
    model = small_model(folds=2)
    settings = PredictionSettings(mirror=False)
    geometry = Geometry.from_spacing((8, 9, 10), (1.2, 1.0, 1.0))
    volume = Volume(np.random.default_rng(0).normal(1, 0.3, (1, 8, 9, 10)).astype(np.float32), geometry)
    prepared = prepare(volume, model.plan, model.configuration, case="a")
    both = Predictor(model, "cpu", "fp32", settings).logits(prepared)
    single = [
        Predictor(dataclasses.replace(model, weights={fold: tensors}), "cpu", "fp32", settings).logits(prepared)
        for fold, tensors in model.weights.items()
    ]
    torch.testing.assert_close(both, (single[0] + single[1]) / 2, atol=1e-5, rtol=1e-4)


def test_regions_overlap_and_are_written_in_their_order():
    labels = LabelSet({"whole": (1, 2), "core": (2,)}, region_order=(1, 2))
    predictor = bright_predictor(labels)

    class TwoRegions(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x - 0.3, x - 0.7], dim=1)

    predictor.networks = (TwoRegions(),)
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
    monkeypatch.setattr("medseg.prediction.load_predictor", lambda *_: bright_predictor())
    for name in ("a", "b"):
        io.write(ball(Geometry.from_spacing((8, 8, 8), (2, 2, 2)))[0], tmp_path / "in" / f"{name}.nrrd")
    with pytest.raises(UsageError, match="2 scans need a folder"):
        predict_files([tmp_path / "in"], tmp_path / "mask.nii.gz", models=["m"])
    result = predict_files([tmp_path / "in"], tmp_path / "out", models=["m"], ending=".nii.gz")
    assert sorted(path.name for path in result.masks.values()) == ["a.nii.gz", "b.nii.gz"]


def test_the_second_stage_of_a_cascade_is_refused():
    model = small_model()
    second = dataclasses.replace(model.configuration, name="3d_cascade_fullres", previous_stage="3d_lowres")
    with pytest.raises(UsageError, match="3d_cascade_fullres needs the masks of 3d_lowres"):
        Predictor(dataclasses.replace(model, configuration=second))
