"""Every file a saved run can be exported to, under one name each."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from napari_2dmamba.errors import ExportError
from napari_2dmamba.settings import ProgressCallback, StopCallback

FORMATS = ("png", "ome-tiff", "geojson", "csv", "parquet", "record")
"""PNG picture; OME-TIFF pyramids of overlay and raw map; tiles for QuPath; tables; JSON."""


def export_run(
    folder: str | Path,
    *,
    formats: Sequence[str] = FORMATS,
    out: str | Path | None = None,
    slide_path: str | Path | None = None,
    mpp: float | None = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> list[Path]:
    """Write a saved run in the formats asked for, beside it or into ``out``.

    Parameters
    ----------
    folder
        Of a saved run.
    formats
        Names from `FORMATS`.
    slide_path
        The slide, where it has moved.
    mpp
        µm per pixel of pictures and overlays; None picks a size that fits a screen.

    Raises
    ------
    ExportError
        When run or slide cannot be found or do not belong together, or nothing can be written.
    """
    from napari_2dmamba.explain.grid_map import GridMap  # noqa: F401
    from napari_2dmamba.export.frame import describe
    from napari_2dmamba.export.geojson import write_geojson
    from napari_2dmamba.export.ome_tiff import write_map, write_overlay
    from napari_2dmamba.export.patches import patch_scores
    from napari_2dmamba.export.picture import PictureSettings, write_picture
    from napari_2dmamba.export.record import write_record
    from napari_2dmamba.export.run_folder import open_run
    from napari_2dmamba.export.tables import write_table
    from napari_2dmamba.slide import open_slide
