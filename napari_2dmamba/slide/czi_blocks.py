"""The list of stored blocks of a CZI, checked here: libCZI crashes where a block's sizes lie.

Segments, directory and blocks as Zeiss publishes them in "ZEISS ZISRAW (CZI) file format".
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.slide.backend import TileError

MOST_BLOCKS, LARGEST_BLOCK = 2**21, 2**26
"""Blocks of one file; stored pixels of one block."""
_WIDE_ENOUGH = 32
"""Stored pixels from which rounding cannot hide a block's factor."""
_SEGMENT = 32
"""Bytes of a segment's own header."""
_DIRECTORY_AT, _ENTRIES_AT = 84, 128
_ENTRY, _DIMENSION = struct.Struct("<2siqii6xi"), struct.Struct("<4siifi")
_SIZES, _DATA_AT = struct.Struct("<iiq"), 256


@dataclass
class CziBlocks:
    """Where blocks lie on the canvas and in the file.

    Attributes
    ----------
    places
        ``(N, 4)`` int64: x, y, width, height on the canvas, in level-0 pixels.
    stored
        ``(N, 2)`` int64: width and height as stored.
    positions
        ``(N,)`` int64: of each block's segment in the file.
    """

    file: BinaryIO
    length: int
    places: NDArray[np.int64]
    stored: NDArray[np.int64]
    positions: NDArray[np.int64]

    def __post_init__(self) -> None:
        self._sound = np.zeros(len(self.positions), bool)

    @property
    def factors(self) -> list[int]:
        """Level-0 pixels per stored pixel of each level, finest first."""
        wide = self.stored[:, 0] >= _WIDE_ENOUGH
        ratio = np.rint(self.places[wide, 2] / self.stored[wide, 0]).astype(np.int64)
        return sorted({1, *(int(one) for one in np.unique(ratio) if one > 0)})

    def require_sound(self, x: int, y: int, width: int, height: int) -> None:
        """Check the blocks that touch a rectangle of the canvas, each of them once.

        Raises
        ------
        TileError
            When what a block says of itself cannot be.
        """
        left, top, across, along = self.places.T
        touched = (left < x + width) & (left + across > x) & (top < y + height) & (top + along > y)
        for index in np.flatnonzero(touched & ~self._sound):
            self._require(int(index))
            self._sound[index] = True

    def _require(self, index: int) -> None:
        position = int(self.positions[index])
        self.file.seek(position)
        data = self.file.read(_SEGMENT + _SIZES.size + _ENTRY.size + 64 * _DIMENSION.size)
        metadata, attachment, size = _SIZES.unpack_from(data, _SEGMENT)
        place, stored, _, entry = _entry(data, _SEGMENT + _SIZES.size)
        start = position + _SEGMENT + max(_DATA_AT, _SIZES.size + entry)
        sizes_fit = min(metadata, attachment, size) >= 0 and (
            start + metadata + attachment + size <= self.length
        )
        same = place == tuple(self.places[index]) and stored == tuple(self.stored[index])
        if not data.startswith(b"ZISRAWSUBBLOCK") or not sizes_fit or not same:
            raise TileError("a stored block contradicts the file's directory")


def read_blocks(path: Path) -> CziBlocks:
    """Read the directory of a CZI; the file stays open, for the blocks.

    Raises
    ------
    ValueError, struct.error, OSError
        When it is damaged.
    """
    file = path.open("rb")
    try:
        length = file.seek(0, 2)
        file.seek(0)
        position = int.from_bytes(file.read(_DIRECTORY_AT + 8)[_DIRECTORY_AT:], "little")
        if not 0 < position < length:
            raise ValueError("no directory")
        file.seek(position)
        data = file.read(min(length - position, _SEGMENT + _ENTRIES_AT + 256 * MOST_BLOCKS))
        if not data.startswith(b"ZISRAWDIRECTORY"):
            raise ValueError("no directory")
        count = int.from_bytes(data[_SEGMENT : _SEGMENT + 4], "little")
        at = _SEGMENT + _ENTRIES_AT
        if not 0 < count <= min(MOST_BLOCKS, len(data) // _ENTRY.size):
            raise ValueError(f"{count} blocks")
        places, stored, positions = [], [], []
        for _ in range(count):
            place, size, where, entry = _entry(data, at)
            at += entry
            if min(size) < 1 or size[0] * size[1] > LARGEST_BLOCK or not 0 < where < length:
                raise ValueError(f"a block of {size[0]} x {size[1]} pixels")
            places.append(place)
            stored.append(size)
            positions.append(where)
    except BaseException:
        file.close()
        raise
    return CziBlocks(
        file, length, *(np.asarray(one, np.int64) for one in (places, stored, positions))
    )


def _entry(data: bytes, at: int) -> tuple[tuple[int, int, int, int], tuple[int, int], int, int]:
    """Return place, stored size, position in the file, and the entry's own length in bytes."""
    schema, _, position, _, _, dimensions = _ENTRY.unpack_from(data, at)
    if schema != b"DV" or not 2 <= dimensions <= 64:
        raise ValueError("an entry of an unknown kind")
    found = {}
    for index in range(dimensions):
        name, start, size, _, stored = _DIMENSION.unpack_from(
            data, at + _ENTRY.size + index * _DIMENSION.size
        )
        found[name[:1]] = (start, size, stored or size)
    (x, width, stored_width), (y, height, stored_height) = found[b"X"], found[b"Y"]
    if min(width, height) < 1:
        raise ValueError("a block without size")
    length = _ENTRY.size + dimensions * _DIMENSION.size
    return (x, y, width, height), (stored_width, stored_height), position, length
