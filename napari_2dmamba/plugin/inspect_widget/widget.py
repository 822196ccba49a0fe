"""The widget *Inspect 2DMamba*: joins its sections, the viewer and the jobs."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtCore import QSize, QTimer
from qtpy.QtWidgets import QCheckBox, QLabel, QPushButton, QVBoxLayout

from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.inspection import Inspection
from napari_2dmamba.explain.patch_numbers import PatchNumbers, numbers_of
from napari_2dmamba.export.record import ExplainedMap, Explanations
from napari_2dmamba.export.record_of_run import explained_patch
from napari_2dmamba.export.run_folder import save_run
from napari_2dmamba.plugin.inspect_widget.follow_mouse import FollowMouse
from napari_2dmamba.plugin.inspect_widget.live_maps import LiveMaps
from napari_2dmamba.plugin.inspect_widget.map_list import MapList
from napari_2dmamba.plugin.inspect_widget.map_options_form import MapOptionsForm
from napari_2dmamba.plugin.inspect_widget.patch_section import PICTURE_SIDE, PatchSection
from napari_2dmamba.plugin.inspect_widget.query_layer import QueryLayer
from napari_2dmamba.plugin.inspect_widget.trust import Trust
from napari_2dmamba.plugin.inspect_widget.trust_section import TrustSection
from napari_2dmamba.plugin.inspect_widget.what_if import WhatIf
from napari_2dmamba.plugin.inspect_widget.what_if_region import places
from napari_2dmamba.plugin.inspect_widget.what_if_section import WhatIfSection
from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.parts.docked import DockedWidget
from napari_2dmamba.plugin.parts.jobs import LatestJob
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.one_job import OneJob
from napari_2dmamba.plugin.parts.pictures import read_patches
from napari_2dmamba.plugin.parts.pointing import Pointing
from napari_2dmamba.plugin.parts.progress_footer import ProgressFooter
from napari_2dmamba.plugin.parts.section import Section, scrolling_column
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.plugin.session.run_subject import subject_of
from napari_2dmamba.plugin.session.shown_run import ShownRun
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari.viewer import Viewer

_START, _STOP = "Inspect", "Stop inspecting"


class InspectWidget(DockedWidget):
    """Ask the run on display why: patch by patch, with live maps.

    Parameters
    ----------
    napari_viewer
        The viewer whose current slide has the run on display, and that gets the layers.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        super().__init__()
        self.session = Session.of(napari_viewer)
        self._viewer = self.session.viewer
        self._is_on = False
        self.message = Message()
        self.mode = QPushButton(_START)
        self.hint = QLabel("Click a patch · shift-click adds one · arrow keys move · Escape ends")
        self.follow = QCheckBox("Follow the mouse; a click stays")
        self.patch_section = PatchSection()
        self.map_list = MapList()
        self.how = MapOptionsForm()
        self.lines = QCheckBox("Lines around 50, 90 and 99 % of a patch's map")
        self.link = QCheckBox("Same scale, contrast and opacity on all of them")
        self.ranges = QLabel()
        self.keep = QPushButton("Save these maps with the run")
        self.what_if_section = WhatIfSection()
        self.trust_section = TrustSection()
        self.footer = ProgressFooter()
        self.query_layer = QueryLayer(self.session)
        self.live = LiveMaps(self.session, self.map_list, self.query_layer, self)
        self._pointing = Pointing(self._viewer, self)
        self._following = FollowMouse(lambda: self.live.is_busy, self)
        self._telling = QTimer(self)
        self._telling.setSingleShot(True)  # once for all that changed at a time
        self._jobs = OneJob(self.footer, self)
        self._loading = LatestJob(self, delay_ms=0)
        self._reading = LatestJob(self, delay_ms=0)
        WhatIf(
            self.session, self.what_if_section, self.live, self._jobs, self.map_list, self.message
        )
        Trust(self.session, self.trust_section, self.live, self._jobs, self.map_list)
        self._lay_out()
        self._connect()
        self._set_usable(False)

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
        self.follow.setToolTip(
            "Maps of the patch under the mouse: those that come in about half a second keep up, "
            "others come when it rests"
        )
        self.follow.hide()
        self.lines.setChecked(True)
        self.lines.setToolTip(
            "Dark to light green: around the fewest patches that hold 50, 90 and 99 % of the map"
        )
        self.link.setToolTip(
            "On the raw scale, maps of one quantity then also end at one value; a range set by "
            "hand stays for the next patches"
        )
        self.ranges.setWordWrap(True)
        self.ranges.hide()
        self.keep.setToolTip("Saved maps are there again when the run is opened")
        self.footer.run.hide()
        self.maps_section = Section("Maps")
        for part in (self.map_list, self.how, self.lines, self.link, self.ranges, self.keep):
            self.maps_section.body.addWidget(part)
        head = QVBoxLayout()
        head.setContentsMargins(4, 4, 4, 0)
        head.setSpacing(4)
        for part in (self.mode, self.hint, self.follow, self.message):
            head.addWidget(part)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(head)
        layout.addWidget(
            scrolling_column(
                self.patch_section, self.maps_section, self.what_if_section, self.trust_section
            ),
            1,
        )
        layout.addWidget(self.footer)
        self.setMinimumWidth(380)

    def _connect(self) -> None:
        self.mode.toggled.connect(self._set_mode)
        self._pointing.clicked.connect(self._on_click)
        self._pointing.moved.connect(self._on_move)
        self._pointing.stepped.connect(self.step)
        self._pointing.ended.connect(self.leave)
        self._loading.succeeded.connect(self._take)
        self._loading.failed.connect(self._cannot_inspect)
        self._reading.succeeded.connect(self.patch_section.show_picture)
        self._reading.failed.connect(self._complain)
        self.live.changed.connect(self._telling.start)
        self._telling.timeout.connect(self._show_numbers)
        self.live.computed.connect(self._on_computed)
        self.live.failed.connect(self._on_map_failed)
        self._following.patch.connect(lambda patch: self._inspect([patch]))
        self._following.rested.connect(self._tell_run)
        self.live.computed.connect(self._following.go_on)
        self.live.failed.connect(self._following.go_on)
        self.follow.toggled.connect(self._following.forget)
        self.how.changed.connect(lambda: self.live.set_how(self.how.how))
        self.lines.toggled.connect(self.live.set_lines)
        self.link.toggled.connect(self.live.link)
        self.keep.clicked.connect(self._save)
        self._jobs.failed.connect(self._complain)
        for section in (self.what_if_section, self.trust_section):
            self._jobs.started.connect(partial(section.set_busy, True))
            self._jobs.finished.connect(partial(section.set_busy, False))
        events = self.session.events
        self.listen(events.current, self._follow_current)
        self.listen(events.run, self._follow_run)
        self.listen(events.patch, self._follow_patch)
        self.listen(events.layers, self._follow_layers)
        self.listen(events.regions, self._offer_regions)

    def let_go(self) -> None:
        """Disconnect from the viewer and stop what runs."""
        self._set_mode(False)
        super().let_go()
        self.query_layer.let_go()
        self.live.let_go()
        for jobs in (self._loading, self._reading, self._jobs):
            jobs.cancel()

    def _set_usable(self, usable: bool) -> None:
        for part in (self.maps_section, self.what_if_section, self.trust_section):
            part.setEnabled(usable)

    # -- the run --------------------------------------------------------------------------

    @property
    def _shown(self) -> ShownRun | None:
        slide = self.session.current
        return None if slide is None else slide.run

    def _follow_current(self, slide: SlideState | None) -> None:
        self._forget()
        self.message.clear()
        if self._is_on and self._shown is None:
            self.mode.setChecked(False)
            if slide is not None:
                self.message.say(f"{slide.name} has no run to inspect yet")
        elif self._is_on:
            self._load()
        self._follow_layers(slide)

    def _follow_run(self, slide: SlideState) -> None:
        if slide is self.session.current:
            self._follow_current(slide)

    def _follow_patch(self, slide: SlideState) -> None:
        """Inspect what was selected elsewhere, as in the gallery."""
        inspected = self.live.inspected
        if not self._is_on or inspected is None or slide is not self.live.layers.slide:
            return
        patches = self.live.patches
        if slide.patch is None or (
            patches and inspected.subject.corner_of(patches[-1]) == slide.patch
        ):
            return
        patch = inspected.subject.patch_with_corner(slide.patch)
        if patch is not None:
            self._inspect([patch])

    def _forget(self) -> None:
        """Let go of the run that was inspected."""
        for jobs in (self._loading, self._reading, self._jobs):
            jobs.cancel()
        self._following.forget()
        self.live.forget()
        self.query_layer.clear()
        self.patch_section.clear()
        self.what_if_section.clear()
        self.trust_section.clear()
        self._set_usable(False)

    def _load(self) -> None:
        shown = self._shown
        assert shown is not None
        self.message.say("Reading the model and the features of the run…")

        def read(progress: ProgressCallback, stop: StopCallback) -> tuple[ShownRun, Inspection]:
            inspection = Inspection.of(subject_of(shown))
            _ = inspection.counterfactuals  # a prediction, which the window must not wait for
            return shown, inspection

        self._loading.request(read)

    def _take(self, loaded: tuple[ShownRun, Inspection]) -> None:
        slide = self.session.current
        assert slide is not None  # else the reading was stopped
        shown, inspected = loaded
        self.live.start(slide, shown, inspected)
        self.how.offer(inspected)
        self.live.set_how(self.how.how)
        self.map_list.offer(inspected.subject.model)
        self.message.clear()
        self._set_usable(True)
        self._follow_layers(slide)
        patch = None if slide.patch is None else inspected.subject.patch_with_corner(slide.patch)
        best = int(np.argmax(shown.prediction.attention))
        self._inspect([best if patch is None else patch])

    def _cannot_inspect(self, sentence: str) -> None:
        self.mode.setChecked(False)
        self._complain(sentence)

    # -- the mode -------------------------------------------------------------------------

    def _set_mode(self, is_on: bool) -> None:
        if is_on == self._is_on:
            return
        if not is_on:
            self._leave()
            return
        shown = self._shown
        if shown is None:
            self.mode.setChecked(False)
            docks.show(self._viewer, docks.RUN)
            docks.raise_dock(self)
            self.message.say(
                "There is no run to inspect yet: run a model, or open a saved run, in the "
                "widget Run 2DMamba",
                "warning",
            )
            return
        self._is_on = True
        self.mode.setText(_STOP)
        self.hint.show()
        self.follow.show()
        self._pointing.start()
        asked = self.live.shown
        if asked is None or asked.prediction is not shown.prediction:
            self._load()
        else:
            self._inspect(self.live.patches)

    def _leave(self) -> None:
        self._is_on = False
        self._pointing.stop()
        self.mode.setText(_START)
        self.hint.hide()
        self.follow.hide()
        self._following.forget()
        self._loading.cancel()
        self.query_layer.clear()
        self.message.clear()

    def leave(self) -> None:
        """End the Inspect mode, as Escape does; the maps stay."""
        self.mode.setChecked(False)

    def _on_click(self, position: tuple[float, ...], add: bool) -> None:
        self.follow.setChecked(False)
        self.inspect_at(position, add=add)

    def _on_move(self, position: tuple[float, ...]) -> None:
        if self.follow.isChecked():
            patch = self._patch_at(position)
            if patch is not None:
                self._following.point(patch)

    def _patch_at(self, position: tuple[float, ...]) -> int | None:
        """Return the patch at a world position; None where there is none, or no run."""
        inspected, slide = self.live.inspected, self.live.layers.slide
        if inspected is None or slide is None:
            return None
        # whole numbers are pixel centres
        y, x = (value / slide.unit + 0.5 for value in position[-2:])
        return inspected.subject.patch_at(x, y)

    def inspect_at(self, position: tuple[float, ...], *, add: bool = False) -> None:
        """Inspect the patch at a world position; ``add`` keeps those inspected before."""
        if self.live.inspected is None:
            return
        patch = self._patch_at(position)
        if patch is None:
            self.message.say("No patch lies there; click on tissue that was cut into patches")
            return
        kept = [one for one in self.live.patches if one != patch] if add else []
        self._inspect([*kept, patch])

    def step(self, rows: int, cols: int) -> None:
        """Inspect the next patch in a direction, as the arrow keys do."""
        inspected = self.live.inspected
        if inspected is None or not self.live.patches:
            return
        patch = inspected.neighbour(self.live.patches[-1], rows, cols)
        if patch is not None:
            self._following.forget()
            self._inspect([patch])

    @property
    def inspected_patches(self) -> tuple[int, ...]:
        """Numbers of the patches that are inspected, the last one clicked at the end."""
        return tuple(self.live.patches)

    @property
    def is_busy(self) -> bool:
        """Whether anything is read or computed."""
        return any(one.is_busy for one in (self._jobs, self._loading, self._reading, self.live))

    # -- what is asked --------------------------------------------------------------------

    def _inspect(self, patches: list[int]) -> None:
        live, shown_on = self.live, self.live.layers.slide
        if live.shown is None or live.inspected is None or shown_on is None or not patches:
            return
        self.message.clear()
        self.footer.message.clear()
        subject, slide = live.inspected.subject, live.shown.slide
        size = subject.bag.patch_size_level0
        corners = [subject.corner_of(patch) for patch in patches]
        self.query_layer.show(shown_on, corners, size)
        side = round(PICTURE_SIDE * self.devicePixelRatioF())

        def read(progress: ProgressCallback, stop: StopCallback) -> Any:
            return read_patches(slide, corners[-1:], size, side, stop)[0]

        self._reading.request(read)
        self.live.ask(patches)
        self.session.select_patch(shown_on, corners[-1])

    def _show_numbers(self) -> None:
        live = self.live
        self.ranges.setText(live.layers.words())
        self.ranges.setVisible(bool(self.ranges.text()))
        if live.inspected is not None and live.patches:
            numbers = self._numbers(live.inspected, live.patches, live.maps)
            self.patch_section.show_numbers(
                numbers, len(live.patches), self.map_list.current, live.held
            )

    def _numbers(
        self, inspected: Inspection, patches: Sequence[int], maps: Mapping[str, GridMap]
    ) -> PatchNumbers:
        assert self.live.shown is not None  # what is inspected is shown
        attention = self.live.shown.prediction.attention
        return numbers_of(inspected, attention, patches, self.live.how, maps)

    def _on_computed(self) -> None:
        if not self._following.is_moving:  # else when the mouse rests: every dock listens
            self._tell_run()

    def _tell_run(self) -> None:
        """Let the exports and the record of the run hold the maps."""
        live, slide = self.live, self.live.layers.slide
        if slide is None or live.inspected is None:
            return
        about_one = live.maps if len(live.patches) == 1 else {}
        subject = live.inspected.subject
        asked = [self._numbers(live.inspected, [one], about_one) for one in live.patches]
        about = Explanations(
            live.how.target,
            range(subject.layers)[live.how.layer] + 1,
            live.how.channels,
            {name: ExplainedMap(one.name, one.meaning) for name, one in live.maps.items()},
            tuple(explained_patch(subject, one.patch, one.extents) for one in asked),
        )
        self.session.runs.set_more_maps(slide, tuple(live.maps.values()), about)

    def _on_map_failed(self, sentence: str) -> None:
        self.message.say(sentence, "error")
        self._tell_run()

    def _follow_layers(self, slide: SlideState | None) -> None:
        if slide is not self.session.current:
            return
        self._offer_regions(slide)
        if slide is not None and slide is self.live.layers.slide:
            self.trust_section.set_maps([one.name for one in self.session.runs.maps_of(slide)])
            self.live.follow_layers()

    def _offer_regions(self, slide: SlideState | None) -> None:
        if slide is self.session.current:
            self.what_if_section.set_places(list(places(self.session, slide)))

    def _save(self) -> None:
        shown = self._shown
        if shown is None:
            return
        folder = shown.folder
        if folder is None:
            self._complain("this run is not saved in a folder; export it first")
            return
        slide = self.session.current
        layers = [] if slide is None else self.session.runs.maps_of(slide)
        own = [one.display for one in layers if not one.grid_map.queries]
        display: DisplaySettings | None = own[0] if own else None

        def task(progress: ProgressCallback, stop: StopCallback) -> Any:
            return save_run(
                folder, shown.record, grid=shown.grid, prediction=shown.prediction,
                maps=shown.maps, regions=shown.regions, display=display,
            )  # fmt: skip

        self._jobs.start(
            task,
            lambda written: self.footer.message.say(f"Saved in {written}", "good"),
            "Stopped; nothing was written.",
        )

    def _complain(self, sentence: str) -> None:
        self.message.say(sentence, "error")
        show_error(sentence)
