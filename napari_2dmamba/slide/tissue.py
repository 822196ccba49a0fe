"""Where the tissue is: it is coloured and dense, or it has texture.

Colour: Otsu's threshold on saturation. Dark tissue hides pale tissue from it, so that what lies
below is split once more; glass with a tint of stain lies above as well, but is hardly denser than
other glass, and is left out. Texture: fat and the palest stroma are as colourless as glass in most
of their pixels, but in most of them differ from their neighbours, which glass does not; dust and
scratches do too, but are grey, or few. Fat is tissue only if wanted: most of it is as light as
glass, which stroma is not. Ink is found by colour first and left out of the histogram.
A blank slide has no two classes, but gets a threshold: classes hardly further apart than the glass
is noisy are refused.
"""

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from napari_2dmamba.errors import TissueError
from napari_2dmamba.settings import setting, validate
from napari_2dmamba.slide.regions import Regions
from napari_2dmamba.slide.slide import Slide

_MPP = 8.0
_FEWEST_PIXELS, _MOST_PIXELS = 1000, 3000
"""Longer side of the picture that tissue is looked for in, whatever the resolution says."""

_LEAST_CONTRAST, _NOISE_MULTIPLE = 0.02, 4.0
"""Tissue is more saturated than glass by this much, and by this many times the glass's noise."""

_DENSE = 0.03
"""Optical density against the glass that coloured tissue without texture has; tints have 0.02."""

_DETAIL, _DETAIL_IN_NOISE = 6, 8
"""Grey levels of 255 by which neighbours in tissue differ; the second where the glass is noisy.

Of the slides this was judged on (docs/reliability.md), the palest stroma has 12 in the median,
fat 15, and the most scratched glass 3."""

_NEIGHBOURHOOD = 50.0
"""Most of the pixels within so many µm to each side show detail. Where only a quarter of them
does, those that do are tissue, as the walls of large fat cells, and what is as saturated."""

_EVEN, _HARDLY_DENSE, _FULL = 0.002, 0.01, 0.45
"""Saturation by which glass differs from its own most frequent value; optical density from which
a pixel is no glass; and the share of such pixels in tissue that is no fat. In fat 31 to 43 % are
such pixels, in the palest stroma nine in ten in the median."""

_RIM, _WIDE_RIM = 16.0, 32.0
"""µm beside tissue where most, or a quarter, of a neighbourhood shows detail though it is glass."""

_COLOURED, _GREY = 0.006, 0.02
"""What has detail is this much more saturated than glass on average, and its colour is this part of
its darkness; dust, scratches and black ink are not."""

_SMALLEST_STROKE, _SMALLEST_BLACK = 5_000.0, 50_000.0
"""Area of ink in µm². No stain is green or greenish blue; dark nuclei and pigment may be black."""

_STROKE_RIM = 40.0
"""µm around a stroke that are left out with it."""


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
        "Saturation above which a pixel is tissue, whatever its texture; found when not given.",
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
    fat: bool = setting(
        False, "Count fat as tissue: up to its edge, its cells filled up to the largest hole."
    )
    remove_pen: bool = setting(
        True, "Leave out marks of blue, green and black pens (not with blue or green stains)."
    )


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
    from skimage.morphology import remove_small_holes

    red, green, blue = (pixels[..., i] for i in range(3))  # reducing a short axis is slow
    high = np.maximum(np.maximum(red, green), blue)
    chroma = high - np.minimum(np.minimum(red, green), blue)
    saturation = chroma / np.maximum(high, 1).astype(np.float32)
    saturation = scipy.ndimage.gaussian_filter(saturation, 1, mode="nearest")
    pen = ink = np.zeros(high.shape, bool)
    if settings.remove_pen:
        pen, ink = find_pen(pixels, pixel_area)
    threshold = settings.threshold
    if threshold is not None:
        mask = saturation > threshold
    else:
        grey = red.astype(np.float32)
        grey += green
        grey += blue
        grey /= 3
        mask, threshold = _coloured_or_textured(
            grey, chroma, saturation, pen, pixel_area**0.5, fat=settings.fat
        )
    mask = _pieces(mask & ~pen, ink, max(1, round(settings.smallest_piece / pixel_area)))
    mask = remove_small_holes(mask, max_size=round(settings.largest_hole / pixel_area))
    return mask & ~pen, threshold


