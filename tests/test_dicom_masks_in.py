"""Segmentations and structure sets as masks: contours with a pencil, then objects with everything that can be odd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_examples import AXIAL, count, instance, save, stack
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from medseg import dicom, io
from medseg.dicom.contours import fill, flat_axis, rasterize
from medseg.errors import FileUnreadableError, GeometryError, LabelError, UsageError

SQUARE = np.array([[0.5, 0.5], [0.5, 3.5], [3.5, 3.5], [3.5, 0.5]])


# --- contours


def drawn(*rows: str) -> np.ndarray:
    return np.array([[mark == "#" for mark in row] for row in rows])


def test_a_square() -> None:
    np.testing.assert_array_equal(fill([SQUARE], (5, 5)), drawn(".....", ".###.", ".###.", ".###.", "....."))


def test_a_contour_inside_another_is_a_hole() -> None:
    hole = SQUARE / 3 + 4 / 3  # from 1.5 to 2.5
    np.testing.assert_array_equal(fill([SQUARE, hole], (5, 5)), drawn(".....", ".###.", ".#.#.", ".###.", "....."))
    np.testing.assert_array_equal(fill([SQUARE, hole[::-1]], (5, 5)), fill([hole, SQUARE], (5, 5)))


def test_a_keyhole_contour_is_hollow() -> None:
    outer = [(0.5, 0.5), (0.5, 3.5), (3.5, 3.5), (3.5, 0.5), (0.5, 0.5)]
    inner = [(1.5, 1.5), (2.5, 1.5), (2.5, 2.5), (1.5, 2.5), (1.5, 1.5)]
    np.testing.assert_array_equal(
        fill([np.array([*outer, *inner])], (5, 5)), drawn(".....", ".###.", ".#.#.", ".###.", ".....")
    )


def test_neighbours_that_share_an_edge_share_no_pixel() -> None:
    left, right = (np.array([[0, a], [0, a + 2], [4, a + 2], [4, a]]) for a in (0, 2))
    one, two = fill([left], (5, 6)), fill([right], (5, 6))
    assert not (one & two).any() and (one | two).sum() == 4 * 4


def test_contours_beyond_the_picture_are_cut_off() -> None:
    np.testing.assert_array_equal(fill([SQUARE - 2], (3, 3)), drawn("##.", "##.", "..."))


def test_the_axis_of_a_contour() -> None:
    assert flat_axis(np.array([[2.0, 0, 0], [2.01, 5, 0], [2, 5, 5]])) == 0
    assert flat_axis(np.array([[0.0, 1, 0], [5, 1, 0], [5, 1, 5]])) == 1
    assert flat_axis(np.array([[0.0, 0, 0], [5, 1, 0], [5, 1, 5]])) is None


def planes(*heights: float) -> list[np.ndarray]:
    return [np.column_stack([np.full(4, height), SQUARE]) for height in heights]


@pytest.mark.parametrize(
    ("heights", "filled", "between"),
    [
        ((1.0, 2.0), {1, 2}, 0),
        ((1.3, 2.3), {1, 2}, 2),  # the nearest slices
        ((0.0, 2.0, 4.0), {0, 1, 2, 3, 4}, 0),  # every other slice was drawn
        ((1.0, 5.0), {1, 5}, 0),  # two planes do not say that what lies between them belongs to them
        ((1.5,), {1}, 1),  # midway between two slices: one of them
    ],
)
def test_planes_of_contours_between_slices(heights: tuple[float, ...], filled: set[int], between: int) -> None:
    mask, found = rasterize(planes(*heights), 0, (6, 5, 5))
    assert set(np.flatnonzero(mask.any(axis=(1, 2)))) == filled
    assert found == between


# --- structure sets


def scan(folder: Path) -> dicom.Series:
    stack(folder, count(5, 8, 8), SOPInstanceUID=None, each=[{"SOPInstanceUID": f"1.2.3.4.{z}"} for z in range(5)])
    return dicom.find_series(folder)[0]


def structures(regions: dict[str, list[tuple[str, Any]]], frame: str = "1.2.3.9", images: str = "1.2.3.4.") -> Dataset:
    """Name to contours: kind and points in mm (LPS)."""
    dataset = instance("RTSTRUCT", FrameOfReferenceUID=None, SeriesInstanceUID="1.2.7")
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(regions.items(), 1):
        region, drawing = Dataset(), Dataset()
        region.ROINumber, region.ROIName, region.ReferencedFrameOfReferenceUID = number, name, frame
        drawing.ReferencedROINumber, drawing.ContourSequence = number, []
        for kind, points in contours:
            contour, image = Dataset(), Dataset()
            image.ReferencedSOPInstanceUID = f"{images}0"
            contour.ContourGeometricType, contour.ContourData = kind, np.ravel(points).tolist()
            contour.ContourImageSequence = [image]
            drawing.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(region)
        dataset.ROIContourSequence.append(drawing)
    return dataset


def square(z: float, low: float = 0.5, high: float = 3.5) -> tuple[str, Any]:
    return "CLOSED_PLANAR", [(low, low, z), (high, low, z), (high, high, z), (low, high, z)]


def test_structures_with_holes_and_overlaps(tmp_path: Path) -> None:
    series = scan(tmp_path / "ct")
    regions = {"GTV": [square(1), square(1, 1.5, 2.5), square(2)], "PTV": [square(1, 0.5, 5.5)], "nothing": []}
    path = save(structures(regions), tmp_path / "rt.dcm")
    masks = dicom.read_masks(path, series.geometry, series=series)
    assert [segment.name for segment in masks.segments] == ["GTV", "PTV", "nothing"]
    assert [int(masks.mask(number).sum()) for number in (1, 2, 3)] == [8 + 9, 25, 0]
    assert len(masks.volumes) == 2 and not masks.mask(1)[1, 2, 2]
    merged = io.read_labels(path, grid=series.geometry, values={"ptv": 1, "gtv": 2}, image=tmp_path / "ct")
    assert [int((merged.array == value).sum()) for value in (1, 2)] == [25 - 8, 17]
    with pytest.raises(LabelError, match="its segments overlap"):
        io.read_labels(path, grid=series.geometry)
    with pytest.raises(UsageError, match="contours are drawn on the grid of a scan"):
        io.read_labels(path)


def test_points_and_open_contours_enclose_nothing(tmp_path: Path) -> None:
    series = scan(tmp_path / "ct")
    line = ("OPEN_PLANAR", square(2)[1])
    path = save(structures({"a": [square(1), ("POINT", [(1, 1, 1)]), line]}), tmp_path / "rt.dcm")
    masks = dicom.read_masks(path, series.geometry, series=series)
    assert masks.mask(1).sum() == 9
    assert "2 points or open contours, which enclose nothing, are left aside" in masks.notes[0]


@pytest.mark.parametrize(
    ("frame", "images", "message"),
    [
        ("1.2.3.9", "9.9.", ""),  # dangling references, the frame of reference holds
        ("9.9", "1.2.3.4.", "its frame of reference is not that of the scan, whose images it names"),
        ("9.9", "9.9.", "refuse"),
    ],
)
def test_references(tmp_path: Path, frame: str, images: str, message: str) -> None:
    series = scan(tmp_path / "ct")
    path = save(structures({"a": [square(1)]}, frame, images), tmp_path / "rt.dcm")
    if message == "refuse":
        with pytest.raises(GeometryError, match="drawn in another frame of reference"):
            dicom.read_masks(path, series.geometry, series=series)
        return
    masks = dicom.read_masks(path, series.geometry, series=series)
    assert masks.mask(1).sum() == 9
    assert message in masks.notes[0]


def test_contours_that_cannot_be_placed(tmp_path: Path) -> None:
    series = scan(tmp_path / "ct")
    slanted = ("CLOSED_PLANAR", [(0, 0, 0), (3, 0, 1), (3, 3, 2), (0, 3, 1)])
    path = save(structures({"a": [slanted]}), tmp_path / "rt.dcm")
    with pytest.raises(GeometryError, match="lies in no plane of the scan"):
        dicom.read_masks(path, series.geometry)
    path = save(structures({"a": [square(100)]}), tmp_path / "rt.dcm")
    with pytest.raises(GeometryError, match="all contours lie outside the scan"):
        dicom.read_masks(path, series.geometry)
    path = save(structures({"a": [("CLOSED_PLANAR", list(range(10)))]}), tmp_path / "rt.dcm")
    with pytest.raises(GeometryError, match="1 contours of 'a' have incomplete points"):
        dicom.read_masks(path, series.geometry)


# --- segmentations


def segmentation(folder: Path, array: np.ndarray, kind: str = "BINARY") -> Path:
    """A SEG by highdicom; segments along the last axis of (Z, Y, X, S)."""
    images = [pydicom.dcmread(file) for file in sorted(folder.iterdir(), reverse=True)]
    for image in images:
        image.PatientSex, image.StudyDate, image.StudyTime, image.StudyID = "O", "20200101", "101010", "1"
        image.ReferringPhysicianName, image.Manufacturer, image.AccessionNumber = "", "", ""
    descriptions = [
        hd.seg.SegmentDescription(
            number,
            f"organ {number}",
            codes.SCT.Organ,
            codes.SCT.Liver,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in range(1, array.shape[-1] + 1)
    ]
    made = hd.seg.Segmentation(
        images,
        array,
        kind,
        descriptions,
        "1.2.8",
        1,
        "1.2.8.1",
        1,
        "Nobody",
        "None",
        "1",
        "1",
        max_fractional_value=200,
    )
    path = folder.parent / "seg.dcm"
    made.save_as(path)
    return path


def test_segments_sparse_and_overlapping(tmp_path: Path) -> None:
    series = scan(tmp_path / "ct")
    array = np.zeros((5, 8, 8, 2), np.uint8)
    array[1, 2:4, 3:5, 0] = array[1:3, 3:6, 3:6, 1] = 1
    path = segmentation(tmp_path / "ct", array)
    masks = dicom.read_masks(path, series.geometry, series=series)
    for number in (1, 2):
        np.testing.assert_array_equal(masks.mask(number), array[..., number - 1])
    own = dicom.read_masks(path)  # empty slices were left out, so its own grid is smaller
    assert own.geometry.shape == (2, 8, 8) and own.mask(2).sum() == 18
    merged = io.read_labels(path, grid=series.geometry, values={"organ 2": 7, "organ 1": 9}).array
    assert [int((merged == value).sum()) for value in (7, 9)] == [16, 4]


def test_of_a_fractional_segmentation_half_counts(tmp_path: Path) -> None:
    series = scan(tmp_path / "ct")
    array = np.zeros((5, 8, 8, 1))
    array[2, 4, :4, 0] = 0.2, 0.49, 0.51, 1.0
    masks = dicom.read_masks(segmentation(tmp_path / "ct", array, "FRACTIONAL"), series.geometry)
    np.testing.assert_array_equal(np.flatnonzero(masks.mask(1)[2, 4]), [2, 3])


def test_a_segmentation_of_another_place_is_refused(tmp_path: Path) -> None:
    scan(tmp_path / "ct")
    array = np.ones((5, 8, 8, 1), np.uint8)
    path = segmentation(tmp_path / "ct", array)
    stack(tmp_path / "smaller", count(3, 8, 8), FrameOfReferenceUID="1.9")
    (other,) = dicom.find_series(tmp_path / "smaller")
    with pytest.raises(GeometryError, match="a segment reaches beyond the scan"):
        dicom.read_masks(path, other.geometry)
    stack(tmp_path / "other", count(5, 8, 8), FrameOfReferenceUID="1.9", SeriesInstanceUID="1.10")
    (foreign,) = dicom.find_series(tmp_path / "other")
    with pytest.raises(GeometryError, match="another frame of reference"):
        dicom.read_masks(path, foreign.geometry, series=foreign)
    stack(tmp_path / "shifted", count(5, 8, 8), origin=(0.4, 0, 0))
    (shifted,) = dicom.find_series(tmp_path / "shifted")
    with pytest.raises(GeometryError):
        dicom.read_masks(path, shifted.geometry)


def test_one_mask_in_a_folder(tmp_path: Path) -> None:
    series = scan(tmp_path / "ct")
    path = segmentation(tmp_path / "ct", np.ones((5, 8, 8, 1), np.uint8))
    assert io.read_labels(tmp_path, grid=series.geometry, values={"Organ 1": 1}).array.all()
    save(structures({"a": [square(1)]}), tmp_path / "rt.dcm")
    with pytest.raises(UsageError, match="expected one segmentation or structure set, found 2: "):
        io.read_labels(tmp_path, grid=series.geometry)
    with pytest.raises(FileUnreadableError):
        dicom.read_masks(path.with_name("none.dcm"), series.geometry)
    assert tuple(series.planes[0].orientation or ()) == AXIAL
