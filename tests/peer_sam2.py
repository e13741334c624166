"""Runs PyPI's sam2 in an environment of its own: a network with the random weights of ``sam2_examples``, and its
answers on one frame and on a short video.

    PYTHONPATH=SAM2_SOURCES python tests/peer_sam2.py sam2.1_hiera_t|sam2_hiera_l|... SIZE FILE.npz

sam2 imports hydra and iopath for reading configurations and files, which this does itself; empty modules stand in.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

for missing, names in {
    "hydra": ("initialize_config_module",),
    "hydra.core": (),
    "hydra.core.global_hydra": ("GlobalHydra",),
    "iopath": (),
    "iopath.common": (),
    "iopath.common.file_io": ("g_pathmgr",),
}.items():
    sys.modules[missing] = types.ModuleType(missing)
    for name in names:
        setattr(sys.modules[missing], name, mock.MagicMock())

import numpy as np  # noqa: E402
import sam2  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from sam2 import sam2_video_predictor as video  # noqa: E402
from sam2_examples import (  # noqa: E402
    BOX,
    CORRECTION,
    FIRST,
    GONE,
    POINTS,
    SEEN,
    frame_values,
    mask_values,
    random_tensors,
)

OBJECT = 1


def made(entry: Any) -> Any:
    """What an entry of a configuration describes."""
    if isinstance(entry, dict) and "_target_" in entry:
        module, _, name = entry["_target_"].rpartition(".")
        options = {key: made(value) for key, value in entry.items() if key != "_target_"}
        return getattr(importlib.import_module(module), name)(**options)
    return entry


def build(name: str, size: int) -> Any:
    """The video predictor as ``build_sam2_video_predictor`` makes it, without the filling of holes (of CUDA alone)."""
    folder = Path(sam2.__path__[0]) / "configs" / name.partition("_")[0]
    text = (folder / f"{name}.yaml").read_text().replace("1e-6", "1.0e-6")  # which YAML 1.1 takes for a word
    entry = yaml.safe_load(text)["model"]
    layer = entry["memory_attention"]["layer"]
    for attention in ("self_attention", "cross_attention"):
        layer[attention]["feat_sizes"] = [size // 16, size // 16]
    extra = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    entry |= {
        "_target_": "sam2.sam2_video_predictor.SAM2VideoPredictor",
        "image_size": size,
        "sam_mask_decoder_extra_args": extra,
        "binarize_mask_from_pts_for_mem_enc": True,
    }
    return made(entry).eval()


def shapes_of(predictor: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in predictor.state_dict().items()}


def take_weights(predictor: Any, score: float) -> None:
    tensors = random_tensors(shapes_of(predictor), score)
    predictor.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})


def state_of(predictor: Any) -> dict[str, Any]:
    frames = torch.from_numpy(frame_values(predictor.image_size))
    with mock.patch.object(video, "load_video_frames", return_value=(frames, frames.shape[-2], frames.shape[-1])):
        return predictor.init_state(None)


def prompt(predictor: Any, state: dict[str, Any], kind: str, frame: int) -> None:
    size = predictor.image_size
    if kind == "mask":
        predictor.add_new_mask(state, frame, OBJECT, torch.from_numpy(mask_values(size)))
        return
    points = {"point": POINTS[:1], "points": POINTS, "both": POINTS, "box": ()}[kind]
    given: dict[str, Any] = {}
    if points:
        # The network adds half a pixel itself.
        given["points"] = np.array([[x * size - 0.5, y * size - 0.5] for x, y, _ in points], np.float32)
        given["labels"] = np.array([inside for *_, inside in points], np.int32)
    if kind in ("box", "both"):
        given["box"] = np.array(BOX, np.float32) * size
    predictor.add_new_points_or_box(state, frame, OBJECT, **given)


def low(output: dict[str, Any]) -> np.ndarray:
    return output["pred_masks"][0, 0].numpy()


def track(predictor: Any, prompts: dict[int, str], reverse: bool) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """The state after following an object one way, and what is known of each frame."""
    state = state_of(predictor)
    for frame, kind in prompts.items():
        prompt(predictor, state, kind, frame)
    list(predictor.propagate_in_video(state, reverse=reverse))
    outputs = state["output_dict_per_obj"][0]
    return state, outputs["non_cond_frame_outputs"] | outputs["cond_frame_outputs"]


@torch.no_grad()
def answers_of(predictor: Any) -> dict[str, np.ndarray]:
    answers: dict[str, np.ndarray] = {}
    take_weights(predictor, SEEN)
    for kind in ("box", "point", "points", "both", "mask"):
        state = state_of(predictor)
        prompt(predictor, state, kind, FIRST)
        answers[kind] = low(state["temp_output_dict_per_obj"][0]["cond_frame_outputs"][FIRST])
    for name, prompts in {
        "from_box": {FIRST: "box"},
        "from_mask": {FIRST: "mask"},
        "from_two": {0: "box", 4: "mask"},
    }.items():
        for way, reverse in (("up", False), ("down", True)):
            _, outputs = track(predictor, prompts, reverse)
            answers[f"{name}_{way}"] = np.stack([low(outputs[index]) for index in sorted(outputs)])
    state, _ = track(predictor, {FIRST: "box"}, False)
    frame, (x, y, inside) = CORRECTION
    size = predictor.image_size
    at = np.array([[x * size - 0.5, y * size - 0.5]], np.float32)
    predictor.add_new_points_or_box(state, frame, OBJECT, points=at, labels=np.array([inside], np.int32))
    answers["correction"] = low(state["temp_output_dict_per_obj"][0]["non_cond_frame_outputs"][frame])
    take_weights(predictor, GONE)
    _, outputs = track(predictor, {FIRST: "mask"}, False)
    answers["gone"] = np.array([float(outputs[index]["object_score_logits"].item()) for index in sorted(outputs)])
    return answers


def main(name: str, size: int, file: Path) -> None:
    warnings.filterwarnings("ignore")
    predictor = build(name, size)
    shapes = shapes_of(predictor)
    np.savez_compressed(
        file,
        names=np.array(list(shapes)),
        shapes=np.array([[*shape, *(-1,) * (4 - len(shape))] for shape in shapes.values()]),
        **answers_of(predictor),
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
