"""The layers of the live maps: one per map, used again, one looked at, shown alike on request."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes, Vectors

from napari_2dmamba.explain.display import DisplaySettings, format_value
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer, OnScreen
from napari_2dmamba.plugin.layers.weak_callback import weak_callback

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState

_EVENTS = ("gamma", "opacity", "colormap", "contrast_limits")
_OWN_WAY = "erf-figure"  # drawn as others draw it, or not at all


class LiveLayers:
    """Maps of one slide at a time as layers.

    Linked maps share scale, gamma, colours and opacity. On the raw scale, maps of one quantity
    also share one range, so that one colour is one value on all of them: that of all of them
    together, or the one set by hand, which then holds for the next patches too.

    Parameters
    ----------
    session
        Its viewer gets the layers.
    maps
        The live maps by name; the owner keeps it up to date.

    Attributes
    ----------
    slide
        The slide, or None while nothing is inspected.
    linked
        Whether a change of how one map is shown reaches the others.
    """

    def __init__(self, session: "Session", maps: Mapping[str, GridMap]) -> None:
        self._session, self._viewer = session, session.viewer
        self._maps = maps
        self._is_sharing = False
        self._share_weakly = weak_callback(self._share)
        self._by_hand: dict[str, tuple[float, float]] = {}
        self.slide: SlideState | None = None
        self.linked = False

    def by_name(self) -> dict[str, HeatmapLayer]:
        """Return the layers of the live maps."""
        if self.slide is None:
            return {}
        names = {one.name: name for name, one in self._maps.items()}
        return {
            names[layer.grid_map.name]: layer
            for layer in self._session.runs.maps_of(self.slide)
            if layer.grid_map.name in names
        }

    def show(self, grid_map: GridMap, display: DisplaySettings) -> tuple[HeatmapLayer, bool]:
        """Show a map below what is drawn; a new layer is hidden, and not made active.

        Returns
        -------
        The layer, and whether it is new.
        """
        assert self.slide is not None
        layers, runs = self._viewer.layers, self._session.runs
        is_new = all(one.grid_map.name != grid_map.name for one in runs.maps_of(self.slide))
        self._is_sharing = True  # what changes now is not the user's doing
        # Any event of a layer paints napari's list of all layers, which lasts as long as drawing
        with nullcontext() if is_new else layers.events.blocker_all():
            layer = runs.show_map(self.slide, grid_map, display)
        self._is_sharing = False
        if is_new:
            self._session.set_visible(layer, False)
            for event in _EVENTS:
                getattr(layer.events, event).connect(self._share_weakly)
            for drawn in [one for one in layers if isinstance(one, Shapes | Vectors)]:
                layers.move(layers.index(drawn), len(layers))
        if self.linked:
            self._share_ranges()
        return layer, is_new

    def _placed(self, grid_map: GridMap) -> GridMap:
        """Return a map as it lies on the slide that is shown."""
        assert self.slide is not None
        return replace(grid_map, mpp=self.slide.slide.mpp)

    def look_at(self, layer: HeatmapLayer | None) -> None:
        """Show one map and hide the others, which would mix with it."""
        if layer is None or self.slide is None:
            return
        self._session.runs.look_at(self.slide, layer)

    def link(self, is_on: bool, source: HeatmapLayer | None) -> None:
        """Show the live maps as ``source`` is shown from now on; or each on its own again."""
        self.linked = is_on
        self._by_hand.clear()
        if not is_on:
            for name, layer in self.by_name().items():
                layer.grid_map = self._placed(self._maps[name])
        elif source is not None:
            self._spread_display(source)

    def shared_ranges(self) -> dict[str, tuple[list[HeatmapLayer], tuple[float, float]]]:
        """Return quantities that several raw maps show on one range: the maps, and the range."""
        found = {}
        for quantity, group in self._groups().items():
            limits = self._by_hand.get(quantity)
            if limits is None:
                ends = [OnScreen(self._maps[name], one.display).limits for name, one in group]
                low, high = np.transpose(ends)
                limits = float(low.min()), float(high.max())
            found[quantity] = [layer for _, layer in group], limits
        return found

    def words(self) -> str:
        """Say which maps are shown on one range."""
        parts = [
            f"{', '.join(one.name for one in group)}: {format_value(low)} to {format_value(high)}"
            for group, (low, high) in self.shared_ranges().values()
        ]
        return "One colour is one value on " + "; ".join(parts) + "." if parts else ""

    def _groups(self) -> dict[str, list[tuple[str, HeatmapLayer]]]:
        groups: dict[str, list[tuple[str, HeatmapLayer]]] = {}
        for name, layer in self.by_name().items():
            quantity = self._maps[name].quantity
            if self.linked and quantity and layer.display.transform == "raw":
                groups.setdefault(quantity, []).append((name, layer))
        return {
            quantity: group
            for quantity, group in groups.items()
            if len(group) > 1 or quantity in self._by_hand
        }

    def _spread_display(self, source: HeatmapLayer) -> None:
        display = source.display
        if display.transform == "raw":  # a range of raw values is one of this quantity alone
            display = replace(display, clip_low=0.0, clip_high=100.0)
        self._is_sharing = True
        for name, layer in self.by_name().items():
            if layer is not source and name != _OWN_WAY and layer.display != display:
                layer.display = display
        self._is_sharing = False
        self._share_ranges(source)

    def _share_ranges(self, source: HeatmapLayer | None = None) -> None:
        """Give maps of one quantity one range; ``source``, in the user's hand, is left alone."""
        shared = self.shared_ranges()
        alone = {layer: self._maps[name] for name, layer in self.by_name().items()}
        self._is_sharing = True
        for group, limits in shared.values():
            for layer in group:
                one = replace(alone.pop(layer), display_range=limits)
                if layer is source:
                    continue
                layer.grid_map = self._placed(one)
                layer.display = replace(layer.display, clip_low=0.0, clip_high=100.0)
        for layer, one in alone.items():
            if layer is not source and layer.grid_map.display_range != one.display_range:
                layer.grid_map = self._placed(one)
        self._is_sharing = False

    def _share(self, event: Any) -> None:
        layer = event.source
        if self._is_sharing or not self.linked or layer not in self.by_name().values():
            return
        quantity = layer.grid_map.quantity
        if event.type == "contrast_limits" and quantity and layer.display.transform == "raw":
            low, high = layer.contrast_limits
            self._by_hand[quantity] = float(low), float(high)
        self._spread_display(layer)
