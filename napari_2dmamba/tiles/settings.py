"""How a tile classifier is trained; loads nothing heavy."""

from dataclasses import dataclass

from napari_2dmamba.settings import setting


@dataclass(frozen=True)
class TileTraining:
    """How a tile classifier is trained."""

    model: str = setting("vmamba2d_tiny", "Any timm model.")
    weights: str | None = setting(
        None, "File to start from, or 'pretrained' for timm's own; left empty, random weights."
    )
    input_size: int = setting(224, "Side tiles are resized to.", unit="px", minimum=8)
    tile_mpp: float | None = setting(
        None, "Resolution of the tiles; it is kept with the classifier.", unit="µm/px", minimum=0.01
    )
    epochs: int = setting(20, "Passes over the tiles.", minimum=1)
    batch_size: int = setting(32, "Tiles per step.", minimum=1)
    learning_rate: float = setting(5e-4, "Of AdamW, at its highest.", minimum=0.0)
    weight_decay: float = setting(0.05, "Of AdamW.", minimum=0.0)
    warmup_epochs: int = setting(1, "Epochs in which the learning rate rises.", minimum=0)
    label_smoothing: float = setting(0.1, "Share of a label given to all classes.", minimum=0.0,
                                     maximum=0.9)  # fmt: skip
    augmentation: str = setting(
        "flips",
        "none; flips (and colours a little); or randaugment, timm's recipe for ImageNet.",
        choices=("none", "flips", "randaugment"),
    )
    held_back: float = setting(
        0.2, "Share of the tiles held back for validation where no folder is given.",
        minimum=0.01, maximum=0.9,
    )  # fmt: skip
    workers: int = setting(0, "Processes that decode tiles.", minimum=0, advanced=True)
    checkpointing: bool = setting(
        False, "Compute blocks again instead of keeping them: less memory, more time.",
        advanced=True,
    )  # fmt: skip
    seed: int = setting(0, "Of weights, order and augmentation.", minimum=0)
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, ...", advanced=True)
