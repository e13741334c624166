"""Reading and writing images: small files by hand, every grid through every format, other readers, hostile files."""

from __future__ import annotations

import gzip
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from examples import geometries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medseg import io
from medseg.errors import (
    DataError,
    FileUnreadableError,
    GeometryError,
    LabelError,
    MedsegError,
    StorageError,
    UsageError,
)
from medseg.volume import Geometry, LabelVolume, Volume

SPATIAL = [".nii", ".nii.gz", ".nrrd", ".mha"]
GRID = Geometry.from_spacing((2, 3, 4), (5.0, 2.0, 1.0), (10.0, 20.0, 30.0))
COUNT = np.arange(24, dtype=np.int16).reshape(2, 3, 4)

fixtures_are_fine = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def save_nifti(path: Path, array_xyz: np.ndarray, affine: np.ndarray | None = None, **fields: object) -> Path:
    """Write with nibabel an array (X, Y, Z, ...), with header fields changed afterwards."""
    image = nib.Nifti1Image(array_xyz, np.eye(4) if affine is None else affine)
    nib.save(image, path)
    if fields:
        with path.open("r+b") as file:
            header = nib.Nifti1Header(file.read(348), check=False)
            for name, value in fields.items():
                header[name] = value
            file.seek(0)
            file.write(header.binaryblock)
    return path


def unit_grid(z: int, y: int, x: int) -> Geometry:
    """Voxels of 1 mm."""
    return Geometry.from_spacing((z, y, x), (1.0, 1.0, 1.0))


# --- by hand


def test_a_nifti_by_hand(tmp_path: Path) -> None:
    # x runs along the first axis of the file, z along the last; 1 x 2 x 5 mm.
    array = np.zeros((4, 3, 2), np.int16)
    array[3, 2, 1] = 7
    affine = np.diag([1.0, 2.0, 5.0, 1.0])
    affine[:3, 3] = 10, 20, 30
    volume = io.read(save_nifti(tmp_path / "a.nii.gz", array, affine))
    assert volume.array.shape == (1, 2, 3, 4)
    assert volume.array.dtype == np.int16
    assert np.argwhere(volume.array).tolist() == [[0, 1, 2, 3]]
    assert volume.geometry == GRID
    assert volume.geometry.to_mm([1, 2, 3]).tolist() == [13.0, 24.0, 35.0]


def test_channels_along_the_fourth_axis_or_in_files(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5)
    together = io.read(save_nifti(tmp_path / "all.nii", array))
    assert together.array.shape == (5, 4, 3, 2)
    assert together.array[2, 3, 1, 0] == array[0, 1, 3, 2]
    files = [save_nifti(tmp_path / f"{channel}.nii", array[..., channel]) for channel in range(5)]
    apart = io.read(files, channels=5)
    assert np.array_equal(apart.array, together.array)
    assert io.probe(files) == io.probe(tmp_path / "all.nii") == io.Header(5, together.geometry, np.dtype(np.int16))
    with pytest.raises(DataError, match=r"all\.nii: expected 2 channels, found 5"):
        io.read(tmp_path / "all.nii", channels=2)
    with pytest.raises(UsageError, match="no file was given"):
        io.read([])


def test_channels_of_different_types_become_float32(tmp_path: Path) -> None:
    one = save_nifti(tmp_path / "one.nii", np.full((2, 2, 2), 300, np.int16))
    two = save_nifti(tmp_path / "two.nii", np.full((2, 2, 2), 7, np.uint8))
    assert io.read([one, two]).array.dtype == io.probe([one, two]).dtype == np.float32
    assert io.read([one, one]).array.dtype == np.int16


def test_channels_on_different_grids_name_both_files(tmp_path: Path) -> None:
    one = save_nifti(tmp_path / "one.nii", COUNT)
    two = save_nifti(tmp_path / "two.nii", COUNT, np.diag([1.0, 1.0, 2.0, 1.0]))
    for function in (io.read, io.probe):
        with pytest.raises(GeometryError, match=r"one\.nii and .*two\.nii lie on different grids"):
            function([one, two])


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, -1024.0), (2.5, 0.0), (0.1, 0.3)])
def test_scaled_values_are_float32(tmp_path: Path, slope: float, intercept: float) -> None:
    path = save_nifti(tmp_path / "a.nii", COUNT.T, scl_slope=slope, scl_inter=intercept)
    volume = io.read(path)
    assert volume.array.dtype == io.probe(path).dtype == np.float32
    expected = COUNT * np.float64(np.float32(slope)) + np.float64(np.float32(intercept))
    assert np.array_equal(volume.array[0], expected.astype(np.float32))


@pytest.mark.parametrize(("slope", "intercept"), [(0.0, 5.0), (np.nan, np.nan), (1.0, 0.0)])
def test_no_scaling_keeps_integers(tmp_path: Path, slope: float, intercept: float) -> None:
    volume = io.read(save_nifti(tmp_path / "a.nii", COUNT.T, scl_slope=slope, scl_inter=intercept))
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array[0], COUNT)


@pytest.mark.parametrize(("unit", "millimetres"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0), (10, 1.0)])
def test_units_of_length(tmp_path: Path, unit: int, millimetres: float) -> None:
    geometry = io.read(save_nifti(tmp_path / "a.nii", COUNT, xyzt_units=unit)).geometry
    assert geometry.spacing_mm == pytest.approx((millimetres,) * 3)


def test_which_form_places_the_grid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.nii"
    image = nib.Nifti1Image(COUNT.T, None)
    image.set_qform(np.diag([-1.0, 1.0, 1.0, 1.0]), code=1)
    image.set_sform(np.diag([2.0, 2.0, 2.0, 1.0]), code=2)
    nib.save(image, path)
    assert io.read(path).geometry.orientation == "RAS"
    save_nifti(path, COUNT.T, sform_code=0, qform_code=1, pixdim=[-1, 1, 2, 5, 0, 0, 0, 0])
    assert io.read(path).geometry.orientation == "RAI"
    # pixdim[0] other than 1 and -1 stands for 1; signs of sizes mean nothing.
    save_nifti(path, COUNT.T, sform_code=0, qform_code=1, pixdim=[0, -1, 2, 5, 0, 0, 0, 0])
    assert io.read(path).geometry.orientation == "RAS"
    assert not caplog.records
    save_nifti(path, COUNT.T, sform_code=0, qform_code=0, pixdim=[1, 1, 2, 5, 0, 0, 0, 0])
    with caplog.at_level(logging.WARNING):
        grid = io.read(path).geometry
    assert (grid.orientation, grid.spacing_mm) == ("LAS", (5.0, 2.0, 1.0))
    assert "left and right are not known" in caplog.text
    np.testing.assert_allclose(grid.affine[:, [2, 1, 0, 3]], nib.load(path).affine)


