"""What an architecture says about its 2D selective scans, so that they can be followed."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ScanDirection:
    """One scan of a layer, as it runs over the canvas flipped so that its corner comes first.

    Attributes
    ----------
    dt
        ``(H, W, d_inner)`` step sizes, after bias and softplus, of the flipped canvas.
    A
        ``(d_inner, d_state)``, negative.
    B, C
        ``(H, W, d_state)`` of the flipped canvas.
    D
        ``(d_inner,)``, the skip connection.
    flip
        Axes of the canvas, of 0 and 1, that are flipped; empty for the scan from the top left.
    """

    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    flip: tuple[int, ...] = ()


@dataclass(frozen=True)
class ScanLayer:
    """The scans of one layer, which are averaged, gated and projected.

    Attributes
    ----------
    directions
        One scan, or one per corner.
    x
        ``(H, W, d_inner)``, what enters them.
    gate
        ``(H, W, d_inner)``, what their mean is multiplied by.
    out_proj
        ``(d_model, d_inner)``, what that is multiplied by.
    on_canvas
        False where the layer scans the patches in the order of the bag: H is 1 and W is N then.
    """

    directions: tuple[ScanDirection, ...]
    x: Tensor
    gate: Tensor
    out_proj: Tensor
    on_canvas: bool = True
