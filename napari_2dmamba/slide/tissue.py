"""Where the tissue is: Otsu's threshold on saturation, made robust to pen and pale pieces."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import TissueError
from napari_2dmamba.settings import setting, validate
from napari_2dmamba.slide.regions import Regions
from napari_2dmamba.slide.slide import Slide

_MPP = 8.0
_FEWEST_PIXELS, _MOST_PIXELS = 1000, 3000
"""Longer side of the picture that tissue is looked for in, whatever the resolution says."""


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is told from glass."""

    method: str = setting(
        "otsu",
        "Find tissue by Otsu's threshold on saturation, or take everything (or all regions).",
        choices=("otsu", "everything"),
    )
    threshold: float | None = setting(
        None,
        "Saturation above which a pixel is tissue; found by Otsu's method when not given.",
        minimum=0.0,
        maximum=1.0,
    )
    smallest_piece: float = setting(
        20_000.0,
        "Pieces smaller than this are dropped; without µm per pixel, in thumbnail pixels / 64.",
        unit="µm²",
        minimum=0.0,
    )
    largest_hole: float = setting(
        20_000.0,
        "Holes up to this size are filled; without µm per pixel, in thumbnail pixels / 64.",
        unit="µm²",
        minimum=0.0,
    )
    remove_pen: bool = setting(True, "Leave out marks of blue, green and black pens.")


@dataclass(frozen=True)
class TissueMask:
    """Tissue at low resolution.

    Attributes
    ----------
    mask
        ``(h, w)`` bool; pixel ``(row, col)`` covers an equal share of the slide.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels, which the mask spans exactly.
    threshold
        Saturation used, 0 to 1; None where no threshold was.
    """

    mask: NDArray[np.bool_]
    dimensions: tuple[int, int]
    threshold: float | None = None

    @property
    def downsample(self) -> float:
        """Level-0 pixels per mask pixel."""
        return max(self.dimensions) / max(self.mask.shape)

    @property
    def fraction(self) -> float:
        """Share of the slide that is tissue."""
        return float(self.mask.mean())


def detect_tissue(
    slide: Slide, settings: TissueSettings | None = None, regions: Regions | None = None
) -> TissueMask:
    """Find the tissue of a brightfield slide.

    Parameters
    ----------
    regions
        Only tissue in what they include, and not in what they exclude, is kept.

    Raises
    ------
    TissueError
        When no tissue is found.
    SlideError
        When the slide is not brightfield, or damaged where it has to be read.
    """
    from skimage.filters import gaussian, threshold_otsu
    from skimage.morphology import remove_small_holes, remove_small_objects

    settings = settings or TissueSettings()
    validate(settings)
    slide.require_brightfield()
    pixels = slide.thumbnail(_side(slide), strict=True)
    if settings.method == "everything":
        mask, threshold = np.ones(pixels.shape[:2], bool), None
    else:
        high = pixels.max(axis=-1).astype(np.float32)
        saturation = gaussian((high - pixels.min(axis=-1)) / np.maximum(high, 1), 1)
        threshold = settings.threshold
        if threshold is None:
            threshold = float(threshold_otsu(saturation))
        mask = saturation > threshold
        downsample = max(slide.dimensions) / max(mask.shape)
        area = (downsample * slide.mpp) ** 2 if slide.mpp is not None else 64.0
        mask = remove_small_objects(mask, max_size=int(settings.smallest_piece / area))
        mask = remove_small_holes(mask, max_size=int(settings.largest_hole / area))
    if not mask.any():
        raise TissueError(f"no tissue was found on {slide.name}; lower the threshold")
    if regions is not None:
        mask &= regions.rasterize(mask.shape, slide.dimensions)
        if not mask.any():
            raise TissueError(
                f"none of the tissue of {slide.name} lies in the given regions; "
                "check that they belong to this slide"
            )
    return TissueMask(mask, slide.dimensions, threshold)


def _side(slide: Slide) -> int:
    """Longer side of the picture to work on: about 8 µm/px, within bounds."""
    longest = max(slide.dimensions)
    wished = longest * slide.mpp / _MPP if slide.mpp is not None else _FEWEST_PIXELS
    return int(min(longest, max(_FEWEST_PIXELS, min(_MOST_PIXELS, wished))))
