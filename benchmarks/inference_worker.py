"""Predict one scan in a process of its own, with medseg or with nnU-Net, and say what it took; one JSON line.

    PYTHON inference_worker.py medseg|nnunet MODEL SCAN MASK [--threads 2] [--mirror] [--device cpu] [--max-ram 2GB]

The same file runs in both environments, so each side imports only its own. ``outside`` is the time that was not spent
in the network; ``peak_mib`` is the largest resident size of the process, ``start_mib`` what it held with the model
loaded and nothing read.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path


class Watch:
    """Seconds spent in the networks that it watches, their devices' work included."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def on(self, network) -> None:
        network.register_forward_pre_hook(self._start)
        network.register_forward_hook(self._stop)

    def _start(self, *_: object) -> None:
        self._wait()
        self._began = time.perf_counter()

    def _stop(self, *_: object) -> None:
        self._wait()
        self.seconds += time.perf_counter() - self._began

    def _wait(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=("medseg", "nnunet"))
    parser.add_argument("model", type=Path)
    parser.add_argument("scan", type=Path)
    parser.add_argument("mask", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-ram-bytes", type=int)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    watch = Watch()
    work = with_medseg(options, watch) if options.program == "medseg" else with_nnunet(options, watch)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    start = peak_mib()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    print(
        json.dumps(
            {
                "seconds": seconds,
                "network_seconds": watch.seconds,
                "outside_seconds": seconds - watch.seconds,
                "start_mib": start,
                "peak_mib": peak_mib(),
                "vram_mib": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0,
            }
        )
    )


def with_medseg(options: argparse.Namespace, watch: Watch):
    from medseg.prediction import Job, PredictionSettings, load_predictor, predict_cases

    settings = PredictionSettings(mirror=options.mirror, max_ram_bytes=options.max_ram_bytes)
    predictor = load_predictor(options.model, None, options.device, "auto", settings)
    for member in predictor.members:
        for network in member.networks:
            watch.on(network)

    def work() -> None:
        result = predict_cases(predictor, [Job("scan", (options.scan,), options.mask)])
        if result.failures:
            raise SystemExit(str(result.failures))

    return work


def with_nnunet(options: argparse.Namespace, watch: Watch):
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    device = torch.device(options.device)
    predictor = nnUNetPredictor(
        use_mirroring=options.mirror,
        device=device,
        perform_everything_on_device=device.type == "cuda",
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(options.model), use_folds=(0,))
    watch.on(predictor.network)
    target = str(options.mask).removesuffix(".nii.gz")

    def work() -> None:
        predictor.predict_from_files_sequential([[str(options.scan)]], [target], save_probabilities=False)

    return work


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
