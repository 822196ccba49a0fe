"""The run on display, whether it was just made or opened from a folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import ATTENTION, GridMap
from napari_2dmamba.export.patches import values_at
from napari_2dmamba.export.record import RunRecord
from napari_2dmamba.export.run_folder import open_run
from napari_2dmamba.export.saved_run import SavedRun
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.slide import PatchGrid

if TYPE_CHECKING:
    from napari_2dmamba.features.bag import FeatureBag
    from napari_2dmamba.slide import Regions, Slide


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

    def by_cell(self, grid_map: GridMap) -> NDArray[np.int64]:
        """Return the number of the patch in each cell of a map, the last one; -1 without any."""
        found = np.full(grid_map.values.shape, -1, dtype=np.int64)
        cells = grid_map.cells_of(self.coords, self.size)
        on_map = np.flatnonzero(((cells >= 0) & (cells < found.shape)).all(axis=1))
        found[cells[on_map, 0], cells[on_map, 1]] = on_map
        return found


@dataclass(frozen=True)
class ShownRun:
    """What layers, panel and exports are made from.

    Attributes
    ----------
    slide
        The slide as it was when the run was made, with the µm per pixel of then.
    grid, prediction, maps, record
        See `pipeline.RunResult` and `export.saved_run.SavedRun`.
    folder
        Where the run is saved, or None.
    bag
        The features, or None where they are still to be read from their file.
    regions
        What was drawn to include and exclude, or None.
    remarks
        A sentence for each thing that is not as it was when the run was saved.
    """

    slide: "Slide"
    grid: PatchGrid
    prediction: SlidePrediction
    maps: tuple[GridMap, ...]
    record: RunRecord
    folder: Path | None = None
    bag: "FeatureBag | None" = None
    regions: "Regions | None" = None
    remarks: tuple[str, ...] = ()

    @property
    def mpp(self) -> float | None:
        """µm per level-0 pixel that the run was made with."""
        return self.slide.mpp

    @property
    def model_name(self) -> str:
        """Name of the checkpoint's file, or of its architecture where there is no file."""
        model = self.record.model
        return model.checkpoint or model.name or "unknown model"

    @property
    def regions_in_words(self) -> str:
        """Which part of the slide was analysed."""
        if not self.regions:
            return "all tissue"
        said = ((self.regions.include, "included"), (self.regions.exclude, "excluded"))
        parts = [f"{len(areas)} {word}" for areas, word in said if areas]
        one = len(self.regions.include) + len(self.regions.exclude) == 1
        return f"{', '.join(parts)} {'region' if one else 'regions'}"

    @property
    def intended_use(self) -> str:
        """What the model's checkpoint says it is for."""
        return self.record.model.intended_use

    def as_saved(self, display: DisplaySettings | None = None) -> SavedRun:
        """Return the run as exports take it, with the maps that are on display.

        Parameters
        ----------
        display
            How its maps are shown; that of the record when absent.
        """
        record = self.record if display is None else replace(self.record, display=display)
        folder = self.folder or self.slide.path.parent
        return SavedRun(folder, record, self.grid, self.prediction, self.maps, self.regions)

    def patches(self, grid_map: GridMap) -> Patches:
        """Return the patches with their values on one of the maps, NaN off it.

        On the map of attention they are the model's own scores, as in tables and reports: where
        patches share a cell, the map shows one value for all of them.
        """
        size = self.grid.patch_size_level0
        scores: NDArray[np.floating] = self.prediction.attention
        if grid_map.name != ATTENTION:
            scores = values_at(grid_map, self.grid.coords, size)
        return Patches(scores, self.grid.coords, size)


def open_shown_run(
    folder: str | Path, already_open: "Sequence[Slide]" = ()
) -> tuple[ShownRun, DisplaySettings]:
    """Open a saved run and its slide, unless the slide is open already with its µm per pixel.

    Raises
    ------
    ExportError
        When it is no saved run, or damaged, or its slide cannot be found.
    SlideError
        When the slide cannot be opened.
    """
    saved = open_run(folder)
    told = saved.record.slide
    slide = next(
        (s for s in already_open if (s.fingerprint, s.mpp) == (told.fingerprint, told.mpp)),
        None,
    )
    if slide is None:
        slide = saved.open_slide()
    shown = ShownRun(
        slide, saved.grid, saved.prediction, saved.maps, saved.record, saved.folder,
        regions=saved.regions,
    )  # fmt: skip
    return shown, saved.display
