"""Distinct rows spread over many places, with a gradient that is the same in every run.

The gradient of ``index_select`` adds the places of a row with atomic additions on a GPU, in
whatever order they come, so that two runs differ in the last bits.
"""

from typing import Any

import torch
from torch import Tensor

_AT_ONCE = 2**18  # places of the common row whose gradients are gathered together


def spread(rows: Tensor, index: Tensor) -> Tensor:
    """Return ``rows[index]``.

    Parameters
    ----------
    rows
        ``(U, d)``; the last row may be that of most places.
    index
        ``(L,)`` int64.

    Returns
    -------
    Tensor
        ``(L, d)``. The gradient adds up in a fixed order: on a CPU that of the places, on a GPU
        that of a sum over the places of the last row, and of sorted places for the others.
    """
    spread_rows: Tensor = _Spread.apply(rows, index)
    return spread_rows


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(rows: Tensor, index: Tensor) -> Tensor:
        return rows.index_select(0, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        rows, index = inputs
        ctx.rows = len(rows)
        ctx.save_for_backward(index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        if grad.device.type == "cpu":
            return grad.new_zeros(ctx.rows, grad.shape[1]).index_add(0, index, grad), None
        return add_in_order(grad, index, ctx.rows), None


def add_in_order(values: Tensor, index: Tensor, rows: int) -> Tensor:
    """Return ``(rows, d)``: the sum of the ``(L, d)`` values whose index names each row.

    Without atomic additions: most of the places may be those of the last row, which
    ``index_put`` would add one after the other.
    """
    is_last = index == rows - 1
    others, last = (~is_last).nonzero().squeeze(1), is_last.nonzero().squeeze(1)
    # torch sorts the places for an index_put that accumulates.
    sums = values.new_zeros(rows, values.shape[1])
    sums = sums.index_put((index[others],), values[others], accumulate=True)
    for some in last.split(_AT_ONCE):
        sums = torch.cat([sums[:-1], sums[-1:] + values[some].sum(0, keepdim=True)])
    return sums
