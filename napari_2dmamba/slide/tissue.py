"""Where the tissue is: Otsu's threshold on saturation, made robust to pen and pale pieces.

Three things defeat a plain Otsu threshold. A pen stroke is more saturated than any stain, so
that the threshold separates pen from everything else: strokes are found by colour first and
left out of the histogram. Dark tissue hides pale tissue: the pixels below the threshold are
split once more, and where a paler class stands out from the glass, it is tissue too. Glass with
a tint of stain is as saturated as pale tissue, but smooth and clear: where the paler class is so,
it is left out. A blank slide has no two classes, but gets a threshold: classes hardly further
apart than the glass is noisy are refused.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_2dmamba.errors import TissueError
from napari_2dmamba.settings import setting, validate
from napari_2dmamba.slide.regions import Regions
from napari_2dmamba.slide.slide import Slide

_MPP = 8.0
_FEWEST_PIXELS, _MOST_PIXELS = 1000, 3000
"""Longer side of the picture that tissue is looked for in, whatever the resolution says."""

_LEAST_CONTRAST, _NOISE_MULTIPLE = 0.02, 4.0
"""Tissue is more saturated than glass by this much, and by this many times the glass's noise."""

_SMOOTH, _CLEAR = 2.5, 0.05
"""Glass with a tint is this smooth (standard deviation in grey levels of 255, over some 60 µm)
and this clear (optical density against the glass), however saturated. The palest tissue of the
slides this was judged on has 7 grey levels; tinted glass has 0.6."""

_TEXTURE_SIDE = 7
_TINT_OF_GLASS = 0.02
"""A threshold below this may part tinted glass from white: then the halo of tissue is cleared."""
_HALO, _CLEAR_HALO = 5, 0.015
"""Beside tissue glass looks textured for this many pixels; there it has to be clearer still."""

_SMALLEST_STROKE = 50_000.0
"""Area of a pen stroke in µm²; dark nuclei and pigment come in smaller patches."""

_GREEN_SHARE = 10
"""Green counts from this part of that area on."""

