"""The writer napari calls to save drawn regions."""

from typing import Any

import numpy as np
import pandas as pd

from napari_2dmamba.errors import ExportError
from napari_2dmamba.plugin.layers.region_layers import regions_of_shapes
from napari_2dmamba.plugin.layers.slide_layer import REGION_KEY, SLIDE_KEY
from napari_2dmamba.plugin.session.layer_marks import SLIDE_ID
from napari_2dmamba.slide import Regions, write_regions


def write_region_layers(path: str, layers: list[tuple[Any, dict[str, Any], str]]) -> list[str]:
    """Write shapes layers as GeoJSON that QuPath and this plugin read.

    With names, classes, colours and holes. What has no class is classified "Exclude" where its
    layer excludes, otherwise "Include"; notes get none. Coordinates are level-0 pixels of the
    slide the regions were drawn on.

    Raises
    ------
    ExportError
        When nothing is drawn, the layers are of several slides, or the file cannot be written.
    """
    found = []
    offset = (0, 0)
    slides = {
        attributes["metadata"][SLIDE_ID]
        for _, attributes, _ in layers
        if SLIDE_ID in attributes.get("metadata", {})
    }
    if len(slides) > 1:
        raise ExportError(
            f"{path} was not written, because these layers lie on {len(slides)} slides; select "
            "those of one slide and save them, then the others"
        )
    for corners_of_shapes, attributes, _ in layers:
        metadata = attributes.get("metadata", {})
        kinds = [str(kind) for kind in np.atleast_1d(attributes["shape_type"])]
        features = attributes.get("features")
        if isinstance(features, dict):
            features = pd.DataFrame(features)
        drawn = regions_of_shapes(
            corners_of_shapes, kinds, features, metadata, metadata.get(REGION_KEY, "include")
        )
        found += [region for region, _ in drawn]
        if SLIDE_KEY in metadata:
            offset = metadata[SLIDE_KEY].bounds[:2]
    regions = Regions(tuple(found))
    if not regions:
        raise ExportError(f"{path} was not written, because no areas are drawn in these layers")
    try:
        write_regions(regions, path, offset=offset)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror or error}") from error
    return [path]
