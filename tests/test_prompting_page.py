"""The page to click on: what its server answers and refuses, and the page itself in a browser."""

from __future__ import annotations

import http.client
import io as streams
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, find_chromium
from dicom_out_examples import grid_of, read_segmentation, write_ball
from examples import oblique_geometry
from PIL import Image
from test_prompting_session import Painter
from test_prompting_unet import GRIDS, scan, write_promptable

from medseg import io
from medseg.errors import StorageError, UsageError
from medseg.prompting import Box, Point, Session, load
from medseg.prompting.page import PageServer
from medseg.prompting.saving import require_writable, save_mask
from medseg.volume import Geometry, LabelVolume, Volume

GRID = Geometry.from_spacing((6, 8, 10), (2.0, 1.0, 0.5), (5.0, 6.0, 7.0))


def painting(image: Volume) -> Session:
    session = Session(Painter())
    session.set_image(image)
    return session


@contextmanager
def served(session: Session, output: Path) -> Iterator[PageServer]:
    """A server in a thread of its own, which saves to a file."""

    def save(mask: LabelVolume) -> str:
        io.write(mask, output)
        return output.name

    server, stop = PageServer(session, save), threading.Event()
    thread = threading.Thread(target=server.run, args=(stop.is_set,))
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        thread.join()
        server.close()


def ask(url: str, content: Any = None, method: str | None = None) -> tuple[int, bytes]:
    """Status and body; what has content is a POST."""
    data = content if isinstance(content, bytes) or content is None else json.dumps(content).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def value(url: str, content: Any = None) -> Any:
    status, body = ask(url, content)
    assert status == 200, body
    return json.loads(body)


def refusal(url: str, content: Any = None, method: str | None = None) -> tuple[int, str]:
    status, body = ask(url, content, method)
    message = json.loads(body)["error"]
    assert "\n" not in message
    return status, message


BOX = {"kind": "box", "start": [1, 2, 3], "stop": [3, 5, 7]}
POINT = {"kind": "point", "at": [4, 4, 4], "object": 2}


def test_prompts_in_masks_out_and_the_file_is_the_session_s_mask(tmp_path: Path):
    session = painting(Volume(np.zeros((1, *GRID.shape), np.float32), GRID))
    expected = painting(session.image)
    with served(session, tmp_path / "mask.nii.gz") as server:
        found = value(server.url + "state")
        assert found["shape"] == [6, 8, 10]
        np.testing.assert_allclose(np.array(found["to_mm"]) @ (1, 2, 3, 1), GRID.to_mm((1, 2, 3)))
        np.testing.assert_allclose(np.array(found["to_index"]) @ (*GRID.to_mm((1, 2, 3)), 1), (1, 2, 3))
        first = value(server.url + "add", {"prompts": [BOX]})
        assert first["volume_ml"] == {"1": pytest.approx(0.024)}
        assert (first["mask"]["start"], first["mask"]["stop"]) == ([1, 2, 3], [3, 5, 7])
        value(server.url + "add", {"prompts": [POINT]})
        assert len(value(server.url + "add", {"prompts": [{**BOX, "positive": False}]})["steps"]) == 3
        assert len(value(server.url + "undo", b"")["steps"]) == 2
        assert value(server.url + "save", b"") == {"saved": "mask.nii.gz"}
        _, nifti = ask(server.url + "mask.nii")
    expected.add(Box((1, 2, 3), (3, 5, 7)))
    mask = expected.add(Point((4, 4, 4), object=2))
    (tmp_path / "served.nii").write_bytes(nifti)
    for path in (tmp_path / "mask.nii.gz", tmp_path / "served.nii"):
        saved = io.read_labels(path)
        saved.geometry.require_equal(GRID, "mask", "image")
        np.testing.assert_array_equal(saved.array, mask.array)


def test_the_image_arrives_channel_by_channel(tmp_path: Path):
    grid = oblique_geometry((5, 7, 6), (2.0, 1.0, 1.0), "LPS", 12)
    image = Volume(np.random.default_rng(0).normal(size=(2, *grid.shape)), grid)
    with served(painting(image), tmp_path / "mask.nii.gz") as server:
        for channel in range(2):
            (tmp_path / "image.nii").write_bytes(ask(f"{server.url}image-{channel}.nii")[1])
            read = io.read(tmp_path / "image.nii")
            read.geometry.require_equal(grid, "served", "image")
            np.testing.assert_allclose(read.array[0], image.array[channel], rtol=1e-6)
        assert refusal(server.url + "image-2.nii") == (400, "channel 2: the image has channels 0 to 1")


