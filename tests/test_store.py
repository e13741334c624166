"""Prepared cases on disk: what is read is what was written, and damage never passes unseen."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg import patches, store
from medseg.blocks import BLOCK_VOXELS, StoredArray, block_shape, write_array
from medseg.errors import FileUnreadableError, StorageError, UsageError
from medseg.orientation import AxisChange
from medseg.preprocessing import Prepared, Trace
from medseg.volume import Box

SHAPE = (13, 37, 22)
PATCH = (8, 16, 16)


def prepared_case(shape: tuple[int, int, int] = SHAPE, channels: int = 2, seed: int = 0) -> Prepared:
    """Noise on a plane of zeros, two classes of which the second is nowhere, and 1/3 in the affine."""
    generator = np.random.default_rng(seed)
    image = generator.standard_normal((channels, *shape), dtype=np.float32)
    image[:, : shape[0] // 2] = 0
    labels = generator.integers(0, 3, shape).astype(np.int16)
    foreground = (np.argwhere(labels == 1).astype(np.int32), np.empty((0, 3), np.int32), np.argwhere(labels == 2))
    affine = ((0.0, 0.0, 1 / 3, -7.1), (0.0, 0.1, 0.0, 0.0), (3.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    change = AxisChange((0, 2, 1), (False, True, False))
    return Prepared(image, labels, foreground, Trace(1, shape, affine, change, Box((0, 0, 0), shape), shape, 0))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> store.StoredCase:
    """One case with many small blocks."""
    folder = tmp_path_factory.mktemp("3d_fullres")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medseg.blocks.BLOCK_VOXELS", 200)
        store.write_case(folder, "a", prepared_case(), patch_size=PATCH, key="made so")
    return store.open_case(folder, "a")


def boxes(shape: tuple[int, ...] = SHAPE) -> st.SearchStrategy[Box]:
    """Boxes of at least one voxel within a shape."""
    ends = [st.tuples(st.integers(0, n - 1), st.integers(1, n)).filter(lambda e: e[0] < e[1]) for n in shape]
    return st.tuples(*ends).map(lambda e: Box(*zip(*e, strict=True)))


def test_everything_comes_back(stored: store.StoredCase):
    written = prepared_case()
    assert (stored.shape, stored.channels, stored.trace) == (SHAPE, 2, written.trace)
    for got, expected in (
        (stored.read_image(), written.image),
        (stored.read_labels(), written.labels),
        *(
            (np.asarray(voxels), expected)
            for voxels, expected in zip(stored.foreground, written.foreground, strict=True)
        ),
    ):
        assert np.array_equal(got, expected)
    assert (stored.read_image().dtype, stored.read_labels().dtype) == (np.float32, np.int16)
    assert stored.record.image.block != (1, *SHAPE), "or partial reads would be put to no test"
    stored.verify()


def test_numbers_that_are_none_come_back_bit_by_bit(tmp_path: Path):
    image = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32).reshape(1, 1, 2, 3)
    shape = (1, 2, 3)
    prepared = replace(prepared_case(shape, 1), image=image)
    store.write_case(tmp_path, "a", prepared, patch_size=shape, key="")
    assert store.open_case(tmp_path, "a").read_image().tobytes() == image.tobytes()


@given(boxes())
@settings(max_examples=50, deadline=None)
def test_part_equals_part_of_the_whole(stored: store.StoredCase, box: Box):
    written = prepared_case()
    assert np.array_equal(stored.read_image(box), written.image[(slice(None), *box.slices)])
    assert np.array_equal(stored.read_labels(box), written.labels[box.slices])


@given(st.tuples(*(st.integers(-20, n + 5) for n in SHAPE)), st.tuples(*(st.integers(1, 25) for _ in SHAPE)))
@settings(max_examples=50, deadline=None)
def test_patch_reaches_beyond_the_scan_as_in_memory(stored: store.StoredCase, start, size):
    written = prepared_case()
    image, labels = np.full((2, *size), 7, np.float32), np.full(size, 7, np.int16)
    expected_image, expected_labels = image.copy(), labels.copy()
    stored.copy_patch(start, image, labels)
    patches.copy_patch(written.image, start, expected_image)
    patches.copy_patch(written.labels, start, expected_labels)
    assert np.array_equal(image, expected_image)
    assert np.array_equal(labels, expected_labels)


def test_one_voxel_of_a_class_is_read_alone(stored: store.StoredCase):
    first, none, last = stored.foreground
    expected = prepared_case().foreground
    assert (len(first), len(none), len(last)) == tuple(map(len, expected))
    assert first[5].tolist() == expected[0][5].tolist()
    assert last[-1].tolist() == expected[2][-1].tolist()
    with pytest.raises(IndexError):
        none[0]


def test_threads_read_at_once(stored: store.StoredCase):
    written = prepared_case()

    def read(seed: int) -> bool:
        generator = np.random.default_rng(seed)
        start = [int(generator.integers(0, n - m + 1)) for n, m in zip(SHAPE, PATCH, strict=True)]
        box = Box(tuple(start), tuple(a + n for a, n in zip(start, PATCH, strict=True)))
        image = np.array_equal(stored.read_image(box), written.image[(slice(None), *box.slices)])
        return image and np.array_equal(stored.read_labels(box), written.labels[box.slices])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))


def test_box_beyond_the_scan_is_refused(stored: store.StoredCase):
    with pytest.raises(UsageError, match="reaches beyond"):
        stored.read_image(Box((0, 0, 0), (14, 37, 22)))
    with pytest.raises(UsageError, match="reaches beyond"):
        stored.read_labels(Box((-1, 0, 0), (3, 3, 3)))


def test_case_without_reference(tmp_path: Path):
    without = replace(prepared_case(), labels=None, foreground=())
    store.write_case(tmp_path, "a", without, patch_size=PATCH, key="")
    case = store.open_case(tmp_path, "a")
    case.verify()
    assert (case.labels, case.foreground) == (None, ())
    with pytest.raises(UsageError, match="without a reference mask"):
        case.read_labels()


@pytest.mark.parametrize(
    ("shape", "patch", "expected"),
    [
        ((300, 512, 512), (128, 128, 128), (32, 32, 32)),
        ((100, 512, 512), (28, 256, 256), (7, 64, 64)),
        ((20, 512, 512), (512, 512), (1, 171, 171)),
        ((36, 50, 35), (40, 56, 40), (20, 28, 35)),
        ((3, 3, 3), (128, 128, 128), (3, 3, 3)),
        ((50, 60, 70), (8, 8, 8), (8, 8, 8)),
    ],
)
def test_blocks_suit_the_patch(shape, patch, expected):
    assert block_shape(shape, patch) == expected


@given(st.tuples(*(st.integers(1, 400) for _ in range(3))), st.tuples(*(st.integers(1, 400) for _ in range(3))))
@settings(max_examples=50, deadline=None)
def test_blocks_are_bounded(shape, patch):
    block = block_shape(shape, patch)
    assert 1 <= np.prod(block) <= BLOCK_VOXELS
    assert all(n <= size for n, size in zip(block, shape, strict=True))


def test_two_dimensions(tmp_path: Path):
    prepared = prepared_case((1, 40, 50), channels=3)
    store.write_case(tmp_path, "a", prepared, patch_size=(16, 16), key="")
    case = store.open_case(tmp_path, "a")
    assert case.record.labels is not None
    assert case.record.labels.block == (1, 16, 16)
    assert np.array_equal(case.read_image(Box((0, 3, 4), (1, 30, 50))), prepared.image[:, :, 3:30, 4:])


def test_array_of_many_blocks_is_one_file_with_its_own_index(tmp_path: Path):
    array = np.arange(10, dtype=np.int16)
    record = write_array(tmp_path / "a.blocks", array, "int16", (4,))
    assert (record.shape, record.block, record.file_bytes) == ((10,), (4,), (tmp_path / "a.blocks").stat().st_size)
    assert StoredArray(tmp_path / "a.blocks", record, "").read((3,), (6,)).tolist() == [3, 4, 5, 6, 7, 8]


# --- completeness ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the case ``a``."""
    folder = tmp_path / "3d_fullres"
    store.write_case(folder, "a", prepared_case(), patch_size=PATCH, key="made so")
    return folder


