"""A segmenter with what is needed to use it, in one file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.vision.class_facts import require_classes, stated_mpp
from napari_2dmamba.vision.cross_scan import SCANS, Scan
from napari_2dmamba.vision.upernet import Segmenter, load_segmenter

_KIND = "napari-2dmamba segmenter"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class TrainedSegmenter:
    """A segmenter and its classes.

    Attributes
    ----------
    network
        UPerNet on VMamba or 2DVMamba.
    classes
        K names.
    mean, std
        Of the three colours, on a scale from 0 to 1.
    mpp
        µm per pixel of the images it was trained on, or None.
    training
        What is known of its training, for records.
    colours
        Red, green and blue of each class, where somebody chose them.
    """

    network: Segmenter
    classes: tuple[str, ...]
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    mpp: float | None = None
    training: dict[str, Any] = field(default_factory=dict)
    colours: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        require_classes(self.classes)

    def save(self, path: str | Path) -> Path:
        """Write a ``.safetensors`` file.

        Raises
        ------
        CheckpointError
            When it cannot be written.
        """
        path = Path(path)
        told = {
            "kind": _KIND, "scan": self.network.backbone.scan, "classes": self.classes,
            "mean": self.mean, "std": self.std, "mpp": self.mpp, "training": self.training,
            "colours": self.colours,
        }  # fmt: skip
        state = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        with atomic_write(path, CheckpointError) as part:
            save_file(state, part, metadata={"format": "pt", "segmenter": json.dumps(told)})
        return path

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        scan: Scan | None = None,
        classes: Sequence[str] | None = None,
    ) -> "TrainedSegmenter":
        """Open what `save` wrote, or a published checkpoint of mmsegmentation.

        Parameters
        ----------
        path
            The file.
        scan, classes
            Of a published checkpoint, which does not tell them.

        Raises
        ------
        CheckpointError
            When it is damaged, of another network, or does not tell what was not given.
        """
        path = Path(path).expanduser()
        told = _told(path)
        if told is None:
            if scan is None or classes is None:
                raise CheckpointError(
                    f"{path.name} does not tell its scan and the names of its classes; give the "
                    f"scan ({', '.join(SCANS)}) and a file with one name per line"
                )
            found = cls(load_segmenter(path, scan), tuple(classes))
        else:
            try:
                found = cls(
                    load_segmenter(path, told["scan"]), tuple(told["classes"]),
                    tuple(told["mean"]), tuple(told["std"]), stated_mpp(told["mpp"]),
                    told["training"],
                    _colours(told.get("colours") or [], len(told["classes"])),
                )  # fmt: skip
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(
                    f"{path.name} tells no segmenter of this program ({error}); train it again"
                ) from error
        if len(found.classes) != found.network.num_classes:
            raise CheckpointError(
                f"{path.name} has {found.network.num_classes} classes, but {len(found.classes)} "
                "names were given; give one name per class, in order"
            )
        return found


def _colours(told: list[list[int]], count: int) -> tuple[tuple[int, int, int], ...]:
    """Return colours as a file tells them; none were written by earlier versions."""
    found = tuple((int(r), int(g), int(b)) for r, g, b in told)
    if len(found) not in (0, count) or not all(0 <= v <= 255 for one in found for v in one):
        raise ValueError("its colours are not one for each class")
    return found


def _told(path: Path) -> dict[str, Any] | None:
    """Return what a file of ours tells of itself; None for others."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {}).get("segmenter", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} is damaged or no safetensors file ({error}); copy it again"
        ) from error
    return told if isinstance(told, dict) and told.get("kind") == _KIND else None


def read_class_names(path: str | Path) -> list[str]:
    """Read names of classes, one per line, in the order of a network's outputs.

    Raises
    ------
    CheckpointError
        When there is no such text, or it names nothing.
    """
    path = Path(path).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read ({error}); give a text file with one name per line"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise CheckpointError(f"{path.name} names no class; write one name per line")
    return names
