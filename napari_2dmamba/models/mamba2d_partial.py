"""The vectors of a few cells after a layer of 2DMambaMIL, from no more cells than they come from.

A scan from one corner reaches a cell through the rectangle between that corner and the cell, so it
is run on that rectangle alone; the convolution looks a few cells back in raster order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from napari_2dmamba.models.mamba2d_block import ALL_CHANNELS, Cells, MambaBlock, ResidualBlock
from napari_2dmamba.models.spread import spread
from napari_2dmamba.scan import selective_scan_2d


def states_of_cells(block: ResidualBlock, cells: Cells, at: Tensor) -> Tensor:
    """Return the rows of a layer's output at a few cells, ``(Q, d_model)``.

    They are those of `ResidualBlock.forward`, and differentiable with the rows of ``cells``, but
    for the pad token, which no gradient reaches.

    Parameters
    ----------
    cells
        The canvas that enters the layer.
    at
        ``(Q,)`` int64, numbers of cells in raster order.
    """
    mixer = block.mixer
    assert isinstance(mixer, MambaBlock)
    width, config = cells.shape[1], mixer.config
    own = cells.rows[at if cells.index is None else cells.index[at]]
    asked = torch.stack([at // width, at % width], dim=1)
    corners = [
        (weights, _Rectangle.between(asked, cells.shape, flip)) for weights, flip in mixer.corners
    ]
    needed = torch.zeros(cells.shape, dtype=torch.bool, device=at.device)
    for _, rectangle in corners:
        (top, left), (bottom, right) = rectangle.first, rectangle.end
        needed[top:bottom, left:right] = True
    x, where = _convolved(block, cells, needed.view(-1).nonzero()[:, 0])
    place = torch.stack([where // width, where % width], dim=1)
    total: Tensor | None = None
    for weights, rectangle in corners:
        inside = rectangle.holds(place)
        rows = x[:-1] if bool(inside.all()) else x[:-1][inside]
        rows = torch.cat([rows, x[-1:].detach()])  # the last row is that of all other cells
        to = rectangle.numbers(place[inside])
        low, B, C = weights.shared_by_channels(rows)
        dt = functional.linear(low, weights.dt_proj.weight)
        y = selective_scan_2d(
            rectangle.filled(rows, to),
            rectangle.filled(dt, to),
            -torch.exp(weights.A_log.detach()),
            rectangle.filled(B, to),
            rectangle.filled(C, to),
            D=weights.D.detach(),
            dt_bias=weights.dt_proj.bias.detach(),
            dt_softplus=True,
        )
        here = y.flatten(0, 2)[rectangle.numbers(asked)]
        total = here if total is None else total + here
    assert total is not None
    z = functional.linear(block.norm(own), mixer.in_proj.weight[config.d_inner :])
    return own + mixer.out_proj(total / len(corners) * functional.silu(z))


def _convolved(block: ResidualBlock, cells: Cells, needed: Tensor) -> tuple[Tensor, Tensor]:
    """Return what enters the scan, with the cells it stands in.

    Parameters
    ----------
    needed
        Numbers of the cells that are scanned.

    Returns
    -------
    ``(V + 1, d_inner)``, the last row that of every cell around which all is pad; and ``(V,)``
    numbers of the cells of the others.
    """
    mixer = block.mixer
    assert isinstance(mixer, MambaBlock)
    config, rows, index = mixer.config, cells.rows, cells.index
    before_start = len(rows)
    pad = len(rows) - 1 if index is not None else -1
    if index is None:
        index = torch.arange(len(rows), device=rows.device)
    padded = functional.pad(index, (config.d_conv - 1, 0), value=before_start)
    windows = padded[needed[:, None] + torch.arange(config.d_conv, device=rows.device)]
    differs = (windows != pad).any(dim=1)
    windows = torch.cat([windows[differs], torch.full_like(windows[:1], max(pad, 0))])
    used = torch.zeros(before_start + 1, dtype=torch.bool, device=rows.device)
    used[windows] = True
    number = used.cumsum(0) - 1
    # a row of zeros is before the first cell: norm and projection leave it so
    seen = block.norm(functional.pad(rows, (0, 0, 0, 1))[used.nonzero()[:, 0]])
    x = functional.linear(seen, mixer.in_proj.weight[: config.d_inner])
    taps = (spread(x, number[tap]) for tap in windows.unbind(1))
    return mixer._weigh(taps, ALL_CHANNELS), needed[differs]


@dataclass(frozen=True)
class _Rectangle:
    """What a scan from one corner passes on its way to some cells.

    Attributes
    ----------
    first, end
        ``(row, col)`` of its first cell, and one beyond its last.
    flip
        Axes of ``(1, H, W, ·)`` along which the scan runs backwards.
    """

    first: tuple[int, int]
    end: tuple[int, int]
    flip: tuple[int, ...]

    @classmethod
    def between(cls, asked: Tensor, shape: tuple[int, int], flip: tuple[int, ...]) -> "_Rectangle":
        """Return what lies between a corner of the canvas and ``(Q, 2)`` cells."""
        low, high = asked.amin(dim=0).tolist(), asked.amax(dim=0).tolist()
        first = tuple(low[k] if k + 1 in flip else 0 for k in range(2))
        end = tuple(shape[k] if k + 1 in flip else high[k] + 1 for k in range(2))
        return cls((first[0], first[1]), (end[0], end[1]), flip)

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.end[0] - self.first[0], self.end[1] - self.first[1]

    def holds(self, place: Tensor) -> Tensor:
        """Return which of ``(n, 2)`` cells lie in it, ``(n,)``."""
        first, end = place.new_tensor(self.first), place.new_tensor(self.end)
        return ((place >= first) & (place < end)).all(dim=1)

    def numbers(self, place: Tensor) -> Tensor:
        """Return the numbers of ``(n, 2)`` cells in the order of the scan, ``(n,)``."""
        along = [
            self.end[k] - 1 - place[:, k] if k + 1 in self.flip else place[:, k] - self.first[k]
            for k in range(2)
        ]
        return along[0] * self.shape[1] + along[1]

    def filled(self, rows: Tensor, to: Tensor) -> Tensor:
        """Return ``(1, h, w, ·)`` in the order of the scan: rows at ``to``, else the last one."""
        height, width = self.shape
        ground = rows[-1:].detach().expand(height * width, -1)
        return ground.index_copy(0, to, rows[:-1]).view(1, height, width, -1)
