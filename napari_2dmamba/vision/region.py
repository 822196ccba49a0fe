"""A region of a slide or of an array as one picture at one resolution, read piece by piece."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_2dmamba.errors import SlideError

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

_MARGIN = 2
_MOST_ENLARGED = 64


def length(micrometres: float) -> str:
    """Return a length in the unit that suits: µm of slides, metres of the ground."""
    return f"{micrometres:.4g} µm" if micrometres < 1e4 else f"{micrometres / 1e6:.4g} m"


class Picture(Protocol):
    """What windows are read from.

    Attributes
    ----------
    shape
        ``(height, width)`` in pixels.
    origin_level0
        Level-0 ``(x, y)`` of the top left corner.
    step
        Level-0 pixels per pixel.
    mpp
        µm per level-0 pixel, or None.
    """

    shape: tuple[int, int]
    origin_level0: tuple[float, float]
    step: float
    mpp: float | None

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return ``(height, width, 3)``; beyond the picture lies white or what the slide has."""
        ...


@dataclass(frozen=True)
class Place:
    """Where a picture lies on a slide, as a layer takes it.

    Attributes
    ----------
    origin_level0, step, mpp
        As of `Picture`.
    """

    origin_level0: tuple[float, float] = (0.0, 0.0)
    step: float = 1.0
    mpp: float | None = None

    @property
    def scale(self) -> tuple[float, float]:
        """World units per pixel, ``(y, x)``: µm, or level-0 pixels without mpp."""
        unit = self.step * (self.mpp or 1.0)
        return unit, unit

    @property
    def translate(self) -> tuple[float, float]:
        """World ``(y, x)`` of the centre of pixel (0, 0), where level-0 pixel 0 starts at -0.5."""
        unit = self.mpp or 1.0
        x, y = self.origin_level0
        half = (self.step - 1) / 2
        return (y + half) * unit, (x + half) * unit


class ArrayPicture:
    """An ``(h, w, 3)`` uint8 array, or array-like such as a memory map, as a `Picture`."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise SlideError(
                f"an image of shape {pixels.shape} and type {pixels.dtype} was given; "
                "(height, width, 3) of uint8 is needed: convert it to 8-bit RGB"
            )
        self._pixels = pixels
        self.shape = (pixels.shape[0], pixels.shape[1])
        self.origin_level0, self.step = (0.0, 0.0), 1.0
        self.mpp: float | None = None

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a part; white beyond the array."""
        out = np.full((height, width, 3), 255, np.uint8)
        y, x = max(top, 0), max(left, 0)
        found = np.asarray(self._pixels[y : max(top + height, 0), x : max(left + width, 0)])
        out[y - top : y - top + found.shape[0], x - left : x - left + found.shape[1]] = found
        return out


class SlidePicture:
    """A rectangle of a slide at a resolution, as a `Picture`.

    Parameters
    ----------
    slide
        A brightfield slide, or any in 8-bit colours.
    region
        Level-0 ``(x, y, width, height)``; None for the whole slide.
    mpp
        µm per pixel; None for level-0 pixels. A slide that states no µm per pixel takes none.

    Raises
    ------
    SlideError
        When the slide has no colours of 8 bits, the region is empty or off the slide, or ``mpp``
        cannot be met.
    """

    def __init__(
        self,
        slide: "Slide",
        region: tuple[int, int, int, int] | None = None,
        mpp: float | None = None,
    ) -> None:
        if not slide.rgb or slide.dtype != np.uint8:
            raise SlideError(
                f"{slide.name} has {len(slide.channels)} channels of {slide.dtype}; networks for "
                "images need 8-bit RGB"
            )
        if mpp is not None and slide.mpp is None:
            raise SlideError(
                f"{slide.name} states no µm per pixel, so that {mpp:g} µm/px cannot be met; state "
                "its µm per pixel, or work in level-0 pixels"
            )
        x, y, width, height = region or (0, 0, *slide.dimensions)
        if width < 1 or height < 1:
            raise SlideError(f"a region of {width} x {height} pixels is empty; draw a larger one")
        right, bottom = slide.dimensions
        if x >= right or y >= bottom or x + width <= 0 or y + height <= 0:
            raise SlideError(
                f"the region at {x},{y} lies off {slide.name}, which has {right} x {bottom} "
                "level-0 pixels; draw one on it"
            )
        self._slide = slide
        self.mpp = slide.mpp
        self.step = 1.0 if mpp is None or slide.mpp is None else mpp / slide.mpp
        if self.step < 1 / _MOST_ENLARGED:
            raise SlideError(
                f"{slide.name} has {length(slide.mpp or 1.0)} per pixel, and would be enlarged "
                f"{1 / self.step:.3g} times for {length(mpp or 1.0)} per pixel: the network was "
                "made for another kind of image, or the µm per pixel are wrong"
            )
        self.origin_level0 = (float(x), float(y))
        self.shape = (max(1, round(height / self.step)), max(1, round(width / self.step)))
        self._level = slide.best_level(self.step)

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a part, averaged over areas of the best stored level; damage is an error."""
        down = self._slide.level_downsamples[self._level]
        ratio = self.step / down
        x0 = self.origin_level0[0] / down + left * ratio
        y0 = self.origin_level0[1] / down + top * ratio
        x, y = int(np.floor(x0)) - _MARGIN, int(np.floor(y0)) - _MARGIN
        across = int(np.ceil(width * ratio)) + 2 * _MARGIN + 1
        along = int(np.ceil(height * ratio)) + 2 * _MARGIN + 1
        pixels = self._slide.read_region(
            round(x * down), round(y * down), self._level, across, along, strict=True
        )
        box = (x0 - x, y0 - y, x0 - x + width * ratio, y0 - y + height * ratio)
        if ratio == 1 and all(float(side).is_integer() for side in box):
            return pixels[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])]
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX, box)
        return np.asarray(picture)
