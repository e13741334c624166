"""Files that others found in the wild: each is read rightly or refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from medseg import dicom, io
from medseg.errors import DataError, MedsegError

FILES = {
    "DICOMDIR": "is a DICOMDIR, an index without pixels; give the folder it lies in",
    "ExplVR_LitEndNoMeta.dcm": "holds a treatment plan, not an image",
    "JPEG2000-embedded-sequence-delimiter.dcm": r"its pixels \(JPEG 2000 Image Compression\) cannot be decoded",
    "MR_truncated.dcm": "pixels are cut short: expected 8192 bytes, found 8130; copy it again",
    "SC_rgb_small_odd.dcm": (3, 1, 3, 3),
    "SC_rgb_small_odd_jpeg.dcm": (3, 1, 3, 3),
    "UN_sequence.dcm": "ends before any pixels",
    "badVR.dcm": "its number of frames is no number above 0",
    "color-pl.dcm": (3, 1, 120, 256),
    "decimal_rescale.dcm": (1, 1, 96, 128),
    "emri_small_jpeg_2k_lossless_too_short.dcm": "its frames have no positions, so they make no volume",
    "meta_missing_tsyntax.dcm": "says no size of its picture",
    "no_meta.dcm": "its content is not DICOM",
    "reportsi.dcm": "holds a report, not an image",
    "rtplan.dcm": "holds a treatment plan, not an image",
    "slicethickness_empty_string.dcm": (1, 1, 384, 384),
}


def test_every_file_is_listed_here(shared: Path) -> None:
    assert {path.name for path in (shared / "data/hostile/dicom_files").iterdir()} == set(FILES)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", FILES)
def test_files(shared: Path, name: str, capfd: pytest.CaptureFixture) -> None:
    path, expected = shared / "data/hostile/dicom_files" / name, FILES[name]
    if isinstance(expected, tuple):
        assert io.read(path).array.shape == expected == (io.probe(path).channels, *io.probe(path).geometry.shape)
    else:
        with pytest.raises(MedsegError, match=expected) as caught:
            io.read(path)
        assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    assert capfd.readouterr() == ("", "")


def test_a_folder_of_nothing_but_trouble_is_surveyed_to_its_end(shared: Path) -> None:
    content = dicom.survey_folder(shared / "data/hostile/dicom_files")
    found = {file.name for one in content.series for file in one.files} | {file.name for file in content.unreadable}
    assert found == set(FILES) - {"DICOMDIR"}
    assert all("\n" not in reason for reason in content.unreadable.values())


def test_a_series_of_two_slices_equals_its_reference(shared: Path) -> None:
    folder = shared / "data/hostile/dicom_series/failing/slicecount"
    volume, expected = io.read(folder / "001"), io.read(folder / "001_ground_truth.nii.gz")
    change = volume.geometry.change_to(expected.geometry.orientation)
    assert np.abs(volume.geometry.changed(change).affine - expected.geometry.affine).max() < 1e-3
    np.testing.assert_array_equal(change.apply(volume.array), expected.array)


def test_a_tilted_gantry_is_put_upright(shared: Path) -> None:
    folder = shared / "data/hostile/dicom_series/failing/gantrytilting/001"
    (series,) = dicom.find_series(folder)
    assert series.is_volume and series.arrangement is not None
    assert series.arrangement.tilt_degrees == pytest.approx(14, abs=0.1)
    volume = io.read(folder)
    assert volume.geometry.shape == (4, 521, 512)
    assert volume.geometry.spacing_mm[0] == pytest.approx(5 * np.cos(np.radians(series.arrangement.tilt_degrees)), 1e-4)


@pytest.mark.parametrize(
    ("name", "structures", "dangling"),
    [("invalid_reference_rt", 4, "4 of 5"), ("non_existent_reference_rt", 4, "2 of 3"), ("rt", 1, "1 of 2")],
)
def test_structures_with_references_to_nowhere(shared: Path, name: str, structures: int, dangling: str) -> None:
    folder = shared / "data/hostile/rtstruct_bad_references"
    (series,) = dicom.find_volume(folder / "ct_1.dcm")
    masks = dicom.read_masks(folder / f"{name}.dcm", series.geometry, series=series)
    assert len(masks.segments) == structures and any(volume.array.any() for volume in masks.volumes)
    assert any(note.startswith(f"{dangling} images that it refers to are not in the scan") for note in masks.notes)
    with pytest.raises(DataError, match="holds structures, not an image"):
        io.read(folder / f"{name}.dcm")


COMPRESSED = ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "JPGExtended", "JPEG2000"]


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_pixels_that_are_cut_short(shared: Path, tmp_path: Path, name: str) -> None:
    content = (shared / "data/dicom_conformance/pydicom" / f"{name}.dcm").read_bytes()
    for part in (0.5, 0.9):
        path = tmp_path / "cut.dcm"
        path.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(MedsegError) as caught:
            io.read(path)
        assert re.fullmatch(r"[^\n]+", str(caught.value))
