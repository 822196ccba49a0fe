"""Tissue and patches on the slide, before anything is run."""

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils import DirectLabelColormap

from napari_2dmamba.plugin.layers.slide_layer import placement

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState

TISSUE_LAYER, PATCH_LAYER = "Tissue", "Patches"

_TISSUE_COLOURS = DirectLabelColormap(
    color_dict={None: "transparent", 0: "transparent", 1: "#00a050"}
)
_PATCH_COLOURS = DirectLabelColormap(
    color_dict={None: "transparent", 0: "transparent", 1: "#1a66cc", 2: "#7fb4ff"}
)
_PREVIEW_KEY = "2dmamba preview"


def show_tissue(session: "Session", slide: "SlideState") -> None:
    """Outline the tissue where it is wanted and known, else take the layer away."""
    tissue = slide.tissue if slide.shows_tissue else None
    if tissue is None:
        _remove(session, slide, TISSUE_LAYER)
        return
    size = tissue.downsample
    _show(
        session, slide, TISSUE_LAYER, tissue.mask.astype(np.uint8), size,
        colormap=_TISSUE_COLOURS, opacity=0.9, contour=2,
    )  # fmt: skip


def show_patches(session: "Session", slide: "SlideState") -> None:
    """Tint the patches like a chessboard where it is wanted, else take the layer away.

    One pixel per patch, so that 100 000 patches cost no more than a thumbnail.
    """
    grid = slide.grid if slide.shows_patches else None
    if grid is None:
        _remove(session, slide, PATCH_LAYER)
        return
    cells = np.zeros(grid.canvas, np.uint8)
    rows, cols = grid.cells.T
    cells[rows, cols] = 1 + (rows + cols) % 2
    _show(
        session, slide, PATCH_LAYER, cells, grid.patch_size_level0,
        colormap=_PATCH_COLOURS, opacity=0.25, contour=0,
    )  # fmt: skip


def _show(
    session: "Session", slide: "SlideState", name: str, labels: np.ndarray, size: float, **look: Any
) -> None:
    unit = slide.unit
    place = {
        "scale": (size * unit, size * unit),
        "translate": ((size - 1) / 2 * unit, (size - 1) / 2 * unit),
        "units": placement(slide.slide.mpp)["units"],
    }
    layer = _find(session, slide, name)
    if layer is None:
        contour = look.pop("contour")
        layer = Labels(labels, name=name, axis_labels=("y", "x"), **place, **look)
        layer.contour = contour
        layer.editable = False
        layer.metadata[_PREVIEW_KEY] = name
        session.add_layer(slide, layer)
        return
    layer.data = labels
    for attribute in ("scale", "translate"):
        setattr(layer, attribute, place[attribute])


def _find(session: "Session", slide: "SlideState", name: str) -> Labels | None:
    for layer in session.layers_of(slide):
        if isinstance(layer, Labels) and layer.metadata.get(_PREVIEW_KEY) == name:
            return layer
    return None


def _remove(session: "Session", slide: "SlideState", name: str) -> None:
    layer = _find(session, slide, name)
    if layer is not None:
        session.viewer.layers.remove(layer)
