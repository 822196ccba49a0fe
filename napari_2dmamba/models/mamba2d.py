"""2DMambaMIL (CVPR 2025, arXiv 2412.00678), with the numbers of its published checkpoints.

Patches are projected and put on a canvas of ``(rows, cols)`` cells; every cell without a
patch holds one learned pad token. The canvas passes Mamba blocks whose scan runs along rows
and then down columns, and attention pools all cells into one vector.

Three habits of the published model are kept, because its weights were trained with them: the
causal convolution runs over the flattened canvas, from the end of one row into the next and
through pads; pads pass every layer like tissue; and the attention is spread over pads too
(`attention_over="all"`). ``attention_over="tissue"`` leaves pads out of the last step only.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_2dmamba.models.architecture import (
    Architecture,
    ArchitectureConfig,
    ModelOutput,
    counted,
    keep,
    xavier_init,
)
from napari_2dmamba.models.scan_layer import ScanDirection, ScanLayer
from napari_2dmamba.models.spread import spread
from napari_2dmamba.scan import selective_scan_2d

ATTENTION_HIDDEN = 128
"""Width of the attention's hidden layer in the published model, whatever d_model is."""

OTHER_CORNERS = ((2,), (1,), (1, 2))
"""Axes of ``(1, H, W, ·)`` to flip so that another corner than the top left comes first."""


