"""A map of features scanned in four directions: the one place where VMamba and 2DVMamba differ.

Every direction turns or flips the map, scans it from its top left corner, and turns the result
back; the four results are added. Published facts: VMamba (Liu et al., 2024, arXiv 2401.10166)
and 2DVMamba (Zhang et al., CVPR 2025, arXiv 2412.00678).
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from napari_2dmamba.scan import selective_scan_2d

Scan = Literal["2d", "1d", "2d-four-corners"]
SCANS: tuple[str, ...] = get_args(Scan)


class Direction(NamedTuple):
    """How a map is laid before it is scanned from its top left corner.

    Attributes
    ----------
    transposed
        Rows and columns are exchanged, first.
    rows_reversed, columns_reversed
        Of the map as laid.
    """

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    def lay(self, t: Tensor) -> Tensor:
        """Turn ``(batch, H, W, ...)`` into this direction's frame."""
        t = t.transpose(1, 2) if self.transposed else t
        return t.flip(self._reversed) if self._reversed else t

    def back(self, t: Tensor) -> Tensor:
        """Undo `lay`."""
        t = t.flip(self._reversed) if self._reversed else t
        return t.transpose(1, 2) if self.transposed else t

    @property
    def _reversed(self) -> list[int]:
        return [1] * self.rows_reversed + [2] * self.columns_reversed


_PUBLISHED = (
    Direction(),
    Direction(transposed=True),
    Direction(rows_reversed=True, columns_reversed=True),
    Direction(transposed=True, rows_reversed=True, columns_reversed=True),
)

DIRECTIONS: dict[str, tuple[Direction, ...]] = {
    "1d": _PUBLISHED,
    # Published: a cell sees what lies up and left of it (twice, once with rows first and once
    # with columns first) and what lies down and right; never up and right, or down and left.
    "2d": _PUBLISHED,
    "2d-four-corners": (
        Direction(),
        Direction(columns_reversed=True),
        Direction(rows_reversed=True, columns_reversed=True),
        Direction(rows_reversed=True),
    ),
}
"""The four directions of each scan, in the order of a checkpoint's weights."""


def cross_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    scan: Scan = "2d",
) -> Tensor:
    """Scan a map in four directions and add the results.

    Parameters
    ----------
    x
        ``(batch, H, W, d_inner)``
    dt
        ``(batch, H, W, 4, d_inner)``, before bias and softplus.
    A
        ``(4, d_inner, d_state)``
    B, C
        ``(batch, H, W, 4, d_state)``
    D, dt_bias
        ``(4, d_inner)``
    scan
        ``"2d"``: the 2D selective scan in the published four directions. ``"1d"``: VMamba's,
        the map flattened row by row in each of them. ``"2d-four-corners"``: the 2D scan from
        each of the four corners, rows first.

    Returns
    -------
    Tensor
        ``(batch, H, W, d_inner)``

    Raises
    ------
    ValueError
        Where the scan is unknown.
    BackendError
        Where a forced backend cannot run; another scan is never put in its place.
    """
    if scan not in DIRECTIONS:
        raise ValueError(f"scan is {scan!r}, but must be one of {', '.join(SCANS)}")
    directions = DIRECTIONS[scan]
    y: Tensor | None = None
    for together in _calls(directions, scan, square=x.shape[1] == x.shape[2]):
        found = _scan_together(x, dt, A, B, C, D, dt_bias, together, directions, scan == "1d")
        y = found if y is None else y + found
    assert y is not None
    return y


def _calls(directions: tuple[Direction, ...], scan: str, *, square: bool) -> list[list[int]]:
    """Say which directions one call can scan: those whose laid maps have one shape."""
    everything = list(range(len(directions)))
    if square or scan == "1d" or not any(d.transposed for d in directions):
        return [everything]
    return [[k for k in everything if directions[k].transposed == t] for t in (False, True)]


def _scan_together(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    which: list[int],
    directions: tuple[Direction, ...],
    flat: bool,
) -> Tensor:
    """Scan some directions as groups of channels of one call; return their sum."""

    def laid(tensors: list[Tensor]) -> Tensor:
        frames = (directions[k].lay(t) for k, t in zip(which, tensors, strict=True))
        return torch.stack([f.flatten(1, 2).unsqueeze(1) if flat else f for f in frames], dim=3)

    def of_each(t: Tensor) -> Tensor:
        return laid([t[:, :, :, k] for k in which])

    y = selective_scan_2d(
        laid([x] * len(which)).flatten(3),
        of_each(dt).flatten(3),
        A[which].flatten(0, 1),
        of_each(B),
        of_each(C),
        D[which].flatten(),
        dt_bias=dt_bias[which].flatten(),
        dt_softplus=True,
    ).unflatten(3, (len(which), x.shape[3]))
    total: Tensor | None = None
    for place, k in enumerate(which):
        frame = y[:, :, :, place]
        if flat:
            shape = x.shape[1:3]
            frame = frame.flatten(1, 2).unflatten(
                1, shape[::-1] if directions[k].transposed else shape
            )
        found = directions[k].back(frame)
        total = found if total is None else total + found
    assert total is not None
    return total
