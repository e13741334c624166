"""The page: what it says, that it stands alone, and that scans hang the right way round."""

from __future__ import annotations

import base64
import io
import itertools
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from medseg.errors import GeometryError
from medseg.evaluation import evaluate_folders
from medseg.io import read, read_labels
from medseg.report import evaluation_page, evaluation_report, overlays, plots, rendering, training_plot
from medseg.volume import Geometry, LabelVolume, Volume

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """A page taken apart; raises where tags do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.raw = path.read_text(encoding="utf-8")
        self.feed(self.raw)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._attributes(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def _attributes(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href"):
                self.links.append(value or "")
            if name in ("src", "srcset", "data", "action", "poster"):
                self.sources.append(value or "")

    @property
    def pictures(self) -> list[np.ndarray]:
        """The PNGs as (rows, columns, 3)."""
        return [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"))
            for source in self.sources
        ]


def save(array: np.ndarray, path: Path, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.T, np.diag((1.0, 1.0, 2.5, 1.0)) if affine is None else affine), path)


def ball(centre: tuple[int, int, int], radius: float, value: int = 1) -> np.ndarray:
    z, y, x = np.ogrid[:12, :30, :30]
    distance = np.sqrt(((z - centre[0]) * 2.5) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
    return np.where(distance <= radius, value, 0).astype(np.uint8)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three cases with scans, predictions and references: one shifted, one missed, one without prediction."""
    scan = np.random.default_rng(0).normal(100, 20, (12, 30, 30)).astype(np.float32)
    for case, centre in (("shifted", (6, 15, 15)), ("missed", (5, 12, 15)), ("lost", (6, 15, 15))):
        save(scan, tmp_path / "scans" / f"{case}.nii.gz")
        save(ball(centre, 8), tmp_path / "references" / f"{case}.nii.gz")
    save(ball((6, 15, 18), 8), tmp_path / "predictions" / "shifted.nii.gz")
    save(np.zeros((12, 30, 30), np.uint8), tmp_path / "predictions" / "missed.nii.gz")
    return tmp_path


def report(study: Path, labels: dict[str, object] | None = None, **options: object) -> Page:
    result = evaluate_folders(study / "predictions", study / "references", labels=labels or {"liver": 1, "tumour": 2})
    return Page(evaluation_report(result, study / "out", **options))  # type: ignore[arg-type]


def scans(study: Path) -> dict[str, Path]:
    return {path.name[:-7]: path for path in (study / "scans").iterdir()}


def test_the_page_names_every_case_label_and_failure(study: Path) -> None:
    found = report(study, images=scans(study), title="Livers", facts={"Model": "3d_fullres"}, links=["metrics.csv"])
    for text in ("Livers", "3d_fullres", "shifted", "missed", "lost", "liver", "tumour", "1 mm", "2 / 3"):
        assert text in found.text, text
    assert "1 of 3 cases could not be evaluated" in found.text
    assert "no prediction is named lost" in found.text
    assert "metrics.csv" in found.links
    assert re.search(r"left out of the mean over labels:\s*tumour", found.text)
    assert re.search(r"1 infinite", found.text)
    order = [found.text.index(kind, found.text.index("Cases to look at")) for kind in ("not evaluated", "missed")]
    assert order == sorted(order)


def test_the_page_stands_alone(study: Path) -> None:
    found = report(study, images=scans(study), links=["metrics.csv", "sub folder/a.json"])
    assert found.sources
    assert all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert "script" not in found.tags
    assert "://" not in found.raw
    assert "@import" not in found.raw
    assert not re.search(r"url\((?!#)", found.raw)
    outside = [link for link in found.links if not link.startswith("#")]
    assert outside == ["metrics.csv", "sub%20folder/a.json"]


def test_every_link_inside_leads_somewhere_and_ids_are_unique(study: Path) -> None:
    found = report(study, images=scans(study))
    assert len(set(found.ids)) == len(found.ids)
    inside = {link[1:] for link in found.links if link.startswith("#")}
    assert inside <= set(found.ids)
    assert {"case-0", "case-2"} <= set(found.ids)


def test_points_of_plots_are_named(study: Path) -> None:
    named = re.findall(r'<a href="#(case-\d)"><title>(\w+)</title>', report(study).raw)
    assert set(named) == {("case-1", "missed"), ("case-2", "shifted")}


def test_names_are_escaped(tmp_path: Path) -> None:
    for folder in ("references", "predictions"):
        save(ball((6, 15, 15), 8), tmp_path / folder / "a&b<i>.nii.gz")
    found = report(tmp_path, {"<script>x</script>": 1}, title="<b>", facts={"k": "<u>"})
    assert not {"script", "i", "b", "u"} & (found.tags - {"b"})
    assert "<script>" not in found.raw
    assert "a&b<i>" in found.text
    assert "<script>x</script>" in found.text