def test_only_who_knows_the_token_is_answered(tmp_path: Path):
    with served(painting(scan(GRID)), tmp_path / "mask.nii.gz") as server:
        root, token = re.fullmatch(r"(http://127\.0\.0\.1:\d+/)([\w-]{32})/", server.url).groups()
        for path in ("", "state", "index.html", token[:-1] + "/state", "é/state".encode().hex(), "/state", token[::-1]):
            assert refusal(root + path)[0] == 403
        assert refusal(root + "add", {"prompts": [BOX]})[0] == 403
        assert not value(server.url + "state")["steps"]
        assert ask(server.url)[0] == ask(server.url + "niivue.js")[0] == 200
        connection = http.client.HTTPConnection("127.0.0.1", int(root.split(":")[2][:-1]))
        connection.request("GET", f"/{token}/state", headers={"Host": "elsewhere.example"})
        assert connection.getresponse().status == 403  # another name that leads here
        connection.close()
    with served(painting(scan(GRID)), tmp_path / "mask.nii.gz") as server:
        assert server.url.split("/")[3] != token


def test_bad_requests_are_one_line_and_change_nothing(tmp_path: Path):
    with served(painting(scan(GRID)), tmp_path / "none" / "mask.nii.gz") as server:
        for prompts, message in [
            ([{**BOX, "stop": [9, 9, 99]}], "outside of the image of 6 x 8 x 10 voxels"),
            ([{**BOX, "stop": [1, 5, 7]}], "empty along z"),
            ([{**POINT, "at": [0, 0, 10]}], "outside of the image"),
            ([{**POINT, "at": [0, 0, float("nan")]}], "three finite"),
            ([{**POINT, "object": 300}], "objects from 1 to 255"),
            ([{**POINT, "object": 0}], "numbered from 1"),
            ([{**POINT, "positive": False}], "all its prompts are negative"),
            ([{"kind": "ball"}], r"prompts[0]: expected a prompt whose kind"),
            ([{"kind": []}], r"prompts[0]: expected a prompt whose kind"),
            ([POINT, 5], "prompts[1]"),
            ([], "no prompt is given"),
            ("box", "expected"),
        ]:
            status, found = refusal(server.url + "add", {"prompts": prompts})
            assert (status, message in found) == (400, True), found
        assert refusal(server.url + "add", b"{nonsense") == (400, "the request is not valid JSON")
        assert refusal(server.url + "add", b"[" * 100_000)[0] == 400
        assert refusal(server.url + "add", b" " * 1_000_001)[0] == 413
        assert refusal(server.url + "undo", b"")[0] == 400
        assert refusal(server.url + "save", b"") == (400, "nothing to save: no prompt has been added")
        assert refusal(server.url + "other")[0] == refusal(server.url + "../server.py")[0] == 404
        assert refusal(server.url + "state", method="DELETE")[0] == 501
        assert not value(server.url + "state")["steps"]


def test_a_mask_that_cannot_be_written_is_said(tmp_path: Path):
    def save(mask: LabelVolume) -> str:
        raise StorageError("no space is left")

    session, stop = painting(scan(GRID)), threading.Event()
    session.add(Point((1, 1, 1)))
    server = PageServer(session, save)
    thread = threading.Thread(target=server.run, args=(stop.is_set,))
    thread.start()
    assert refusal(server.url + "save", b"") == (500, "no space is left")
    value(server.url + "add", {"prompts": [POINT]})
    stop.set()
    thread.join()
    assert server.close() is False
    with pytest.raises(UsageError, match="objects from 1 to 255"):
        session.add(Point((1, 1, 1), object=300))
        PageServer(session, save)


def test_a_dicom_series_gets_a_seg(tmp_path: Path):
    files = write_ball(tmp_path / "series")
    session = painting(io.read(tmp_path / "series"))
    mask = session.add(Box((2, 3, 4), (5, 9, 9)), Point((7, 2, 2), object=2))
    require_writable(tmp_path / "mask.dcm", tmp_path / "series")
    save_mask(mask, tmp_path / "mask.dcm", tmp_path / "series", "painter")
    again = io.read_labels(tmp_path / "mask.dcm", grid=mask.geometry, image=tmp_path / "series")
    np.testing.assert_array_equal(again.array, mask.array)
    assert set(read_segmentation(tmp_path / "mask.dcm", grid_of(files))) == {"object 1", "object 2"}
    io.write(scan(GRID), tmp_path / "scan.nii.gz")
    with pytest.raises(UsageError, match="refers to DICOM images"):
        require_writable(tmp_path / "mask.dcm", tmp_path / "scan.nii.gz")


