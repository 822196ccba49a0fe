"""Open a slide, read its pixels, find its tissue and lay the patch grid."""

from napari_2dmamba.slide.grid import GridSettings, PatchGrid, make_grid
from napari_2dmamba.slide.region_files import read_regions, write_regions
from napari_2dmamba.slide.regions import Region, Regions
from napari_2dmamba.slide.slide import Slide, open_slide
from napari_2dmamba.slide.tile_cache import set_cache_size
from napari_2dmamba.slide.tissue import TissueMask, TissueSettings, detect_tissue

__all__ = [
    "GridSettings",
    "PatchGrid",
    "Region",
    "Regions",
    "Slide",
    "TissueMask",
    "TissueSettings",
    "detect_tissue",
    "make_grid",
    "open_slide",
    "read_regions",
    "set_cache_size",
    "write_regions",
]
