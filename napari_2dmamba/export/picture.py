"""A PNG of the slide with the map over it."""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import Cancelled
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.frame import Frame
from napari_2dmamba.export.raster import OverlayPainter, raster_at
from napari_2dmamba.settings import ProgressCallback, StopCallback, setting

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

MOST_PIXELS = 200e6
_TILE = 1024
_STRIP_BYTES = 2**25


@dataclass(frozen=True)
class PictureSettings:
    """What an exported picture shows."""

    mpp: float | None = setting(
        None,
        "Resolution of the picture; left empty, its longest side gets 2400 pixels.",
        label="Resolution",
        unit="µm/px",
        minimum=0.01,
    )
    contour: float | None = setting(
        None,
        "Outline patches at or above this percentile; left empty, no line is drawn.",
        label="Outline above",
        unit="%",
        minimum=0.0,
        maximum=100.0,
    )
    lines: bool = setting(
        True,
        "On maps of a patch, outline the patch, and in greens the fewest patches that hold 50, 90 "
        "and 99 % of the map.",
        label="Lines of a patch's map",
    )
    bars: bool = setting(True, "Add title, colour bar and scale bar around the picture.")


def write_picture(
    slide: "Slide",
    grid_map: GridMap,
    path: str | os.PathLike[str],
    settings: PictureSettings | None = None,
    *,
    display: DisplaySettings | None = None,
    region: tuple[int, int, int, int] | None = None,
    title: str = "",
    notes: Sequence[str] = (),
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Path:
    """Write the slide with the map over it as PNG, in strips: memory does not grow with it.

    Parameters
    ----------
    slide, grid_map
        What is shown.
    path
        Ends in ``.png``.
    settings, display
        How; defaults when absent.
    region
        ``(x, y, width, height)`` in level-0 pixels; None for the whole slide.
    title, notes
        Lines above (separated by newlines, the first in bold) and below the picture.
    on_progress, should_stop
        Called between strips.

    Raises
    ------
    ExportError
        When the picture would be too large, or cannot be written.
    Cancelled
        When ``should_stop`` says so; no file is left.
    """
    settings = settings or PictureSettings()
    display = display or DisplaySettings()
    raster = raster_at(slide, settings.mpp, region, most_pixels=MOST_PIXELS)
    if settings.lines and grid_map.queries and not grid_map.signed:
        held = "the fewest patches that hold 50, 90 and 99 % of the map"
        notes = [f"Blue: the patch asked about. Dark to light green: {held}.", *notes]
    frame = Frame(
        raster.width,
        raster.height,
        pixel_size=raster.pixel_size,
        unit="px" if raster.slide_mpp is None else "µm",
        grid_map=grid_map,
        display=display,
        title=title,
        notes=notes,
    )
    painter = OverlayPainter(
        slide,
        grid_map,
        display,
        raster,
        contour=settings.contour,
        lines=settings.lines,
        line_width=max(1, frame.font_size // 10),
    )

    def strips() -> Iterator[NDArray[np.uint8]]:
        rows = min(_TILE, max(64, _STRIP_BYTES // (3 * raster.width)))
        total = -(-raster.height // rows)
        for index, top in enumerate(range(0, raster.height, rows)):
            if should_stop is not None and should_stop():
                raise Cancelled(f"{path} was not written")
            bottom = min(top + rows, raster.height)
            lefts = range(0, raster.width, _TILE)
            boxes = [(left, top, min(left + _TILE, raster.width), bottom) for left in lefts]
            yield np.hstack([painter(box) for box in boxes])
            if on_progress is not None:
                on_progress(index + 1, total, "Drawing the picture")

    with atomic_write(path) as part:
        if settings.bars:
            write_png(part, frame.around(strips()), *frame.size)
        else:
            write_png(part, strips(), raster.width, raster.height)
    return Path(path)


def write_png(path: Path, strips: Iterable[NDArray[np.uint8]], width: int, height: int) -> None:
    """Write an RGB PNG from strips of rows; image libraries would need all of it in memory.

    Follows the PNG specification (W3C, third edition): filter type 2 on every row, where each
    byte is the difference to the one above; on tissue the fastest compression then is within
    3 % of the best.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    packer = zlib.compressobj(1)
    above = np.zeros((1, 3 * width), dtype=np.uint8)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)))
        for strip in strips:
            if not len(strip):
                continue
            rows = strip.reshape(len(strip), 3 * width)
            filtered = np.full((len(rows), 1 + 3 * width), 2, dtype=np.uint8)
            np.subtract(rows, np.concatenate([above, rows[:-1]]), out=filtered[:, 1:])
            above = rows[-1:]
            if data := packer.compress(filtered.tobytes()):
                file.write(chunk(b"IDAT", data))
        file.write(chunk(b"IDAT", packer.flush()) + chunk(b"IEND", b""))
