"""The page's server: this machine alone reaches it, and only who knows the address with its token.

    GET  index.html page.js geometry.js style.css niivue.js   the page
    GET  state                       the prompts and the mask so far, the grid
    GET  image-CHANNEL.nii mask.nii  NIfTI
    GET  progress                    how far the work under way is
    POST add                         {"prompts": [...]}: the state after one more step
    POST undo                        the state after one step less
    POST save                        {"saved": where}

All of it lies below ``/TOKEN/``. What is refused is answered by ``{"error": one line}`` and a status.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from medseg.errors import MedsegError, StorageError
from medseg.prompting.page.desk import Desk
from medseg.prompting.session import Session
from medseg.volume import LabelVolume

LOOPBACK = "127.0.0.1"
LARGEST_REQUEST_BYTES = 1_000_000
_JSON = "application/json"
_NIFTI = "application/octet-stream"
_FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "geometry.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "niivue.js": "text/javascript; charset=utf-8",
}
# NiiVue holds its font and pictures as data: addresses, and decodes in workers made from blobs.
_CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:;"
    " style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PageServer:
    """Serves a session with an image on a free port of the loopback device, from its making to :meth:`close`.

    Args:
        session: with an image; nothing else may use it meanwhile.
        save: writes the mask when the page asks for it, and says where it lies.
        name: of the image, to be shown.
    """

    def __init__(self, session: Session, save: Callable[[LabelVolume], str], *, name: str = "scan") -> None:
        self._desk = Desk(session, save, name)
        self._server = _Server((LOOPBACK, 0), _Handler)
        self._server.desk, self._server.token = self._desk, secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """The address of the page; who has it may do all that the page can."""
        return f"http://{LOOPBACK}:{self._server.server_port}/{self._server.token}/"

    def run(self, stop: Callable[[], bool]) -> None:
        """Answer requests until ``stop`` becomes true."""
        while not stop():
            self._server.handle_request()

    def close(self) -> bool:
        """Let the work under way end, then free the port; whether the mask was saved since it last changed."""
        saved = self._desk.finish()
        self._server.server_close()
        return saved


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    timeout = 0.2  # seconds between looks at whether to stop
    desk: Desk
    token: str

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""


class _RefusalError(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a silent connection stays open

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: object) -> None:
        """Addresses hold the token, and images their names: nothing is logged."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Requests that are no HTTP, or of another method."""
        self.close_connection = True
        self._send(code, _JSON, _json({"error": message or HTTPStatus(code).phrase}))

    def _answer(self, work: Callable[[str], tuple[str, bytes]]) -> None:
        try:
            kind, body = work(self._inner_path())
        except _RefusalError as error:
            self.send_error(error.status, str(error))
        except StorageError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        except MedsegError as error:
            self.send_error(HTTPStatus.BAD_REQUEST, str(error))
        except ConnectionError:
            self.close_connection = True
        except Exception as error:  # a thread's end would leave the page waiting
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, f"unexpected {type(error).__name__}")
        else:
            self._send(HTTPStatus.OK, kind, body)

    def _inner_path(self) -> str:
        """What follows the token.

        Raises:
            _RefusalError: there is no token, or the request came by another name than this machine's.
        """
        host = self.headers.get("Host", "")
        token, _, path = self.path.split("?")[0].removeprefix("/").partition("/")
        if host not in (f"{name}:{self.server.server_port}" for name in (LOOPBACK, "localhost")) or not (
            hmac.compare_digest(token.encode(), self.server.token.encode())
        ):
            raise _RefusalError(HTTPStatus.FORBIDDEN, "open the whole address that medseg printed, token and all")
        return path or "index.html"

    def _get(self, path: str) -> tuple[str, bytes]:
        desk = self.server.desk
        if path in _FILES:
            return _FILES[path], (resources.files("medseg.prompting.page") / path).read_bytes()
        if match := re.fullmatch(r"image-(\d{1,6})\.nii", path):
            return _NIFTI, desk.image(int(match[1]))
        match path:
            case "state":
                return _JSON, _json(desk.state())
            case "progress":
                return _JSON, _json(desk.progress())
            case "mask.nii":
                return _NIFTI, desk.mask()
        raise _RefusalError(HTTPStatus.NOT_FOUND, "no such page")

    def _post(self, path: str) -> tuple[str, bytes]:
        content, desk = self._content(), self.server.desk
        match path:
            case "add":
                return _JSON, _json(desk.add(content))
            case "undo":
                return _JSON, _json(desk.undo())
            case "save":
                return _JSON, _json(desk.save())
        raise _RefusalError(HTTPStatus.NOT_FOUND, "no such page")

    def _content(self) -> Any:
        """The JSON that was sent, or None."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            raise _RefusalError(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is")
        if int(length) > LARGEST_REQUEST_BYTES:
            raise _RefusalError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may hold {LARGEST_REQUEST_BYTES} bytes, found {length}"
            )
        body = self.rfile.read(int(length))
        try:
            return json.loads(body) if body else None
        except (ValueError, RecursionError):
            raise _RefusalError(HTTPStatus.BAD_REQUEST, "the request is not valid JSON") from None

    def _send(self, status: int, kind: str, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Content-Security-Policy", _CONTENT_POLICY)
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()
