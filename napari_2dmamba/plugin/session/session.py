"""The session of a viewer: the one owner of what is open in it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from napari.layers import Image, Layer
from napari.layers.base import ActionType

from napari_2dmamba.errors import UserError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.layers.region_layers import measure_again
from napari_2dmamba.plugin.layers.slide_layer import (
    CHANNEL_KEY,
    REGION_KEY,
    SLIDE_KEY,
    placement,
    show_scale_bar,
    slide_layer_data,
    slide_of,
    watch_reading,
)
from napari_2dmamba.plugin.session.events import SessionEvents
from napari_2dmamba.plugin.session.layer_marks import ADOPTED, OF_RUN, SLIDE_ID
from napari_2dmamba.plugin.session.preferences import tries_slides_apart
from napari_2dmamba.plugin.session.run_display import RunDisplay
from napari_2dmamba.plugin.session.slide_state import Choices, SlideState, Work
from napari_2dmamba.slide import open_slide

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.slide import PatchGrid, Slide, TissueMask

_DONE = (ActionType.ADDED, ActionType.CHANGED, ActionType.REMOVED)  # not what is about to be

_sessions: "WeakKeyDictionary[Viewer, Session]" = WeakKeyDictionary()


class Session:
    """The slides of one viewer, the current one, and the layers of each.

    Only the current slide's layers are visible. All layers wear the units of the current
    slide, as napari asks hidden layers too when it looks for the unit of the world.

    Use `Session.of`; widgets read it, call its methods and listen to `events`, and know
    nothing of one another.
    """

    def __init__(self, viewer: "Viewer") -> None:
        self.events = SessionEvents()
        self.runs = RunDisplay(self)
        self._viewer = ref(viewer)
        self._slides: list[SlideState] = []
        self._current: SlideState | None = None
        self._choices = Choices()
        self._display = DisplaySettings()
        self._is_showing = 0
        self._batches = 0
        self._removed: list[Layer] = []
        events = viewer.layers.events
        events.inserted.connect(self._on_inserted, position="last")
        events.removed.connect(self._on_removed, position="last")
        events.begin_batch.connect(self._on_batch)
        events.end_batch.connect(self._on_batch_end)
        for layer in list(viewer.layers):
            self._take_in(layer)

    @classmethod
    def of(cls, viewer: "Viewer") -> "Session":
        """Return the session of a viewer, begun with the slides that are open in it."""
        viewer = getattr(viewer, "__wrapped__", viewer)  # plugins get a proxy, each another one
        if viewer not in _sessions:
            _sessions[viewer] = cls(viewer)
        return _sessions[viewer]

    # -- what there is ----------------------------------------------------------------------

    @property
    def viewer(self) -> "Viewer":
        """The viewer itself, never a proxy: layers of a proxy are not those of the list."""
        viewer = self._viewer()
        assert viewer is not None
        return viewer

    @property
    def slides(self) -> tuple[SlideState, ...]:
        """The open slides, in the order they were opened."""
        return tuple(self._slides)

    @property
    def current(self) -> SlideState | None:
        """The slide that is looked at."""
        return self._current

    @property
    def choices(self) -> Choices:
        """How the current slide is to be analysed; without a slide, the next one."""
        return self._choices if self._current is None else self._current.choices

    def owner_of(self, layer: Layer) -> SlideState | None:
        """Return the slide that a layer belongs to."""
        key = layer.metadata.get(SLIDE_ID)
        return next((slide for slide in self._slides if slide.key == key), None)

    def layers_of(self, slide: SlideState) -> list[Layer]:
        """Return all layers of a slide, the lowest first."""
        return [one for one in self.viewer.layers if one.metadata.get(SLIDE_ID) == slide.key]

    def is_users_own(self, layer: Layer) -> bool:
        """Whether the user made or opened a layer, and none of our widgets did."""
        return bool(layer.metadata.get(ADOPTED))

    def pyramid_of(self, slide: SlideState) -> list[Layer]:
        """Return the layers that show the slide itself: one, or one per channel."""
        return [one for one in self.layers_of(slide) if slide_of(one) is not None]

    # -- opening, showing, closing ------------------------------------------------------------

    def open(self, paths: Iterable[str | Path], mpp: float | None = None) -> tuple[str, ...]:
        """Open slide files; the last one becomes current.

        ``mpp`` are µm per level-0 pixel in place of those that the files state.

        Returns
        -------
        tuple of str
            One sentence for each that cannot be opened.
        """
        problems = []
        for path in paths:
            try:
                self.add(open_slide(path, mpp=mpp, apart=tries_slides_apart()))
            except UserError as error:
                problems.append(str(error))
        return tuple(problems)

    def add(self, slide: "Slide") -> SlideState:
        """Show a slide that was opened elsewhere; it becomes current."""
        for data, options, _ in slide_layer_data(slide):
            layer = Image(data, **options)
            self._dress_one(layer)  # napari draws a new layer at once, and warns of other units
            self.viewer.add_layer(layer)
        state = next(one for one in self._slides if one.slide is slide)
        self.show(state)
        self.fit()  # once more: the first layer's controls have changed the canvas
        return state

    def show(self, slide: SlideState) -> None:
        """Make a slide the current one: its layers alone are shown, as they were left."""
        if slide is self._current or slide not in self._slides:
            return
        viewer = self.viewer
        with self.showing():
            if self._current is not None:
                self._leave(self._current)
            self._current = slide
            self.wear_units()
            if slide.camera is not None:  # first, so that no layer reads what the last one showed
                viewer.scene.camera.center, viewer.scene.camera.zoom = slide.camera
            for layer in self.layers_of(slide):
                layer.visible = layer not in slide.hidden
            slide.hidden.clear()
            show_scale_bar(viewer)
            if slide.camera is None:
                self.fit()
            active = None if slide.active is None else slide.active()
            viewer.layers.selection.active = (
                active if active in self.layers_of(slide) else self.pyramid_of(slide)[-1]
            )
        self.events.current.emit(slide)

    @property
    def units(self) -> tuple[str, str] | None:
        """Units of the window's world: those of the current slide."""
        if self._current is None:
            return None
        first, second = placement(self._current.slide.mpp)["units"]
        return first, second

    def fit(self) -> None:
        """Show all of the current slide."""
        if self._current is not None:
            self.viewer.fit_to_view(layers=self.pyramid_of(self._current))

    def close(self, slide: SlideState) -> None:
        """Close a slide: its work ends, and its layers, run and numbers go."""
        with self.showing():
            for layer in self.pyramid_of(slide):
                self.viewer.layers.remove(layer)
        self._drop(slide)

    def _leave(self, slide: SlideState) -> None:
        camera, layers = self.viewer.scene.camera, self.layers_of(slide)
        slide.camera = tuple(camera.center), float(camera.zoom)
        active = self.viewer.layers.selection.active
        slide.active = ref(active) if active in layers else None
        slide.hidden.update(layer for layer in layers if not layer.visible)
        for layer in layers:
            layer.mode = "pan_zoom"  # the next click is not to draw on what is hidden
            layer.visible = False

    def _drop(self, slide: SlideState) -> None:
        if slide not in self._slides:
            return
        place = self._slides.index(slide)
        layers, viewer = self.layers_of(slide), self.viewer
        self._slides.remove(slide)
        for work in slide.works:
            work.cancel()
        with self.showing():
            for layer in layers:
                if layer.metadata.get(ADOPTED):
                    del layer.metadata[SLIDE_ID], layer.metadata[ADOPTED]
                    layer.visible = False
                else:
                    viewer.layers.remove(layer)
        if slide is self._current:
            self._choices = slide.choices.for_another_slide()
            self._current = None
            # others may be going in the same stroke
            left = [one for one in self._slides if self.pyramid_of(one)]
            later = [one for one in left if self._slides.index(one) >= place]
            if left:
                self.show((later or left[-1:])[0])
            else:
                self.events.current.emit(None)
        self.events.slides.emit()

    # -- what the user sets -----------------------------------------------------------------

    def choose(self, **changes: Any) -> None:
        """Change fields of `Choices` for the current slide, and for those opened after it."""
        before, now = self.choices, replace(self.choices, **changes)
        if now == before:
            return
        self._choices = now.for_another_slide()
        slide = self._current
        if slide is not None:
            slide.choices = now
            if not {"tissue", "grid", "in_pixels"}.isdisjoint(changes):
                self.outdate_patches(slide)
        self.events.choices.emit(slide)

    def set_mpp(self, slide: SlideState, mpp: float | None) -> None:
        """Show a slide with other µm per pixel; None goes back to what its file says.

        What lies on the slide stays on its pixels; patches are outdated. A run that was made
        before stays as it is, see `SlideState.other_mpp`.

        Raises
        ------
        SlideError
            When it cannot be opened so; nothing has changed then.
        """
        again = open_slide(slide.slide.path, mpp=mpp)
        factor, slide.slide = (again.mpp or 1.0) / slide.unit, again
        with self.showing():
            for layer in self.layers_of(slide):
                if slide_of(layer) is not None:
                    layer.data = again.pyramid(layer.metadata[CHANNEL_KEY])
                if SLIDE_KEY in layer.metadata:
                    layer.metadata[SLIDE_KEY] = again
                if REGION_KEY in layer.metadata:
                    measure_again(layer, again.mpp)
                if isinstance(layer, HeatmapLayer):
                    layer.grid_map = replace(layer.grid_map, mpp=again.mpp)
                else:
                    layer.scale, layer.translate = layer.scale * factor, layer.translate * factor
            self.wear_units()
            if slide is self._current:
                camera = self.viewer.scene.camera
                camera.center = (*camera.center[:-2], *(c * factor for c in camera.center[-2:]))
                camera.zoom /= factor
            elif slide.camera is not None:
                center, zoom = slide.camera
                slide.camera = (*center[:-2], *(c * factor for c in center[-2:])), zoom / factor
        self.outdate_patches(slide)
        self.events.mpp.emit(slide)

    # -- patches, work, patch ---------------------------------------------------------------

    def outdate_patches(self, slide: SlideState) -> None:
        """Forget tissue and patches, as when regions or settings changed."""
        self.set_patches(slide, None, None)

    def set_patches(
        self,
        slide: SlideState,
        tissue: "TissueMask | None",
        grid: "PatchGrid | None",
        problem: str = "",
    ) -> None:
        """Take in tissue and patches as they were found, or why there are none."""
        slide.tissue, slide.grid, slide.problem = tissue, grid, problem
        self.events.patches.emit(slide)

    def draw_patches(self, slide: SlideState, *, tissue: bool, patches: bool) -> None:
        """Say whether tissue and patches are to be drawn."""
        if (tissue, patches) != (slide.shows_tissue, slide.shows_patches):
            slide.shows_tissue, slide.shows_patches = tissue, patches
            self.events.patches.emit(slide)

    def begin(self, slide: SlideState, work: Work) -> None:
        """Say that something runs for a slide, which will be cancelled with it."""
        slide.works.add(work)
        self.events.work.emit(slide)

    def end(self, slide: SlideState, work: Work) -> None:
        """Say that it runs no more."""
        slide.works.discard(work)
        self.events.work.emit(slide)

    def select_patch(self, slide: SlideState, corner: tuple[int, int] | None) -> None:
        """Select a patch by the level-0 ``(x, y)`` of its corner."""
        slide.patch = corner
        self.events.patch.emit(slide)

    # -- layers -----------------------------------------------------------------------------

    def add_layer(
        self, slide: SlideState, layer: Layer, *, of_run: bool = False, select: bool = False
    ) -> None:
        """Add a layer of a slide; it is seen while the slide is.

        Parameters
        ----------
        slide, layer
            Whose layer, and the layer.
        of_run
            Whether it goes when another run is shown.
        select
            Whether the user goes on with this layer.
        """
        layer.metadata[SLIDE_ID] = slide.key
        if of_run:
            layer.metadata[OF_RUN] = True
        if slide is not self._current:
            if not layer.visible:
                slide.hidden.add(layer)
            layer.visible = False
        viewer = self.viewer
        selected = set(viewer.layers.selection)
        self._dress_one(layer)
        viewer.add_layer(layer)
        if not (select and slide is self._current):
            viewer.layers.selection = selected

    def set_visible(self, layer: Layer, is_visible: bool) -> None:
        """Show or hide a layer, as soon as its slide is looked at."""
        owner = self.owner_of(layer)
        if owner is None or owner is self._current:
            layer.visible = is_visible
        elif is_visible:
            owner.hidden.discard(layer)
        else:
            owner.hidden.add(layer)

    def _take_in(self, layer: Layer) -> None:
        """Find the owner of a layer; a slide of its own becomes current."""
        slide, owner = slide_of(layer), self.owner_of(layer)
        if slide is not None:
            owner = next((one for one in self._slides if one.slide is slide), None)
            is_new = owner is None
            if owner is None:
                choices = self.choices.for_another_slide()
                display = self._display if self._current is None else self._current.display
                owner = SlideState(slide, choices, display=display)
                self._slides.append(owner)
            layer.metadata[SLIDE_ID] = owner.key
            watch_reading(layer)
            layer.events.visible.connect(self._on_visible)
            if is_new:
                self.events.slides.emit()
                self.show(owner)
                return
        elif owner is None:
            owner = self._current
            if owner is None:
                return  # nothing of ours
            layer.metadata[SLIDE_ID], layer.metadata[ADOPTED] = owner.key, True
        if slide is None:
            layer.events.visible.connect(self._on_visible)
        with self.showing():
            if owner is not self._current and layer.visible:
                layer.visible = False
            self._dress_one(layer)
        if REGION_KEY in layer.metadata:
            layer.events.data.connect(self._on_region)
        self._tell(owner, layer)

    def _tell(self, owner: SlideState, layer: Layer) -> None:
        if isinstance(layer, HeatmapLayer):
            self.events.maps.emit(owner)
        if REGION_KEY in layer.metadata and len(layer.data):
            self._regions_changed(owner)
        self.events.layers.emit(owner)

    def wear_units(self) -> None:
        """Let all layers have the units of the current slide."""
        for layer in self.viewer.layers:
            if SLIDE_ID in layer.metadata:
                self._dress_one(layer)

    def _dress_one(self, layer: Layer) -> None:
        units = self.units
        if units is not None and (str(layer.units[-1]) == "pixel") != (units[-1] == "pixel"):
            layer.units = (*layer.units[:-2], *units)

    # -- what napari tells --------------------------------------------------------------------

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Within this, layers are shown and hidden by us and not by the user."""
        self._is_showing += 1
        try:
            yield
        finally:
            self._is_showing -= 1

    def _on_inserted(self, event: Any) -> None:
        self._take_in(event.value)

    def _on_visible(self, event: Any) -> None:
        layer = event.source
        owner = self.owner_of(layer)
        if self._is_showing or owner is None or owner is self._current or not layer.visible:
            return
        owner.hidden.discard(layer)
        self.show(owner)  # the eye of a layer of another slide: the user wants to see that slide

    def _on_region(self, event: Any) -> None:
        owner = self.owner_of(event.source)
        if owner is None or event.action not in _DONE:
            return
        if event.source.metadata[REGION_KEY] == "note":  # changes no analysis
            self.events.regions.emit(owner)
        else:
            self._regions_changed(owner)

    def _regions_changed(self, slide: SlideState) -> None:
        self.outdate_patches(slide)
        self.events.regions.emit(slide)

    def _on_batch(self, event: Any) -> None:
        self._batches += 1

    def _on_batch_end(self, event: Any) -> None:
        self._batches -= 1
        while not self._batches and self._removed:
            self._follow_removed(self._removed.pop(0))

    def _on_removed(self, event: Any) -> None:
        # napari goes on by numbers and names within a batch: no layer may go beside it
        if self._batches:
            self._removed.append(event.value)
        else:
            self._follow_removed(event.value)

    def _follow_removed(self, layer: Layer) -> None:
        layer.events.visible.disconnect(self._on_visible)
        owner = self.owner_of(layer)
        if owner is None:
            return
        if slide_of(layer) is not None and not self.pyramid_of(owner):
            self._drop(owner)
        elif not self._is_showing:  # else we took it away ourselves, and tell at the end
            self._tell(owner, layer)
