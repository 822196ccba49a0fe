"""Which patches of features that were computed before lie in regions drawn since."""

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from numpy.typing import NDArray

from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.slide.regions import Regions

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

_REGION_PIXELS = 6000
"""Longer side of the picture that features are held against regions on."""


def in_regions(
    bag: FeatureBag, slide: "Slide", regions: Regions, least_share: float
) -> NDArray[np.bool_]:
    """Return ``(N,)``: whether enough of a patch lies in the regions, as where they are cut.

    Parameters
    ----------
    least_share
        How much of a patch is enough, 0 to 1: `GridSettings.min_tissue`.
    """
    longest = max(slide.dimensions)
    scale = min(1.0, _REGION_PIXELS / longest)
    width, height = (max(1, round(side * scale)) for side in slide.dimensions)
    mask = regions.rasterize((height, width), slide.dimensions)
    table = np.zeros((height + 1, width + 1))
    table[1:, 1:] = mask.cumsum(0, dtype=np.float64).cumsum(1)
    per_pixel = np.array([width / slide.dimensions[0], height / slide.dimensions[1]])
    low = bag.coords * per_pixel
    high = np.minimum((bag.coords + bag.patch_size_level0) * per_pixel, [width, height])

    def area(x: Any, y: Any) -> Any:  # a summed-area table is linear within a pixel
        return scipy.ndimage.map_coordinates(table, [y, x], order=1, mode="nearest")

    inside = area(high[:, 0], high[:, 1]) - area(low[:, 0], high[:, 1])
    inside += area(low[:, 0], low[:, 1]) - area(high[:, 0], low[:, 1])
    share = inside / (per_pixel * bag.patch_size_level0).prod()
    result: NDArray[np.bool_] = share >= max(least_share, 1e-6) - 1e-9
    return result
