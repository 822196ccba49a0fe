"""Provenance: from which cells a cell's state came, and which cells a cell feeds.

Three named maps of one layer, each in closed form (`implied_attention`), for any cell of the
canvas, and each the answer to a unit impulse at the input of that layer's scan:

``state``
    the scan alone, ``C . h`` at the query;
``gate``
    with the skip connection D and the gate: ``(C . h + D x) * silu(z)``;
``projection``
    through the output projection as well: what is added to the residual stream.

dt, B, C and z also depend on the features; here they are held at their values, as attention
rollout holds attention weights. Through the whole stack, with them held, see `rollout`; with
them varying, `receptive_field`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from napari_2dmamba.errors import CheckpointError, UserError
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.implied_attention import ScanArrays, influence_of, influence_on
from napari_2dmamba.explain.subject import Query, Subject
from napari_2dmamba.models.mamba2d import OTHER_CORNERS, Mamba2DMIL, MambaBlock, ScanWeights

Through = Literal["state", "gate", "projection"]
THROUGH: tuple[Through, ...] = ("state", "gate", "projection")

Channels = Literal["absolute", "mean"] | int
"""``"absolute"``: mean of the absolute values over channels; ``"mean"``: signed mean; or one."""

_WORDS = {
    "state": "through the scan",
    "gate": "through scan, skip connection and gate",
    "projection": "through scan, gate and output projection",
}


@dataclass(frozen=True)
class _Corner:
    """One direction of a layer: its scan on the canvas flipped so that its corner is first."""

    scan: ScanArrays
    flip: tuple[int, ...]  # axes of the canvas
    D: Tensor  # (d_inner,)


@dataclass(frozen=True)
class _Layer:
    corners: tuple[_Corner, ...]
    x: Tensor  # (H, W, d_inner)
    gate: Tensor  # (H, W, d_inner)
    out_proj: Tensor  # (d_model, d_inner)


class Provenance:
    """The layers of a 2DMambaMIL on one bag: made once, then asked at every click.

    Making it costs one forward pass. A query then costs one exponential per cell, channel and
    state of the quadrant it looks into; with the CPU kernels it follows the mouse.

    Parameters
    ----------
    subject
        A 2DMambaMIL and its bag.

    Raises
    ------
    CheckpointError
        For other architectures, which have no 2D scan.
    """

    def __init__(self, subject: Subject) -> None:
        model = subject.model
        if not isinstance(model, Mamba2DMIL):
            raise CheckpointError(
                f"provenance follows the scan of 2DMambaMIL, and this model is {model.title}; "
                "choose the receptive field, which is there for every model"
            )
        self.subject = subject
        self._sequence = model.config.scan == "1d"
        stages: dict[str, Tensor] = {}
        with torch.no_grad():
            subject.run(stages=stages)
            self._layers = []
            for number, block in enumerate(model.layers.layers):
                mixer = block.mixer
                assert isinstance(mixer, MambaBlock)
                self._layers.append(_layer(mixer, stages, number))

    def __len__(self) -> int:
        """Layers."""
        return len(self._layers)

    @property
    def channels(self) -> int:
        """Channels of each scan."""
        return self._layers[0].x.shape[-1]

    def on(
        self,
        query: Query,
        *,
        layer: int = -1,
        through: Through = "state",
        channels: Channels = "absolute",
        contribution: bool = False,
        all_cells: bool = False,
    ) -> GridMap:
        """Return where the state of ``query`` came from: one value per cell.

        Parameters
        ----------
        query
            A patch, or a cell of the canvas.
        layer
            Which layer; -1 is the last.
        through
            How far the input is followed; see the module.
        channels
            How channels become one number.
        contribution
            Multiply by the input at each cell: what did come, not what would count.
        all_cells
            Also pad cells, over the whole canvas; NaN otherwise.
        """
        values = self.values_on(
            query, layer=layer, through=through, channels=channels, contribution=contribution
        )
        row, col = self.subject.cell_of(query)
        what = "the input of each cell" if contribution else "a unit input at each cell"
        return self._map(
            values,
            f"provenance ({through})",
            f"how much {what} enters the cell at row {row}, column {col} "
            f"{_WORDS[through]} of layer {self._number(layer)}, {_of_channels(channels)}",
            query,
            through,
            channels,
            contribution,
            all_cells,
        )

    def feeds(
        self,
        source: Query,
        *,
        layer: int = -1,
        through: Through = "state",
        channels: Channels = "absolute",
        contribution: bool = False,
        all_cells: bool = False,
    ) -> GridMap:
        """Return which cells ``source`` feeds: the reverse of `on`, with its arguments."""
        values = self.values_of(
            source, layer=layer, through=through, channels=channels, contribution=contribution
        )
        row, col = self.subject.cell_of(source)
        what = "the input" if contribution else "a unit input"
        return self._map(
            values,
            f"feeds ({through})",
            f"how much {what} at row {row}, column {col} enters each cell {_WORDS[through]} of "
            f"layer {self._number(layer)}, {_of_channels(channels)}",
            source,
            through,
            channels,
            contribution,
            all_cells,
        )

    def values_on(
        self,
        query: Query,
        *,
        layer: int = -1,
        through: Through = "state",
        channels: Channels = "absolute",
        contribution: bool = False,
    ) -> Tensor:
        """Return the values of `on`: ``(rows, cols)``, or ``(1, N)`` of a 1D scan."""
        return self._values(True, query, layer, through, channels, contribution)

    def values_of(
        self,
        source: Query,
        *,
        layer: int = -1,
        through: Through = "state",
        channels: Channels = "absolute",
        contribution: bool = False,
    ) -> Tensor:
        """Return the values of `feeds`: ``(rows, cols)``, or ``(1, N)`` of a 1D scan."""
        return self._values(False, source, layer, through, channels, contribution)

    def _values(
        self,
        arriving: bool,
        query: Query,
        layer: int,
        through: Through,
        channels: Channels,
        contribution: bool,
    ) -> Tensor:
        with torch.no_grad():
            at = self._layers[layer]
            cell = self._position(query)
            if not isinstance(channels, str):
                at, channels = _only(at, channels, through), "mean"
            magnitude = channels == "absolute"
            d_inner = at.x.shape[-1]
            x = at.x if contribution else None
            weight = at.x.new_full((d_inner,), 1 / d_inner)
            if through == "projection":
                weight = weight * (
                    at.out_proj.norm(dim=0) if magnitude else at.out_proj.mean(dim=0)
                )
            gate = at.gate if through != "state" else torch.ones_like(at.x[:1, :1])
            if arriving and through != "state":
                weight = weight * (gate[cell].abs() if magnitude else gate[cell])
            if len(at.corners) > 1:
                each = self._each(at, arriving, cell, through, x)
                each = each if arriving else each * gate
                return (each.abs() if magnitude else each) @ weight
            corner = at.corners[0]
            if arriving:
                total = influence_on(corner.scan, cell, x=x, weight=weight, magnitude=magnitude)
            else:
                total = influence_of(
                    corner.scan,
                    cell,
                    x=x,
                    gate=None if through == "state" else gate,
                    weight=weight,
                    magnitude=magnitude,
                )
            if through != "state":
                here = self._here(corner, cell) + corner.D
                here = here * (1 if x is None else x[cell]) * (1 if arriving else gate[cell])
                total[cell] = ((here.abs() if magnitude else here) * weight).sum()
            return total

    def _each(
        self, at: _Layer, arriving: bool, cell: tuple[int, int], through: Through, x: Tensor | None
    ) -> Tensor:
        """Add the directions of a layer up, channel by channel: ``(H, W, d_inner)``."""
        follow = influence_on if arriving else influence_of
        total = torch.zeros_like(at.x)
        for corner in at.corners:
            flipped = tuple(
                size - 1 - k if axis in corner.flip else k
                for axis, (k, size) in enumerate(zip(cell, at.x.shape[:2], strict=True))
            )
            given = None if x is None else x.flip(corner.flip)
            found = follow(corner.scan, (flipped[0], flipped[1]), x=given)
            total += found.flip(corner.flip)
            if through != "state":
                total[cell] += corner.D * (1 if x is None else x[cell])
        return total / len(at.corners)

    @staticmethod
    def _here(corner: _Corner, cell: tuple[int, int]) -> Tensor:
        """Weight of a cell's input in its own output, ``(d_inner,)``."""
        return corner.scan.dt[cell] * (corner.scan.B[cell] @ corner.scan.C[cell])

    def _position(self, query: Query) -> tuple[int, int]:
        """Return where a query lies in the scan."""
        cell = self.subject.cell_of(query)
        if not self._sequence:
            return cell
        if not isinstance(query, tuple):
            return 0, int(query)
        found = (self.subject.cells_of_patches == cell).all(axis=1).nonzero()[0]
        if not len(found):
            raise ValueError(f"no patch lies in cell {cell}, and a 1D scan sees patches only")
        return 0, int(found[-1])

    def _map(
        self,
        values: Tensor,
        name: str,
        meaning: str,
        query: Query,
        through: Through,
        channels: Channels,
        contribution: bool,
        all_cells: bool,
    ) -> GridMap:
        signed = channels != "absolute"
        what = "contribution" if contribution else "weight"
        quantity = f"{what} {_WORDS[through]}"
        if self._sequence:
            return self.subject.map_of_patches(
                values[0], name, meaning, signed=signed, quantity=quantity, queries=(query,)
            )
        return self.subject.map_of_canvas(
            values, name, meaning, signed=signed, all_cells=all_cells, quantity=quantity,
            queries=(query,),
        )  # fmt: skip

    def _number(self, layer: int) -> str:
        return f"{range(len(self))[layer] + 1} of {len(self)}"


