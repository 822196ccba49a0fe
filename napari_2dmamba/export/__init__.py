"""Writers of pictures, pyramids, polygons, tables and records, and runs that open again."""

from napari_2dmamba.export.frame import add_bars, describe
from napari_2dmamba.export.geojson import write_geojson
from napari_2dmamba.export.ome_tiff import PyramidSettings, write_map_tiff, write_overlay_tiff
from napari_2dmamba.export.patches import PatchScores, patch_scores
from napari_2dmamba.export.picture import PictureSettings, write_picture
from napari_2dmamba.export.record import make_record, read_record, write_record
from napari_2dmamba.export.run_folder import SavedRun, open_run, save_run
from napari_2dmamba.export.tables import write_table

__all__ = [
    "PatchScores",
    "PictureSettings",
    "PyramidSettings",
    "SavedRun",
    "add_bars",
    "describe",
    "make_record",
    "open_run",
    "patch_scores",
    "read_record",
    "save_run",
    "write_geojson",
    "write_map_tiff",
    "write_overlay_tiff",
    "write_picture",
    "write_record",
    "write_table",
]
