"""How a segmenter is trained; loads nothing heavy."""

from dataclasses import dataclass

from napari_2dmamba.settings import setting


@dataclass(frozen=True)
class SegmentTraining:
    """How a segmenter is trained."""

    scan: str = setting(
        "2d", "2d: 2DVMamba; 1d: VMamba; 2d-four-corners: the 2D scan from every corner.",
        choices=("2d", "1d", "2d-four-corners"),
    )  # fmt: skip
    weights: str | None = setting(
        None, "Backbone to start from, such as the published one; left empty, random weights."
    )
    depths: str = setting("2,2,8,2", "Blocks of each stage, without weights.", advanced=True)
    dims: int = setting(
        96, "Channels of the first stage, without weights.", minimum=2, advanced=True
    )
    channels: int = setting(512, "Width of the head.", minimum=2, advanced=True)
    crop: int = setting(512, "Side of the crops trained on.", unit="px", minimum=32)
    image_mpp: float | None = setting(
        None, "Resolution of the images; it is kept with the segmenter.", unit="µm/px",
        minimum=0.01,
    )  # fmt: skip
    steps: int = setting(2000, "Training steps.", minimum=1)
    batch_size: int = setting(4, "Crops per step.", minimum=1)
    learning_rate: float = setting(6e-5, "Of AdamW, at its highest.", minimum=0.0)
    weight_decay: float = setting(0.01, "Of AdamW.", minimum=0.0)
    seed: int = setting(0, "Of weights and crops.", minimum=0)


@dataclass(frozen=True)
class SegmentSettings:
    """Where and how a slide is segmented."""

    segment_mpp: float | None = setting(
        None, "Resolution; left empty, that of the training images, or level-0 pixels.",
        label="Resolution", unit="µm/px", minimum=0.01,
    )  # fmt: skip
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, ...", advanced=True)


@dataclass(frozen=True)
class WindowSettings:
    """How a picture is cut into windows."""

    window: int = setting(512, "Side of a window.", unit="px", minimum=16)
    overlap: float = setting(
        0.25, "Share of a window that overlaps the next.", minimum=0.0, maximum=0.9
    )
    batch_size: int = setting(1, "Windows at once.", minimum=1)
    memory: int = setting(
        512, "Memory for the sums of a block, of which the block's size follows.", unit="MB",
        minimum=1, advanced=True,
    )  # fmt: skip
