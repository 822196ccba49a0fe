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
    from napari_2dmamba.plugin.session import Session, SlideState

REGION_LAYER = "What if"
_KEY = "2dmamba what if"
_COLOUR = "#ff7f0e"


def places(session: "Session", slide: "SlideState | None") -> dict[str, Shapes]:
    """Return the shapes layers of a slide that a user may have drawn in, by name."""
    if slide is None:
        return {}
    layers = session.layers_of(slide)
    return {one.name: one for one in layers if isinstance(one, Shapes) and one.editable}


def start_drawing(session: "Session", slide: "SlideState") -> str:
    """Let the user draw a polygon in a layer of its own, made when there is none.

    Returns
    -------
    The name of that layer.
    """
    layer = next((one for one in session.layers_of(slide) if _KEY in one.metadata), None)
    if layer is None:
        layer = Shapes(
            ndim=2,
            name=REGION_LAYER,
            face_color="transparent",
            edge_color=_COLOUR,
            edge_width=max(slide.slide.dimensions) / 400,
            axis_labels=("y", "x"),
            metadata={_KEY: True},
            **placement(slide.slide.mpp),
        )
        session.add_layer(slide, layer)
    session.viewer.layers.selection.active = layer
    layer.mode = "add_polygon"
    return str(layer.name)


def patches_drawn(layer: Shapes, subject: Subject, slide: "SlideState") -> NDArray[np.int64]:
    """Return the patches whose centre lies in a shape of a layer, wherever the layer is placed."""
    unit = slide.unit
    areas = []
    for corners, kind in zip(layer.data, layer.shape_type, strict=True):
        world = np.array([layer.data_to_world(corner)[-2:] for corner in corners])
        areas += to_polygons(world / unit, kind)
    centres = subject.bag.coords + subject.bag.patch_size_level0 / 2
    inside = shapely.contains_xy(shapely.union_all(areas), centres[:, 0], centres[:, 1])
    return np.flatnonzero(inside)
