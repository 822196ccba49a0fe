"""Regions drawn to ask what the model says without them."""

from typing import TYPE_CHECKING

import numpy as np
import shapely
from napari.layers import Shapes
from numpy.typing import NDArray

from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.plugin.region_layers import to_polygons
from napari_2dmamba.plugin.slide_layer import placement

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.slide import Slide

REGION_LAYER = "What if"
_COLOUR = "#ff7f0e"


def places(viewer: "Viewer") -> list[str]:
    """Return the names of the shapes layers a user may have drawn in."""
    return [one.name for one in viewer.layers if isinstance(one, Shapes) and one.editable]


def start_drawing(viewer: "Viewer", slide: "Slide") -> None:
    """Let the user draw a polygon in a layer of its own, made when there is none."""
    layer = next((one for one in viewer.layers if one.name == REGION_LAYER), None)
    if layer is None:
        layer = Shapes(
            ndim=2,
            name=REGION_LAYER,
            face_color="transparent",
            edge_color=_COLOUR,
            edge_width=max(slide.dimensions) / 400,
            axis_labels=("y", "x"),
            **placement(slide.mpp),
        )
        viewer.add_layer(layer)
    viewer.layers.selection.active = layer
    layer.mode = "add_polygon"


def patches_drawn(layer: Shapes, subject: Subject, slide: "Slide") -> NDArray[np.int64]:
    """Return the patches whose centre lies in a shape of a layer, wherever the layer is placed."""
    unit = slide.mpp or 1.0
    areas = []
    for corners, kind in zip(layer.data, layer.shape_type, strict=True):
        world = np.array([layer.data_to_world(corner)[-2:] for corner in corners])
        areas += to_polygons(world / unit, kind)
    centres = subject.bag.coords + subject.bag.patch_size_level0 / 2
    inside = shapely.contains_xy(shapely.union_all(areas), centres[:, 0], centres[:, 1])
    return np.flatnonzero(inside)
