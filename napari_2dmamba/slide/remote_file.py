"""A file on the network that is read in blocks, which a bounded cache keeps on disk."""

import contextlib
import hashlib
import io
import os
import secrets
import threading
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

from napari_2dmamba.slide.addresses import folder, identity_of
from napari_2dmamba.slide.backend import TileError
from napari_2dmamba.slide.reads import Reads
from napari_2dmamba.slide.remote import ChangedError, RemoteError, Transport

BLOCK = 2**18
"""Bytes that are asked for at once: a round trip costs more than their transfer."""
_MOST_AT_ONCE = 64
_IN_MEMORY = 64
"""Blocks that one open file keeps."""
DISK_CACHE_MB = 2048
DISK_CACHE_VARIABLE = "NAPARI_2DMAMBA_REMOTE_CACHE_MB"
"""Set it to another size, or to 0 for no copy on disk; other processes must know it as well."""


class BlockCache:
    """Blocks in a folder that all processes of a user share; the oldest go first.

    Parameters
    ----------
    most
        Bytes the folder may hold; each process may be beyond by a sixteenth before it sweeps.
    """

    def __init__(self, place: Path, most: int) -> None:
        self._place, self._most = place, most
        self._lock, self._written = threading.Lock(), most  # so that the first write sweeps

    def get(self, name: str, length: int | None = None) -> bytes | None:
        """Return a block, or None where there is none, or none of a length."""
        path = self._path(name)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data if length in (None, len(data)) else None

    def put(self, name: str, data: bytes) -> None:
        """Keep a block; a disk that is full costs nothing but the copy."""
        if len(data) > self._most:
            return
        path = self._path(name)
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part.write_bytes(data)
            os.replace(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            return
        with self._lock:
            self._written += len(data)
            if self._written * 16 > self._most:
                self._written = 0
                self._sweep()

    def _sweep(self) -> None:
        found = []
        for path in self._place.glob("??/*"):
            with contextlib.suppress(OSError):
                told = path.stat()
                found.append((told.st_mtime, told.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._most:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size

    def _path(self, name: str) -> Path:
        return self._place / name[:2] / name


def disk_cache() -> BlockCache:
    """Return the cache of this user, of the size that is set."""
    try:
        megabytes = float(os.environ.get(DISK_CACHE_VARIABLE, DISK_CACHE_MB))
    except ValueError:
        megabytes = DISK_CACHE_MB
    return BlockCache(folder() / "blocks", int(max(0.0, megabytes) * 2**20))


class RemoteFile:
    """One version of a file, from which several readers read; see `StoredFile`.

    Raises
    ------
    RemoteError
        When it cannot be read.
    """

    def __init__(
        self, path: Path, address: str, transport: Transport, cache: BlockCache | None = None
    ) -> None:
        self.path, self._transport = path, transport
        self._cache = cache or disk_cache()
        self._reads, self._lock = Reads(), threading.Lock()
        self._memory: OrderedDict[int, bytes] = OrderedDict()
        self._broken: RemoteError | None = None
        first, self.version = transport.read("", 0, BLOCK, None)
        self.size = self.version.size
        self._memory[0] = first
        # where two contents may have one version, nothing kept may be taken for what is there now
        is_firm = self.version.is_firm(transport.began)
        version = self.version if is_firm else secrets.token_hex(16)
        self._mark = f"{identity_of(address)} {version}"

    def open(self) -> BinaryIO:
        """Return a reader with a position of its own; closing it closes nothing else."""
        return io.BufferedReader(_Reader(self), BLOCK)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return bytes, fewer at the file's end.

        Raises
        ------
        TileError
            When they cannot be had.
        """
        with self._reads.one():
            try:
                return self.read(offset, size)
            except RemoteError as error:
                raise TileError(str(error)) from None

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes, fewer at the file's end.

        Raises
        ------
        RemoteError
            When they cannot be had.
        """
        stop = min(offset + size, self.size)
        if stop <= offset:
            return b""
        first, last = offset // BLOCK, (stop - 1) // BLOCK
        parts = []
        for begin in range(first, last + 1, _MOST_AT_ONCE):
            parts += self._blocks(begin, min(begin + _MOST_AT_ONCE - 1, last))
        return b"".join(parts)[offset - first * BLOCK : stop - first * BLOCK]

    def _blocks(self, first: int, last: int) -> list[bytes]:
        """Return blocks one after another; each stretch that is missing is asked for at once."""
        found = {index: self._known(index) for index in range(first, last + 1)}
        missing = [index for index, data in found.items() if data is None]
        while missing:
            end = next((k for k in range(1, len(missing)) if missing[k] != missing[k - 1] + 1), 0)
            run, missing = (missing[:end], missing[end:]) if end else (missing, [])
            data = self._ask(run[0] * BLOCK, min((run[-1] + 1) * BLOCK, self.size))
            for index in run:
                at = (index - run[0]) * BLOCK
                found[index] = data[at : at + BLOCK]
                self._keep(index, data[at : at + BLOCK], on_disk=True)
        return [data for data in found.values() if data is not None]

    def _ask(self, start: int, stop: int) -> bytes:
        if self._broken is not None:
            raise self._broken
        try:
            data, _ = self._transport.read("", start, stop, self.version)
        except ChangedError as error:
            self._broken = error  # for good: nothing of the next version is ever read
            raise
        return data

    def _known(self, index: int) -> bytes | None:
        with self._lock:
            if index in self._memory:
                self._memory.move_to_end(index)
                return self._memory[index]
        length = min(BLOCK, self.size - index * BLOCK)
        data = self._cache.get(self._block_name(index), length)
        if data is not None:
            self._keep(index, data, on_disk=False)
        return data

    def _keep(self, index: int, data: bytes, *, on_disk: bool) -> None:
        with self._lock:
            self._memory[index] = data
            while len(self._memory) > _IN_MEMORY:
                self._memory.popitem(last=False)
        if on_disk:
            self._cache.put(self._block_name(index), data)

    def _block_name(self, index: int) -> str:
        return hashlib.sha256(f"{self._mark} {index}".encode()).hexdigest()

    def close(self) -> None:
        """Wait for reads under way and let connections go."""
        if self._reads.end():
            self._transport.close()


class _Reader(io.RawIOBase):
    """A position in a remote file."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}
        self._position = max(0, begin[whence] + offset)
        return self._position

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        data = self._file.read(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
