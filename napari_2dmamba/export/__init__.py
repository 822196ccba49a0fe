"""Writers of pictures, pyramids, polygons, tables and records, and runs that open again."""

from napari_2dmamba.export.frame import add_bars, describe
from napari_2dmamba.export.geojson import write_geojson
from napari_2dmamba.export.ome_tiff import PyramidSettings, write_map_tiff, write_overlay_tiff
from napari_2dmamba.export.patches import PatchScores, patch_scores
from napari_2dmamba.export.picture import PictureSettings, write_picture
from napari_2dmamba.export.record import RunRecord, read_record, write_record
from napari_2dmamba.export.record_of_run import make_record
from napari_2dmamba.export.run_folder import open_run, save_run
from napari_2dmamba.export.run_library import (
    RunSummary,
    list_all_runs,
    list_runs,
    move_to_bin,
    new_run_folder,
    rename_run,
    set_notes,
    slide_folder,
)
from napari_2dmamba.export.saved_run import SavedRun
from napari_2dmamba.export.tables import write_table

__all__ = [
    "PatchScores",
    "PictureSettings",
    "PyramidSettings",
    "RunRecord",
    "RunSummary",
    "SavedRun",
    "add_bars",
    "describe",
    "list_all_runs",
    "list_runs",
    "make_record",
    "move_to_bin",
    "new_run_folder",
    "open_run",
    "patch_scores",
    "read_record",
    "rename_run",
    "save_run",
    "set_notes",
    "slide_folder",
    "write_geojson",
    "write_map_tiff",
    "write_overlay_tiff",
    "write_picture",
    "write_record",
    "write_table",
]
