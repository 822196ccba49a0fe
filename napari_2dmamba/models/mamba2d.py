"""2DMambaMIL (CVPR 2025, arXiv 2412.00678), with the numbers of its published checkpoints.

Patches are projected and put on a canvas of ``(rows, cols)`` cells; every cell without a
patch holds one learned pad token. The canvas passes Mamba blocks whose scan runs along rows
and then down columns, and attention pools all cells into one vector.

Three habits of the published model are kept, because its weights were trained with them: the
causal convolution runs over the flattened canvas, from the end of one row into the next and
through pads; pads pass every layer like tissue; and the attention is spread over pads too
(`attention_over="all"`). ``attention_over="tissue"`` leaves pads out of the last step only.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from napari_2dmamba.models.architecture import (
    Architecture,
    ArchitectureConfig,
    ModelOutput,
    keep,
    xavier_init,
)
from napari_2dmamba.models.mamba2d_block import (
    Cells,
    MambaBlock,
    MambaLayers,
    ResidualBlock,
    channels_at_once,
    scan_arrays,
)
from napari_2dmamba.models.mamba2d_config import Mamba2DConfig
from napari_2dmamba.models.mamba2d_partial import states_of_cells
from napari_2dmamba.models.scan_layer import ScanLayer

__all__ = ["Mamba2DConfig", "Mamba2DMIL"]

ATTENTION_HIDDEN = 128
"""Width of the attention's hidden layer in the published model, whatever d_model is."""

CELLS_AT_ONCE = 2**16
"""Cells that pass the attention's hidden layer together."""


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
        att_logits = torch.cat([self.attention(some) for some in hidden.split(CELLS_AT_ONCE)])[:, 0]
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

    @property
    def entrance(self) -> nn.Linear:
        """The first layer."""
        linear = self._fc1[0]
        assert isinstance(linear, nn.Linear)
        return linear

    def states_of(
        self,
        patches: Tensor,
        entered: Tensor,
        cells: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
        *,
        layer: int = -1,
    ) -> Tensor:
        """See `Architecture.states_of`.

        One direction sees nothing beyond the last row that is asked for. Of the last layer only
        the cells between each corner and the patches are scanned.
        """
        depth = range(self.depth)[layer] + 1
        if self.config.scan == "1d":
            last = int(patches.max()) + 1
            sequence = Cells(self._fc1[1:](entered[:last]), None, (1, last))
            at = patches
        else:
            if cells is None or canvas is None:
                raise ValueError("2DMambaMIL needs the cells of the patches and the canvas")
            at = cells[patches, 0] * canvas[1] + cells[patches, 1]
            inside = torch.arange(len(cells), device=cells.device)
            if self.config.directions == 1:
                rows = int(cells[patches, 0].max()) + 1
                inside, canvas = (cells[:, 0] < rows).nonzero()[:, 0], (rows, canvas[1])
            position = cells[inside, 0] * canvas[1] + cells[inside, 1]
            sequence = self._on_canvas(self._fc1[1:](entered[inside]), position, canvas)
        for block in list(self.layers.layers)[: depth - 1]:
            sequence = block(sequence, None, 0)
        last_block = self.layers.layers[depth - 1]
        assert isinstance(last_block, ResidualBlock)
        return states_of_cells(last_block, sequence, at)

    def peak_floats(self, patches: int, cells: int) -> int:
        """See `Architecture.peak_floats`; most of it are the scan's arrays of some channels."""
        c = self.config
        cells, distinct = self._rows(patches, cells)
        at_once = channels_at_once(c, cells)
        per_cell = scan_arrays(c) * at_once + c.d_model + 2 * c.d_state
        if c.n_layers > 1 or c.scan == "1d":
            per_cell += 2 * c.d_model
        windows = 2 * (c.d_conv + 2)  # of 64 bits
        shared = c.directions * (c.dt_rank + 2 * c.d_state)
        per_row = c.d_inner + at_once + shared + windows
        scan = cells * per_cell + distinct * per_row
        pool = cells * 2 * c.d_model + min(cells, CELLS_AT_ONCE) * 2 * ATTENTION_HIDDEN
        return max(scan, pool) + patches * 3 * c.d_model

    def kept_floats(self, patches: int, cells: int) -> int:
        """See `Architecture.kept_floats`; the factors are those of a training step, counted."""
        c = self.config
        cells, distinct = self._rows(patches, cells)
        of_layer = 4 * c.d_inner + 2 * c.d_state + 5 * c.d_model
        of_layer += (c.directions - 1) * (7 * c.d_inner // 2 + 2 * c.d_state)
        between = (c.n_layers - 1) * c.d_inner + 4 * c.d_model + 2 * ATTENTION_HIDDEN
        return cells * (c.n_layers * of_layer + between) + distinct * 8 * c.d_inner

    def _rows(self, patches: int, cells: int) -> tuple[int, int]:
        """Return the cells that are scanned, and at most how many of them differ in x."""
        c = self.config
        if c.scan == "1d":
            return patches, patches
        return cells, cells if c.n_layers > 1 else min(c.d_conv * patches, cells)

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
