"""Joins the section *Result* to the session: the run on display, its maps and its patches."""

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject

from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.layers.map_layers import caption_map, cell_at, go_to_patch
from napari_2dmamba.plugin.layers.weak_callback import weak_callback
from napari_2dmamba.plugin.parts.docked import DockedWidget
from napari_2dmamba.plugin.run_widget.result_section import ResultSection
from napari_2dmamba.plugin.session import Session, SlideState

if TYPE_CHECKING:
    from napari.viewer import Viewer


class ResultControl(QObject):
    """Lets the section show the run of the current slide, and layers follow the section.

    Parameters
    ----------
    session, section
        What is joined.
    parent
        The docked widget; connections end with its dock.
    """

    def __init__(self, session: Session, section: ResultSection, parent: DockedWidget) -> None:
        super().__init__(parent)
        self._session, self._section = session, section
        section.display_changed.connect(self._set_display)
        section.map_chosen.connect(self._look_at)
        section.map_shown.connect(self._show_map)
        section.patch_chosen.connect(self._go_to_patch)
        events = session.events
        for signal in (events.current, events.run, events.mpp):
            parent.listen(signal, self._follow)
        parent.listen(events.maps, self._follow_maps)
        parent.listen(events.patch, self._follow_patch)
        parent.listen(session.viewer.layers.selection.events.active, self._follow_active_layer)
        self._on_mouse_move_weakly = weak_callback(self._on_mouse_move)
        session.viewer.mouse_move_callbacks.append(self._on_mouse_move_weakly)
        self._follow(session.current)

    def let_go(self) -> None:
        """Leave the viewer's mouse alone, and stop reading thumbnails."""
        callbacks = self._session.viewer.mouse_move_callbacks
        if self._on_mouse_move_weakly in callbacks:
            callbacks.remove(self._on_mouse_move_weakly)
        self._section.gallery.cancel()

    @property
    def map_layer(self) -> HeatmapLayer | None:
        """The map whose values the panel shows."""
        slide = self._session.current
        if slide is None:
            return None
        return next((one for one in self._maps if one.grid_map.name == slide.map_name), None)

    @property
    def _maps(self) -> list[HeatmapLayer]:
        slide = self._session.current
        return [] if slide is None or slide.run is None else self._session.runs.maps_of(slide)

    # -- the section follows the session ----------------------------------------------------

    def _follow(self, slide: SlideState | None) -> None:
        if slide is not self._session.current:
            return
        self._section.select(None if slide is None else slide.patch)
        self._section.show_run(slide)
        self._follow_maps(slide)

    def _follow_maps(self, slide: SlideState | None) -> None:
        if slide is not self._session.current:
            return
        layers = self._maps
        for layer in layers:
            events = layer.events
            for event in (events.gamma, events.opacity, events.colormap, events.contrast_limits):
                event.disconnect(self._follow_layer_display)
                event.connect(self._follow_layer_display)
            events.visible.disconnect(self._caption)
            events.visible.connect(self._caption)
            events.name.disconnect(self._offer_maps)
            events.name.connect(self._offer_maps)
        names = [layer.grid_map.name for layer in layers]
        if slide is not None and slide.map_name not in names:
            slide.map_name = names[0] if names else ""
        self._offer_maps()
        if self.map_layer is not None:
            self._show_values(self.map_layer)
        self._caption()

    def _offer_maps(self, event: Any = None) -> None:
        """List the maps by the names of their layers, which the user may change."""
        layer = self.map_layer
        self._section.set_maps(
            [one.name for one in self._maps], "" if layer is None else layer.name
        )

    def _follow_patch(self, slide: SlideState) -> None:
        if slide is self._session.current:
            self._section.select(slide.patch)

    def _follow_active_layer(self, event: Any = None) -> None:
        active, slide = self._session.viewer.layers.selection.active, self._session.current
        if slide is not None and active in self._maps and active is not self.map_layer:
            slide.map_name = active.grid_map.name
            self._follow_maps(slide)

    def _show_values(self, layer: HeatmapLayer) -> None:
        slide = self._session.current
        assert slide is not None
        assert slide.run is not None
        self._section.set_display(layer.display)
        self._section.show_map(slide.run.slide, layer.grid_map, slide.run.patches(layer.grid_map))

    def _follow_layer_display(self, event: Any) -> None:
        layer = self.map_layer
        if layer is not None and event.source is layer:
            self._section.set_display(layer.display)

    def _caption(self, event: Any = None) -> None:
        layer = self.map_layer
        caption_map(self._session.viewer, layer)
        self._section.show_layer.blockSignals(True)
        self._section.show_layer.setChecked(layer is not None and layer.visible)
        self._section.show_layer.blockSignals(False)

    def _on_mouse_move(self, viewer: "Viewer", event: Any) -> None:
        layer = self.map_layer
        if layer is not None:
            self._section.show_cursor(*cell_at(layer, event.position))

    # -- layers follow the section ----------------------------------------------------------

    def _set_display(self, display: DisplaySettings) -> None:
        layer, slide = self.map_layer, self._session.current
        if layer is not None and slide is not None:
            slide.display = display
            layer.display = display
            self._caption()

    def _look_at(self, name: str) -> None:
        slide = self._session.current
        layer = next((one for one in self._maps if one.name == name), None)
        if slide is not None and layer is not None:
            slide.map_name = layer.grid_map.name
            self._session.runs.look_at(slide, layer)
            self._follow_maps(slide)

    def _show_map(self, is_shown: bool) -> None:
        if self.map_layer is not None:
            self.map_layer.visible = is_shown

    def _go_to_patch(self, x: int, y: int) -> None:
        slide = self._session.current
        if slide is not None and slide.run is not None:
            self._session.select_patch(slide, (x, y))
            go_to_patch(self._session, slide, (x, y), slide.run.grid.patch_size_level0)
