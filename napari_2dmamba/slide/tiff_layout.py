"""How a TIFF lays out the levels of a slide: pages, tiles, strips, planes."""

import math
import os
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide.backend import Level, NotForThisBackend

_MOST_LEVELS = 64
_STRIP_ROWS, _STRIP_BYTES = 64, 8 * 2**20
_LARGEST_SEGMENT = 2**30
"""Strips or tiles that decode to more bytes are not decoded."""
_MOST_SEGMENTS = 2**24
"""Strips or tiles of one page: their list alone takes 256 MB."""
_MOST_OF_A_TILE = 2**24
"""Pixels of a tile that may cover more than four times the picture."""
_UNCOMPRESSED, _LZW = 1, 5
_GLANCE = 2**24
"""Bytes of a strip that is decoded only to see how long it is."""
_MACRO = 8
"""Bit of the kind of page by which Aperio marks pictures of the whole glass."""


@dataclass
class StoredPlane:
    """A page, and how the tiles we read are made of its segments (TIFF tiles or strips)."""

    page: Any
    columns: int
    rows_per_tile: int
    segments_per_tile: int
    segments: int
    segment_bytes: int


@dataclass(frozen=True)
class PlainLevel:
    """A level that lies uncompressed in one piece.

    Attributes
    ----------
    starts
        Position in the file of each plane ``(height, width, samples)``.
    row_bytes, pixel_bytes
        Of one plane.
    dtype
        With the file's byte order.
    samples
        In each plane, side by side.
    """

    starts: tuple[int, ...]
    row_bytes: int
    pixel_bytes: int
    dtype: np.dtype[Any]
    samples: int


@dataclass
class SpilledLevel:
    """A level of huge segments, decoded to a temporary file when it is first read."""

    planes: list[StoredPlane]
    stored: Level
    array: NDArray[Any] | None = None
    error: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class JpegTiles:
    """Baseline JPEG tiles of one level, and how they are decoded."""

    columns: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    tables: bytes | None
    stored_space: Any
    rgb_space: Any


def plain_jpeg(plane: StoredPlane) -> JpegTiles | None:
    """Return what decoding a level's tiles takes, or None where they are not plain JPEG."""
    page, keyframe = plane.page, plane.page.keyframe
    plain = (
        keyframe.is_tiled
        and int(keyframe.compression) == 7
        and int(keyframe.photometric) in (2, 6)
        and keyframe.planarconfig == 1
        and keyframe.samplesperpixel == 3
        and keyframe.bitspersample == 8
        and keyframe.jpegheader is None
    )
    if not plain:
        return None
    stored, rgb = tifffile.tifffile.jpeg_decode_colorspace(
        keyframe.photometric, keyframe.planarconfig, keyframe.extrasamples, keyframe.is_jfif
    )
    count = min(len(page.dataoffsets), len(page.databytecounts))
    offsets, sizes = tuple(page.dataoffsets[:count]), tuple(page.databytecounts[:count])
    return JpegTiles(plane.columns, offsets, sizes, page.jpegtables, stored, rgb)


