"""Folders, manifests and documents: which cases a dataset has, and what is said where files or entries are wrong."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg import documents, io
from medseg.dataset import CaseRef, Dataset, Manifest, load_case, survey
from medseg.errors import DataError, DocumentError, FileUnreadableError, GeometryError, LabelError
from medseg.labels import LabelSet
from medseg.terms import Code, Meaning
from medseg.volume import Geometry, LabelVolume, Volume

GRID = Geometry.from_spacing((2, 3, 4), (5.0, 2.0, 1.0))
MANIFESTS = Path(__file__).parents[1] / "data_manifests"
# Folder of ../shared/data that a manifest is about, where it is not called as the manifest is.
FOLDERS = {
    "hippocampus_dev": "hippocampus",
    "nrrd_mr_brain": "nrrd_mr",
    "nrrd_mr_breast": "nrrd_mr",
    "spinal_cord_grey_matter": "spinal_cord_mr",
    "spinal_cord_levels": "spinal_cord_mr",
    "spinal_cord_two_volunteers": ".",
    "totalseg_ct_small": "totalseg_examples",
    "totalseg_ct_whole": "totalseg_examples",
}


def image(path: Path, value: float = 1.0, channels: int = 1, grid: Geometry = GRID) -> Path:
    """A file whose voxels are 0 but for one."""
    array = np.zeros((channels, *grid.shape), np.float32)
    array[:, 0, 0, 0] = value
    io.write(Volume(array, grid), path)
    return path


def mask(path: Path, value: int = 1, grid: Geometry = GRID) -> Path:
    """A mask with one voxel of a value."""
    array = np.zeros(grid.shape, np.uint8)
    array[0, 0, 0] = value
    io.write(LabelVolume(array, grid), path)
    return path


def msd(folder: Path, names: list[str], **content: object) -> Path:
    """A folder in Decathlon form with these cases."""
    folder.mkdir(exist_ok=True)
    for name in names:
        image(folder / "imagesTr" / f"{name}.nii.gz")
        mask(folder / "labelsTr" / f"{name}.nii.gz")
    entries = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    document = {
        "name": "Organ",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "organ"},
        "numTraining": len(names),
        "training": entries,
        **content,
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


def nnunet(folder: Path, names: list[str], channels: tuple[str, ...] = ("T1", "T2"), **content: object) -> Path:
    """A folder in nnU-Net's raw form with these cases."""
    folder.mkdir(exist_ok=True)
    for name in names:
        for channel in range(len(channels)):
            image(folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz", channel + 1)
        mask(folder / "labelsTr" / f"{name}.nii.gz")
    document = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": {"background": 0, "organ": 1},
        "numTraining": len(names),
        "file_ending": ".nii.gz",
        **content,
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


def manifest(path: Path, text: str) -> Path:
    """A manifest file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


BASIC = """
name: Organ
channels: [CT]
labels: {background: 0, organ: 1}
images: imagesTr/{case}.nii.gz
label: labelsTr/{case}.nii.gz
"""


# --- the three forms


def test_a_decathlon_folder(tmp_path: Path) -> None:
    folder = msd(tmp_path, ["b_2", "a_1"], licence="CC0", reference="us", description="one organ")
    dataset = Dataset.open(folder)
    assert dataset.name == "Organ"
    assert dataset.channels == ("CT",)
    assert dataset.labels.meaning == {"organ": 1}
    assert (dataset.licence, dataset.reference, dataset.description) == ("CC0", "us", "one organ")
    assert [case.name for case in dataset.cases] == ["a_1", "b_2"]
    first = dataset.cases[0]
    assert first.images == (tmp_path / "imagesTr" / "a_1.nii.gz",)
    assert first.label == tmp_path / "labelsTr" / "a_1.nii.gz"
    assert Dataset.open(folder / "dataset.json") == dataset
    volume, labels = load_case(first, dataset.labels, dataset.channels)
    assert labels is not None
    assert volume.array.shape == (1, 2, 3, 4)
    assert labels.labels == {"organ": 1}


def test_decathlon_channels_in_one_file_or_several(tmp_path: Path) -> None:
    folder = msd(tmp_path, ["whole"], modality={"0": "T1", "1": "T2"})
    image(folder / "imagesTr" / "whole.nii.gz", channels=2)
    content = json.loads((folder / "dataset.json").read_text())
    content["training"].append({"image": "imagesTr/split.nii.gz", "label": "labelsTr/split.nii.gz"})
    content["training"].append(
        {"image": ["imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz"], "label": "labelsTr/split.nii.gz"}
    )
    (folder / "dataset.json").write_text(json.dumps(content))
    for name in ("split", "x"):
        for channel in range(2):
            image(folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz", channel + 1)
    mask(folder / "labelsTr" / "split.nii.gz")
    dataset = Dataset.open(folder)
    assert {case.name: len(case.images) for case in dataset.cases} == {"split": 2, "whole": 1, "x": 2}
    for case in dataset.cases:
        assert load_case(case, dataset.labels, dataset.channels)[0].channels == 2


def test_decathlon_names_that_repeat_take_their_folders(tmp_path: Path) -> None:
    entries = []
    for case in ("p1", "p2"):
        image(tmp_path / case / "image.nii.gz")
        mask(tmp_path / case / "label.nii.gz")
        entries.append({"image": f"{case}/image.nii.gz", "label": f"{case}/label.nii.gz"})
    msd(tmp_path, [], training=entries, numTraining=2)
    assert [case.name for case in Dataset.open(tmp_path).cases] == ["p1_image", "p2_image"]


def test_decathlon_test_cases(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image(tmp_path / "imagesTs" / "t1.nii.gz")
    msd(tmp_path, ["a"], test=["./imagesTs/t1.nii.gz", "./imagesTs/t2.nii.gz"], numTraining=7)
    dataset = Dataset.open(tmp_path)
    assert dataset.test_cases == (CaseRef("t1", (tmp_path / "imagesTs" / "t1.nii.gz",)),)
    assert "1 of 2 test cases have missing files" in caplog.text
    assert "numTraining is 7, the list training has 1" in caplog.text


def test_an_nnunet_folder(tmp_path: Path) -> None:
    folder = nnunet(tmp_path / "Dataset007_Organ", ["b", "a_1"])
    for hidden in (".a_0000.nii.gz", "_a_0000.nii.gz"):
        (folder / "imagesTr" / hidden).write_bytes(b"")
    image(folder / "imagesTs" / "t_0000.nii.gz")
    image(folder / "imagesTs" / "t_0001.nii.gz")
    dataset = Dataset.open(folder)
    assert dataset.name == "Dataset007_Organ"
    assert dataset.channels == ("T1", "T2")
    assert [case.name for case in dataset.cases] == ["a_1", "b"]
    assert [path.name for path in dataset.cases[0].images] == ["a_1_0000.nii.gz", "a_1_0001.nii.gz"]
    assert [case.name for case in dataset.test_cases] == ["t"]
    volume, _ = load_case(dataset.cases[0], dataset.labels, dataset.channels)
    assert volume.array[:, 0, 0, 0].tolist() == [1, 2]


def test_nnunet_regions_and_ignore(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    dataset = Dataset.open(nnunet(tmp_path, ["a"], labels=labels, regions_class_order=[1, 2]))
    assert dataset.labels.classes == {"whole": (1, 2), "core": (2,)}
    assert dataset.labels.region_order == (1, 2)
    assert dataset.labels.ignore == 3


def test_nnunet_with_listed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "elsewhere" / "one.nii.gz")
    mask(tmp_path / "elsewhere" / "two.nii.gz")
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))
    listed = {"case": {"images": ["../elsewhere/one.nii.gz"], "label": "$ELSEWHERE/two.nii.gz"}}
    dataset = Dataset.open(nnunet(tmp_path / "dataset", [], ("CT",), dataset=listed))
    folder = tmp_path / "elsewhere"
    assert dataset.cases == (CaseRef("case", (folder / "one.nii.gz",), folder / "two.nii.gz"),)


def test_nnunet_ending_is_found_where_it_is_not_given(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, ["a"], ("CT",), file_ending=None)
    assert len(Dataset.open(folder).cases) == 1
    image(folder / "imagesTr" / "b_0000.nrrd")
    with pytest.raises(DocumentError, match=r"file_ending is missing, and .*imagesTr holds 1 \.nii\.gz, 1 \.nrrd"):
        Dataset.open(folder)


def test_nnunet_pictures_hold_all_channels(tmp_path: Path) -> None:
    grid = Geometry.from_spacing((1, 3, 4), (1, 1, 1))
    folder = nnunet(tmp_path, [], ("R", "G", "B"), file_ending=".png", numTraining=1)
    io.write(Volume(np.zeros((3, 1, 3, 4), np.uint8), grid), folder / "imagesTr" / "a_0000.png")
    mask(folder / "labelsTr" / "a.png", grid=grid)
    dataset = Dataset.open(folder)
    assert load_case(dataset.cases[0], dataset.labels, dataset.channels)[0].array.shape == (3, 1, 3, 4)


def test_a_manifest(tmp_path: Path) -> None:
    for name in ("p1_a", "p1_b", "p2_a", "_x", ".x"):
        for channel in ("t1", "t2"):
            image(tmp_path / "data" / name / f"{name}_{channel}.nii.gz")
        mask(tmp_path / "data" / name / "mask.nii.gz")
    path = manifest(
        tmp_path / "manifests" / "organ.yaml",
        """
        name: Organ
        licence: CC0
        source: somewhere
        root: ../data
        channels: [T1, T2]
        labels: {background: 0, whole: [1, 2], core: 2}
        regions_class_order: [1, 2]
        images: {T2: "{case}/{case}_t2.nii.gz", T1: "./{case}/{case}_t1.nii.gz"}
        label: "{case}/mask.nii.gz"
        groups: ^(p\\d+)_
        checksums: {p1_a/mask.nii.gz: abc}
        """,
    )
    dataset = Dataset.open(path)
    image(tmp_path / "data" / "p1_a" / "p1_b_t1.nii.gz")  # one name in two places of a template is one name
    assert Dataset.open(path) == dataset
    assert [(case.name, case.group) for case in dataset.cases] == [("p1_a", "p1"), ("p1_b", "p1"), ("p2_a", "p2")]
    assert [file.name for file in dataset.cases[0].images] == ["p1_a_t1.nii.gz", "p1_a_t2.nii.gz"]
    assert dataset.labels.has_regions
    assert (dataset.licence, dataset.source) == ("CC0", "somewhere")
    assert dataset.checksums == {tmp_path / "data" / "p1_a" / "mask.nii.gz": "abc"}
    # --root comes before the manifest's own.
    with pytest.raises(DataError, match="no cases"):
        Dataset.open(path, root=tmp_path / "manifests")


def test_a_manifest_that_writes_its_cases_out(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        image(tmp_path / "images" / f"{name}.nii.gz")
        mask(tmp_path / "masks" / f"{name}.nii.gz")
    path = manifest(
        tmp_path / "organ.yml",
        """
        name: Organ
        channels: [CT]
        labels: {background: 0, organ: 1}
        images: images/{case}.nii.gz
        label: masks/{case}.nii.gz
        cases:
          - name: c
            group: someone
          - name: other
            images: {CT: images/a.nii.gz}
            label: masks/b.nii.gz
        groups: {other: someone_else}
        """,
    )
    first, second = Dataset.open(path).cases
    assert first == CaseRef("c", (tmp_path / "images" / "c.nii.gz",), tmp_path / "masks" / "c.nii.gz", "someone")
    assert second == CaseRef(
        "other", (tmp_path / "images" / "a.nii.gz",), tmp_path / "masks" / "b.nii.gz", "someone_else"
    )


def test_a_manifest_with_test_images_and_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image(tmp_path / "imagesTr" / "a.nii.gz")
    mask(tmp_path / "labelsTr" / "a.nii.gz")
    image(tmp_path / "imagesTs" / "t.nii.gz")
    text = f"{BASIC}test_images: imagesTs/{{case}}.nii.gz\ntraining_count: 3\ntest_count: 1\n"
    dataset = Dataset.open(manifest(tmp_path / "m.yaml", text))
    assert [case.name for case in dataset.test_cases] == ["t"]
    assert "1 training cases are here; the published dataset has 3" in caplog.text
    assert "test cases are here" not in caplog.text


def test_a_manifest_without_masks(tmp_path: Path) -> None:
    image(tmp_path / "imagesTr" / "a.nii.gz")
    text = BASIC.replace("label: labelsTr/{case}.nii.gz\n", "")
    dataset = Dataset.open(manifest(tmp_path / "m.yaml", text))
    assert dataset.cases[0].label is None
    assert load_case(dataset.cases[0], dataset.labels, dataset.channels)[1] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("channels", "chanels"), "unknown field 'chanels'; did you mean 'channels'"),
        (("name: Organ", ""), "field 'name' is missing"),
        (("name: Organ", "name: 3"), "name: expected text, found 3"),
        (("name: Organ", "name: Organ\nname: Again"), "the key 'name' stands twice"),
        (("organ: 1", "organ: 1, organ: 2"), "the key 'organ' stands twice"),
        (("organ: 1", "organ: one"), 'labels.organ: expected an integer, found "one"'),
        (("organ: 1", "organ: 0"), "need values of their own"),
        (("organ: 1", "organ: [1, 2]"), "regions_class_order"),
        (("[CT]", "[]"), "no channel is named"),
        (("images: imagesTr/{case}.nii.gz", ""), "give a template such as imagesTr/{case}.nii.gz"),
        (("imagesTr/{case}", "imagesTr/case"), r"images: expected a template with {case}, found 'imagesTr/case"),
        (("labelsTr/{case}", "labelsTr/case"), "label: expected a template with {case}"),
        (
            ("images: imagesTr", "images:\n  MR: imagesTr"),
            r"images: expected one entry for each of \['CT'\], found \['MR'\]",
        ),
        (("name: Organ", "name: Organ\ngroups: '('"), "groups: not a regular expression"),
        (("name: Organ", "name: Organ\ncases: [{name: 1}]"), r"cases\[0\].name: expected text, found 1"),
        (("name: Organ", "name: [Organ"), "not valid YAML"),
        ((BASIC, "- a list"), "expected an object"),
        ((BASIC, ""), "expected an object"),
    ],
)
def test_manifests_that_do_not_parse(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = manifest(tmp_path / "organ.yaml", BASIC.replace(*change))
    with pytest.raises(DocumentError, match=message) as caught:
        Dataset.open(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-\[\]*?]{0,6}", fullmatch=True),
        min_size=1,
        max_size=4,
        unique_by=str.lower,
    ),
    st.sampled_from(["{case}.x", "a/{case}.x", "{case}/b.x", "a/{case}/{case}_t[1].x", "x{case}y.x"]),
)
def test_templates_find_the_names_that_were_filled_in(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], template: str
) -> None:
    root = tmp_path_factory.mktemp("templates")
    for name in names:
        path = root / template.replace("{case}", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    path = manifest(
        root / "m" / "m.yaml",
        yaml.safe_dump(
            {
                "name": "n",
                "channels": ["c"],
                "labels": {"a": 1},
                "images": template,
            }
        ),
    )
    assert {case.name for case in Dataset.open(path, root=root).cases} == set(names)


# --- what is wrong


def test_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(FileUnreadableError, match="no such file or folder"):
        Dataset.open(tmp_path / "nothing")
    image(tmp_path / "some" / "a.nii.gz")
    with pytest.raises(DataError, match=r"no dataset\.json here; .* found 1 \.nii\.gz"):
        Dataset.open(tmp_path / "some")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"found no files"):
        Dataset.open(tmp_path / "empty")


def test_no_cases_says_what_was_looked_for(tmp_path: Path) -> None:
    folder = nnunet(tmp_path / "nnunet", [], ("CT",))
    with pytest.raises(DataError, match=r"looked for .*imagesTr/CASE_0000\.nii\.gz, .*; found 1 \.json"):
        Dataset.open(folder)
    image(folder / "imagesTr" / "a.nii.gz")
    with pytest.raises(DataError, match=r"looked for .*, where 0000 is the channel; found .*, such as .*a\.nii\.gz"):
        Dataset.open(folder)
    with pytest.raises(DataError, match="the list training is empty"):
        Dataset.open(msd(tmp_path / "msd", []))
    image(tmp_path / "images" / "a.nrrd")
    with pytest.raises(DataError, match=r"nothing below .* fits imagesTr/\{case\}\.nii\.gz; found .*1 \.nrrd.*--root"):
        Dataset.open(manifest(tmp_path / "m.yaml", BASIC))


def test_missing_files_are_listed(tmp_path: Path) -> None:
    folder = msd(tmp_path, [f"case_{number}" for number in range(8)])
    for number in range(7):
        (folder / "labelsTr" / f"case_{number}.nii.gz").unlink()
    with pytest.raises(DataError) as caught:
        Dataset.open(folder)
    text = str(caught.value)
    assert text.count("this file is missing") == 5
    assert "case_0" in text
    assert "and 2 more; see everything with: medseg doctor" in text
    assert "\n" not in text
    found = survey(folder)
    assert [case.name for case in found.dataset.cases] == ["case_7"]
    assert len(found.findings) == 7
    assert len(found.left_out) == 7


def test_missing_and_surplus_channels(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, ["a", "b"])
    (folder / "imagesTr" / "a_0001.nii.gz").unlink()
    image(folder / "imagesTr" / "b_0002.nii.gz")
    with pytest.raises(DataError, match=r"a_0001\.nii\.gz: this file is missing") as caught:
        Dataset.open(folder)
    assert "b_0002.nii.gz: channel 2 of a dataset with 2 channels" in str(caught.value)


def test_files_that_belong_to_no_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = nnunet(tmp_path, ["a"], ("CT",))
    image(folder / "imagesTr" / "b.nii.gz")
    mask(folder / "labelsTr" / "c.nii.gz")
    assert len(Dataset.open(folder).cases) == 1
    assert re.search(r"b\.nii\.gz: this file belongs to no case; left out \(name it CASE_0000\.nii\.gz\)", caplog.text)
    assert re.search(r"c\.nii\.gz: a mask without image", caplog.text)


def test_a_name_that_stands_twice(tmp_path: Path) -> None:
    folder = msd(tmp_path, ["a"])
    content = json.loads((folder / "dataset.json").read_text())
    content["training"] *= 2
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="a: 2 cases have this name"):
        Dataset.open(folder)
    assert survey(folder).dataset.cases == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"modality": None}, "channel_names: expected"),
        ({"modality": {"1": "CT"}}, "channel_names: expected"),
        ({"modality": []}, "channel_names: expected"),
        ({"labels": None}, "labels: expected names and values"),
        ({"labels": {"x": "y"}}, "labels: expected name to integer"),
        ({"training": {}}, "the list training is empty"),
        ({"training": "x"}, "training: expected a list"),
        ({"training": [3]}, "training: expected .*found 3"),
        ({"training": [{"image": 3}]}, "training: expected a path, found 3"),
        ({"training": [{"image": []}]}, "an entry without images"),
    ],
)
def test_decathlon_documents_that_make_no_sense(tmp_path: Path, content: dict, message: str) -> None:
    with pytest.raises((DocumentError, DataError), match=message) as caught:
        Dataset.open(msd(tmp_path, ["a"], **content))
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    "dataset", [3, {"a": 3}, {"a": {"images": "x"}}, {"a": {"images": []}}, {"a": {"images": [3]}}]
)
def test_nnunet_lists_that_make_no_sense(tmp_path: Path, dataset: object) -> None:
    with pytest.raises(DocumentError, match=r"dataset: .*expected"):
        Dataset.open(nnunet(tmp_path, ["a"], dataset=dataset))


# --- documents


def test_a_dataset_comes_back(tmp_path: Path) -> None:
    dataset = Dataset.open(nnunet(tmp_path / "raw", ["a", "b"], licence="CC0"))
    outside = tmp_path / "workspace" / "dataset.json"
    dataset.save(outside)
    assert Dataset.load(outside) == dataset
    assert Dataset.open(outside) == dataset
    assert str(tmp_path / "raw" / "imagesTr") in outside.read_text()
    # Files beside the document are named relative to it, so both can be moved together.
    inside = tmp_path / "raw" / "saved.json"
    dataset.save(inside)
    assert str(tmp_path) not in inside.read_text()
    (tmp_path / "raw").rename(tmp_path / "moved")
    moved = Dataset.load(tmp_path / "moved" / "saved.json")
    assert moved.cases[0].images[0] == tmp_path / "moved" / "imagesTr" / "a_0000.nii.gz"
    assert moved.cases[0].images[0].is_file()


def test_a_document_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"version": 9, "cases": []}')
    with pytest.raises(DocumentError, match="version: expected one of 1, found 9"):
        Dataset.load(tmp_path / "dataset.json")


# --- loading


def case_of(tmp_path: Path) -> CaseRef:
    """Two channels and a mask."""
    one, two = image(tmp_path / "one.nii.gz"), image(tmp_path / "two.nii.gz")
    return CaseRef("case_7", (one, two), mask(tmp_path / "mask.nii.gz"))


LABELS = LabelSet.parse({"background": 0, "organ": 1})


def test_loading_checks_the_case(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    volume, labels = load_case(case, LABELS, ("T1", "T2"))
    assert labels is not None
    assert volume.geometry == labels.geometry == GRID
    with pytest.raises(DataError, match=r"one\.nii\.gz, .*two\.nii\.gz: expected 1 channels, found 2"):
        load_case(case, LABELS, ("T1",))
    mask(tmp_path / "mask.nii.gz", 5)
    with pytest.raises(LabelError, match=r"case_7: .*mask\.nii\.gz: .* does not declare: 5 \(1 voxels\)"):
        load_case(case, LABELS, ("T1", "T2"))
    mask(tmp_path / "mask.nii.gz", grid=GRID.resized((2, 3, 5)))
    with pytest.raises(
        GeometryError, match=r"case_7: .*one\.nii\.gz and .*mask\.nii\.gz .*shapes differ.*medseg doctor"
    ):
        load_case(case, LABELS, ("T1", "T2"))
    image(tmp_path / "two.nii.gz", np.nan)
    with pytest.raises(DataError, match=r"case_7: .*two\.nii\.gz: 1 of 48 voxels are NaN"):
        load_case(case, LABELS, ("T1", "T2"))


def test_a_mask_a_hair_off_takes_the_grid_of_its_image(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    mask(tmp_path / "mask.nii.gz", grid=Geometry.from_spacing((2, 3, 4), (5.0, 2.0, 1.0), (0.01, 0, 0)))
    volume, labels = load_case(case, LABELS, ("T1", "T2"))
    assert labels is not None
    assert labels.geometry == volume.geometry == GRID


def test_an_empty_mask_loads(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    mask(tmp_path / "mask.nii.gz", 0)
    labels = load_case(case, LABELS, ("T1", "T2"))[1]
    assert labels is not None
    assert not labels.array.any()


# --- real data


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_manifests_of_public_datasets(
    request: pytest.FixtureRequest, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read = Manifest.load(path)
    assert read.licence
    assert read.source
    if path.stem.startswith("msd_"):
        assert read.name.startswith(f"Task{path.stem[4:6]}_")
        assert read.training_count
        return
    folder = request.getfixturevalue("shared") / "data" / FOLDERS.get(path.stem, path.stem)
    dataset = Dataset.open(path, root=folder)
    assert not caplog.records
    volume, labels = load_case(dataset.cases[-1], dataset.labels, dataset.channels)
    assert labels is not None
    assert volume.channels == len(dataset.channels)
    assert labels.array.any()


def test_there_is_a_manifest_for_each_task_of_the_decathlon(shared: Path) -> None:
    tasks = {path.stem[4:6]: Manifest.load(path) for path in MANIFESTS.glob("msd_*.yaml")}
    assert sorted(tasks) == [f"{number:02d}" for number in range(1, 11)]
    for folder in sorted((shared / "golden_plans_msd").glob("Dataset*")):
        published = json.loads((folder / "dataset.json").read_text())
        ours = tasks[folder.name[8:10]]
        assert ours.labels == published["labels"]
        assert [name.lower() for name in ours.channels] == [
            name.lower() for name in published["channel_names"].values()
        ]
        assert (ours.training_count, ours.test_count) == (published["numTraining"], published["numTest"])


@pytest.mark.parametrize(
    ("folder", "cases", "channels", "meaning"),
    [
        ("hippocampus", 200, ("MRI",), {"Anterior": 1, "Posterior": 2}),
        ("sts_mr_ct", 10, ("MRI-T1", "CT"), {"GTV": 1}),
        ("dsb2018_nuclei", 58, ("R", "G", "B"), {"nucleus": 255}),
    ],
)
def test_shared_folders_open(
    tmp_path: Path, shared: Path, folder: str, cases: int, channels: tuple[str, ...], meaning: dict[str, int]
) -> None:
    dataset = Dataset.open(shared / "data" / folder)
    assert (len(dataset.cases), dataset.channels, dataset.labels.meaning) == (cases, channels, meaning)
    volume, labels = load_case(dataset.cases[0], dataset.labels, dataset.channels)
    assert labels is not None
    assert volume.channels == len(channels)
    assert set(np.unique(labels.array).tolist()) == {0, *meaning.values()}
    dataset.save(tmp_path / "dataset.json")
    assert Dataset.load(tmp_path / "dataset.json") == dataset


def test_the_same_cases_by_folder_and_by_manifest(shared: Path) -> None:
    for name in ("openkbp_ct_oar", "sts_mr_ct", "dsb2018_nuclei"):
        folder = shared / "data" / name
        by_folder, by_manifest = Dataset.open(folder), Dataset.open(MANIFESTS / f"{name}.yaml", root=folder)
        assert by_manifest.cases == by_folder.cases
        assert by_manifest.labels == by_folder.labels
        assert by_manifest.channels == by_folder.channels


@pytest.mark.parametrize("name", ["pair_shape_mismatch", "pair_affine_mismatch"])
def test_hostile_pairs_are_refused(shared: Path, name: str) -> None:
    folder = shared / "data/hostile/derived" / name
    case = CaseRef(name, (folder / "image.nii.gz",), folder / "label.nii.gz")
    with pytest.raises(GeometryError, match=r"image\.nii\.gz and .*label\.nii\.gz lie on different grids"):
        load_case(case, LabelSet.parse({"background": 0, "a": 1, "b": 2}), ("MRI",))


def test_a_hostile_label_is_refused(shared: Path) -> None:
    folder = shared / "data/hostile/derived/pair_undeclared_label"
    case = CaseRef("pair", (folder / "image.nii.gz",), folder / "label.nii.gz")
    with pytest.raises(
        LabelError, match=r"pair: .*label\.nii\.gz: label values that the dataset does not declare: 7 \("
    ):
        load_case(case, LabelSet.parse({"background": 0, "a": 1, "b": 2}), ("MRI",))


def test_cases_without_every_structure_load(shared: Path) -> None:
    folder = shared / "data/hostile/labels_missing_structures"
    declared = Dataset.open(shared / "data/openkbp_ct_oar")
    present = {"038": set(), "053": {2, 3, 4}, "089": {1, 2}}
    for number, values in present.items():
        name = f"openkbp_{number}"
        case = CaseRef(name, (folder / "imagesTr" / f"{name}.nii.gz",), folder / "labelsTr" / f"{name}.nii.gz")
        labels = load_case(case, declared.labels, declared.channels)[1]
        assert labels is not None
        assert set(np.unique(labels.array).tolist()) - {0} == values


def test_nothing_is_logged_about_a_sound_dataset(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        Dataset.open(msd(tmp_path, ["a"]))
    assert not caplog.records


def test_a_manifest_gives_its_labels_codes_a_side_and_a_colour(tmp_path):
    text = (
        "name: x\nchannels: [CT]\nlabels: {organ: 1, other: 2}\nimages: '{case}.nii.gz'\ncodes:\n  organ:\n"
        "    type: {value: '64033007', scheme: SCT, meaning: Kidney}\n    side: left\n    colour: [200, 10, 0]\n"
    )
    labels = Manifest.load(manifest(tmp_path / "x.yaml", text)).label_set("x")
    assert labels.meanings == {"organ": Meaning(Code("64033007", "SCT", "Kidney"), None, "left", (200, 10, 0))}
    assert documents.from_json(LabelSet, documents.to_json(labels)).meanings == labels.meanings
    for old, new, match in (
        ("codes:\n  organ", "codes:\n  liver", "liver"),
        ("left", "up", "up"),
        ("200", "300", "255"),
    ):
        with pytest.raises(DocumentError, match=match):
            Manifest.load(manifest(tmp_path / "x.yaml", text.replace(old, new))).label_set("x")
