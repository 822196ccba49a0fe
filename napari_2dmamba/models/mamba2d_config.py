"""Shape and options of a 2DMambaMIL."""

import math
from dataclasses import dataclass
from typing import Literal

from napari_2dmamba.models.architecture import ArchitectureConfig


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