def stored_plane(page: Any, name: str) -> StoredPlane:
    """Return a page with how it is cut, checked before any of it is read.

    Raises
    ------
    SlideError
        Where its directory lies.
    """
    keyframe = page.keyframe
    contiguous = keyframe.samplesperpixel if keyframe.planarconfig == 1 else 1
    pixel_bytes = contiguous * keyframe.dtype.itemsize
    if keyframe.is_tiled:
        if min(keyframe.tilewidth, keyframe.tilelength) < 1:
            raise SlideError(f"{name} is damaged: its tiles have no size; copy it again")
        columns = -(-keyframe.imagewidth // keyframe.tilewidth)
        rows = -(-keyframe.imagelength // keyframe.tilelength)
        size = keyframe.tilewidth * keyframe.tilelength * pixel_bytes
        plane = StoredPlane(page, columns, keyframe.tilelength, 1, rows * columns, size)
    else:
        per_strip = min(keyframe.rowsperstrip, keyframe.imagelength)
        if per_strip < 1:
            raise SlideError(f"{name} is damaged: its strips have no rows; copy it again")
        row_bytes = keyframe.imagewidth * pixel_bytes
        band = max(1, min(_STRIP_ROWS, _STRIP_BYTES // row_bytes) // per_strip)
        strips = -(-keyframe.imagelength // per_strip)
        plane = StoredPlane(page, 1, band * per_strip, band, strips, row_bytes * per_strip)
    listed = min(len(page.dataoffsets), len(page.databytecounts))
    needed = plane.segments * separate_samples(page)
    if needed > _MOST_SEGMENTS or listed < needed:
        raise SlideError(
            f"{name} is damaged: its {keyframe.imagewidth} x {keyframe.imagelength} pixels "
            f"would take {needed} tiles or strips, but it lists {listed}; copy it again"
        )
    picture = keyframe.imagewidth * keyframe.imagelength
    if keyframe.is_tiled and (
        keyframe.tilewidth * keyframe.tilelength > max(_MOST_OF_A_TILE, 4 * picture)
    ):
        raise SlideError(
            f"{name} is damaged: its tiles of {keyframe.tilewidth} x {keyframe.tilelength} "
            f"pixels are larger than its picture of {keyframe.imagewidth} x "
            f"{keyframe.imagelength}; copy it again"
        )
    if plane.segment_bytes > _LARGEST_SEGMENT:
        raise SlideError(
            f"{name} stores {keyframe.imagewidth} x {keyframe.imagelength} pixels "
            "in one piece that needs more than 1 GB to decode; convert it to a tiled pyramid"
        )
    return plane


def cut_short(path: Path) -> str:
    """Return the sentence about a file that ends too early."""
    return f"{path.name} is cut short: the file ends before its image does; copy it again"


def ends(page: Any) -> int:
    """Return the position in the file where the last tile or strip of a page ends."""
    count = min(len(page.dataoffsets), len(page.databytecounts))
    ends = np.add(page.dataoffsets[:count], page.databytecounts[:count], dtype=np.int64)
    return int(ends.max(initial=0))


def slide_series(tiff: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """Return the series of the slide itself, never label, macro or thumbnail."""
    candidates = [s for s in tiff.series if "X" in s.axes and "Y" in s.axes]
    if not candidates:
        raise NotForThisBackend("it holds no image")
    if tiff.is_svs:
        return candidates[0]

    def area(series: tifffile.TiffPageSeries) -> int:
        sizes = dict(zip(series.axes, series.shape, strict=True))
        return sizes["X"] * sizes["Y"]

    return max(candidates, key=area)


def pixels_of(series: tifffile.TiffPageSeries) -> int:
    """Return how many pixels a page of a level has."""
    return int(series.keyframe.imagewidth) * int(series.keyframe.imagelength)


def reduced_images(
    tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries
) -> tuple[list[tifffile.TiffPageSeries], tuple[str, ...]]:
    """Return pages marked as reduced that tifffile does not count to the pyramid.

    It counts those whose sides shrink alike; sides padded to whole tiles do not. Other layouts
    say themselves which pages are levels.

    Returns
    -------
    tuple
        Them, and a sentence about each that holds pixels of another kind.
    """
    full = series.levels[0].keyframe
    if tiff.is_svs or tiff.is_ome or series.axes != full.axes:
        return [], ()
    known = {level.keyframe.offset for level in series.levels}
    listed = [page for other in tiff.series for page in other.pages]
    found, remarks = [], []
    for page in (*tiff.pages[:_MOST_LEVELS], *listed[:_MOST_LEVELS]):
        if not isinstance(page, tifffile.TiffPage) or page.offset in known:
            continue
        known.add(page.offset)
        is_level = (
            page.is_reduced
            and not page.is_mask
            and not int(page.subfiletype) & _MACRO
            and 0 < page.imagewidth <= full.imagewidth
            and 0 < page.imagelength <= full.imagelength
        )
        if not is_level:
            continue
        if (
            page.axes == full.axes
            and int(page.photometric) == int(full.photometric)
            and page.samplesperpixel == full.samplesperpixel
        ):
            found.append(tifffile.TiffPageSeries([page]))
        else:
            remarks.append(_of_another_kind(page))
    return found, tuple(remarks)


def _of_another_kind(page: tifffile.TiffPage) -> str:
    size = f"{page.imagewidth} x {page.imagelength} pixels"
    return f"a level of the file ({size}) is left out: its pixels are of another kind"


def stores_more(page: Any) -> bool:
    """Whether a page stores more than a picture of its size takes: then its size may be a lie.

    Tiles or lines of another width would be put together in a wrong order.
    """
    key = page.keyframe
    listed = min(len(page.dataoffsets), len(page.databytecounts))
    used = sum(count > 0 for count in page.databytecounts[:listed])
    if key.is_tiled:
        width, rows = key.tilewidth, key.tilelength
    else:
        width, rows = key.imagewidth, min(key.rowsperstrip, key.imagelength)
    if min(width, rows) < 1 or not listed:
        return False
    segments = -(-key.imagelength // rows) * -(-key.imagewidth // width) * separate_samples(page)
    if used > segments:
        return True
    samples = 1 if key.planarconfig == 2 else key.samplesperpixel
    first = rows * -(-width * samples * key.bitspersample // 8)
    if int(key.compression) == _UNCOMPRESSED:
        return bool(page.databytecounts[0] > first)
    if int(key.compression) == _LZW and page.databytecounts[0] < _GLANCE:
        file = page.parent.filehandle
        file.seek(page.dataoffsets[0])
        return len(imagecodecs.lzw_decode(file.read(page.databytecounts[0]))) > first
    return False


def empty_segments(planes: list[StoredPlane]) -> tuple[int, int]:
    """Return how many tiles or strips hold no data, and how many there are."""
    counts = [np.asarray(p.page.databytecounts, dtype=np.int64) for p in planes]
    return sum(int((c == 0).sum()) for c in counts), sum(c.size for c in counts)


def rgb_of_ycbcr(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return full-range BT.601 YCbCr, as JPEG's, in RGB."""
    y, cb, cr = np.moveaxis(pixels.astype(np.float32), -1, 0)
    cb, cr = cb - 128, cr - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.rint(rgb).clip(0, 255).astype(np.uint8)


def choose_planes(lead: dict[str, int]) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """Keep all channels; of stacks and series, take the first time and the middle focus."""
    words = {"T": "time point", "Z": "focal plane"}
    chosen: list[Any] = []
    remarks = []
    for axis, size in lead.items():
        if axis == "C":
            chosen.append(slice(None))
            continue
        index = size // 2 if axis == "Z" else 0
        chosen.append(index)
        if size > 1:
            remarks.append(f"{words.get(axis, 'image')} {index + 1} of {size} is shown")
    return tuple(chosen), tuple(remarks)


def on_disk(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array in a temporary file that goes when the array does."""
    size = math.prod(shape) * dtype.itemsize
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here, a crash later
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "w+", 0, shape)
    except OSError as error:
        raise SlideError(
            f"the folder for temporary files cannot hold {size / 1e6:,.0f} MB of the slide "
            f"({error.strerror or error}); free some space there, or let TMPDIR name another folder"
        ) from error


def separate_samples(page: Any) -> int:
    """Return how many planes of samples a page stores one after the other."""
    keyframe = page.keyframe
    return keyframe.samplesperpixel if keyframe.planarconfig == 2 else 1
