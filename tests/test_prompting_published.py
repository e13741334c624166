"""Published checkpoints: the table, names as paths, and ``medseg weights``."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medseg import cli
from medseg.errors import ModelError, UsageError
from medseg.prompting import load, published
from medseg.prompting.download import partial_of
from medseg.prompting.loading import ENGINES
from medseg.prompting.published import PUBLISHED, WEIGHTS_FOLDER, Published, by_name, fetch, located

CONTENT = b"weights"
SMALL = Published(
    "small", "sam", "small.pth", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "MIT", "https://page", "https://x"
)
GATED = replace(SMALL, name="gated", file="gated/model.safetensors", url=None)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: Any, *words: str) -> str:
    """The one line of a command that ends with code 2."""
    capsys.readouterr()
    assert cli.run(list(words)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_the_table_is_well_formed():
    names, files, digests = ([getattr(each, part) for each in PUBLISHED] for part in ("name", "file", "sha256"))
    for unique in (names, files, digests):
        assert len(set(unique)) == len(PUBLISHED)
    for each in PUBLISHED:
        assert re.fullmatch(r"[0-9a-f]{64}", each.sha256)
        assert each.page.startswith("https://")
        assert each.size_bytes > 100e6
        if each.url is not None:
            assert each.url.startswith("https://")
            assert each.url.endswith("/" + each.file)
    assert [each.name for each in PUBLISHED if each.url is None] == ["sam3"]
    assert {each.engine for each in PUBLISHED} == set(ENGINES) - {"auto", "unet"}


def test_names_are_found_or_listed():
    assert by_name("medsam-vit-b").file == "medsam_vit_b.pth"
    assert by_name("sam2.1-hiera-base-plus").file == "sam2.1_hiera_base_plus.pt"
    with pytest.raises(UsageError, match=r"known are sam-vit-b, .*medsam-vit-b"):
        by_name("medsam")


def test_a_name_means_the_file_in_the_visible_folder_and_a_path_itself(tmp_path: Path):
    with pytest.raises(
        ModelError, match=r"medseg weights get medsam-vit-b, or put medsam_vit_b.pth from https://zenodo"
    ):
        located("medsam-vit-b")
    WEIGHTS_FOLDER.mkdir()
    (WEIGHTS_FOLDER / "medsam_vit_b.pth").write_bytes(CONTENT)
    assert located("medsam-vit-b") == WEIGHTS_FOLDER / "medsam_vit_b.pth"
    assert located(Path("medsam-vit-b")) == WEIGHTS_FOLDER / "medsam_vit_b.pth"
    Path("medsam-vit-b").mkdir()
    assert located("medsam-vit-b") == Path("medsam-vit-b")  # what there is wins
    with pytest.raises(ModelError, match=r"no such checkpoint.*medseg weights list"):
        located(tmp_path / "nothing.pth")
    with pytest.raises(ModelError, match=r"weights get medsam-vit-b -o elsewhere, or put medsam_vit_b.pth from https"):
        located("elsewhere/medsam_vit_b.pth")  # a file that is known, where it is not


def test_a_checkpoint_that_is_a_folder_is_given_as_one():
    with pytest.raises(ModelError, match=r"account.*SAM License.*huggingface.co/facebook/sam3.*medseg-weights/sam3$"):
        located("sam3")
    (WEIGHTS_FOLDER / "sam3").mkdir(parents=True)
    assert located("sam3") == WEIGHTS_FOLDER / "sam3"


def test_a_session_and_its_commands_take_names(capsys: Any):
    with pytest.raises(ModelError, match="medseg weights get sam-vit-b"):
        load("sam-vit-b", "cpu")
    Path("boxes.csv").write_text("case,label,z0,y0,x0,z1,y1,x1\na,one,0,0,0,2,2,2\n")
    proposing = ("pseudo-label", "scans", "--prompts", "boxes.csv", "--checkpoint", "sam-vit-b", "-o", "out")
    assert "medseg weights get sam-vit-b" in refused(capsys, *proposing)


def test_fetching(tmp_path: Path):
    partial_of(tmp_path / "small.pth").write_bytes(CONTENT)
    assert fetch(SMALL, tmp_path) == tmp_path / "small.pth"
    assert fetch(SMALL, tmp_path) == tmp_path / "small.pth"  # verified, no network
    (tmp_path / "small.pth").write_bytes(b"others")
    with pytest.raises(ModelError, match=r"small.pth: not the file of small: expected SHA-256 \w{64}, found \w{64}"):
        fetch(SMALL, tmp_path)
    assert (tmp_path / "small.pth").read_bytes() == b"others"
    with pytest.raises(ModelError, match=f"account.*put model.safetensors .*into {tmp_path}/gated"):
        fetch(GATED, tmp_path)
    (tmp_path / "gated").mkdir()
    (tmp_path / "gated" / "model.safetensors").write_bytes(CONTENT)
    assert fetch(GATED, tmp_path) == tmp_path / "gated"


def test_from_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    unreachable = replace(SMALL, name="away", file="away.pth", url="https://127.0.0.1:1/away.pth")
    monkeypatch.setattr(published, "PUBLISHED", (SMALL, GATED, unreachable))
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def printed(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert cli.run(["weights", *words]) == code
        return capsys.readouterr().out

    assert "holds none" in printed("check")
    WEIGHTS_FOLDER.mkdir()
    partial_of(WEIGHTS_FOLDER / "small.pth").write_bytes(CONTENT)
    assert "--checkpoint small" in printed("get", "small")
    assert json.loads(printed("get", "small", "--json"))["checkpoint"] == "medseg-weights/small.pth"
    rows = {line.split()[0]: line for line in printed("list").splitlines()}
    assert " yes " in rows["small"]
    assert " no " in rows["gated"]
    assert "with an account" in rows["gated"]
    assert [each["here"] for each in json.loads(printed("list", "--json"))] == [True, False, False]
    assert [each["here"] for each in json.loads(printed("list", "-o", "other", "--json"))] == [False] * 3
    assert "small: SHA-256 as published" in printed("check")
    (WEIGHTS_FOLDER / "small.pth").write_bytes(b"others")
    assert "small.pth: not the file of small" in printed("check", code=1)
    assert "small.pth" in json.loads(printed("check", "--json", code=1))[0]["problem"]

    assert "known are small, gated, away" in refused(capsys, "weights", "get", "medsam")
    assert "ask for an account" in refused(capsys, "weights", "get", "gated")
    line = refused(capsys, "weights", "get", "away")
    assert "https://127.0.0.1:1/away.pth: cannot be fetched (Connection refused)" in line
    assert line.endswith("put it there: medseg-weights/away.pth")
    assert "remove it and get it again" in refused(capsys, "weights", "get", "small")
    assert "See: medseg weights --help" in refused(capsys, "weights")
