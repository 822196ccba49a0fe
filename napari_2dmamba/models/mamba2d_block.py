"""The layers of 2DMambaMIL: norm, causal convolution over the canvas, gated 2D scan."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_2dmamba.models.architecture import counted, keep
from napari_2dmamba.models.mamba2d_config import Mamba2DConfig
from napari_2dmamba.models.scan_layer import ScanDirection, ScanLayer
from napari_2dmamba.models.spread import spread
from napari_2dmamba.scan import selective_scan_2d

OTHER_CORNERS = ((2,), (1,), (1, 2))
"""Axes of ``(1, H, W, ·)`` to flip so that another corner than the top left comes first."""

ALL_CHANNELS = slice(None)
LEAST_CHANNELS = 32
"""Channels that pass the scan together at least: with fewer, its vectors are not full."""

SCAN_FLOATS = 2**26
"""Floats of the scan's arrays that stand at once in inference, or `LEAST_CHANNELS` of them."""


class RMSNorm(nn.Module):
    """Division by the root mean square over the last axis, eps 1e-5."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., size) -> (..., size)``."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight, eps=1e-5)


@dataclass(frozen=True)
class Cells:
    """The cells of a canvas, written as few distinct rows and an index into them.

    On a real slide 70 to 90 % of the cells hold the same pad token, so whatever acts on each
    cell alone (norm, projections) is computed once for all of them.

    Attributes
    ----------
    rows
        ``(U, d)`` distinct values.
    index
        ``(L,)`` int64, the row that each cell holds, in raster order; None where ``rows``
        has one row per cell.
    shape
        ``(height, width)`` of the canvas, ``L = height * width``.
    """

    rows: Tensor
    index: Tensor | None
    shape: tuple[int, int]

    def full(self) -> Tensor:
        """``(L, d)``, one row per cell."""
        return _spread(self.rows, self.index)


def _spread(rows: Tensor, index: Tensor | None) -> Tensor:
    return rows if index is None else spread(rows, index)


def channels_at_once(config: Mamba2DConfig, cells: int) -> int:
    """Return how many channels of a canvas pass the scan together in inference."""
    fitting = SCAN_FLOATS // (scan_arrays(config) * max(cells, 1)) // LEAST_CHANNELS
    return min(config.d_inner, max(fitting, 1) * LEAST_CHANNELS)


def scan_arrays(config: Mamba2DConfig) -> int:
    """Return how many arrays of the size of x stand at once: x, dt, z, y; flipped; summed."""
    return 4 if config.directions == 1 else 9


class ScanWeights(nn.Module):
    """What one direction of the scan owns: it makes dt, B and C from x, and holds A and D."""

    def __init__(self, config: Mamba2DConfig) -> None:
        super().__init__()
        self.config = config
        self.build(config)

    def build(self, config: Mamba2DConfig) -> None:
        """Create the weights, in the order that fixes what a seed draws."""
        inner, n, rank = config.d_inner, config.d_state, config.dt_rank
        self.x_proj = nn.Linear(inner, rank + 2 * n, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.log(counted(n, first=1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        if config.inner_norms:
            self.dt_layernorm = RMSNorm(rank)
            self.B_layernorm = RMSNorm(n)
            self.C_layernorm = RMSNorm(n)

    def shared_by_channels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From ``(V, d_inner)``: what makes dt ``(V, dt_rank)``, B and C ``(V, d_state)``."""
        config = self.config
        sizes = [config.dt_rank, config.d_state, config.d_state]
        low, B, C = self.x_proj(x).split(sizes, dim=-1)
        if config.inner_norms:
            low, B, C = self.dt_layernorm(low), self.B_layernorm(B), self.C_layernorm(C)
        return low, B, C

    def dt_B_C(self, x: Tensor) -> dict[str, Tensor]:
        """From ``(V, d_inner)``: dt before its bias ``(V, d_inner)``, B and C ``(V, d_state)``."""
        low, B, C = self.shared_by_channels(x)
        return {"dt": functional.linear(low, self.dt_proj.weight), "B": B, "C": C}

    def scan(
        self,
        on_canvas: dict[str, Tensor],
        flip: tuple[int, ...] = (),
        channels: slice = ALL_CHANNELS,
    ) -> Tensor:
        """Scan x, dt, B, C, z, each ``(1, H, W, ·)``, from the corner that ``flip`` brings first.

        The scan adds the bias of dt before softplus, so dt comes without it. x, dt and z hold
        the ``channels`` only.
        """
        arrays = {name: a.flip(flip) if flip else a for name, a in on_canvas.items()}
        bias = self.dt_proj.bias
        assert bias is not None
        y = selective_scan_2d(
            arrays["x"],
            arrays["dt"],
            -torch.exp(self.A_log[channels]),
            arrays["B"],
            arrays["C"],
            D=self.D[channels],
            z=arrays["z"],
            dt_bias=bias[channels],
            dt_softplus=True,
        )
        return y.flip(flip) if flip else y

    def direction(self, made: Mapping[str, Tensor], flip: tuple[int, ...] = ()) -> ScanDirection:
        """Return the scan of ``(H, W, ·)`` dt before its bias, B and C, with ``flip`` of H, W."""
        dt = functional.softplus(made["dt"] + self.dt_proj.bias)
        dt, B, C = (t.flip(flip) if flip else t for t in (dt, made["B"], made["C"]))
        return ScanDirection(dt, -torch.exp(self.A_log), B, C, self.D, flip)


