"""Levels of a pyramid as arrays a viewer can slice, stored or made by area means."""

import logging
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.slide.backend import Backend, SlideClosed, TileError, require_tile
from napari_2dmamba.slide.tile_cache import TileCache

CHUNK = 512
COARSEST_SIDE = 1500
"""A viewer holds the coarsest level whole; its sides are no longer than this."""

_TILES_AT_ONCE = 64

logger = logging.getLogger(__name__)


class TileSource(Protocol):
    """One level cut into tiles, each of which can be had by itself."""

    key: tuple[Any, ...]
    width: int
    height: int
    downsample: float
    tile_width: int
    tile_height: int
    background: NDArray[Any]
    depth: int
    """How many times tiles are made of tiles; 0 for stored ones."""
    failed: dict[tuple[int, int], str]
    """Tiles that could not be decoded, with the reason."""

    def load(self, row: int, column: int) -> NDArray[Any]:
        """Return tile ``(h, w, C)``, background where it cannot be decoded."""
        ...


class StoredTiles:
    """A level as the file stores it."""

    def __init__(self, backend: Backend, index: int, slide_key: int, slide_name: str) -> None:
        level = backend.levels[index]
        self.key = (slide_key, "stored", index)
        self.width, self.height = level.width, level.height
        self.downsample, self.depth = level.downsample, 0
        self.tile_width, self.tile_height = level.tile_width, level.tile_height
        self.background = np.array(backend.background, backend.dtype)
        self.failed: dict[tuple[int, int], str] = {}
        self._backend, self._index, self._slide_name = backend, index, slide_name

    def load(self, row: int, column: int) -> NDArray[Any]:
        """See `TileSource.load`."""
        backend = self._backend
        try:
            pixels = backend.read_tile(self._index, row, column)
            require_tile(
                pixels,
                backend.levels[self._index],
                row,
                column,
                len(self.background),
                backend.dtype,
            )
            return pixels
        except TileError as error:
            if isinstance(error, SlideClosed):
                return self._blank(row, column)
            if not self.failed:
                logger.warning(
                    "%s: a tile of level %d cannot be decoded and is shown as background (%s)",
                    self._slide_name,
                    self._index,
                    error,
                )
            self.failed[row, column] = str(error)
            return self._blank(row, column)

    def _blank(self, row: int, column: int) -> NDArray[Any]:
        height = min(self.tile_height, self.height - row * self.tile_height)
        width = min(self.tile_width, self.width - column * self.tile_width)
        return np.full((height, width, len(self.background)), self.background)