def _coloured_or_textured(
    grey: NDArray[np.float32],
    chroma: NDArray[np.uint8],
    saturation: NDArray[np.float32],
    pen: NDArray[np.bool_],
    pixel_size: float,
    *,
    fat: bool,
) -> tuple[NDArray[np.bool_], float | None]:
    """Return what is tissue, and the threshold of saturation, if there is one."""
    threshold, dark, tint = _thresholds(saturation[~pen])
    colour = chroma - (255 * (tint + _COLOURED) + _GREY * (255 - grey))
    mask, partly = _textured(grey, colour, pixel_size, fat=fat)
    if not fat:
        is_full = _full(grey, ~pen & (saturation <= tint + _EVEN), pixel_size)
        mask, partly = mask & is_full, partly & is_full
    if threshold is None or dark is None:
        return mask, None
    glass = grey[~mask & ~pen & (saturation <= dark)]
    scanned = glass[glass < 254]  # beside white that was never scanned, unless all is white
    glass = scanned if 10 * scanned.size > glass.size else glass
    light = float(np.median(glass)) if glass.size else 255.0
    dense = grey < light * 10**-_DENSE
    return mask | ((saturation > threshold) & (dense | partly)), threshold


def _thresholds(
    saturation: NDArray[np.float32],
) -> tuple[float | None, float | None, float]:
    """Return what parts glass from all tissue, glass from dark tissue, and the glass's value."""
    from skimage.filters import threshold_otsu

    found: list[float] = []
    values = saturation
    tint, _ = _glass(values) if values.size else (0.0, 0.0)
    for _ in range(2):
        if values.size < 2 or values.min() == values.max():
            break
        threshold = float(threshold_otsu(values))
        above, values = values[values > threshold], values[values <= threshold]
        tint, noise = _glass(values)
        if float(np.median(above)) - tint < max(_LEAST_CONTRAST, _NOISE_MULTIPLE * noise):
            break
        found.append(threshold)
    return (found[-1], found[0], tint) if found else (None, None, tint)


