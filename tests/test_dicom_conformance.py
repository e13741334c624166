"""Real series of many vendors and transfer syntaxes, against references that other programs made."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg import dicom, io
from medseg.errors import MedsegError
from medseg.volume import Geometry, LabelVolume, Volume

DATA = "data/dicom_conformance"
# A folder or file of DICOM, and the NIfTI file that dcm2niix, dicom2nifti or the makers of the data made of it.
WITH_REFERENCE = {
    "dicom2nifti/ge/anatomical/001_single_slice": "dicom2nifti/ge/anatomical/001_single_slice_ground_truth.nii.gz",
    "dicom2nifti/generic/anatomical/001": "dicom2nifti/generic/anatomical/001_ground_truth.nii.gz",
    "dicom2nifti/generic/anatomical/002_non_isotropic": (
        "dicom2nifti/generic/anatomical/002_non_isotropic_ground_truth.nii.gz"
    ),
    "dicom2nifti/generic/compressed_jpegls/001": "dicom2nifti/generic/compressed_jpegls/001_ground_truth.nii.gz",
    "dicom2nifti/generic/rgb/001": "dicom2nifti/generic/rgb/001_ground_truth.nii.gz",
    "dicom2nifti/hitachi/anatomical/001": "dicom2nifti/hitachi/anatomical/001_ground_truth.nii.gz",
    "dicom2nifti/philips_enhanced/fmri/001": "dicom2nifti/philips_enhanced/fmri/001_ground_truth.nii.gz",
    "dcm_qa_12bit/In/12bitSigned_0x0F0F.dcm": "dcm_qa_12bit/Ref/4.nii",
    "dcm_qa_12bit/In/12bitUnsigned.dcm": "dcm_qa_12bit/Ref/2.nii",
    "dcm_qa_12bit/In/12bitUnsigned_0x0F0F.dcm": "dcm_qa_12bit/Ref/3.nii",
    "dcm_qa_nih/In/20180918Si/mr_0003": "dcm_qa_nih/Ref/EPI_PE=AP_3.nii",
    "dcm_qa_nih/In/20180918Si/mr_0004": "dcm_qa_nih/Ref/EPI_PE=PA_4.nii",
    "dcm_qa_nih/In/20180918Si/mr_0005": "dcm_qa_nih/Ref/EPI_PE=RL_5.nii",
    "dcm_qa_nih/In/20180918Si/mr_0006": "dcm_qa_nih/Ref/EPI_PE=LR_6.nii",
    "ibsi_rtstruct/STS_002_PET/dicom/image": "ibsi_rtstruct/STS_002_PET/nifti/image.nii.gz",
    "ibsi_rtstruct/STS_025_MR_T1/dicom/image": "ibsi_rtstruct/STS_025_MR_T1/nifti/image.nii.gz",
}


def reference(path: Path) -> Volume:
    """A NIfTI file as nibabel reads it: channels along the fourth axis, or the fields of colour voxels."""
    image = nib.load(path)
    values = np.asarray(image.dataobj)
    if values.dtype.names:
        values = np.stack([values[name] for name in values.dtype.names if name != "A"], axis=-1)
    values = values[..., None] if values.ndim == 3 else values
    affine = image.affine[:, [2, 1, 0, 3]]
    return Volume(values.transpose(3, 2, 1, 0), Geometry(values.shape[2::-1], affine))


def assert_same(found: Volume, expected: Volume) -> None:
    """The same voxels, at the same places within 1e-3 mm; axes may be exchanged and reversed."""
    array = assert_same_grid(found, expected)
    if expected.array.dtype == np.float64 and found.array.dtype == np.float32:
        # scaled in single precision here, in double there
        np.testing.assert_allclose(array, expected.array, rtol=2.0**-23)
    else:
        np.testing.assert_array_equal(array, expected.array)


def assert_same_grid(found: Volume, expected: Volume) -> np.ndarray:
    change = found.geometry.change_to(expected.geometry.orientation)
    geometry = found.geometry.changed(change)
    assert geometry.shape == expected.geometry.shape
    assert np.abs(geometry.affine - expected.geometry.affine).max() <= 1e-3
    return change.apply(found.array)


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_series_equal_their_references(shared: Path, name: str) -> None:
    assert_same(io.read(shared / DATA / name), reference(shared / DATA / WITH_REFERENCE[name]))


# --- series without a reference, against dcm2niix

WITH_DCM2NIIX = [
    "dicom_brain/Study1/12-T1post-05670",
    "dicom_brain/Study1/13_HCropVolume",
    "dicom_brain/Study1/36459-FLAIRreg-76244",
    *(
        f"dicom_conformance/{name}"
        for name in (
            "dcmqi_seg/ct-3slice",
            "dcmqi_seg/24x38x3/image",
            "dcmqi_seg/24x38x3/multiframe",
            "dcmqi_seg/23x38x3/image",
            "dcmqi_seg/23x38x3/multiframe",
            "pydicom/CT_small.dcm",
            "pydicom/MR_small.dcm",
            "pydicom/MR_small_RLE.dcm",
            "pydicom/MR_small_bigendian.dcm",
            "pydicom/MR_small_implicit.dcm",
            "pydicom/MR_small_jp2klossless.dcm",
            "pydicom/693_J2KI.dcm",
        )
    ),
    "hostile/dicom_series/failing/slicecount/001",
    "hostile/dicom_files/decimal_rescale.dcm",
]


def converted(source: Path, folder: Path) -> list[Path]:
    """What dcm2niix makes of a folder or file."""
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    if source.is_file():
        (folder / "in").mkdir()
        source = Path(shutil.copy(source, folder / "in")).parent
    (folder / "out").mkdir()
    subprocess.run(
        ["dcm2niix", "-b", "n", "-f", "%s_%e", "-o", folder / "out", source],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return sorted((folder / "out").glob("*.nii"))


@pytest.mark.parametrize("name", WITH_DCM2NIIX)
def test_series_equal_what_dcm2niix_makes_of_them(shared: Path, tmp_path: Path, name: str) -> None:
    (path,) = converted(shared / "data" / name, tmp_path)
    assert_same(io.read(shared / "data" / name), reference(path))


def test_a_tilted_gantry_lies_where_dcm2niix_puts_it(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/hostile/dicom_series/failing/gantrytilting/001"
    (path,) = (path for path in converted(source, tmp_path) if "Tilt" in path.name)
    volume, expected = io.read(source), reference(path)
    array = assert_same_grid(volume, expected)
    # Between pixels dcm2niix goes linearly, and fills what no slice covers with 0 of the stored values.
    inside = (array[0] > -1000) & (expected.array[0] > -1000)
    assert inside.mean() > 0.001
    assert np.median(np.abs(array[0] - expected.array[0])[inside]) < 20


# --- one picture in many transfer syntaxes


@pytest.mark.parametrize("name", ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"])
def test_every_transfer_syntax_gives_the_same_picture(shared: Path, name: str) -> None:
    folder = shared / DATA / "pydicom"
    plain, other = io.read(folder / "MR_small.dcm"), io.read(folder / f"MR_small_{name}.dcm")
    assert other.array.dtype == plain.array.dtype and other.geometry == plain.geometry
    np.testing.assert_array_equal(other.array, plain.array)


@pytest.mark.parametrize(
    ("name", "shape", "low", "high"),
    [
        ("693_J2KI", (1, 1, 512, 512), -3995, 1812),
        ("GDCMJ2K_TextGBR", (3, 1, 400, 400), 0, 255),
        ("J2K_pixelrep_mismatch", (1, 1, 512, 512), -2000, 1896),
        ("JPEG-lossy", (1, 1, 1024, 256), 0, 264),
        ("JPEG2000", (1, 1, 1024, 256), -30, 245),
        ("JPEGLSNearLossless_08", (1, 1, 45, 10), 0, 255),
        ("JPEGLSNearLossless_16", (1, 1, 50, 10), 0, 65535),
        ("JPGExtended", (1, 1, 1024, 256), 0, 264),
        ("SC_rgb_jpeg_dcmtk", (3, 1, 100, 100), 0, 255),
        ("SC_rgb_rle", (3, 1, 100, 100), 0, 255),
        ("SC_rgb_rle_16bit", (3, 1, 100, 100), 0, 65535),
        ("SC_ybr_full_422_uncompressed", (3, 1, 100, 100), 0, 255),
        ("examples_palette", (3, 1, 350, 800), 0, 255),
        ("image_dfl", (1, 1, 512, 512), 0, 255),
    ],
)
def test_pictures_in_other_syntaxes(shared: Path, name: str, shape: tuple[int, ...], low: int, high: int) -> None:
    volume = io.read(shared / DATA / "pydicom" / f"{name}.dcm")
    assert volume.array.shape == shape
    assert (volume.array.min(), volume.array.max()) == (low, high)


def test_one_volume_in_four_formats(shared: Path, tmp_path: Path) -> None:
    folder = shared / DATA / "i2nii_formats"
    shutil.unpack_archive(folder / "DICOM.zip", tmp_path)
    series = io.read(tmp_path)
    for name in ("mha.mha", "nrrd.nhdr", "mgh.mgz"):
        assert_same(series, io.read(folder / name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SC_rgb_rle_2frame.dcm", "its frames have no positions, so they make no volume"),
        ("liver_1frame.dcm", "holds a segmentation, not an image"),
        ("rtdose.dcm", "holds a dose, not an image"),
        ("rtstruct.dcm", "holds structures, not an image"),
    ],
)
def test_what_is_no_scan_is_refused_in_one_line(shared: Path, name: str, message: str) -> None:
    with pytest.raises(MedsegError, match=message) as caught:
        io.read(shared / DATA / "pydicom" / name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(shared))


# --- masks


@pytest.mark.parametrize(
    ("segmentation", "references", "scan"),
    [
        ("24x38x3/seg/label.seg", ["24x38x3/nrrd/label.nrrd"], "24x38x3/image"),
        ("24x38x3/seg/label.seg", ["24x38x3/nrrd/label.nrrd"], "24x38x3/multiframe"),
        ("23x38x3/seg/label.seg", ["23x38x3/nrrd/label.nrrd"], "23x38x3/image"),
        ("liver.dcm", ["liver_seg.nrrd"], "ct-3slice"),
        ("partial_overlaps.dcm", [f"partial_overlaps-{number}.nrrd" for number in (1, 2, 3)], "ct-3slice"),
        ("sparse-labelmap-noppv.dcm", ["sparse_labelmap_noppv_seg.nrrd"], "24x38x3/image"),
    ],
)
def test_segmentations_equal_what_dcmqi_makes_of_them(
    shared: Path, segmentation: str, references: list[str], scan: str
) -> None:
    folder = shared / DATA / "dcmqi_seg"
    for grid in (None, io.probe(folder / scan).geometry):
        masks = dicom.read_masks(folder / segmentation, grid)
        for segment in masks.segments:
            found = LabelVolume(masks.mask(segment.number).astype(np.uint8), masks.geometry)
            expected = [io.read_labels(folder / path) for path in references]
            (match,) = (mask for mask in expected if (mask.array == segment.number).any())
            assert_same(
                Volume(found.array[None], found.geometry),
                Volume((match.array == segment.number).astype(np.uint8)[None], match.geometry),
            )


def test_the_padding_of_a_sparse_label_map_is_background(shared: Path) -> None:
    folder = shared / DATA / "dcmqi_seg"
    masks = dicom.read_masks(folder / "sparse-labelmap-ppv5.dcm")
    expected = io.read_labels(folder / "sparse_labelmap_ppv5_seg.nrrd")
    assert [segment.number for segment in masks.segments] == [1]
    np.testing.assert_array_equal(masks.mask(1), expected.array == 1)


@pytest.mark.parametrize("name", ["STS_002_PET", "STS_025_MR_T1"])
def test_structures_equal_their_reference_masks(shared: Path, name: str) -> None:
    folder = shared / DATA / "ibsi_rtstruct" / name
    (series,) = dicom.find_volume(folder / "dicom/image")
    masks = dicom.read_masks(next((folder / "dicom/mask").iterdir()), series.geometry, series=series)
    expected = io.read_labels(folder / "nifti/mask.nii.gz")
    found = Volume((masks.volumes[0].array > 0).astype(np.uint8)[None], masks.geometry)
    assert_same(found, Volume((expected.array > 0).astype(np.uint8)[None], expected.geometry))
