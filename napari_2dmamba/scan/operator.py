"""The public 2D selective scan."""

from torch import Tensor

from napari_2dmamba.scan import definition


def selective_scan_2d(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """Return the 2D selective scan."""
    return definition.scan_2d(x, dt, A, B, C, D, z, dt_bias, dt_softplus)
