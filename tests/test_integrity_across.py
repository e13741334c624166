"""The doctor on what only values or several cases together show: units, duplicates, patients, classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_dataset import GRID, msd
from test_integrity import brief, examine, only, run, scan, sound

from medseg import integrity, io, splits
from medseg.dataset import Dataset
from medseg.errors import UsageError
from medseg.integrity import ClassBalance, keep_together
from medseg.integrity.across import balance_problems
from medseg.integrity.records import record, sketch
from medseg.integrity.units import unit_problems
from medseg.labels import LabelSet
from medseg.volume import Geometry, LabelVolume, Volume

HU = np.r_[np.full(400, -1000), np.linspace(-120, 180, 500), np.linspace(200, 1500, 100)]
"""A body in air."""
LARGE = Geometry.from_spacing((20, 24, 28), (2.0, 1.0, 1.0))


def body(seed: int) -> np.ndarray:
    """A smooth image (Z, Y, X) like no other."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=LARGE.shape), 1.5)
    return (smooth / smooth.std() * 300).astype(np.float32)


def place(folder: Path, name: str, array: np.ndarray, grid: Geometry = LARGE) -> None:
    """A case's image, and a mask of two voxels on its grid."""
    io.write(Volume(array[None], grid), folder / "imagesTr" / f"{name}.nii.gz")
    mask = np.zeros(grid.shape, np.uint8)
    mask[0, 0, :2] = 1
    io.write(LabelVolume(mask, grid), folder / "labelsTr" / f"{name}.nii.gz")


def bodies(folder: Path, names: list[str]) -> Path:
    msd(folder, names)
    for number, name in enumerate(names):
        place(folder, name, body(number))
    return folder


# --- units


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (HU, None),
        (HU[400:], None),  # cropped to the body
        (np.linspace(-120, 180, 500), None),
        (HU + 1024, "stored without rescale"),
        (HU[400:] + 1024, "stored without rescale"),
        (np.maximum(HU + 1024, 0) - 20, "stored without rescale"),
        (np.clip((HU + 1000) / 2500, 0, 1), "normalised, not HU"),
        ((HU - HU.mean()) / HU.std(), "normalised, not HU"),
        (np.clip((HU + 160) / 400 * 255, 0, 255).round(), "a window in 8 bits"),
        (np.maximum(HU, 0), "none below 0"),
        (np.full(10, -1000.0), None),  # told as a constant image
    ],
)
def test_ct_that_is_not_in_hu(values: np.ndarray, problem: str | None) -> None:
    array = values.reshape(1, 1, -1)
    found = list(unit_problems(array, "CT", Path("a.nii.gz"), "a", alone=True))
    assert [finding.severity for finding in found] == ["warning"] * (problem is not None)
    assert problem is None or problem in found[0].problem
    assert not list(unit_problems(array, "MRI", Path("a.nii.gz"), "a", alone=True))


def test_ct_without_rescale_is_mended_by_the_command(tmp_path: Path) -> None:
    folder = sound(tmp_path)
    stored = np.array([24, 24, 24, 24, 24, 24, *range(960, 1140, 10)], np.uint16).reshape(1, 2, 3, 4)
    io.write(Volume(stored, GRID), folder / "imagesTr" / "b.nii.gz")
    finding = only(examine(folder))
    assert brief([finding]) == [("warning", "b", "b.nii.gz")]
    run(finding.remedy)
    assert examine(folder) == ()
    mended = io.read(folder / "imagesTr" / "b.nii.gz").array
    assert mended.dtype == np.int16
    np.testing.assert_array_equal(mended, stored.astype(int) - 1024)


# --- duplicates


def test_a_sketch_stays_where_the_image_does() -> None:
    one, other = sketch(body(0)), sketch(body(1))
    assert one @ one == pytest.approx(1, abs=1e-5)
    assert abs(one @ other) < 0.5
    assert one @ sketch(body(0) * 3 + 1000) == pytest.approx(1, abs=1e-4)
    assert not sketch(np.full((4, 5, 6), 7.0)).any()
    turned = Volume(body(0)[None], LARGE).changed(LARGE.change_to("LPS"))
    np.testing.assert_allclose(record("a", [turned]).sketch, one, atol=1e-5)


