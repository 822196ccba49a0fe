"""Reads under way, which closing a file waits for."""

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType

from napari_2dmamba.slide.backend import SlideClosed


class Reads:
    """Counts reads, so that no file is closed under one; several may be under way at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._count, self._closing = 0, False
        self._one = _OneOf(self)

    def one(self) -> "_OneOf":
        """Hold the file open for one read, as a context.

        Raises
        ------
        SlideClosed
            When closing has begun.
        """
        return self._one

    def begin(self) -> None:
        """Count one more; see `one`."""
        with self._lock:
            if self._closing:
                raise SlideClosed("the slide is closed")
            self._count += 1

    def done(self) -> None:
        """Count one less."""
        with self._lock:
            self._count -= 1
            if self._closing:
                self._idle.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the file for one read that moves its position; no other goes on meanwhile.

        Raises
        ------
        SlideClosed
            As `one`.
        """
        with self._idle:
            if self._closing:
                raise SlideClosed("the slide is closed")
            yield

    def end(self) -> bool:
        """Let no further read begin and wait for the last; returns False when done before."""
        with self._idle:
            first, self._closing = not self._closing, True
            self._idle.wait_for(lambda: self._count == 0)
            return first


class _OneOf:
    """The context of `Reads.one`. One for all: a generator for each costs more than the reading."""

    __slots__ = ("_reads",)

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def __enter__(self) -> None:
        self._reads.begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reads.done()
