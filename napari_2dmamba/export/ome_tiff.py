"""OME-TIFF pyramids of the overlay and of the raw map, made tile by tile.

The coarser levels are SubIFDs of the first, as OME-TIFF wants it (tifffile, Bio-Formats, QuPath),
and follow it in the chain of the file's own directories as well, as levels of generic tiled
pyramids do (OpenSlide, libvips): the same directories, found on two ways. Of tiles with the same
pixels, such as those without tissue, one is stored and the others point to it.

Where a picture lies: ``PhysicalSizeX/Y`` is the size of its pixels in µm, ``PositionX/Y`` of
its plane the place of its top left corner (not the centre of its first pixel) in µm from the
slide's top left corner. The same offset in level-0 pixels, and what the values mean, stands in
a MapAnnotation of namespace ``napari-2dmamba/map``. On a slide that states no µm per pixel all
of this counts in level-0 pixels and says so in its units.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import Cancelled
from napari_2dmamba.explain.display import DisplaySettings, DisplayTransform
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.pyramid_tiff import Repeats, chain_levels
from napari_2dmamba.export.raster import Box, MapPainter, OverlayPainter, Raster, raster_at
from napari_2dmamba.settings import ProgressCallback, StopCallback, setting

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

_SMALLEST_LEVEL = 512
_BUFFER_BYTES = 32 * 2**20
_BIGTIFF_FROM = 2**31
_MOST_PIXELS = 5e10
_JPEG_QUALITY = 90

Painter = Callable[[Box], NDArray[Any]]


@dataclass(frozen=True)
class PyramidSettings:
    """How a pyramid is written."""

    mpp: float | None = setting(
        None,
        "Resolution of the finest level; left empty, a quarter of the slide's own.",
        label="Resolution",
        unit="µm/px",
        minimum=0.01,
    )
    compression: str = setting(
        "jpeg",
        "Of overlays: jpeg is as good for the eye and several times smaller, zlib keeps every "
        "pixel exact. Raw maps are always exact.",
        choices=("jpeg", "zlib"),
    )
    tile_size: int = setting(
        512, "Side of a tile; a multiple of 16.", unit="px", minimum=16, advanced=True
    )


def write_overlay_tiff(
    slide: "Slide",
    grid_map: GridMap,
    path: str | os.PathLike[str],
    settings: PyramidSettings | None = None,
    *,
    display: DisplaySettings | None = None,
    region: tuple[int, int, int, int] | None = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Path:
    """Write the slide with the coloured map over it as an RGB pyramid.

    Parameters
    ----------
    slide, grid_map
        What is shown.
    path
        Ends in ``.ome.tif``.
    settings, display
        How; defaults when absent.
    region
        ``(x, y, width, height)`` in level-0 pixels; None for the whole slide.
    on_progress, should_stop
        Called for every tile.

    Raises
    ------
    ExportError
        When the slide has no natural colours, more than 5e10 pixels were asked for, or the
        file cannot be written.
    Cancelled
        When ``should_stop`` says so; no file is left.
    """
    settings = settings or PyramidSettings()
    display = display or DisplaySettings()
    rasters = level_rasters(finest_raster(slide, settings, region))
    shown = DisplayTransform(grid_map, display)
    notes = about_map(grid_map, rasters[0].region[:2], slide) | {
        "colours": f"{display.colormap_for(grid_map)}, {shown.caption()}",
        "opacity": f"{display.opacity:g}",
    }
    _write(
        Path(path),
        [(raster, OverlayPainter(slide, grid_map, display, raster)) for raster in rasters],
        np.uint8,
        settings,
        name=f"{slide.name}: {grid_map.name}",
        notes=notes,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    return Path(path)


def write_map_tiff(
    grid_map: GridMap,
    path: str | os.PathLike[str],
    settings: PyramidSettings | None = None,
    *,
    slide: "Slide | None" = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Path:
    """Write the raw values as float32, NaN where there are none.

    Parameters
    ----------
    grid_map
        What is written.
    path
        Ends in ``.ome.tif``.
    settings
        Resolution and tiles; values are always compressed without loss.
    slide
        None writes one pixel per patch. With a slide, the map is laid over all of it at
        ``settings.mpp``, every pixel with the value of the patch its centre lies in.
    on_progress, should_stop
        Called for every tile.

    Raises
    ------
    ExportError
        When the file cannot be written.
    Cancelled
        When ``should_stop`` says so; no file is left.
    """
    settings = settings or PyramidSettings()
    if slide is None:
        rows, cols = grid_map.values.shape
        side = grid_map.patch_size_level0
        region = (*grid_map.origin, cols * side, rows * side)
        rasters = [Raster(region, cols, rows, grid_map.mpp)]
    else:
        rasters = level_rasters(finest_raster(slide, settings, None))
    _write(
        Path(path),
        [(raster, MapPainter(grid_map, raster)) for raster in rasters],
        np.float32,
        replace(settings, compression="zlib"),
        name=grid_map.name,
        notes=about_map(grid_map, rasters[0].region[:2], slide),
        on_progress=on_progress,
        should_stop=should_stop,
    )
    return Path(path)


def finest_raster(
    slide: "Slide", settings: PyramidSettings, region: tuple[int, int, int, int] | None
) -> Raster:
    """Return the raster of the finest level of a pyramid over a slide, or over a region of it."""
    quarter = 4.0 * (slide.mpp or 1.0)
    mpp = quarter if settings.mpp is None else settings.mpp
    return raster_at(slide, mpp, region, most_pixels=_MOST_PIXELS)


def level_rasters(finest: Raster) -> list[Raster]:
    """Return rasters of the same region, each half as fine, until one fits a tile."""
    longest = max(finest.width, finest.height)
    count = max(0, math.ceil(math.log2(longest / _SMALLEST_LEVEL)))
    return [finest, *(finest.coarser(2**k) for k in range(1, count + 1))]


def about_map(grid_map: GridMap, corner: tuple[int, ...], slide: "Slide | None") -> dict[str, str]:
    """Return what the values of a map mean and where it lies, as texts."""
    notes = {
        "map": grid_map.name,
        "meaning": grid_map.meaning,
        "corner_x_level0_px": str(corner[0]),
        "corner_y_level0_px": str(corner[1]),
        "patch_size_level0_px": str(grid_map.patch_size_level0),
        "slide_mpp": "unknown" if grid_map.mpp is None else repr(float(grid_map.mpp)),
    }
    if slide is not None:
        notes |= {"slide": slide.name, "slide_fingerprint": slide.fingerprint}
    return notes


def _write(
    path: Path,
    levels: Sequence[tuple[Raster, Painter]],
    dtype: DTypeLike,
    settings: PyramidSettings,
    *,
    name: str,
    notes: dict[str, str],
    on_progress: ProgressCallback | None,
    should_stop: StopCallback | None,
) -> None:
    """Write rasters of one region, finest first, as one image with SubIFDs."""
    import tifffile

    tile = settings.tile_size
    total = sum(-(-raster.height // tile) * -(-raster.width // tile) for raster, _ in levels)
    done = 0

    def tiles(raster: Raster, paint: Painter) -> Iterator[NDArray[Any]]:
        nonlocal done
        for top in range(0, raster.height, tile):
            for left in range(0, raster.width, tile):
                if should_stop is not None and should_stop():
                    raise Cancelled(f"{path} was not written")
                right, bottom = min(left + tile, raster.width), min(top + tile, raster.height)
                pixels = paint((left, top, right, bottom))
                beyond = [(0, tile - pixels.shape[0]), (0, tile - pixels.shape[1])]
                padded = np.pad(pixels, beyond + [(0, 0)] * (pixels.ndim - 2), mode="edge")
                done += 1
                if on_progress is not None:
                    on_progress(done, total, "Writing the pyramid")
                yield padded

    finest = levels[0][0]
    samples = (3,) if np.dtype(dtype) == np.uint8 else ()
    unit = "pixel" if finest.slide_mpp is None else "µm"
    scale = finest.slide_mpp or 1.0
    metadata: dict[str, Any] = {
        "axes": "YXS" if samples else "YX",
        "Name": name,
        "PhysicalSizeX": finest.step[0] * scale,
        "PhysicalSizeXUnit": unit,
        "PhysicalSizeY": finest.step[1] * scale,
        "PhysicalSizeYUnit": unit,
        "Plane": {
            "PositionX": [finest.region[0] * scale],
            "PositionXUnit": [unit],
            "PositionY": [finest.region[1] * scale],
            "PositionYUnit": [unit],
        },
        "MapAnnotation": {"Namespace": "napari-2dmamba/map", **notes},
    }
    options: dict[str, Any] = {
        "dtype": np.dtype(dtype),
        "tile": (tile, tile),
        "photometric": "rgb" if samples else "minisblack",
        "compression": settings.compression,
        "maxworkers": 2,
        "buffersize": _BUFFER_BYTES,
    }
    if settings.compression == "zlib" and samples:
        options["predictor"] = True
    if settings.compression == "jpeg":
        # Cells differ in hue above all: halved colours would blur their edges
        options |= {"compressionargs": {"level": _JPEG_QUALITY}, "subsampling": (1, 1)}
    bytes_per_pixel = np.dtype(dtype).itemsize * (samples or (1,))[0]
    raw_bytes = bytes_per_pixel * sum(raster.width * raster.height for raster, _ in levels)
    once = Repeats()
    with atomic_write(path) as part:
        with tifffile.TiffWriter(part, ome=True, bigtiff=raw_bytes > _BIGTIFF_FROM) as writer:
            for index, (raster, paint) in enumerate(levels):
                more: dict[str, Any] = {"subfiletype": 1, "metadata": None}
                if index == 0:
                    more = {"subifds": len(levels) - 1, "metadata": metadata}
                if raster.slide_mpp is not None:  # for programs that do not read OME-XML
                    per_cm = tuple(1e4 / (step * raster.slide_mpp) for step in raster.step)
                    more |= {"resolution": per_cm, "resolutionunit": "CENTIMETER"}
                shape = (raster.height, raster.width, *samples)
                writer.write(once.left_out(tiles(raster, paint)), shape=shape, **options, **more)
        once.point(part)
        chain_levels(part)