def test_nearly_the_same_image(tmp_path: Path) -> None:
    folder = bodies(tmp_path, ["a", "b", "c", "d"])
    assert examine(folder) == ()
    noise = np.random.default_rng(9).normal(0, 30, LARGE.shape)
    place(folder, "c", (1.3 * body(0) + 50 + noise).astype(np.float32))
    finding = only(examine(folder))
    assert (finding.severity, finding.case, finding.others) == ("warning", "a", ("c",))
    assert finding.problem.startswith("nearly the same image (correlation 0.9")
    assert "fold" in finding.problem
    run(finding.remedy)
    grouped = folder / "grouped.json"
    assert {case.name: case.group for case in Dataset.open(grouped).cases} == {"a": "a", "b": None, "c": "a", "d": None}
    found = only(examine(grouped))
    assert (found.severity, found.remedy) == ("note", "")


def test_images_linked_over_others_are_one_set(tmp_path: Path) -> None:
    folder = bodies(tmp_path, ["a", "b", "c", "d", "e"])
    for seed, name in enumerate(("b", "d"), 5):
        place(folder, name, body(0) + np.random.default_rng(seed).normal(0, 30, LARGE.shape).astype(np.float32))
    assert only(examine(folder)).others == ("b", "d")


def test_groups_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    folder = bodies(tmp_path, ["p1_a", "p1_b", "p2_a", "q"])
    keep_together(folder, ["p2_a", "q"])
    path = keep_together(folder, pattern=r"^(p\d)_")
    found = {case.name: case.group for case in Dataset.open(path).cases}
    assert found == {"p1_a": "p1_a", "p1_b": "p1_a", "p2_a": "p2_a", "q": "p2_a"}
    path = keep_together(folder, ["p1_b", "q"])
    assert {case.group for case in Dataset.open(path).cases} == {"p1_a"}
    with pytest.raises(UsageError, match="no case is called 'x'"):
        keep_together(folder, ["q", "x"])
    with pytest.raises(UsageError, match="has no group"):
        keep_together(folder, pattern="p")


def test_names_that_suggest_one_patient(tmp_path: Path) -> None:
    names = [f"patient{number:03d}_frame{frame:02d}" for number in range(1, 6) for frame in (1, 12)]
    folder = bodies(tmp_path / "one", names)
    finding = only(examine(folder))
    assert finding.problem.startswith("names suggest that 10 cases are of 5 patients")
    run(finding.remedy)
    assert examine(folder / "grouped.json") == ()
    assert examine(bodies(tmp_path / "two", [f"BraTS21_{number:03d}" for number in range(10)])) == ()
    assert examine(bodies(tmp_path / "three", [f"hippocampus_{number:03d}" for number in range(10)])) == ()


def test_given_folds_are_looked_at(tmp_path: Path) -> None:
    folder = bodies(tmp_path, ["a", "b", "c", "d"])
    place(folder, "c", body(0))
    whole = splits.Split(("a", "c"), ("b", "d")), splits.Split(("b", "d"), ("a", "c"))
    splits.save_splits(whole, tmp_path / "splits.json")
    assert "fold" not in only(examine(folder, splits_file=tmp_path / "splits.json")).problem
    divided = splits.Split(("a", "b"), ("c", "d")), splits.Split(("b", "d"), ("a", "c"))
    splits.save_splits(divided, tmp_path / "splits.json")
    text = only(examine(folder, splits_file=tmp_path / "splits.json")).problem
    assert text.endswith("; fold 0 would train on one and validate on another")
    keep_together(folder, ["a", "c"])
    found = examine(folder / "grouped.json", splits_file=tmp_path / "splits.json")
    assert [finding.severity for finding in found] == ["error", "note"]


# --- classes


