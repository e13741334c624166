"""Which files make up which scan."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.errors import FileUnreadableError, UsageError
from medseg.scans import find_scans


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


def test_one_file_a_case(tmp_path):
    scans = find_scans([touch(tmp_path, "b.nii.gz", "a.nrrd", "notes.txt")], ["MR"])
    assert [(scan.case, scan.images[0].name) for scan in scans] == [("a", "a.nrrd"), ("b", "b.nii.gz")]


def test_four_digits_are_channels(tmp_path):
    touch(tmp_path, "a_0001.nii.gz", "a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz")
    scans = find_scans([tmp_path], ["T1", "T2"])
    assert [(scan.case, [path.name for path in scan.images]) for scan in scans] == [
        ("a", ["a_0000.nii.gz", "a_0001.nii.gz"]),
        ("b", ["b_0000.nii.gz", "b_0001.nii.gz"]),
    ]


def test_four_digits_that_cannot_be_channels_are_part_of_the_name(tmp_path):
    scans = find_scans([touch(tmp_path, "scan_0000.nii", "scan_0001.nii")], ["MR"])
    assert [scan.case for scan in scans] == ["scan_0000", "scan_0001"]


def test_a_single_channel_suffix_is_not_part_of_the_name(tmp_path):
    assert find_scans([touch(tmp_path, "x_0000.mha")], ["MR"])[0].case == "x"


@pytest.mark.parametrize(
    ("names", "channels", "message"),
    [
        ((), 1, "no scans here"),
        (("a_0000.nii",), 2, "a: expected 2 channels, missing a_0001"),
        (("a.nii", "a.nrrd"), 1, "two scans are called a"),
    ],
)
def test_what_cannot_be_sorted_out_is_said(tmp_path, names, channels, message):
    with pytest.raises(UsageError, match=message):
        find_scans([touch(tmp_path, *names)], [f"channel {i}" for i in range(channels)])


def test_a_case_that_lacks_a_channel_does_not_stop_the_others(tmp_path):
    folder = touch(tmp_path, "a_0000.nii", "b_0000.nii", "b_0001.nii")
    found = {scan.case: [path.name for path in scan.images] for scan in find_scans([folder], ["T1", "T2"])}
    assert found == {"a": ["a_0000.nii", "a_0001.nii"], "b": ["b_0000.nii", "b_0001.nii"]}
    (folder / "b_0001.nii").unlink()
    with pytest.raises(UsageError, match="a: expected 2 channels, missing a_0001"):
        find_scans([folder], ["T1", "T2"])


def test_an_input_that_is_not_there(tmp_path):
    with pytest.raises(FileUnreadableError, match="no such file"):
        find_scans([tmp_path / "none.nii"], ["MR"])
