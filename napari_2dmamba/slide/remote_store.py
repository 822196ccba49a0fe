"""A Zarr store below an address: read only, one request for each chunk, no listing.

Not zarr's own fsspec store, for that tells no version of a file from another.
"""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import zarr.abc.store as stores
from zarr.core.buffer import Buffer, BufferPrototype

from napari_2dmamba.slide.remote import (
    AbsentError,
    ChangedError,
    RemoteError,
    Transport,
    Version,
    changed,
)

_LARGEST = 2**30
"""Bytes of one stored object: a chunk, or a shard read in parts."""
_AT_ONCE = 2**29
_MOST_VERSIONS = 2**16
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
_LARGEST_METADATA = 2**25


class RemoteStore(stores.Store):
    """Objects below an address; each stays of the version in which it was first seen.

    An object that was written after the image was opened is refused too, where the server states
    when objects were written: it belongs to another image than those read before.
    """

    supports_writes = supports_deletes = supports_partial_writes = supports_listing = False

    def __init__(self, transport: Transport, name: str) -> None:
        super().__init__(read_only=True)
        self._transport, self._name = transport, name
        self._versions: dict[str, Version] = {}

    def __eq__(self, value: object) -> bool:
        return self is value

    def __hash__(self) -> int:
        return id(self)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: stores.ByteRequest | None = None,
    ) -> Buffer | None:
        """Return an object or a part of it, None where there is none."""
        import asyncio

        data = await asyncio.to_thread(self._get, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    def _get(self, key: str, asked: stores.ByteRequest | None) -> bytes | None:
        if ".." in key.split("/"):
            raise RemoteError("a name leads out of the image; do not trust it")
        is_metadata = key.rpartition("/")[2] in _METADATA
        most = _LARGEST_METADATA if is_metadata else _AT_ONCE
        try:
            if isinstance(asked, stores.RangeByteRequest):
                return self._part(key, asked.start, asked.end, most)
            if isinstance(asked, stores.OffsetByteRequest):
                return self._part(key, asked.offset, asked.offset + most, most)
            if isinstance(asked, stores.SuffixByteRequest):
                size = self._version(key).size
                return self._part(key, max(0, size - asked.suffix), size, most)
            return self._part(key, 0, most, most)
        except AbsentError:
            return None

    def _part(self, key: str, start: int, stop: int, most: int) -> bytes:
        if stop - start > most:
            raise RemoteError("a part of the image is too large to be read at once")
        if stop <= start:
            return b""
        data, version = self._transport.read(key, start, stop, self._versions.get(key))
        if version.size > (most if stop - start == most else _LARGEST):
            raise RemoteError("a part of the image is too large to be read at once")
        if version.is_newer_than(self._transport.began):
            raise ChangedError(changed(self._name))
        if len(self._versions) < _MOST_VERSIONS:
            self._versions.setdefault(key, version)
        return data

    def _version(self, key: str) -> Version:
        if key not in self._versions:
            self._part(key, 0, 1, _AT_ONCE)
        return self._versions[key]

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, stores.ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return several parts."""
        return [await self.get(key, prototype, asked) for key, asked in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        import asyncio

        try:
            await asyncio.to_thread(self._part, key, 0, 1, _AT_ONCE)
        except AbsentError:
            return False
        return True

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: nothing is written."""
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        """Refuse: nothing is written."""
        raise NotImplementedError

    async def set_partial_values(self, key_start_values: Any) -> None:
        """Refuse: nothing is written."""
        raise NotImplementedError

    async def list(self) -> AsyncIterator[str]:
        """Yield nothing: servers do not list."""
        for key in tuple[str, ...]():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield nothing."""
        for key in tuple[str, ...]():
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield nothing."""
        for key in tuple[str, ...]():
            yield key

    def close(self) -> None:
        """Let connections go."""
        super().close()
        self._transport.close()
