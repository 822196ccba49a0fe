"""The maps that follow the inspected patches: asked for, computed, shown, taken away."""

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.inspection import Inspection, MapOptions
from napari_2dmamba.explain.maps import MAPS
from napari_2dmamba.plugin.inspect_widget.live_layers import LiveLayers
from napari_2dmamba.plugin.inspect_widget.map_list import MapList
from napari_2dmamba.plugin.inspect_widget.mass_lines import MassLines
from napari_2dmamba.plugin.inspect_widget.questions import live_maps
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.parts.jobs import LatestJob

if TYPE_CHECKING:
    from napari_2dmamba.plugin.inspect_widget.query_layer import QueryLayer
    from napari_2dmamba.plugin.session import Session, SlideState
    from napari_2dmamba.plugin.session.shown_run import ShownRun


class LiveMaps(QObject):
    """Keeps the ticked maps up to date for one run, and one layer for each.

    Parameters
    ----------
    session
        Its viewer gets the layers.
    map_list
        Says which maps are wanted and which one is looked at.
    mark
        What marks the inspected patches.
    parent
        The widget.

    Attributes
    ----------
    shown, inspected, patches, how
        What is asked: the run and its model, patches (the last one clicked at the end), and how.
    maps
        Those that are up to date, by name.
    held
        How many patches hold 50, 90 and 99 % of the map with lines; empty without lines.

    Signals
    -------
    changed()
        Maps have come or gone.
    computed()
        All ticked maps are up to date.
    failed(sentence)
    """

    changed = Signal()
    computed = Signal()
    failed = Signal(str)
    _made = Signal(int, str, object)

    def __init__(
        self, session: "Session", map_list: MapList, mark: "QueryLayer", parent: QObject
    ) -> None:
        super().__init__(parent)
        self._viewer = session.viewer
        self._list = map_list
        self._number = 0
        self.shown: ShownRun | None = None
        self.inspected: Inspection | None = None
        self.patches: list[int] = []
        self.how = MapOptions()
        self.maps: dict[str, GridMap] = {}
        self.held: dict[int, int] = {}
        self.wants_lines = True
        self.layers = LiveLayers(session, self.maps)
        self.lines = MassLines(session, mark)
        self._computing = LatestJob(self, delay_ms=0)
        self._computing.succeeded.connect(self.computed)
        self._computing.failed.connect(self.failed)
        self._made.connect(self._take)
        map_list.ticked.connect(self._on_tick)
        map_list.chosen.connect(self.look_at)

    @property
    def is_busy(self) -> bool:
        """Whether maps are computed."""
        return self._computing.is_busy

    def start(self, slide: "SlideState", shown: "ShownRun", inspected: Inspection) -> None:
        """Follow the patches of a run, which is on display on a slide."""
        self.shown, self.inspected, self.layers.slide = shown, inspected, slide

    def forget(self) -> None:
        """Let go of the run; its layers stay."""
        self.stop()
        self.shown, self.inspected, self.layers.slide = None, None, None
        self.patches = []
        self.maps.clear()

    def stop(self) -> None:
        """Stop computing and take the lines away."""
        self._computing.cancel()
        self._number += 1
        self.lines.clear()
        self.held = {}

    def let_go(self) -> None:
        """Stop, and stop following the viewer."""
        self.stop()
        self.lines.let_go()

    def ask(self, patches: list[int]) -> None:
        """Ask about other patches."""
        self.patches = patches
        self._outdate(at_patch=True)

    def set_how(self, how: MapOptions) -> None:
        """Ask in another way."""
        before, self.how = self.how, how
        if before.target != how.target:
            self._outdate(at_patch=False)
        if (before.layer, before.channels) != (how.layer, how.channels):
            self._outdate(at_patch=True)

    def set_lines(self, wanted: bool) -> None:
        """Draw lines around what holds 50, 90 and 99 % of the map that is looked at, or not."""
        self.wants_lines = wanted
        self._draw_lines()

    def link(self, is_on: bool) -> None:
        """Show all maps alike, or each on its own."""
        self.layers.link(is_on, self.layer(self._list.current))
        self.changed.emit()

    def layer(self, name: str) -> HeatmapLayer | None:
        """Return the layer of a map that is up to date."""
        return self.layers.by_name().get(name)

    def look_at(self, name: str) -> None:
        """Show one of the maps and hide the others."""
        self.layers.look_at(self.layer(name))
        self._draw_lines()

    def show_extra(self, grid_map: GridMap) -> HeatmapLayer:
        """Show a map that is not in the list, and look at it."""
        display = DisplaySettings(transform="raw", opacity=0.75, clear_at_zero=True)
        layer, _ = self.layers.show(grid_map, display)
        self.layers.look_at(layer)
        self.lines.clear()
        return layer

    def follow_layers(self) -> None:
        """Take note of layers that the user removed: their maps are no longer wanted."""
        layers = self.layers.by_name()
        for name in [name for name in self.maps if name not in layers]:
            del self.maps[name]
            self._list.tick(name, False)

    def _outdate(self, *, at_patch: bool) -> None:
        for name in [name for name in self.maps if MAPS[name].at_patch == at_patch]:
            del self.maps[name]
        self.changed.emit()
        self._compute()

    def _compute(self) -> None:
        """Compute the ticked maps that are not up to date."""
        names = [name for name in self._list.ticked_names if name not in self.maps]
        self._number += 1
        if self.inspected is None or not self.patches:
            return
        take = partial(self._made.emit, self._number)
        patches = tuple(self.patches)
        self._computing.request(live_maps(self.inspected, names, patches, self.how, take))

    def _take(self, number: int, name: str, grid_map: GridMap) -> None:
        if number != self._number or self.inspected is None:
            return  # of an earlier query
        self.maps[name] = grid_map
        layer, is_new = self.layers.show(grid_map, self._display_of_new(name))
        current = self._list.current
        if is_new and (name == current or not self.layer(current)):
            self.layers.look_at(layer)
        if layer.visible:
            self._draw_lines()
        self.changed.emit()

    def _display_of_new(self, name: str) -> DisplaySettings:
        if self.layers.linked:
            for other in self.layers.by_name().values():
                return other.display
        return MAPS[name].first_display

    def _on_tick(self, name: str, is_on: bool) -> None:
        if is_on:
            self._compute()
            return
        layer = self.layer(name)
        self.maps.pop(name, None)
        if layer is not None:
            self._viewer.layers.remove(layer)
        self._draw_lines()
        self.changed.emit()
        self.computed.emit()

    def _draw_lines(self) -> None:
        """Draw the lines of the map that is looked at, where it is one of a patch."""
        shown = [(name, one) for name, one in self.layers.by_name().items() if one.visible]
        self.held = {}
        slide = self.layers.slide
        if self.wants_lines and slide is not None and len(shown) == 1:
            one = self.maps[shown[0][0]]
            if one.queries and not one.signed:
                self.held = self.lines.show(slide, one)
        if not self.held:
            self.lines.clear()
        self.changed.emit()
