"""What exported files are called: by the slide, and by the map they are of."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from napari_2dmamba.atomic_files import shortened
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.saved_run import SavedRun

_LONGEST_STEM = 150
"""Bytes of the slide's name in the names of files; that of a map and a suffix follow."""


def file_stem(saved: SavedRun) -> str:
    """Return what the names of exported files begin with: that of the slide, without suffixes."""
    return shortened(Path(saved.record.slide.name).stem.removesuffix(".ome"), _LONGEST_STEM)


def file_names(maps: Sequence[GridMap]) -> Iterator[tuple[str, GridMap]]:
    """Yield every map with the part of a file name that stands for it, each another."""
    used: set[str] = set()
    for grid_map in maps:
        plain = re.sub(r"[^\w.+=]+", "-", grid_map.name).strip(".-") or "map"
        name, number = plain, 1
        while name.casefold() in used:
            number += 1
            name = f"{plain}-{number}"
        used.add(name.casefold())
        yield name, grid_map
