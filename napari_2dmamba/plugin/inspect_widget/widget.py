"""The widget *Inspect 2DMamba*: joins its sections, the viewer and the jobs."""

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtCore import QSize
from qtpy.QtWidgets import QCheckBox, QLabel, QPushButton, QVBoxLayout

from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.export.record import ExplainedMap, Explanations
from napari_2dmamba.export.run_folder import save_run
from napari_2dmamba.plugin.commands import docked_run_widget, run_widget
from napari_2dmamba.plugin.docked import DockedWidget
from napari_2dmamba.plugin.inspect_widget.how_form import HowForm
from napari_2dmamba.plugin.inspect_widget.inspected import Inspected
from napari_2dmamba.plugin.inspect_widget.live import Live
from napari_2dmamba.plugin.inspect_widget.map_list import MapList
from napari_2dmamba.plugin.inspect_widget.patch_numbers import numbers_of
from napari_2dmamba.plugin.inspect_widget.patch_section import PICTURE_SIDE, PatchSection
from napari_2dmamba.plugin.inspect_widget.pointing import Pointing
from napari_2dmamba.plugin.inspect_widget.query_layer import QueryLayer
from napari_2dmamba.plugin.inspect_widget.trust import Trust
from napari_2dmamba.plugin.inspect_widget.trust_section import TrustSection
from napari_2dmamba.plugin.inspect_widget.what_if import WhatIf
from napari_2dmamba.plugin.inspect_widget.what_if_region import places
from napari_2dmamba.plugin.inspect_widget.what_if_section import WhatIfSection
from napari_2dmamba.plugin.jobs import LatestJob
from napari_2dmamba.plugin.map_layers import map_layers
from napari_2dmamba.plugin.one_job import OneJob
from napari_2dmamba.plugin.run_widget.gallery import read_patches
from napari_2dmamba.plugin.run_widget.message import Message
from napari_2dmamba.plugin.run_widget.progress_footer import ProgressFooter
from napari_2dmamba.plugin.section import Section, scrolling_column
from napari_2dmamba.plugin.shown_run import ShownRun
from napari_2dmamba.plugin.slide_layer import open_slides
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.plugin.run_widget import RunWidget

_START, _STOP = "Inspect", "Stop inspecting"


