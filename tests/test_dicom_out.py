"""Masks out as DICOM: whatever the grid, the mask comes back; whatever is wrong, the file does not come out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_out_examples import grid_of, read_segmentation, read_structures, valid, write_series
from pydicom.uid import generate_uid

from medseg.dicom import mask_writing, selfcheck
from medseg.dicom.description import Algorithm, describe
from medseg.dicom.discovery import find_series
from medseg.dicom.files import quiet_pydicom
from medseg.dicom.mask_writing import output_name
from medseg.dicom.measurements import has_codes, measure, write_report
from medseg.dicom.outlines import outlines
from medseg.dicom.placement import place
from medseg.dicom.series import Series
from medseg.dicom.sources import read_sources
from medseg.errors import DataError, DocumentError, FileUnreadableError, GeometryError, LabelError, SelfCheckError
from medseg.labels import LabelSet
from medseg.orientation import AxisChange
from medseg.terms import Code, Meaning
from medseg.volume import Geometry, LabelVolume

LABELS = LabelSet({"liver": (1,), "kidney_left": (7,)})
ALGORITHM = Algorithm("Task03 3d_fullres", "0.1.0")
ROUNDS = 200


def series_of(files) -> Series:
    """The one series that these files are."""
    (series,) = [one for one in find_series(Path(files[0]).parent) if set(one.files) == set(files)]
    return series


def write_masks(mask, labels, files, path, *, format, algorithm) -> Path:
    """Write below a path, and give back where."""
    series = series_of(files)
    path = path if path.suffix == ".dcm" else path / output_name(series, format)
    mask_writing.write_masks(mask, labels, series, path, format=format, algorithm=algorithm)
    return path


def example_mask(geometry: Geometry) -> LabelVolume:
    array = np.zeros(geometry.shape, dtype=np.uint8)
    array[1:3, 2:6, 1:4] = 1
    array[2:4, 7:11, 5:9] = 7
    array[2, 8, 6] = 0  # a hole
    return LabelVolume(array, geometry, LABELS.meaning)


def rotation(generator: np.random.Generator) -> np.ndarray:
    """A random rotation, uniformly (QR of a Gaussian matrix)."""
    q, r = np.linalg.qr(generator.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else q * (-1, 1, 1)


def random_change(generator: np.random.Generator) -> AxisChange:
    z, y, x = generator.permutation(3).tolist()
    a, b, c = generator.integers(0, 2, 3).astype(bool).tolist()
    return AxisChange((z, y, x), (a, b, c))


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return write_series(tmp_path / "series")


# Outlines


@pytest.mark.parametrize(
    ("rows", "area", "polygons"),
    [
        (["#"], 1, 1),
        (["##", "#."], 3, 1),
        (["#.", ".#"], 2, 2),  # corners touch: two pieces
        (["###", "#.#", "###"], 8, 1),  # a hole becomes part of the ring around it
        (["#####", "#.#.#", "#####"], 13, 1),
        (["#####", "#...#", "#.#.#", "#...#", "#####"], 17, 2),  # an island in a hole
    ],
)
def test_outlines_enclose_the_area_of_the_pixels(rows, area, polygons):
    mask = np.array([[character == "#" for character in row] for row in rows])
    found = outlines(mask)
    assert len(found) == polygons
    enclosed = sum(abs(np.cross(ring, np.roll(ring, -1, axis=0)).sum()) / 2 for ring in as_planes(found))
    assert enclosed == area == mask.sum()


def as_planes(rings):
    for ring in rings:
        yield np.concatenate([ring, np.zeros((len(ring), 1))], axis=1)[:, [0, 1, 2]]


def test_outlines_of_any_mask_fill_to_the_same_mask_by_every_rule():
    from matplotlib.path import Path as Polygon
    from skimage.measure import grid_points_in_poly

    generator = np.random.default_rng(5)
    for _ in range(150):
        mask = generator.random(generator.integers(1, 16, 2)) < generator.choice([0.3, 0.6, 0.85])
        centres = np.argwhere(np.ones_like(mask))
        odd, union, winding = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
        for ring in outlines(mask):
            inside = grid_points_in_poly(mask.shape, ring)
            odd ^= inside
            union |= inside
            winding |= Polygon(ring).contains_points(centres).reshape(mask.shape)
        assert (odd == mask).all()
        assert (union == mask).all()
        assert (winding == mask).all()


# Descriptions


def test_codes_are_given_or_found_by_exact_name_or_plain_tissue():
    labels = LabelSet({"left kidney": (1,), "blob": (2,), "Liver": (3,), "SpinalCord": (4,)})
    given = {"blob": Meaning(type=Code("108369006", "SCT", "Neoplasm"), side="left", colour=(1, 2, 3))}
    kidney, blob, liver, cord = describe(dataclasses.replace(labels, meanings=given))
    assert (kidney.type.value, kidney.side) == ("64033007", kidney.side)
    assert (blob.type.meaning, blob.side, blob.colour) == ("Neoplasm", kidney.side, (1, 2, 3))
    assert kidney.side is not None and kidney.side.meaning == "Left"
    assert (liver.type.value, liver.side, cord.type.value) == ("10200004", None, "2748008")
    assert describe(LabelSet({"blob": (5,)}))[0].type.meaning == "Tissue"


def test_codes_for_unknown_labels_and_names_that_cannot_be_told_apart_are_refused():
    with pytest.raises(DocumentError, match="lung"):
        LabelSet({"liver": (1,)}, meanings={"lung": Meaning()})
    with pytest.raises(DocumentError, match="64 characters"):
        describe(LabelSet({"x" * 64 + "a": (1,), "x" * 64 + "b": (2,)}))
    with pytest.raises(DocumentError, match="1 to 16"):
        Meaning(type=Code("", "SCT", "nothing"))
    with pytest.raises(DocumentError, match="0 to 255"):
        Meaning(colour=(0, 0, 256))


# Round trips


def test_segmentation_comes_back_from_any_grid(tmp_path):
    generator = np.random.default_rng(11)
    for turn in range(ROUNDS):
        shape = (int(generator.integers(2, 5)), *generator.integers(3, 9, 2).tolist())
        turned = rotation(generator)
        files = write_series(
            tmp_path / f"{turn}",
            shape,
            generator.uniform(0.4, 6.0, 3),
            cosines=turned[:2],
            origin_mm=generator.uniform(-300, 300, 3),
            order=generator.permutation(shape[0]).tolist(),
        )
        upright = grid_of(files)
        array = generator.choice([0, 1, 7], size=shape, p=[0.6, 0.2, 0.2]).astype(np.uint8)
        mask = LabelVolume(array, upright).changed(random_change(generator))
        path = write_masks(mask, LABELS, files, tmp_path / f"{turn}.dcm", format="seg", algorithm=ALGORITHM)
        back = read_segmentation(path, mask.geometry)
        assert (back["liver"] == (mask.array == 1)).all(), turn
        assert (back["kidney_left"] == (mask.array == 7)).all(), turn


def test_structures_come_back_from_any_grid(tmp_path):
    generator = np.random.default_rng(12)
    for turn in range(ROUNDS):
        shape = (int(generator.integers(4, 7)), *generator.integers(24, 34, 2).tolist())
        turned = rotation(generator)
        files = write_series(
            tmp_path / f"{turn}",
            shape,
            generator.uniform(0.4, 6.0, 3),
            cosines=turned[:2],
            origin_mm=generator.uniform(-300, 300, 3),
            order=generator.permutation(shape[0]).tolist(),
        )
        upright = grid_of(files)
        blob = blob_of(generator, shape)
        mask = LabelVolume(blob.astype(np.uint8) * 7, upright).changed(random_change(generator))
        path = write_masks(mask, LABELS, files, tmp_path / f"{turn}.dcm", format="rtstruct", algorithm=ALGORITHM)
        back = read_structures(path, upright)
        assert not back["liver"].any()
        assert (back["kidney_left"] == blob).all(), turn  # a Dice of 1: outlines follow the pixels' edges


def blob_of(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A rough ball of more than 500 voxels with cavities."""
    from scipy.ndimage import gaussian_filter

    middle = np.array(shape) / 2
    index = np.stack(np.mgrid[tuple(slice(size) for size in shape)], axis=-1)
    distance = np.linalg.norm((index - middle) / middle, axis=-1)
    blob = distance + gaussian_filter(generator.normal(size=shape), 1) < 0.9
    assert blob.sum() > 500
    return blob


