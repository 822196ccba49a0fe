"""Every file a saved run can be exported to, under one name each."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_2dmamba.errors import ExportError
from napari_2dmamba.export.frame import describe
from napari_2dmamba.export.geojson import write_geojson
from napari_2dmamba.export.ome_tiff import PyramidSettings, write_map_tiff, write_overlay_tiff
from napari_2dmamba.export.patches import patch_scores
from napari_2dmamba.export.picture import PictureSettings, write_picture
from napari_2dmamba.export.record import write_record
from napari_2dmamba.export.run_folder import SavedRun, open_run
from napari_2dmamba.export.tables import write_table
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.slide import open_slide

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

FORMATS = ("png", "ome-tiff", "geojson", "csv", "parquet", "record")
"""Picture; pyramids of overlay and of raw map; tiles for QuPath; tables; what made it all."""


def export_run(
    run: SavedRun | str | Path,
    *,
    formats: Sequence[str] = FORMATS,
    out: str | Path | None = None,
    slide_path: str | Path | None = None,
    mpp: float | None = None,
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
    stem = Path(saved.record["slide"]["name"]).stem
    path = Path(slide_path) if slide_path is not None else saved.find_slide()
    # The run's own resolution, which the user may have given, and not what the file says
    with open_slide(path, mpp=saved.record["slide"]["mpp"]) as slide:
        saved.check_slide(slide)
        folder = Path(out) if out is not None else saved.folder / "exports"
        written = []
        for name in (name for name in FORMATS if name in formats):
            written += _write(
                name, saved, slide, folder, stem, mpp, on_progress=on_progress,
                should_stop=should_stop,
            )  # fmt: skip
    return written


def _write(
    name: str,
    run: SavedRun,
    slide: "Slide",
    folder: Path,
    stem: str,
    mpp: float | None,
    *,
    on_progress: ProgressCallback | None,
    should_stop: StopCallback | None,
) -> list[Path]:
    """Write one format; pictures and pyramids get one file per map."""
    if name == "png":
        settings = dataclasses.replace(PictureSettings(), mpp=mpp)
        intended_use = run.record["model"].get("intended_use")
        return [
            write_picture(
                slide,
                grid_map,
                folder / f"{stem}-{grid_map.name}.png",
                settings,
                display=run.display,
                title=f"{run.record['slide']['name']}\n{describe(run.prediction)}",
                notes=[intended_use] if intended_use else [],
                on_progress=on_progress,
                should_stop=should_stop,
            )
            for grid_map in run.maps
        ]
    if name == "ome-tiff":
        pyramid = dataclasses.replace(PyramidSettings(), mpp=mpp)
        files = []
        for grid_map in run.maps:
            start = folder / f"{stem}-{grid_map.name}"
            files.append(
                write_overlay_tiff(
                    slide, grid_map, start.with_name(start.name + "-overlay.ome.tif"), pyramid,
                    display=run.display, on_progress=on_progress, should_stop=should_stop,
                )
            )  # fmt: skip
            files.append(
                write_map_tiff(
                    grid_map, start.with_name(start.name + ".ome.tif"), pyramid, slide=slide,
                    on_progress=on_progress,
                should_stop=should_stop,
                )
            )  # fmt: skip
        return files
    if name == "record":
        return [write_record(run.record, folder / f"{stem}-record.json")]
    scores = patch_scores(
        run.grid.coords,
        run.grid.patch_size_level0,
        run.prediction,
        tissue_fraction=run.grid.tissue_fraction,
        mpp=run.grid.slide_mpp,
        maps=[grid_map for grid_map in run.maps if grid_map.name != "attention"],
    )
    if name == "geojson":
        file = folder / f"{stem}-patches.geojson"
        return [write_geojson(scores, file, bounds=slide.bounds, slide_id=slide.fingerprint)]
    return [write_table(scores, folder / f"{stem}-patches.{name}")]
