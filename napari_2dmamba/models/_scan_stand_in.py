"""Temporary: replaced by napari_2dmamba.scan as soon as it lands."""

import torch
from torch import Tensor
from torch.nn import functional


def selective_scan_2d(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
    z: Tensor | None = None, dt_bias: Tensor | None = None, dt_softplus: bool = False,
) -> Tensor:
    if dt_bias is not None:
        dt = dt + dt_bias
    if dt_softplus:
        dt = functional.softplus(dt)
    _, H, W, _ = x.shape
    previous = None
    out = []
    for i in range(H):
        a = torch.exp(dt[:, i, :, :, None] * A)
        bx = (dt[:, i] * x[:, i])[..., None] * B[:, i, :, None, :]
        row = [bx[:, 0]]
        for j in range(1, W):
            row.append(a[:, j] * row[-1] + bx[:, j])
        h = torch.stack(row, 1)
        if previous is not None:
            h = a * previous + h
        previous = h
        out.append((h * C[:, i, :, None, :]).sum(-1))
    y = torch.stack(out, 1)
    if D is not None:
        y = y + D * x
    return y * functional.silu(z) if z is not None else y


def backend_for(x: Tensor) -> str:
    return "definition"
