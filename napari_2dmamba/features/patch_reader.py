"""Read the patches of a grid at the speed of the decoder: each stored tile is decoded once."""

import itertools
import math
import operator
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import SlideError
from napari_2dmamba.features.resample import TileResampler, area_weights
from napari_2dmamba.slide.backend import TileError
from napari_2dmamba.slide.grid import PatchGrid

if TYPE_CHECKING:
    from napari_2dmamba.slide.slide import Slide

_BATCHES_AHEAD = 2
_SHARED_TILES_BYTES = 256 * 2**20
_WHITE = 255

_Key = tuple[int, int]


def _new_memory(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.empty(shape, np.uint8)


def _references(arrays: list[NDArray[np.uint8]]) -> list[int]:
    """Count who refers to each array, the list and this look included."""
    return [sys.getrefcount(array) for array in arrays]


_OURS_ALONE = _references([np.empty(0, np.uint8)])[0]
"""Looked up, because it is another number from one Python to the next."""


@dataclass(frozen=True)
class PatchBatch:
    """Consecutive patches of a grid.

    Attributes
    ----------
    start
        Index in the grid of the first patch.
    pixels
        ``(B, patch_size, patch_size, 3)`` uint8; white where a patch could not be read.
    unreadable
        Why, by index in the grid, of each patch that could not be read.
    """

    start: int
    pixels: NDArray[np.uint8]
    unreadable: dict[int, str]


class PatchReader:
    """Reads the patches of a grid with several threads.

    The stored level is the coarsest that is at least as fine as the patches. Where it is as
    fine as they are (to within half a pixel over a patch) its pixels are taken as they are,
    from the nearest whole pixel on; else each pixel of a patch is the mean over the area it
    covers, fractions of pixels included. Beyond the slide patches are white. Tiles that
    neighbouring patches share are kept until the last of them is read, so memory grows with
    one row of tiles at most, and not beyond 256 MB.

    Parameters
    ----------
    slide, grid
        The patches are `grid`'s, cut from `slide`.
    threads
        Threads that read, decode and resample.
    """

    def __init__(self, slide: "Slide", grid: PatchGrid, *, threads: int = 2) -> None:
        slide.require_colours()
        self.slide, self.grid, self.threads = slide, grid, threads
        self.level = slide.best_level(grid.patch_size_level0 / grid.patch_size)
        stored = slide.levels[self.level]
        self._tile_size = stored.tile_height, stored.tile_width
        self._level_size = stored.height, stored.width
        side = grid.patch_size_level0 / stored.downsample
        corners = grid.coords / stored.downsample
        self._copies = abs(side - grid.patch_size) < 0.5
        if self._copies:
            side, corners = grid.patch_size, np.rint(corners)
        self._side, self._corners = side, corners
        # Of each patch: pixels [first, last) of the level under it, tiles under those; each (x, y)
        first = np.floor(corners + 1e-9).astype(np.int64)
        last = np.ceil(corners + side - 1e-9).astype(np.int64)
        tile = np.array(self._tile_size[::-1])
        self._under = np.concatenate([first, last, first // tile, -(-last // tile)], 1)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return patch ``index`` as ``(patch_size, patch_size, 3)`` uint8.

        Raises
        ------
        SlideError
            Naming the patch.
        """
        size = self.grid.patch_size
        out = np.empty((size, size, 3), np.uint8)
        self._fill(out, index, _Tiles(self, np.array([index])))
        return out

    def batches(
        self,
        size: int,
        start: int = 0,
        memory: Callable[[tuple[int, ...]], NDArray[np.uint8]] = _new_memory,
    ) -> Generator[PatchBatch]:
        """Yield the patches from ``start`` on, ``size`` at a time, read ahead by threads.

        Parameters
        ----------
        memory
            Gives memory for a batch of a shape, in an array that is no part of another. It is used
            again as soon as nobody refers to the pixels of a batch, or to a part of them, any more.
        """
        if start >= len(self.grid):
            return  # nothing is left, as after a kill between the last batch and the end
        count, side = len(self.grid), self.grid.patch_size
        starts = iter(range(start, count, size))
        tiles = _Tiles(self, np.arange(start, count))
        spare: list[NDArray[np.uint8]] = []
        given: list[NDArray[np.uint8]] = []
        waiting: deque[tuple[PatchBatch, list[Future[None]]]] = deque()
        with ThreadPoolExecutor(self.threads, "patches") as pool:

            def submit() -> None:
                first = next(starts, None)
                if first is None:
                    return
                shape = (min(size, count - first), side, side, 3)
                pixels = spare.pop() if spare and spare[-1].shape == shape else memory(shape)
                batch = PatchBatch(first, pixels, {})
                left = iter(range(len(pixels)))  # the threads share it
                jobs = [
                    pool.submit(self._fill_some, batch, left, tiles) for _ in range(self.threads)
                ]
                waiting.append((batch, jobs))

            try:
                for _ in range(_BATCHES_AHEAD):
                    submit()
                while waiting:
                    batch, jobs = waiting.popleft()
                    for job in jobs:
                        job.result()
                    yield replace(batch, unreadable=dict(sorted(batch.unreadable.items())))
                    # Fresh memory costs as much as a quarter of the decoding, and page-locked
                    # memory far more
                    given.append(batch.pixels)
                    del batch
                    held = [found > _OURS_ALONE for found in _references(given)]
                    spare += itertools.compress(given, map(operator.not_, held))
                    given = list(itertools.compress(given, held))
                    submit()
            finally:
                pool.shutdown(cancel_futures=True)

    def _fill_some(self, batch: PatchBatch, left: Iterator[int], tiles: "_Tiles") -> None:
        for i in left:
            try:
                self._fill(batch.pixels[i], batch.start + i, tiles)
            except SlideError as error:
                batch.unreadable[batch.start + i] = str(error)
                batch.pixels[i] = _WHITE

    def tiles_of(self, index: int) -> list[_Key]:
        """Return ``(row, column)`` of the level's tiles under a patch, those off the slide too."""
        left, top, right, bottom = self._under[index, 4:].tolist()
        return [(row, column) for row in range(top, bottom) for column in range(left, right)]

    def decode(self, key: _Key, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a whole tile, in ``out`` or in memory of its own, white beyond the slide.

        Raises
        ------
        TileError
            When it cannot be decoded.
        """
        row, column = key
        height, width = self._tile_size
        below, beside = self._level_size[0] - row * height, self._level_size[1] - column * width
        if row < 0 or column < 0 or below <= 0 or beside <= 0:
            out[...] = _WHITE
            return out
        tile = self.slide.read_tile(self.level, row, column, out)
        if below >= height and beside >= width:
            return tile
        if tile is not out:
            out[:below, :beside] = tile
        out[below:], out[:, beside:] = _WHITE, _WHITE
        return out

    def _fill(self, out: NDArray[np.uint8], index: int, store: "_Tiles") -> None:
        keys = deque(self.tiles_of(index))
        try:
            if self._copies:
                self._copy(out, index, keys, store)
            else:
                self._resample(out, index, keys, store)
        except TileError as error:
            x, y = (int(v) for v in self.grid.coords[index])
            raise SlideError(
                f"patch {index} of {len(self.grid)} (at x {x}, y {y}) of {self.slide.name} cannot "
                f"be read: a tile of level {self.level} is damaged ({error})"
            ) from error
        finally:
            store.give_back(keys)

    def _copy(self, out: NDArray[np.uint8], index: int, keys: deque[_Key], store: "_Tiles") -> None:
        """Copy tile by tile, each while it is in the processor's cache; drop keys as they go."""
        height, width = self._tile_size
        x, y = self._under[index, :2].tolist()
        while keys:
            row, column = keys[0]
            _copy(store.take(keys[0]), out, row * height - y, column * width - x)
            store.give_back([keys.popleft()])

    def _resample(
        self, out: NDArray[np.uint8], index: int, keys: deque[_Key], store: "_Tiles"
    ) -> None:
        """Likewise row of tiles by row; those that pixels yet to come are made of are kept."""
        x, y, right, bottom, left, top, last_column, _ = self._under[index].tolist()
        n = last_column - left
        x0, y0 = left * self._tile_size[1], top * self._tile_size[0]
        corner_x, corner_y = self._corners[index].tolist()
        size = len(out)
        columns = area_weights(round(corner_x - x0, 6), self._side, size, x - x0, right - x0)
        rows = area_weights(round(corner_y - y0, 6), self._side, size, y - y0, bottom - y0)
        resampler = TileResampler(self._tile_size, len(keys) // n, n, rows, columns, out)
        given_back = 0
        for key in tuple(keys):
            free = resampler.add(store.take(key)) - given_back
            if free > 0:
                store.give_back([keys.popleft() for _ in range(free)])
                given_back += free
            if not keys:
                break


def _copy(tile: NDArray[np.uint8], out: NDArray[np.uint8], top: int, left: int) -> None:
    """Copy the part of a tile, whose corner lies at ``(top, left)`` of ``out``, that is on it."""
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + tile.shape[0], len(out)), min(left + tile.shape[1], out.shape[1])
    out[y0:y1, x0:x1] = tile[y0 - top : y1 - top, x0 - left : x1 - left]


class _Tile:
    """A tile that one thread decodes and others may wait for."""

    __slots__ = ("done", "error", "memory", "pixels", "ready")

    def __init__(self) -> None:
        self.done = False
        self.ready: threading.Event | None = None  # made by the first who has to wait
        self.pixels: NDArray[np.uint8] | None = None
        self.memory: NDArray[np.uint8] | None = None  # ours, to be used again
        self.error: TileError | None = None


class _Tiles:
    """The tiles that patches still need; each is decoded by whoever needs it first."""

    def __init__(self, reader: PatchReader, patches: NDArray[np.int64]) -> None:
        self._decode = reader.decode
        self._lock = threading.Lock()
        self._tiles: dict[_Key, _Tile] = {}  # oldest first
        self._spare: list[NDArray[np.uint8]] = []
        self._shape = (*reader._tile_size, 3)
        self._most = max(16, _SHARED_TILES_BYTES // (3 * math.prod(reader._tile_size)))
        first, last = reader._under[patches, 4:6], reader._under[patches, 6:]
        corner = first.min(0)
        self._corner = int(corner[1]), int(corner[0])
        columns, rows = last.max(0) - corner
        uses = np.zeros((rows, columns), np.int32)
        for (left, top), (right, bottom) in zip(first - corner, last - corner, strict=True):
            uses[top:bottom, left:right] += 1
        self._uses: list[list[int]] = uses.tolist()  # single numbers of an array cost more

    def take(self, key: _Key) -> NDArray[np.uint8]:
        """Return a tile; `give_back` must follow.

        Raises
        ------
        TileError
            When it cannot be decoded.
        """
        with self._lock:
            tile = self._tiles.get(key)
            mine = tile is None
            if tile is None:
                tile = self._tiles[key] = _Tile()
            elif not tile.done and tile.ready is None:
                tile.ready = threading.Event()
        if mine:  # decoded at once, so nobody waits in a circle
            self._fill(tile, key)
        elif not tile.done:
            assert tile.ready is not None
            tile.ready.wait()
        if tile.error is not None:
            raise tile.error
        assert tile.pixels is not None
        return tile.pixels

    def _fill(self, tile: _Tile, key: _Key) -> None:
        try:
            memory = self._memory()
            tile.pixels = self._decode(key, memory)
            tile.memory = memory if tile.pixels is memory else None
        except TileError as error:
            tile.error = error
        except BaseException as error:
            tile.error = TileError(f"{type(error).__name__}: {error}")
            raise
        finally:
            with self._lock:  # whoever looked before us has made the event by now
                tile.done = True
            if tile.ready is not None:
                tile.ready.set()

    def _memory(self) -> NDArray[np.uint8]:
        try:
            return self._spare.pop()
        except IndexError:
            # At addresses that are multiples of 32 libjpeg-turbo writes past the caches, and
            # reading the tile back takes three times as long
            size = math.prod(self._shape)
            raw = np.empty(size + 32, np.uint8)
            start = (16 - raw.ctypes.data) % 32
            return raw[start : start + size].reshape(self._shape)

    def give_back(self, keys: Iterable[_Key]) -> None:
        """Count a patch as served; memory of tiles that none needs any more is used again."""
        top, left = self._corner
        with self._lock:
            for row, column in keys:
                uses = self._uses[row - top]
                uses[column - left] -= 1
                if uses[column - left] <= 0:
                    tile = self._tiles.pop((row, column), None)
                    if tile is not None and tile.memory is not None:
                        self._spare.append(tile.memory)
            while len(self._tiles) > self._most:  # decoded again when its time comes
                oldest = next(iter(self._tiles))
                if not self._tiles[oldest].done:
                    break
                del self._tiles[oldest]
