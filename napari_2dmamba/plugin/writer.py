"""The writer napari calls to save drawn regions."""

from typing import Any

import numpy as np

from napari_2dmamba.errors import ExportError
from napari_2dmamba.plugin.region_layers import to_polygons
from napari_2dmamba.plugin.slide_layer import REGION_KEY, SLIDE_KEY
from napari_2dmamba.slide import Regions, write_regions


def write_region_layers(path: str, layers: list[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Write shapes layers as GeoJSON that QuPath and this plugin read.

    Areas of a layer that excludes are classified "Exclude", all others "Include". Coordinates
    are level-0 pixels of the slide the regions were drawn on.

    Raises
    ------
    ExportError
        When nothing is drawn, or the file cannot be written.
    """
    found: dict[str, list[Any]] = {"include": [], "exclude": []}
    offset = (0, 0)
    for corners_of_shapes, attributes, _ in layers:
        metadata = attributes.get("metadata", {})
        kinds = np.atleast_1d(attributes["shape_type"])
        areas = found[metadata.get(REGION_KEY, "include")]
        for corners, kind in zip(corners_of_shapes, kinds, strict=True):
            areas += to_polygons(corners, str(kind))
        if SLIDE_KEY in metadata:
            offset = metadata[SLIDE_KEY].bounds[:2]
    regions = Regions.of(found["include"], found["exclude"])
    if not regions:
        raise ExportError(f"{path} was not written, because no areas are drawn in these layers")
    try:
        write_regions(regions, path, offset=offset)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror or error}") from error
    return [path]
