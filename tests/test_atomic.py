"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medseg import atomic
from medseg.errors import StorageError


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "a.nii.gz"
    atomic.write_text(path, "one")
    with atomic.replacing_file(path) as temporary:
        assert temporary.name.endswith("a.nii.gz")
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert names(path.parent) == ["a.nii.gz"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "one")
    with pytest.raises(error), atomic.replacing_file(path) as temporary:
        temporary.write_text("half of tw")
        raise error
    assert path.read_text() == "one"
    assert names(tmp_path) == ["a.txt"]


def test_nothing_written_is_a_storage_error(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"cannot write .*a\.txt: No such file"),
        atomic.replacing_file(tmp_path / "a.txt"),
    ):
        pass


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose a folder with space"):
        atomic.write_text(tmp_path / "file" / "a.txt", "x")
    with (
        pytest.raises(StorageError, match="choose a folder with space"),
        atomic.replacing_folder(tmp_path / "file" / "b"),
    ):
        pass


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No space left on device") as caught, atomic.replacing_file(tmp_path / "a"):
        raise OSError(28, os.strerror(28))
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "case"
    for content in ("one", "two"):
        with atomic.replacing_folder(target) as temporary:
            (temporary / f"{content}.txt").write_text(content)
        assert names(target) == [f"{content}.txt"]
    with pytest.raises(RuntimeError), atomic.replacing_folder(target) as temporary:
        (temporary / "three.txt").write_text("three")
        raise RuntimeError
    assert names(target) == ["two.txt"]
    assert names(tmp_path) == ["case"]