def test_complete_only_with_the_same_key(folder: Path):
    assert store.is_complete(folder, "a", "made so")
    assert not store.is_complete(folder, "a", "made otherwise")
    assert not store.is_complete(folder, "b", "made so")


def test_missing_case_says_what_to_run(folder: Path):
    with pytest.raises(FileUnreadableError, match=r"b: prepared case missing .*medseg preprocess -c 3d_fullres"):
        store.open_case(folder, "b")


@pytest.mark.parametrize("file", ["case.json", "image.blocks", "labels.blocks", "foreground.blocks"])
def test_missing_or_cut_file_is_not_complete(folder: Path, file: str):
    path = folder / "a" / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert not store.is_complete(folder, "a", "made so")
    path.unlink()
    assert not store.is_complete(folder, "a", "made so")
    with pytest.raises(FileUnreadableError, match=r"delete .*a and run: medseg preprocess"):
        store.open_case(folder, "a")


def test_changed_document_is_noticed(folder: Path):
    path = folder / "a" / "case.json"
    document = json.loads(path.read_text())
    document["trace"]["crop"]["stop"][0] -= 1
    path.write_text(json.dumps(document))
    with pytest.raises(FileUnreadableError, match="checksum"):
        store.open_case(folder, "a")


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_flipped_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    folder = tmp_path_factory.mktemp("flipped")
    store.write_case(folder, "a", prepared_case((5, 6, 7), 1), patch_size=(4, 4, 4), key="")
    sound = store.open_case(folder, "a")
    path = data.draw(st.sampled_from(sorted((folder / "a").iterdir())))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        flipped = store.open_case(folder, "a")
        flipped.verify()
    except FileUnreadableError as error:
        assert "medseg preprocess -c flipped" in str(error)
    else:
        assert (path.suffix, flipped.record) == (".json", sound.record), "only white space may change unseen"


