"""Models that go to nnU-Net and come from it: exported folders, zips, and files that should not be opened."""

from __future__ import annotations

import json
import shutil
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import LABELS, oblique_geometry, small_configuration, small_plan

from medseg import documents, io, networks
from medseg.errors import ModelError, UsageError
from medseg.interop.nnunet.archives import open_archive
from medseg.interop.nnunet.export import export_model
from medseg.interop.nnunet.models import load_model as load_nnunet
from medseg.labels import LabelSet
from medseg.model import (
    MODEL_FILE,
    PREVIOUS_FOLDER,
    WEIGHTS_FILE,
    FoldFacts,
    Model,
    ModelDocument,
    fold_folder,
    save_tensors,
)
from medseg.planning.plan import Plan
from medseg.prediction import load_predictor
from medseg.volume import Volume

SPARSE = LabelSet({"kidney": (70,), "liver": (5,)})
REGIONS = LabelSet({"whole": (3, 9), "core": (9,)}, region_order=(3, 9))


def write_model(folder: Path, plan: Plan, weights: dict[str, dict[str, torch.Tensor]], mirror_axes=(0, 1, 2)) -> Path:
    """A model folder of ours for the first configuration of a plan."""
    documents.save(ModelDocument(1, plan, plan.configurations[0].name), folder / MODEL_FILE)
    for fold, tensors in weights.items():
        facts = documents.to_json(FoldFacts(mirror_axes, "fp32", 1, 1.0, 0))
        save_tensors(fold_folder(folder, fold) / WEIGHTS_FILE, tensors, {"fold": facts})
    return folder


def random_model(folder: Path, labels: LabelSet = LABELS, folds: int = 2, dimensions: int = 3) -> Path:
    """A model with random weights."""
    plan = small_plan(small_configuration((1.0,) * dimensions, (8,) * dimensions), labels=labels)
    network = plan.configurations[0].network
    weights = {
        str(fold): networks.build(
            network, 1, labels.output_count, generator=torch.Generator().manual_seed(fold)
        ).state_dict()
        for fold in range(folds)
    }
    return write_model(folder, plan, weights, tuple(range(dimensions)))


def scan() -> Volume:
    array = np.random.default_rng(0).normal(size=(1, 9, 12, 10)).astype(np.float32)
    return Volume(array, oblique_geometry((9, 12, 10), (1.0, 1.0, 1.0), "LPS", 5))


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    export_model(random_model(root / "model"), root / "nnunet")
    return root


