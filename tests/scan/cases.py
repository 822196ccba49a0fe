"""Golden cases, random cases, and how far two results are apart."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.material import shared

SMALL = ("1x1", "1x7", "2x2", "5x2", "5x3", "9x1")  # committed beside this file
LARGE = (
    "2x5", "3x5", "4x4", "6x7_extreme", "7x13", "8x8", "10x11_slow", "12x9_d64",
    "16x16", "17x33", "20x30", "33x35",
)  # fmt: skip
GOLDEN = SMALL + LARGE
NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")
IN_FILES = ("u", "delta_raw", "A", "B", "C", "D", "z", "delta_bias")
HERE = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, Tensor]:
    path = HERE / f"{name}.npz" if name in SMALL else shared(f"golden/op2d/{name}.npz")
    with np.load(path, allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    if expected.numel() == 0:
        return 0.0
    scale = expected.detach().abs().max().clamp_min(1e-30)
    return float((found.detach().double() - expected.detach()).abs().max() / scale)


def draw(
    height: int,
    width: int,
    d_inner: int,
    d_state: int,
    *,
    batch: int = 1,
    groups: int | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> list[Tensor]:
    """Random x, dt (before softplus), A, B, C, D, z, dt_bias."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype)

    grid = (batch, height, width)
    shared_shape = (*grid, d_state) if groups is None else (*grid, groups, d_state)
    return [
        normal(*grid, d_inner), normal(*grid, d_inner) - 0.5,
        -4 * torch.rand(d_inner, d_state, generator=g, dtype=dtype),
        normal(*shared_shape), normal(*shared_shape),
        normal(d_inner), normal(*grid, d_inner), 0.3 * normal(d_inner),
    ]  # fmt: skip