def _textured(
    grey: NDArray[np.float32], colour: NDArray[np.float32], pixel_size: float, *, fat: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where most pixels show detail and have ``colour`` above 0, and where half as many do.

    Detail is looked for at about 8 µm, where the walls of fat cells lie close together.
    """
    height, width = grey.shape
    step = max(1, round(_MPP / pixel_size))
    if step > 1:
        grey, colour = _shrunk(grey, step), _shrunk(colour, step)
    detail = scipy.ndimage.maximum_filter(grey, 3) - scipy.ndimage.minimum_filter(grey, 3)
    noise = float(np.percentile(detail[::4, ::4], 10))
    shows = (detail > min(max(_DETAIL, 2 * noise), _DETAIL_IN_NOISE)).astype(np.float32)
    side = _window(_NEIGHBOURHOOD / (pixel_size * step))
    share = scipy.ndimage.uniform_filter(shows, side)
    coloured = scipy.ndimage.uniform_filter(shows * colour, side) > 0
    mostly = _inner(coloured & (share > 0.5), _RIM / (pixel_size * step))
    partly = _inner(coloured & (share > 0.25), _WIDE_RIM / (pixel_size * step))
    if fat:
        mostly |= partly & (shows > 0)  # the walls of large cells, whose insides are holes
    both = [part.repeat(step, axis=0).repeat(step, axis=1) for part in (mostly, partly)]
    return both[0][:height, :width], both[1][:height, :width]


def _full(
    grey: NDArray[np.float32], is_glass: NDArray[np.bool_], pixel_size: float
) -> NDArray[np.bool_]:
    """Return where enough of a neighbourhood is darker than glass: fat is glass between walls."""
    light = float(np.median(grey[is_glass])) if is_glass.any() else 255.0
    darker = (grey < light * 10**-_HARDLY_DENSE).astype(np.float32)
    return scipy.ndimage.uniform_filter(darker, _window(_NEIGHBOURHOOD / pixel_size)) > _FULL


def _inner(mask: NDArray[np.bool_], rim: float) -> NDArray[np.bool_]:
    """Return the mask without a rim of so many pixels."""
    return scipy.ndimage.minimum_filter(mask.view(np.uint8), _window(rim)).view(bool)


def _window(radius: float) -> int:
    """Return the side of a window that reaches so many pixels to each side, at least one."""
    return 2 * max(1, round(radius)) + 1


def _shrunk(plane: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Return the means of blocks of ``step`` pixels."""
    height, width = (-(-side // step) for side in plane.shape)
    margins = [
        (0, whole * step - side) for whole, side in zip((height, width), plane.shape, strict=True)
    ]
    whole = np.pad(plane, margins, mode="edge")
    return whole.reshape(height, step, width, step).mean(axis=(1, 3), dtype=np.float32)


def _pieces(mask: NDArray[np.bool_], ink: NDArray[np.bool_], smallest: int) -> NDArray[np.bool_]:
    """Return the pieces of at least so many pixels of which less than a third looks like ink."""
    labels, _ = scipy.ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    kept = (sizes >= smallest) & (3 * np.bincount(labels[ink], minlength=sizes.size) < sizes)
    kept[0] = False
    return kept[labels]


def _glass(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the most frequent saturation and the spread of the values below it."""
    counts, edges = np.histogram(values, bins=256)
    peak = int(counts.argmax())
    level = float(edges[peak] + edges[peak + 1]) / 2
    below = values[values <= level]
    spread = float(np.sqrt(np.mean((below - level) ** 2))) if below.size else 0.0
    return level, spread


def find_pen(
    pixels: NDArray[np.uint8], pixel_area: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where blue, green or black marker lies, and all that has the colour of ink.

    Stains are pink, purple, brown or a dull blue, haematoxylin absorbs green most; ink is a
    saturated blue or green in which red is least, or nearly black without colour. The core of a
    stroke is found so; paler ink that hangs together with it, and a narrow rim, belong to it.

    Parameters
    ----------
    pixel_area
        In µm².
    """
    from skimage.morphology import remove_small_objects

    few = max(1, round(_SMALLEST_STROKE / pixel_area))
    smallest = max(1, round(_SMALLEST_BLACK / pixel_area))
    red, green, blue = (pixels[..., i].astype(np.int16) for i in range(3))
    high = np.maximum(np.maximum(red, green), blue)
    chroma = high - np.minimum(np.minimum(red, green), blue)
    greenish = (green - red > 0) & (green >= blue - 10)
    green_ink = (green - red > 12) & greenish & (chroma > high * 0.25)
    bluish = (blue - red > 25) & (green >= red)
    blue_ink = bluish & (chroma > high * 0.42)
    blue_ink |= (blue - red > 25) & (green >= red - 10) & (chroma > high * 0.7)
    black = (high < 90) & (chroma < 35)
    ink = green_ink | blue_ink
    core = remove_small_objects(green_ink, max_size=few - 1)
    core |= remove_small_objects(blue_ink, max_size=few - 1)
    black_core = remove_small_objects(black, max_size=smallest - 1)
    pen = core
    rim = max(1, round(_STROKE_RIM / pixel_area**0.5))
    if core.any():
        pale_green = (green - red > 3) & greenish & (chroma > high * 0.03)
        pen = scipy.ndimage.binary_propagation(
            core, mask=pale_green | (bluish & (chroma > high * 0.3)) | ink
        )
    if black_core.any():
        grey = (high < 215) & (chroma < 40)
        pen = pen | scipy.ndimage.binary_dilation(black_core, iterations=rim, mask=grey | black)
    if pen.any():
        pen = scipy.ndimage.binary_dilation(pen, iterations=rim)
    return pen, ink | black
