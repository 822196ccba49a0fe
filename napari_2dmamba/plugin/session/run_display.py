"""The run on display of each slide of a session, its maps, and what was asked of it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import ref

from napari_2dmamba.explain.display import DisplaySettings, display_for
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.record import Explanations
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.session.layer_marks import OF_RUN
from napari_2dmamba.plugin.session.shown_run import ShownRun
from napari_2dmamba.plugin.session.slide_state import SlideState

if TYPE_CHECKING:
    from napari_2dmamba.compare import Comparison
    from napari_2dmamba.plugin.session.session import Session
    from napari_2dmamba.slide import Slide


class RunDisplay:
    """Shows runs on the slides of a session: `Session.runs`."""

    def __init__(self, session: "Session") -> None:
        self._session = session

    def maps_of(self, slide: SlideState) -> list[HeatmapLayer]:
        """Return the layers that show maps of the run on display, the lowest first."""
        return [
            one
            for one in self._session.layers_of(slide)
            if isinstance(one, HeatmapLayer) and one.metadata.get(OF_RUN)
        ]

    def show(
        self, slide: SlideState, run: ShownRun, display: DisplaySettings | None = None
    ) -> None:
        """Put a run on display, in place of the one before and of all that was asked of it.

        A slide that is not looked at has its result when it is shown again.

        Parameters
        ----------
        slide, run
            They belong together: the run was made on this file.
        display
            How its maps are shown; as those before when absent.
        """
        names = {one.name for one in run.maps}
        with self._session.showing():
            for layer in self._session.layers_of(slide):
                if layer.metadata.get(OF_RUN) and not (
                    isinstance(layer, HeatmapLayer) and layer.grid_map.name in names
                ):
                    self._session.viewer.layers.remove(layer)
        slide.run, slide.own_maps, slide.patch = run, run.maps, None
        slide.shows_tissue = slide.shows_patches = False  # they would hide what the map shows
        if display is not None:
            slide.display = display
        shown = [self.show_map(slide, one) for one in run.maps]
        for layer in shown:
            if display is not None:
                layer.display = display_for(layer.grid_map, display)
        if shown:
            self.look_at(slide, shown[0])
        self._session.events.patches.emit(slide)
        self._session.events.run.emit(slide)
        self._session.events.maps.emit(slide)
        self._session.events.layers.emit(slide)

    def change(self, slide: SlideState, **changes: Any) -> None:
        """Take over what was changed of the run on display where it is saved: names, folder."""
        if slide.run is not None:
            slide.run = replace(slide.run, **changes)
            self._session.events.maps.emit(slide)

    def remark(self, slide: SlideState, remarks: Sequence[str]) -> None:
        """Say what is not as it was when the run on display was saved."""
        if slide.run is not None:
            slide.run = replace(slide.run, remarks=tuple(remarks))
            self._session.events.run.emit(slide)

    def set_more_maps(
        self, slide: SlideState, maps: Sequence[GridMap], explanations: Explanations
    ) -> None:
        """Let exports and record of the run hold maps besides its own, in place of others.

        A map replaces that of the run with the same name; what the record says of maps that the
        run was saved with, and that stay, is kept.
        """
        if slide.run is None:
            return
        names = {one.name for one in maps}
        own = [one for one in slide.own_maps if one.name not in names]
        before = slide.run.record.explanations
        if before is not None:
            size = slide.run.grid.patch_size_level0
            explanations = _with_those_that_stay(explanations, before, own, size)
        record = replace(slide.run.record, explanations=explanations)
        slide.run = replace(slide.run, maps=(*own, *maps), record=record)
        self._session.events.maps.emit(slide)

    def show_map(
        self, slide: SlideState, grid_map: GridMap, display: DisplaySettings | None = None
    ) -> HeatmapLayer:
        """Show a map of the run; a layer with a map of this name takes it, and keeps its look.

        The map is laid on the slide as it is shown, whatever its own µm per pixel: patches are
        where they were cut.
        """
        placed = replace(grid_map, mpp=slide.slide.mpp)
        for layer in self.maps_of(slide):
            if layer.grid_map.name == grid_map.name:
                layer.grid_map = placed
                self._session.wear_units()
                return layer
        display = display or display_for(placed, slide.display)
        name = grid_map.name[:1].upper() + grid_map.name[1:]
        layer = HeatmapLayer(placed, display, name=name)
        self._session.add_layer(slide, layer, of_run=True)
        return layer

    def look_at(self, slide: SlideState, layer: HeatmapLayer) -> None:
        """Show one map and hide the slide's others, which would mix with it."""
        for other in self._session.layers_of(slide):
            if isinstance(other, HeatmapLayer):
                self._session.set_visible(other, other is layer)
        if slide is self._session.current:
            self._session.viewer.layers.selection.active = layer
        else:
            slide.active = ref(layer)

    def set_comparison(
        self,
        slide: SlideState,
        comparison: "Comparison | None",
        made_on: "Slide | None" = None,
    ) -> None:
        """Put a comparison of models on display.

        ``made_on`` is the slide as it was then; None where it is so still.
        """
        slide.comparison = comparison
        slide.compared_on = None if comparison is None else made_on or slide.slide
        self._session.events.comparison.emit(slide)


def _with_those_that_stay(
    new: Explanations, before: Explanations, stay: Sequence[GridMap], patch_size: int
) -> Explanations:
    """Add what was said of maps that stay, and of the patches that they are about."""
    titles = {one.name for one in stay}
    maps = {name: one for name, one in before.maps.items() if one.title in titles}
    corners = set()
    for one in stay:
        inset = (patch_size - one.patch_size_level0) // 2  # a query is the corner of a cell
        corners |= {(x - inset, y - inset) for x, y in one.queries}
    known = {one.patch for one in new.queries}
    queries = [
        one for one in before.queries if (one.x, one.y) in corners and one.patch not in known
    ]
    return replace(new, maps={**maps, **new.maps}, queries=(*new.queries, *queries))
