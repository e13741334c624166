"""Downloads from a server on this machine: whole, in parts, cut off, another file than was meant, or not at all."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest

from medseg.errors import DownloadError, StorageError
from medseg.prompting.download import digest, download, partial_of

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PLAIN = ("https", "http")


class Server:
    """Serves CONTENT at ``/file``; ``cut`` ends the first answer after so many bytes, ``parts`` is for ranges."""

    def __init__(self) -> None:
        self.cut: int | None = None
        self.parts = True
        self.content = CONTENT
        self.announces = True
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers["Range"]
        self.asked.append((request.path, asked))
        if request.path.startswith("/to/"):
            request.send_response(302)
            request.send_header("Location", request.path.removeprefix("/to/"))
            request.end_headers()
            return
        if request.path != "/file":
            request.send_error(404)
            return
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.parts else 0
        request.send_response(206 if first else 200)
        if self.announces:
            request.send_header("Content-Length", str(len(self.content) - first))
        request.end_headers()
        request.wfile.write(self.content[first : self.cut])
        self.cut = None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def get(url: str, target: Path, **changes: object) -> list[tuple[float, float, str]]:
    seen: list[tuple[float, float, str]] = []
    given = {"size_bytes": len(CONTENT), "sha256": SHA256, "schemes": PLAIN} | changes
    download(url, target, progress=lambda *step: seen.append(step), **given)  # type: ignore[arg-type]
    return seen


def test_a_file_comes_whole_and_says_how_far_it_is(server: Server, tmp_path: Path):
    target = tmp_path / "new" / "weights.pth"
    seen = get(f"{server.url}/file", target)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["weights.pth"]
    assert digest(target) == SHA256
    for what in ("downloading weights.pth", "verifying weights.pth.partial"):
        steps = [done for done, total, said in seen if said == what and total == len(CONTENT)]
        assert steps == sorted(steps)
        assert steps[-1] == len(CONTENT)


@pytest.mark.parametrize("parts", [True, False])
def test_what_was_cut_off_goes_on(server: Server, tmp_path: Path, parts: bool):
    target, server.cut, server.parts = tmp_path / "w.pth", 2_000_000, parts
    with pytest.raises(DownloadError, match="after 2000000 of 3000000 bytes; the same command goes on"):
        get(f"{server.url}/file", target)
    assert not target.exists()
    assert partial_of(target).read_bytes() == CONTENT[:2_000_000]
    seen = get(f"{server.url}/file", target)
    assert target.read_bytes() == CONTENT
    assert server.asked == [("/file", None), ("/file", "bytes=2000000-")]
    assert seen[0][0] == (3_000_000 if parts else 1 << 20)  # a server without parts begins anew


def test_what_is_complete_needs_no_network(tmp_path: Path):
    target = tmp_path / "w.pth"
    partial_of(target).write_bytes(CONTENT)
    get("https://127.0.0.1:1/file", target, schemes=("https",))
    assert target.read_bytes() == CONTENT


def test_another_file_is_removed_and_named(server: Server, tmp_path: Path):
    target, server.content = tmp_path / "w.pth", CONTENT[:-1] + b"?"
    found = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(DownloadError, match=f"expected SHA-256 {SHA256}, found {found}") as error:
        get(f"{server.url}/file", target)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_another_size_is_known_before_anything_is_written(server: Server, tmp_path: Path):
    server.content = CONTENT + b"more"
    with pytest.raises(DownloadError, match="expected 3000000 bytes, found 3000004"):
        get(f"{server.url}/file", tmp_path / "sub" / "w.pth")
    assert list(tmp_path.iterdir()) == []
    server.announces = False  # then the bytes beyond the size show in the digest
    with pytest.raises(DownloadError, match="SHA-256"):
        get(f"{server.url}/file", tmp_path / "w.pth")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_fetched_says_what_to_put_where(server: Server, tmp_path: Path):
    target = tmp_path / "sub" / "w.pth"
    with pytest.raises(DownloadError, match=rf"/nothing: cannot be fetched \(HTTP 404 Not Found\).*{target}"):
        get(f"{server.url}/nothing", target)
    with pytest.raises(DownloadError, match=rf"cannot be fetched \(Connection refused\).*{target}"):
        get("http://127.0.0.1:1/file", target)
    assert list(tmp_path.iterdir()) == []


def test_only_https_unless_more_is_allowed(server: Server, tmp_path: Path):
    for url in (f"{server.url}/file", "file:///etc/hostname"):
        with pytest.raises(DownloadError, match="expected an address that begins with https://"):
            get(url, tmp_path / "w.pth", schemes=("https",))
    assert server.asked == []
    with pytest.raises(DownloadError, match=r"leads to ftp://127.0.0.1/file; expected https://"):
        get(f"{server.url}/to/ftp://127.0.0.1/file", tmp_path / "w.pth")
    get(f"{server.url}/to/{server.url}/file", tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


def test_a_folder_without_space_or_right(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="cannot write"):
        get(f"{server.url}/file", tmp_path / "file" / "w.pth")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_000))
    with pytest.raises(StorageError, match="3 MB are to come and 2 MB are free"):
        get(f"{server.url}/file", tmp_path / "w.pth")
    partial_of(tmp_path / "w.pth").write_bytes(CONTENT[:1_500_000])  # half of it has its space already
    get(f"{server.url}/file", tmp_path / "w.pth")
