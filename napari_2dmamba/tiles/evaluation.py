"""How good a classifier is on a folder of tiles."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from napari_2dmamba.errors import Cancelled, FeatureError
from napari_2dmamba.features.encoder import choose_device
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.tiles.classifier import TileClassifier
from napari_2dmamba.tiles.folder import TileFolder


@dataclass(frozen=True)
class Evaluation:
    """Answers of a classifier on labelled tiles.

    Attributes
    ----------
    probabilities
        ``(N, K)`` float32.
    labels
        ``(N,)`` positions of the true classes.
    classes
        K names.
    """

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def top(self, k: int) -> float:
        """Return the share of tiles whose class is among the k most probable.

        A class that ties with others around place k counts with the chance of being drawn.
        """
        own = self.probabilities[np.arange(len(self.labels)), self.labels][:, None]
        above = (self.probabilities > own).sum(1)
        level = (self.probabilities == own).sum(1)
        return float(np.clip((k - above) / level, 0, 1).mean())

    def confusion(self) -> NDArray[np.int64]:
        """Return ``(K, K)`` counts: rows are true classes, columns answers."""
        counts = np.zeros((len(self.classes),) * 2, np.int64)
        np.add.at(counts, (self.labels, self.probabilities.argmax(1)), 1)
        return counts

    def summary(self) -> dict[str, Any]:
        """Return top-1 and top-5 accuracy, and the share found of each class that is there."""
        counts = self.confusion()
        there = counts.sum(1) > 0
        found = counts.diagonal()[there] / counts.sum(1)[there]
        return {
            "tiles": len(self.labels),
            "top1": self.top(1),
            **({"top5": self.top(5)} if len(self.classes) > 5 else {}),
            "balanced_accuracy": float(found.mean()),
            "found": {
                name: float(share)
                for name, share in zip(np.array(self.classes)[there].tolist(), found, strict=True)
            },
        }


def evaluate(
    classifier: TileClassifier,
    tiles: TileFolder,
    *,
    batch_size: int = 64,
    device: str = "auto",
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Evaluation:
    """Run a classifier over a folder, as timm evaluates: resized, and cropped by ``crop_pct``.

    Raises
    ------
    FeatureError
        When the folder's classes are not the classifier's in their order, an image cannot be
        decoded, or answers are not numbers.
    """
    from timm.data import create_transform

    if tiles.classes != classifier.classes:
        raise FeatureError(
            f"{tiles.path} was opened with the classes {', '.join(tiles.classes)}, and the "
            f"classifier's are {', '.join(classifier.classes)}; open it with these, in this order"
        )
    made = classifier.transform
    tiles = tiles.only(range(len(tiles)))  # whoever gave them may train on them
    tiles.transform = create_transform(
        (3, made.size, made.size),
        interpolation=made.interpolation,
        mean=made.mean,
        std=made.std,
        crop_pct=classifier.crop_pct,
    )
    network = classifier.network.eval().to(chosen := choose_device(device))
    found: list[torch.Tensor] = []
    done = 0
    for images, _ in DataLoader(tiles, batch_size):  # type: ignore[arg-type]
        if should_stop is not None and should_stop():
            raise Cancelled("the evaluation was stopped")
        with torch.inference_mode():
            found.append(network(images.to(chosen)).float().softmax(-1).cpu())
        done += len(images)
        if on_progress is not None:
            on_progress(done, len(tiles), "Classifying tiles")
    probabilities = torch.cat(found).numpy()
    if not np.isfinite(probabilities).all():
        raise FeatureError("the classifier's answers are not numbers; its weights are damaged")
    return Evaluation(probabilities, np.asarray(tiles.labels, np.int64), tiles.classes)