def test_no_folder_of_this_machine_is_in_the_page(study: Path) -> None:
    save(ball((6, 15, 15), 8)[:-1], study / "predictions" / "lost.nii.gz")
    (study / "scans" / "missed.nii.gz").write_bytes(b"broken")
    found = report(study, images=scans(study))
    assert "different grids" in found.text
    assert "Drawn without the scan" in found.text
    assert str(study) not in found.raw
    assert len(found.pictures) == 2


def test_nothing_to_show_still_makes_a_page(tmp_path: Path) -> None:
    for folder in ("references", "predictions"):
        save(np.zeros((12, 30, 30), np.uint8), tmp_path / folder / "a.nii.gz")
    result = evaluate_folders(tmp_path / "predictions", tmp_path / "references")
    found = Page(evaluation_report(result, tmp_path))
    assert "none found" in found.text
    assert not found.sources
    save(ball((6, 15, 15), 8), tmp_path / "references" / "b.nii.gz")
    (tmp_path / "predictions" / "a.nii.gz").unlink()
    result = evaluate_folders(tmp_path / "predictions", tmp_path / "references")
    assert "0 / 2" in Page(evaluation_report(result, tmp_path)).text


def test_many_labels_and_cases_are_cut_short(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_page, "MOST_CELLS", 10)
    monkeypatch.setattr(evaluation_page, "MOST_FINDINGS", 1)
    monkeypatch.setattr(plots, "MOST_POINTS", 1)
    found = report(study, {f"organ {value}": value for value in range(1, 16)})
    assert "too many labels and cases" in found.text
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert "1 more are in metrics.csv" in found.text
    assert all(f"organ {value}" in found.text for value in range(1, 16))


def test_figures_for_readers() -> None:
    assert rendering.figure_text(0.12345) == "0.123"
    assert rendering.figure_text(-1.5, 1) == "\N{MINUS SIGN}1.5"
    assert rendering.figure_text(math.inf) == "∞"
    assert rendering.figure_text(math.nan) == "\N{EN DASH}"


def test_limits_of_agreement_by_pencil() -> None:
    bias, low, high = plots.limits_of_agreement(np.array([1.0, 2.0, 3.0]))
    assert (bias, low, high) == pytest.approx((2.0, 2 - 1.96, 2 + 1.96))
    assert math.isnan(plots.limits_of_agreement(np.array([1.0]))[1])


# ---------------------------------------------------------------- which way round

ORIENTATIONS = [
    "".join(code) for axes in itertools.permutations(("RL", "AP", "SI")) for code in itertools.product(*axes)
]
WORLD = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def rotation(degrees: float, axis: int) -> np.ndarray:
    turn, (i, j) = np.radians(degrees), [(1, 2), (0, 2), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[[i, j], [i, j]] = np.cos(turn)
    matrix[i, j], matrix[j, i] = -np.sin(turn), np.sin(turn)
    return matrix


def patient(folder: Path, code: str, turn: np.ndarray | None = None) -> tuple[Volume, LabelVolume]:
    """A scan and a mask written by nibabel in some orientation.

    The scan's three channels are where each voxel lies in the patient: mm to the right, to anterior, to superior.
    Label 1 fills the middle; label 2 is a ball to the right, in front and above of it.
    """
    sizes = {"R": (20, 2.0), "A": (24, 1.5), "S": (12, 3.0)}
    kinds = ["R" if letter in "RL" else "A" if letter in "AP" else "S" for letter in code]
    shape = [sizes[kind][0] for kind in kinds]
    affine = np.eye(4)
    for axis, letter in enumerate(code):
        affine[:3, axis] = np.array(WORLD[letter]) * sizes[kinds[axis]][1]
    affine[:3, :3] = (np.eye(3) if turn is None else turn) @ affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    mm = index @ affine[:3, :3].T + affine[:3, 3]
    mask = (np.linalg.norm(mm, axis=-1) < 6).astype(np.uint8)
    mask[np.linalg.norm(mm - np.array((9, 9, 9)), axis=-1) < 7] = 2
    nib.save(nib.Nifti1Image(mm.astype(np.float32), affine), folder / f"{code}.nii")
    nib.save(nib.Nifti1Image(mask, affine), folder / f"{code}_mask.nii")
    return read(folder / f"{code}.nii"), read_labels(folder / f"{code}_mask.nii")


def shown_channel(scan: Volume, mask: LabelVolume, channel: int) -> dict[str, np.ndarray]:
    views = overlays.views(mask, mask, (1,), scan.with_array(scan.array[channel : channel + 1]))
    return {view.title.split()[0]: view.image for view in views if view.image is not None}


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_every_orientation_hangs_as_a_radiologist_does(tmp_path: Path, code: str) -> None:
    """The patient's right is on the left of axial and coronal views, anterior up or left, superior up."""
    scan, mask = patient(tmp_path, code)
    assert scan.geometry.orientation == code
    right, anterior, superior = (shown_channel(scan, mask, channel) for channel in range(3))
    down, across = 0, 1
    for image, axis in (
        (right["axial"], across),
        (right["coronal"], across),
        (anterior["axial"], down),
        (anterior["sagittal"], across),
        (superior["coronal"], down),
        (superior["sagittal"], down),
    ):
        assert (np.diff(image, axis=axis) < 0).all()
        assert np.allclose(np.diff(image, axis=1 - axis), 0)
    views = {view.title.split()[0]: view for view in overlays.views(mask, mask, (1,), None)}
    assert views["axial"].marks == ("R", "L", "A", "P")
    assert views["coronal"].marks == ("R", "L", "S", "I")
    assert views["sagittal"].marks == ("A", "P", "S", "I")
    assert views["axial"].spacing_mm == pytest.approx((1.5, 2.0))
    assert views["coronal"].spacing_mm == pytest.approx((3.0, 2.0))
    assert views["sagittal"].spacing_mm == pytest.approx((3.0, 1.5))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(ORIENTATIONS), st.floats(-30, 30), st.floats(-30, 30), st.sampled_from([(0, 1), (1, 2), (2, 0)]))
