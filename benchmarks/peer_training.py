"""nnU-Net's side of ``benchmarks.training``; runs in an environment that has nnunetv2 and nothing of medseg.

    python peer_training.py FOLDER --steps 5 [--batch 7] [--minutes 3]

FOLDER holds ``raw/Dataset001_Benchmark`` in nnU-Net v2's form, and takes ``preprocessed`` and ``results``. The last
line on stdout is JSON: patch, batch, seconds an iteration, and with ``--minutes`` the Dice after so long a training.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path


def main() -> None:
    """Plan and preprocess where that is not done, time training steps, and train if asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(options.folder / name)
        (options.folder / name).mkdir(exist_ok=True)
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    trainer = prepared_trainer(options.folder, options.configuration, options.batch, device)
    result = {
        "patch": list(trainer.configuration_manager.patch_size),
        "batch": trainer.batch_size,
        **timed(trainer, options.warmup, options.steps, device),
    }
    trainer.on_train_end()
    if options.minutes:
        trainer = prepared_trainer(options.folder, options.configuration, options.batch, device)
        result |= dice_after(trainer, options.minutes * 60)
        trainer.on_train_end()
    print(json.dumps(result))


def prepared_plans(folder: Path, configuration: str, processes: int = 1) -> tuple[dict, dict]:
    """nnU-Net's own plans and the dataset.json, its cases prepared; what an earlier call has made is kept."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    (raw,) = (folder / "raw").iterdir()
    home = folder / "preprocessed" / raw.name
    if not (home / "done").is_file():
        extract_fingerprints([1], num_processes=processes)
        plan_experiments([1])
        preprocess([1], configurations=(configuration,), num_processes=(processes,))
        if (raw / "splits.json").is_file():
            shutil.copy(raw / "splits.json", home / "splits_final.json")
        (home / "done").touch()
    plans = json.loads((home / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False  # what nnU-Net's own entry puts there
    return plans, json.loads((home / "dataset.json").read_text())


def prepared_trainer(folder: Path, configuration: str, batch: int | None, device):
    """nnU-Net's trainer of fold 0, ready, with its own plan; only the batch size may be another."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans, document = prepared_plans(folder, configuration)
    if batch is not None:
        plans["configurations"][configuration]["batch_size"] = batch
    trainer = nnUNetTrainer(plans, configuration, 0, document, device)
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return trainer


def timed(trainer, warmup: int, steps: int, device) -> dict[str, float]:
    """Mean seconds of an iteration with its data loader, and of the same step on one batch again and again."""
    import torch

    def mean(batches) -> float:
        for _ in range(warmup):
            trainer.train_step(next(batches))
        start = time.perf_counter()
        for _ in range(steps):
            trainer.train_step(next(batches))  # its loss goes to the host, which waits for the device
        return (time.perf_counter() - start) / steps

    with_data = mean(trainer.dataloader_train)
    one = next(trainer.dataloader_train)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return {"seconds": with_data, "seconds_fixed_batch": mean(iter(lambda: one, None))}


def dice_after(trainer, seconds: float) -> dict[str, float]:
    """Train as shipped, but only for so long, then validate as nnU-Net does."""
    start, iterations = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        if iterations and iterations % trainer.num_iterations_per_epoch == 0:
            trainer.current_epoch += 1
            trainer.on_train_epoch_start()
        trainer.train_step(next(trainer.dataloader_train))
        iterations += 1
    trained = time.perf_counter() - start
    trainer.perform_actual_validation(False)
    summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    return {"iterations": iterations, "training_seconds": trained, "dice": summary["foreground_mean"]["Dice"]}


if __name__ == "__main__":
    main()