def test_the_command_prints_the_address_and_ends_on_ctrl_c(tmp_path: Path):
    io.write(scan(GRIDS[2]), tmp_path / "scan.nii.gz")
    model = write_promptable(tmp_path / "model")
    command = ["prompt", "--ui", "scan.nii.gz", "--checkpoint", str(model), "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "medseg", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert process.stdout is not None
    url = re.search(r"http://\S+/", process.stdout.readline())[0]  # type: ignore[index]
    value(url + "add", {"prompts": [{"kind": "box", "start": [4, 2, 1], "stop": [20, 9, 6]}]})
    assert value(url + "save", b"") == {"saved": "scan_mask.nii.gz"}
    value(url + "add", {"prompts": [{"kind": "point", "at": [6, 5, 4]}]})
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert out == "ended; prompts since the last saving are lost\n"
    session = load(model, "cpu")
    session.set_image(tmp_path / "scan.nii.gz")
    expected = session.add(Box((4, 2, 1), (20, 9, 6)))
    np.testing.assert_array_equal(io.read_labels(tmp_path / "scan_mask.nii.gz").array, expected.array)


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine")
    with Browser(executable) as opened:
        yield opened


def opened(browser: Browser, server: PageServer) -> list[dict[str, Any]]:
    """Open the page; its three planes in the window's pixels."""
    browser.open(server.url)
    browser.wait(f"location.href === {server.url!r} && window.medseg && window.medseg.ready()", 60)
    return planes(browser)


def planes(browser: Browser) -> list[dict[str, Any]]:
    left, top = browser.value(
        "(({left, top}) => [left, top])(document.getElementById('canvas').getBoundingClientRect())"
    )
    found = browser.value("medseg.tiles().map((tile) => ({...tile, slice: tile.slice}))")
    return [{**tile, "left": tile["left"] + left, "top": tile["top"] + top} for tile in found]


def settled(browser: Browser, steps: int) -> None:
    browser.wait(f"!medseg.busy() && medseg.steps().length === {steps}")


def use(browser: Browser, tool: str) -> None:
    browser.value(f"document.querySelector('input[name=tool][value={tool}]').click()")


def picture(browser: Browser, tile: dict[str, Any], path: Path) -> np.ndarray:
    """What a plane looks like, (H, W, 3)."""
    browser.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    image = np.asarray(Image.open(streams.BytesIO(browser.screenshot(path).read_bytes())).convert("RGB"), int)
    y, x = round(tile["top"]), round(tile["left"])
    return image[y : y + round(tile["height"]), x : x + round(tile["width"])]


def test_from_a_drawn_box_to_a_saved_mask(browser: Browser, tmp_path: Path):
    model = write_promptable(tmp_path / "model")
    image = scan(oblique_geometry((20, 24, 18), (1.0, 1.0, 1.0), "LPS", 5))
    session, python = load(model, "cpu"), load(model, "cpu")
    session.set_image(image)
    python.set_image(image)
    with served(session, tmp_path / "mask.nii.gz") as server:
        tile = opened(browser, server)[0]

        def at(x: float, y: float) -> tuple[float, float]:
            return tile["left"] + x * tile["width"], tile["top"] + y * tile["height"]

        browser.value("document.getElementById('depth').value = 5")
        browser.drag(at(0.3, 0.3), at(0.7, 0.6))
        settled(browser, 1)
        use(browser, "outside")
        browser.click(at(0.4, 0.4))
        settled(browser, 2)
        browser.value("document.getElementById('object').value = 2")
        use(browser, "inside")
        browser.click(at(0.8, 0.8))
        settled(browser, 3)
        browser.click(at(0.2, 0.8))
        settled(browser, 4)
        browser.value("document.getElementById('undo').click()")
        settled(browser, 3)
        (box,), (outside,), (second,) = session.steps
        assert isinstance(box, Box)
        assert box.stop[tile["through"]] - box.start[tile["through"]] == 5
        assert (outside.positive, second.object) == (False, 2)
        mask = python.replay(session.steps)
        for number in (1, 2):
            assert browser.value(f"medseg.voxels({number})") == (mask.array == number).sum() > 0
        browser.value("document.getElementById('save').click()")
        browser.wait("document.getElementById('status').textContent.startsWith('saved: mask.nii.gz')")
        saved = io.read_labels(tmp_path / "mask.nii.gz")
        saved.geometry.require_equal(image.geometry, "mask", "image")
        np.testing.assert_array_equal(saved.array, mask.array)