@pytest.mark.parametrize(
    ("sizes", "shape"), [((4, 3), (1, 1, 3, 4)), ((4,), (1, 1, 1, 4)), ((4, 3, 2, 1, 1), (1, 2, 3, 4))]
)
def test_few_axes_and_trailing_ones(tmp_path: Path, sizes: tuple[int, ...], shape: tuple[int, ...]) -> None:
    assert io.read(save_nifti(tmp_path / "a.nii", np.zeros(sizes, np.uint8))).array.shape == shape


def test_pairs_nifti_2_and_big_endian(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(COUNT.T, GRID.affine[:, [2, 1, 0, 3]]), tmp_path / "pair.img")
    big = nib.Nifti1Header(endianness=">")
    big.set_data_dtype(np.int16)
    nib.save(nib.Nifti1Image(COUNT.T, GRID.affine[:, [2, 1, 0, 3]], big), tmp_path / "big.nii")
    nib.save(nib.Nifti2Image(COUNT.T, GRID.affine[:, [2, 1, 0, 3]]), tmp_path / "two.nii.gz")
    for name in ("pair.img", "pair.hdr", "big.nii", "two.nii.gz"):
        volume = io.read(tmp_path / name)
        assert volume.array.dtype == np.int16
        assert np.array_equal(volume.array[0], COUNT)
        assert volume.geometry == GRID
        assert volume.array.dtype.isnative
    assert nib.load(tmp_path / "big.nii").header.endianness == ">"
    (tmp_path / "pair.hdr").unlink()
    with pytest.raises(FileUnreadableError, match=r"pair\.img: voxels without a header: pair\.hdr is not beside it"):
        io.read(tmp_path / "pair.img")


# --- there and back


@st.composite
def masks(draw: st.DrawFn) -> LabelVolume:
    """Masks of any integer type on any grid."""
    grid = draw(geometries())
    dtype = draw(st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32]))
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    values = draw(st.lists(st.integers(low, high), min_size=1, max_size=5))
    chosen = np.random.default_rng(draw(st.integers(0, 99))).choice(np.array(values, dtype), grid.shape)
    return LabelVolume(chosen, grid)


@pytest.mark.parametrize("ending", SPATIAL)
@fixtures_are_fine
@given(mask=masks())
def test_masks_come_back(tmp_path: Path, ending: str, mask: LabelVolume) -> None:
    path = tmp_path / f"mask{ending}"
    io.write(mask, path)
    back = io.read_labels(path)
    assert back.array.dtype == mask.array.dtype
    assert np.array_equal(back.array, mask.array)
    assert back.geometry.distance_voxels(mask.geometry) < 1e-3
    assert io.probe(path) == io.Header(1, back.geometry, back.array.dtype)


@pytest.mark.parametrize("ending", SPATIAL)
@fixtures_are_fine
@given(
    grid=geometries(), channels=st.integers(1, 3), dtype=st.sampled_from([np.float32, np.float64, np.int16, np.uint8])
)
def test_images_come_back(ending: str, tmp_path: Path, grid: Geometry, channels: int, dtype: type) -> None:
    array = np.random.default_rng(0).normal(50, 9, (channels, *grid.shape)).astype(dtype)
    io.write(Volume(array, grid), tmp_path / f"image{ending}")
    back = io.read(tmp_path / f"image{ending}")
    assert back.array.dtype == dtype
    assert np.array_equal(back.array, array)
    assert back.geometry.distance_voxels(grid) < 1e-3
    assert io.probe(tmp_path / f"image{ending}") == io.Header(channels, back.geometry, back.array.dtype)


@pytest.mark.parametrize("ending", SPATIAL)
@fixtures_are_fine
@given(mask=masks())
def test_other_readers_see_the_same_voxel_in_the_same_place(tmp_path: Path, ending: str, mask: LabelVolume) -> None:
    path = tmp_path / f"mask{ending}"
    io.write(mask, path)
    grid = io.read(path).geometry
    z, y, x = corner = tuple(size - 1 for size in grid.shape)
    place = grid.to_mm(corner)
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(np.array(image.TransformIndexToPhysicalPoint((x, y, z))) * (-1, -1, 1), place, atol=1e-3)
    assert image.GetPixel((x, y, z)) == mask.array[corner]
    if ending.startswith(".nii"):
        other = nib.load(path)
        np.testing.assert_allclose(other.affine @ [x, y, z, 1], [*place, 1], atol=1e-3)
        assert int(other.header["sform_code"]) == 1
        if other.header["qform_code"]:
            np.testing.assert_allclose(other.get_qform() @ [x, y, z, 1], [*place, 1], atol=0.2)
        assert other.header.get_xyzt_units()[0] == "mm"
        assert np.asarray(other.dataobj)[x, y, z] == mask.array[corner]


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii.gz"])
@fixtures_are_fine
@given(mask=masks())
def test_files_of_simpleitk_are_read_like_simpleitk_does(tmp_path: Path, ending: str, mask: LabelVolume) -> None:
    image = sitk.GetImageFromArray(mask.array)
    image.SetSpacing(mask.geometry.spacing_mm[::-1])
    directions = mask.geometry.affine[:3, [2, 1, 0]] / np.array(mask.geometry.spacing_mm[::-1])
    image.SetDirection(directions.ravel().tolist())
    image.SetOrigin(mask.geometry.affine[:3, 3].tolist())
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    back = io.read_labels(tmp_path / f"a{ending}")
    assert np.array_equal(back.array, mask.array)
    z, y, x = corner = tuple(size - 1 for size in mask.geometry.shape)
    place = np.array(image.TransformIndexToPhysicalPoint((x, y, z))) * (-1, -1, 1)
    np.testing.assert_allclose(back.geometry.to_mm(corner), place, atol=1e-3)