def zipped(path: Path, folder: Path, *places: str) -> Path:
    """A folder's files in a zip, once under each place, among files that nobody needs."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for place in places:
            for file in sorted(folder.rglob("*.*")):
                archive.write(file, f"{place}/{file.relative_to(folder)}")
            archive.writestr(f"{place}/fold_0/progress.png", b"picture")
            for name in ("plans.json", "dataset.json", "postprocessing.pkl"):
                archive.writestr(f"{place}/crossval_results_folds_0_1/{name}", b"{}")
        archive.writestr("Dataset001_X/inference_information.json", b"{}")
    return path


@pytest.mark.parametrize("labels", [LABELS, REGIONS, LabelSet({"a": (1,)}, ignore=2)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_an_exported_model_predicts_the_same(tmp_path, labels, dimensions):
    model = random_model(tmp_path / "model", labels, dimensions=dimensions)
    export_model(model, tmp_path / "nnunet")
    ours = load_predictor(model, device="cpu").predict(scan())
    theirs = load_predictor(tmp_path / "nnunet", device="cpu").predict(scan())
    assert len(np.unique(ours.array)) > 1
    inside = {0: 0, **{value: index + 1 for index, value in enumerate(labels.values)}}
    np.testing.assert_array_equal(np.vectorize(inside.__getitem__)(ours.array), theirs.array)


def test_label_values_become_consecutive(tmp_path):
    values = export_model(random_model(tmp_path / "model", SPARSE), tmp_path / "nnunet")
    assert values == {"kidney": 2, "liver": 1}
    written = json.loads((tmp_path / "nnunet/dataset.json").read_text())
    assert written["labels"] == {"background": 0, "kidney": 2, "liver": 1}
    ours = load_predictor(tmp_path / "model", device="cpu").predict(scan()).array
    theirs = load_predictor(tmp_path / "nnunet", device="cpu").predict(scan()).array
    np.testing.assert_array_equal(ours == 70, theirs == 2)
    np.testing.assert_array_equal(ours == 5, theirs == 1)


def test_regions_keep_their_order(tmp_path):
    assert export_model(random_model(tmp_path / "model", REGIONS), tmp_path / "nnunet") == {"whole": [1, 2], "core": 2}
    assert json.loads((tmp_path / "nnunet/dataset.json").read_text())["regions_class_order"] == [1, 2]


def test_a_model_on_ras_axes_names_a_reader_that_reorients(exported):
    assert json.loads((exported / "nnunet/plans.json").read_text())["image_reader_writer"] == "NibabelIOWithReorient"
    assert load_nnunet(exported / "nnunet").plan.orientation == "RAS"


def test_only_the_wanted_folds_are_exported(exported, tmp_path):
    export_model(exported / "model", tmp_path / "nnunet", folds=[1])
    assert list(load_nnunet(tmp_path / "nnunet").weights) == ["1"]
    with pytest.raises(ModelError, match="no trained fold 7"):
        export_model(exported / "model", tmp_path / "other", folds=[7])
    assert not (tmp_path / "other").exists()


def test_an_existing_target_stays_as_it_is(exported, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        export_model(exported / "model", tmp_path)
    with pytest.raises(UsageError, match="is there already"):
        open_archive(zipped(tmp_path / "m.zip", exported / "nnunet", "d/m"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "m.zip"}


def test_a_failed_export_leaves_nothing(exported, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(Exception, match="No space left"):
        export_model(exported / "model", tmp_path / "nnunet")
    assert list(tmp_path.iterdir()) == []


def test_a_zip_with_one_model_predicts(exported, tmp_path):
    archive = zipped(tmp_path / "model.zip", exported / "nnunet", "Dataset001_X/nnUNetTrainer__nnUNetPlans__3d_fullres")
    from_zip = load_predictor(archive, device="cpu").predict(scan())
    np.testing.assert_array_equal(
        from_zip.array, load_predictor(exported / "nnunet", device="cpu").predict(scan()).array
    )


def test_only_what_prediction_needs_is_extracted(exported, tmp_path):
    archive = zipped(tmp_path / "model.zip", exported / "nnunet", "D/a", "D/b")
    found = open_archive(archive, tmp_path / "out")
    assert found == (tmp_path / "out/D/a", tmp_path / "out/D/b")
    files = {str(path.relative_to(tmp_path / "out/D/a")) for path in found[0].rglob("*.*")}
    assert files == {"plans.json", "dataset.json", "fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth"}
    assert {path.name for path in (tmp_path / "out").rglob("*")} == {
        *("D", "a", "b", "fold_0", "fold_1", "plans.json", "dataset.json", "checkpoint_final.pth")
    }


def test_a_zip_with_several_models_says_which(exported, tmp_path):
    with pytest.raises(ModelError, match=r"holds 2 models: D/a, D/b; extract it"):
        load_predictor(zipped(tmp_path / "model.zip", exported / "nnunet", "D/a", "D/b"), device="cpu")


def link() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo("D/a/fold_0")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize(
    "member",
    ["../plans.json", "D/../../x", "/tmp/x", "C:/x", "c:x", "D\\..\\..\\x", "\\\\server\\x", "D/a/plans.json", link()],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_would_write_elsewhere_is_refused_whole(exported, tmp_path, member):
    archive = zipped(tmp_path / "model.zip", exported / "nnunet", "D/a")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(member, "/etc")
    before = sorted(tmp_path.rglob("*"))
    for read in (lambda: open_archive(archive, tmp_path / "out"), lambda: load_predictor(archive, device="cpu")):
        with pytest.raises(ModelError, match="not extracted: its member") as caught:
            read()
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_no_zip_with_a_model_is_refused_in_one_line(exported, tmp_path):
    good = zipped(tmp_path / "good.zip", exported / "nnunet", "D/a").read_bytes()
    bad = tmp_path / "bad.zip"
    flipped = bytearray(good)
    flipped[len(good) // 3] ^= 255
    for content, message in ((b"nothing", "no zip"), (good[: len(good) // 2], "no zip"), (bytes(flipped), "damaged")):
        bad.write_bytes(content)
        with pytest.raises(ModelError, match=message) as caught:
            open_archive(bad, tmp_path / "out")
        assert "\n" not in str(caught.value)
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("D/a/plans.json", b"{}")
    with pytest.raises(ModelError, match="holds no model; expected"):
        open_archive(bad, tmp_path / "out")
    with pytest.raises(ModelError, match="No such file"):
        open_archive(tmp_path / "none.zip", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"good.zip", "bad.zip"}


def test_a_truncated_checkpoint_and_one_of_another_network_are_refused(exported, tmp_path):
    folder = shutil.copytree(exported / "nnunet", tmp_path / "m")
    checkpoint = folder / "fold_0/checkpoint_final.pth"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"damaged or no PyTorch file|cannot be read"):
        load_nnunet(folder)
    checkpoint.write_bytes(content)
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 16]
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ModelError, match=r"has shape .* but the plans make it") as caught:
        load_nnunet(folder)
    assert "\n" not in str(caught.value)


def random_cascade(folder: Path) -> Path:
    """Both stages with random weights; the second sees the first's mask as two more channels."""
    coarse = replace(small_configuration((1.5, 1.5, 1.5)), name="3d_lowres")
    fine = replace(small_configuration(), name="3d_cascade_fullres", previous_stage="3d_lowres")
    plan = replace(small_plan(coarse), configurations=(coarse, fine))
    for place, configuration, channels in ((folder, fine, 3), (folder / PREVIOUS_FOLDER, coarse, 1)):
        generator = torch.Generator().manual_seed(channels)
        network = networks.build(configuration.network, channels, LABELS.output_count, generator=generator)
        documents.save(ModelDocument(1, plan, configuration.name), place / MODEL_FILE)
        facts = FoldFacts((0, 1, 2), "fp32", 10, 1.0, 0)
        save_tensors(place / "fold_0" / WEIGHTS_FILE, network.state_dict(), {"fold": documents.to_json(facts)})
    return folder