_STROKE_RIM = 5
"""Pixels around a stroke that are left out with it."""


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
        "Pieces smaller than this are dropped (without µm per pixel, 8 µm are assumed here).",
        unit="µm²",
        minimum=0.0,
    )
    largest_hole: float = setting(
        20_000.0,
        "Holes up to this size are filled (without µm per pixel, 8 µm are assumed here).",
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
    settings = settings or TissueSettings()
    validate(settings)
    slide.require_brightfield()
    pixels = slide.thumbnail(_side(slide), strict=True)
    mask = np.ones(pixels.shape[:2], bool)
    threshold = None
    if settings.method == "otsu":
        pixel_area = _MPP**2
        if slide.mpp is not None:
            pixel_area = (slide.mpp * max(slide.dimensions) / max(mask.shape)) ** 2
        mask, threshold = _segment(pixels, pixel_area, settings)
    if not mask.any():
        raise TissueError(
            f"no tissue was found on {slide.name}: nothing stands out from the glass; "
            "set a lower threshold, or analyse everything within a region you draw"
        )
    if regions:
        mask = mask & regions.rasterize(pixels.shape[:2], slide.dimensions)
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


def _segment(
    pixels: NDArray[np.uint8], pixel_area: float, settings: TissueSettings
) -> tuple[NDArray[np.bool_], float | None]:
    """Return the mask and the threshold of a picture whose pixels cover ``pixel_area`` µm²."""
    from skimage.morphology import remove_small_holes, remove_small_objects

    smallest = max(1, round(settings.smallest_piece / pixel_area))
    high = pixels.max(axis=-1)
    saturation = (high - pixels.min(axis=-1)) / np.maximum(high, 1).astype(np.float32)
    saturation = ndimage.gaussian_filter(saturation, 1, mode="nearest")
    pen = np.zeros(high.shape, bool)
    if settings.remove_pen:
        pen = find_pen(pixels, max(1, round(_SMALLEST_STROKE / pixel_area)))
    threshold = settings.threshold
    dark = threshold
    if threshold is None:
        found = _thresholds(saturation[~pen])
        if not found:
            return np.zeros(high.shape, bool), None
        dark, threshold = found[0], found[-1]
    mask = (saturation > threshold) & ~pen
    if dark != threshold:
        mask &= (saturation > dark) | ~_tinted_glass(pixels, ~mask & ~pen, threshold)
    mask = remove_small_objects(mask, max_size=smallest - 1)
    mask = remove_small_holes(mask, max_size=round(settings.largest_hole / pixel_area))
    return mask & ~pen, threshold


def _thresholds(saturation: NDArray[np.float32]) -> list[float]:
    """Return what parts glass from tissue, then from pale tissue too; nothing if all is glass."""
    from skimage.filters import threshold_otsu

    found: list[float] = []
    values = saturation
    for _ in range(2):
        if values.size < 2 or values.min() == values.max():
            break
        threshold = float(threshold_otsu(values))
        above, values = values[values > threshold], values[values <= threshold]
        glass, noise = _glass(values)
        if float(np.median(above)) - glass < max(_LEAST_CONTRAST, _NOISE_MULTIPLE * noise):
            break
        found.append(threshold)
    return found


def _tinted_glass(
    pixels: NDArray[np.uint8], glass: NDArray[np.bool_], threshold: float
) -> NDArray[np.bool_]:
    """Return where a picture is as smooth and nearly as clear as its ``glass``."""
    grey = pixels[..., 0].astype(np.float32)  # plane by plane: means along a short axis are slow
    grey += pixels[..., 1]
    grey += pixels[..., 2]
    grey /= 3
    mean = ndimage.uniform_filter(grey, _TEXTURE_SIDE, mode="nearest")
    square = ndimage.uniform_filter(grey * grey, _TEXTURE_SIDE, mode="nearest")
    light = float(np.median(mean[glass])) if glass.any() else 255.0
    tinted = (square - mean * mean < _SMOOTH**2) & (mean > light * 10**-_CLEAR)
    if threshold >= _TINT_OF_GLASS:
        return tinted
    if tinted.any():  # of glass and of its tint, whichever is darker
        light = float(np.percentile(mean[tinted], 5))
    halo = ndimage.uniform_filter(grey, 3, mode="nearest") > light * 10**-_CLEAR_HALO
    beside = ndimage.maximum_filter(tinted.view(np.uint8), 2 * _HALO + 1) > 0
    return tinted | (beside & halo)


def _glass(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the most frequent saturation and the spread of the values below it."""
    counts, edges = np.histogram(values, bins=256)
    peak = int(counts.argmax())
    level = float(edges[peak] + edges[peak + 1]) / 2
    below = values[values <= level]
    spread = float(np.sqrt(np.mean((below - level) ** 2))) if below.size else 0.0
    return level, spread


def find_pen(pixels: NDArray[np.uint8], smallest: int) -> NDArray[np.bool_]:
    """Return where blue, green or black marker lies.

    Stains are pink, purple, brown or a dull blue; ink is a saturated blue or green in which
    red is least, or nearly black without colour. The core of a stroke is found so; paler ink
    that hangs together with it, and a narrow rim, belong to it.

    Parameters
    ----------
    smallest
        Fewest pixels of a stroke's core.
    """
    from skimage.morphology import remove_small_objects

    red, green, blue = (pixels[..., i].astype(np.int16) for i in range(3))
    high = np.maximum(np.maximum(red, green), blue)
    chroma = high - np.minimum(np.minimum(red, green), blue)
    greenish = (green - red > 0) & (green >= blue - 10)
    green_ink = (green - red > 12) & greenish & (chroma > high * 0.25)
    pale_green = (green - red > 3) & greenish & (chroma > high * 0.03)
    bluish = (blue - red > 25) & (green - red >= (blue - red) * 0.12)
    blue_ink = bluish & (chroma > high * 0.42)
    pale_blue = bluish & (chroma > high * 0.3)
    black = (high < 90) & (chroma < 35)
    grey = (high < 215) & (chroma < 40)
    # No stain is green, so little of it is enough; dark nuclei and pigment need more
    few = max(1, smallest // _GREEN_SHARE)
    green_core = remove_small_objects(green_ink, max_size=few - 1)
    blue_core = remove_small_objects(blue_ink, max_size=smallest - 1)
    black = remove_small_objects(black, max_size=smallest - 1)
    core = green_core | blue_core
    if not core.any() and not black.any():
        return core
    pale = pale_green | pale_blue | green_ink | blue_ink
    pen = ndimage.binary_propagation(core, mask=pale)
    pen |= ndimage.binary_dilation(black, iterations=_STROKE_RIM, mask=grey | black)
    return ndimage.binary_dilation(pen, iterations=_STROKE_RIM)
