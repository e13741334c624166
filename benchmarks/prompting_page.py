"""How long a click on the page takes until the new mask has arrived.

    python -m benchmarks.prompting_page MODEL SCAN [--clicks 10] [--device cpu]

MODEL is the folder of a promptable network or a checkpoint of SAM. The scan is embedded first, as when the page opens.
Then a box around its middle and clicks within that box are sent to the page's server as the page sends them. Measured
is the time from a request to its whole answer; drawing it is the browser's part, and the page shows the sum.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from medseg import io
from medseg.prompting import load
from medseg.prompting.page import PageServer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--clicks", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    image = io.read(given.scan)
    session = load(given.model, given.device)
    began = time.perf_counter()
    session.set_image(image)
    print(f"{image.geometry}: opened in {time.perf_counter() - began:.2f} s")
    shape = np.array(image.geometry.shape)
    start, stop = shape // 3, np.maximum(shape - shape // 3, shape // 3 + 1)
    random = np.random.default_rng(0)
    prompts: list[dict[str, Any]] = [{"kind": "box", "start": start.tolist(), "stop": stop.tolist()}]
    for number in range(given.clicks):
        prompts.append({"kind": "point", "at": random.integers(start, stop).tolist(), "positive": number % 2 == 0})
    server, stopped = PageServer(session, lambda _: ""), threading.Event()
    thread = threading.Thread(target=server.run, args=(stopped.is_set,))
    thread.start()
    seconds = []
    try:
        for prompt in prompts:
            request = urllib.request.Request(server.url + "add", json.dumps({"prompts": [prompt]}).encode())
            began = time.perf_counter()
            with urllib.request.urlopen(request) as answer:
                answer.read()
            seconds.append(time.perf_counter() - began)
    finally:
        stopped.set()
        thread.join()
        server.close()
    print(f"box: {seconds[0]:.3f} s; clicks: median {np.median(seconds[1:]):.3f} s, longest {max(seconds[1:]):.3f} s")


if __name__ == "__main__":
    main()
