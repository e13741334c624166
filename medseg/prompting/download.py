"""A large file from the network: what came goes on after a break, and takes its place only if it is what was meant."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from medseg import __version__, atomic
from medseg.errors import DownloadError, StorageError
from medseg.progress import Progress, silent

SECURE = ("https",)
_BLOCK_BYTES = 1 << 20
# Seconds without a byte after which a server counts as away.
_PATIENCE_S = 30.0


def download(
    url: str,
    target: Path,
    *,
    size_bytes: int,
    sha256: str,
    schemes: tuple[str, ...] = SECURE,
    progress: Progress = silent,
) -> None:
    """Download a file whose size and SHA-256 are known. Until both agree it is called ``TARGET.partial``.

    Args:
        schemes: of the addresses that may be opened, after redirections too.

    Raises:
        DownloadError: the file did not come, or another one came.
        StorageError: the folder cannot be written, or has no space.
    """
    partial = partial_of(target)
    try:
        if _size(partial) != size_bytes:
            _receive(url, target, size_bytes, schemes, progress)
        found = digest(partial, progress)
        if found != sha256:
            partial.unlink()
            raise DownloadError(
                f"{url}: expected SHA-256 {sha256}, found {found}; what came is removed, run it again, and if that"
                " does not help it is another file now"
            )
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise atomic.storage_error(error, target) from error


def partial_of(target: Path) -> Path:
    """What a file is called until all of it is there."""
    return target.with_name(f"{target.name}.partial")


def digest(path: Path, progress: Progress = silent) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    total, done, found = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            found.update(block)
            done += len(block)
            progress(done, total, f"verifying {path.name}")
    return found.hexdigest()


def _receive(url: str, target: Path, size: int, schemes: tuple[str, ...], progress: Progress) -> None:
    """Fetch what is missing of a file, or all of it from a server that does not send parts."""
    if urlsplit(url).scheme not in schemes:
        raise DownloadError(f"{url}: expected an address that begins with {schemes[0]}://")
    partial = partial_of(target)
    done = _size(partial) if _size(partial) < size else 0
    headers = {"User-Agent": f"medseg/{__version__}"} | ({"Range": f"bytes={done}-"} if done else {})
    with _network(url, target):
        response = build_opener(_Redirections(schemes)).open(Request(url, headers=headers), timeout=_PATIENCE_S)
    with response:
        if response.status != 206:
            done = 0
        announced = response.headers.get("Content-Length")
        if announced is not None and done + int(announced) != size:
            raise DownloadError(
                f"{url}: expected {size} bytes, found {done + int(announced)}: not the file that was published"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < size - done:
            raise StorageError(
                f"cannot write {target}: {(size - done) / 1e6:.0f} MB are to come and {free / 1e6:.0f} MB are free;"
                " choose a folder with space"
            )
        with partial.open("ab" if done else "wb") as file:
            while done < size:
                with _network(url, target):
                    block = response.read(_BLOCK_BYTES)
                if not block:
                    raise DownloadError(
                        f"{url}: the connection ended after {done} of {size} bytes; the same command goes on"
                    )
                file.write(block)
                done += len(block)
                progress(done, size, f"downloading {target.name}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def _network(url: str, target: Path) -> Iterator[None]:
    """What fails within is the network's fault."""
    try:
        yield
    except (OSError, HTTPException) as error:
        raise DownloadError(
            f"{url}: cannot be fetched ({_reason(error)}); fetch it where that is possible and put it there: {target}"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        error.close()
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, URLError) else error
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__)


class _Redirections(HTTPRedirectHandler):
    """Follows a server to others, but never to where anybody could change what comes."""

    def __init__(self, schemes: tuple[str, ...]) -> None:
        self.schemes = schemes

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme not in self.schemes:
            raise DownloadError(f"{req.full_url}: leads to {newurl}; expected {self.schemes[0]}://")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
