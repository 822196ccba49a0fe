"""A comparison of hand-written scores on a tiny grid."""

from pathlib import Path
from typing import Any

import numpy as np

from napari_2dmamba.compare.comparison import Comparison, Entry, place
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.slide.grid import PatchGrid

SIDE = 100


def bag_of(cells: list[tuple[int, int]], corner: tuple[int, int] = (300, 200)) -> FeatureBag:
    """Return a bag with one patch per ``(row, col)``; `corner` is the level-0 x, y of (0, 0)."""
    coords = np.array([(corner[0] + col * SIDE, corner[1] + row * SIDE) for row, col in cells])
    return FeatureBag(np.zeros((len(cells), 3), np.float32), coords, SIDE, SIDE, 0.5, 0.5, "hand")


def header_of(**changes: Any) -> CheckpointHeader:
    """Return the header of a two-class model of three features."""
    values: dict[str, Any] = {
        "architecture": "abmil",
        "config": {"feature_size": 3, "n_outputs": 2},
        "task": "classification",
        "class_names": ("no", "yes"),
        "encoder": "hand",
        "patch_size": SIDE,
        "mpp": 0.5,
    } | changes
    return CheckpointHeader(**values)


def entry_of(
    bag: FeatureBag,
    label: str,
    scores: list[float],
    *,
    meaning: str = "attention",
    probabilities: tuple[float, float] = (0.25, 0.75),
    **of_header: Any,
) -> Entry:
    """Return an entry with these scores and this answer."""
    header = header_of(**of_header)
    values = np.array(scores, np.float64)
    prediction = SlidePrediction(
        task=header.task,  # type: ignore[arg-type]
        class_names=header.class_names,
        logits=np.log(probabilities),
        attention=values.astype(np.float32),
        attention_meaning=meaning,
        canvas=(2, 3),
        cells=np.zeros((len(scores), 2), np.int64),
        probabilities=np.array(probabilities) if header.task == "classification" else None,
        survival=None if header.task == "classification" else np.array(probabilities),
        risk=None if header.task == "classification" else -float(sum(probabilities)),
    )
    placed = place(bag, values, name=label, meaning=meaning)
    return Entry(label, "score", prediction, placed, values, 0.5, 1000, header, {})


def comparison_of(bag: FeatureBag, *entries: Entry) -> Comparison:
    """Return a comparison of entries on a bag."""
    grid = PatchGrid(SIDE, SIDE, 0.5, 0.5, (9, 9), bag.coords, np.ones(len(bag), np.float32))
    return Comparison(Path("hand.tif"), grid, bag, entries)
