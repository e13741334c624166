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

# New planes and rows decided by one call: rows enough that few old ones are blended for two blocks, and few enough that
# the buffers stay in the cache; planes only share work out to threads.
BLOCK_PLANES, BLOCK_ROWS = 8, 64

Tables = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


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
    has the type ``code``. Beside it each of torch's threads needs 24 bytes a voxel of a block of rows in one plane.
    """
    result = torch.empty([len(operator.lower) for operator in operators], dtype=code)
    source, target = logits.detach().numpy(), result.numpy()
    along_z, along_y, along_x = operators
    across = _tables(along_x)
    first, second, third = order

    def decide_block(corner: tuple[int, int]) -> None:
        z, y = corner
        to = target[z : z + BLOCK_PLANES, y : y + BLOCK_ROWS]
        planes, along_planes = along_z.part(z, z + len(to))
        rows, along_rows = along_y.part(y, y + to.shape[1])
        assert decide is not None
        tables = _tables(along_planes), _tables(along_rows), across
        decide(source[:, planes, rows], to, tables, (first, second, third), regions)

    corners = list(product(range(0, len(target), BLOCK_PLANES), range(0, target.shape[1], BLOCK_ROWS)))
    threads = min(torch.get_num_threads(), len(corners))
    if threads == 1:
        for corner in corners:
            decide_block(corner)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decide_block, corners))
    return result


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
