"""A tile classifier over the patches of a slide: probabilities as maps, one per class."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import FeatureError, TissueError
from napari_2dmamba.explain.grid_map import GridMap, scatter
from napari_2dmamba.features import FeatureSettings, extract_features
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.slide import (
    GridSettings,
    PatchGrid,
    Regions,
    Slide,
    TissueMask,
    TissueSettings,
    detect_tissue,
    make_grid,
)
from napari_2dmamba.tiles.classifier import TileClassifier

NO_TILE = 0
"""Where a map of answers has no patch; class k is k + 1."""

_MILLIMETRE, _MASK_SIDE = 1000.0, 3000


@dataclass(frozen=True)
class TileMaps:
    """Answers of a tile classifier on the patches of a slide.

    Attributes
    ----------
    classes
        K names.
    coords
        ``(N, 2)`` int64 level-0 ``(x, y)`` of each patch's top left corner.
    probabilities
        ``(N, K)`` float32.
    maps
        One `GridMap` per class, in their order.
    """

    classes: tuple[str, ...]
    coords: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    maps: tuple[GridMap, ...]

    def answers(self) -> NDArray[np.uint16]:
        """Return ``(rows, cols)``: 1 + the most probable class, 0 where there is no patch."""
        stacked = np.stack([m.values for m in self.maps])
        there = np.isfinite(stacked).all(axis=0)
        best = np.nan_to_num(stacked, nan=-1.0).argmax(axis=0) + 1
        return np.where(there, best, NO_TILE).astype(np.uint16)


def tile_grid(
    slide: Slide,
    settings: GridSettings | None = None,
    tissue: TissueSettings | None = None,
    regions: Regions | None = None,
) -> PatchGrid:
    """Return the tiles of a slide: those on tissue and in regions.

    On a georeferenced image there is no tissue: all tiles in regions count. Where ``settings``
    ask for a microscope's resolution there (less than 1 mm per pixel), tiles are cut from the
    pixels as they are stored.

    Raises
    ------
    SlideError
        When the slide is neither brightfield nor georeferenced.
    TissueError
        When no tile is left.
    """
    settings = settings or GridSettings()
    if slide.georeference is None:
        return make_grid(slide, detect_tissue(slide, tissue, regions), settings)
    if slide.mpp is not None and settings.target_mpp < _MILLIMETRE:
        settings = replace(settings, target_mpp=slide.mpp)
    width, height = slide.dimensions
    shrink = max(1.0, max(width, height) / _MASK_SIDE)
    mask = np.ones((max(1, round(height / shrink)), max(1, round(width / shrink))), bool)
    if regions:
        mask &= regions.rasterize((mask.shape[0], mask.shape[1]), slide.dimensions)
        if not mask.any():
            raise TissueError(
                f"none of the given regions lies on {slide.name}; check that they belong to it"
            )
    return make_grid(slide, TissueMask(mask, slide.dimensions), settings)


def classify_slide(
    slide: Slide,
    grid: PatchGrid,
    classifier: TileClassifier,
    settings: FeatureSettings | None = None,
    *,
    cache: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> TileMaps:
    """Classify the patches of a slide.

    Parameters
    ----------
    slide, grid
        The patches; they should have the resolution the classifier was trained at.
    classifier
        What answers.
    settings
        Device, precision, batch and threads; the encoder it names is not used.
    cache, on_progress, should_stop
        As of `extract_features`: an interrupted job goes on from its last batch.

    Raises
    ------
    FeatureError
        When the patches have another resolution or size than the classifier's tiles, by more
        than a tenth, or none that is known, or answers are not numbers.
    """
    settings = settings or FeatureSettings()
    if classifier.mpp and grid.mpp is None:
        raise FeatureError(
            f"the classifier was trained on tiles of {classifier.mpp:g} µm/px, but {slide.name} "
            "states no µm per pixel; state it"
        )
    if classifier.mpp and grid.mpp and not 0.9 <= grid.mpp / classifier.mpp <= 1.1:
        raise FeatureError(
            f"the classifier was trained on tiles of {classifier.mpp:g} µm/px, but the patches "
            f"have {grid.mpp:g}; give patches of that resolution"
        )
    size = classifier.patch_size
    if size is not None and not 0.9 <= grid.patch_size / size <= 1.1:
        raise FeatureError(
            f"the classifier was trained on tiles of {size} px, but the patches have "
            f"{grid.patch_size} px, and the network would see them shrunk or enlarged; give "
            f"patches of that size (--patch-size {size})"
        )
    bag = extract_features(
        slide,
        grid,
        settings,
        encoder=classifier.encoder(settings.device, settings.precision),
        cache=cache,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    if not np.isfinite(bag.features).all():
        raise FeatureError("the classifier's answers are not numbers; its weights are damaged")
    maps = tuple(
        _probability(
            bag.features[:, k],
            bag.coords,
            bag.patch_size_level0,
            name=name,
            meaning=f"Probability of class {name!r} from a classifier of tiles",
            mpp=slide.mpp,
            display_range=(0.0, 1.0),
        )
        for k, name in enumerate(classifier.classes)
    )
    return TileMaps(classifier.classes, bag.coords, bag.features, maps)


def _probability(*arguments: Any, **more: Any) -> GridMap:
    """A map that can be compared with the maps of other classes."""
    return replace(scatter(*arguments, **more), quantity="probability")