@pytest.mark.parametrize("ending", SPATIAL)
def test_a_mask_like_its_scan_carries_the_same_numbers(tmp_path: Path, ending: str) -> None:
    # A third of a millimetre and a rotation that no short decimal holds.
    cosine, sine = np.cos(0.3), np.sin(0.3)
    image = sitk.GetImageFromArray(COUNT)
    image.SetSpacing((1 / 3, 0.7, 2.2))
    image.SetDirection((cosine, -sine, 0, sine, cosine, 0, 0, 0, 1))
    image.SetOrigin((100 / 3, -1 / 7, 5))
    scan, made = tmp_path / f"scan{ending}", tmp_path / f"mask{ending}"
    sitk.WriteImage(image, str(scan))
    io.write(LabelVolume(COUNT.astype(np.uint8), io.read(scan).geometry), made, like=scan)
    again = sitk.ReadImage(str(made))
    source = sitk.ReadImage(str(scan))
    assert again.GetOrigin() == source.GetOrigin()
    assert again.GetSpacing() == source.GetSpacing()
    assert again.GetDirection() == source.GetDirection()
    assert io.read(made).geometry == io.read(scan).geometry


@pytest.mark.parametrize(
    "name",
    [
        "hostile/derived/qform_sform_disagree.nii.gz",
        "hostile/derived/no_qform_no_sform.nii.gz",
        "hostile/derived/pixdim_zero.nii.gz",
        "hostile/nifti/nibabel/anatomical.nii",
        "hostile/nifti/nibabel/example_nifti2.nii.gz",
        "hostile/nifti/nifti-reader-js/air.hdr.gz",
        "spinal_cord_mr/t2/t2.nii.gz",
        "openkbp_ct_oar/imagesTr/openkbp_001.nii.gz",
        "sts_mr_ct/imagesTr/STS_002_0000.nii.gz",
    ],
)
def test_a_mask_like_a_real_nifti(tmp_path: Path, shared: Path, name: str) -> None:
    path = shared / "data" / name
    geometry = io.probe(path).geometry
    io.write(LabelVolume(np.ones(geometry.shape, np.uint8), geometry), tmp_path / "mask.nii.gz", like=path)
    made, source = nib.load(tmp_path / "mask.nii.gz"), nib.load(path)
    assert np.array_equal(made.affine, source.affine)
    assert made.shape == source.shape[:3]
    for field in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "qoffset_x", "quatern_b", "quatern_d"):
        assert np.array_equal(made.header[field], source.header[field]), field
    assert np.array_equal(made.header["pixdim"][:4], source.header["pixdim"][:4])
    assert made.get_data_dtype() == np.uint8
    assert io.read(tmp_path / "mask.nii.gz").geometry == geometry


def test_a_mask_like_a_nifti_2_in_micrometres(tmp_path: Path) -> None:
    # A third needs double precision, which only NIfTI-2 stores.
    scan = nib.Nifti2Image(COUNT.T, np.diag([1000 / 3, 2000, 5000, 1]))
    scan.header.set_xyzt_units("micron", "sec")
    nib.save(scan, tmp_path / "scan.nii")
    geometry = io.read(tmp_path / "scan.nii").geometry
    assert geometry.spacing_mm == pytest.approx((5, 2, 1 / 3))
    io.write(LabelVolume(COUNT, geometry), tmp_path / "mask.nii.gz", like=tmp_path / "scan.nii")
    assert np.array_equal(nib.load(tmp_path / "mask.nii.gz").affine, scan.affine)
    assert io.read(tmp_path / "mask.nii.gz").geometry == geometry


@pytest.mark.parametrize("ending", SPATIAL)
def test_a_mask_of_a_flat_scan_is_flat(tmp_path: Path, ending: str) -> None:
    scan, mask = tmp_path / f"scan{ending}", tmp_path / f"mask{ending}"
    image = sitk.GetImageFromArray(np.arange(12, dtype=np.int16).reshape(3, 4))
    image.SetSpacing((0.5, 0.7))
    image.SetDirection((0, 1, -1, 0))
    sitk.WriteImage(image, str(scan))
    volume = io.read(scan)
    io.write(LabelVolume(np.ones((1, 3, 4), np.uint8), volume.geometry), mask, like=scan)
    written, source = sitk.ReadImage(str(mask)), sitk.ReadImage(str(scan))
    for what in ("GetSize", "GetSpacing", "GetDirection", "GetOrigin"):
        assert getattr(written, what)() == getattr(source, what)(), what
    assert io.read_labels(mask).geometry == volume.geometry


def test_signs_of_voxel_sizes_are_copied_too(tmp_path: Path) -> None:
    """Readers disagree about them, so each must find the same in scan and mask."""
    scan = save_nifti(tmp_path / "scan.nii", COUNT.T, np.diag([1, 2, 3, 1]), pixdim=[1, -1, -2, -3, 0, 0, 0, 0])
    io.write(LabelVolume(COUNT, io.read(scan).geometry), tmp_path / "mask.nii", like=scan)
    one, other = (sitk.ReadImage(str(path)) for path in (scan, tmp_path / "mask.nii"))
    assert (one.GetDirection(), one.GetSpacing()) == (other.GetDirection(), other.GetSpacing())


def test_a_mask_like_a_metaimage_of_negative_spacing(tmp_path: Path) -> None:
    scan = tmp_path / "scan.mha"
    io.write(Volume(COUNT[None], GRID), scan)
    scan.write_bytes(scan.read_bytes().replace(b"ElementSpacing = 1 2 5", b"ElementSpacing = -1 2 5"))
    geometry = io.read(scan).geometry
    io.write(LabelVolume(COUNT, geometry), tmp_path / "mask.mha", like=scan)
    assert io.read_labels(tmp_path / "mask.mha").geometry.distance_voxels(geometry) < 1e-6


