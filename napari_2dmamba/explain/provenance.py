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

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from napari_2dmamba.errors import CheckpointError, UserError
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.implied_attention import ScanArrays, influence_of, influence_on
from napari_2dmamba.explain.subject import Query, Subject
from napari_2dmamba.models.architecture import Architecture
from napari_2dmamba.models.scan_layer import ScanDirection, ScanLayer

Through = Literal["state", "gate", "projection"]
THROUGH: tuple[Through, ...] = ("state", "gate", "projection")

Channels = Literal["absolute", "mean"] | int
"""``"absolute"``: mean of the absolute values over channels; ``"mean"``: signed mean; or one."""

_WORDS = {
    "state": "through the scan",
    "gate": "through scan, skip connection and gate",
    "projection": "through scan, gate and output projection",
}


class Provenance:
    """The scans of a model on one bag: made once, then asked at every click.

    Making it costs one forward pass. A query then costs one exponential per cell, channel and
    state of the quadrant it looks into; with the CPU kernels it follows the mouse.

    Parameters
    ----------
    subject
        A model that tells its scans (`Architecture.tells_scans`), and its bag.

    Raises
    ------
    CheckpointError
        For other models, which have no 2D scan.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        with torch.no_grad():
            self._layers = subject.model.scan_layers(
                subject.features, subject.cells, subject.canvas
            )
        self._sequence = not self._layers[0].on_canvas

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
        place = self.subject.place_words(query)
        what = "the input of each cell" if contribution else "a unit input at each cell"
        return self._map(
            values,
            f"provenance ({through})",
            f"how much {what} enters the cell at {place} "
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
        place = self.subject.place_words(source)
        what = "the input" if contribution else "a unit input"
        return self._map(
            values,
            f"feeds ({through})",
            f"how much {what} at {place} enters each cell {_WORDS[through]} of "
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
            if len(at.directions) > 1:
                each = self._each(at, arriving, cell, through, x)
                each = each if arriving else each * gate
                return (each.abs() if magnitude else each) @ weight
            corner = at.directions[0]
            if arriving:
                total = influence_on(_arrays(corner), cell, x=x, weight=weight, magnitude=magnitude)
            else:
                total = influence_of(
                    _arrays(corner),
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
        self,
        at: ScanLayer,
        arriving: bool,
        cell: tuple[int, int],
        through: Through,
        x: Tensor | None,
    ) -> Tensor:
        """Add the directions of a layer up, channel by channel: ``(H, W, d_inner)``."""
        follow = influence_on if arriving else influence_of
        total = torch.zeros_like(at.x)
        for corner in at.directions:
            flipped = tuple(
                size - 1 - k if axis in corner.flip else k
                for axis, (k, size) in enumerate(zip(cell, at.x.shape[:2], strict=True))
            )
            given = None if x is None else x.flip(corner.flip)
            found = follow(_arrays(corner), (flipped[0], flipped[1]), x=given)
            total += found.flip(corner.flip)
            if through != "state":
                total[cell] += corner.D * (1 if x is None else x[cell])
        return total / len(at.directions)

    @staticmethod
    def _here(corner: ScanDirection, cell: tuple[int, int]) -> Tensor:
        """Weight of a cell's input in its own output, ``(d_inner,)``."""
        return corner.dt[cell] * (corner.B[cell] @ corner.C[cell])

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


def why_not(model: Architecture) -> str | None:
    """Say why a model has no provenance; None if it has."""
    if model.tells_scans:
        return None
    return f"it follows a 2D selective scan, and this model is {model.title}"


def _arrays(direction: ScanDirection) -> ScanArrays:
    return ScanArrays(direction.dt, direction.A, direction.B, direction.C)


def _only(at: ScanLayer, channel: int, through: Through) -> ScanLayer:
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
    return replace(
        at,
        directions=tuple(
            replace(c, dt=c.dt[..., one].contiguous(), A=c.A[one], D=c.D[one])
            for c in at.directions
        ),
        x=at.x[..., one].contiguous(),
        gate=at.gate[..., one],
        out_proj=at.out_proj[:, one],
    )
