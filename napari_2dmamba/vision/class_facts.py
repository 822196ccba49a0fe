"""What files say of the classes of an image network, and of its pixels: checked before use."""

import math
from collections.abc import Sequence
from typing import Any

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.slide.backend import SMALLEST_MPP

_LARGEST_MPP = 1e9  # of pictures of the ground
_LARGEST_SIDE = 10**6


def require_classes(classes: Sequence[str]) -> None:
    """Refuse classes whose probabilities would mean nothing.

    Raises
    ------
    CheckpointError
        For fewer than two, since the only one always has a probability of 1, and for two of the
        same name.
    """
    if len(classes) < 2:
        raise CheckpointError(
            f"the network has {len(classes)} class{'es' * (not classes)}, so that it would answer "
            "100 % for every picture; give it an output and a name for each of two classes"
        )
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if list(classes).count(name) > 1)
        raise CheckpointError(f"two classes are called {twice[:80]!r}; give each its own name")


def stated_mpp(value: Any) -> float | None:
    """Return the µm per pixel that a file states; None where it states none.

    Raises
    ------
    ValueError
        When it is no number that can be meant.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"mpp is {ascii(value)[:40]}, which is no number")
    if not (math.isfinite(value) and SMALLEST_MPP <= value <= _LARGEST_MPP):
        raise ValueError(f"mpp is {value:g}, which no picture has")
    return float(value)


def stated_size(value: Any) -> int | None:
    """Return the side of images in pixels that a file states; None where it states none.

    Raises
    ------
    ValueError
        When it is none that can be meant.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST_SIDE:
        raise ValueError(f"its size of tiles is {ascii(value)[:40]}, which is none")
    return value
