"""Labels of logits in one compiled pass (``_deciding.c``), where the package was built with it.

Logits are blended and compared row by row in buffers that stay in the cache. The numbers, and so the labels, are those
of the operators in ``axes``. A build without a C compiler leaves the pass out; ``labels`` has the way that is always
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import torch
from torch import Tensor

from medseg.resampling.axes import Nearest, Operator

try:
    from medseg.resampling._deciding import decide
except ImportError:  # built without a C compiler
    decide = None

# New voxels (Z, Y, X) decided by one call: enough that few old ones are blended for two blocks, and few enough that the
# buffers stay in the cache and that in most blocks only some channels can win; the others are left out there.
BLOCK = (8, 32, 32)

Tables = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Part = tuple[slice, slice, Tables | None]  # new positions, the old voxels that they need, and what leads there


def possible(logits: Tensor) -> bool:
    """Whether there is a compiled pass for ``logits`` (C, Z, Y, X): float32 on a CPU, X without gaps."""
    return (
        decide is not None and logits.device.type == "cpu" and logits.dtype == torch.float32 and logits.stride(3) == 1
    )


def labels_between(
    logits: Tensor, operators: Sequence[Operator], order: Sequence[int], code: torch.dtype, regions: bool
) -> Tensor:
    """The first of the largest channels, or 1 + the last positive one or 0, of ``logits`` (C, Z, Y, X) resized.

    ``operators`` of order 1 and float32 lead to the new grid, blended in the ``order`` of axes. The result (Z, Y, X)
    has the type ``code``. Beside it each of torch's threads needs 24 bytes a voxel of a block's plane.
    """
    result = torch.empty([len(operator.lower) for operator in operators], dtype=code)
    source, target = logits.detach().numpy(), result.numpy()
    first, second, third = order
    planes, rows, columns = (_parts(operator, size) for operator, size in zip(operators, BLOCK, strict=True))

    def decide_row(row: tuple[Part, Part]) -> None:
        (new_z, old_z, along_z), (new_y, old_y, along_y) = row
        assert decide is not None
        for new_x, old_x, along_x in columns:
            box, out = source[:, old_z, old_y, old_x], target[new_z, new_y, new_x]
            decide(box, out, (along_z, along_y, along_x), (first, second, third), regions)

    rows_of_blocks = list(product(planes, rows))
    threads = min(torch.get_num_threads(), len(rows_of_blocks))
    if threads == 1:
        for row in rows_of_blocks:
            decide_row(row)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decide_row, rows_of_blocks))
    return result


def _parts(operator: Operator, size: int) -> list[Part]:
    """The new positions of an axis, ``size`` at a time."""
    parts = []
    for start in range(0, len(operator.lower), size):
        stop = min(start + size, len(operator.lower))
        old, within = operator.part(start, stop)
        parts.append((slice(start, stop), old, _tables(within)))
    return parts


def _tables(operator: Operator) -> Tables | None:
    """Neighbours and weights as the compiled pass reads them; one neighbour has the whole weight where one is taken."""
    if isinstance(operator, Nearest):
        if operator.identity:
            return None
        index = np.ascontiguousarray(operator.lower.numpy())
        return index, index, np.ones(len(index), np.float32), np.zeros(len(index), np.float32)
    columns = operator.lower, operator.upper, operator.lower_weight, operator.upper_weight
    lower, upper, lower_weight, upper_weight = (np.ascontiguousarray(column.numpy()) for column in columns)
    return lower, upper, lower_weight, upper_weight
