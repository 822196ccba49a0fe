"""Resample by area: each output pixel is the mean over the piece of the slide that it covers."""

import ctypes
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LIBRARY = Path(__file__).with_name("_area.dll" if sys.platform == "win32" else "_area.so")
_VERSION = 1
_MOST_TAPS = 64  # as in csrc/cpu/area.cpp


@dataclass(frozen=True)
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
    tiles: Sequence[Sequence[NDArray[np.uint8]]],
    rows: AreaWeights,
    columns: AreaWeights,
    out: NDArray[np.uint8],
) -> None:
    """Resample a rectangle of equal tiles into ``out``.

    Parameters
    ----------
    tiles
        Rows of tiles ``(h, w, 3)``, contiguous, all of one shape.
    rows, columns
        Weights along y and x, their indices counted from the first tile's corner.
    out
        ``(size, size, 3)``, contiguous.
    """
    library = _library()
    taps = max(rows.index.shape[1], columns.index.shape[1])
    if library is None or taps > _MOST_TAPS:
        whole = np.concatenate([np.concatenate(list(row), axis=1) for row in tiles], axis=0)
        out[...] = resample_in_numpy(whole, rows, columns)
        return
    size = len(out)
    tile_height, tile_width, _ = tiles[0][0].shape
    pointers = (ctypes.c_void_p * (len(tiles) * len(tiles[0])))(
        *[tile.ctypes.data for row in tiles for tile in row]
    )
    row = np.empty(3 * len(tiles[0]) * tile_width + 1, np.float32)
    line = np.empty(3 * size + 1, np.float32)
    library.area_resample(
        pointers,
        len(tiles[0]),
        tile_height,
        tile_width,
        rows.index.ctypes.data,
        rows.weights.ctypes.data,
        rows.index.shape[1],
        columns.index.ctypes.data,
        columns.weights.ctypes.data,
        columns.index.shape[1],
        int(columns.index.min()),
        int(columns.index.max()) + 1,
        size,
        row.ctypes.data,
        line.ctypes.data,
        out.ctypes.data,
    )


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
