"""The run on display, whether it was just made or opened from a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.slide import PatchGrid

if TYPE_CHECKING:
    from napari_2dmamba.features.bag import FeatureBag
    from napari_2dmamba.slide import Slide


@dataclass(frozen=True)
class Patches:
    """Scored patches of one slide.

    Attributes
    ----------
    scores
        ``(N,)``, one per patch.
    coords
        ``(N, 2)`` level-0 ``(x, y)``.
    size
        Side in level-0 pixels.
    """

    scores: NDArray[np.floating]
    coords: NDArray[np.int64]
    size: int


@dataclass(frozen=True)
class ShownRun:
    """What layers, panel and exports are made from.

    Attributes
    ----------
    slide
        The open slide.
    grid, prediction, maps, record
        See `pipeline.RunResult` and `export.run_folder.SavedRun`.
    folder
        Where the run is saved, or None.
    bag
        The features, or None where they are still to be read from their file.
    """

    slide: "Slide"
    grid: PatchGrid
    prediction: SlidePrediction
    maps: tuple[GridMap, ...]
    record: dict[str, Any]
    folder: Path | None = None
    bag: "FeatureBag | None" = None

    @property
    def intended_use(self) -> str:
        """What the model's checkpoint says it is for."""
        return str(self.record.get("model", {}).get("intended_use") or "")

    def patches(self, grid_map: GridMap) -> Patches:
        """Return the patches with their values on one of the maps."""
        cells = (self.grid.coords - grid_map.origin)[:, ::-1] // grid_map.patch_size_level0
        scores = grid_map.values[cells[:, 0], cells[:, 1]]
        return Patches(scores, self.grid.coords, self.grid.patch_size_level0)