def test_oblique_grids_hang_by_their_nearest_axes(
    tmp_path_factory: pytest.TempPathFactory, code: str, first: float, second: float, axes: tuple[int, int]
) -> None:
    turn = rotation(first, axes[0]) @ rotation(second, axes[1])
    # Beyond 40 degrees a scan keeps its stored axes, since the nearest orientation would depend on a hair.
    assume(np.degrees(np.arccos((np.trace(turn) - 1) / 2)) < 40)
    scan, mask = patient(tmp_path_factory.mktemp("oblique"), code, turn)
    right, anterior, superior = (shown_channel(scan, mask, channel) for channel in range(3))
    assert np.diff(right["axial"], axis=1).mean() < 0
    assert np.diff(anterior["axial"], axis=0).mean() < 0
    assert np.diff(superior["coronal"], axis=0).mean() < 0
    for view in overlays.views(mask, mask, (1,)):
        opposite = str.maketrans("RLAPSI", "LRPAIS")
        assert view.marks[0].translate(opposite) == view.marks[1]
        assert view.marks[2].translate(opposite) == view.marks[3]


def test_marks_of_an_oblique_plane_name_both_directions() -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(30, 0) @ np.eye(3)[:, ::-1]  # axial slices tilted about the left-right axis
    grid = Geometry((4, 4, 4), affine)
    assert overlays.direction(grid, 2, 1) == "R"
    assert overlays.direction(grid, 1, 1) == "AS"
    assert overlays.direction(grid, 0, 1) == "SP"
    assert overlays.direction(grid, 0, -1) == "IA"


@pytest.mark.parametrize("code", ["RAS", "LPS", "PIR", "SLA"])
def test_a_landmark_is_drawn_on_its_own_side(tmp_path: Path, code: str) -> None:
    """Label 2 lies right, in front and above: in the finished picture it must be left and up in every view."""
    _, mask = patient(tmp_path, code)
    views = overlays.views(mask, mask, (1, 2))
    picture = np.asarray(Image.open(io.BytesIO(overlays.draw(views, (2,), []))).convert("RGB")).astype(int)
    blue = np.abs(picture - np.array([0x38, 0xC6, 0xFF])).sum(axis=-1) < 120
    widths = np.array([view.size_mm[1] for view in views])
    edges = np.round(np.concatenate([[0], np.cumsum(widths)]) / widths.sum() * picture.shape[1]).astype(int)
    for left, right in itertools.pairwise(edges):
        rows, columns = np.nonzero(blue[:, left:right])
        assert len(rows) > 20
        assert columns.mean() < (right - left) / 2
        assert rows.mean() < picture.shape[0] / 2


def test_the_slice_is_the_one_that_differs_most_and_is_counted_as_in_the_file() -> None:
    geometry = Geometry.from_spacing((9, 20, 20), (3.0, 1.0, 1.0))
    reference = np.zeros((9, 20, 20), np.uint8)
    reference[2:7, 5:15, 5:15] = 1
    prediction = reference.copy()
    prediction[3, 5:15, 5:9] = 0
    masks = LabelVolume(prediction, geometry), LabelVolume(reference, geometry)
    axial, coronal, sagittal = overlays.views(*masks, (1,))
    assert axial.title == "axial z = 3"
    assert (axial.prediction != axial.reference).sum() == 40
    assert coronal.title.startswith("coronal y = ")
    assert sagittal.title in {f"sagittal x = {x}" for x in range(5, 9)}