def test_highdicom_reads_the_segmentation_as_the_same_volume(series, tmp_path):
    mask = example_mask(grid_of(series))
    path = write_masks(mask, LABELS, series, tmp_path / "a.dcm", format="seg", algorithm=ALGORITHM)
    volume = hd.seg.segread(path).get_volume(combine_segments=True, allow_missing_positions=True)
    geometry = Geometry(volume.array.shape, np.diag([-1.0, -1, 1, 1]) @ volume.affine)
    numbers = LabelVolume(volume.array.astype(np.uint8), geometry).changed(geometry.change_to("RAS"))
    expected = mask.changed(mask.geometry.change_to("RAS"))
    offset = np.rint(expected.geometry.to_index(numbers.geometry.to_mm((0, 0, 0)))).astype(int)
    window = tuple(slice(a, a + b) for a, b in zip(offset, numbers.array.shape, strict=True))
    assert (np.array([0, 1, 7])[numbers.array] == expected.array[window]).all()
    assert (numbers.array > 0).sum() == (mask.array > 0).sum()


@pytest.mark.parametrize("thickness", [None, "absent"])
def test_a_series_that_does_not_say_how_thick_its_slices_are(series, tmp_path, thickness):
    for path in series:
        image = pydicom.dcmread(path)
        if thickness is None:
            image.SliceThickness = None
        else:
            del image.SliceThickness
        image.save_as(path)
    mask = example_mask(series_of(series).geometry)
    path = write_masks(mask, LABELS, series, tmp_path / "m.dcm", format="seg", algorithm=ALGORITHM)
    measures = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SliceThickness) == pytest.approx(3.0)


