"""MambaMIL: a Mamba over the patches as a sequence (Yang et al., MICCAI 2024, 2403.06800).

Three kinds of layer: a Mamba, a bidirectional one (Vision Mamba, arXiv 2401.09417), and the
paper's own SR-Mamba, which adds a second branch on the sequence read in strides. The scan is
the 2D one on a grid of a single row.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_2dmamba.models.architecture import (
    Architecture,
    ArchitectureConfig,
    ModelOutput,
    activation,
    counted,
    keep,
    xavier_init,
)
from napari_2dmamba.scan import selective_scan_2d

Kind = Literal["mamba", "bimamba", "srmamba"]


@dataclass(frozen=True)
class MambaMILConfig(ArchitectureConfig):
    """Shape of a MambaMIL.

    Attributes
    ----------
    d_model
        Width of the sequence.
    n_layers
        Layers; none leaves attention over the projected patches.
    kind
        ``"mamba"``, ``"bimamba"`` or ``"srmamba"``.
    rate
        Stride of SR-Mamba's second branch.
    d_state, d_conv, expand
        As in Mamba.
    attention_hidden
        Width of the attention's hidden layer.
    act
        ``"relu"`` or ``"gelu"`` after the projection.
    """

    d_model: int = 512
    n_layers: int = 2
    kind: Kind = "srmamba"
    rate: int = 10
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    attention_hidden: int = 128
    act: str = "gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in ("mamba", "bimamba", "srmamba"):
            raise ValueError(f"kind is {self.kind!r}, but must be mamba, bimamba or srmamba")
        self.check(
            d_model=(1, 65536),
            n_layers=(0, 256),
            rate=(1, 10_000),
            d_state=(1, 256),
            d_conv=(1, 64),
            expand=(1, 64),
            attention_hidden=(1, 65536),
        )


class SequenceMamba(nn.Module):
    """A Mamba over a sequence, with a second branch for the kinds that have one."""

    def __init__(
        self, d_model: int, kind: Kind, d_state: int, d_conv: int, expand: int, rate: int
    ) -> None:
        super().__init__()
        inner, rank = expand * d_model, math.ceil(d_model / 16)
        self.kind, self.rate = kind, rate
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, d_model, bias=False)

        def branch(mark: str) -> None:
            self.add_module(f"conv1d{mark}", nn.Conv1d(inner, inner, d_conv, groups=inner))
            self.add_module(f"x_proj{mark}", nn.Linear(inner, rank + 2 * d_state, bias=False))
            self.add_module(f"dt_proj{mark}", nn.Linear(rank, inner))
            A_log = torch.log(counted(d_state, first=1)).repeat(inner, 1)
            name = "A_b_log" if mark else "A_log"
            self.register_parameter(name, nn.Parameter(A_log))
            self.register_parameter(f"D{mark}", nn.Parameter(torch.ones(inner)))

        branch("")
        if kind != "mamba":
            branch("_b")

    def forward(self, x: Tensor) -> Tensor:
        """``(N, d_model) -> (N, d_model)``."""
        u, z = self.in_proj(x).chunk(2, dim=-1)
        y = self._scan(u, z, "")
        if self.kind == "bimamba":
            y = y + self._scan(u.flip(0), z.flip(0), "_b").flip(0)
        elif self.kind == "srmamba":
            order = stride_order(len(x), self.rate).to(x.device)
            # Positions past the end are zeros of the sequence, before gate and convolution.
            u, z = (functional.pad(part, (0, 0, 0, 1))[order] for part in (u, z))
            back = torch.argsort(order, stable=True)[: len(x)]
            y = y + self._scan(u, z, "_b")[back]
        return self.out_proj(y)

    def _scan(self, u: Tensor, z: Tensor, mark: str) -> Tensor:
        """One branch: convolution, SiLU, scan, gate."""
        conv = self.get_submodule(f"conv1d{mark}")
        x_proj, dt_proj = self.get_submodule(f"x_proj{mark}"), self.get_submodule(f"dt_proj{mark}")
        A_log = self.get_parameter("A_b_log" if mark else "A_log")
        assert isinstance(conv, nn.Conv1d)
        assert isinstance(dt_proj, nn.Linear)
        length, d_state = len(u), A_log.shape[1]
        u = functional.pad(u.t(), (conv.kernel_size[0] - 1, 0))
        u = functional.silu(conv(u)).t()
        rank = dt_proj.in_features
        dt, B, C = x_proj(u).split([rank, d_state, d_state], dim=-1)
        row = (1, 1, length, -1)
        y = selective_scan_2d(
            u.reshape(row),
            functional.linear(dt, dt_proj.weight).view(row),
            -torch.exp(A_log),
            B.reshape(row),
            C.reshape(row),
            D=self.get_parameter(f"D{mark}"),
            z=z.reshape(row),
            dt_bias=dt_proj.bias,
            dt_softplus=True,
        )
        return y[0, 0]


def stride_order(length: int, rate: int) -> Tensor:
    """Return the order SR-Mamba's second branch reads a sequence in.

    The sequence, filled up to a multiple of ``rate``, is written row by row into rows of
    ``rate`` and read column by column: positions 0, rate, 2 rate, ..., then 1, rate + 1, ...

    Returns
    -------
    ``(length rounded up,)`` int64; ``length`` stands for every position past the end.
    """
    full = math.ceil(length / rate) * rate
    order = torch.arange(full).view(-1, rate).t().flatten()
    return order.clamp(max=length)


class MambaMIL(Architecture):
    """Mamba layers over the patches in the order of the bag, then attention."""

    name: ClassVar[str] = "mambamil"
    title: ClassVar[str] = "MambaMIL"
    paper: ClassVar[str] = "Yang et al., MICCAI 2024, arXiv 2403.06800"
    config_class: ClassVar[type[ArchitectureConfig]] = MambaMILConfig
    score_meaning: ClassVar[str] = "softmax attention of the patch; over all patches it sums to 1"
    uses_scan: ClassVar[bool] = True

    config: MambaMILConfig

    @property
    def variant(self) -> str:
        """MambaMIL, Bi-MambaMIL or SRMambaMIL."""
        return {"mamba": "", "bimamba": "Bi-", "srmamba": "SR"}[self.config.kind] + self.title

    def __init__(self, config: MambaMILConfig) -> None:
        super().__init__()
        self.config = config
        self._fc1 = nn.Sequential(
            nn.Linear(config.feature_size, config.d_model),
            activation(config.act),
            nn.Dropout(config.dropout),
        )
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(config.d_model),
                SequenceMamba(
                    config.d_model,
                    config.kind,
                    config.d_state,
                    config.d_conv,
                    config.expand,
                    config.rate,
                ),
            )
            for _ in range(config.n_layers)
        )
        self.norm = nn.LayerNorm(config.d_model)
        self.attention = nn.Sequential(
            nn.Linear(config.d_model, config.attention_hidden),
            nn.Tanh(),
            nn.Linear(config.attention_hidden, 1),
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
        """Run one bag; stages: ``att_raw (1, N)`` before softmax, ``bag (1, d_model)``."""
        hidden = self._fc1(features)
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        hidden = self.norm(hidden)
        att_raw = self.attention(hidden)[:, 0]
        weights = torch.softmax(att_raw, dim=0)
        bag = weights @ hidden
        keep(stages, att_raw=att_raw[None], bag=bag[None])
        return ModelOutput(self.classifier(bag), weights)

    def peak_floats(self, patches: int, cells: int) -> int:
        """See `Architecture.peak_floats`."""
        c = self.config
        return patches * (10 * c.expand + 4) * c.d_model

    @classmethod
    def adapt(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Architecture.adapt`.

        The published comparison builds layers of another width than the sequence for the
        bidirectional kind and never calls them; they are left out.
        """
        width = weights["norm.weight"].shape if "norm.weight" in weights else None
        first = weights.get("layers.0.0.weight")
        unused = first is not None and first.shape != width
        return {k: v for k, v in weights.items() if not (unused and k.startswith("layers."))}

    @classmethod
    def recognises(cls, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """See `Architecture.recognises`."""
        layers = [key for key in shapes if key.startswith("layers.")]
        head = {"_fc1.0.weight", "attention.2.weight", "norm.weight", "classifier.weight"}
        return head <= shapes.keys() and (not layers or "layers.0.1.A_log" in shapes)

    @classmethod
    def config_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> MambaMILConfig:
        """See `Architecture.config_of`.

        SR-Mamba and the bidirectional Mamba have the same weights; the first is assumed, as
        the published comparison can only run that. Give ``kind`` for the other.
        """
        d_model, feature_size = shapes["_fc1.0.weight"]
        config = MambaMILConfig(
            feature_size,
            shapes["classifier.weight"][0],
            d_model=d_model,
            n_layers=len({key.split(".")[1] for key in shapes if key.startswith("layers.")}),
            attention_hidden=shapes["attention.0.weight"][0],
        )
        if "layers.0.1.A_log" not in shapes:
            return config
        inner, d_state = shapes["layers.0.1.A_log"]
        return dataclasses.replace(
            config,
            kind="srmamba" if "layers.0.1.A_b_log" in shapes else "mamba",
            d_state=d_state,
            d_conv=shapes["layers.0.1.conv1d.weight"][2],
            expand=inner // d_model,
        )