def with_masks(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    """Cases of organ (1) and vessel (2)."""
    sound(folder, list(masks), labels={"0": "background", "1": "organ", "2": "vessel"})
    for name, array in masks.items():
        io.write(LabelVolume(array.astype(np.uint8).reshape(GRID.shape), GRID), folder / "labelsTr" / f"{name}.nii.gz")
    return folder


def test_a_class_that_few_masks_show(tmp_path: Path) -> None:
    both, plain = np.r_[1, 2, [0] * 22], np.r_[1, 1, [0] * 22]
    masks = {f"c{number}": both if number < 2 else plain for number in range(12)}
    found = integrity.examine(with_masks(tmp_path / "one", masks))
    finding = only(found.findings)
    assert finding.problem.startswith("vessel (2) occurs in 2 of 12 masks; folds ")
    assert "--balance-classes" in finding.remedy
    assert [(one.name, len(one.volumes_ml), one.masks) for one in found.classes] == [
        ("organ", 12, 12),
        ("vessel", 2, 12),
    ]
    assert found.classes[1].total_ml == pytest.approx(2 * 10 / 1000)  # one voxel of 5 x 2 x 1 mm each
    assert examine(with_masks(tmp_path / "two", {f"c{number}": both for number in range(12)})) == ()


def test_masks_that_show_nothing_at_all() -> None:
    labels = LabelSet({"liver": (1,), "vessel": (2,)})
    (finding,) = balance_problems([ClassBalance(name, {}, 5) for name in labels.names], labels, ())
    assert (finding.severity, finding.remedy) == ("error", "check the masks and the declared labels")
    assert finding.problem.startswith("none of 5 masks holds any of the classes")


@pytest.mark.parametrize(("shown", "rare"), [(5, True), (6, False)])
def test_a_tenth_of_many_masks_is_enough(shown: int, rare: bool) -> None:
    labels = LabelSet({"organ": (1,)})
    names = [f"c{number}" for number in range(60)]
    one = ClassBalance("organ", dict.fromkeys(names[:shown], 1.0), 60)
    found = list(balance_problems([one], labels, splits.make_splits(names)))
    assert len(found) == rare


def test_a_class_of_another_size(tmp_path: Path) -> None:
    grid = Geometry.from_spacing((10, 10, 10), (1.0, 1.0, 1.0))
    folder = sound(tmp_path, [f"c{number:02d}" for number in range(12)])
    for number in range(12):
        name = f"c{number:02d}.nii.gz"
        array = np.zeros(1000, np.uint8)
        array[: 900 if number == 4 else 20 + number] = 1
        scan(folder / "imagesTr" / name, number, grid)
        io.write(LabelVolume(array.reshape(grid.shape), grid), folder / "labelsTr" / name)
    finding = only(examine(folder))
    assert (finding.severity, finding.case) == ("warning", "c04")
    assert finding.problem == "organ covers 0.9 ml, where the median is 0.0265 ml"


# --- the page


def test_the_page_holds_findings_commands_and_pictures(tmp_path: Path) -> None:
    from medseg.report import examination_report

    folder = bodies(tmp_path / "data", ["a", "b", "<c>", "d"])
    place(folder, "<c>", body(0))
    moved = Geometry(LARGE.shape, LARGE.affine + np.eye(4, k=3) * 0.5)
    io.write(LabelVolume(io.read_labels(folder / "labelsTr" / "b.nii.gz").array, moved), folder / "labelsTr/b.nii.gz")
    (folder / "imagesTr" / "d.nii.gz").write_bytes(b"")
    examination = integrity.examine(folder)
    text = examination_report(examination, tmp_path / "out").read_text()
    assert text.count("data:image/png;base64,") == 3  # a, <c> and b; d cannot be read
    assert "drawn voxel on voxel" in text
    assert "<pre>python -c" in text
    assert "&lt;c&gt;" in text and "<c>" not in text
    for outside in ("<script", "http://", "https://", "<link"):
        assert outside not in text
    assert text.count("<svg") == 2
    sick = examination_report(integrity.examine(tmp_path / "nothing"), tmp_path / "out").read_text()
    assert "no such file or folder" in sick and "<svg" not in sick
    for file in folder.glob("*Tr/*.nii.gz"):
        file.write_bytes(b"")
    assert "<svg" not in examination_report(integrity.examine(folder), tmp_path / "out").read_text()
    assert (
        "Nothing to complain about"
        in examination_report(
            integrity.examine(bodies(tmp_path / "good", ["a", "b", "c"])), tmp_path / "out"
        ).read_text()
    )


def test_the_command_writes_the_page_and_says_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from medseg.cli import run as medseg

    folder = bodies(tmp_path / "data", ["a", "b", "c"])
    place(folder, "c", body(0))
    assert medseg(["doctor", str(folder), "-o", str(tmp_path / "out"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "out" / "doctor.json").read_text())
    assert document["findings"][0]["others"] == ["c"]
    assert document["classes"] == [{"name": "organ", "masks": 3, "of": 3, "volume_ml": pytest.approx(3 * 4 / 1000)}]
    assert (tmp_path / "out" / "doctor.html").is_file()
