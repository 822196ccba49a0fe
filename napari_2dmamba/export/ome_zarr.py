"""Overlay and raw map as OME-Zarr images (NGFF 0.4), written chunk by chunk.

Version 0.4, with Zarr 2, is what most programs read today. Chunks without tissue are not stored:
white, or NaN, is what an array holds where nothing was written. Scale and translation place the
centre of each pixel in µm, with the centre of the slide's first level-0 pixel at zero, as viewers
place the slide itself; on a slide without µm per pixel both count in level-0 pixels.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.atomic_files import atomic_folder
from napari_2dmamba.errors import Cancelled, ExportError
from napari_2dmamba.explain.display import DisplaySettings, DisplayTransform
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.ome_tiff import (
    PyramidSettings,
    about_map,
    finest_raster,
    level_rasters,
)
from napari_2dmamba.export.raster import Box, MapPainter, OverlayPainter, Raster
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

STORE_FILES = (".zgroup", ".zattrs", "zarr.json")
"""Files by which a folder is known as a Zarr group."""

_COLOURS = ("FF0000", "00FF00", "0000FF")


def write_overlay_zarr(
    slide: "Slide",
    grid_map: GridMap,
    path: str | os.PathLike[str],
    settings: PyramidSettings | None = None,
    *,
    display: DisplaySettings | None = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Path:
    """Write the slide with the coloured map over it: red, green and blue, without loss.

    Parameters
    ----------
    slide, grid_map
        What is shown.
    path
        A folder that ends in ``.ome.zarr``; an older store there is replaced.
    settings, display
        How; of the settings the compression is for TIFF alone.
    on_progress, should_stop
        Called for every chunk.

    Raises
    ------
    ExportError
        As `ome_tiff.write_overlay_tiff`; also when there is another folder of that name, or zarr
        is not installed.
    Cancelled
        When ``should_stop`` says so; nothing is left.
    """
    display = display or DisplaySettings()
    settings = settings or PyramidSettings()
    rasters = level_rasters(finest_raster(slide, settings, None))
    shown = DisplayTransform(grid_map, display)
    notes = about_map(grid_map, rasters[0].region[:2], slide) | {
        "colours": f"{display.colormap_for(grid_map)}, {shown.caption()}",
        "opacity": f"{display.opacity:g}",
    }
    levels = [(one, _planes(OverlayPainter(slide, grid_map, display, one))) for one in rasters]
    channels = [
        {
            "label": label, "color": colour, "active": True, "family": "linear",
            "coefficient": 1, "inverted": False,
            "window": {"min": 0, "max": 255, "start": 0, "end": 255},
        }
        for label, colour in zip(("red", "green", "blue"), _COLOURS, strict=True)
    ]  # fmt: skip
    more = {"omero": {"channels": channels, "rdefs": {"model": "color"}}}
    name = f"{slide.name}: {grid_map.name}"
    _write(Path(path), levels, np.dtype(np.uint8), 255, settings, name, notes, more,
           on_progress, should_stop)  # fmt: skip
    return Path(path)


def write_map_zarr(
    grid_map: GridMap,
    path: str | os.PathLike[str],
    settings: PyramidSettings | None = None,
    *,
    slide: "Slide",
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Path:
    """Write the raw values over the whole slide as float32, NaN where there are none.

    Parameters and errors are those of `write_overlay_zarr`.
    """
    settings = settings or PyramidSettings()
    rasters = level_rasters(finest_raster(slide, settings, None))
    levels: list[tuple[Raster, Callable[[Box], NDArray[Any]]]] = [
        (one, MapPainter(grid_map, one)) for one in rasters
    ]
    notes = about_map(grid_map, rasters[0].region[:2], slide)
    _write(Path(path), levels, np.dtype(np.float32), float("nan"), settings, grid_map.name, notes,
           {}, on_progress, should_stop)  # fmt: skip
    return Path(path)


def _planes(paint: Callable[[Box], NDArray[np.uint8]]) -> Callable[[Box], NDArray[Any]]:
    return lambda box: np.moveaxis(paint(box), -1, 0)


def _write(
    path: Path,
    levels: Sequence[tuple[Raster, Callable[[Box], NDArray[Any]]]],
    dtype: np.dtype[Any],
    empty: float,
    settings: PyramidSettings,
    name: str,
    notes: dict[str, str],
    more: dict[str, Any],
    on_progress: ProgressCallback | None,
    should_stop: StopCallback | None,
) -> None:
    try:
        import zarr
    except ImportError:
        raise ExportError(
            'writing OME-Zarr needs zarr: run pip install "napari-2dmamba[zarr]"'
        ) from None
    tile = settings.tile_size
    boxes = [_boxes(raster, tile) for raster, _ in levels]
    total, done = sum(len(of_level) for of_level in boxes), 0
    leading = (3,) if dtype == np.uint8 else ()
    with atomic_folder(path, STORE_FILES) as part:
        group = zarr.open_group(str(part), mode="w", zarr_format=2)
        for number, (raster, paint) in enumerate(levels):
            array = group.create_array(
                str(number),
                shape=(*leading, raster.height, raster.width),
                chunks=(*leading, tile, tile),
                dtype=dtype,
                fill_value=empty,
                compressors=_compressor(),
                chunk_key_encoding={"name": "v2", "separator": "/"},
            )
            for left, top, right, bottom in boxes[number]:
                if should_stop is not None and should_stop():
                    raise Cancelled(f"{path} was not written")
                array[..., top:bottom, left:right] = paint((left, top, right, bottom))
                done += 1
                if on_progress is not None:
                    on_progress(done, total, "Writing the pyramid")
        group.attrs.update(
            {
                "multiscales": [_multiscales([raster for raster, _ in levels], leading, name)],
                **more,
                "napari-2dmamba": notes,
            }
        )


def _boxes(raster: Raster, tile: int) -> list[Box]:
    corners = itertools.product(range(0, raster.height, tile), range(0, raster.width, tile))
    return [
        (left, top, min(left + tile, raster.width), min(top + tile, raster.height))
        for top, left in corners
    ]


def _compressor() -> Any:
    import numcodecs

    return numcodecs.Blosc("zstd", clevel=5, shuffle=numcodecs.Blosc.SHUFFLE)


def _multiscales(rasters: Sequence[Raster], leading: tuple[int, ...], name: str) -> dict[str, Any]:
    """Return the metadata of NGFF 0.4; see https://ngff.openmicroscopy.org/0.4."""
    unit = {} if rasters[0].slide_mpp is None else {"unit": "micrometer"}
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}] if leading else []
    axes += [{"name": axis, "type": "space", **unit} for axis in "yx"]
    datasets = []
    for number, raster in enumerate(rasters):
        um = raster.slide_mpp or 1.0
        step_x, step_y = raster.step
        scale = [step_y * um, step_x * um]
        place = [
            (corner + (step - 1) / 2) * um
            for corner, step in ((raster.region[1], step_y), (raster.region[0], step_x))
        ]
        datasets.append(
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0] * len(leading) + scale},
                    {"type": "translation", "translation": [0.0] * len(leading) + place},
                ],
            }
        )
    return {"version": "0.4", "name": name, "axes": axes, "datasets": datasets}
