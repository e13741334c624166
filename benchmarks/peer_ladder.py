"""nnU-Net's side of ``benchmarks.ladder``; runs in an environment that has nnunetv2 and nothing of medseg.

    python peer_ladder.py FOLDER RESULTS ANSWER --minutes 10 [--kind] [--configuration 3d_fullres] [--seed 0]

FOLDER holds ``raw/Dataset001_Benchmark`` in nnU-Net v2's form, and takes ``preprocessed``, which is made once. RESULTS
takes the trained network and, in a folder ``validation``, the masks of fold 0's held-out cases as nnU-Net's own
validation writes them. ANSWER is a JSON file: iterations, batch, patch, seconds by part, mirroring, versions, masks.

As shipped, the planned batch and SGD with a schedule of 1000 epochs are stopped at the time limit. ``--kind`` is the
form that does best in so short a time: its trainer with Adam, a small batch, and the learning rate falling to zero at
the time limit. Planning, preparing, starting, online validation and prediction are not part of the minutes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import random
import time
from pathlib import Path

ADAM_RATE = 2e-3
KIND_VOLUMES = 2  # patches a batch in 3D
KIND_PIXELS = 2 * 256 * 256  # about as many in a batch in 2D, and at least two patches


def main() -> None:
    """Prepare, train for the minutes, predict the held-out cases, and write the answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--kind", action="store_true")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prediction-minutes", type=float, default=15)
    options = parser.parse_args()
    os.environ |= {
        "nnUNet_raw": str(options.folder / "raw"),
        "nnUNet_preprocessed": str(options.folder / "preprocessed"),
        "nnUNet_results": str(options.results),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": str(options.threads),
    }
    for folder in (options.folder / "preprocessed", options.results):
        folder.mkdir(parents=True, exist_ok=True)
    import torch
    from peer_training import prepared_plans

    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    plans, document = prepared_plans(options.folder, options.configuration, options.threads)
    seconds = {"preparing": time.perf_counter() - began}
    seed_all(options.seed)
    began = time.perf_counter()
    trainer = trainer_of(plans, document, options.configuration, options.kind)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)  # the worker has started
    seconds["starting"] = time.perf_counter() - began
    iterations, seconds["training"] = train(trainer, batch, options.minutes * 60, options.kind)
    trainer.on_train_end()
    began = time.perf_counter()
    mirrored = mirrors_within(trainer, options.prediction_minutes * 60)
    trainer.perform_actual_validation(False)
    seconds["prediction"] = time.perf_counter() - began
    answer = {
        "version": f"nnunetv2 {importlib.metadata.version('nnunetv2')}",
        "torch": torch.__version__,
        "iterations": iterations,
        "batch": trainer.batch_size,
        "patch": list(trainer.configuration_manager.patch_size),
        "seconds": seconds,
        "mirroring": mirrored,
        "masks": str(Path(trainer.output_folder) / "validation"),
    }
    options.answer.write_text(json.dumps(answer))


def seed_all(seed: int) -> None:
    """Seed every generator of this process; nnU-Net itself draws from these."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def trainer_of(plans: dict, document: dict, configuration: str, kind: bool):
    """nnU-Net's trainer of fold 0: as shipped, or with Adam and a small batch."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam

    chosen = plans["configurations"][configuration]
    if kind:
        patch = chosen["patch_size"]
        wanted = KIND_VOLUMES if len(patch) == 3 else max(2, round(KIND_PIXELS / math.prod(patch)))
        chosen["batch_size"] = min(wanted, chosen["batch_size"])
    trainer = (nnUNetTrainerAdam if kind else nnUNetTrainer)(plans, configuration, 0, document, torch.device("cpu"))
    if kind:
        trainer.initial_lr = ADAM_RATE
    trainer.initialize()
    return trainer


def train(trainer, batch, seconds: float, falling: bool) -> tuple[int, float]:
    """Train for so long; ``falling``: the learning rate is polynomial in the time that has passed.

    Returns:
        Iterations, and seconds that they took.
    """
    start, iterations = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        if iterations and iterations % trainer.num_iterations_per_epoch == 0:
            trainer.current_epoch += 1
            trainer.on_train_epoch_start()
        if falling:
            for group in trainer.optimizer.param_groups:
                group["lr"] = trainer.initial_lr * (1 - passed / seconds) ** 0.9
        trainer.train_step(batch if iterations == 0 else next(trainer.dataloader_train))
        iterations += 1
    return iterations, time.perf_counter() - start


def mirrors_within(trainer, seconds: float) -> bool:
    """Whether predicting the held-out cases with mirroring stays within the time; where not, mirroring is turned off.

    Judged by a forward pass and the number of windows.
    """
    import torch
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    patch = tuple(trainer.configuration_manager.patch_size)
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    sample = torch.zeros((1, trainer.num_input_channels, *patch))
    with torch.no_grad():
        trainer.network(sample)
        began = time.perf_counter()
        trainer.network(sample)
        pass_seconds = time.perf_counter() - began
    held_out = trainer.do_split()[1]
    cases = trainer.dataset_class(trainer.preprocessed_dataset_folder, held_out)
    windows = 0
    for name in cases.identifiers:
        shape = cases.load_case(name)[0].shape[1:]
        planes = shape[0] if len(patch) == 2 else 1
        size = tuple(map(max, shape[-len(patch) :], patch))
        windows += planes * math.prod(map(len, compute_steps_for_sliding_window(size, patch, 0.5)))
    copies = 2 ** len(trainer.inference_allowed_mirroring_axes or ())
    print(f"{windows} windows, {copies} mirrored copies, {pass_seconds:.3f} s each", flush=True)
    if windows * copies * pass_seconds <= seconds:
        return True
    trainer.inference_allowed_mirroring_axes = None
    return False


if __name__ == "__main__":
    main()
