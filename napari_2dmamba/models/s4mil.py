"""S4MIL: a diagonal state space over the patches (Fillioux et al., MICCAI 2023, 2306.15789).

The layer is S4D (Gu et al., NeurIPS 2022, arXiv 2206.11893): a long convolution whose kernel
is a sum of damped oscillations, computed with FFTs, followed by max pooling over patches.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

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

_CHUNK = 1024
"""Taps of the convolution kernel computed at once, which bounds the memory it takes."""


@dataclass(frozen=True)
class S4MILConfig(ArchitectureConfig):
    """Shape of an S4MIL.

    Attributes
    ----------
    d_model
        Width of the sequence.
    d_state
        State size; half as many complex modes are stored.
    act
        ``"relu"`` or ``"gelu"`` after the projection.
    """

    d_model: int = 512
    d_state: int = 32
    act: str = "gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(d_model=(1, 65536), d_state=(2, 4096))


class S4DKernel(nn.Module):
    """The convolution kernel of a diagonal state space."""

    def __init__(self, width: int, d_state: int) -> None:
        super().__init__()
        modes = d_state // 2
        span = math.log(0.1) - math.log(0.001)
        self.log_dt = nn.Parameter(torch.rand(width) * span + math.log(0.001))
        self.C = nn.Parameter(torch.randn(width, modes, 2) / math.sqrt(2))
        self.log_A_real = nn.Parameter(torch.full((width, modes), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * counted(modes).repeat(width, 1))

    def forward(self, length: int) -> Tensor:
        """Return ``(width, length)``.

        Phases reach 1e4 radians at the end of a long bag, where float32 has no digits left for
        the angle: they are computed in float64, and so are the same on every device.
        """
        A = torch.complex(-torch.exp(self.log_A_real.double()), self.A_imag.double())
        step = A * torch.exp(self.log_dt.double())[:, None]
        weight = 2 * torch.view_as_complex(self.C.double().contiguous()) * (torch.exp(step) - 1) / A
        taps = torch.arange(min(_CHUNK, length), device=step.device)
        powers = torch.exp(step[:, :, None] * taps)  # (width, modes, chunk)
        chunks = [
            torch.einsum("hm,hml->hl", weight * torch.exp(step * start), powers).real
            for start in range(0, length, _CHUNK)
        ]
        return torch.cat(chunks, dim=1)[:, :length].to(self.C.dtype)


class S4D(nn.Module):
    """Long convolution, skip, GELU, and a gated linear unit."""

    def __init__(self, width: int, d_state: int, dropout: float) -> None:
        super().__init__()
        self.D = nn.Parameter(torch.randn(width))
        self.kernel = S4DKernel(width, d_state)
        self.dropout = nn.Dropout(dropout)
        self.output_linear = nn.Sequential(nn.Conv1d(width, 2 * width, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, width) -> (N, width)``."""
        length = len(x)
        u = x.t()
        kernel = torch.fft.rfft(self.kernel(length), n=2 * length)
        y = torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * kernel, n=2 * length)[:, :length]
        y = self.dropout(functional.gelu(y + u * self.D[:, None]))
        return functional.glu(self.output_linear(y), dim=0).t()


class S4MIL(Architecture):
    """Project, one S4D layer, maximum over patches, classify."""

    name: ClassVar[str] = "s4mil"
    title: ClassVar[str] = "S4MIL"
    paper: ClassVar[str] = "Fillioux et al., MICCAI 2023, arXiv 2306.15789"
    config_class: ClassVar[type[ArchitectureConfig]] = S4MILConfig
    score_meaning: ClassVar[str] = (
        "part of the logit of the predicted class that comes from channels whose maximum over the "
        "slide lies in this patch; signed, most patches have none"
    )

    config: S4MILConfig

    def __init__(self, config: S4MILConfig) -> None:
        super().__init__()
        self.config = config
        self._fc1 = nn.Sequential(
            nn.Linear(config.feature_size, config.d_model),
            activation(config.act),
            nn.Dropout(config.dropout),
        )
        self.s4_block = nn.Sequential(
            nn.LayerNorm(config.d_model), S4D(config.d_model, config.d_state, config.dropout)
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
        """Run one bag; stages: ``sequence (N, d_model)``, ``bag (1, d_model)``."""
        sequence = self.s4_block(self._fc1(features))
        bag, patch = sequence.max(dim=0)
        logits = self.classifier(bag)
        parts = bag * self.classifier.weight[int(logits.detach().argmax())]
        scores = torch.zeros_like(sequence[:, 0]).index_add(0, patch, parts)
        keep(stages, sequence=sequence, bag=bag[None])
        return ModelOutput(logits, scores)

    def peak_floats(self, patches: int, cells: int) -> int:
        """See `Architecture.peak_floats`; the spectra are complex and twice as long."""
        c = self.config
        return 16 * patches * c.d_model + 8 * _CHUNK * c.d_model * c.d_state

    @classmethod
    def recognises(cls, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """See `Architecture.recognises`."""
        return "s4_block.1.kernel.log_dt" in shapes

    @classmethod
    def config_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> S4MILConfig:
        """See `Architecture.config_of`."""
        d_model, feature_size = shapes["_fc1.0.weight"]
        return S4MILConfig(
            feature_size,
            shapes["classifier.weight"][0],
            d_model=d_model,
            d_state=2 * shapes["s4_block.1.kernel.A_imag"][1],
        )
