"""What augmentation costs: milliseconds a batch on average, and what each step costs where it is applied.

    python -m benchmarks.augmentation [--threads 2] [--device cpu] [--draws 32]

The first table is what training pays: parameters drawn from the default policy, batches as large as
these need (`source_sizes`), the mean over many draws. In the second table one step is applied to every sample and
channel of the batch, its largest cost; the policy applies it to its part of the samples only. Every time is the best
of a few, so that neighbours on the machine count little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import fields, replace

import torch

from medseg.augmentation import AugmentationPolicy, Chance, apply, draw, source_sizes

BATCHES = [
    ((40, 56, 40), 2),
    ((40, 56, 40), 9),
    ((64, 96, 96), 2),
    ((128, 128, 128), 2),
    ((20, 320, 256), 2),
    ((56, 40), 128),
    ((512, 512), 12),
]
STEPS = ["crop", *(f.name for f in fields(AugmentationPolicy) if f.type == "Chance"), "mirror"]


def milliseconds(run: Callable[[], object], device: torch.device, repeats: int = 4) -> float:
    """The shortest time of a call."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def only(policy: AugmentationPolicy, step: str) -> AugmentationPolicy:
    """The policy with one step on every sample and channel; "crop" is none."""
    changed = {
        f.name: replace(getattr(policy, f.name), probability=float(f.name == step), per_channel=1.0)
        for f in fields(policy)
        if isinstance(getattr(policy, f.name), Chance)
    }
    return replace(policy, mirror_probability=float(step == "mirror"), **changed)


def measure(patch: tuple[int, ...], batch: int, device: torch.device, draws: int) -> tuple[list[float], list[float]]:
    """(time of draw, time of apply), and the time of every step on top of cropping."""
    policy = AugmentationPolicy.default(patch)
    generator = torch.Generator().manual_seed(0)

    def applied(drawn_from: AugmentationPolicy) -> float:
        parameters = draw(drawn_from, batch, 1, generator)
        source = [max(along) for along in zip(*source_sizes(parameters, patch), strict=True)]
        images = torch.randn(batch, 1, *source, generator=generator).to(device)
        labels = torch.randint(0, 3, (batch, *source), generator=generator, dtype=torch.uint8).to(device)
        return milliseconds(lambda: apply(images, labels, parameters, patch), device)

    drawing = milliseconds(lambda: draw(policy, batch, 1, generator), device)
    average = sum(applied(policy) for _ in range(draws)) / draws
    crop, *steps = (applied(only(policy, step)) for step in STEPS)
    return [drawing, average], [crop, *(step - crop for step in steps)]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="What augmentation costs, in milliseconds a batch.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--draws", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(f"torch {torch.__version__}, {device}, {options.threads} threads; one channel, float32; ms a batch\n")
    results = [(patch, batch, *measure(patch, batch, device, options.draws)) for patch, batch in BATCHES]
    print("| patch | batch | draw | apply |\n|---|---|---|---|")
    for patch, batch, (drawing, average), _ in results:
        print(f"| {'x'.join(map(str, patch))} | {batch} | {drawing:.2f} | {average:.2f} |")
    print("\nEach step on every sample and channel, on top of cropping:\n")
    print(f"| patch, batch | {' | '.join(STEPS)} |\n|{'---|' * (len(STEPS) + 1)}")
    for patch, batch, _, steps in results:
        print(f"| {'x'.join(map(str, patch))}, {batch} | {' | '.join(f'{step:.2f}' for step in steps)} |")


if __name__ == "__main__":
    main()
