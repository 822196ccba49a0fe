"""A small run made by hand: three by four cells, two of them without tissue."""

import numpy as np

from napari_2dmamba.explain.grid_map import GridMap, scatter
from napari_2dmamba.export.patches import PatchScores, patch_scores
from napari_2dmamba.models.prediction import SlidePrediction

SIZE = 100
CELLS = np.array([[r, c] for r in range(3) for c in range(4) if (r, c) not in ((0, 0), (2, 3))])
COORDS = (CELLS[:, ::-1] * SIZE).astype(np.int64)
ATTENTION = np.array([0.3, 0.1, 0.05, 0.2, 0.1, 0.02, 0.08, 0.07, 0.05, 0.03], dtype=np.float32)
TISSUE = np.linspace(0.1, 1.0, 10).astype(np.float32)


def classification() -> SlidePrediction:
    logits = np.array([0.2, 1.7])
    return SlidePrediction(
        task="classification",
        class_names=("normal", "tumour"),
        logits=logits,
        probabilities=np.exp(logits) / np.exp(logits).sum(),
        attention=ATTENTION,
        attention_meaning="softmax over all cells, without unit",
        background_mass=0.25,
        canvas=(3, 4),
        cells=CELLS,
        device="cpu",
        backend="torch",
        extra={"canvas": "slide", "layers": 1},
    )


def survival() -> SlidePrediction:
    logits = np.array([-1.0, 0.0, 0.5, 2.0])
    hazards = 1 / (1 + np.exp(-logits))
    curve = np.cumprod(1 - hazards)
    return SlidePrediction(
        task="survival",
        class_names=("0 to 12 months", "12 to 24 months", "24 to 60 months", "later"),
        logits=logits,
        hazards=hazards,
        survival=curve,
        risk=float(-curve.sum()),
        attention=ATTENTION,
        attention_meaning="softmax over tissue, without unit",
        canvas=(3, 4),
        cells=CELLS,
    )


def attention_map(mpp: float | None = 0.5) -> GridMap:
    return scatter(ATTENTION, COORDS, SIZE, name="attention", meaning="share of attention", mpp=mpp)


def scores(mpp: float | None = 0.5, **more: np.ndarray) -> PatchScores:
    maps = [
        scatter(values, COORDS, SIZE, name=name, meaning=name, mpp=mpp)
        for name, values in more.items()
    ]
    return patch_scores(COORDS, SIZE, classification(), tissue_fraction=TISSUE, mpp=mpp, maps=maps)