def test_a_mask_like_a_flat_metaimage_of_negative_spacing(tmp_path: Path) -> None:
    scan = tmp_path / "scan.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4), np.int16)), str(scan))
    scan.write_bytes(scan.read_bytes().replace(b"ElementSpacing = 1 1", b"ElementSpacing = -1 1"))
    geometry = io.read(scan).geometry
    io.write(LabelVolume(np.ones((1, 3, 4), np.uint8), geometry), tmp_path / "mask.mha", like=scan)
    assert io.read_labels(tmp_path / "mask.mha").geometry.distance_voxels(geometry) < 1e-6


def test_a_mask_that_does_not_lie_on_the_grid_of_its_scan(tmp_path: Path) -> None:
    scan = save_nifti(tmp_path / "scan.nii", COUNT)
    with pytest.raises(GeometryError, match=r"the mask to write and .*scan\.nii lie on different grids"):
        io.write(LabelVolume(COUNT, GRID), tmp_path / "mask.nii", like=scan)
    assert not (tmp_path / "mask.nii").exists()


def test_a_mask_like_a_scan_of_another_format(tmp_path: Path) -> None:
    io.write(Volume(COUNT[None], GRID), tmp_path / "scan.nrrd")
    io.write(LabelVolume(COUNT, GRID), tmp_path / "mask.nii.gz", like=tmp_path / "scan.nrrd")
    assert io.read(tmp_path / "mask.nii.gz").geometry == GRID


@pytest.mark.parametrize("ending", SPATIAL)
def test_the_same_mask_gives_the_same_bytes(tmp_path: Path, ending: str) -> None:
    mask = LabelVolume(COUNT.astype(np.uint8), GRID)
    io.write(mask, tmp_path / f"a{ending}")
    io.write(mask, tmp_path / f"b{ending}")
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{ending}", f"b{ending}"]
    if ending == ".nii.gz":
        assert (tmp_path / "a.nii.gz").read_bytes()[4:8] == b"\0\0\0\0"  # where gzip keeps the time


@pytest.mark.parametrize("ending", [*SPATIAL, ".tif"])
def test_masks_of_64_bits_shrink(tmp_path: Path, ending: str) -> None:
    for values, dtype in (([0, 5], np.uint8), ([0, 300], np.uint16), ([-2, 5], np.int16), ([-2, 70_000], np.int32)):
        io.write(
            LabelVolume(np.array([[values]], np.int64), Geometry.from_spacing((1, 1, 2), (1, 1, 1))),
            tmp_path / f"a{ending}",
        )
        back = io.read_labels(tmp_path / f"a{ending}")
        assert (back.array.dtype, back.array.tolist()) == (dtype, [[values]])


@pytest.mark.parametrize("name", ["a.dcm", "a.jpg", "a.mhd", "a.nii.bz2", "a", ".nii.gz"])
def test_endings_that_are_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="this ending is not written; use"):
        io.write(LabelVolume(COUNT, GRID), tmp_path / name)


def test_nowhere_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for ending in SPATIAL:
        with pytest.raises(StorageError, match="cannot write"):
            io.write(LabelVolume(COUNT, GRID), tmp_path / "file" / f"a{ending}")
    assert LabelVolume(COUNT, GRID).save(tmp_path / "new" / "a.nii.gz") is None
    assert (tmp_path / "new" / "a.nii.gz").is_file()


def test_a_qform_only_where_quaternions_can_say_it(tmp_path: Path) -> None:
    for tilt, code in ((0.0, 1), (0.3, 1), (5e-4, 0)):
        affine = Geometry.from_spacing((1, 100, 100), (1, 1, 1)).affine.copy()
        cosine, sine = -np.cos(tilt), -np.sin(tilt)  # half a circle and a little more about z
        affine[:2, 1:3] = [[-sine, cosine], [cosine, sine]]
        grid = Geometry((1, 100, 100), affine)
        io.write(LabelVolume(np.zeros(grid.shape, np.uint8), grid), tmp_path / "a.nii")
        header = nib.load(tmp_path / "a.nii").header
        assert (int(header["qform_code"]), int(header["sform_code"])) == (code, 1), tilt
        assert io.probe(tmp_path / "a.nii").geometry.distance_voxels(grid) < 1e-3


# --- pictures


def test_pictures_by_hand(tmp_path: Path) -> None:
    colours = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for ending in ("png", "bmp", "tif"):
        Image.fromarray(colours).save(tmp_path / f"a.{ending}")
        volume = io.read(tmp_path / f"a.{ending}")
        assert volume.array.shape == (3, 1, 2, 3)
        assert np.array_equal(volume.array[:, 0], colours.transpose(2, 0, 1))
        assert volume.geometry == Geometry.from_spacing((1, 2, 3), (1.0, 1.0, 1.0))
        assert io.probe(tmp_path / f"a.{ending}") == io.Header(3, volume.geometry, np.dtype(np.uint8))
    Image.fromarray(colours).save(tmp_path / "a.jpg")
    assert io.read(tmp_path / "a.jpg").array.shape == (3, 1, 2, 3)


def test_alpha_is_dropped_where_it_says_nothing(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    pixels[0, 0, 3] = 7
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    assert io.read(tmp_path / "opaque.png").channels == 3
    assert io.read(tmp_path / "clear.png").channels == 4
    Image.fromarray(pixels[..., 2:]).save(tmp_path / "grey.png")
    assert io.read(tmp_path / "grey.png").channels == 2
    pixels[..., 3] = 255
    Image.fromarray(pixels[..., 2:]).save(tmp_path / "grey.png")
    assert io.read(tmp_path / "grey.png").channels == 1


def test_grey_counts_as_colour_where_that_is_expected(tmp_path: Path) -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "colour.png")
    assert io.read(tmp_path / "grey.png").channels == 1
    assert io.read(tmp_path / "colour.png").channels == 3
    for name in ("grey", "colour"):
        for channels in (1, 3):
            read = io.read(tmp_path / f"{name}.png", channels=channels)
            assert np.array_equal(read.array, np.stack([grey[None]] * channels))
    with pytest.raises(DataError, match="expected 2 channels, found 1"):
        io.read(tmp_path / "grey.png", channels=2)
    # One channel of a scan is not three.
    with pytest.raises(DataError, match="expected 3 channels, found 1"):
        io.read(save_nifti(tmp_path / "a.nii", grey), channels=3)