def test_flipped_bit_in_a_block_is_noticed_when_that_block_is_read(folder: Path):
    path = folder / "a" / "image.blocks"
    content = bytearray(path.read_bytes())
    content[10] ^= 4
    path.write_bytes(content)
    case = store.open_case(folder, "a")
    far, near = Box((12, 36, 21), (13, 37, 22)), Box((0, 0, 0), (1, 1, 1))
    if case.record.image.block[1:] != SHAPE:
        assert case.read_image(far).shape == (2, 1, 1, 1)
    with pytest.raises(FileUnreadableError, match=r"image\.blocks: .*block 0 does not match"):
        case.read_image(near)
    with pytest.raises(FileUnreadableError):
        case.read_image()
    assert case.read_labels().shape == SHAPE


def test_failed_writing_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medseg.documents.save", no_space)
    with pytest.raises(StorageError, match="No space left"):
        store.write_case(folder, "a", prepared_case(seed=1), patch_size=PATCH, key="newer")
    with pytest.raises(StorageError):
        store.write_case(folder, "b", prepared_case(), patch_size=PATCH, key="newer")
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert store.is_complete(folder, "a", "made so")
    assert np.array_equal(store.open_case(folder, "a").read_image(), prepared_case().image)


def test_rewriting_takes_the_place(folder: Path):
    store.write_case(folder, "a", prepared_case(seed=1), patch_size=PATCH, key="newer")
    assert store.is_complete(folder, "a", "newer")
    assert np.array_equal(store.open_case(folder, "a").read_image(), prepared_case(seed=1).image)


def test_killed_writer_leaves_nothing_that_counts(folder: Path):
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        import medseg.documents
        medseg.documents.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        from medseg import store
        from test_store import PATCH, prepared_case
        store.write_case(Path({str(folder)!r}), "a", prepared_case(seed=1), patch_size=PATCH, key="newer")
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(path.name for path in folder.iterdir())[0].startswith(".partial-")
    assert not store.is_complete(folder, "a", "newer")
    assert np.array_equal(store.open_case(folder, "a").read_image(), prepared_case().image)
    store.discard_partial(folder)
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_moved_folder_still_opens(folder: Path, tmp_path: Path):
    shutil.move(folder, tmp_path / "elsewhere")
    assert store.is_complete(tmp_path / "elsewhere", "a", "made so")


def test_document_of_another_version_is_refused(folder: Path):
    (folder / "a" / "case.json").write_text('{"version": 2}')
    with pytest.raises(FileUnreadableError, match="version"):
        store.open_case(folder, "a")
