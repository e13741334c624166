"""Series to volumes: values, types, order, and everything that must be refused."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_examples import PHI, count, instance, picture, save, stack
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from medseg import dicom, io
from medseg.errors import DataError, FileUnreadableError, GeometryError, MedsegError, UsageError


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert not any(value in text for value in PHI.values())
    return text


# --- values


def test_slices_are_sorted_by_place_and_keep_their_type(tmp_path: Path) -> None:
    array = count(4, 3, 5, dtype="uint16")
    stack(tmp_path, array, PixelSpacing=[2.0, 0.5], step=(0, 0, 3), origin=(1, 2, 3))
    volume = io.read(tmp_path)
    assert volume.array.dtype == np.uint16
    np.testing.assert_array_equal(volume.array, array[None])
    np.testing.assert_allclose(volume.geometry.affine, [[0, 0, -0.5, -1], [0, -2, 0, -2], [3, 0, 0, 3], [0, 0, 0, 1]])


def test_descending_positions_come_out_ascending(tmp_path: Path) -> None:
    array = count(3, 2, 2)
    stack(tmp_path, array, step=(0, 0, -1))
    np.testing.assert_array_equal(io.read(tmp_path).array[0], array[::-1])


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [
        ("1", "0", "int16"),
        ("1", "-1024", "int16"),
        ("2", "5", "int16"),
        ("0.5", "0", "float32"),
        ("1", "0.25", "float32"),
    ],
)
def test_slope_and_intercept(tmp_path: Path, slope: str, intercept: str, dtype: str) -> None:
    array = count(2, 3, 4)
    stack(tmp_path, array, RescaleSlope=slope, RescaleIntercept=intercept, BitsStored=12, HighBit=11)
    volume = io.read(tmp_path)
    assert volume.array.dtype == dtype == io.probe(tmp_path).dtype
    np.testing.assert_array_equal(volume.array[0], array * float(slope) + float(intercept))


def test_slope_and_intercept_of_every_slice(tmp_path: Path) -> None:
    array = count(3, 2, 2)
    stack(tmp_path, array, each=[{"RescaleSlope": str(z + 1), "RescaleIntercept": str(10 * z)} for z in range(3)])
    expected = [array[z] * (z + 1) + 10 * z for z in range(3)]
    np.testing.assert_array_equal(io.read(tmp_path).array[0], expected)


def test_sixteen_bits_and_an_intercept_that_do_not_fit_become_wider(tmp_path: Path) -> None:
    array = np.full((2, 2, 2), 65535, np.uint16)
    stack(tmp_path, array, RescaleSlope="1", RescaleIntercept="-1024")
    volume = io.read(tmp_path)
    assert volume.array.dtype == np.int32 and volume.array.max() == 64511


@pytest.mark.parametrize("signed", [False, True])
def test_twelve_bits_with_junk_above_and_below(tmp_path: Path, signed: bool) -> None:
    values = np.array([[[-2048, -1, 0, 2047]]] * 2 if signed else [[[0, 1, 2048, 4095]]] * 2, np.int16)
    for high_bit in (11, 13, 15):
        raw = (values.astype(np.int32) & 0xFFF) << (high_bit - 11)
        junk = 0xFFFF & ~(0xFFF << (high_bit - 11))
        folder = tmp_path / str(high_bit)
        stored = (raw | (junk & 0xA5A5)).astype(np.uint16)
        stack(folder, stored, BitsStored=12, HighBit=high_bit, PixelRepresentation=int(signed))
        np.testing.assert_array_equal(io.read(folder).array[0], values)


def test_an_inverted_display_turns_radiographs_and_not_measurements(tmp_path: Path) -> None:
    array = np.array([[[0, 1], [2, 4095]]], np.uint16)
    tags: dict[str, Any] = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    (radiograph,) = stack(tmp_path / "cr", array, kind="CR", **tags)
    (slice_,) = stack(tmp_path / "ct", array, **tags)
    np.testing.assert_array_equal(io.read(radiograph).array[0, 0], [[4095, 4094], [4093, 0]])
    np.testing.assert_array_equal(io.read(slice_).array[0, 0], array[0])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_syntaxes_without_compression_of_pixels(tmp_path: Path, syntax: str) -> None:
    pixels = count(3, 4, dtype="uint16") + 256
    dataset = picture(pixels)
    if syntax == ExplicitVRBigEndian:
        dataset["PixelData"].value = pixels.astype(">u2").tobytes()
    path = save(dataset, tmp_path / "a.dcm", syntax)
    np.testing.assert_array_equal(io.read(path).array[0, 0], pixels)


def test_run_length_compression(tmp_path: Path) -> None:
    pixels = count(16, 16, dtype="uint16")
    path = save(picture(pixels), tmp_path / "a.dcm")
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    np.testing.assert_array_equal(io.read(path).array[0, 0], pixels)


def test_colour_becomes_channels(tmp_path: Path) -> None:
    pixels = count(2, 3, 3, dtype="uint8")
    path = save(picture(pixels, "CR"), tmp_path / "a.dcm")
    np.testing.assert_array_equal(io.read(path).array, pixels.transpose(2, 0, 1)[:, None])


def test_a_lookup_table_stands_for_slope_and_intercept(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData, table.ModalityLUTType = [4, 0, 16], [10, 20, 40, 80], "US"
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    pixels = np.array([[0, 1], [2, 3]], np.uint16)
    path = save(picture(pixels, "CR", ModalityLUTSequence=[table]), tmp_path / "a.dcm")
    np.testing.assert_array_equal(io.read(path).array[0, 0], [[10, 20], [40, 80]])


# --- several volumes in one series


def test_echoes_on_one_grid_are_channels(tmp_path: Path) -> None:
    array = count(3, 2, 2)
    for echo in (1, 2):
        stack(tmp_path, array * echo, kind="MR", prefix=f"e{echo}_", EchoTime=str(4.5 * echo))
    parts = dicom.find_series(tmp_path)
    assert [part.name for part in parts] == ["echo 4.5", "echo 9"]
    np.testing.assert_array_equal(io.read(tmp_path).array, np.stack([array, array * 2]))
    np.testing.assert_array_equal(dicom.read_series(parts[1]).array[0], array * 2)


@pytest.mark.parametrize(
    ("tag", "values", "names"),
    [
        ("TemporalPositionIdentifier", (1, 2, 3), ["time 1", "time 2", "time 3"]),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), ["M", "P"]),
        ("DiffusionBValue", (0.0, 1000.0), ["b 0", "b 1000"]),
        ("TriggerTime", ("0", "400"), ["trigger 0", "trigger 400"]),
        ("InversionTime", ("100", "900"), ["inversion 100", "inversion 900"]),
    ],
)
def test_what_tells_volumes_of_one_series_apart(
    tmp_path: Path, tag: str, values: tuple[Any, ...], names: list[str]
) -> None:
    for number, value in enumerate(values):
        stack(tmp_path, count(3, 2, 2) + 100 * number, kind="MR", prefix=f"{number}_", **{tag: value})
    parts = dicom.find_series(tmp_path)
    assert [part.name for part in parts] == names
    assert all(part.is_volume and part.size == 3 for part in parts)


def test_repetitions_that_only_instance_numbers_tell_apart(tmp_path: Path) -> None:
    array = count(3, 2, 2)
    for repeat in range(2):
        each = [{"InstanceNumber": 3 * repeat + z + 1} for z in range(3)]
        stack(tmp_path, array + 50 * repeat, kind="MR", prefix=f"{repeat}_", each=each)
    assert [part.name for part in dicom.find_series(tmp_path)] == ["repeat 1", "repeat 2"]
    np.testing.assert_array_equal(io.read(tmp_path).array, [array, array + 50])


def test_planes_of_several_directions_are_told_apart(tmp_path: Path) -> None:
    stack(tmp_path, count(3, 2, 2), prefix="a")
    sagittal = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]
    stack(tmp_path, count(4, 2, 2), prefix="s", step=(1, 0, 0), ImageOrientationPatient=sagittal)
    assert {part.name for part in dicom.find_series(tmp_path)} == {"axial", "sagittal"}
    with pytest.raises(UsageError, match="holds 2 volumes, expected one") as caught:
        io.read(tmp_path)
    one_line(caught.value)


# --- multi-frame


def enhanced(array: np.ndarray, positions: list[list[float]], **elements: Any) -> Dataset:
    dataset = picture(
        array[0], "ENHANCED MR", ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None
    )
    dataset.NumberOfFrames = len(array)
    dataset.PixelData = array.tobytes()
    shared, measures, direction = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [2.0, 0.5], 9.0
    direction.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [direction]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for index, position in enumerate(positions):
        group, place, values = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = position
        values.RescaleSlope, values.RescaleIntercept = "1", str(index)
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [values]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    return dataset


def test_frames_in_any_order(tmp_path: Path) -> None:
    array = count(3, 2, 2)
    path = save(enhanced(array, [[0, 0, 4.0], [0, 0, 0.0], [0, 0, 2.0]]), tmp_path / "mf.dcm")
    volume = io.read(path)
    np.testing.assert_array_equal(volume.array[0], [array[1] + 1, array[2] + 2, array[0]])
    assert volume.geometry.spacing_mm == (2.0, 2.0, 0.5)


def test_frames_without_positions(tmp_path: Path) -> None:
    dataset = picture(count(2, 2), NumberOfFrames=2, PixelData=count(2, 2, 2).tobytes())
    with pytest.raises(GeometryError, match="its frames have no positions") as caught:
        io.read(save(dataset, tmp_path / "mf.dcm"))
    one_line(caught.value)


def test_a_mosaic_with_a_pencil(tmp_path: Path) -> None:
    array = count(3, 2, 4)
    tiles = np.zeros((4, 8), np.int16)  # 2 x 2 tiles, the last one empty
    tiles[:2, :4], tiles[:2, 4:], tiles[2:, :4] = array
    dataset = picture(tiles, "MR", ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"], SpacingBetweenSlices=5.0)
    dataset.ImagePositionPatient = [-4.0, -2.0, 10.0]
    dataset.add_new((0x0019, 0x0010), "LO", "SIEMENS MR HEADER")
    dataset.add_new((0x0019, 0x100A), "US", 3)
    volume = io.read(save(dataset, tmp_path / "m.dcm"))
    np.testing.assert_array_equal(volume.array[0], array)
    # The tile's corner lies half the missing size further in: 2 columns and 1 row of 1 mm.
    np.testing.assert_allclose(volume.geometry.to_mm([0, 0, 0]), [2, 1, 10])
    np.testing.assert_allclose(volume.geometry.to_mm([1, 0, 0]), [2, 1, 15])


# --- tilted and uneven


def ball(shape: tuple[int, int, int], centre: np.ndarray, radius: float, to_mm: Any) -> np.ndarray:
    index = np.moveaxis(np.indices(shape), 0, -1)
    return np.linalg.norm(to_mm(index) - centre, axis=-1) < radius


@pytest.mark.parametrize("degrees", [-20, 14, 30])
def test_a_ball_seen_by_a_tilted_gantry_is_a_ball(tmp_path: Path, degrees: float) -> None:
    angle, shape = math.radians(degrees), (30, 60, 40)
    orientation = [1, 0, 0, 0, math.cos(angle), math.sin(angle)]
    down = np.array(orientation[3:])

    def lps(index: np.ndarray) -> np.ndarray:
        z, y, x = (index[..., axis, None] for axis in range(3))
        return x * np.array([1.0, 0, 0]) + y * down + z * np.array([0, 0, 1.5])

    centre = lps(np.array([15, 30, 20]))
    inside = ball(shape, centre, 12.0, lps)
    stack(tmp_path, (inside * 1000).astype(np.int16), step=(0, 0, 1.5), ImageOrientationPatient=orientation)
    volume = io.read(tmp_path)
    index = np.moveaxis(np.indices(volume.geometry.shape), 0, -1)
    apart = np.linalg.norm(volume.geometry.to_mm(index) * (-1, -1, 1) - centre, axis=-1)
    found = volume.array[0] > 500
    assert found[apart < 11].all() and not found[apart > 13].any()
    assert found.sum() * volume.geometry.voxel_volume_ml == pytest.approx(4 / 3 * math.pi * 12**3 / 1000, rel=0.02)


def test_uneven_slices_are_refused_and_mended_on_request(tmp_path: Path) -> None:
    heights = [0.0, 1.0, 2.0, 4.0, 5.0]
    array = np.stack([np.full((2, 2), round(100 * height), np.int16) for height in heights])
    stack(tmp_path, array, positions=[[0, 0, height] for height in heights])
    with pytest.raises(GeometryError, match=r"1 slice is missing: none at 3 mm .*--fix-spacing") as caught:
        io.read(tmp_path)
    one_line(caught.value)
    volume = dicom.read_series(tmp_path, fix_spacing=True)
    assert volume.geometry.spacing_mm == (1.0, 1.0, 1.0)
    np.testing.assert_allclose(volume.array[0, :, 0, 0], [0, 100, 200, 300, 400, 500])
    channels, geometry, _ = dicom.probe_series(tmp_path, fix_spacing=True)
    assert (channels, geometry) == (1, volume.geometry)


def test_two_different_slices_at_one_place_are_not_mended(tmp_path: Path) -> None:
    stack(tmp_path, count(4, 2, 2), positions=[[0, 0, z] for z in (0, 1, 1, 2)])
    for fix in (False, True):
        with pytest.raises(GeometryError, match="several slices lie at one position"):
            dicom.read_series(tmp_path, fix_spacing=fix)


# --- what is refused, in one line


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"ImagePositionPatient": None}, "3 slices without position; export them again"),
        ({"ImageOrientationPatient": None}, "3 slices without orientation"),
        ({"PixelSpacing": None}, "3 slices without pixel spacing"),
        ({"ImageOrientationPatient": [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]}, "no pair of directions at a right angle"),
    ],
)
def test_slices_whose_place_is_lost(tmp_path: Path, elements: dict[str, Any], message: str) -> None:
    stack(tmp_path, count(3, 2, 2), **elements)
    with pytest.raises(GeometryError, match=message) as caught:
        io.read(tmp_path)
    one_line(caught.value)


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    files = stack(tmp_path, count(3, 8, 8))
    files[1].write_bytes(files[1].read_bytes()[:-10])
    with pytest.raises(FileUnreadableError, match=rf"{files[1].name}: pixels are cut short: expected 128") as caught:
        io.read(tmp_path)
    one_line(caught.value)


def test_a_damaged_file_beside_the_slices_may_be_one_of_them(tmp_path: Path) -> None:
    files = stack(tmp_path, count(3, 8, 8))
    (tmp_path / "zzz.dcm").write_bytes(files[0].read_bytes()[:150])
    with pytest.raises(FileUnreadableError, match=r"1 DICOM files cannot be read and may be .*zzz\.dcm") as caught:
        io.read(tmp_path)
    one_line(caught.value)


def test_two_images_of_one_identity(tmp_path: Path) -> None:
    files = stack(tmp_path, count(2, 2, 2), SOPInstanceUID="1.2.3.4.5")
    with pytest.raises(GeometryError, match="two different images have the same instance UID") as caught:
        io.read(tmp_path)
    one_line(caught.value)
    files[0].unlink()
    (tmp_path / "copy.dcm").write_bytes(files[1].read_bytes())  # a copy of a file is harmless
    assert io.read(tmp_path).array.shape == (1, 1, 2, 2)


def test_a_slice_of_doubles_makes_the_volume_double_in_whatever_order(tmp_path: Path) -> None:
    slopes = [{"RescaleSlope": f"0.{digit}", "RescaleIntercept": "0"} for digit in range(1, 9)]
    files = stack(tmp_path, count(8, 2, 2), each=slopes)
    double = pydicom.dcmread(files[0])
    del double.PixelData
    double.BitsAllocated = double.BitsStored = 64
    double.HighBit = 63
    double.DoubleFloatPixelData = np.array([0.1, 0.2, 0.3, 0.4]).tobytes()
    double.save_as(files[0])
    assert io.read(tmp_path).array.dtype == np.float64


def test_slices_of_two_patients_make_no_volume(tmp_path: Path) -> None:
    files = stack(tmp_path, count(3, 2, 2))
    other = pydicom.dcmread(files[1])
    other.PatientID = "SOMEONE-ELSE"
    other.save_as(files[1])
    with pytest.raises(GeometryError, match="its slices are of 2 patients") as caught:
        io.read(tmp_path)
    one_line(caught.value)
    assert "SOMEONE" not in str(caught.value)
    other.PatientID = ""  # that nobody is named is no contradiction
    other.save_as(files[1])
    assert io.read(tmp_path).array.shape == (1, 3, 2, 2)


def test_localisers_are_left_out_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    array = count(3, 2, 2)
    stack(tmp_path, array)
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesInstanceUID": "1.2.9"}
    stack(tmp_path / "scout", count(1, 9, 9), **scout)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(io.read(tmp_path).array[0], array)
    assert "1 localisers or single images beside the volume are left out" in caplog.text
    with pytest.raises(DataError, match="holds only a localiser"):
        io.read(tmp_path / "scout")


def test_no_scan_at_all(tmp_path: Path) -> None:
    save(instance("SR"), tmp_path / "report.dcm")
    with pytest.raises(DataError, match="holds a report, not an image"):
        io.read(tmp_path)


def test_changed_bytes_never_end_in_anything_but_our_errors(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = save(picture(count(4, 4)), tmp_path / "a.dcm")
    good = path.read_bytes()
    for _ in range(150):
        changed = bytearray(good)
        for position in random.integers(128, len(good), 3):
            changed[position] = random.integers(256)
        path.write_bytes(changed)
        for function in (io.probe, io.read, io.read_labels):
            try:
                function(path)
            except MedsegError as error:
                assert "\n" not in str(error)