def test_pictures_are_shown_as_they_are_stored() -> None:
    array = np.zeros((1, 20, 30), np.uint8)
    array[0, 2:6, 3:9] = 1
    mask = LabelVolume(array, Geometry.from_spacing((1, 20, 30), (1, 1, 1)))
    (view,) = overlays.views(mask, mask, (1,), oriented=False)
    np.testing.assert_array_equal(view.reference, array[0])
    assert view.marks == ("", "", "", "")


def test_a_page_of_pictures(tmp_path: Path) -> None:
    array = np.zeros((40, 60), np.uint8)
    array[10:20, 10:30] = 255
    for folder in ("references", "predictions"):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / "cell.png")
    found = report(tmp_path, {"cell": 255})
    assert "a pixel counts as 1 mm" in found.text
    assert "patient" not in found.text
    assert "1 case," in found.text
    (picture,) = found.pictures
    assert (np.abs(picture.astype(int) - (0x38, 0xC6, 0xFF)).sum(axis=-1) < 120).sum() > 100


def test_masks_and_scan_must_share_a_grid() -> None:
    mask = LabelVolume(np.ones((4, 4, 4), np.uint8), Geometry.from_spacing((4, 4, 4), (1, 1, 1)))
    scan = Volume(np.ones((1, 4, 4, 4)), Geometry.from_spacing((4, 4, 4), (1, 1, 2)))
    with pytest.raises(GeometryError):
        overlays.views(mask, mask, (1,), scan)


@pytest.mark.parametrize(("density", "limits"), [(-800, (-1350, 150)), (60, (-160, 240)), (600, (-500, 1300))])
def test_ct_windows(density: int, limits: tuple[int, int]) -> None:
    scan = np.full((5, 5, 5), -1000, np.int16)
    inside = np.zeros(scan.shape, bool)
    inside[2] = True
    scan[inside] = density
    assert overlays.window(scan, inside, (1, 1, 1)) == limits


def test_other_scans_show_percentiles_without_background_and_without_nan() -> None:
    scan = np.zeros((10, 10, 10), np.float32)
    scan[2:8] = np.linspace(100, 200, 600).reshape(6, 10, 10)
    scan[3, 0, 0] = np.nan
    low, high = overlays.window(scan, scan > 0, (1, 1, 1))
    assert 100 < low < 105
    assert 195 < high < 200
    assert overlays.window(np.zeros((2, 2, 2)), np.ones((2, 2, 2), bool), (1, 1, 1)) == (0, 1)


def test_real_cases_with_their_scans(shared: Path, tmp_path: Path) -> None:
    folder = shared / "nnunet_model_tiny"
    result = evaluate_folders(folder / "predictions_tta", folder / "labels")
    images = {case: folder / "images" / f"{case}_0000.nii.gz" for case in result.cases}
    found = Page(evaluation_report(result, tmp_path, images=images))
    assert len(found.pictures) == 6
    assert all(case in found.text for case in result.cases)
    assert all(picture.std() > 20 for picture in found.pictures)


@pytest.mark.parametrize("epochs", [1, 60])
def test_training_plot(tmp_path: Path, epochs: int) -> None:
    epoch = np.arange(epochs)
    course = pd.DataFrame(
        {
            "epoch": epoch,
            "iteration": epoch * 250,
            "seconds": epoch * 30.0,
            "learning_rate": 0.01,
            "train_loss": -epoch / 60,
            "validation_loss": -epoch / 70,
            "mean_dice": epoch / 60,
            "dice_liver": epoch / 60,
            "dice_never seen": np.nan,
        }
    )
    course.to_csv(tmp_path / "progress.csv", index=False)
    training_plot(tmp_path / "progress.csv", tmp_path / "progress.png")
    picture = np.asarray(Image.open(tmp_path / "progress.png").convert("L"))
    assert picture.shape[0] > 500
    assert (picture < 128).sum() > 500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["progress.csv", "progress.png"]


def test_labels_never_found_and_notes_are_at_the_top(study: Path) -> None:
    save(ball((6, 15, 15), 8) + ball((6, 26, 26), 3, 2), study / "references" / "shifted.nii.gz")
    found = report(study, notes=["Learned in part: <half>.", "Train longer."])
    notice = re.search(
        r"Never found, with Dice 0 in every evaluated case that has it:\s*tumour \(in 1 case\)\.", found.text
    )
    assert notice
    assert notice.end() < found.text.index("Learned in part: <half>.") < found.text.index("Results by label")
    assert "Train longer." in found.text
    save(ball((6, 15, 15), 8), study / "references" / "shifted.nii.gz")
    assert "Never found" not in report(study).text  # the liver is missed in one case only
