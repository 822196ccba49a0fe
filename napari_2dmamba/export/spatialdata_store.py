"""A run as a SpatialData store: what spatialdata, squidpy, LazySlide and napari-spatialdata open.

images/slide        a thumbnail of the slide, never its label or macro image
images/map-…        each map, one pixel per patch, NaN where there is no tissue
shapes/patches      a square per patch
shapes/regions      what the run was restricted to; only if it was
tables/table        features and scores of the patches (see `anndata_file`)

All lies in the coordinate system ``global``, in level-0 pixels, and in ``um``, in µm, where the
slide states µm per pixel. Needs the extra ``spatialdata``.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_2dmamba.atomic_files import atomic_folder
from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.anndata_file import patches_as_anndata
from napari_2dmamba.export.ome_zarr import STORE_FILES
from napari_2dmamba.export.patches import PatchScores
from napari_2dmamba.export.saved_run import SavedRun
from napari_2dmamba.features.file_facts import OWN_ATTRIBUTE

if TYPE_CHECKING:
    from napari_2dmamba.features.bag import FeatureBag
    from napari_2dmamba.slide import Slide

PATCHES, TABLE = "patches", "table"
_THUMBNAIL = 2000


def write_spatialdata(
    saved: SavedRun,
    scores: PatchScores,
    path: str | os.PathLike[str],
    *,
    slide: "Slide",
    features: "FeatureBag | None" = None,
) -> Path:
    """Write a run as a SpatialData store.

    Parameters
    ----------
    saved, scores
        The run, and its patches with their scores.
    path
        A folder that ends in ``.zarr``; an older store there is replaced.
    slide
        For the thumbnail.
    features
        Those of the run, where they are in memory.

    Raises
    ------
    ExportError
        When spatialdata is not installed, the features are not those of the run, there is another
        folder of that name, or it cannot be written.
    """
    try:
        import geopandas
        import shapely
        from spatialdata import SpatialData
        from spatialdata.models import ShapesModel, TableModel
    except ImportError:
        raise ExportError(
            'SpatialData needs spatialdata: run pip install "napari-2dmamba[spatialdata]"'
        ) from None
    mpp = saved.record.slide.mpp
    table = patches_as_anndata(saved, scores, slide=slide, features=features)
    about = json.loads(table.uns.pop(OWN_ATTRIBUTE))
    del table.uns["spatial"]  # the picture is an image of its own here
    table.obs["region"] = PATCHES
    table.obs["patch"] = np.arange(len(scores))
    x, y = scores.coords.T
    side = scores.patch_size_level0
    squares = geopandas.GeoDataFrame(geometry=shapely.box(x, y, x + side, y + side))
    places = _places((1.0, 1.0), (0.0, 0.0), mpp)
    shapes = {PATCHES: ShapesModel.parse(squares, transformations=places)}
    drawn = [one for one in saved.regions or () if one.role != "note"]
    if drawn:
        regions = geopandas.GeoDataFrame(
            {
                "role": [one.role for one in drawn],
                "name": [one.name for one in drawn],
                "classification": [one.classification for one in drawn],
            },
            geometry=[one.geometry for one in drawn],
        )
        shapes["regions"] = ShapesModel.parse(regions, transformations=places)
    images = {"slide": _image_of(slide, mpp)}
    for one in saved.maps:
        images[_free_name(one.name, images)] = _image_of_map(one, mpp)
    store = SpatialData(
        images=images,
        shapes=shapes,
        tables={
            TABLE: TableModel.parse(
                table, region=PATCHES, region_key="region", instance_key="patch"
            )
        },
        attrs={OWN_ATTRIBUTE: about},
    )
    with atomic_folder(path, STORE_FILES) as part:
        store.write(part, overwrite=True, update_sdata_path=False)
    return Path(path)


def _places(scale: tuple[float, float], corner: tuple[float, float], mpp: float | None) -> Any:
    """Return the ways from pixels of ``scale`` level-0 pixels to the coordinate systems."""
    from spatialdata.transformations import Scale, Sequence, Translation

    axes = ("x", "y")
    to_level0 = Sequence([Scale(list(scale), axes), Translation(list(corner), axes)])
    systems: dict[str, Any] = {"global": to_level0}
    if mpp is not None:
        systems["um"] = Sequence([to_level0, Scale([mpp, mpp], axes)])
    return systems


def _image_of(slide: "Slide", mpp: float | None) -> Any:
    from spatialdata.models import Image2DModel

    pixels = slide.thumbnail(_THUMBNAIL)
    scale = slide.dimensions[0] / pixels.shape[1], slide.dimensions[1] / pixels.shape[0]
    return Image2DModel.parse(
        np.moveaxis(pixels, -1, 0),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations=_places(scale, (0.0, 0.0), mpp),
    )


def _image_of_map(grid_map: GridMap, mpp: float | None) -> Any:
    from spatialdata.models import Image2DModel

    side = float(grid_map.patch_size_level0)
    x, y = grid_map.origin
    return Image2DModel.parse(
        grid_map.values[None],
        dims=("c", "y", "x"),
        c_coords=[grid_map.name],
        transformations=_places((side, side), (float(x), float(y)), mpp),
    )


def _free_name(name: str, taken: dict[str, Any]) -> str:
    """Return a name that SpatialData takes (letters, digits, dots, hyphens) and nobody has."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name)
    free = base = f"map-{plain.strip('-.') or 'unnamed'}"
    number = 1
    while free.casefold() in {one.casefold() for one in taken}:
        number += 1
        free = f"{base}-{number}"
    return free
