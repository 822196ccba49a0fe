"""What is mended in a pyramid of tiles after tifffile wrote it: repeated tiles, and the chain."""

import struct
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import tifffile


class Repeats:
    """Leaves out tiles whose pixels were written before, and points to those in the end.

    A tile that is left out would read as zeros, black on an overlay and no gap in a map. Tiles of
    all levels are compared: they must be of one size, type and compression.
    """

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}
        self._owners: list[int] = []

    def left_out(self, tiles: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any] | None]:
        """Yield the tiles of a level to write; None for one that is there already."""
        for place, tile in enumerate(tiles):
            number = len(self._owners)
            mark = blake2b(np.ascontiguousarray(tile).data, digest_size=16).digest()
            owner = self._first.setdefault(mark, number)
            if place == 0:  # of which tifffile reads the type
                owner = number
            self._owners.append(owner)
            yield tile if owner == number else None

    def point(self, path: Path) -> None:
        """Make the tiles that were left out of a file show the ones like them."""
        import tifffile

        with tifffile.TiffFile(path, mode="r+") as file:
            pages = level_pages(file)
            offsets = np.concatenate([np.array(page.dataoffsets, np.int64) for page in pages])
            counts = np.concatenate([np.array(page.databytecounts, np.int64) for page in pages])
            owners = np.array(self._owners)
            offsets, counts = offsets[owners], counts[owners]
            first = 0
            for page in pages:
                part = slice(first, first + len(page.dataoffsets))
                first = part.stop
                page.tags["TileOffsets"].overwrite(offsets[part].tolist())
                page.tags["TileByteCounts"].overwrite(counts[part].tolist())


def level_pages(file: "tifffile.TiffFile") -> "list[tifffile.TiffPage]":
    """Return the directories of the levels of the first image, finest first."""
    return [level.pages[0] for level in file.series[0].levels]  # type: ignore[misc]


def chain_levels(path: Path) -> None:
    """Let the SubIFDs of the first image also follow it in the file's chain of directories."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        levels = level_pages(file)
        order, is_big = file.byteorder, file.is_bigtiff
        places = [(page.offset, len(page.tags)) for page in levels]
    # a directory: number of entries, the entries, place of the next directory
    head, entry, word = (8, 20, "Q") if is_big else (2, 12, "I")
    with path.open("r+b") as file:
        for (offset, entries), (following, _) in zip(places, [*places[1:], (0, 0)], strict=True):
            file.seek(offset + head + entry * entries)
            file.write(struct.pack(order + word, following))
