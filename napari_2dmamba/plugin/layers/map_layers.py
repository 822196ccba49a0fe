"""What goes with the maps on the canvas: words beside the colour bar, and a marked patch."""

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Shapes

from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.layers.line_width import LineWidths
from napari_2dmamba.plugin.layers.slide_layer import placement

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.plugin.session import Session, SlideState

_OUTLINE_KEY = "2dmamba selected patch"
_OUTLINE_COLOUR = "#00d5ff"  # neither in H&E nor in the colour maps
_OUTLINE_PIXELS = 3.0
_PATCH_SHARE = 0.35  # of the canvas, when the view goes to a patch


def caption_map(viewer: "Viewer", layer: HeatmapLayer | None) -> None:
    """Write beside the colour bar what it stands for; None takes the words away."""
    text = viewer.canvas.overlays.text
    text.visible = layer is not None and layer.visible
    if layer is not None:
        quantity = layer.grid_map.quantity or "score"
        units = {"raw": quantity, "percentile": "percentile", "log": f"log₁₀ of {quantity}"}
        name = layer.grid_map.name
        text.text = f"{name[:1].upper()}{name[1:]}\n{units[layer.display.transform]}"
        text.position = "top_right"
        text.font_size = 10
        text.box = True


def cell_at(layer: HeatmapLayer, position: tuple[float, ...]) -> tuple[int, int]:
    """Return the cell ``(row, col)`` of a map at a world position; may lie outside it.

    Counted on the map; `slide.grid.place_of` gives the row and column of the slide.
    """
    row, col = np.round(layer.world_to_data(position)[-2:]).astype(int)
    return int(row), int(col)


def go_to_patch(
    session: "Session", slide: "SlideState", corner: tuple[int, int], size: int
) -> None:
    """Move the view to a patch of the current slide, and outline it."""
    x, y = corner
    outline_patch(session, slide, corner, size)
    camera, canvas = session.viewer.scene.camera, session.viewer.canvas
    camera.zoom = _PATCH_SHARE * min(canvas.size) / (size * slide.unit)
    half = (size - 1) / 2
    camera.center = (*camera.center[:-2], (y + half) * slide.unit, (x + half) * slide.unit)


def outline_patch(
    session: "Session", slide: "SlideState", corner: tuple[int, int], size: int
) -> None:
    """Draw a square around one patch, in place of the last one."""
    x, y = corner
    corners = np.array([[0, 0], [0, 1], [1, 1], [1, 0]]) * size + (y, x) - 0.5
    for layer in session.layers_of(slide):
        if _OUTLINE_KEY in layer.metadata:
            session.viewer.layers.remove(layer)  # its edge may be too thick or thin here
    layer = Shapes(
        [corners],
        shape_type="rectangle",
        name="Selected patch",
        metadata={_OUTLINE_KEY: True},
        face_color="transparent",
        edge_color=_OUTLINE_COLOUR,
        opacity=1.0,
        axis_labels=("y", "x"),
        **placement(slide.slide.mpp),
    )
    session.add_layer(slide, layer, of_run=True)
    LineWidths.of(session.viewer).follow(layer, _OUTLINE_PIXELS)
    layer.editable = False