@dataclass(frozen=True)
class Mamba2DConfig(ArchitectureConfig):
    """Shape and options of a 2DMambaMIL.

    Attributes
    ----------
    d_model
        Width of the sequence.
    n_layers
        Mamba blocks.
    d_state
        State size N of the scan.
    expand
        d_inner = expand * d_model.
    d_conv
        Taps of the causal convolution.
    inner_norms
        RMSNorm on dt, B and C.
    pad
        ``"trainable"`` or ``"zero"`` token for cells without tissue.
    scan
        ``"2d"``, or ``"1d"`` over the patches in the order of the bag, without a canvas.
    directions
        1: from the top left corner, as published; 4: from all corners.
    canvas_mode
        ``"checkpoint"``: absolute coordinates on the training canvas, as published;
        ``"slide"``: the bounding box of the slide's own patches.
    attention_over
        ``"all"`` cells, as published, or ``"tissue"`` only.
    """

    d_model: int = 128
    n_layers: int = 1
    d_state: int = 16
    expand: int = 2
    d_conv: int = 4
    inner_norms: bool = False
    pad: Literal["trainable", "zero"] = "trainable"
    scan: Literal["2d", "1d"] = "2d"
    directions: Literal[1, 4] = 1
    canvas_mode: Literal["checkpoint", "slide"] = "checkpoint"
    attention_over: Literal["all", "tissue"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(
            d_model=(1, 65536),
            n_layers=(1, 256),
            d_state=(1, 256),
            d_conv=(1, 64),
            expand=(1, 64),
        )
        for name, choices in (
            ("pad", ("trainable", "zero")),
            ("scan", ("2d", "1d")),
            ("directions", (1, 4) if self.scan == "2d" else (1,)),
            ("canvas_mode", ("checkpoint", "slide")),
            ("attention_over", ("all", "tissue")),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is {value!r}, but must be one of {choices}")

    @property
    def d_inner(self) -> int:
        """Channels of the scan."""
        return self.expand * self.d_model

    @property
    def dt_rank(self) -> int:
        """Rank of the projection that makes the step sizes."""
        return math.ceil(self.d_model / 16)


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

    def dt_B_C(self, x: Tensor) -> dict[str, Tensor]:
        """From ``(V, d_inner)``: dt before its bias ``(V, d_inner)``, B and C ``(V, d_state)``."""
        config = self.config
        sizes = [config.dt_rank, config.d_state, config.d_state]
        dt, B, C = self.x_proj(x).split(sizes, dim=-1)
        if config.inner_norms:
            dt, B, C = self.dt_layernorm(dt), self.B_layernorm(B), self.C_layernorm(C)
        return {"dt": functional.linear(dt, self.dt_proj.weight), "B": B, "C": C}

    def scan(self, on_canvas: dict[str, Tensor], flip: tuple[int, ...] = ()) -> Tensor:
        """Scan x, dt, B, C, z, each ``(1, H, W, ·)``, from the corner that ``flip`` brings first.

        The scan adds the bias of dt before softplus, so dt comes without it.
        """
        arrays = {name: a.flip(flip) if flip else a for name, a in on_canvas.items()}
        y = selective_scan_2d(
            arrays["x"],
            arrays["dt"],
            -torch.exp(self.A_log),
            arrays["B"],
            arrays["C"],
            D=self.D,
            z=arrays["z"],
            dt_bias=self.dt_proj.bias,
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
        """Return ``(L, d_model)``, one row per cell."""
        y = self._scan_canvas(cells, stages, layer)
        keep(stages, **{f"mixer{layer}_y": y[0]})
        return self.out_proj(y.reshape(-1, self.config.d_inner))

    def _scan_canvas(self, cells: Cells, stages: dict[str, Tensor] | None, layer: int) -> Tensor:
        """Return the gated scan ``(1, H, W, d_inner)``; the large arrays end here."""
        to_x, to_z = self.in_proj.weight.split(self.config.d_inner)
        x, x_index = self._convolve(functional.linear(cells.rows, to_x), cells.index)

        def placed(value: Tensor, index: Tensor | None) -> Tensor:
            return _spread(value, index).view(1, *cells.shape, value.shape[-1])

        z = placed(functional.linear(cells.rows, to_z), cells.index)
        shared = {"x": placed(x, x_index), "z": z}

        def arrays_of(weights: ScanWeights) -> dict[str, Tensor]:
            made = weights.dt_B_C(x)
            return shared | {name: placed(value, x_index) for name, value in made.items()}

        arrays = arrays_of(self)
        keep(stages, **{f"mixer{layer}_{name}": value[0] for name, value in arrays.items()})
        y = self.scan(arrays)
        if self.config.directions == 1:
            return y
        for weights, flip in zip(self.other_corners, OTHER_CORNERS, strict=True):
            assert isinstance(weights, ScanWeights)
            y = y + weights.scan(arrays_of(weights), flip)
        return y / 4

    def scan_layer(self, stages: Mapping[str, Tensor], number: int) -> ScanLayer:
        """Return the scans of this block, from what a forward pass kept of layer ``number``."""
        x = stages[f"mixer{number}_x"]
        made = {name: stages[f"mixer{number}_{name}"] for name in ("dt", "B", "C")}
        directions = [self.direction(made)]
        if self.config.directions == 4:
            flat = x.reshape(-1, x.shape[-1])
            for weights, flip in zip(self.other_corners, OTHER_CORNERS, strict=True):
                assert isinstance(weights, ScanWeights)
                made = {
                    name: value.view(*x.shape[:2], -1)
                    for name, value in weights.dt_B_C(flat).items()
                }
                directions.append(weights.direction(made, tuple(axis - 1 for axis in flip)))
        gate = functional.silu(stages[f"mixer{number}_z"])
        return ScanLayer(
            tuple(directions), x, gate, self.out_proj.weight, on_canvas=self.config.scan == "2d"
        )

    def _convolve(self, rows: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Convolve causally over the raster, then SiLU; only distinct windows are computed.

        A cell's result depends on the cell and the ``d_conv - 1`` before it in raster order;
        where all of them hold the pad token, which is the last row, the result is that of
        every other such cell.

        Returns
        -------
        Distinct results ``(V, d_inner)``, and the index ``(L,)`` of each cell into them.
        """
        width = self.config.d_conv
        if index is None:
            padded = functional.pad(rows, (0, 0, width - 1, 0))
            return self._weigh(padded[tap : tap + len(rows)] for tap in range(width)), None
        before_start, pad = len(rows), len(rows) - 1
        windows = torch.stack(
            [
                functional.pad(index, (shift, 0), value=before_start)[: len(index)]
                for shift in range(width - 1, -1, -1)
            ],
            dim=1,
        )
        where = torch.nonzero((windows != pad).any(dim=1)).squeeze(1)
        x_index = torch.full_like(index, len(where))
        x_index[where] = torch.arange(len(where), device=index.device)
        windows = torch.cat([windows[where], torch.full_like(windows[:1], pad)])
        rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
        return self._weigh(spread(rows, taps) for taps in windows.unbind(1)), x_index

    def _weigh(self, taps: Iterable[Tensor]) -> Tensor:
        """Weigh each cell's predecessors and itself, ``(V, d_inner)`` each, add, and SiLU."""
        weights, bias = self.conv1d.weight[:, 0].t(), self.conv1d.bias
        assert bias is not None
        x = bias
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


class Mamba2DMIL(Architecture):
    """2DMambaMIL; parameter names are those of the published ``state_dict``."""

    name: ClassVar[str] = "2dmamba"
    title: ClassVar[str] = "2DMambaMIL"
    paper: ClassVar[str] = "Zhang et al., CVPR 2025, arXiv 2412.00678"
    config_class: ClassVar[type[ArchitectureConfig]] = Mamba2DConfig
    score_meaning: ClassVar[str] = (
        "softmax attention of the patch's cell; all cells the attention is spread over, "
        "background included unless left out, sum to 1"
    )
    uses_grid: ClassVar[bool] = True
    uses_scan: ClassVar[bool] = True
    tells_scans: ClassVar[bool] = True

    config: Mamba2DConfig

    @property
    def depth(self) -> int:
        """Its blocks."""
        return self.config.n_layers

    @property
    def variant(self) -> str:
        """2DMambaMIL, and how it scans where that is not as published."""
        if self.config.scan == "1d":
            return f"{self.title}, 1D scan"
        return self.title + (", 4 directions" if self.config.directions == 4 else "")

    def __init__(self, config: Mamba2DConfig) -> None:
        super().__init__()
        self.config = config
        self._fc1 = nn.Sequential(
            nn.Linear(config.feature_size, config.d_model),
            nn.GELU(),
            nn.Dropout(config.dropout),
        )
        self.layers = MambaLayers(config)
        self.norm = nn.LayerNorm(config.d_model, eps=1e-5)
        self.attention = nn.Sequential(
            nn.Linear(config.d_model, ATTENTION_HIDDEN), nn.Tanh(), nn.Linear(ATTENTION_HIDDEN, 1)
        )
        self.classifier = nn.Linear(config.d_model, config.n_outputs)
        xavier_init(self)

    def forward(
        self,
        features: Tensor,
        cells: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
        *,
        stages: dict[str, Tensor] | None = None,
    ) -> ModelOutput:
        """Run one bag; see `Architecture.forward`.

        Where two patches share a cell, the later one in the bag takes it, as in the published
        code, and both get the score of the cell.

        Stages, with h, w the canvas: ``fc1 (N, d)``; for each layer i ``mixer{i}_{x,dt,B,C,z}``
        (what enters the scan; dt before bias and softplus), ``mixer{i}_y`` (what leaves it,
        gated), ``mixer{i}_out`` and ``layer{i}_out`` ``(h, w, d)``; ``h_norm (h * w, d)``;
        ``att_logits`` and ``att_softmax (h, w)``; ``bag (1, d)``. The 1D variant has ``(1, N)``.
        """
        projected = self._fc1(features)
        if self.config.scan == "1d":
            position = torch.arange(len(features), device=features.device)
            sequence = Cells(projected, None, (1, len(features)))
        else:
            if cells is None or canvas is None:
                raise ValueError("2DMambaMIL needs the cells of the patches and the canvas")
            position = cells[:, 0] * canvas[1] + cells[:, 1]
            sequence = self._on_canvas(projected, position, canvas)
        for layer, block in enumerate(self.layers.layers):
            sequence = block(sequence, stages, layer)
        hidden = self.norm(sequence.full())
        att_logits = self.attention(hidden).squeeze(1)
        if self.config.attention_over == "tissue":
            empty = torch.ones_like(att_logits, dtype=torch.bool)
            empty[position] = False
            weights = torch.softmax(att_logits.masked_fill(empty, -torch.inf), dim=0)
        else:
            weights = torch.softmax(att_logits, dim=0)
        bag = weights @ hidden
        keep(
            stages,
            fc1=projected,
            h_norm=hidden,
            att_logits=att_logits.view(sequence.shape),
            att_softmax=weights.view(sequence.shape),
            bag=bag[None],
        )
        background = None
        if self.config.scan == "2d":
            on_tissue = torch.zeros_like(weights, dtype=torch.bool)
            on_tissue[position] = True
            background = weights.masked_fill(on_tissue, 0).sum()
        return ModelOutput(self.classifier(bag), weights[position], background)

    def scan_layers(
        self,
        features: Tensor,
        cells: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
    ) -> list[ScanLayer]:
        """See `Architecture.scan_layers`."""
        stages: dict[str, Tensor] = {}
        self(features, cells, canvas, stages=stages)
        found = []
        for number, block in enumerate(self.layers.layers):
            mixer = block.mixer
            assert isinstance(mixer, MambaBlock)
            found.append(mixer.scan_layer(stages, number))
        return found

    def patch_states(
        self,
        features: Tensor,
        cells: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
        *,
        layer: int = -1,
    ) -> Tensor:
        """See `Architecture.patch_states`; -1 is the last layer, -2 the one before, ..."""
        stages: dict[str, Tensor] = {}
        self(features, cells, canvas, stages=stages)
        states = stages[f"layer{range(self.depth)[layer]}_out"]
        if self.config.scan == "1d":
            return states[0]
        assert cells is not None
        return states[cells[:, 0], cells[:, 1]]

    def peak_floats(self, patches: int, cells: int) -> int:
        """See `Architecture.peak_floats`; x, dt, z and y of one layer are most of it."""
        c = self.config
        if c.scan == "1d":
            cells = patches
        directions = 4 * c.d_inner if c.directions == 4 else 0
        per_cell = 4 * c.d_inner + 2 * c.d_state + 3 * c.d_model + directions
        distinct = cells if c.n_layers > 1 or c.scan == "1d" else min(4 * patches, cells)
        return cells * per_cell + distinct * 3 * c.d_inner

    def _on_canvas(self, projected: Tensor, position: Tensor, canvas: tuple[int, int]) -> Cells:
        """Place the projected patches; the last row is the pad token of all other cells."""
        count = len(projected)
        index = torch.full((canvas[0] * canvas[1],), count, device=projected.device)
        order = torch.arange(count, device=projected.device)
        # amax rather than assignment: with two patches in a cell the later one must win on
        # every device, and assignment leaves the order open.
        latest = torch.full_like(index, -1).scatter_reduce_(0, position, order, "amax")
        index = torch.where(latest >= 0, latest, index)
        return Cells(torch.cat([projected, self.layers.pad_token[None]]), index, canvas)

    @classmethod
    def recognises(cls, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """See `Architecture.recognises`."""
        return "layers.pad_token" in shapes and "layers.layers.0.mixer.A_log" in shapes

    @classmethod
    def config_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mamba2DConfig:
        """See `Architecture.config_of`; the pad counts as trainable, which inference ignores."""
        d_model, feature_size = shapes["_fc1.0.weight"]
        mixer = "layers.layers.0.mixer"
        d_inner, d_state = shapes[f"{mixer}.A_log"]
        return Mamba2DConfig(
            feature_size=feature_size,
            n_outputs=shapes["classifier.weight"][0],
            d_model=d_model,
            n_layers=len({key.split(".")[2] for key in shapes if key.startswith("layers.layers.")}),
            d_state=d_state,
            expand=d_inner // d_model,
            d_conv=shapes[f"{mixer}.conv1d.weight"][2],
            inner_norms=f"{mixer}.dt_layernorm.weight" in shapes,
        )
