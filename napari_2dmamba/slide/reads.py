"""Reads under way, which closing a file waits for."""

import contextlib
import threading
from collections.abc import Iterator

from napari_2dmamba.slide.backend import SlideClosed


class Reads:
    """Counts reads, so that no file is closed under one; several may be under way at once."""

    def __init__(self) -> None:
        self._idle, self._count, self._closing = threading.Condition(), 0, False

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Hold the file open for one read.

        Raises
        ------
        SlideClosed
            When closing has begun.
        """
        with self._idle:
            if self._closing:
                raise SlideClosed("the slide is closed")
            self._count += 1
        try:
            yield
        finally:
            with self._idle:
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
