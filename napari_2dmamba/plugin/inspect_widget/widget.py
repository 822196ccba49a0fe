"""The widget *Inspect 2DMamba*: joins its sections, the viewer and the jobs."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QFrame,
    QLabel,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.explain.counterfactual import Action, Counterfactual, Decisive
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.faithfulness import agreement
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.named_maps import MAPS
from napari_2dmamba.explain.outcome import Target
from napari_2dmamba.export.run_folder import save_run
from napari_2dmamba.plugin.commands import docked_run_widget, run_widget
from napari_2dmamba.plugin.docked import DockedWidget, weak_callback
from napari_2dmamba.plugin.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.inspect_widget.inspected import Inspected
from napari_2dmamba.plugin.inspect_widget.live_layers import LiveLayers
from napari_2dmamba.plugin.inspect_widget.map_list import MapList, first_display
from napari_2dmamba.plugin.inspect_widget.patch_section import PICTURE_SIDE, PatchSection
from napari_2dmamba.plugin.inspect_widget.query_layer import QueryLayer
from napari_2dmamba.plugin.inspect_widget.questions import (
    deletion_and_insertion,
    fewest_patches,
    live_maps,
    stability,
)
from napari_2dmamba.plugin.inspect_widget.trust_section import TrustSection
from napari_2dmamba.plugin.inspect_widget.what_if_region import (
    REGION_LAYER,
    patches_drawn,
    places,
    start_drawing,
)
from napari_2dmamba.plugin.inspect_widget.what_if_section import INSPECTED, WhatIfSection
from napari_2dmamba.plugin.jobs import Job, LatestJob
from napari_2dmamba.plugin.map_layers import map_layers
from napari_2dmamba.plugin.run_widget.gallery import read_patches
from napari_2dmamba.plugin.run_widget.message import Message
from napari_2dmamba.plugin.run_widget.progress_footer import ProgressFooter
from napari_2dmamba.plugin.section import Section
from napari_2dmamba.plugin.shown_run import ShownRun
from napari_2dmamba.plugin.slide_layer import open_slides
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.plugin.run_widget import RunWidget

ARROWS = {"Left": (0, -1), "Right": (0, 1), "Up": (-1, 0), "Down": (1, 0)}
_START, _STOP = "Inspect", "Stop inspecting"
_CLICK_PIXELS = 4  # a press that moves further is a drag
_MOST_COMPARED = 3
_TARGETS = "The prediction"


class InspectWidget(DockedWidget):
    """Ask the run on display why: patch by patch, with live maps.

    Parameters
    ----------
    napari_viewer
        The viewer whose Run widget shows the run, and that gets the layers.
    """

    _computed = Signal(int, str, object)

    def __init__(self, napari_viewer: "Viewer") -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._run_widget: RunWidget | None = None
        self._inspected: Inspected | None = None
        self._patches: list[int] = []
        self._maps: dict[str, GridMap] = {}  # those that are up to date
        self._number = 0
        self._job: Job | None = None
        self._keys: dict[str, Any] | None = None  # what they did before, while we have them
        self._layers = LiveLayers(napari_viewer, self._maps)
        self.message = Message()
        self.mode = QPushButton(_START)
        self.hint = QLabel("Click a patch · shift-click adds one · arrow keys move · Escape ends")
        self.patch_section = PatchSection()
        self.map_list = MapList()
        self.target = QComboBox()
        self.link = QCheckBox("Same scale, contrast and opacity on all of them")
        self.keep = QPushButton("Save these maps with the run")
        self.what_if_section = WhatIfSection()
        self.trust_section = TrustSection()
        self.footer = ProgressFooter()
        self.query_layer = QueryLayer(napari_viewer)
        self._loading = LatestJob(self, delay_ms=0)
        self._computing = LatestJob(self, delay_ms=0)
        self._reading = LatestJob(self, delay_ms=0)
        self._lay_out()
        self._connect()
        self._set_usable(False)
        self._follow_run()

    def sizeHint(self) -> QSize:
        """Return a width at which all texts fit."""
        return QSize(400, 800)

    # -- what it is made of ---------------------------------------------------------------

    def _lay_out(self) -> None:
        self.mode.setCheckable(True)
        self.mode.setToolTip(
            "Click a patch to inspect it, shift-click to add one, arrow keys move to the next "
            "patch, Escape ends"
        )
        self.hint.setWordWrap(True)
        self.hint.hide()
        self.keep.setToolTip("Saved maps are there again when the run is opened")
        self.footer.run.hide()
        maps = Section("Maps")
        rows = QFormLayout()
        rows.addRow("Answer explained", self.target)
        maps.body.addWidget(self.map_list)
        maps.body.addLayout(rows)
        maps.body.addWidget(self.link)
        maps.body.addWidget(self.keep)
        self.maps_section = maps
        column = QWidget()
        sections = QVBoxLayout(column)
        sections.setContentsMargins(4, 4, 4, 4)
        sections.setSpacing(4)
        sections.addWidget(self.mode)
        sections.addWidget(self.hint)
        sections.addWidget(self.message)
        for section in (self.patch_section, maps, self.what_if_section, self.trust_section):
            sections.addWidget(section)
        sections.addStretch(1)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(column)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(scroll, 1)
        layout.addWidget(self.footer)
        self.setMinimumWidth(380)

    def _connect(self) -> None:
        self.mode.toggled.connect(self._set_mode)
        self._loading.succeeded.connect(self._take)
        self._loading.failed.connect(self._cannot_inspect)
        self._computed.connect(self._take_map)
        self._computing.succeeded.connect(self._on_computed)
        self._computing.failed.connect(self._complain)
        self._reading.succeeded.connect(self.patch_section.show_picture)
        self._reading.failed.connect(self._complain)
        self.map_list.ticked.connect(self._on_tick)
        self.map_list.chosen.connect(self._look_at)
        self.target.currentIndexChanged.connect(self._on_target)
        self.link.toggled.connect(self._on_link)
        self.keep.clicked.connect(self._save)
        what_if, trust = self.what_if_section, self.trust_section
        what_if.draw_wanted.connect(self._draw_region)
        what_if.edit_wanted.connect(self._edit)
        what_if.undo_wanted.connect(lambda: self._change(lambda c: c.undo()))
        what_if.reset_wanted.connect(lambda: self._change(lambda c: c.reset()))
        what_if.search_wanted.connect(self._search)
        trust.check_wanted.connect(self._check)
        trust.stability_wanted.connect(self._check_stability)
        self.footer.cancel_clicked.connect(self._cancel)
        layers = self._viewer.layers.events
        for event in (layers.inserted, layers.removed):
            self.listen(event, self._follow_layers)
        self._on_press = weak_callback(self._on_mouse_press)

    def let_go(self) -> None:
        """Disconnect from the viewer and stop what runs."""
        self._set_mode(False)
        super().let_go()
        self.query_layer.let_go()
        for jobs in (self._loading, self._computing, self._reading):
            jobs.cancel()
        if self._job is not None:
            self._job.cancel()

    def _set_usable(self, usable: bool) -> None:
        for part in (self.maps_section, self.what_if_section, self.trust_section):
            part.setEnabled(usable)

    # -- the run --------------------------------------------------------------------------

    def _follow_run(self, may_dock: bool = False) -> None:
        """Find the Run widget of the window; dock one when the user needs it."""
        if self._run_widget is None:
            found = docked_run_widget(self._viewer)
            if found is None and may_dock:
                found = run_widget(self._viewer)
            if found is not None:
                self._run_widget = found
                found.run_shown.connect(self._on_run_shown)
                found.destroyed.connect(self._forget_run_widget)

    def _forget_run_widget(self) -> None:
        self._run_widget = None

    @property
    def _shown(self) -> ShownRun | None:
        return None if self._run_widget is None else self._run_widget.shown

    def _on_run_shown(self, shown: ShownRun) -> None:
        self._forget()
        if self.mode.isChecked():
            self._load(shown)

    def _forget(self) -> None:
        """Let go of the run that was inspected."""
        self._loading.cancel()
        self._computing.cancel()
        if self._job is not None:
            self._job.cancel()
        self._inspected, self._patches, self._layers.slide = None, [], None
        self._maps.clear()
        self._number += 1
        self.query_layer.clear()
        self.patch_section.clear()
        self.what_if_section.clear()
        self.trust_section.clear()
        self._set_usable(False)

    def _load(self, shown: ShownRun) -> None:
        self.message.say("Reading the model and the features of the run…")
        self._loading.request(lambda progress, stop: Inspected.of(shown))

    def _take(self, inspected: Inspected) -> None:
        self._inspected, self._layers.slide = inspected, inspected.shown.slide
        header = inspected.subject.header
        self.target.blockSignals(True)
        self.target.clear()
        self.target.addItem(_TARGETS, None)
        if header.task == "survival":
            self.target.addItem("Risk", "risk")
        for number, name in enumerate(header.class_names):
            self.target.addItem(name, number)
        self.target.blockSignals(False)
        self.message.clear()
        self._set_usable(True)
        self._follow_layers()
        self._inspect([int(np.argmax(inspected.shown.prediction.attention))])

    def _cannot_inspect(self, sentence: str) -> None:
        self.mode.setChecked(False)
        self._complain(sentence)

    # -- the mode -------------------------------------------------------------------------

    def _set_mode(self, is_on: bool) -> None:
        if is_on == (self._keys is not None):
            return
        if not is_on:
            self._leave()
            return
        self._follow_run(may_dock=True)
        shown = self._shown
        if shown is None:
            self.mode.setChecked(False)
            self.message.say(
                "There is no run to inspect yet: run a model, or open a saved run, in the "
                "widget Run 2DMamba",
                "warning",
            )
            return
        self.mode.setText(_STOP)
        self.hint.show()
        self._viewer.mouse_drag_callbacks.append(self._on_press)
        bindings: dict[str, Callable[[Any], None]] = {
            name: self._arrow(*step) for name, step in ARROWS.items()
        }
        bindings["Escape"] = self._escape()
        self._keys = {
            key: self._viewer.bind_key(key, action, overwrite=True)
            for key, action in bindings.items()
        }
        if self._inspected is None or self._inspected.shown.prediction is not shown.prediction:
            self._load(shown)
        else:
            self._inspect(self._patches)

    def _leave(self) -> None:
        if self._on_press in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._on_press)
        for key, before in (self._keys or {}).items():
            self._viewer.bind_key(key, before, overwrite=True)
        self._keys = None
        self.mode.setText(_START)
        self.hint.hide()
        self._loading.cancel()
        self.query_layer.clear()
        self.message.clear()

    def _on_mouse_press(self, viewer: "Viewer", event: Any) -> Iterator[None]:
        active = viewer.layers.selection.active
        if self._inspected is None or event.button != 1:
            return
        if active is not None and str(active.mode) not in ("pan_zoom", "transform"):
            return  # the user draws
        start = np.array(event.pos, dtype=float)
        yield
        while event.type == "mouse_move":
            yield
        if np.abs(np.array(event.pos) - start).max() <= _CLICK_PIXELS:
            self.inspect_at(event.position, add="Shift" in event.modifiers)

    def inspect_at(self, position: tuple[float, ...], *, add: bool = False) -> None:
        """Inspect the patch at a world position; ``add`` keeps those inspected before."""
        inspected = self._inspected
        if inspected is None:
            return
        unit = inspected.shown.slide.mpp or 1.0
        y, x = (value / unit + 0.5 for value in position[-2:])  # whole numbers are pixel centres
        patch = inspected.subject.patch_at(x, y)
        if patch is None:
            self.message.say("No patch lies there; click on tissue that was cut into patches")
            return
        kept = [one for one in self._patches if one != patch] if add else []
        self._inspect([*kept, patch])

    def step(self, rows: int, cols: int) -> None:
        """Inspect the next patch in a direction, as the arrow keys do."""
        if self._inspected is None or not self._patches:
            return
        patch = self._inspected.neighbour(self._patches[-1], rows, cols)
        if patch is not None:
            self._inspect([patch])

    def leave(self) -> None:
        """End the Inspect mode, as Escape does; the maps stay."""
        self.mode.setChecked(False)

    @property
    def inspected_patches(self) -> tuple[int, ...]:
        """Numbers of the patches that are inspected, the last one clicked at the end."""
        return tuple(self._patches)

    @property
    def is_busy(self) -> bool:
        """Whether anything is read or computed."""
        lives = (self._loading, self._computing, self._reading)
        return self._job is not None or any(jobs.is_busy for jobs in lives)

    # -- live maps ------------------------------------------------------------------------

    def _inspect(self, patches: list[int]) -> None:
        inspected = self._inspected
        assert inspected is not None
        self._patches = patches
        if not patches:
            return
        if self.message.kind != "error":
            self.message.clear()
        subject, slide = inspected.subject, inspected.shown.slide
        size = subject.bag.patch_size_level0
        corners = [subject.corner_of(patch) for patch in patches]
        self.query_layer.show(slide, corners, size)
        side = round(PICTURE_SIDE * self.devicePixelRatioF())

        def read(progress: ProgressCallback, stop: StopCallback) -> Any:
            return read_patches(slide, corners[-1:], size, side, stop)[0]

        self._reading.request(read)
        for name in [name for name in self._maps if MAPS[name].at_patch]:
            del self._maps[name]
        self._show_numbers()
        self._compute()

    def _compute(self) -> None:
        """Compute the ticked maps that are not up to date."""
        inspected, patches = self._inspected, tuple(self._patches)
        names = [name for name in self.map_list.ticked_names if name not in self._maps]
        self._number += 1
        if inspected is None or not patches:
            return
        take = partial(self._computed.emit, self._number)
        self._computing.request(live_maps(inspected, names, patches, self._target, take))

    @property
    def _target(self) -> Target:
        target: Target = self.target.currentData()
        return target

    def _take_map(self, number: int, name: str, grid_map: GridMap) -> None:
        inspected = self._inspected
        if number != self._number or inspected is None:
            return  # of an earlier query
        self._maps[name] = grid_map
        layer, is_new = self._layers.show(grid_map, self._display_of_new(name))
        if is_new and (name == self.map_list.current or not self._layer(self.map_list.current)):
            self._layers.look_at(layer)
        self._show_numbers()

    def _display_of_new(self, name: str) -> DisplaySettings:
        if self.link.isChecked():
            for other in self._layers.by_name().values():
                return other.display
        return first_display(name)

    def _on_computed(self, result: object = None) -> None:
        self.message.clear()
        self._tell_run()

    def _tell_run(self) -> None:
        """Let the exports and the record of the run hold the maps."""
        inspected = self._inspected
        if self._run_widget is None or inspected is None:
            return
        numbers = [inspected.numbers(patch, self._about(patch)) for patch in self._patches]
        about = {
            "target": self._target,
            "queries": [one.record() for one in numbers],
            "maps": {
                name: {"title": one.name, "meaning": one.meaning}
                for name, one in self._maps.items()
            },
        }
        self._run_widget.set_more_maps(tuple(self._maps.values()), about)

    def _about(self, patch: int) -> dict[str, GridMap]:
        """Return the maps that say something of one patch."""
        if len(self._patches) == 1:
            return self._maps
        return {name: one for name, one in self._maps.items() if not MAPS[name].at_patch}

    def _show_numbers(self) -> None:
        if self._inspected is not None and self._patches:
            patch = self._patches[-1]
            numbers = self._inspected.numbers(patch, self._about(patch))
            self.patch_section.show_numbers(numbers, len(self._patches))

    def _layer(self, name: str) -> HeatmapLayer | None:
        return self._layers.by_name().get(name)

    def _look_at(self, name: str) -> None:
        self._layers.look_at(self._layer(name))

    def _on_tick(self, name: str, is_on: bool) -> None:
        if is_on:
            self._compute()
            return
        layer = self._layer(name)
        self._maps.pop(name, None)
        if layer is not None:
            self._viewer.layers.remove(layer)
        self._tell_run()

    def _on_target(self) -> None:
        for name in [name for name in self._maps if not MAPS[name].at_patch]:
            del self._maps[name]
        self._compute()

    def _on_link(self, is_on: bool) -> None:
        self._layers.linked = is_on
        layer = self._layer(self.map_list.current)
        if is_on and layer is not None:
            self._layers.spread_display(layer)

    def _follow_layers(self, event: Any = None) -> None:
        inspected = self._inspected
        self.what_if_section.set_places(places(self._viewer))
        if inspected is None:
            return
        slide = inspected.shown.slide
        self.trust_section.set_maps([one.name for one in map_layers(self._viewer, slide)])
        if event is None or event.type != "removed":
            return
        if slide not in open_slides(self._viewer):
            self.mode.setChecked(False)
            return
        if isinstance(event.value, HeatmapLayer):  # removed by the user: no longer wanted
            for name, one in list(self._maps.items()):
                if one is event.value.grid_map:
                    del self._maps[name]
                    self.map_list.tick(name, False)

    # -- what if --------------------------------------------------------------------------

    def _draw_region(self) -> None:
        if self._inspected is None:
            return
        start_drawing(self._viewer, self._inspected.shown.slide)
        self.what_if_section.where.setCurrentText(REGION_LAYER)
        self.message.say("Click the corners of the region on the slide; a double click ends it.")

    def _chosen_patches(self, where: str) -> np.ndarray:
        assert self._inspected is not None
        if where == INSPECTED:
            return np.array(self._patches, dtype=np.int64)
        layer = self._viewer.layers[where]
        layer.mode = "pan_zoom"  # clicks inspect again
        return patches_drawn(layer, self._inspected.subject, self._inspected.shown.slide)

    def _edit(self, where: str, action: Action) -> None:
        if self._inspected is not None:
            self.message.clear()
            patches = self._chosen_patches(where)
            self._change(lambda c: c.apply(patches, action))

    def _change(self, step: Callable[[Any], Counterfactual]) -> None:
        inspected = self._inspected
        if inspected is None:
            return
        edits = inspected.counterfactuals
        self._start(lambda progress, stop: step(edits), self._show_change, "Stopped.")

    def _show_change(self, found: Counterfactual) -> None:
        inspected = self._inspected
        if inspected is None:
            return
        steps = len(inspected.counterfactuals)
        self.what_if_section.show_change(found, steps)
        layer = self._show_extra(found.attention_change)
        if not steps:
            self._viewer.layers.remove(layer)
            self._look_at(self.map_list.current)

    def _show_extra(self, grid_map: GridMap) -> HeatmapLayer:
        layer, _ = self._layers.show(grid_map, DisplaySettings(transform="raw", opacity=0.65))
        self._layers.look_at(layer)
        return layer

    def _search(self) -> None:
        inspected = self._inspected
        if inspected is None:
            return

        def show(found: Decisive) -> None:
            self.what_if_section.say(found.verdict)
            if found.found:
                self._show_extra(found.map)

        task = fewest_patches(inspected.counterfactuals.subject, self._target)
        self._start(task, show, "Stopped; nothing was changed.")

    # -- trust ----------------------------------------------------------------------------

    def _check(self, name: str) -> None:
        inspected = self._inspected
        if inspected is None or name not in self._viewer.layers:
            return
        subject = inspected.counterfactuals.subject
        layers = map_layers(self._viewer, inspected.shown.slide)
        scores = {one.name: subject.scores_of_map(one.grid_map) for one in layers}
        others = [one for one in scores if one != name][:_MOST_COMPARED]
        alike = {one: agreement(scores[name], scores[one]) for one in others}
        compared = {one: scores[one] for one in (name, *others)}
        self._start(
            deletion_and_insertion(subject, compared, self._target),
            lambda found: self.trust_section.show_check(name, found, alike),
            "Stopped.",
        )

    def _check_stability(self) -> None:
        inspected = self._inspected
        if inspected is None:
            return
        task = stability(inspected.counterfactuals.subject)
        self._start(task, self.trust_section.show_stability, "Stopped.")

    # -- jobs that take long --------------------------------------------------------------

    def _save(self) -> None:
        shown = self._shown
        if shown is None:
            return
        folder = shown.folder
        if folder is None:
            self._complain("this run is not saved in a folder; export it first")
            return
        layers = map_layers(self._viewer, shown.slide)
        display = next((one.display for one in layers if one.visible), None)

        def task(progress: ProgressCallback, stop: StopCallback) -> Any:
            return save_run(
                folder, shown.record, grid=shown.grid, prediction=shown.prediction,
                maps=shown.maps, display=display,
            )  # fmt: skip

        self._start(
            task,
            lambda written: self.footer.message.say(f"Saved in {written}", "good"),
            "Stopped; nothing was written.",
        )

    def _start(self, task: Any, on_success: Callable[[Any], Any], if_cancelled: str) -> None:
        if self._job is not None:
            self.message.say("One thing at a time: wait, or cancel what runs", "warning")
            return
        job = Job(task)
        job.progressed.connect(self.footer.show_progress)
        job.succeeded.connect(on_success)
        job.failed.connect(self._complain)
        job.cancelled.connect(lambda: self.footer.message.say(if_cancelled))
        job.finished.connect(self._on_finished)
        self.destroyed.connect(job.cancel)
        self._job = job
        self.footer.set_running(True)
        job.start()

    def _on_finished(self) -> None:
        self._job = None
        self.footer.set_running(False)

    def _cancel(self) -> None:
        if self._job is not None:
            self.footer.set_stopping()
            self._job.cancel()

    def _complain(self, sentence: str) -> None:
        self.message.say(sentence, "error")
        show_error(sentence)

    # -- keys -----------------------------------------------------------------------------

    def _arrow(self, rows: int, cols: int) -> Callable[[Any], None]:
        step = weak_callback(self.step)

        def press(viewer: Any) -> None:
            step(rows, cols)

        return press

    def _escape(self) -> Callable[[Any], None]:
        leave = weak_callback(self.leave)

        def press(viewer: Any) -> None:
            leave()

        return press
