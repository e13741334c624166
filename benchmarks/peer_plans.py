"""nnU-Net's side of ``benchmarks.plans``; runs in an environment that has nnunetv2 and nothing of medseg.

    python peer_plans.py < questions.json > answers.json

A question is a dataset.json, a dataset_fingerprint.json, a preset and GB of memory or null; its answer the plans that
nnU-Net's planner writes, or null where it fails or takes longer than half a minute. Networks are built without weights.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import warnings
from pathlib import Path

LONGEST_SECONDS = 30  # its search has no end where the memory holds no network, and may last minutes


def main() -> None:
    """Answer the questions on stdin."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(Path(folder, name))
        with contextlib.redirect_stdout(io.StringIO()):
            answers = [answer(Path(folder), **question) for question in json.load(sys.stdin)]
    json.dump(answers, sys.stdout)


def answer(folder: Path, dataset: dict, fingerprint: dict, preset: str, memory_gb: float | None) -> dict | None:
    """The plans, or None."""
    import torch
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners

    planner = {
        "default": ExperimentPlanner,
        "resenc-m": residual_encoder_unet_planners.nnUNetPlannerResEncM,
        "resenc-l": residual_encoder_unet_planners.nnUNetPlannerResEncL,
        "resenc-xl": residual_encoder_unet_planners.nnUNetPlannerResEncXL,
    }[preset]
    raw, prepared = (folder / part / "Dataset001_Question" for part in ("raw", "preprocessed"))
    (raw / "imagesTr").mkdir(parents=True, exist_ok=True)
    prepared.mkdir(parents=True, exist_ok=True)
    (raw / "imagesTr" / f"a_0000{dataset['file_ending']}").touch()  # only its name is looked at
    (raw / "dataset.json").write_text(json.dumps(dataset | {"overwrite_image_reader_writer": "SimpleITKIO"}))
    (prepared / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    for file in prepared.glob("nnUNet*Plans.json"):
        file.unlink()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST_SECONDS)
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            asked = {} if memory_gb is None else {"gpu_memory_target_in_gb": memory_gb}
            planner(1, **asked).plan_experiment()
        (written,) = prepared.glob("nnUNet*Plans.json")
        return json.loads(written.read_text())
    except Exception:  # what it raises says nothing about why
        return None
    finally:
        signal.alarm(0)


def _too_long(*_: object) -> None:
    raise TimeoutError


if __name__ == "__main__":
    main()
