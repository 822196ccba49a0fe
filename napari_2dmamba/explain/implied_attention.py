r"""The implied attention of the 2D selective scan, in closed form.

The scan is linear in its input x once dt, B and C are given, so every output is a weighted sum
of inputs. Information travels along the row of p to the column of q, and then down that
column, and decays by ``exp(A * dt)`` of every cell it enters::

    y[q, d] = sum over p of w[q, p, d] * x[p, d]
    w[q, p, d] = sum over n of C[q, n] * exp(A[d, n] * T[q, p, d]) * B[p, n] * dt[p, d]
    T[q, p, d] = sum of dt[row p, k, d] for k in col p + 1 .. col q
               + sum of dt[r, col q, d] for r in row p + 1 .. row q

and w is exactly zero unless p lies in no later row and no later column than q. The sums are
taken from the fixed cell outwards, so that nothing cancels.

Implied attention of Mamba: Ali et al. 2024, arXiv 2403.01590; the 2D path is that of 2DMamba,
arXiv 2412.00678.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from napari_2dmamba.scan import backend_for, cpu

_LARGEST_BLOCK = 4_000_000
"""Exponentials the torch definition holds at a time."""


class ScanArrays(NamedTuple):
    """What one scan of a canvas works with, apart from its input."""

    dt: Tensor  # (H, W, d_inner), after bias and softplus
    A: Tensor  # (d_inner, d_state)
    B: Tensor  # (H, W, d_state)
    C: Tensor  # (H, W, d_state)


def influence_on(
    scan: ScanArrays,
    query: tuple[int, int],
    *,
    x: Tensor | None = None,
    weight: Tensor | None = None,
    magnitude: bool = True,
) -> Tensor:
    """Return with which weight the input of every cell enters the output of ``query``.

    Parameters
    ----------
    scan
        dt, A, B and C of the canvas.
    query
        ``(row, col)`` of q.
    x
        ``(H, W, d_inner)``; if given, weights are multiplied by the inputs, and the maps of
        all cells add up to the output of the scan (without its skip connection D).
    weight
        ``(d_inner,)``: the channels are multiplied by it and added up; None keeps them.
    magnitude
        Whether absolute values are added up; only with ``weight``.

    Returns
    -------
    Tensor
        ``(H, W)``, or ``(H, W, d_inner)`` without ``weight``. Exactly zero to the right of
        the query and below it.
    """
    row, col = query
    height, width, _ = scan.dt.shape
    near = (slice(0, row + 1), slice(0, col + 1))
    dt = scan.dt[near]
    out = _blank(scan.dt, (height, width), weight)
    _fill(
        out[near],
        dt=dt,
        # what decays in the query's column below each row
        start=_sums_before(dt[:, col].flip(0)).flip(0),
        A=scan.A,
        fixed=scan.C[row, col],
        varying=scan.B[near],
        x=None if x is None else x[near],
        weight=weight,
        magnitude=magnitude,
        leaving=False,
    )
    return out


def influence_of(
    scan: ScanArrays,
    source: tuple[int, int],
    *,
    x: Tensor | None = None,
    gate: Tensor | None = None,
    weight: Tensor | None = None,
    magnitude: bool = True,
) -> Tensor:
    """Return with which weight the input of ``source`` enters the output of every cell.

    The reverse of `influence_on`, with the same arguments and result; exactly zero to the left
    of the source and above it. ``gate (H, W, d_inner)`` multiplies the outputs, channel by
    channel, before they are added up.
    """
    row, col = source
    height, width, _ = scan.dt.shape
    far = (slice(row, height), slice(col, width))
    dt = scan.dt[far].transpose(0, 1)
    inflow = scan.dt[row, col] * (1 if x is None else x[row, col])
    if weight is not None:
        weight = weight * (inflow.abs() if magnitude else inflow)
    start = torch.cat([torch.zeros_like(dt[:1, 0]), dt[1:, 0].cumsum(0)])
    out = _blank(scan.dt, (height, width), weight)
    _fill(
        out[far].transpose(0, 1),
        dt=dt,
        start=start,
        A=scan.A,
        fixed=scan.B[row, col],
        varying=scan.C[far].transpose(0, 1),
        x=None if gate is None else gate[far].transpose(0, 1),
        weight=weight,
        magnitude=magnitude,
        leaving=True,
    )
    return out * inflow if weight is None else out


def _blank(like: Tensor, canvas: tuple[int, int], weight: Tensor | None) -> Tensor:
    return like.new_zeros(canvas if weight is not None else (*canvas, like.shape[-1]))


def _sums_before(dt: Tensor) -> Tensor:
    """Return for each index of axis 0 the sum of all that come before it."""
    return torch.cat([torch.zeros_like(dt[:1]), dt[:-1].cumsum(0)])


def _fill(
    out: Tensor,
    *,
    dt: Tensor,
    start: Tensor,
    A: Tensor,
    fixed: Tensor,
    varying: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    magnitude: bool,
    leaving: bool,
) -> None:
    """Fill lines of cells, ``out (lines, steps)``: by the kernel, or by its definition.

    A line runs away from the fixed cell: rows from the query's column to the left, and, where
    influence is ``leaving``, columns from the source's row downwards.
    """
    if backend_for(dt).name == "cpu" and dt.dtype == torch.float32:
        cpu.influence(
            _contiguous(dt), start, A, fixed, _contiguous(varying),
            None if x is None else _contiguous(x),
            None if weight is None else weight.contiguous(), out,
            times_dt=not leaving, add_before=leaving, magnitude=magnitude,
            reverse_steps=not leaving,
        )  # fmt: skip
        return
    lines = max(1, _LARGEST_BLOCK // (dt.shape[1] * A.numel()))
    for first in range(0, len(dt), lines):
        block = slice(first, first + lines)
        here = dt[block] if leaving else dt[block].flip(1)
        # leaving: dt of the cell itself counts; arriving: that of the cells after it
        after = here[:, 1:] if leaving else here[:, :-1]
        elapsed = torch.cat([start[block, None], after], dim=1).cumsum(1)
        if not leaving:
            elapsed = elapsed.flip(1)
        decay = torch.exp(elapsed.unsqueeze(-1) * A)
        value = torch.einsum("lsdn,lsn->lsd", decay, varying[block] * fixed)
        if not leaving:
            value = value * dt[block]
        if x is not None:
            value = value * x[block]
        if weight is not None:
            value = (value.abs() if magnitude else value) @ weight
        out[block] = value


def _contiguous(t: Tensor) -> Tensor:
    """Return ``t`` with its last axis contiguous, which the kernel needs."""
    return t if t.stride(-1) == 1 else t.contiguous()