def test_sixteen_bits(tmp_path: Path) -> None:
    grey = np.array([[0, 300, 65535]], np.uint16)
    colour = np.arange(0, 60000, 5000, dtype=np.uint16).reshape(2, 2, 3)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    sitk.WriteImage(sitk.GetImageFromArray(colour, isVector=True), str(tmp_path / "colour.png"))
    tifffile.imwrite(tmp_path / "colour.tif", colour, photometric="rgb")
    assert io.read(tmp_path / "grey.png").array.tolist() == [[grey.tolist()]]
    for ending in ("png", "tif"):
        assert np.array_equal(io.read(tmp_path / f"colour.{ending}").array[:, 0], colour.transpose(2, 0, 1))


def test_a_palette_gives_colours_or_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "a.png")
    assert io.read(tmp_path / "a.png").array[:, 0, 0].T.tolist() == [[0, 0, 0], [255, 0, 0], [0, 255, 0]]
    assert io.read_labels(tmp_path / "a.png").array.tolist() == [[[0, 1, 2]]]


def test_a_picture_of_one_bit_is_a_mask_of_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert io.read_labels(tmp_path / "a.png").array.tolist() == [[[1, 0]]]


@pytest.mark.parametrize("compression", [None, "lzw", "tiff_adobe_deflate"])
def test_pages_of_a_tiff_are_slices(tmp_path: Path, compression: str | None) -> None:
    pages = [Image.fromarray((np.arange(6) + 10 * page).astype(np.uint8).reshape(2, 3)) for page in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression=compression)
    volume = io.read(tmp_path / "a.tif")
    assert volume.array.shape == (1, 4, 2, 3)
    assert volume.array[0, 3, 1, 2] == 35


