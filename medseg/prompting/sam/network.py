"""One slice and its prompts through SAM: pixels in, embedding, logits of the slice out.

Two styles. ``sam``: the longest side becomes the network's size, colours are normalised, zeros fill the square
(Kirillov et al., 2023). ``medsam``: the slice is stretched to the square, its values go from 0 to 1 (Ma et al., 2024).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from skimage.transform import resize
from torch.nn import functional

from medseg.prompting.slices.prompts import SlicePrompts

Style = Literal["medsam", "sam"]
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


def pixels(picture: np.ndarray, size: int, style: Style) -> torch.Tensor:
    """Float32 (1, 3, size, size) of a picture (Y, X, 3) uint8."""
    if style == "medsam":
        stretched = np.asarray(resize(picture, (size, size), order=3, preserve_range=True, anti_aliasing=True))
        values = torch.from_numpy(stretched.astype(np.uint8)).float().permute(2, 0, 1)[None]
        return (values - values.min()) / (values.max() - values.min()).clamp_min(1e-8)
    values = torch.from_numpy(np.ascontiguousarray(picture)).float().permute(2, 0, 1)[None]
    height, width = _scaled(picture.shape[:2], size)
    values = functional.interpolate(values, (height, width), mode="bilinear", align_corners=False, antialias=True)
    values = (values - torch.tensor(_MEAN).view(1, 3, 1, 1)) / torch.tensor(_STD).view(1, 3, 1, 1)
    return functional.pad(values, (0, size - width, 0, size - height))


@torch.inference_mode()
def embed(network: Any, values: torch.Tensor) -> torch.Tensor:
    """The image encoder's answer (1, C, h, w) to :func:`pixels`."""
    return network.get_image_embeddings(values.to(network.device))


@torch.inference_mode()
def low_resolution_logits(
    network: Any, embedding: torch.Tensor, prompts: SlicePrompts, shape: tuple[int, int], style: Style
) -> torch.Tensor:
    """Logits (1, 1, h, w) of the object on the network's square, a quarter of its size."""
    size = network.config.vision_config.image_size
    scale_y, scale_x = scales(shape, size, style)
    given: dict[str, torch.Tensor] = {}
    if prompts.box is not None:
        y0, x0, y1, x1 = prompts.box
        corners = [x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y]
        given["input_boxes"] = torch.tensor([[corners]], dtype=torch.float32)
    if prompts.points:
        at = [[(x + 0.5) * scale_x, (y + 0.5) * scale_y] for y, x, _ in prompts.points]
        # The network adds half a pixel itself, to corners of voxels that are counted from 0.
        given["input_points"] = torch.tensor([[at]], dtype=torch.float32) - 0.5
        given["input_labels"] = torch.tensor([[[int(inside) for _, _, inside in prompts.points]]])
    moved = {name: value.to(network.device) for name, value in given.items()}
    answer = network(image_embeddings=embedding.to(network.device), multimask_output=False, **moved)
    return answer.pred_masks[:, 0].float().cpu()


def slice_logits(low: torch.Tensor, shape: tuple[int, int], size: int, style: Style) -> np.ndarray:
    """Logits (Y, X) of the slice from those of :func:`low_resolution_logits`."""
    if style == "medsam":
        return functional.interpolate(low, shape, mode="bilinear", align_corners=False)[0, 0].numpy()
    whole = functional.interpolate(low, (size, size), mode="bilinear", align_corners=False)
    height, width = _scaled(shape, size)
    return functional.interpolate(whole[..., :height, :width], shape, mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()


def _scaled(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    scale = size / max(shape)
    return int(shape[0] * scale + 0.5), int(shape[1] * scale + 0.5)


def scales(shape: tuple[int, int], size: int, style: Style) -> tuple[float, float]:
    """From voxels (y, x) of a slice to pixels of the network's square."""
    height, width = (size, size) if style == "medsam" else _scaled(shape, size)
    return height / shape[0], width / shape[1]