def _of_channels(channels: Channels) -> str:
    if isinstance(channels, str):
        return {"absolute": "mean of absolute values over channels", "mean": "mean over channels"}[
            channels
        ]
    return f"channel {channels}"


def _layer(mixer: MambaBlock, stages: dict[str, Tensor], number: int) -> _Layer:
    def stage(name: str) -> Tensor:
        return stages[f"mixer{number}_{name}"]

    x = stage("x")
    made = {name: stage(name) for name in ("dt", "B", "C")}
    corners = [_corner(mixer, made, ())]
    if mixer.config.directions == 4:
        flat = x.reshape(-1, x.shape[-1])
        for weights, flip in zip(mixer.other_corners, OTHER_CORNERS, strict=True):
            assert isinstance(weights, ScanWeights)
            made = {
                name: value.view(*x.shape[:2], -1) for name, value in weights.dt_B_C(flat).items()
            }
            corners.append(_corner(weights, made, tuple(axis - 1 for axis in flip)))
    return _Layer(tuple(corners), x, functional.silu(stage("z")), mixer.out_proj.weight)


def _corner(weights: ScanWeights, made: dict[str, Tensor], flip: tuple[int, ...]) -> _Corner:
    dt = functional.softplus(made["dt"] + weights.dt_proj.bias)
    dt, B, C = (t.flip(flip) if flip else t for t in (dt, made["B"], made["C"]))
    return _Corner(ScanArrays(dt, -torch.exp(weights.A_log), B, C), flip, weights.D)


def _only(at: _Layer, channel: int, through: Through) -> _Layer:
    """Return a layer with one of its channels."""
    d_inner = at.x.shape[-1]
    if not 0 <= channel < d_inner:
        raise UserError(f"there is no channel {channel}; the scan has 0 to {d_inner - 1}")
    if through == "projection":
        raise CheckpointError(
            "the output projection mixes the channels of a scan, so a single one cannot be "
            "followed through it; choose the mean over channels, or the map before the projection"
        )
    one = slice(channel, channel + 1)
    return _Layer(
        tuple(
            _Corner(
                c.scan._replace(dt=c.scan.dt[..., one].contiguous(), A=c.scan.A[one]),
                c.flip,
                c.D[one],
            )
            for c in at.corners
        ),
        at.x[..., one].contiguous(),
        at.gate[..., one],
        at.out_proj[:, one],
    )