class MambaBlock(ScanWeights):
    """The mixer of one layer: gate, causal convolution, selective scan.

    With four directions the scan also starts from the other three corners, each with weights
    of its own, and the four results are averaged, so that every cell sees the whole canvas.
    """

    def build(self, config: Mamba2DConfig) -> None:
        """Create the weights, in the order that fixes what a seed draws."""
        d, inner = config.d_model, config.d_inner
        self.in_proj = nn.Linear(d, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.d_conv, groups=inner)
        super().build(config)
        self.out_proj = nn.Linear(inner, d, bias=False)
        if config.directions == 4:
            self.other_corners = nn.ModuleList(ScanWeights(config) for _ in OTHER_CORNERS)

    def forward(
        self, cells: Cells, stages: dict[str, Tensor] | None = None, layer: int = 0
    ) -> Tensor:
        """Return ``(L, d_model)``, one row per cell.

        Channels meet in the projections only. Where nothing has to be kept, those of a large
        canvas pass the scan a few at a time, so that its arrays never stand whole.
        """
        d_inner = self.config.d_inner
        whole = stages is not None or torch.is_grad_enabled()
        at_once = d_inner if whole else channels_at_once(self.config, math.prod(cells.shape))
        parts = [slice(first, first + at_once) for first in range(0, d_inner, at_once)]
        x, x_index = self._convolve(cells, parts)
        corners = [(weights, flip, weights.shared_by_channels(x)) for weights, flip in self.corners]
        mixed: Tensor | None = None
        for channels in parts:
            y = self._scan_canvas(cells, channels, x[:, channels], x_index, corners, stages, layer)
            keep(stages, **{f"mixer{layer}_y": y[0]})
            rows, weight = y.flatten(0, 2), self.out_proj.weight[:, channels]
            mixed = (
                functional.linear(rows, weight) if mixed is None else mixed.addmm_(rows, weight.t())
            )
            del y, rows  # before those of the next channels are made
        assert mixed is not None
        return mixed

    @property
    def corners(self) -> list[tuple[ScanWeights, tuple[int, ...]]]:
        """The weights of each scan, and the flip that brings its corner to the top left."""
        found: list[tuple[ScanWeights, tuple[int, ...]]] = [(self, ())]
        if self.config.directions == 4:
            for weights, flip in zip(self.other_corners, OTHER_CORNERS, strict=True):
                assert isinstance(weights, ScanWeights)
                found.append((weights, flip))
        return found

    def _scan_canvas(
        self,
        cells: Cells,
        channels: slice,
        x: Tensor,
        x_index: Tensor | None,
        corners: list[tuple[ScanWeights, tuple[int, ...], tuple[Tensor, Tensor, Tensor]]],
        stages: dict[str, Tensor] | None,
        layer: int,
    ) -> Tensor:
        """Return the gated scan ``(1, H, W, channels)``; the large arrays end here."""

        def placed(value: Tensor, index: Tensor | None) -> Tensor:
            return _spread(value, index).view(1, *cells.shape, value.shape[-1])

        to_z = self.in_proj.weight[self.config.d_inner :][channels]
        z = placed(functional.linear(cells.rows, to_z), cells.index)
        arrays = {"x": placed(x, x_index), "z": z}
        total: Tensor | None = None
        for weights, flip, (low, B, C) in corners:
            dt = functional.linear(low, weights.dt_proj.weight[channels])
            for name, value in (("dt", dt), ("B", B), ("C", C)):
                arrays[name] = placed(value, x_index)
            if not flip:
                keep(stages, **{f"mixer{layer}_{name}": value[0] for name, value in arrays.items()})
            y = weights.scan(arrays, flip, channels)
            total = y if total is None else total + y
        assert total is not None
        return total if len(corners) == 1 else total / len(corners)

    def scan_layer(self, stages: Mapping[str, Tensor], number: int) -> ScanLayer:
        """Return the scans of this block, from what a forward pass kept of layer ``number``."""
        x = stages[f"mixer{number}_x"]
        made = {name: stages[f"mixer{number}_{name}"] for name in ("dt", "B", "C")}
        directions = [self.direction(made)]
        flat = x.reshape(-1, x.shape[-1])
        for weights, flip in self.corners[1:]:
            made = {
                name: value.view(*x.shape[:2], -1) for name, value in weights.dt_B_C(flat).items()
            }
            directions.append(weights.direction(made, tuple(axis - 1 for axis in flip)))
        gate = functional.silu(stages[f"mixer{number}_z"])
        return ScanLayer(
            tuple(directions), x, gate, self.out_proj.weight, on_canvas=self.config.scan == "2d"
        )

    def _convolve(self, cells: Cells, parts: list[slice]) -> tuple[Tensor, Tensor | None]:
        """Project to x and convolve causally over the raster, then SiLU.

        A cell's result depends on the cell and the ``d_conv - 1`` before it in raster order;
        where all of them hold the pad token, which is the last row, the result is that of
        every other such cell, so only distinct windows are computed.

        Returns
        -------
        Distinct results ``(V, d_inner)``, and the index ``(L,)`` of each cell into them.
        """
        windows, x_index = self._windows(cells)
        x: Tensor | None = None
        for channels in parts:
            rows = functional.linear(
                cells.rows, self.in_proj.weight[: self.config.d_inner][channels]
            )
            taps = self._taps(rows, windows)
            part = self._weigh(taps, channels)
            if len(parts) == 1:
                return part, x_index
            if x is None:
                x = part.new_empty(len(part), self.config.d_inner)
            x[:, channels] = part
        assert x is not None
        return x, x_index

    def _windows(self, cells: Cells) -> tuple[Tensor | None, Tensor | None]:
        """Return the rows of each distinct window ``(V, d_conv)``, and which one a cell has.

        A row beyond the last one stands for what is before the first cell. None and None where
        each cell has a row of its own.
        """
        index = cells.index
        if index is None:
            return None, None
        before_start, pad = len(cells.rows), len(cells.rows) - 1
        windows = torch.stack(
            [
                functional.pad(index, (shift, 0), value=before_start)[: len(index)]
                for shift in range(self.config.d_conv - 1, -1, -1)
            ],
            dim=1,
        )
        where = torch.nonzero((windows != pad).any(dim=1)).squeeze(1)
        x_index = torch.full_like(index, len(where))
        x_index[where] = torch.arange(len(where), device=index.device)
        return torch.cat([windows[where], torch.full_like(windows[:1], pad)]), x_index

    def _taps(self, rows: Tensor, windows: Tensor | None) -> Iterator[Tensor]:
        """Yield what each tap of the convolution sees, ``(V, channels)``, the earliest first."""
        width = self.config.d_conv
        if windows is None:
            padded = functional.pad(rows, (0, 0, width - 1, 0))
            for tap in range(width):
                yield padded[tap : tap + len(rows)]
        else:
            rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
            for taps in windows.unbind(1):
                yield spread(rows, taps)

    def _weigh(self, taps: Iterable[Tensor], channels: slice) -> Tensor:
        """Weigh each cell's predecessors and itself, add, and SiLU."""
        weights, bias = self.conv1d.weight[channels, 0].t(), self.conv1d.bias
        assert bias is not None
        x = bias[channels]
        for values, weight in zip(taps, weights, strict=True):
            x = torch.addcmul(x, values, weight)
        return functional.silu(x)


class ResidualBlock(nn.Module):
    """``cells + mixer(norm(cells))``."""

    def __init__(self, config: Mamba2DConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model)
        self.mixer = MambaBlock(config)

    def forward(self, cells: Cells, stages: dict[str, Tensor] | None, layer: int) -> Cells:
        """Return the cells of the next layer, all distinct."""
        mixed = self.mixer(Cells(self.norm(cells.rows), cells.index, cells.shape), stages, layer)
        out = cells.full() + mixed
        if stages is not None:
            stages[f"mixer{layer}_out"] = mixed.view(*cells.shape, -1)
            stages[f"layer{layer}_out"] = out.view(*cells.shape, -1)
        return Cells(out, None, cells.shape)


class MambaLayers(nn.Module):
    """The stack of blocks and the pad token."""

    def __init__(self, config: Mamba2DConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ResidualBlock(config) for _ in range(config.n_layers))
        trainable = config.pad == "trainable"
        token = torch.rand(config.d_model) if trainable else torch.zeros(config.d_model)
        self.pad_token = nn.Parameter(token, requires_grad=trainable)
