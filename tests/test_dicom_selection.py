"""From a mixed folder to series, and from series to scans with names that say nothing about the patient."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from dicom_examples import PHI, count, instance, picture, save, stack

from medseg import dicom, io
from medseg.dicom import Request, SeriesChoice, scans_in, survey_folder
from medseg.errors import DataError, FileUnreadableError, GeometryError, UsageError
from medseg.scans import find_scans


def study(folder: Path) -> Path:
    """A study with a thin and a thick CT, an MR, a localiser, a report, a segmentation, and files of other kinds."""
    stack(folder / "a", count(3, 2, 2), SeriesInstanceUID="1.1", SeriesDescription="Thorax thin", SeriesNumber=2)
    stack(
        folder / "b",
        count(2, 4, 4),
        SeriesInstanceUID="1.2",
        SeriesDescription="Thorax thick",
        step=(0, 0, 5),
        SeriesNumber=3,
    )
    stack(
        folder / "b", count(3, 2, 2) + 7, kind="MR", prefix="mr", SeriesInstanceUID="1.3", SeriesDescription="T1 post"
    )
    scout = {"SeriesInstanceUID": "1.4", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    stack(folder, count(1, 9, 9), **scout)
    save(instance("SR", SeriesInstanceUID="1.5"), folder / "report")
    save(instance("SEG", SeriesInstanceUID="1.6"), folder / "mask.dcm")
    (folder / "notes.txt").write_text("not DICOM")
    (folder / "._a.dcm").write_text("a shadow")
    (folder / "a" / "Thumbs.db").write_bytes(b"\0" * 300)
    return folder


def test_what_lies_in_a_mixed_folder(tmp_path: Path) -> None:
    content = survey_folder(study(tmp_path))
    assert {one.uid: one.kind for one in content.series} == {
        "1.1": "volume",
        "1.2": "volume",
        "1.3": "volume",
        "1.4": "localiser",
        "1.5": "report",
        "1.6": "segmentation",
    }
    assert not content.unreadable and content.others == 2
    thin = next(one for one in content.series if one.uid == "1.1")
    assert thin.geometry.shape == (3, 2, 2) and thin.modality == "CT" and thin.description == "Thorax thin"
    everything = repr(content)
    assert not any(value in everything for value in PHI.values())


def test_files_that_look_like_dicom_and_are_not_readable_are_listed(tmp_path: Path) -> None:
    good = stack(tmp_path, count(2, 2, 2))[0].read_bytes()
    (tmp_path / "x.dcm").write_bytes(b"hello")
    (tmp_path / "cut").write_bytes(good[:400])
    content = survey_folder(tmp_path)
    assert {file.name for file in content.unreadable} == {"x.dcm", "cut"}


def test_one_channel_each_series_of_its_modality_is_a_scan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = survey_folder(study(tmp_path))
    assert set(scans_in(content, ["something"])) == {"1.1", "1.2", "1.3"}
    with caplog.at_level(logging.WARNING):
        assert set(scans_in(content, ["CT"])) == {"1.1", "1.2"}
    assert "1 series of other modalities than CT are left out" in caplog.text
    assert set(scans_in(content, ["MRI"])) == {"1.3"}
    with pytest.raises(UsageError, match="expected series of modality PT, found CT, MR"):
        scans_in(content, ["PET"])


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (SeriesChoice(series=("1.2",)), {"1.2"}),
        (SeriesChoice(series=("THIN",)), {"1.1"}),
        (SeriesChoice(series=("thin", "T1 post")), {"1.1", "1.3"}),
        (SeriesChoice(modality="mr"), {"1.3"}),
        (SeriesChoice(series=("thorax",), modality="CT"), {"1.1", "1.2"}),
    ],
)
def test_series_are_chosen_by_uid_description_and_modality(
    tmp_path: Path, choice: SeriesChoice, expected: set[str]
) -> None:
    assert set(scans_in(survey_folder(study(tmp_path)), ["CT"], choice)) == expected


def test_a_choice_that_fits_nothing(tmp_path: Path) -> None:
    content = survey_folder(study(tmp_path))
    with pytest.raises(UsageError, match=r"no series fits 'venous'; see what is there with: medseg series FOLDER"):
        scans_in(content, ["CT"], SeriesChoice(series=("venous",)))
    with pytest.raises(UsageError, match="no series fits 'venous'"):
        scans_in(content, ["CT"], SeriesChoice(series=("thin", "venous")))
    with pytest.raises(UsageError, match="expected series of modality US, found CT, MR"):
        scans_in(content, ["CT"], SeriesChoice(modality="US"))


def test_folders_without_a_scan(tmp_path: Path) -> None:
    save(instance("SR"), tmp_path / "report")
    with pytest.raises(DataError, match="holds no scan, only report"):
        scans_in(survey_folder(tmp_path), ["CT"])
    (tmp_path / "report").unlink()
    with pytest.raises(FileUnreadableError, match="holds no DICOM files"):
        scans_in(survey_folder(tmp_path), ["CT"])
    (tmp_path / "x.dcm").write_bytes(b"")
    with pytest.raises(FileUnreadableError, match=r"1 DICOM files cannot be read: .*x\.dcm"):
        scans_in(survey_folder(tmp_path), ["CT"])


def test_a_stack_with_a_problem_is_a_scan_that_says_so(tmp_path: Path) -> None:
    stack(tmp_path, count(4, 2, 2), positions=[[0, 0, z] for z in (0, 1, 2, 4)])
    ((selection,),) = scans_in(survey_folder(tmp_path), ["CT"]).values()
    with pytest.raises(GeometryError, match="1 slice is missing"):
        io.read(selection)
    ((selection,),) = scans_in(survey_folder(tmp_path), ["CT"], SeriesChoice(fix_spacing=True)).values()
    assert io.read(selection).array.shape == (1, 5, 2, 2) and io.probe(selection).geometry.shape == (5, 2, 2)


def test_a_damaged_file_stops_the_series_beside_it_and_no_other(tmp_path: Path) -> None:
    study(tmp_path)
    (tmp_path / "a" / "x.dcm").write_bytes(b"damaged")
    scans = scans_in(survey_folder(tmp_path), ["CT"])
    with pytest.raises(FileUnreadableError, match=r"1 files beside its slices cannot be read .*: x\.dcm"):
        io.read(scans["1.1"])
    assert io.read(scans["1.2"]).array.shape == (1, 2, 4, 4)


# --- several channels


def pet_ct(folder: Path, *, frame: str = "1.2.3.9", shift: float = 0.0) -> Path:
    stack(folder / "ct", count(4, 4, 4), SeriesInstanceUID="1.1", SeriesDescription="CT low dose")
    stack(
        folder / "pt",
        count(4, 4, 4) * 2,
        kind="PT",
        SeriesInstanceUID="1.2",
        SeriesDescription="WB attenuated",
        FrameOfReferenceUID=frame,
        origin=(0, 0, shift),
    )
    return folder


def test_channels_find_their_series_by_name(tmp_path: Path) -> None:
    scans = scans_in(survey_folder(pet_ct(tmp_path)), ["CT", "PET"])
    assert list(scans) == ["1.2.3"]  # the study's UID
    volume = io.read(scans["1.2.3"], channels=2)
    np.testing.assert_array_equal(volume.array, [count(4, 4, 4), count(4, 4, 4) * 2])
    swapped = scans_in(survey_folder(tmp_path), ["PET", "CT"])["1.2.3"]
    np.testing.assert_array_equal(io.read(swapped).array, volume.array[::-1])
    named = scans_in(survey_folder(tmp_path), ["one", "two"], SeriesChoice(series=("attenuated", "low dose")))["1.2.3"]
    np.testing.assert_array_equal(io.read(named).array, volume.array[::-1])


def test_channels_that_fit_no_series_or_several(tmp_path: Path) -> None:
    content = survey_folder(pet_ct(tmp_path))
    with pytest.raises(UsageError, match=r"expected one series for the channel T1, found 0 .*once a channel"):
        scans_in(content, ["CT", "T1"])
    with pytest.raises(UsageError, match=r"expected one --series for each of 3 channels \(a, b, c\), found 2"):
        scans_in(content, ["a", "b", "c"], SeriesChoice(series=("x", "y")))
    stack(tmp_path / "more", count(2, 2, 2), SeriesInstanceUID="1.7", SeriesDescription="bone")
    with pytest.raises(UsageError, match=r"expected one series for the channel CT, found 2 among .*1\.1; .*1\.7"):
        scans_in(survey_folder(tmp_path), ["CT", "PET"])


def test_series_of_two_frames_of_reference_are_never_laid_over_each_other(tmp_path: Path) -> None:
    pet_ct(tmp_path, frame="1.2.3.10")
    for resample in (False, True):
        selections = scans_in(survey_folder(tmp_path), ["CT", "PET"], SeriesChoice(resample=resample))["1.2.3"]
        with pytest.raises(GeometryError, match="another frame of reference"):
            io.read(selections)


def test_series_on_other_grids_are_resampled_when_asked_for(tmp_path: Path) -> None:
    pet_ct(tmp_path, shift=0.5)
    content = survey_folder(tmp_path)
    with pytest.raises(GeometryError):
        io.read(scans_in(content, ["CT", "PET"])["1.2.3"])
    volume = io.read(scans_in(content, ["CT", "PET"], SeriesChoice(resample=True))["1.2.3"])
    np.testing.assert_array_equal(volume.array[0], count(4, 4, 4))
    pet = count(4, 4, 4) * 2.0  # slices at 0.5, 1.5, 2.5, 3.5 mm
    np.testing.assert_allclose(volume.array[1, 1:], (pet[:-1] + pet[1:]) / 2)
    np.testing.assert_allclose(volume.array[1, 0], pet[0])  # half a voxel outside still counts as its edge


def test_a_request_is_one_scan_found_when_it_is_read(tmp_path: Path) -> None:
    request = Request(study(tmp_path), SeriesChoice(series=("thin",)), ("CT",))
    np.testing.assert_array_equal(io.read(request).array[0], count(3, 2, 2))
    assert io.probe(request).geometry.shape == (3, 2, 2)
    with pytest.raises(UsageError, match=r"holds 2 scans, expected one: .*UID 1\.1; .*UID 1\.2") as caught:
        io.read(Request(tmp_path, SeriesChoice(), ("CT",)))
    assert str(caught.value).count(str(tmp_path)) == 1


# --- inputs of the command line


def test_inputs_of_dicom_are_taken_together(tmp_path: Path) -> None:
    files = stack(tmp_path / "a", count(3, 2, 2), SeriesInstanceUID="1.1")
    (scan,) = find_scans(files, ["CT"])
    assert scan.case == "1.1" and io.read(scan.images).array.shape == (1, 3, 2, 2)
    (scan,) = find_scans([tmp_path], ["CT"])
    assert scan.case == "1.1"


def test_previews_are_no_scans_and_mixtures_are_refused(tmp_path: Path) -> None:
    stack(tmp_path / "a", count(3, 2, 2), SeriesInstanceUID="1.1")
    io.write(dicom.read_series(tmp_path / "a"), tmp_path / "b.nii.gz")
    shutil.copy(next(iter((tmp_path / "a").iterdir())), tmp_path / "slice.dcm")
    with pytest.raises(UsageError, match=r"holds DICOM \(slice\.dcm\) beside b\.nii\.gz; give one or the other"):
        find_scans([tmp_path], ["CT"])
    (tmp_path / "slice.dcm").unlink()
    assert [scan.case for scan in find_scans([tmp_path], ["CT"])] == ["b"]
    (tmp_path / "b.nii.gz").unlink()
    (tmp_path / "preview.png").write_bytes(b"\x89PNG\r\n")
    assert [scan.case for scan in find_scans([tmp_path], ["CT"])] == ["1.1"]


def test_parts_of_a_series_have_names_of_their_own(tmp_path: Path) -> None:
    for echo in (1, 2):
        stack(tmp_path, count(3, 2, 2), kind="MR", prefix=f"e{echo}_", EchoTime=str(4.5 * echo))
    assert list(scans_in(survey_folder(tmp_path), ["MR"])) == ["1.2.3.4_echo-4.5", "1.2.3.4_echo-9"]
    scans = scans_in(survey_folder(tmp_path), ["first", "second"])
    assert list(scans) == ["1.2.3.4"] and io.read(scans["1.2.3.4"]).channels == 2


def test_pictures_without_a_stack_are_scans_each(tmp_path: Path) -> None:
    for number in (1, 2):
        save(
            picture(count(2, 2), "CR", SOPInstanceUID=f"1.9.{number}", ImagePositionPatient=None),
            tmp_path / f"{number}.dcm",
        )
    assert set(scans_in(survey_folder(tmp_path), ["X-ray"])) == {"1.2.3.4_1.9.1", "1.2.3.4_1.9.2"}
