"""What a tile classifier says of a slide, as files: a table, a map per class, and outlines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide
    from napari_2dmamba.tiles.on_slide import TileMaps


def write_tile_maps(found: TileMaps, folder: str | Path, slide: Slide) -> list[Path]:
    """Write ``probabilities.csv``, ``classes.geojson`` for QuPath, and a map per class.

    Raises
    ------
    ExportError
        When a file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.csv

    from napari_2dmamba.atomic_files import atomic_write
    from napari_2dmamba.export import write_map_tiff
    from napari_2dmamba.export.labels import write_outlines

    folder = Path(folder)
    first = found.maps[0]
    size = first.patch_size_level0
    columns = {
        "x_level0_px": found.coords[:, 0],
        "y_level0_px": found.coords[:, 1],
        "size_level0_px": np.full(len(found.coords), size),
        "class": np.array(found.classes)[found.probabilities.argmax(1)],
    }
    columns |= {f"p({name})": found.probabilities[:, k] for k, name in enumerate(found.classes)}
    table = folder / "probabilities.csv"
    with atomic_write(table) as part:
        pyarrow.csv.write_csv(pa.table(columns), part)
    outlines = write_outlines(
        found.answers(), folder / "classes.geojson", found.classes, slide, origin=first.origin,
        step=size,
    )  # fmt: skip
    maps = [
        write_map_tiff(one, folder / f"{number:02d}-{_plain(one.name)}.ome.tif")
        for number, one in enumerate(found.maps, start=1)
    ]
    return [table, *outlines, *maps]


def _plain(name: str) -> str:
    """Return a name that every file system takes."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "class"
