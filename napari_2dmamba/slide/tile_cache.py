"""Decoded tiles of all open slides, kept up to a number of bytes, decoded once each."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

DEFAULT_CACHE_MB = 128
"""About twenty viewports; a viewer with more would pass 500 MB in all."""

_SHARE = 1 / 3
_DECODE_THREADS = max(2, min(4, os.cpu_count() or 2))

Tile = NDArray[Any]


class _Pending:
    """A tile somebody wants; whoever claims it first decodes it, the others wait."""

    def __init__(self, load: Callable[[], Tile], depth: int) -> None:
        self.load, self.depth = load, depth
        self.claimed = False
        self.done = threading.Event()
        self.tile: Tile | None = None
        self.error: BaseException | None = None


class TileCache:
    """Least-recently-used cache bounded by bytes, with in-flight de-duplication.

    The thread that asks for tiles decodes too, next to the pool's threads. It never waits for
    a tile that nobody has begun, so a tile may be made from other tiles without deadlock.

    A tile of depth d is made of tiles of depth d - 1; stored tiles have depth 0. What is
    deeper costs more to make and is less in number, so when room is needed it is taken from
    the least deep tiles that hold more than their share: a third for depth 0, half of that
    for depth 1, and so on. Else making a deep tile would drive its neighbours out.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._held: list[OrderedDict[Hashable, Tile]] = []
        self._held_bytes: list[int] = []
        self._pending: dict[Hashable, _Pending] = {}
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    @property
    def max_bytes(self) -> int:
        """Bytes held at most."""
        return self._max_bytes

    @max_bytes.setter
    def max_bytes(self, value: int) -> None:
        with self._lock:
            self._max_bytes = value
            self._shrink()

    def get(
        self, wanted: Sequence[tuple[Hashable, Callable[[], Tile]]], *, depth: int = 0
    ) -> list[Tile]:
        """Return the tile of each ``(key, load)``, calling ``load`` for those not held."""
        tiles: dict[int, Tile] = {}
        waiting: list[tuple[int, Hashable, _Pending]] = []
        with self._lock:
            while len(self._held) <= depth:
                self._held.append(OrderedDict())
                self._held_bytes.append(0)
            held = self._held[depth]
            for index, (key, load) in enumerate(wanted):
                tile = held.get(key)
                if tile is not None:
                    held.move_to_end(key)
                    tiles[index] = tile
                    continue
                pending = self._pending.get(key)
                if pending is None:
                    pending = self._pending[key] = _Pending(load, depth)
                waiting.append((index, key, pending))
        helpers = min(len(waiting) - 1, _DECODE_THREADS - 1)
        if helpers > 0:
            todo = iter([(key, pending) for _, key, pending in waiting])
            pool = self._threads()
            for _ in range(helpers):
                pool.submit(self._work, todo)
            self._work(todo)
        for index, key, pending in waiting:
            self._decode(key, pending)
            pending.done.wait()
            if pending.error is not None:
                raise pending.error
            assert pending.tile is not None
            tiles[index] = pending.tile
        return [tiles[index] for index in range(len(wanted))]

    def forget(self, belongs: Callable[[Hashable], bool]) -> None:
        """Drop the tiles whose key belongs to something that was closed."""
        with self._lock:
            for depth, held in enumerate(self._held):
                for key in [key for key in held if belongs(key)]:
                    self._drop(depth, key)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_DECODE_THREADS - 1, "decode")
            return self._pool

    def _work(self, todo: Iterator[tuple[Hashable, _Pending]]) -> None:
        # list iterators are safe to share between threads: each item is handed out once
        for key, pending in todo:
            self._decode(key, pending)

    def _decode(self, key: Hashable, pending: _Pending) -> None:
        with self._lock:
            if pending.claimed:
                return
            pending.claimed = True
        try:
            pending.tile = pending.load()
        except BaseException as error:  # noqa: BLE001 - handed to everyone who waits
            pending.error = error
        with self._lock:
            self._pending.pop(key, None)
            if pending.tile is not None:
                self._held[pending.depth][key] = pending.tile
                self._held_bytes[pending.depth] += pending.tile.nbytes
                self._bytes += pending.tile.nbytes
                self._shrink()
        pending.done.set()

    def _shrink(self) -> None:
        while self._bytes > self._max_bytes and sum(map(len, self._held)) > 1:
            depths = [depth for depth, held in enumerate(self._held) if held]
            over = [d for d in depths if self._held_bytes[d] > self._max_bytes * _SHARE / 2**d]
            depth = (over or depths)[0]
            self._drop(depth, next(iter(self._held[depth])))

    def _drop(self, depth: int, key: Hashable) -> None:
        size = self._held[depth].pop(key).nbytes
        self._held_bytes[depth] -= size
        self._bytes -= size


shared_cache = TileCache(DEFAULT_CACHE_MB * 2**20)
"""The cache that all open slides share."""


def set_cache_size(megabytes: float) -> None:
    """Bound the tile cache that all open slides share."""
    shared_cache.max_bytes = int(megabytes * 2**20)