class InspectWidget(DockedWidget):
    """Ask the run on display why: patch by patch, with live maps.

    Parameters
    ----------
    napari_viewer
        The viewer whose Run widget shows the run, and that gets the layers.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._run_widget: RunWidget | None = None
        self._is_on = False
        self.message = Message()
        self.mode = QPushButton(_START)
        self.hint = QLabel("Click a patch · shift-click adds one · arrow keys move · Escape ends")
        self.patch_section = PatchSection()
        self.map_list = MapList()
        self.how = HowForm()
        self.lines = QCheckBox("Lines around 50, 90 and 99 % of a patch's map")
        self.link = QCheckBox("Same scale, contrast and opacity on all of them")
        self.ranges = QLabel()
        self.keep = QPushButton("Save these maps with the run")
        self.what_if_section = WhatIfSection()
        self.trust_section = TrustSection()
        self.footer = ProgressFooter()
        self.query_layer = QueryLayer(napari_viewer)
        self.live = Live(napari_viewer, self.map_list, self)
        self._pointing = Pointing(napari_viewer, self)
        self._jobs = OneJob(self.footer, self)
        self._loading = LatestJob(self, delay_ms=0)
        self._reading = LatestJob(self, delay_ms=0)
        WhatIf(
            napari_viewer, self.what_if_section, self.live, self._jobs, self.map_list, self.message
        )
        Trust(napari_viewer, self.trust_section, self.live, self._jobs, self.map_list)
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
        for part in (self.mode, self.hint, self.message):
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
        self._pointing.stepped.connect(self.step)
        self._pointing.ended.connect(self.leave)
        self._loading.succeeded.connect(self._take)
        self._loading.failed.connect(self._cannot_inspect)
        self._reading.succeeded.connect(self.patch_section.show_picture)
        self._reading.failed.connect(self._complain)
        self.live.changed.connect(self._show_numbers)
        self.live.computed.connect(self._tell_run)
        self.live.failed.connect(self._on_map_failed)
        self.how.changed.connect(lambda: self.live.set_how(self.how.how))
        self.lines.toggled.connect(self.live.set_lines)
        self.link.toggled.connect(self.live.link)
        self.keep.clicked.connect(self._save)
        self._jobs.failed.connect(self._complain)
        layers = self._viewer.layers.events
        for event in (layers.inserted, layers.removed):
            self.listen(event, self._follow_layers)

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
        self._jobs.cancel()
        self.live.forget()
        self.query_layer.clear()
        self.patch_section.clear()
        self.what_if_section.clear()
        self.trust_section.clear()
        self._set_usable(False)

    def _load(self, shown: ShownRun) -> None:
        self.message.say("Reading the model and the features of the run…")
        self._loading.request(lambda progress, stop: Inspected.of(shown))

    def _take(self, inspected: Inspected) -> None:
        self.live.start(inspected)
        self.how.offer(inspected)
        self.live.set_how(self.how.how)
        self.map_list.offer(inspected.subject.model)
        self.message.clear()
        self._set_usable(True)
        self._follow_layers()
        self._inspect([int(np.argmax(inspected.shown.prediction.attention))])

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
        self._is_on = True
        self.mode.setText(_STOP)
        self.hint.show()
        self._pointing.start()
        inspected = self.live.inspected
        if inspected is None or inspected.shown.prediction is not shown.prediction:
            self._load(shown)
        else:
            self._inspect(self.live.patches)

    def _leave(self) -> None:
        self._is_on = False
        self._pointing.stop()
        self.mode.setText(_START)
        self.hint.hide()
        self._loading.cancel()
        self.query_layer.clear()
        self.message.clear()

    def leave(self) -> None:
        """End the Inspect mode, as Escape does; the maps stay."""
        self.mode.setChecked(False)

    def _on_click(self, position: tuple[float, ...], add: bool) -> None:
        self.inspect_at(position, add=add)

    def inspect_at(self, position: tuple[float, ...], *, add: bool = False) -> None:
        """Inspect the patch at a world position; ``add`` keeps those inspected before."""
        inspected = self.live.inspected
        if inspected is None:
            return
        unit = inspected.shown.slide.mpp or 1.0
        y, x = (value / unit + 0.5 for value in position[-2:])  # whole numbers are pixel centres
        patch = inspected.subject.patch_at(x, y)
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
        inspected = self.live.inspected
        if inspected is None or not patches:
            return
        self.message.clear()
        subject, slide = inspected.subject, inspected.shown.slide
        size = subject.bag.patch_size_level0
        corners = [subject.corner_of(patch) for patch in patches]
        self.query_layer.show(slide, corners, size)
        side = round(PICTURE_SIDE * self.devicePixelRatioF())

        def read(progress: ProgressCallback, stop: StopCallback) -> Any:
            return read_patches(slide, corners[-1:], size, side, stop)[0]

        self._reading.request(read)
        self.live.ask(patches)

    def _show_numbers(self) -> None:
        live = self.live
        self.ranges.setText(live.layers.words())
        self.ranges.setVisible(bool(self.ranges.text()))
        if live.inspected is not None and live.patches:
            numbers = numbers_of(live.inspected, live.patches, live.how, live.maps)
            self.patch_section.show_numbers(
                numbers, len(live.patches), self.map_list.current, live.held
            )

    def _tell_run(self) -> None:
        """Let the exports and the record of the run hold the maps."""
        live = self.live
        if self._run_widget is None or live.inspected is None:
            return
        asked = [live.patches] if len(live.patches) == 1 else [[one] for one in live.patches]
        about_one = live.maps if len(live.patches) == 1 else {}
        about = Explanations(
            live.how.target,
            range(live.inspected.subject.layers)[live.how.layer] + 1,
            live.how.channels,
            {name: ExplainedMap(one.name, one.meaning) for name, one in live.maps.items()},
            tuple(numbers_of(live.inspected, one, live.how, about_one).record() for one in asked),
        )
        self._run_widget.set_more_maps(tuple(live.maps.values()), about)

    def _on_map_failed(self, sentence: str) -> None:
        self.message.say(sentence, "error")
        self._tell_run()

    def _follow_layers(self, event: Any = None) -> None:
        inspected = self.live.inspected
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
        self.live.follow_removed(event.value)

    def _save(self) -> None:
        shown = self._shown
        if shown is None:
            return
        folder = shown.folder
        if folder is None:
            self._complain("this run is not saved in a folder; export it first")
            return
        layers = map_layers(self._viewer, shown.slide)
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
