"""Where the bytes of a slide of one file come from: this machine, or the network."""

import os
from pathlib import Path
from typing import BinaryIO, Protocol

from napari_2dmamba.slide.reads import Reads


class StoredFile(Protocol):
    """Bytes that do not change while they are read; may be used from several threads.

    Attributes
    ----------
    path
        Names the slide in sentences.
    """

    path: Path

    def open(self) -> BinaryIO:
        """Return a reader with a position of its own, to be closed by who asked."""
        ...

    def read_at(self, offset: int, size: int) -> bytes:
        """Return bytes, fewer at the file's end.

        Raises
        ------
        TileError
            When they cannot be had, or the file is closed.
        """
        ...

    def close(self) -> None:
        """Wait for reads under way, and release the file."""
        ...


class LocalFile:
    """A file on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reads = Reads()
        self._file = path.open("rb")

    def open(self) -> BinaryIO:
        """See `StoredFile.open`."""
        return self.path.open("rb")

    def read_at(self, offset: int, size: int) -> bytes:
        """Read; where the system can, several threads at once."""
        if hasattr(os, "pread"):
            with self._reads.one():
                return os.pread(self._file.fileno(), size, offset)
        with self._reads.alone():
            self._file.seek(offset)
            return self._file.read(size)

    def close(self) -> None:
        """See `StoredFile.close`."""
        self._reads.end()
        self._file.close()
