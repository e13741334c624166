import numpy as np

_Tables = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

def decide(
    logits: np.ndarray,
    out: np.ndarray,
    tables: tuple[_Tables | None, _Tables | None, _Tables | None],
    order: tuple[int, int, int],
    regions: bool,
    /,
) -> None:
    """Write the labels of resized ``logits`` (C, Z, Y, X) float32 into ``out`` (Z, Y, X) uint8, int16 or int32.

    ``tables`` of an axis, C-contiguous: old neighbours below and above of each new position (int64) and their weights
    (float32); None where nothing changes. ``order``: the axes as they are blended. The label is the first of the
    largest channels, or with ``regions`` 1 + the last positive one, else 0. Both arrays lie along X without gaps.

    Raises:
        ValueError: arrays of another form, or an index beyond the logits.
        MemoryError: no memory for some planes of floats.
    """
