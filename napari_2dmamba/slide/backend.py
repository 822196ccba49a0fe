"""What a slide reader must offer, and the small rules all readers share."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SMALLEST_MPP, LARGEST_MPP = 0.05, 20.0
"""No microscope gives µm per pixel outside this range; values beyond count as absent."""

LARGEST_SIDE = 2**24
"""Pixels: 0.8 m of glass at 0.05 µm/px. Larger sides are lies, on which work would never end."""


class NotForThisBackend(Exception):
    """One backend cannot read the file, for the reason given; another one may."""


class TileError(Exception):
    """One stored tile cannot be decoded."""


class SlideClosed(TileError):
    """The tile was asked for after the slide was closed."""


@dataclass(frozen=True)
class Channel:
    """One channel of a slide that is not brightfield.

    Attributes
    ----------
    name
        As the file gives it, or ``"channel 1"`` and so on.
    color
        ``(red, green, blue)`` from 0 to 1, or None when the file names none.
    """

    name: str
    color: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Level:
    """One stored level of a pyramid.

    Attributes
    ----------
    width, height
        In pixels of this level.
    downsample
        Level-0 pixels per pixel of this level.
    tile_width, tile_height
        Grid on which `Backend.read_tile` reads, in pixels of this level.
    """

    width: int
    height: int
    downsample: float
    tile_width: int
    tile_height: int


class Backend(Protocol):
    """An open file that yields tiles; all methods may be called from several threads."""

    name: str
    levels: tuple[Level, ...]
    rgb: bool
    dtype: np.dtype[Any]
    channels: tuple[Channel, ...]
    background: tuple[int, ...]
    mpp: float | None
    mpp_source: str
    bounds: tuple[int, int, int, int]
    properties: dict[str, str]
    remarks: tuple[str, ...]
    no_picture: str | None
    """Why the file holds nothing that could be analysed, or None."""
    content_hash: str | None
    """Hash that does not depend on which file of a slide of several files was opened."""

    def read_tile(self, level: int, row: int, column: int) -> NDArray[Any]:
        """Return tile ``(h, w, C)``, cut at the level's edge.

        Raises
        ------
        TileError
            When the stored data cannot be decoded.
        """
        ...

    def close(self) -> None:
        """Release the file; waits for reads under way."""
        ...


def usable_mpp(x: float | None, y: float | None, source: str) -> tuple[float | None, str]:
    """Judge a stated resolution; return ``(mpp or None, where it comes from or why not)``."""
    if x is None or y is None or not np.isfinite([x, y]).all():
        return None, "the file states no resolution"
    for value in (x, y):
        if not SMALLEST_MPP <= value <= LARGEST_MPP:
            return None, f"{source} says {value:.4g} µm/px, which no microscope gives"
    if abs(x - y) > 0.02 * max(x, y):
        return None, f"{source} says {x:.4g} by {y:.4g} µm/px, but pixels must be square"
    return (x + y) / 2, source


def whole_downsample(width: int, height: int, full_width: int, full_height: int) -> float:
    """Return a level's downsample, a whole number where rounding of sizes explains the rest.

    Levels are made by whole factors and their sizes rounded, so 13198 / 3300 means 4,
    not 3.9994: the pixels lie on the lattice of the whole factor.
    """
    ratio_x, ratio_y = full_width / width, full_height / height
    whole = round((ratio_x + ratio_y) / 2)
    slack = 1.0 if whole < 8 else 2.0
    if (
        whole >= 1
        and abs(width - full_width / whole) <= slack
        and abs(height - full_height / whole) <= slack
    ):
        return float(whole)
    return (ratio_x + ratio_y) / 2


def require_tile(
    pixels: NDArray[Any], level: Level, row: int, column: int, channels: int, dtype: np.dtype[Any]
) -> None:
    """Refuse pixels that are not what the level promises, before anything relies on it.

    Raises
    ------
    TileError
        Saying what they are instead.
    """
    height = min(level.tile_height, level.height - row * level.tile_height)
    width = min(level.tile_width, level.width - column * level.tile_width)
    if pixels.shape != (height, width, channels) or pixels.dtype != dtype:
        raise TileError(
            f"a tile holds {pixels.dtype} pixels of shape {pixels.shape} where the file's "
            f"directory promises {dtype} of shape {(height, width, channels)}"
        )


def on_background(
    rgba: NDArray[np.uint8], background: tuple[int, ...], *, premultiplied: bool = False
) -> NDArray[np.uint8]:
    """Composite ``(h, w, 4)`` pixels on a colour; return ``(h, w, 3)``.

    Parameters
    ----------
    premultiplied
        Whether colours were multiplied by alpha already (TIFF: associated alpha).
    """
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    weight = alpha.astype(np.uint16)
    back = np.asarray(background[:3], np.uint16)
    if premultiplied:
        behind = (back * (255 - weight) + 127) // 255
        return np.minimum(rgba[..., :3] + behind, 255).astype(np.uint8)
    mixed = rgba[..., :3] * weight + back * (255 - weight) + 127
    return (mixed // 255).astype(np.uint8)
