"""Every file a saved run can be exported to, under one name each."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_2dmamba.atomic_files import shortened
from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import display_for
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.map_regions import MapThreshold, regions_above
from napari_2dmamba.export.frame import describe
from napari_2dmamba.export.geojson import class_colour, write_geojson
from napari_2dmamba.export.ome_tiff import PyramidSettings, write_map_tiff, write_overlay_tiff
from napari_2dmamba.export.patches import patch_scores
from napari_2dmamba.export.picture import PictureSettings, write_picture
from napari_2dmamba.export.record import write_record
from napari_2dmamba.export.run_folder import SavedRun, open_run
from napari_2dmamba.export.tables import write_table
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.slide import open_slide, write_regions

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

FORMATS = ("png", "ome-tiff", "geojson", "csv", "parquet", "record")
"""Picture; pyramids of overlay and of raw map; tiles for QuPath; tables; what made it all."""

_LONGEST_STEM = 150
"""Bytes of the slide's name in the names of files; that of a map and a suffix follow."""

_DRAWN = {"png", "ome-tiff"}
"""Formats that need the slide; the others are written also where it is gone."""


@dataclass(frozen=True)
class RegionsAbove:
    """Which map to cut into regions, and where; see `map_regions.regions_above`.

    Attributes
    ----------
    threshold
        A value, or a percentile of the patches.
    map_name
        The map; None for the first, which is the attention.
    class_name, colour, least_patches
        Of the regions.
    """

    threshold: MapThreshold
    map_name: str | None = None
    class_name: str = ""
    colour: tuple[int, int, int] | None = None
    least_patches: int = 1


def export_run(
    run: SavedRun | str | Path,
    *,
    formats: Sequence[str] = FORMATS,
    out: str | Path | None = None,
    slide_path: str | Path | None = None,
    mpp: float | None = None,
    full_paths: bool = False,
    above: "RegionsAbove | None" = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> list[Path]:
    """Write a saved run in the formats asked for, and return the files.

    Parameters
    ----------
    run
        A saved run, or its folder.
    formats
        Names from `FORMATS`.
    out
        Folder for the files; None for ``exports`` in the folder of the run.
    slide_path
        The slide, where it has moved.
    mpp
        µm per pixel of the picture and of the overlay pyramid; None for their own defaults.
    full_paths
        Let the record say where slide, features and checkpoint lie on this machine.
    above
        Write what of a map lies above a threshold as regions, too.

    Raises
    ------
    ExportError
        When run or slide cannot be found or do not belong together, or nothing can be written.
    Cancelled
        When ``should_stop`` says so; files written before stay.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ExportError(f"there is no format {unknown[0]!r}; choose from {', '.join(FORMATS)}")
    saved = run if isinstance(run, SavedRun) else open_run(run)
    folder = Path(out) if out is not None else saved.folder / "exports"
    stem = shortened(Path(saved.record.slide.name).stem.removesuffix(".ome"), _LONGEST_STEM)
    written: list[Path] = []
    if not _DRAWN.isdisjoint(formats):
        path = Path(slide_path) if slide_path is not None else saved.find_slide()
        # the run's own resolution, which the user may have given, and not what the file says
        with open_slide(path, mpp=saved.record.slide.mpp) as slide:
            saved.check_slide(slide)
            for part, grid_map in file_names(saved.maps):
                start = folder / f"{stem}-{part}"
                if "png" in formats:
                    written.append(
                        _write_png(saved, slide, grid_map, start, mpp, on_progress, should_stop)
                    )
                if "ome-tiff" in formats:
                    written += _write_pyramids(
                        saved, slide, grid_map, start, mpp, on_progress, should_stop
                    )
    scores = patch_scores(
        saved.grid.coords,
        saved.grid.patch_size_level0,
        saved.prediction,
        tissue_fraction=saved.grid.tissue_fraction,
        mpp=saved.grid.slide_mpp,
        maps=saved.maps,
    )
    if "geojson" in formats:
        file = folder / f"{stem}-patches.geojson"
        about = saved.record.slide
        written.append(
            write_geojson(scores, file, bounds=about.bounds_level0_px, slide_id=about.fingerprint)
        )
    for kind in ("csv", "parquet"):
        if kind in formats:
            written.append(write_table(scores, folder / f"{stem}-patches.{kind}"))
    if above is not None:
        written.append(_write_regions_above(saved, folder, stem, above))
    if "record" in formats:
        written.append(
            write_record(saved.record, folder / f"{stem}-record.json", full_paths=full_paths)
        )
        if saved.regions:
            corner = (saved.record.slide.bounds_level0_px or (0, 0))[:2]
            file = folder / f"{stem}-regions.geojson"
            write_regions(saved.regions, file, offset=corner)
            written.append(file)
    return written


def _write_regions_above(saved: SavedRun, folder: Path, stem: str, above: RegionsAbove) -> Path:
    named = list(file_names(saved.maps))
    wanted = above.map_name
    found = [(part, one) for part, one in named if wanted in (None, part, one.name)]
    if not found:
        raise ExportError(
            f"the run {saved.folder.name} has no map {wanted!r}; it has "
            f"{', '.join(one.name for _, one in named)}"
        )
    part, grid_map = found[0]
    regions = regions_above(
        grid_map,
        above.threshold,
        class_name=above.class_name,
        colour=above.colour or class_colour(above.class_name or grid_map.name),
        dimensions=saved.record.slide.dimensions_level0_px,
        least_patches=above.least_patches,
    )
    path = folder / f"{stem}-{part}-above.geojson"
    write_regions(regions, path, offset=(saved.record.slide.bounds_level0_px or (0, 0))[:2])
    return path


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


def _write_png(
    run: SavedRun,
    slide: "Slide",
    grid_map: GridMap,
    start: Path,
    mpp: float | None,
    on_progress: ProgressCallback | None,
    should_stop: StopCallback | None,
) -> Path:
    intended_use = run.record.model.intended_use
    return write_picture(
        slide,
        grid_map,
        start.with_name(f"{start.name}.png"),
        PictureSettings(mpp=mpp),
        display=display_for(grid_map, run.display),
        title=f"{run.record.slide.name}\n{describe(run.prediction)}",
        notes=[intended_use] if intended_use else [],
        on_progress=on_progress,
        should_stop=should_stop,
    )


def _write_pyramids(
    run: SavedRun,
    slide: "Slide",
    grid_map: GridMap,
    start: Path,
    mpp: float | None,
    on_progress: ProgressCallback | None,
    should_stop: StopCallback | None,
) -> list[Path]:
    """Write the coloured overlay and the raw values, both over the whole slide."""
    settings = PyramidSettings(mpp=mpp)
    overlay = write_overlay_tiff(
        slide,
        grid_map,
        start.with_name(f"{start.name}-overlay.ome.tif"),
        settings,
        display=display_for(grid_map, run.display),
        on_progress=on_progress,
        should_stop=should_stop,
    )
    values = write_map_tiff(
        grid_map,
        start.with_name(f"{start.name}.ome.tif"),
        settings,
        slide=slide,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    return [overlay, values]