def test_tiff_axes(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    tifffile.imwrite(tmp_path / "a.ome.tif", array, metadata={"axes": "ZCYX"}, photometric="minisblack")
    assert np.array_equal(io.read(tmp_path / "a.ome.tif").array, array.swapaxes(0, 1))
    tifffile.imwrite(tmp_path / "b.ome.tif", array, metadata={"axes": "TZYX"}, photometric="minisblack")
    with pytest.raises(GeometryError, match=r"b\.ome\.tif: TIFF axes TZYX"):
        io.read(tmp_path / "b.ome.tif")


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_picture_masks_come_back(tmp_path: Path, ending: str, dtype: type) -> None:
    mask = LabelVolume(np.array([[[0, 1], [255, np.iinfo(dtype).max]]], dtype), unit_grid(1, 2, 2))
    io.write(mask, tmp_path / f"a{ending}")
    back = io.read_labels(tmp_path / f"a{ending}")
    assert back.array.dtype == dtype
    assert np.array_equal(back.array, mask.array)


def test_picture_images_come_back(tmp_path: Path) -> None:
    colours = Volume(np.arange(18, dtype=np.uint8).reshape(3, 1, 2, 3), unit_grid(1, 2, 3))
    for ending in (".png", ".tif"):
        io.write(colours, tmp_path / f"a{ending}")
        assert np.array_equal(io.read(tmp_path / f"a{ending}").array, colours.array)
    stack = LabelVolume(COUNT, GRID)
    io.write(stack, tmp_path / "stack.tif")
    assert np.array_equal(io.read_labels(tmp_path / "stack.tif").array, COUNT)


@pytest.mark.parametrize(
    ("image", "name", "message"),
    [
        (LabelVolume(COUNT, GRID), "a.png", r"a\.png: a PNG holds one slice, found 2"),
        (
            LabelVolume(np.array([[[-1]]]), unit_grid(1, 1, 1)),
            "a.png",
            "do not fit into uint8",
        ),
        (LabelVolume(np.array([[[70000]]]), unit_grid(1, 1, 1)), "a.png", "do not fit"),
        (Volume(np.zeros((1, 1, 1, 1)), unit_grid(1, 1, 1)), "a.png", "holds integers"),
        (
            Volume(np.zeros((2, 1, 1, 1)), unit_grid(1, 1, 1)),
            "a.tif",
            "1 or 3 channels, found 2",
        ),
        (Volume(np.zeros((1, 1, 1, 1), complex), unit_grid(1, 1, 1)), "a.nii", "complex"),
    ],
)
def test_pictures_that_cannot_be(tmp_path: Path, image: Volume | LabelVolume, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        io.write(image, tmp_path / name)
    assert not list(tmp_path.iterdir())


# --- masks as they are stored


@pytest.mark.parametrize(
    ("stored", "values", "dtype"),
    [
        (np.array([0.0, 1.0, 2.0], np.float32), [0, 1, 2], np.uint8),
        (np.array([0.0, 0.99999997, 2.0009]), [0, 1, 2], np.uint8),
        (np.array([0.0, 300.0]), [0, 300], np.uint16),
        (np.array([-1.0, 2.0]), [-1, 2], np.int16),
        (np.array([0, 7], np.int64), [0, 7], np.int64),
    ],
)
def test_masks_hold_integers(tmp_path: Path, stored: np.ndarray, values: list[int], dtype: type) -> None:
    image = nib.Nifti1Image(stored.reshape(-1, 1, 1), np.eye(4), dtype=stored.dtype)
    nib.save(image, tmp_path / "a.nii")
    mask = io.read_labels(tmp_path / "a.nii")
    assert (mask.array.ravel().tolist(), mask.array.dtype) == (values, dtype)


@pytest.mark.parametrize("strange", [0.5, 1.002, np.nan, np.inf, -np.inf])
def test_masks_that_hold_no_integers(tmp_path: Path, strange: float) -> None:
    path = save_nifti(tmp_path / "a.nii", np.array([0.0, 1.0, strange], np.float32).reshape(3, 1, 1))
    with pytest.raises(LabelError, match=r"a\.nii: a mask holds integers, found 1 voxels that are none, such as "):
        io.read_labels(path)


def test_masks_with_several_channels(tmp_path: Path) -> None:
    same = np.stack([COUNT] * 3, axis=-1)
    assert np.array_equal(io.read_labels(save_nifti(tmp_path / "a.nii", same)).array, COUNT.T)
    same[0, 0, 0, 2] = 9
    with pytest.raises(LabelError, match="a mask has one channel, found 3"):
        io.read_labels(save_nifti(tmp_path / "a.nii", same))


# --- names


@pytest.mark.parametrize(
    ("path", "name", "ending"),
    [
        ("a/liver_1.nii.gz", "liver_1", ".nii.gz"),
        ("liver.1.NII.GZ", "liver.1", ".nii.gz"),
        ("x.mha", "x", ".mha"),
        ("x.ome.tif", "x.ome", ".tif"),
        ("x.tar.gz", "x.tar.gz", None),
        (".nii.gz", ".nii.gz", None),
        ("x", "x", None),
    ],
)
def test_names(path: str, name: str, ending: str | None) -> None:
    assert io.name_of(path) == name
    assert io.ending_of(path) == ending


def test_which_names_are_images() -> None:
    assert [
        name for name in ("a.nii", ".a.nii", "_a.nii", "a.img", "a.hdr", "a.txt", "a.PNG") if io.is_image_name(name)
    ] == [
        "a.nii",
        "a.hdr",
        "a.PNG",
    ]


@pytest.mark.parametrize("ending", io.ENDINGS)
def test_the_ending_of_a_mask_is_written(tmp_path: Path, ending: str) -> None:
    chosen = io.mask_ending(f"a{ending}")
    io.write(LabelVolume(COUNT[:1], unit_grid(1, 3, 4)), tmp_path / f"a{chosen}")
    assert io.ending_of(f"a{chosen}") == chosen
    assert chosen == ending or ending not in (".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".tif")


# --- what is refused, in one line that names the file


def one_line(error: BaseException, path: Path) -> str:
    """The message, which names the file and has no second line."""
    text = str(error)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for function in (io.read, io.read_labels, io.probe):
        with pytest.raises(FileUnreadableError, match="no such file") as caught:
            function(tmp_path / "a.nii.gz")
        one_line(caught.value, tmp_path / "a.nii.gz")
        with pytest.raises(FileUnreadableError, match="is a folder; give a file"):
            function(tmp_path)
    (tmp_path / "scan.dcm").write_bytes(b"")
    with pytest.raises(FileUnreadableError, match=r"scan\.dcm is named \.dcm, but its content is not DICOM"):
        io.read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to the superuser")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", COUNT)
    path.chmod(0)
    with pytest.raises(FileUnreadableError, match=r"a\.nii: cannot be read: Permission denied"):
        io.read(path)


def test_a_file_that_the_system_does_not_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_nifti(tmp_path / "a.nii", COUNT)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(FileUnreadableError, match=r"a\.nii: cannot be read: Permission denied"):
        io.read(path)


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _without_last(content: bytes) -> bytes:
    return content[:-1]


def _flipped(content: bytes) -> bytes:
    middle = len(content) * 3 // 4
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [_half, _without_last])
@pytest.mark.parametrize("ending", [*SPATIAL, ".png", ".tif", ".bmp", ".mgz"])
def test_files_cut_short(
    tmp_path: Path, ending: str, damage: Callable[[bytes], bytes], capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / f"a{ending}"
    array = np.random.default_rng(0).integers(0, 200, (1, 1, 30, 30), dtype=np.uint8)
    if ending == ".mgz":
        nib.save(nib.MGHImage(array[0].T, np.eye(4)), path)
    elif ending == ".bmp":
        Image.fromarray(array[0, 0]).save(path)
    else:
        io.write(Volume(array, unit_grid(1, 30, 30)), path)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    if ending in (".nrrd", ".png", ".tif", ".mgz", ".bmp") and damage is _without_last:
        return  # nothing but the end mark is lost
    with pytest.raises(FileUnreadableError) as caught:
        io.read(path)
    one_line(caught.value, path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".png"])
def test_damaged_bits_are_noticed(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    array = np.random.default_rng(0).integers(0, 200, (1, 1, 60, 60), dtype=np.uint8)
    io.write(Volume(array, unit_grid(1, 60, 60)), path)
    path.write_bytes(_flipped(path.read_bytes()))
    with pytest.raises(FileUnreadableError) as caught:
        io.read(path)
    one_line(caught.value, path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": [9, 4, 3, 2, 1, 1, 1, 1]}, "claims 9 axes"),
        ({"dim": [0, 4, 3, 2, 1, 1, 1, 1]}, "claims 0 axes"),
        ({"dim": [3, 4, 3, 0, 1, 1, 1, 1]}, "positive"),
        ({"dim": [3, 4, -3, 2, 1, 1, 1, 1]}, "positive"),
        ({"dim": [5, 4, 3, 1, 1, 2, 1, 1]}, "5 axes"),
        ({"vox_offset": np.nan}, "makes no sense"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "cut short|too large"),
        ({"datatype": 4096}, "makes no sense"),
        ({"datatype": 128, "bitpix": 24}, "expected integers or real numbers"),
        ({"datatype": 32, "bitpix": 64}, "expected integers or real numbers"),
        ({"scl_slope": 2.0, "scl_inter": np.inf}, "makes no sense"),
        ({"srow_x": [0, 0, 0, 0]}, "must be positive"),
        ({"srow_x": [1, 0.5, 0, 0]}, "sheared"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "finite"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 3.0}, "makes no sense|finite|sheared"),
        ({"sform_code": 0, "qform_code": 1, "pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, "must be positive"),
        ({"intent_code": 3001}, "CIFTI"),
        ({"magic": b"abc"}, "ANALYZE"),
        ({"sizeof_hdr": 0, "magic": b"abc"}, "is not NIfTI"),
    ],
)
def test_headers_that_make_no_sense(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    path = save_nifti(tmp_path / "a.nii", COUNT.T, **fields)
    with pytest.raises((FileUnreadableError, GeometryError), match=message) as caught:
        io.read(path)
    one_line(caught.value, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"NRRD0004\nnonsense\n\n", "makes no sense"),
        (b"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\nendian: little\n\nabc", "cannot be read"),
        (b"\x89PNG\r\n\x1a\nabc", "picture cannot be read"),
        (b"\x1f\x8b\x08abc", "gzip stream"),
        (b"some text", "is not NIfTI, NRRD"),
        (b"\x89HDF\r\n\x1a\n", "MINC"),
        (b"\0" * 128 + b"DICM", "ends before any pixels"),
        (b"II*\0" + b"\0" * 124 + b"DICM", "ends before any pixels"),
    ],
)
def test_contents_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    for function in (io.read, io.read_labels):
        with pytest.raises(MedsegError, match=message) as caught:
            function(path)
        one_line(caught.value, path)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_metaimages_that_are_refused(tmp_path: Path, name: str, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / name
    text = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = {}\nElementDataFile = none.raw\n"
    path.write_text(text.format("MET_UCHAR"))
    with pytest.raises(FileUnreadableError, match=r"none\.raw is not beside it") as caught:
        io.read(path)
    one_line(caught.value, path)
    assert capfd.readouterr().err == ""
    path.write_text(text.format("MET_SHORT").replace("DimSize", "TransformMatrix = 1 0.5 0 0 1 0 0 0 1\nDimSize"))
    with pytest.raises(GeometryError, match="sheared"):
        io.probe(path)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_metaimages_cut_short(tmp_path: Path, name: str, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / name
    sitk.WriteImage(sitk.GetImageFromArray(COUNT), str(path))
    voxels = path if name == "a.mha" else tmp_path / "a.raw"
    voxels.write_bytes(voxels.read_bytes()[:-5])
    with pytest.raises(FileUnreadableError, match=r"cut short: expected 48 bytes.*, found 43") as caught:
        io.read(path)
    one_line(caught.value, path)
    assert capfd.readouterr().err == ""


def test_require_finite(tmp_path: Path) -> None:
    array = np.zeros((1, 2, 3, 4), np.float32)
    io.require_finite(Volume(array, GRID), "case")
    io.require_finite(Volume(COUNT[None], GRID), "case")
    array[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    with pytest.raises(DataError, match=r"^case: 3 of 24 voxels are NaN or infinite; replace them"):
        io.require_finite(Volume(array, GRID), "case")


@pytest.mark.parametrize("ending", [*SPATIAL, ".png", ".tif", ".mgh"])
def test_changed_bytes_never_end_in_anything_but_our_errors(tmp_path: Path, ending: str) -> None:
    path, random = tmp_path / f"a{ending}", np.random.default_rng(0)
    array = np.arange(42, dtype=np.uint8).reshape(1, 1, 6, 7)
    if ending == ".mgh":
        nib.save(nib.MGHImage(array[0].T, np.eye(4)), path)
    else:
        io.write(Volume(array, unit_grid(1, 6, 7)), path)
    good = path.read_bytes()
    for _ in range(25):
        changed = bytearray(good)
        for position in random.integers(0, min(len(good), 400), 3):
            changed[position] = random.integers(256)
        path.write_bytes(changed)
        for function in (io.probe, io.read, io.read_labels):
            try:
                function(path)
            except MedsegError as error:
                one_line(error, path)


# --- hostile files


DERIVED_READABLE = {
    "gzip_trailing_garbage.nii.gz": "RAS",
    "not_gzipped.nii.gz": "RAS",
    "no_qform_no_sform.nii.gz": "LAS",
    "qform_sform_disagree.nii.gz": "LAS",
    "pixdim_zero.nii.gz": "RAS",
    "nan_and_inf.nii.gz": "RAS",
    "pair_affine_mismatch/label.nii.gz": "RAS",
}
REFUSED = {
    "derived/truncated_gzip.nii.gz": "gzip stream is cut off",
    "derived/zero_bytes.nii.gz": "is empty",
    "derived/data_block_short.nii": "voxels are cut short",
    "derived/bad_ndim.nii.gz": "claims 9 axes",
    "nifti/nibabel/nifti1.hdr": "nifti1.img is not beside it",
    "nifti/nibabel/analyze.hdr": "ANALYZE",
    "nifti/nibabel/row_major.dconn.nii": "CIFTI",
    "nifti/nibabel/small.mnc": "MINC",
    "nifti/nibabel/minc2_baddim.mnc": "MINC",
    "nifti/nibabel/test.mgz": "sheared",
    "nifti/nifti-reader-js/not-nifti.nii": "is not NIfTI",
    "nifti/nifti-reader-js/5D_small.nii": "5 axes",
    "nrrd/BallBinary30x30x30_nifti.nhdr": "Size of the data does not equal",
    "nrrd/BallBinary30x30x30.raw": "is not NIfTI",
    "dicom_files/MR_truncated.dcm": "pixels are cut short: expected 8192 bytes, found 8130",
    "dicom_files/DICOMDIR": "is a DICOMDIR, an index without pixels",
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_files_are_refused_in_one_line(shared: Path, name: str, capfd: pytest.CaptureFixture) -> None:
    path = shared / "data/hostile" / name
    with pytest.raises(MedsegError, match=re.escape(REFUSED[name])) as caught:
        io.read(path)
    one_line(caught.value, path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", DERIVED_READABLE)
def test_hostile_files_are_read_as_nibabel_does(tmp_path: Path, shared: Path, name: str) -> None:
    path = shared / "data/hostile/derived" / name
    volume = io.read(path)
    if name == "not_gzipped.nii.gz":
        path = Path(shutil.copy(path, tmp_path / "plain.nii"))
    other = nib.load(path)
    assert volume.geometry.orientation == DERIVED_READABLE[name]
    np.testing.assert_allclose(volume.geometry.affine[:, [2, 1, 0, 3]], other.affine)
    np.testing.assert_array_equal(volume.array[0].T, np.asarray(other.dataobj))


@pytest.mark.parametrize(
    "name",
    [
        "nibabel/anatomical.nii",
        "nibabel/example4d.nii.gz",
        "nibabel/example_nifti2.nii.gz",
        "nibabel/functional.nii",
        "nibabel/standard.nii.gz",
        "nifti-reader-js/little.nii.gz",
        "nifti-reader-js/with_extension.nii.gz",
        "nifti-reader-js/air.img.gz",
    ],
)
def test_unusual_niftis_are_read_as_nibabel_does(shared: Path, name: str) -> None:
    path = shared / "data/hostile/nifti" / name
    volume, other = io.read(path), nib.load(path)
    np.testing.assert_allclose(volume.geometry.affine[:, [2, 1, 0, 3]], other.affine, atol=1e-5)
    expected = np.asarray(other.dataobj)
    np.testing.assert_array_equal(volume.array, expected.reshape(*expected.shape[:3], -1).astype(volume.array.dtype).T)
    header = io.probe(path)
    assert header == io.Header(volume.channels, volume.geometry, volume.array.dtype)
    assert header.shape == volume.array.shape


def test_the_balls_are_one_ball(shared: Path) -> None:
    folder = shared / "data/hostile/nrrd"
    names = ("BallBinary30x30x30.nhdr", "BallBinary30x30x30_bz2.nrrd", "BallBinary30x30x30_gz_lineskip.nrrd")
    ball = io.read(folder / "BallBinary30x30x30.nii.gz")
    assert np.unique(ball.array).tolist() == [0, 257]
    for name in names:
        other = io.read(folder / name)
        assert np.array_equal(other.array, ball.array)
        assert other.geometry.distance_voxels(ball.geometry) == 0
    flat = io.read(folder / "test2d_ascii.nrrd")
    assert flat.array.shape == (1, 1, 9, 3)
    assert flat.array.ravel().tolist() == list(range(1, 28))
    assert flat.geometry.spacing_mm == pytest.approx((1.0, 2.0, 1.0458))
    assert io.read(folder / "test_simple4d_raw.nrrd").geometry.spacing_mm == pytest.approx((1.0, 1.5, 1.5))


def test_one_scan_in_four_formats(shared: Path) -> None:
    folder = shared / "data/dicom_conformance/i2nii_formats"
    first = io.read(folder / "nrrd.nhdr")
    for name in ("mha.mha", "mgh.mgz"):
        other = io.read(folder / name)
        assert np.array_equal(other.array, first.array)
        assert other.geometry.distance_voxels(first.geometry) < 1e-3
        assert io.probe(folder / name).shape == (1, 37, 64, 64)


def test_float_masks_of_brats(shared: Path) -> None:
    folder = shared / "data/hostile/float_labels_brats/brats_2013_pat0001_1"
    classes = io.read_labels(folder / "OTMultiClass.nii.gz")
    assert classes.array.dtype == np.uint8
    assert np.unique(classes.array).tolist() == [0, 1, 2, 3, 4]
    brain = io.read_labels(folder / "brainmask.nii.gz")
    assert np.unique(brain.array).tolist() == [0, 1]


def test_modalities_on_different_grids(shared: Path) -> None:
    folder = shared / "data/hostile/modalities_on_different_grids/STS_019"
    with pytest.raises(GeometryError, match=r"CT_image\.nii\.gz and .*MR_T1_image\.nii\.gz lie on different grids"):
        io.read([folder / "CT_image.nii.gz", folder / "MR_T1_image.nii.gz"])


def test_real_scans_agree_with_simpleitk(shared: Path) -> None:
    data = shared / "data"
    names = (
        "hippocampus/imagesTr/hippocampus_004.nii.gz",
        "openkbp_ct_oar/imagesTr/openkbp_001.nii.gz",
        "sts_mr_ct/imagesTr/STS_002_0001.nii.gz",
        "spinal_cord_mr/t2/t2.nii.gz",
        "nrrd_mr/brain1_image.nrrd",
        "nrrd_mr/breast1_label.nrrd",
        "totalseg_examples/ct_small/ct.nii.gz",
    )
    for name in names:
        volume, image = io.read(data / name), sitk.ReadImage(str(data / name))
        assert np.array_equal(volume.array[0], sitk.GetArrayFromImage(image)), name
        z, y, x = (size - 1 for size in volume.geometry.shape)
        place = np.array(image.TransformIndexToPhysicalPoint((x, y, z))) * (-1, -1, 1)
        np.testing.assert_allclose(volume.geometry.to_mm([z, y, x]), place, atol=1e-3, err_msg=name)


def test_several_gzip_streams_in_one_file(tmp_path: Path) -> None:
    whole = save_nifti(tmp_path / "a.nii", COUNT.T).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(whole[:360]) + gzip.compress(whole[360:]) + b"garbage")
    assert np.array_equal(io.read(tmp_path / "b.nii.gz").array[0], COUNT)


def test_nrrd_channels_first_or_last(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)  # C, Z, Y, X
    header = {
        "space": "right-anterior-superior",
        "space origin": [1, 2, 3],
        "kinds": ["vector", "domain", "domain", "domain"],
    }
    directions = [[np.nan] * 3, [1, 0, 0], [0, 2, 0], [0, 0, 5]]
    nrrd.write(
        str(tmp_path / "a.nrrd"), array.transpose(0, 3, 2, 1), {**header, "space directions": np.array(directions)}
    )
    volume = io.read(tmp_path / "a.nrrd")
    assert np.array_equal(volume.array, array)
    assert volume.geometry == Geometry.from_spacing((3, 4, 5), (5.0, 2.0, 1.0), (1.0, 2.0, 3.0))
    assert io.probe(tmp_path / "a.nrrd") == io.Header(2, volume.geometry, np.dtype(np.uint8))
    nrrd.write(
        str(tmp_path / "b.nrrd"),
        array.transpose(3, 2, 1, 0),
        {"kinds": ["domain"] * 3 + ["list"], "spacings": [1, 2, 5, 1]},
    )
    volume = io.read(tmp_path / "b.nrrd")
    assert np.array_equal(volume.array, array)
    assert volume.geometry.spacing_mm == (5.0, 2.0, 1.0)
    assert volume.geometry.orientation == "LPS"
