"""The maps of a slide as layers: added once, updated in place, found again."""

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Layer, Shapes

from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.plugin.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.slide_layer import placement

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.slide import Slide

_MAP_KEY = "2dmamba map"
_OUTLINE_KEY = "2dmamba selected patch"
_OUTLINE_COLOUR = "#00d5ff"  # neither in H&E nor in the colour maps
_PATCH_SHARE = 0.35  # of the canvas, when the view goes to a patch


def show_map(
    viewer: "Viewer", slide: "Slide", grid_map: GridMap, display: DisplaySettings
) -> HeatmapLayer:
    """Show a map; a layer of the same slide and name takes it and keeps its own display."""
    identity = (slide.fingerprint, grid_map.name)
    for layer in map_layers(viewer, slide):
        if layer.metadata[_MAP_KEY] == identity:
            layer.grid_map = grid_map
            return layer
    name = grid_map.name[:1].upper() + grid_map.name[1:]
    layer = HeatmapLayer(grid_map, display, name=name, metadata={_MAP_KEY: identity})
    viewer.add_layer(layer)
    return layer


def map_layers(viewer: "Viewer", slide: "Slide") -> list[HeatmapLayer]:
    """Return the layers that show maps of ``slide``, the lowest first."""
    return [
        layer
        for layer in viewer.layers
        if isinstance(layer, HeatmapLayer)
        and layer.metadata.get(_MAP_KEY, ("",))[0] == slide.fingerprint
    ]


def caption_map(viewer: "Viewer", layer: HeatmapLayer | None) -> None:
    """Write beside the colour bar what it stands for; None takes the words away."""
    text = viewer.canvas.overlays.text
    text.visible = layer is not None and layer.visible
    if layer is not None:
        quantity = layer.grid_map.quantity or "score"
        units = {"raw": quantity, "percentile": "percentile", "log": f"log₁₀ of {quantity}"}
        text.text = f"{layer.name}\n{units[layer.display.transform]}"
        text.position = "top_right"
        text.font_size = 10
        text.box = True


def cell_at(layer: HeatmapLayer, position: tuple[float, ...]) -> tuple[int, int]:
    """Return the cell ``(row, col)`` of a map at a world position; may lie outside it."""
    row, col = np.round(layer.world_to_data(position)[-2:]).astype(int)
    return int(row), int(col)


def go_to_patch(viewer: "Viewer", slide: "Slide", x: int, y: int, size: int) -> None:
    """Move the view to a patch, given in level-0 pixels, and outline it."""
    unit = slide.mpp or 1.0
    outline_patch(viewer, slide, x, y, size)
    camera = viewer.scene.camera
    camera.zoom = _PATCH_SHARE * min(viewer.canvas.size) / (size * unit)
    half = (size - 1) / 2
    camera.center = (*camera.center[:-2], (y + half) * unit, (x + half) * unit)


def outline_patch(viewer: "Viewer", slide: "Slide", x: int, y: int, size: int) -> None:
    """Draw a square around one patch, in place of the last one."""
    corners = np.array([[0, 0], [0, 1], [1, 1], [1, 0]]) * size + (y, x) - 0.5
    layer = _outline(viewer)
    if layer is not None:
        viewer.layers.remove(layer)  # its edge width and place may belong to another slide
    active = viewer.layers.selection.active
    layer = Shapes(
        [corners],
        shape_type="rectangle",
        name="Selected patch",
        metadata={_OUTLINE_KEY: True},
        face_color="transparent",
        edge_color=_OUTLINE_COLOUR,
        edge_width=size / 40,
        axis_labels=("y", "x"),
        **placement(slide.mpp),
    )
    viewer.add_layer(layer)
    layer.editable = False
    viewer.layers.selection.active = active


def _outline(viewer: "Viewer") -> Layer | None:
    return next((layer for layer in viewer.layers if _OUTLINE_KEY in layer.metadata), None)