class MeanTiles:
    """A level half as large as a finer one, each pixel the mean of the 2 x 2 it covers."""

    def __init__(self, finer: TileSource, cache: TileCache) -> None:
        self.key = (finer.key[0], "mean", finer.key)
        self.width, self.height = -(-finer.width // 2), -(-finer.height // 2)
        self.downsample, self.depth = finer.downsample * 2, finer.depth + 1
        self.tile_width = self.tile_height = CHUNK
        if finer.tile_width > 2 * CHUNK:  # strips: cut alike, so that each is decoded once
            self.tile_width, self.tile_height = -(-finer.tile_width // 2), finer.tile_height
        self.background = finer.background
        self.failed: dict[tuple[int, int], str] = {}
        self._finer, self._cache = finer, cache

    def load(self, row: int, column: int) -> NDArray[Any]:
        """See `TileSource.load`."""
        finer = self._finer
        width, height = 2 * self.tile_width, 2 * self.tile_height
        x, y = column * width, row * height
        width, height = min(width, finer.width - x), min(height, finer.height - y)
        pixels = read_pixels(finer, self._cache, x, y, width, height)
        failure = failure_within(finer, x, y, width, height)
        if failure is not None:
            self.failed[row, column] = failure[2]
        return halve(pixels)


def halve(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the means of 2 x 2 blocks; an odd last row or column is averaged alone.

    Whole numbers are rounded to the nearest, halves up.
    """
    odd_rows, odd_columns = pixels.shape[0] % 2, pixels.shape[1] % 2
    if odd_rows or odd_columns:
        pixels = np.pad(pixels, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
    height, width, channels = pixels.shape
    real = pixels.dtype.kind == "f"
    wide = np.float64 if real else np.int16 if pixels.dtype.itemsize == 1 else np.int64
    rows = np.add(pixels[0::2], pixels[1::2], dtype=wide)
    means = np.empty((height // 2, width // 2, channels), pixels.dtype)
    for channel in range(channels):  # planes one by one: strides of 3 bytes are slow
        total = rows[:, 0::2, channel] + rows[:, 1::2, channel]
        means[..., channel] = total / 4 if real else (total + 2) >> 2
    return means


def read_pixels(
    source: TileSource, cache: TileCache, x: int, y: int, width: int, height: int
) -> NDArray[Any]:
    """Return ``(height, width, C)`` from corner ``(x, y)`` of a level; beyond it, background."""
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, source.width), min(y + height, source.height)
    shape = (height, width, len(source.background))
    dtype = source.background.dtype
    if (left, top, right, bottom) == (x, y, x + width, y + height):
        pixels = np.empty(shape, dtype)
    else:
        pixels = np.full(shape, source.background, dtype)
    if left >= right or top >= bottom:
        return pixels
    tile_width, tile_height = source.tile_width, source.tile_height
    wanted = [
        (row, column)
        for row in range(top // tile_height, (bottom - 1) // tile_height + 1)
        for column in range(left // tile_width, (right - 1) // tile_width + 1)
    ]
    for start in range(0, len(wanted), _TILES_AT_ONCE):
        batch = wanted[start : start + _TILES_AT_ONCE]
        tiles = cache.get(
            [
                ((*source.key, row, column), partial(source.load, row, column))
                for row, column in batch
            ],
            depth=source.depth,
        )
        for (row, column), tile in zip(batch, tiles, strict=True):
            tile_x, tile_y = column * tile_width, row * tile_height
            x0, x1 = max(left, tile_x), min(right, tile_x + tile_width)
            y0, y1 = max(top, tile_y), min(bottom, tile_y + tile_height)
            pixels[y0 - y : y1 - y, x0 - x : x1 - x] = tile[
                y0 - tile_y : y1 - tile_y, x0 - tile_x : x1 - tile_x
            ]
    return pixels


def failure_within(
    source: TileSource, x: int, y: int, width: int, height: int
) -> tuple[int, int, str] | None:
    """Return level-0 x and y of a tile in the region that could not be decoded, and why."""
    for (row, column), reason in tuple(source.failed.items()):
        tile_x, tile_y = column * source.tile_width, row * source.tile_height
        if (
            tile_x < x + width
            and x < tile_x + source.tile_width
            and tile_y < y + height
            and y < tile_y + source.tile_height
        ):
            return round(tile_x * source.downsample), round(tile_y * source.downsample), reason
    return None


class SlideLevel:
    """Array-like ``(h, w, C)`` over one level, or ``(h, w)`` over one of its channels.

    Slicing reads through the shared tile cache; nothing is read before. `chunks` is what a
    viewer should fetch at once, whatever the file's own tiles are.

    Attributes
    ----------
    downsample
        Level-0 pixels per pixel of this level.
    stored
        False for a level made by area means.
    """

    def __init__(self, source: TileSource, cache: TileCache, channel: int | None = None) -> None:
        self._source, self._cache, self._channel = source, cache, channel
        channels = len(source.background)
        plane = (source.height, source.width)
        self.shape: tuple[int, ...] = plane if channel is not None else (*plane, channels)
        self.chunks: tuple[int, ...] = (CHUNK, CHUNK, channels)[: len(self.shape)]
        self.dtype: np.dtype[Any] = source.background.dtype
        self.downsample = source.downsample
        self.stored = isinstance(source, StoredTiles)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes the level would take if it were read whole."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"SlideLevel({self.shape}, {self.dtype}, downsample={self.downsample:g})"

    def __getitem__(self, index: Any) -> NDArray[Any]:
        rows, columns, *rest = _full_index(index, self.ndim)
        row_numbers, column_numbers = (
            _numbers(rows, self.shape[0]),
            _numbers(columns, self.shape[1]),
        )
        pixels = self._pick(np.atleast_1d(row_numbers), np.atleast_1d(column_numbers))
        kept = tuple(0 if numbers.ndim == 0 else slice(None)
                     for numbers in (row_numbers, column_numbers))  # fmt: skip
        return pixels[(*kept, *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a slide level has to be read, which makes a copy")
        pixels = self[:]
        return pixels if dtype is None else pixels.astype(dtype, copy=False)

    def channel(self, index: int) -> "SlideLevel":
        """Return one channel as an ``(h, w)`` array-like over the same tiles."""
        return SlideLevel(self._source, self._cache, index)

    def _pick(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[Any]:
        """Read the given rows and columns, a band of rows at a time where some are skipped."""
        if not len(rows) or not len(columns):
            shape = (len(rows), len(columns), *self.shape[2:])
            return np.empty(shape, self.dtype)
        left, width = int(columns.min()), int(np.ptp(columns)) + 1
        if np.all(np.diff(rows) == 1) and np.all(np.diff(columns) == 1):
            return self._read(left, int(rows[0]), width, len(rows))
        pixels = np.empty((len(rows), len(columns), *self.shape[2:]), self.dtype)
        bands = rows // CHUNK
        for band in np.unique(bands):
            inside = bands == band
            top, bottom = int(rows[inside].min()), int(rows[inside].max()) + 1
            read = self._read(left, top, width, bottom - top)
            pixels[inside] = read[rows[inside] - top][:, columns - left]
        return pixels

    def _read(self, x: int, y: int, width: int, height: int) -> NDArray[Any]:
        pixels = read_pixels(self._source, self._cache, x, y, width, height)
        return pixels if self._channel is None else pixels[..., self._channel]


def _numbers(key: Any, length: int) -> NDArray[np.int64]:
    """Return the numbers a key picks out of ``length``; an array without axes for a single one."""
    picked = range(length)[key]  # takes no memory, however long a level claims to be
    if isinstance(picked, int):
        return np.array(picked, np.int64)
    return np.arange(picked.start, picked.stop, picked.step, dtype=np.int64)


def _full_index(index: Any, ndim: int) -> tuple[Any, ...]:
    """Write out an ellipsis and the axes left out; allow only whole numbers and slices."""
    keys = index if isinstance(index, tuple) else (index,)
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys = (*keys[:at], *[slice(None)] * (ndim - len(keys) + 1), *keys[at + 1 :])
    if len(keys) > ndim:
        raise IndexError(f"{len(keys)} indices were given for {ndim} axes")
    for key in keys:
        if not isinstance(key, int | np.integer | slice):
            raise IndexError(f"a slide level takes whole numbers and slices, not {key!r}")
    return (*keys, *[slice(None)] * (ndim - len(keys)))


def build_pyramid(stored: list[StoredTiles], cache: TileCache) -> list[TileSource]:
    """Add area-mean levels where steps are coarse, and until the last one is small.

    Between two stored levels more than a factor of 3 apart, levels of half size each are made
    from the finer one. After the last, halves follow until no side exceeds `COARSEST_SIDE`.
    """
    pyramid: list[TileSource] = []
    for source, coarser in zip(stored, [*stored[1:], None], strict=True):
        pyramid.append(source)
        last: TileSource = source
        while (
            coarser.downsample / last.downsample > 3
            if coarser is not None
            else max(last.width, last.height) > COARSEST_SIDE
        ):
            last = MeanTiles(last, cache)
            pyramid.append(last)
    return pyramid
