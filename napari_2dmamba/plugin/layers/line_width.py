"""Lines that are as wide on screen at any zoom."""

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from napari.layers import Shapes

if TYPE_CHECKING:
    from napari.viewer import Viewer

_TOLERANCE = 1.25
"""Widths are set anew when they would be off by more than this factor: every step costs time."""

_MANY = 2000
_TOLERANCE_OF_MANY = 2.5
"""More shapes than this are followed in wider steps."""

_followers: "WeakKeyDictionary[Viewer, LineWidths]" = WeakKeyDictionary()


class LineWidths:
    """Keeps the edges of shapes layers of one viewer at their width in screen pixels.

    Use `LineWidths.of`; layers are followed for as long as they live.
    """

    def __init__(self, viewer: "Viewer") -> None:
        self._camera = viewer.scene.camera
        self._pixels: WeakKeyDictionary[Shapes, float] = WeakKeyDictionary()
        self._camera.events.zoom.connect(self._on_zoom)

    @classmethod
    def of(cls, viewer: "Viewer") -> "LineWidths":
        """Return the one of a viewer."""
        if viewer not in _followers:
            _followers[viewer] = cls(viewer)
        return _followers[viewer]

    def follow(self, layer: Shapes, pixels: float) -> None:
        """Give the edges of a layer this many screen pixels, now and at any zoom."""
        self._pixels[layer] = pixels
        self._set(layer)
        layer.events.visible.connect(self._on_layer)
        layer.events.scale.connect(self._on_layer)

    def width_of(self, layer: Shapes) -> float:
        """Return what the width of the edges is to be now, in the data units of a layer."""
        return float(self._pixels[layer] / (self._camera.zoom * layer.scale[-1]))

    def _on_zoom(self, event: Any) -> None:
        for layer in list(self._pixels):
            if layer.visible:
                self._set_if_off(layer)

    def _on_layer(self, event: Any) -> None:
        if event.source in self._pixels:
            self._set_if_off(event.source)

    def _set_if_off(self, layer: Shapes) -> None:
        ratio = self.width_of(layer) / layer.current_edge_width
        allowed = _TOLERANCE_OF_MANY if layer.nshapes > _MANY else _TOLERANCE
        if not 1 / allowed < ratio < allowed:
            self._set(layer)

    def _set(self, layer: Shapes) -> None:
        width = self.width_of(layer)
        layer.current_edge_width = width  # that of the next shape
        layer.edge_width = width
        layer.refresh(thumbnail=False, extent=False)
