"""Slides through OpenSlide: every vendor format whose tiles overlap, rotate or hide."""

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from openslide import OpenSlide, OpenSlideError

from napari_2dmamba.slide.backend import (
    LARGEST_SIDE,
    Channel,
    Level,
    NotForThisBackend,
    SlideClosed,
    TileError,
    on_background,
    usable_mpp,
)
from napari_2dmamba.slide.level_factors import settle
from napari_2dmamba.slide.tiff_metadata import stated_number

_BLOCK = 512
_SHOWN_PROPERTIES = {
    openslide.PROPERTY_NAME_VENDOR: "vendor",
    openslide.PROPERTY_NAME_OBJECTIVE_POWER: "objective_power",
}


class OpenSlideBackend:
    """Read blocks of 512 x 512 pixels through OpenSlide.

    An OpenSlide handle that met one unreadable tile answers every later call with the same
    error, so each error is confirmed on a fresh handle, which then replaces the old one.
    """

    name = "OpenSlide"
    rgb = True
    dtype: np.dtype[np.uint8] = np.dtype(np.uint8)
    channels: tuple[Channel, ...] = (Channel("red"), Channel("green"), Channel("blue"))
    no_picture: str | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._handle = OpenSlide(path)
        except OpenSlideError as error:
            raise NotForThisBackend(str(error)) from error
        handle, stated = self._handle, self._handle.properties
        try:
            self._describe(path, handle, stated)
        except (OpenSlideError, TileError, ValueError, OverflowError, MemoryError) as error:
            handle.close()
            raise NotForThisBackend(str(error)) from error

    def _describe(self, path: Path, handle: OpenSlide, stated: Mapping[str, str]) -> None:
        if max(handle.dimensions) > LARGEST_SIDE:
            raise ValueError("it claims {} x {} pixels".format(*handle.dimensions))
        color = stated.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "ffffff")
        self.background: tuple[int, ...] = tuple(int(color[i : i + 2], 16) for i in (0, 2, 4))
        self._places = tuple(enumerate(handle.level_downsamples))
        """Of each level its number in OpenSlide, and what OpenSlide takes for its factor."""
        self.levels = tuple(
            Level(width, height, 1.0, _BLOCK, _BLOCK) for width, height in handle.level_dimensions
        )
        settled = settle(self.levels, self.read_tile, [_tile(stated, i) for i, _ in self._places])
        self._places = tuple(self._places[i] for i in settled.kept)
        self.levels, self.remarks = settled.levels, settled.remarks
        self.mpp, self.mpp_source = _resolution(stated)
        width, height = handle.dimensions
        self.bounds = (
            int(stated.get(openslide.PROPERTY_NAME_BOUNDS_X, 0)),
            int(stated.get(openslide.PROPERTY_NAME_BOUNDS_Y, 0)),
            int(stated.get(openslide.PROPERTY_NAME_BOUNDS_WIDTH, width)),
            int(stated.get(openslide.PROPERTY_NAME_BOUNDS_HEIGHT, height)),
        )
        self.properties = {
            ours: stated[theirs] for theirs, ours in _SHOWN_PROPERTIES.items() if theirs in stated
        }
        vendor = stated.get(openslide.PROPERTY_NAME_VENDOR)
        several_files = vendor in ("dicom", "mirax", "hamamatsu", "zeiss")
        is_ndpi = path.suffix.lower() == ".ndpi"
        self.content_hash: str | None = (
            stated.get("openslide.quickhash-1") if several_files and not is_ndpi else None
        )

    def read_tile(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        """See `Backend.read_tile`."""
        with self._lock:
            if self._closed:
                raise SlideClosed("the slide is closed")
            handle = self._handle
        try:
            return self._read(handle, level, row, column)
        except OpenSlideError:
            return self._read_again(handle, level, row, column)

    def _read(self, handle: OpenSlide, level: int, row: int, column: int) -> NDArray[np.uint8]:
        stored, (number, factor) = self.levels[level], self._places[level]
        x, y = column * _BLOCK, row * _BLOCK
        size = min(_BLOCK, stored.width - x), min(_BLOCK, stored.height - y)
        corner = round(x * factor), round(y * factor)  # in OpenSlide's own reckoning
        return on_background(np.asarray(handle.read_region(corner, number, size)), self.background)

    def _read_again(
        self, failed: OpenSlide, level: int, row: int, column: int
    ) -> NDArray[np.uint8]:
        try:
            fresh = OpenSlide(self._path)
        except (OpenSlideError, OSError) as error:
            raise TileError(f"the file cannot be opened any more ({error})") from error
        try:
            pixels = self._read(fresh, level, row, column)
        except OpenSlideError as error:
            with self._lock, contextlib.suppress(OpenSlideError, OSError):
                if not self._closed and self._handle is failed:
                    self._handle = OpenSlide(self._path)
            raise TileError(str(error)) from error
        with self._lock:
            if self._handle is failed and not self._closed:
                self._handle = fresh
        return pixels

    def close(self) -> None:
        """Forget the handle; it is freed when the last read under way has ended."""
        with self._lock:
            self._closed = True
            del self._handle


def _tile(stated: Mapping[str, str], level: int) -> tuple[int, int]:
    """Return width and height of a level's tiles in the file."""
    try:
        return tuple(int(stated[f"openslide.level[{level}].tile-{s}"]) for s in ("width", "height"))  # type: ignore[return-value]
    except (KeyError, ValueError):
        return _BLOCK, _BLOCK


def _resolution(stated: Mapping[str, str]) -> tuple[float | None, str]:
    names = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    found = [stated_number(stated[name]) for name in names if name in stated]
    if not found and "aperio.MPP" in stated:  # with a decimal comma, which OpenSlide leaves out
        found = [stated_number(stated["aperio.MPP"])]
    if not found:
        return None, "the file states no resolution"
    vendor = stated.get(openslide.PROPERTY_NAME_VENDOR, "")
    source = "TIFF resolution tag" if vendor == "generic-tiff" else f"{vendor} metadata"
    return usable_mpp(found[0], found[-1], source)
