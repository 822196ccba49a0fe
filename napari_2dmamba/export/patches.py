"""The patches of a slide with their scores: what every table and polygon is made from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import percentiles, ranks
from napari_2dmamba.explain.grid_map import ATTENTION, GridMap
from napari_2dmamba.export.finite import refuse_infinite
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.slide.grid import cells_of


@dataclass(frozen=True)
class PatchScores:
    """One row per patch.

    Attributes
    ----------
    coords
        ``(N, 2)`` int64, level-0 ``(x, y)`` of each patch's top left corner.
    patch_size_level0
        Side of a patch in level-0 pixels.
    cells
        ``(N, 2)`` int64 cell ``(row, col)`` of each patch.
    attention
        ``(N,)`` float32.
    tissue_fraction
        ``(N,)`` float32, or None when nobody measured it (features from elsewhere).
    mpp
        µm per level-0 pixel, or None.
    maps
        More scores by name, each ``(N,)``, NaN where a patch has none.
    """

    coords: NDArray[np.int64]
    patch_size_level0: int
    cells: NDArray[np.int64]
    attention: NDArray[np.float32]
    tissue_fraction: NDArray[np.float32] | None = None
    mpp: float | None = None
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.coords)
        lengths = {"attention": len(self.attention), "cells": len(self.cells)}
        if self.tissue_fraction is not None:
            lengths["tissue fraction"] = len(self.tissue_fraction)
        lengths.update({f"map {name!r}": len(scores) for name, scores in self.maps.items()})
        for what, length in lengths.items():
            if length != count:
                raise ExportError(
                    f"{what} has {length} values, but there are {count} patches; export the "
                    "maps and the coordinates of one run"
                )
        refuse_infinite(self.attention, "attention", nan=True)
        for name, scores in self.maps.items():
            refuse_infinite(scores, f"map {name!r}")

    def __len__(self) -> int:
        return len(self.coords)

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Return every column of a table, with units in the names.

        ``rank`` is 1 for the highest attention, equal scores share the best rank;
        ``percentile`` is 0 to 100. Without mpp there are no columns in µm.
        """
        x, y = self.coords[:, 0], self.coords[:, 1]
        columns: dict[str, NDArray[np.generic]] = {
            "row": self.cells[:, 0],
            "col": self.cells[:, 1],
            "x_level0_px": x,
            "y_level0_px": y,
            "size_level0_px": np.full(len(self), self.patch_size_level0, dtype=np.int64),
        }
        if self.mpp is not None:
            columns["x_um"] = x * self.mpp
            columns["y_um"] = y * self.mpp
            columns["size_um"] = np.full(len(self), self.patch_size_level0 * self.mpp)
        columns["attention"] = self.attention
        columns["rank"] = ranks(self.attention)
        columns["percentile"] = percentiles(self.attention)
        if self.tissue_fraction is not None:
            columns["tissue_fraction"] = self.tissue_fraction
        for name, scores in self.maps.items():
            columns[name if name not in columns else f"{name} (map)"] = scores
        return columns


def patch_scores(
    coords: NDArray[np.int64],
    patch_size_level0: int,
    prediction: SlidePrediction,
    *,
    tissue_fraction: NDArray[np.float32] | None = None,
    mpp: float | None = None,
    maps: Sequence[GridMap] = (),
) -> PatchScores:
    """Gather attention and the values of more maps for every patch.

    Maps of one name are numbered; the map of the prediction's own attention is left out, for
    it would be a column twice.

    ``coords`` and ``patch_size_level0`` are those of the `PatchGrid` or the `FeatureBag` that
    the prediction was made from. Rows and columns count from the slide's own corner, as
    `PatchGrid` does.
    """
    attention = np.asarray(prediction.attention, dtype=np.float32)
    gathered: dict[str, NDArray[np.float32]] = {}
    for one in maps:
        values = values_at(one, coords, patch_size_level0)
        if one.name == ATTENTION and np.array_equal(values, attention, equal_nan=True):
            continue  # the map of the prediction itself
        name, number = one.name, 1
        while name in gathered:
            number += 1
            name = f"{one.name} ({number})"
        gathered[name] = values
    return PatchScores(
        coords=coords,
        patch_size_level0=patch_size_level0,
        cells=cells_of(coords, patch_size_level0),
        attention=attention,
        tissue_fraction=tissue_fraction,
        mpp=mpp,
        maps=gathered,
    )


def values_at(
    grid_map: GridMap, coords: NDArray[np.int64], patch_size_level0: int
) -> NDArray[np.float32]:
    """Return the map's value for each patch; NaN off the map."""
    rows, cols = grid_map.values.shape
    cells = grid_map.cells_of(coords, patch_size_level0)
    on_map = (cells >= 0).all(axis=1) & (cells[:, 0] < rows) & (cells[:, 1] < cols)
    values = np.full(len(cells), np.nan, dtype=np.float32)
    values[on_map] = grid_map.values[cells[on_map, 0], cells[on_map, 1]]
    return values
