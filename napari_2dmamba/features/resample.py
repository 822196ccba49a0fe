"""Resample by area: each output pixel is the mean over the piece of the slide that it covers."""

import bisect
import ctypes
import functools
import threading
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.native import library_path

LIBRARY = library_path(__package__, "_area")
"""The library, or None where it was not built."""
_VERSION = 4
_MOST_TAPS = 64  # as in csrc/cpu/area.cpp
_BYTES = np.dtype(np.uint8)
_PAGE = 2048  # numbers of 16 bits


@dataclass
class AreaWeights:
    """Which source pixels make an output pixel, along one axis.

    Attributes
    ----------
    first
        ``(size,)`` int32, the first source pixel of each output pixel.
    weights
        ``(size, taps)`` uint16, of it and those that follow, in 1/65536. Rows add up to 65536,
        or to 65535 where a single pixel counts.
    ends
        ``(size,)``, one past the last source pixel that counts.
    low, high
        All of them lie in ``[low, high)``.
    """

    first: NDArray[np.int32]
    weights: NDArray[np.uint16]

    def __post_init__(self) -> None:
        size, self.taps = self.weights.shape
        self.ends = self.first + self.taps - (self.weights[:, ::-1] > 0).argmax(1)
        # What the library asks for, laid out once: a patch costs a millisecond in all
        lanes = np.zeros((size, (self.taps + 1) // 2, 8), np.uint16)
        for tap in range(self.taps):
            at = 3 * (tap % 2)
            lanes[:, tap // 2, at : at + 3] = self.weights[:, tap, np.newaxis]
        self._along_y = np.array([self.first.ctypes.data, self.weights.ctypes.data, self.taps])
        self._along_x = np.array([self.first.ctypes.data, lanes.ctypes.data, self.taps])
        self._lanes = lanes
        self.along_y, self.along_x = self._along_y.ctypes.data, self._along_x.ctypes.data
        self.low, self.high = int(self.first.min()), int(self.ends.max())
        self._ends: list[int] = self.ends.tolist()

    def complete(self, length: int) -> int:
        """Return how many output pixels are made of the first ``length`` source pixels alone."""
        return bisect.bisect_right(self._ends, length)


@functools.lru_cache(maxsize=1024)
def area_weights(start: float, length: float, size: int, low: int, high: int) -> AreaWeights:
    """Return the weights of ``size`` output pixels over ``[start, start + length)``.

    Output pixel ``i`` covers ``[start + i * length / size, start + (i + 1) * length / size)``.
    Shrinking, it is the mean over exactly that interval; enlarging, where an interval is less
    than a pixel, it interpolates linearly between pixel centres.

    Parameters
    ----------
    low, high
        Source pixels that exist: what lies beyond ``[low, high)`` takes the nearest one instead.
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
    first = np.clip(first, low, max(low, high - taps))
    taken = np.clip(pixels, low, high - 1) - first[:, np.newaxis]
    weights = np.zeros((size, taps))
    np.add.at(weights, (np.arange(size)[:, np.newaxis], taken), overlap)
    return AreaWeights(first.astype(np.int32), _in_whole_numbers(weights))


def _in_whole_numbers(weights: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Return weights in 1/65536 whose rows still add up: those cut off most get one more."""
    exact = weights * 65536
    whole = np.floor(exact)
    missing = np.rint(65536 - whole.sum(1)).astype(np.int64)
    rank = np.argsort(np.argsort(whole - exact, axis=1, kind="stable"), axis=1)
    whole += rank < missing[:, np.newaxis]
    return np.minimum(whole, 65535).astype(np.uint16)


class TileResampler:
    """Resamples a rectangle of equal tiles, a row of them at a time while it is in the cache.

    Parameters
    ----------
    tile_shape
        ``(height, width)`` in pixels.
    tile_rows, tiles_per_row
        How many lie one below the other, and side by side.
    rows, columns
        Weights along y and x, their pixels counted from the first tile's corner.
    out
        ``(size, size, 3)``, contiguous.
    """

    def __init__(
        self,
        tile_shape: tuple[int, int],
        tile_rows: int,
        tiles_per_row: int,
        rows: AreaWeights,
        columns: AreaWeights,
        out: NDArray[np.uint8],
    ) -> None:
        height, width = tile_shape
        size = len(out)
        if min(height, width, tile_rows, tiles_per_row) <= 0:
            raise _refused(f"tiles of shape {tile_shape}")
        if not (
            out.shape == (size, size, 3) and out.dtype == _BYTES and out.flags.c_contiguous
            and out.flags.writeable
        ):  # fmt: skip
            raise _refused(f"out of shape {out.shape} and {out.dtype}")
        for table, length in ((rows, tile_rows * height), (columns, tiles_per_row * width)):
            if not (len(table.first) == size and table.low >= 0 and table.high <= length):
                raise _refused(f"weights of pixels {table.low} to {table.high} over {length}")
        self._shape, self._per_row = (height, width, 3), tiles_per_row
        self._rows, self._columns, self._out = rows, columns, out
        self._count = tile_rows * tiles_per_row
        self._tiles: list[NDArray[np.uint8]] = []
        self._made = 0  # rows of out
        self._addresses = (ctypes.c_void_p * self._count)()
        self._library = _library() if max(rows.taps, columns.taps) <= _MOST_TAPS else None
        self._out_at = _address(out)

    def add(self, tile: NDArray[np.uint8]) -> int:
        """Take the next tile ``(h, w, 3)``, row by row; make what a row of tiles completes.

        Returns
        -------
        How many tiles, from the first one on, are not needed any more.

        Raises
        ------
        ValueError
            When the tile is not what was promised: the library reads memory by these sizes.
        """
        # Words are made where they are needed alone: this runs for every tile, and what runs in
        # Python keeps all other threads from theirs
        if not (tile.shape == self._shape and tile.dtype == _BYTES and tile.flags.c_contiguous):
            raise _refused(
                f"a tile of shape {tile.shape} and {tile.dtype} where {self._shape} was promised"
            )
        if len(self._tiles) == self._count:
            raise _refused("more tiles than were promised")
        self._tiles.append(tile)
        done = len(self._tiles)
        if self._library is None:
            if done == self._count:
                self._out[...] = resample_in_numpy(self._assembled(), self._rows, self._columns)
            return self._count if done == self._count else 0
        self._addresses[done - 1] = _address(tile)
        if done % self._per_row:
            return 0
        size, (height, width, _) = len(self._out), self._shape
        begun = self._made
        self._made = made = self._rows.complete(done // self._per_row * height)
        # A read waits for a write just before it at the same place of another page: begun at the
        # same place, reading stays ahead of writing, and area means take a seventh less
        line = -(-(3 * size + 1) // _PAGE) * _PAGE
        scratch = _scratch(line + 3 * self._per_row * width + 6 * self._columns.taps + 8)
        status = self._library.area_resample(
            self._addresses,
            self._per_row,
            height,
            width,
            self._rows.along_y,
            self._columns.along_x,
            begun,
            made,
            self._columns.low,
            self._columns.high,
            size,
            scratch + 2 * line,
            scratch,
            self._out_at,
        )
        if status != 0:
            raise _refused("sizes that the library does not take")
        if made == size:
            return self._count
        return int(self._rows.first[made]) // height * self._per_row

    def _assembled(self) -> NDArray[np.uint8]:
        n = self._per_row
        strips = [
            np.concatenate(self._tiles[i : i + n], axis=1) for i in range(0, len(self._tiles), n)
        ]
        return np.concatenate(strips, axis=0)


def _refused(what: str) -> ValueError:
    return ValueError(f"the resampler was given {what}")


def _address(array: NDArray[Any]) -> int:
    """Return where an array's data lie, in a third of the time of ``array.ctypes.data``."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(cast(Any, array)))
    except TypeError:  # read-only
        return int(array.ctypes.data)


_per_thread = threading.local()


def _scratch(length: int) -> int:
    """Return the address of 16-bit memory that belongs to this thread."""
    array: NDArray[np.uint16] | None = getattr(_per_thread, "array", None)
    if array is None or len(array) < length:
        array = _per_thread.array = np.empty(length, np.uint16)
        _per_thread.address = array.ctypes.data
    return int(_per_thread.address)


def resample_in_numpy(
    pixels: NDArray[np.uint8], rows: AreaWeights, columns: AreaWeights
) -> NDArray[np.uint8]:
    """The definition, and what runs where the library was not built: the same bits, slowly.

    Along y, then along x. In between values are in 1/256 of a grey level; each product is cut
    off to that, which is half a unit too little on average and is made good.
    """
    tall = _mixed(pixels.astype(np.uint32) << 8, rows) + rows.taps // 2
    both = _mixed(tall.swapaxes(0, 1), columns).swapaxes(0, 1) + columns.taps // 2
    return ((both + 128) >> 8).astype(np.uint8)


def _mixed(values: NDArray[Any], table: AreaWeights) -> NDArray[np.uint32]:
    """Return ``(size, ...)``: weighted sums along the first axis."""
    mixed = np.zeros((len(table.first), *values.shape[1:]), np.uint32)
    for tap, weight in enumerate(table.weights.T.astype(np.uint32)):
        taken = np.minimum(table.first + tap, len(values) - 1)  # those beyond have no weight
        mixed += values[taken] * weight[:, np.newaxis, np.newaxis] >> 16
    return mixed


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
        pointer, number, number, number, pointer, pointer, number, number, number, number, number,
        pointer, pointer, pointer,
    ]  # fmt: skip
    library.area_resample.restype = ctypes.c_int
    return library