def test_both_stages_of_a_cascade_are_exported(tmp_path):
    model = random_cascade(tmp_path / "model")
    export_model(model, tmp_path / "nnunet")
    names = [f"nnUNetTrainer__nnUNetPlans__{name}" for name in ("3d_cascade_fullres", "3d_lowres")]
    assert sorted(path.name for path in (tmp_path / "nnunet").iterdir()) == names
    loaded = load_nnunet(tmp_path / "nnunet" / names[0])
    assert loaded.previous is not None
    assert loaded.previous.configuration.name == "3d_lowres"
    ours = load_predictor(model, device="cpu").predict(scan())
    theirs = load_predictor(tmp_path / "nnunet" / names[0], device="cpu").predict(scan())
    assert len(np.unique(ours.array)) > 1
    np.testing.assert_array_equal(ours.array, theirs.array)


def test_a_second_stage_alone_says_what_is_missing(tmp_path):
    export_model(random_cascade(tmp_path / "model"), tmp_path / "nnunet")
    second = shutil.copytree(
        tmp_path / "nnunet/nnUNetTrainer__nnUNetPlans__3d_cascade_fullres", tmp_path / "nnUNetTrainer__x__y"
    )
    with pytest.raises(ModelError, match=r"the second stage of a cascade; expected the model of 3d_lowres beside it"):
        load_nnunet(second)


def _as_ours(model: Model, folder: Path, orientation: str) -> Path:
    weights = {fold: dict(tensors) for fold, tensors in model.weights.items()}
    return write_model(folder, replace(model.plan, orientation=orientation), weights, model.mirror_axes)


@pytest.mark.parametrize("orientation", ["stored", "RAS"])
def test_nnunet_itself_predicts_the_same_with_an_exported_model(shared, tmp_path, orientation):
    pytest.importorskip("nnunetv2")
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    tiny = load_nnunet(shared / "nnunet_model_tiny")
    stored = tiny.plan.orientation
    model = _as_ours(tiny, tmp_path / "model", stored if orientation == "stored" else orientation)
    export_model(model, tmp_path / "nnunet")
    image = io.read(shared / "nnunet_model_tiny/images/hippocampus_025_0000.nii.gz")
    source = tmp_path / "case_0000.nii.gz"
    io.write(image.changed(image.geometry.change_to("LIA")) if orientation == "RAS" else image, source)
    peer = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    peer.initialize_from_trained_model_folder(str(tmp_path / "nnunet"), use_folds=(0,))
    peer.predict_from_files_sequential([[str(source)]], [str(tmp_path / "peer")], save_probabilities=False)
    theirs = io.read_labels(tmp_path / "peer.nii.gz")
    ours = load_predictor(model, device="cpu").predict(source)
    theirs.geometry.require_equal(ours.geometry, "nnU-Net's mask", "ours")
    assert (ours.array > 0).sum() > 1000
    assert (theirs.array == ours.array).mean() >= 0.999


def test_nnunet_itself_predicts_the_same_with_an_exported_cascade(tmp_path):
    pytest.importorskip("nnunetv2")
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    model = random_cascade(tmp_path / "model")
    export_model(model, tmp_path / "nnunet")
    io.write(scan(), tmp_path / "case_0000.nii.gz")
    for stage, before in (("3d_lowres", None), ("3d_cascade_fullres", str(tmp_path / "3d_lowres"))):
        peer = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
        folder = tmp_path / f"nnunet/nnUNetTrainer__nnUNetPlans__{stage}"
        peer.initialize_from_trained_model_folder(str(folder), use_folds=(0,))
        (tmp_path / stage).mkdir()
        targets = [str(tmp_path / stage / "case")]
        peer.predict_from_files_sequential(
            [[str(tmp_path / "case_0000.nii.gz")]], targets, folder_with_segs_from_prev_stage=before
        )
    theirs = io.read_labels(tmp_path / "3d_cascade_fullres/case.nii.gz")
    ours = load_predictor(model, device="cpu").predict(tmp_path / "case_0000.nii.gz")
    assert len(np.unique(ours.array)) > 1
    assert (theirs.array == ours.array).mean() >= 0.999