def test_frames_refer_to_the_images_that_they_cover(series, tmp_path):
    mask = example_mask(grid_of(series))
    flipped = mask.changed(AxisChange((2, 0, 1), (True, True, False)))
    path = write_masks(flipped, LABELS, series, tmp_path / "a.dcm", format="seg", algorithm=ALGORITHM)
    positions = {}
    for file in series:
        image = pydicom.dcmread(file)
        positions[image.SOPInstanceUID] = np.array(image.ImagePositionPatient, dtype=float)
    segmentation = pydicom.dcmread(path)
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert np.allclose(positions[source], groups.PlanePositionSequence[0].ImagePositionPatient)
    assert float(segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices) == 3.0
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == ["liver", "kidney_left"]


def test_regions_that_overlap_are_segments_that_overlap(series, tmp_path):
    labels = LabelSet({"whole": (1, 2), "core": (2,)}, region_order=(1, 2))
    geometry = grid_of(series)
    array = np.zeros(geometry.shape, dtype=np.uint8)
    array[1:4, 1:9, 1:9] = 1
    array[2, 3:6, 3:6] = 2
    mask = LabelVolume(array, geometry)
    seg = write_masks(mask, labels, series, tmp_path / "a.dcm", format="seg", algorithm=ALGORITHM)
    rtstruct = write_masks(mask, labels, series, tmp_path / "b.dcm", format="rtstruct", algorithm=ALGORITHM)
    for back in (read_segmentation(seg, geometry), read_structures(rtstruct, geometry)):
        assert (back["whole"] == (array > 0)).all()
        assert (back["core"] == (array == 2)).all()


@pytest.mark.parametrize("format", ["seg", "rtstruct"])
def test_an_empty_mask_can_be_written(series, tmp_path, format):
    geometry = grid_of(series)
    mask = LabelVolume(np.zeros(geometry.shape, dtype=np.uint8), geometry)
    path = write_masks(mask, LABELS, series, tmp_path, format=format, algorithm=ALGORITHM)
    image = pydicom.dcmread(series[0])
    assert path == tmp_path / image.StudyInstanceUID / f"{image.SeriesInstanceUID}.{format}.dcm"
    read = read_segmentation if format == "seg" else read_structures
    assert [array.any() for array in read(path, geometry).values()] == [False, False]
    assert valid(path) == ""


def test_a_tilted_series_keeps_the_grid_of_its_mask_in_seg_and_is_refused_as_rtstruct(tmp_path):
    tilt = np.deg2rad(14)
    files = write_series(
        tmp_path / "tilted",
        cosines=np.array([[1.0, 0, 0], [0, np.cos(tilt), np.sin(tilt)]]),
        step=np.array([0, 0, 1.0]),
    )
    geometry = Geometry.from_spacing((7, 14, 10), (3.0, 1.0, 0.8), (-20.0, -40.0, 25.0))
    mask = example_mask(geometry)
    path = write_masks(mask, LABELS, files, tmp_path / "a.dcm", format="seg", algorithm=ALGORITHM)
    assert (read_segmentation(path, geometry)["liver"] == (mask.array == 1)).all()
    assert valid(path) == ""
    with pytest.raises(GeometryError, match="planes of its own"):
        write_masks(mask, LABELS, files, tmp_path / "b.dcm", format="rtstruct", algorithm=ALGORITHM)
    assert sorted(path.name for path in tmp_path.glob("*.dcm")) == ["a.dcm"]


