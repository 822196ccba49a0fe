"""The layers of the live maps: one per map, used again, one looked at, shown alike on request."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from napari.layers import Shapes

from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.plugin.docked import weak_callback
from napari_2dmamba.plugin.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.map_layers import map_layers, show_map

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.slide import Slide

_EVENTS = ("gamma", "opacity", "colormap", "contrast_limits")


class LiveLayers:
    """Maps of one slide at a time as layers.

    Parameters
    ----------
    viewer
        Gets the layers.
    maps
        The live maps by name; the owner keeps it up to date.

    Attributes
    ----------
    slide
        The slide, or None while nothing is inspected.
    linked
        Whether a change of how one map is shown reaches the others.
    """

    def __init__(self, viewer: "Viewer", maps: Mapping[str, GridMap]) -> None:
        self._viewer = viewer
        self._maps = maps
        self._is_sharing = False
        self._share_weakly = weak_callback(self._share)
        self.slide: Slide | None = None
        self.linked = False

    def by_name(self) -> dict[str, HeatmapLayer]:
        """Return the layers of the live maps."""
        if self.slide is None:
            return {}
        names = {one.name: name for name, one in self._maps.items()}
        return {
            names[layer.grid_map.name]: layer
            for layer in map_layers(self._viewer, self.slide)
            if layer.grid_map.name in names
        }

    def show(self, grid_map: GridMap, display: DisplaySettings) -> tuple[HeatmapLayer, bool]:
        """Show a map below what is drawn; a new layer is hidden, and not made active.

        Returns
        -------
        The layer, and whether it is new.
        """
        assert self.slide is not None
        layers = self._viewer.layers
        before, active = list(layers), layers.selection.active
        layer = show_map(self._viewer, self.slide, grid_map, display)
        if layer in before:
            return layer, False
        layer.visible = False
        for event in _EVENTS:
            getattr(layer.events, event).connect(self._share_weakly)
        for drawn in [one for one in layers if isinstance(one, Shapes)]:
            layers.move(layers.index(drawn), len(layers))
        layers.selection.active = active
        return layer, True

    def look_at(self, layer: HeatmapLayer | None) -> None:
        """Show one map and hide the others, which would mix with it."""
        if layer is None or self.slide is None:
            return
        for other in map_layers(self._viewer, self.slide):
            other.visible = other is layer
        self._viewer.layers.selection.active = layer

    def spread_display(self, source: HeatmapLayer) -> None:
        """Show the other live maps as one is shown."""
        if self._is_sharing:
            return
        self._is_sharing = True
        for layer in self.by_name().values():
            if layer is not source and layer.display != source.display:
                layer.display = source.display
        self._is_sharing = False

    def _share(self, event: Any) -> None:
        if self.linked and event.source in self.by_name().values():
            self.spread_display(event.source)
