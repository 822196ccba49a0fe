"""What the folder of a tile classifier says of itself; loads no network."""

import json
from dataclasses import dataclass
from pathlib import Path

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.vision.class_facts import stated_size

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_SMALLEST_PATCH = 16
"""As of `GridSettings`."""


@dataclass(frozen=True)
class ClassifierFacts:
    """A tile classifier by its ``config.json``.

    Attributes
    ----------
    architecture
        A timm model.
    classes
        K names.
    size
        Side in pixels that tiles are resized to.
    mpp
        µm per pixel of the tiles it was trained on, or None when nobody said.
    tile_size
        Side of those tiles in pixels, or None when they differed or nobody said.
    """

    architecture: str
    classes: tuple[str, ...]
    size: int
    mpp: float | None
    tile_size: int | None = None

    @property
    def patch_size(self) -> int:
        """Side in pixels of the patches to cut: as the tiles, or what the network takes."""
        return max(_SMALLEST_PATCH, self.size if self.tile_size is None else self.tile_size)


def read_facts(folder: str | Path) -> ClassifierFacts:
    """Read them; whether the weights fit, `TileClassifier.load` finds out.

    Raises
    ------
    CheckpointError
        When the folder is no classifier.
    """
    folder = Path(folder).expanduser()
    advice = "give the folder that training wrote"
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        absent = WEIGHTS if (folder / CONFIG).is_file() else CONFIG
        raise CheckpointError(f"{folder.name} is no classifier: {absent} is not there; {advice}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        told = config.get("pretrained_cfg", config)
        names = tuple(str(name) for name in config.get("label_names") or told["label_names"])
        mpp = config.get("mpp")
        found = ClassifierFacts(
            str(config["architecture"]), names, int(told["input_size"][1]),
            None if mpp is None else float(mpp), stated_size(config.get("tile_size")),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{folder.name} is no classifier, or is damaged ({type(error).__name__}); {advice}"
        ) from error
    if not names:
        raise CheckpointError(f"{folder.name} names no classes; {advice}")
    return found
