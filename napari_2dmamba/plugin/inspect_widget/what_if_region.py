"""Regions drawn to ask what the model says without them."""

from typing import TYPE_CHECKING

import numpy as np
import shapely
from napari.layers import Shapes
from numpy.typing import NDArray
from shapely import Polygon

from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.plugin.layers.line_width import LineWidths
from napari_2dmamba.plugin.layers.region_layers import annotations
from napari_2dmamba.plugin.layers.region_shapes import to_polygons
from napari_2dmamba.plugin.layers.region_words import region_names
from napari_2dmamba.plugin.layers.slide_layer import REGION_KEY, placement

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState

REGION_LAYER = "What if"
_KEY = "2dmamba what if"
_COLOUR = "#ff7f0e"
_PIXELS = 2.5


def places(session: "Session", slide: "SlideState | None") -> dict[str, tuple[Polygon, ...]]:
    """Return the areas that a user has drawn on a slide, by name, in level-0 pixels.

    Each region by itself, then what was drawn to ask, then whole shapes layers of the user's own.
    Layers that we draw to show something are none.
    """
    if slide is None:
        return {}
    regions = [one.region for one in annotations(session, slide)]
    found = {
        name: region.polygons
        for name, region in zip(region_names(regions), regions, strict=True)
        if region.polygons
    }
    for layer in session.layers_of(slide):
        if not isinstance(layer, Shapes) or REGION_KEY in layer.metadata:
            continue
        if _KEY in layer.metadata or session.is_users_own(layer):
            found[_free(layer.name, found)] = _areas(layer, slide)
    return found


def _free(name: str, taken: dict[str, tuple[Polygon, ...]]) -> str:
    return name if name not in taken else f"{name} (layer)"


def drawing_layer(session: "Session", slide: "SlideState") -> Shapes | None:
    """Return the layer that is drawn in to ask, or None while there is none."""
    drawn = (one for one in session.layers_of(slide) if _KEY in one.metadata)
    return next((one for one in drawn if isinstance(one, Shapes)), None)


def start_drawing(session: "Session", slide: "SlideState") -> str:
    """Let the user draw a polygon in a layer of its own, made when there is none.

    Returns
    -------
    The name of that layer.
    """
    layer = drawing_layer(session, slide)
    if layer is None:
        layer = Shapes(
            ndim=2,
            name=REGION_LAYER,
            face_color="transparent",
            edge_color=_COLOUR,
            axis_labels=("y", "x"),
            metadata={_KEY: True},
            **placement(slide.slide.mpp),
        )
        session.add_layer(slide, layer)
        LineWidths.of(session.viewer).follow(layer, _PIXELS)
    session.viewer.layers.selection.active = layer
    layer.mode = "add_polygon"
    return str(layer.name)


def _areas(layer: Shapes, slide: "SlideState") -> tuple[Polygon, ...]:
    """Return what the shapes of a layer cover, wherever the layer is placed."""
    areas = []
    for corners, kind in zip(layer.data, layer.shape_type, strict=True):
        world = np.array([layer.data_to_world(corner)[-2:] for corner in corners])
        areas += to_polygons(world / slide.unit, kind)
    return tuple(areas)


def patches_in(areas: tuple[Polygon, ...], subject: Subject) -> NDArray[np.int64]:
    """Return the patches whose centre lies in one of the areas."""
    centres = subject.bag.coords + subject.bag.patch_size_level0 / 2
    inside = shapely.contains_xy(shapely.union_all(areas), centres[:, 0], centres[:, 1])
    return np.flatnonzero(inside)