def test_a_multi_frame_source(tmp_path):
    files = write_series(tmp_path / "single")
    images = [pydicom.dcmread(file) for file in files]
    many = hd.pm.ParametricMap(
        images,
        np.zeros((5, 12, 10), dtype=np.uint16),
        generate_uid(),
        5,
        generate_uid(),
        1,
        "Nobody",
        "None",
        "1",
        "1",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            hd.pm.RealWorldValueMapping("a", "b", hd.sr.CodedConcept("1", "UCUM", "no"), (0, 9), slope=1, intercept=0)
        ],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=1, window_width=2)],
    )
    many.save_as(tmp_path / "many.dcm")
    mask = example_mask(grid_of(files))
    for format, read in (("seg", read_segmentation), ("rtstruct", read_structures)):
        path = write_masks(
            mask, LABELS, [tmp_path / "many.dcm"], tmp_path / f"{format}.dcm", format=format, algorithm=ALGORITHM
        )
        assert (read(path, mask.geometry)["kidney_left"] == (mask.array == 7)).all()
        assert valid(path) == ""
    with quiet_pydicom():
        assert place(mask, read_sources(series_of([tmp_path / "many.dcm"]))).sources is not None


# Measurements


def test_volumes_in_a_table_and_in_a_structured_report(series, tmp_path):
    mask = example_mask(grid_of(series))
    segments = describe(LABELS)
    table = measure(mask, segments)
    assert table["voxels"].tolist() == [24, 31]
    assert table["volume_ml"].tolist() == pytest.approx([24 * 2.4 / 1000, 31 * 2.4 / 1000])
    assert table["code"].tolist() == ["10200004", "64033007"]
    assert has_codes(segments) and not has_codes(describe(LabelSet({"blob": (1,)})))
    seg = write_masks(mask, LABELS, series, tmp_path / "a.dcm", format="seg", algorithm=ALGORITHM)
    write_report(mask, segments, seg, series_of(series), tmp_path / "sr.dcm", algorithm=ALGORITHM)
    report = hd.sr.srread(tmp_path / "sr.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [group.get_measurements()[0].value for group in groups] == pytest.approx(table["volume_ml"].tolist())
    assert [group.tracking_identifier for group in groups] == ["liver", "kidney_left"]
    assert valid(tmp_path / "sr.dcm") == ""


# Self-check: each way of being wrong, made on purpose


def released(mask, files, path, monkeypatch, format, damage):
    """Write with a writer whose file is damaged before it is read back."""
    write, check = mask_writing._KINDS[format]

    def write_and_damage(placement, series, segments, algorithm, target):
        write(placement, series, segments, algorithm, target)
        dataset = pydicom.dcmread(target)
        damage(dataset)
        dataset.save_as(target)

    monkeypatch.setitem(mask_writing._KINDS, format, (write_and_damage, check))
    return write_masks(mask, LABELS, files, path, format=format, algorithm=ALGORITHM)


def flip_pixels(axis):
    def damage(dataset):
        frames = np.flip(dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns), axis)
        dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
        dataset.PixelData += b"\0" * (len(dataset.PixelData) % 2)

    return damage


def reverse_frames(dataset):
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    places = [item.PlanePositionSequence for item in groups]
    for item, place_ in zip(groups, reversed(places), strict=True):
        item.PlanePositionSequence = place_


def wrong_gap(dataset):
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = "1.5"


def mirror_orientation(dataset):
    orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def exchange_names(dataset):
    one, other = dataset.SegmentSequence
    one.SegmentLabel, other.SegmentLabel = other.SegmentLabel, one.SegmentLabel


