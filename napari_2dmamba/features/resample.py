"""Resample by area: each output pixel is the mean over the piece of the slide that it covers."""

import ctypes
import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.native import library_path

LIBRARY = library_path(__package__, "_area")
"""The library, or None where it was not built."""
_VERSION = 1
_MOST_TAPS = 64  # as in csrc/cpu/area.cpp


@dataclass
class AreaWeights:
    """Which source pixels make an output pixel, along one axis.

    Attributes
    ----------
    index
        ``(size, taps)`` int32, source pixels.
    weights
        ``(size, taps)`` float32, rows adding up to one.
    """

    index: NDArray[np.int32]
    weights: NDArray[np.float32]

    def __post_init__(self) -> None:
        # What the library asks for, found out once: a patch costs a millisecond in all
        self.taps = self.index.shape[1]
        self.first, self.last = int(self.index.min()), int(self.index.max()) + 1
        self.index_at, self.weights_at = self.index.ctypes.data, self.weights.ctypes.data


@functools.lru_cache(maxsize=1024)
def area_weights(start: float, length: float, size: int, low: int, high: int) -> AreaWeights:
    """Return the weights of ``size`` output pixels over ``[start, start + length)``.

    Output pixel ``i`` covers ``[start + i * length / size, start + (i + 1) * length / size)``.
    Shrinking, it is the mean over exactly that interval; enlarging, where an interval is less
    than a pixel, it interpolates linearly between pixel centres.

    Parameters
    ----------
    low, high
        Source pixels that exist: taps beyond ``[low, high)`` take the nearest one instead.
    """
    step = length / size
    left = start + step * np.arange(size)
    right = left + step
    if step < 1:  # a window one pixel wide around the centre gives linear interpolation
        left, right = (left + right - 1) / 2, (left + right + 1) / 2
    first = np.floor(left + 1e-9).astype(np.int64)
    taps = int((np.ceil(right - 1e-9).astype(np.int64) - first).max())
    pixels = first[:, np.newaxis] + np.arange(taps)
    overlap = np.minimum(right[:, np.newaxis], pixels + 1) - np.maximum(left[:, np.newaxis], pixels)
    overlap[overlap < 1e-9] = 0
    overlap /= overlap.sum(1, keepdims=True)
    return AreaWeights(
        np.ascontiguousarray(np.clip(pixels, low, high - 1), np.int32),
        np.ascontiguousarray(overlap, np.float32),
    )


def resample_tiles(
    tiles: Sequence[NDArray[np.uint8]],
    tiles_per_row: int,
    rows: AreaWeights,
    columns: AreaWeights,
    out: NDArray[np.uint8],
) -> None:
    """Resample a rectangle of equal tiles into ``out``.

    Parameters
    ----------
    tiles
        Tiles ``(h, w, 3)`` row by row, contiguous, all of one shape.
    tiles_per_row
        How many lie side by side.
    rows, columns
        Weights along y and x, their indices counted from the first tile's corner.
    out
        ``(size, size, 3)``, contiguous.
    """
    library = _library()
    if library is None or max(rows.taps, columns.taps) > _MOST_TAPS:
        n = tiles_per_row
        strips = [np.concatenate(tiles[i : i + n], axis=1) for i in range(0, len(tiles), n)]
        whole = np.concatenate(strips, axis=0)
        out[...] = resample_in_numpy(whole, rows, columns)
        return
    size = len(out)
    tile_height, tile_width, _ = tiles[0].shape
    pointers = np.array([tile.ctypes.data for tile in tiles], np.uintp)
    scratch = _scratch(3 * tiles_per_row * tile_width + 4, 3 * size + 4)
    library.area_resample(
        pointers.ctypes.data,
        tiles_per_row,
        tile_height,
        tile_width,
        rows.index_at,
        rows.weights_at,
        rows.taps,
        columns.index_at,
        columns.weights_at,
        columns.taps,
        columns.first,
        columns.last,
        size,
        scratch[0].ctypes.data,
        scratch[1].ctypes.data,
        out.ctypes.data,
    )


_per_thread = threading.local()


def _scratch(*sizes: int) -> list[NDArray[np.float32]]:
    """Return float memory that belongs to this thread."""
    arrays: list[NDArray[np.float32]] = getattr(_per_thread, "arrays", [])
    if [len(array) for array in arrays] != list(sizes):
        arrays = _per_thread.arrays = [np.empty(size, np.float32) for size in sizes]
    return arrays


def resample_in_numpy(
    pixels: NDArray[np.uint8], rows: AreaWeights, columns: AreaWeights
) -> NDArray[np.uint8]:
    """The definition, and what runs where the library was not built: the same bits, slowly."""
    mixed = np.zeros((len(rows.index), *pixels.shape[1:]), np.float32)
    for index, weight in zip(rows.index.T, rows.weights.T, strict=True):
        mixed += weight[:, np.newaxis, np.newaxis] * pixels[index].astype(np.float32)
    both = np.zeros((len(mixed), len(columns.index), pixels.shape[2]), np.float32)
    for index, weight in zip(columns.index.T, columns.weights.T, strict=True):
        both += weight[:, np.newaxis] * mixed[:, index]
    return (both + np.float32(0.5)).astype(np.uint8)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return the library built with the package, or None where no compiler was at hand."""
    if LIBRARY is None:
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        if library.area_version() != _VERSION:
            return None
    except (OSError, AttributeError):
        return None
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    library.area_resample.argtypes = [
        pointer, number, number, number, pointer, pointer, number, pointer, pointer, number,
        number, number, number, pointer, pointer, pointer,
    ]  # fmt: skip
    library.area_resample.restype = None
    return library
