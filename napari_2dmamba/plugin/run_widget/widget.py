"""The widget *Run 2DMamba*: its sections, joined to the session, and the run itself."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error
from qtpy.QtCore import QSize, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QVBoxLayout

from napari_2dmamba.errors import UserError
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.run_library import new_run_folder
from napari_2dmamba.export.saved_run import SavedRun
from napari_2dmamba.features import MissingFeatureFactsError
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.pipeline import RunResult, RunSettings, run
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.layers.region_layers import drawn_regions
from napari_2dmamba.plugin.layers.slide_layer import view_region
from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.parts.docked import DockedWidget
from napari_2dmamba.plugin.parts.dropped import accept_drops, take
from napari_2dmamba.plugin.parts.features_section import FeaturesSection
from napari_2dmamba.plugin.parts.model_section import ModelSection
from napari_2dmamba.plugin.parts.one_job import OneJob
from napari_2dmamba.plugin.parts.progress_footer import ProgressFooter
from napari_2dmamba.plugin.parts.section import scrolling_column
from napari_2dmamba.plugin.parts.trust_question import may_run
from napari_2dmamba.plugin.run_widget.arriving_features import ArrivingFeatures, remove_arriving
from napari_2dmamba.plugin.run_widget.class_map import CLASS_DISPLAY, class_map
from napari_2dmamba.plugin.run_widget.export_section import EXPORTS, ExportSection
from napari_2dmamba.plugin.run_widget.exports import Export
from napari_2dmamba.plugin.run_widget.result_control import ResultControl
from napari_2dmamba.plugin.run_widget.result_section import ResultSection
from napari_2dmamba.plugin.run_widget.runs_control import RunsControl
from napari_2dmamba.plugin.run_widget.runs_section import RunsSection
from napari_2dmamba.plugin.run_widget.slide_control import SlideControl
from napari_2dmamba.plugin.run_widget.slide_section import SlideSection
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.plugin.session.opened_run import OpenedRun
from napari_2dmamba.plugin.session.preferences import features_folder, runs_folder
from napari_2dmamba.plugin.session.shown_run import ShownRun
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari.viewer import Viewer


class RunWidget(DockedWidget):
    """Choose slide, features and model; run; look at the result; export it.

    Everything is of the session's current slide. A run that ends after the user has gone to
    another slide waits on its own one.

    Parameters
    ----------
    napari_viewer
        The viewer whose slides are analysed and that gets the layers.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        super().__init__()
        self.session = Session.of(napari_viewer)
        self._viewer = self.session.viewer
        self.slide_section = SlideSection()
        self.features_section = FeaturesSection()
        self.model_section = ModelSection()
        self.result_section = ResultSection()
        self.runs_section = RunsSection()
        self.export_section = ExportSection()
        self.footer = ProgressFooter()
        self.jobs = OneJob(self.footer, self)
        self._lay_out()
        self._slides = SlideControl(self.session, self.slide_section, self, self._complain)
        self._result = ResultControl(self.session, self.result_section, self)
        self._trained: CheckpointHeader | None = None
        self.runs = RunsControl(self.session, self.runs_section, self.jobs, self)
        self._connect()
        self._start_with_choices()
        accept_drops(self._viewer)
        self._follow_current(self.session.current)

    def sizeHint(self) -> QSize:
        """Return a width at which all texts fit."""
        return QSize(400, 800)

    # -- what it is made of -----------------------------------------------------------------

    def _lay_out(self) -> None:
        self.scroll_area = scrolling_column(
            self.slide_section,
            self.features_section,
            self.model_section,
            self.result_section,
            self.runs_section,
            self.export_section,
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.scroll_area, 1)
        layout.addWidget(self.footer)
        self.setMinimumWidth(380)

    def _connect(self) -> None:
        self.slide_section.slides_wanted.connect(self.open_slides)
        self.slide_section.folder_wanted.connect(lambda folder: take(self.session, [folder]))
        self.slide_section.cohort_wanted.connect(lambda: docks.show(self._viewer, docks.COHORT))
        self.slide_section.regions_wanted.connect(lambda: docks.show(self._viewer, docks.REGIONS))
        self.features_section.changed.connect(self._choose_features)
        model = self.model_section
        model.checkpoint_changed.connect(self._choose_checkpoint)
        model.form.changed.connect(lambda: self.session.choose(model=model.settings))
        model.table_wanted.connect(lambda: docks.show(self._viewer, docks.CHECKPOINTS))
        self.result_section.class_map_wanted.connect(self.show_class_map)
        self.export_section.export_wanted.connect(self._export)
        self.export_section.all_wanted.connect(self._export_all)
        self.export_section.open_wanted.connect(self.open_saved_run)
        self.runs_section.show_wanted.connect(self.open_saved_run)
        self.runs_section.export_wanted.connect(self._export_saved)
        self.runs_section.report_wanted.connect(self._report_saved)
        self.runs.failed.connect(self._complain)
        self.runs.said.connect(lambda words: self.footer.message.say(words, "good"))
        self.footer.run_clicked.connect(self.start_run)
        self.jobs.failed.connect(self._complain)
        self.jobs.started.connect(lambda: self._set_busy(True))
        self.jobs.finished.connect(lambda: self._set_busy(False))
        events = self.session.events
        self.listen(events.current, self._follow_current)
        self.listen(events.choices, self._follow_choices)
        self.listen(events.mpp, self._forget_message)
        self.listen(events.regions, self._forget_message)
        self.listen(events.run, self._follow_run)
        self.listen(events.maps, self._offer_exports)
        self.listen(events.said, self.footer.message.say)

    def let_go(self) -> None:
        """Disconnect from the viewer and stop what runs."""
        super().let_go()
        self._slides.cancel()
        self._result.let_go()
        self.runs.let_go()
        self.model_section.cancel()
        for arriving in self.findChildren(ArrivingFeatures):
            arriving.let_go()
        self.jobs.cancel()

    # -- choices ----------------------------------------------------------------------------

    def _start_with_choices(self) -> None:
        """Begin with the session's choices; what it has none of is what the sections say."""
        choices = self.session.choices
        if choices.checkpoint.location:
            self.model_section.restore(choices.checkpoint)
        else:
            self.session.choose(model=self.model_section.settings)
            self._choose_checkpoint(self.model_section.header)
        self._follow_choices()

    def _follow_choices(self, slide: SlideState | None = None) -> None:
        choices = self.session.choices
        self.features_section.show_choices(choices)
        if choices.checkpoint.location != self.model_section.checkpoints.location:
            self.model_section.restore(choices.checkpoint)
        self.model_section.form.set_settings(choices.model)
        self._forget_message()
        self._allow_run()

    def _choose_features(self) -> None:
        section = self.features_section
        self.session.choose(
            features=section.settings,
            from_file=section.from_file.isChecked(),
            feature_file=section.chosen_file,
            feature_facts=section.facts,
        )

    def _choose_checkpoint(self, header: CheckpointHeader | None) -> None:
        """Take the model, with patches and encoder of its training."""
        choices, section = self.session.choices, self.model_section
        grid = choices.grid
        if header is not None:
            grid = grid.trained_for(header, before=choices.checkpoint.header or self._trained)
            self._trained = header
        self.features_section.follow_checkpoint(header)
        self.session.choose(
            checkpoint=section.chosen, grid=grid, features=self.features_section.settings
        )
        self._allow_run()

    def _set_busy(self, is_busy: bool) -> None:
        """Grey what would be refused while one thing is done."""
        for section in (self.runs_section, self.export_section):
            section.set_busy(is_busy)
        self.result_section.class_map.setEnabled(not is_busy)
        if not is_busy:
            self.features_section.show_facts()  # the speed of the encoder may be known now
        self._allow_run()

    def _allow_run(self) -> None:
        usable = self.session.choices.checkpoint.model is not None
        self.footer.run.setEnabled(usable and not self.is_running)

    @property
    def run_settings(self) -> RunSettings:
        """How the current slide is analysed."""
        return self.session.choices.run_settings

    # -- the current slide ------------------------------------------------------------------

    def open_slides(self, paths: Sequence[str | Path]) -> tuple[str, ...]:
        """Open slide files; returns, and shows, one sentence for each that cannot be opened."""
        problems = self.session.open(paths)
        for problem in problems:
            self._complain(problem)
        return problems

    def _follow_current(self, slide: SlideState | None) -> None:
        checkpoint = self.session.choices.checkpoint
        if checkpoint.location and checkpoint != self.model_section.chosen:
            self.model_section.restore(checkpoint)
        self._follow_choices()
        self._show_device()
        self._offer_exports(slide)
        has_result = slide is not None and slide.run is not None
        self.result_section.set_open(has_result)

    def _follow_run(self, slide: SlideState) -> None:
        if slide is not self.session.current:
            return
        self._forget_message()
        self._show_device()
        self._offer_exports(slide)
        if slide.run is not None:
            for section in (self.slide_section, self.features_section, self.model_section):
                section.set_open(False)
            self.result_section.set_open(True)
            self.scroll_area.ensureVisible(0, 0)

    def _show_device(self) -> None:
        if self.shown is not None:
            said = self.shown.prediction
            reason = str(said.extra.get("device_reason", ""))
            self.model_section.show_device(said.device, reason, said.backend)

    def _offer_exports(self, slide: SlideState | None) -> None:
        if slide is self.session.current:
            self.export_section.set_run(self.shown)

    def _forget_message(self, slide: SlideState | None = None) -> None:
        """Take away what was said of an earlier state of things."""
        self.footer.message.clear()

    @property
    def shown(self) -> ShownRun | None:
        """The run on display."""
        slide = self.session.current
        return None if slide is None else slide.run

    @property
    def map_layer(self) -> HeatmapLayer | None:
        """The map whose values the panel shows."""
        return self._result.map_layer

    # -- running ----------------------------------------------------------------------------

    def start_run(self) -> None:
        """Run the chosen model on the slide that is looked at."""
        if self.is_running:
            return
        slide, choices = self.session.current, self.session.choices
        problem = self._what_is_missing()
        checkpoint = choices.checkpoint.model
        if slide is None or checkpoint is None or problem:
            self._complain(problem)
            return
        opened, settings, features = slide.slide, choices.run_settings, choices.features_to_read
        if features is None and not self._may_run(settings.features.encoder):
            return
        regions = drawn_regions(self.session, slide)
        try:
            out = new_run_folder(runs_folder(), opened, choices.checkpoint.name)
        except UserError as error:
            self._complain(str(error))
            return
        arriving = ArrivingFeatures(self.session, slide, self)
        missing: list[str] = []  # what the file with features does not say

        def task(progress: ProgressCallback, stop: StopCallback) -> RunResult:
            load_torch(progress)
            try:
                return run(
                    opened,
                    checkpoint,
                    settings,
                    features=features,
                    regions=regions,
                    out=out,
                    cache=features_folder(opened),
                    on_progress=progress,
                    on_batch=arriving.on_batch,
                    should_stop=stop,
                )
            except MissingFeatureFactsError as error:
                missing.extend(error.missing)
                raise

        def show(result: RunResult) -> None:
            arriving.end()
            remove_arriving(self.session, slide)
            made = ShownRun(
                opened, result.grid, result.prediction, (result.attention_map,), result.record,
                result.folder, result.bag, regions,
            )  # fmt: skip
            self.session.runs.show(slide, made)
            if slide is not self.session.current:
                self.footer.message.say(
                    f"The run of {slide.name} has ended; choose that slide to see its result",
                    "good",
                )

        kept = "Stopped; the features finished so far are kept for the next run."
        job = self.jobs.start(task, show, kept, can_pause=True)
        assert job is not None  # nothing else runs
        self.session.begin(slide, job)
        job.held.connect(arriving.show)
        job.failed.connect(arriving.end)
        job.failed.connect(lambda sentence: self._tell_failed(slide, sentence, missing))
        job.cancelled.connect(arriving.end)
        job.finished.connect(lambda: self.session.end(slide, job))

    def _tell_failed(self, slide: SlideState, sentence: str, missing: Sequence[str]) -> None:
        """Ask for what its file does not say; of a slide that is not looked at, say which it is."""
        if slide is self.session.current:
            self.features_section.ask(missing)
        else:
            self.footer.message.say(f"The run of {slide.name} has failed: {sentence}", "error")

    def _what_is_missing(self) -> str:
        """Return why nothing can run, or nothing."""
        slide, choices = self.session.current, self.session.choices
        if slide is None:
            return "no slide is open; open one with File > Open, or drop it here"
        if choices.checkpoint.model is None:
            return "no checkpoint can be used; choose one under Model and checkpoint"
        if not slide.can_be_cut:
            self.slide_section.set_open(True)
            return (
                f"{slide.name} states no µm per pixel; give it under Slide and tissue, or "
                "choose to work in pixels"
            )
        if choices.lacks_features:
            return "no feature file is chosen; choose one under Features"
        return ""

    def _may_run(self, encoder: str) -> bool:
        try:
            return may_run(self, encoder)
        except UserError as error:
            self._complain(str(error))
            return False

    def cancel(self) -> None:
        """Ask the running job to stop."""
        self.jobs.cancel()

    @property
    def is_running(self) -> bool:
        """Whether a run, an export or the opening of a run goes on."""
        return self.jobs.is_busy

    def _complain(self, sentence: str) -> None:
        self.footer.message.say(sentence, "error")
        show_error(sentence)

    def show_class_map(self, number: int) -> None:
        """Show which patches speak for a class, or for the hazard of a time bin."""
        slide, shown = self.session.current, self.shown
        if slide is None or shown is None or self.is_running:
            return

        def task(progress: ProgressCallback, stop: StopCallback) -> GridMap:
            return class_map(shown, number, progress, stop)

        def show(found: GridMap) -> None:
            if slide.run is None or slide.run.prediction is not shown.prediction:
                return  # another run is on display meanwhile
            layer = self.session.runs.show_map(slide, found, CLASS_DISPLAY)
            slide.map_name = found.name
            self.session.runs.look_at(slide, layer)
            self.session.events.maps.emit(slide)

        job = self.jobs.start(task, show, "Stopped; no map was made.")
        assert job is not None  # nothing else runs
        self.session.begin(slide, job)
        job.finished.connect(lambda: self.session.end(slide, job))

    # -- saving and opening -----------------------------------------------------------------

    def _export(self, kind: str, path: str, mpp: float | None) -> None:
        slide, shown, layer = self.session.current, self.shown, self.map_layer
        if slide is None or shown is None or self.is_running:
            return
        display = self.result_section.display if layer is None else layer.display
        grid_map = shown.maps[0] if layer is None else layer.grid_map
        grid_map = replace(grid_map, mpp=shown.mpp)  # of the run, whatever it is laid on
        view = view_region(self._viewer, slide.unit)
        with_patient = self.export_section.tells_of_patient
        export = Export(kind, Path(path), shown, grid_map, display, view, mpp, with_patient)
        self.jobs.start(export.write, self._tell_written, "Stopped; nothing was written.")

    def _export_all(self, out: str) -> None:
        """Write the run on display, with the maps and the look it has now, in every format."""
        shown, layer = self.shown, self.map_layer
        if shown is not None:
            display = self.result_section.display if layer is None else layer.display
            self._write_all(shown.as_saved(display), Path(out), shown.slide.path)

    def _export_saved(self, folder: Path) -> None:
        """Write a saved run in every format, as the command line does."""
        self._write_all(folder, folder / EXPORTS)

    def _report_saved(self, folder: Path) -> None:
        """Write the report of a saved run and show it in the browser."""

        def task(progress: ProgressCallback, stop: StopCallback) -> Path:
            from napari_2dmamba.export.exporting import export_run

            out = folder / EXPORTS
            return export_run(
                folder, formats=("report",), out=out, on_progress=progress, should_stop=stop
            )[0]

        def show(written: Path) -> None:
            self._tell_written(written)
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(written)))

        self.jobs.start(task, show, "Stopped; no report was written.")

    def _write_all(self, run: SavedRun | Path, out: Path, slide_path: Path | None = None) -> None:
        def task(progress: ProgressCallback, stop: StopCallback) -> Path:
            from napari_2dmamba.export.exporting import export_run

            export_run(
                run, out=out, slide_path=slide_path, on_progress=progress, should_stop=stop
            )  # fmt: skip
            return out

        stopped = f"Stopped; files that were finished are in {out}."
        self.jobs.start(task, self._tell_written, stopped)

    def _tell_written(self, written: Path) -> None:
        self.footer.message.say(f"Written: {written.name}", "good")
        self.export_section.show_written(written)

    def open_saved_run(self, folder: str | Path) -> None:
        """Open a saved run with its slide, regions, maps, µm per pixel, settings and model."""
        if self.is_running:
            return
        already_open = [slide.slide for slide in self.session.slides]

        def task(progress: ProgressCallback, stop: StopCallback) -> OpenedRun:
            return OpenedRun.of(folder, already_open)

        def show(opened: OpenedRun) -> None:
            opened.put_on_display(self.session)

        self.jobs.start(task, show, "Stopped; nothing was opened.")


def load_torch(progress: ProgressCallback) -> None:
    """Load the part of PyTorch that models need, which takes seconds, and say so."""
    name = "torch._dynamo"  # what the first model imports, and nothing before
    if name not in sys.modules:
        progress(0, 0, "loading PyTorch, for the first run only…")
        import_module(name)