def other_patient(dataset):
    dataset.PatientID = "somebody else"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_pixels(1), "centroid|place"),
        (flip_pixels(2), "mirrored|centroid"),
        (reverse_frames, "liver"),
        (wrong_gap, "liver: expected 0.0576 ml, found 0.0288 ml"),
        (mirror_orientation, "mirrored|centroid"),
        (exchange_names, "names"),
        (other_patient, "PatientID: expected that of the images, found another"),
    ],
)
def test_a_damaged_segmentation_is_not_released(series, tmp_path, monkeypatch, damage, message):
    mask = example_mask(grid_of(series))
    with pytest.raises(SelfCheckError, match=message) as error:
        released(mask, series, tmp_path / "a.dcm", monkeypatch, "seg", damage)
    assert "PID-" not in str(error.value)
    assert list(tmp_path.glob("*.dcm")) == []
    assert list(tmp_path.glob(".partial*")) == []


def test_a_mask_like_its_mirror_image_is_checked_voxel_by_voxel(series, tmp_path, monkeypatch):
    """Centroid, volume and side agree for an L and its turned copy about the same centre; their places do not."""
    geometry = grid_of(series)
    array = np.zeros(geometry.shape, dtype=np.uint8)
    array[2, 2:10, 2:8] = 1
    array[2, 2:4, 2:4] = array[2, 8:10, 6:8] = 0
    with pytest.raises(SelfCheckError, match="voxels in place"):
        released(LabelVolume(array, geometry), series, tmp_path / "a.dcm", monkeypatch, "seg", flip_pixels(2))


def move_contours(axis, by_mm):
    def damage(dataset):
        for region in dataset.ROIContourSequence:
            for contour in region.get("ContourSequence", []):
                points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
                points[:, axis] = points[:, axis] * (1 if by_mm else -1) + by_mm
                contour.ContourData = [f"{value:.4f}" for value in points.ravel()]

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (move_contours(0, 0.0), "mirrored|centroid"),
        (move_contours(0, 0.7), "centroid|place"),
        (move_contours(2, 3.0), "planes of their images"),
        (other_patient, "PatientID"),
    ],
)
def test_damaged_structures_are_not_released(series, tmp_path, monkeypatch, damage, message):
    mask = example_mask(grid_of(series))
    with pytest.raises(SelfCheckError, match=message):
        released(mask, series, tmp_path / "a.dcm", monkeypatch, "rtstruct", damage)
    assert list(tmp_path.glob("*.dcm")) == []


def test_the_self_check_shares_no_arithmetic_with_the_writers():
    text = Path(selfcheck.__file__).read_text()
    assert not any(f"medseg.dicom.{name} " in text for name in ("placement", "sources", "outlines"))


# Bad input


def test_what_cannot_be_written_is_said_in_one_line(series, tmp_path):
    mask = example_mask(grid_of(series))

    def refused(error, match, files=series, mask=mask):
        with pytest.raises(error, match=match) as raised:
            write_masks(mask, LABELS, files, tmp_path / "a.dcm", format="seg", algorithm=ALGORITHM)
        assert "\n" not in str(raised.value)

    refused(LabelError, "3", mask=mask.with_array(np.full_like(mask.array, 3)))
    for name, value, match in (
        ("ImagePositionPatient", None, "no place in the patient"),
        ("FrameOfReferenceUID", None, "FrameOfReferenceUID"),
        ("StudyInstanceUID", "../../x", "identifier"),
    ):
        image = pydicom.dcmread(series[0])
        delattr(image, name)
        if value:
            image[name] = pydicom.DataElement(name, "LO", value)
        path = tmp_path / name / "one.dcm"
        path.parent.mkdir()
        image.save_as(path)
        refused(DataError, match, files=[path])
    found = series_of(series)
    series[0].unlink()
    with pytest.raises(FileUnreadableError, match="cannot be read"):
        mask_writing.write_masks(mask, LABELS, found, tmp_path / "a.dcm", format="seg", algorithm=ALGORITHM)
    assert not (tmp_path / "a.dcm").exists()


# Real data


def test_a_real_series(shared, tmp_path):
    files = sorted((shared / "data/dicom_brain/Study1/13_HCropVolume").iterdir())
    mask = example_mask(grid_of(files))
    for format, read in (("seg", read_segmentation), ("rtstruct", read_structures)):
        path = write_masks(mask, LABELS, files, tmp_path, format=format, algorithm=ALGORITHM)
        back = read(path, mask.geometry)
        assert (back["liver"] == (mask.array == 1)).all()
        assert (back["kidney_left"] == (mask.array == 7)).all()
        assert valid(path) == ""
