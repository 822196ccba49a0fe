"""Tissue and patches on the slide, before anything is run."""

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils import DirectLabelColormap

from napari_2dmamba.plugin.slide_layer import placement

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.slide import PatchGrid, Slide, TissueMask

TISSUE_LAYER, PATCH_LAYER = "Tissue", "Patches"

_TISSUE_COLOURS = DirectLabelColormap(
    color_dict={None: "transparent", 0: "transparent", 1: "#00a050"}
)
_PATCH_COLOURS = DirectLabelColormap(
    color_dict={None: "transparent", 0: "transparent", 1: "#1a66cc", 2: "#7fb4ff"}
)
_PREVIEW_KEY = "2dmamba preview"


def show_tissue(viewer: "Viewer", slide: "Slide", tissue: "TissueMask | None") -> None:
    """Outline the tissue; None takes the layer away."""
    if tissue is None:
        _remove(viewer, TISSUE_LAYER)
        return
    size = tissue.downsample
    _show(
        viewer, TISSUE_LAYER, tissue.mask.astype(np.uint8), size, slide,
        colormap=_TISSUE_COLOURS, opacity=0.9, contour=2,
    )  # fmt: skip


def show_patches(viewer: "Viewer", slide: "Slide", grid: "PatchGrid | None") -> None:
    """Tint the patches in the two colours of a chessboard; None takes the layer away.

    One pixel per patch, so that 100 000 patches cost no more than a thumbnail.
    """
    if grid is None:
        _remove(viewer, PATCH_LAYER)
        return
    cells = np.zeros(grid.canvas, np.uint8)
    rows, cols = grid.cells.T
    cells[rows, cols] = 1 + (rows + cols) % 2
    _show(
        viewer, PATCH_LAYER, cells, grid.patch_size_level0, slide,
        colormap=_PATCH_COLOURS, opacity=0.25, contour=0,
    )  # fmt: skip


def _show(
    viewer: "Viewer", name: str, labels: np.ndarray, size: float, slide: "Slide", **look: Any
) -> None:
    unit = slide.mpp or 1.0
    place = {
        "scale": (size * unit, size * unit),
        "translate": ((size - 1) / 2 * unit, (size - 1) / 2 * unit),
        "units": placement(slide.mpp)["units"],
    }
    layer = _find(viewer, name)
    if layer is None:
        contour = look.pop("contour")
        layer = Labels(labels, name=name, axis_labels=("y", "x"), **place, **look)
        layer.contour = contour
        layer.editable = False
        layer.metadata[_PREVIEW_KEY] = name
        selected = list(viewer.layers.selection)
        viewer.add_layer(layer)
        if selected:  # a preview is no reason to change what the user works on
            viewer.layers.selection = set(selected)
        return
    layer.data = labels
    for attribute, value in place.items():
        setattr(layer, attribute, value)


def _find(viewer: "Viewer", name: str) -> Labels | None:
    for layer in viewer.layers:
        if isinstance(layer, Labels) and layer.metadata.get(_PREVIEW_KEY) == name:
            return layer
    return None


def _remove(viewer: "Viewer", name: str) -> None:
    layer = _find(viewer, name)
    if layer is not None:
        viewer.layers.remove(layer)
