"""How long SAM and SAM 2 take for a slice and for a prompt on it, with random weights.

    python -m benchmarks.prompting_sam [--threads 1 2] [--runs 3] [--networks vit_b tiny base_plus medsam2]

For slices of 256 and of 1024 pixels square: embed is what is done once a slice; answer, from a box to the slice's mask;
follow, for SAM 2, the next slice from memory when the bank is full (a slice with a prompt, six more, sixteen pointers),
its embedding not counted. Seconds are the fastest of the runs, and beside them, in brackets, of processor time: on a
machine with other work that is the figure to look at.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from medseg.prompting.sam.network import embed, low_resolution_logits, slice_logits
from medseg.prompting.sam.network import pixels as sam_pixels
from medseg.prompting.sam2.engine import SIZES
from medseg.prompting.sam2.memory import reach, remember, with_memory
from medseg.prompting.sam2.network import Features, decode, encode, pixels, slice_mask, without_memory
from medseg.prompting.sam2.weights import PUBLISHED, config_of
from medseg.prompting.slices.prompts import SlicePrompts

SLICES = (256, 1024)
NETWORKS = ("vit_b", "tiny", "base_plus", "medsam2")


def timed(work: Callable[[], Any], runs: int) -> str:
    """Seconds, and of processor time, of the fastest run."""
    taken = []
    for _ in range(runs):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        taken.append((time.process_time() - processor, time.perf_counter() - wall))
    processor, wall = min(taken)
    return f"{wall:8.2f} ({processor:.2f})"


def measure_sam(network: Any, picture: np.ndarray, runs: int) -> tuple[str, str, str]:
    """Embed, answer; SAM does not follow."""
    size, shape = network.config.vision_config.image_size, picture.shape[:2]
    box = SlicePrompts((shape[0] // 4, shape[1] // 4, shape[0] // 2, shape[1] // 2))
    embedding = embed(network, sam_pixels(picture, size, "sam"))

    def answer() -> None:
        slice_logits(low_resolution_logits(network, embedding, box, shape, "sam"), shape, size, "sam")

    return timed(lambda: embed(network, sam_pixels(picture, size, "sam")), runs), timed(answer, runs), ""


def measure_sam2(network: Any, picture: np.ndarray, runs: int) -> tuple[str, str, str]:
    """Embed, answer, follow."""
    size, shape = network.config.image_size, picture.shape[:2]
    box = SlicePrompts((shape[0] // 4, shape[1] // 4, shape[0] // 2, shape[1] // 2))
    features = Features.of(encode(network, pixels(picture, size)), network.device)
    first = decode(network, features, without_memory(network, features), box, shape)
    memory = remember(network, features, first, prompted=True)
    index = reach(network) + 1
    followed = dict.fromkeys(range(1, index), memory)

    def answer() -> None:
        slice_mask(decode(network, features, without_memory(network, features), box, shape), shape)

    def follow() -> None:
        coarse = with_memory(network, features, index, 1, {0: memory}, followed, 100)
        found = decode(network, features, coarse, SlicePrompts(), shape)
        remember(network, features, found, prompted=False)
        slice_mask(found, shape)

    return timed(lambda: encode(network, pixels(picture, size)), runs), timed(answer, runs), timed(follow, runs)


def network_of(name: str) -> Any:
    """A network with random weights."""
    from transformers import Sam2VideoModel, SamConfig, SamModel

    if name == "vit_b":
        return SamModel(SamConfig()).eval()
    hiera, size = ("tiny", SIZES["medsam2"]) if name == "medsam2" else (name, SIZES["sam2"])
    return Sam2VideoModel(config_of(PUBLISHED[hiera], size)).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    given = parser.parse_args()
    random = np.random.default_rng(0)
    print(f"{'network':10}{'slice':>7}{'threads':>9}{'embed':>18}{'answer':>18}{'follow':>18}")
    for name in given.networks:
        network = network_of(name)
        for side in SLICES:
            picture = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
            for threads in given.threads:
                torch.set_num_threads(threads)
                measure = measure_sam if name == "vit_b" else measure_sam2
                columns = "".join(f"{text:>18}" for text in measure(network, picture, given.runs))
                print(f"{name:10}{side:>7}{threads:>9}{columns}", flush=True)


if __name__ == "__main__":
    main()
