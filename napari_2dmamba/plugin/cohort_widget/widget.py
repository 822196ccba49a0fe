"""The widget *Cohort 2DMamba*: joins its sections, the table, the viewer and the work."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Qt, QTimer, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QVBoxLayout

from napari_2dmamba.cohort import (
    CohortSlide,
    CohortSummary,
    SlideStatus,
    extract_cohort,
    run_cohort,
)
from napari_2dmamba.cohort import status as states
from napari_2dmamba.cohort.following import Following
from napari_2dmamba.cohort.pace import in_words
from napari_2dmamba.cohort.settings_file import SavedSettings, read_settings
from napari_2dmamba.cohort.status import CohortReader
from napari_2dmamba.errors import UserError
from napari_2dmamba.export.run_folder import RECORD_FILE
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.plugin.cohort_widget.footer import CohortFooter
from napari_2dmamba.plugin.cohort_widget.log_window import show_log
from napari_2dmamba.plugin.cohort_widget.slide_rows import SlideRows
from napari_2dmamba.plugin.cohort_widget.slides_section import SlidesSection
from napari_2dmamba.plugin.cohort_widget.table_view import TableView
from napari_2dmamba.plugin.cohort_widget.work_sections import OutputSection, PatchesSection
from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.parts.docked import DockedWidget
from napari_2dmamba.plugin.parts.features_section import FeaturesSection
from napari_2dmamba.plugin.parts.jobs import Job, LatestJob
from napari_2dmamba.plugin.parts.model_section import ModelSection
from napari_2dmamba.plugin.parts.section import scrolling_column
from napari_2dmamba.plugin.parts.settings_beside import SettingsBeside
from napari_2dmamba.plugin.parts.trust_question import may_run
from napari_2dmamba.plugin.session import Session
from napari_2dmamba.plugin.session.opened_run import OpenedRun
from napari_2dmamba.plugin.session.preferences import runs_folder
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari.viewer import Viewer

_MS_BETWEEN_UPDATES = 250
_MS_BETWEEN_LOOKS = 3000
_LOG_FILE = "log.txt"
_TO_RETRY = (states.FAILED, states.STOPPED)


class CohortWidget(DockedWidget):
    """Name slides, run or extract them in processes of their own, and follow each of them.

    Parameters
    ----------
    napari_viewer
        The viewer that shows the results that are opened.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        super().__init__()
        self.session = Session.of(napari_viewer)
        self._viewer = self.session.viewer
        self._job: Job | None = None
        self._following: Following | None = None
        self._last_with_model: bool | None = None
        self._reader: CohortReader | None = None
        self.slides_section = SlidesSection()
        self.features_section = FeaturesSection(of_many=True)
        self.model_section = ModelSection()
        self.patches_section = PatchesSection()
        self.output_section = OutputSection()
        self.table = SlideRows()
        self.view = TableView(self.table)
        self.footer = CohortFooter()
        self._opening = LatestJob(self, delay_ms=0)
        self._opening_run = LatestJob(self, delay_ms=0)
        self._timer = QTimer(self)
        self._timer.setInterval(_MS_BETWEEN_UPDATES)
        self._timer.timeout.connect(self._show_news)
        self._looking = QTimer(self)
        self._looking.setInterval(_MS_BETWEEN_LOOKS)
        self._looking.timeout.connect(self._look_again)
        self.setAcceptDrops(True)
        self._lay_out()
        self._connect()
        self._follow_checkpoint(self.model_section.header)
        self._follow_table()

    def _lay_out(self) -> None:
        self.model_section.set_open(False)
        self.sections = scrolling_column(
            self.slides_section,
            self.output_section,
            self.model_section,
            self.features_section,
            self.patches_section,
        )
        self.splitter = SettingsBeside(self.sections, self.view, self.footer)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.splitter)

    def _make_room(self) -> None:
        """Fold what is set, so that the table below it is seen."""
        for section in (self.model_section, self.features_section, self.patches_section):
            section.set_open(False)
        if self.splitter.orientation() == Qt.Orientation.Vertical:
            self.slides_section.set_open(False)
            self.output_section.set_open(False)
            self.splitter.setSizes([180, self.height() - 180])

    def _connect(self) -> None:
        self.slides_section.slides_found.connect(self._show_slides)
        self.output_section.out_changed.connect(self.slides_section.set_out)
        self.output_section.cohort_wanted.connect(self.open_cohort)
        self.model_section.checkpoint_changed.connect(self._follow_checkpoint)
        self.model_section.table_wanted.connect(lambda: docks.show(self._viewer, docks.CHECKPOINTS))
        footer = self.footer
        footer.run_clicked.connect(self.start_run)
        footer.extract_clicked.connect(self.start_extraction)
        footer.retry_clicked.connect(self.retry)
        footer.pause_clicked.connect(self.pause)
        footer.cancel_clicked.connect(self.cancel)
        self.view.open_wanted.connect(self.open_result)
        self.view.folder_wanted.connect(self._show_folder)
        self.view.log_wanted.connect(self._show_log)
        self.table.reset.connect(self._follow_table)
        self.table.changed.connect(self._follow_table)
        self._opening.succeeded.connect(self._show_cohort)
        self._opening.failed.connect(self._complain)
        self._opening_run.succeeded.connect(self._show_run)
        self._opening_run.failed.connect(self._complain)

    def let_go(self) -> None:
        """Stop what runs; finished batches are kept."""
        super().let_go()
        self._timer.stop()
        self._looking.stop()
        self._opening.cancel()
        self._opening_run.cancel()
        self.slides_section.cancel()
        self.model_section.cancel()
        if self._job is not None:
            self._job.cancel()
            show_info(
                "The cohort stops after its present batches; open its folder again, and Run goes "
                "on from there"
            )

    # -- which slides ---------------------------------------------------------------------

    def dragEnterEvent(self, event: Any) -> None:
        """Accept files and folders."""
        data = event.mimeData()
        if data is not None and any(url.isLocalFile() for url in data.urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Take in slides, folders and lists; the folder of a cohort is opened."""
        data = event.mimeData()
        if data is None:
            return
        paths = [url.toLocalFile() for url in data.urls() if url.isLocalFile()]
        event.acceptProposedAction()
        if len(paths) == 1 and is_cohort(Path(paths[0])):
            self.open_cohort(paths[0])
        else:
            self.add_inputs(paths)

    def add_inputs(self, paths: Sequence[str | Path]) -> None:
        """Name folders, slide files and ``.csv`` lists."""
        if self._job is not None:
            self._complain("slides cannot be added while others are worked on; wait, or cancel")
            return
        if paths:
            first = Path(paths[0])
            name = first.name if first.is_dir() else first.stem
            self.output_section.suggest(runs_folder() / f"cohort {name}")
        self.slides_section.add_inputs(paths)

    def _show_slides(self, slides: list[CohortSlide]) -> None:
        if self._job is None:
            self._looking.stop()
            self.footer.message.clear()
            self.footer.say("")
            self.table.set_rows(_waiting(slides))

    def open_cohort(self, folder: str | Path) -> None:
        """Show the table of a folder that holds results already."""
        if self._job is not None:
            self._complain("another cohort is at work; wait, or cancel it first")
            return
        self._read(Path(folder))

    def _read(self, folder: Path) -> None:
        if self._reader is None or self._reader.out != folder:
            self._reader = CohortReader(folder)
        reader = self._reader

        def task(progress: ProgressCallback, stop: StopCallback) -> CohortSummary:
            return reader.read()

        self._opening.request(task)

    def _show_cohort(self, summary: CohortSummary) -> None:
        if self._job is not None:
            return
        if not summary.rows:
            self._complain(
                f"{summary.out} holds no cohort (no folder in it has a status.json); choose the "
                "folder that results were written to"
            )
            return
        folder = self.output_section.folder
        if self._looking.isActive() and folder == summary.out:
            self.table.update(summary.rows)
        else:
            self.output_section.set_folder(summary.out)
            self.slides_section.set_opened(summary.out, summary.rows)
            self.table.set_rows(summary.rows)
            self._last_with_model = None
            self.footer.message.clear()
            self._take_over(read_settings(summary.out))
        running = summary.count(states.RUNNING)
        if running:
            self._looking.start()
            self.footer.say(f"{summary.sentence()}, {running} worked on by another run now")
        else:
            self._looking.stop()
            self.footer.say(summary.sentence())

    def _take_over(self, made: SavedSettings | None) -> None:
        """Set what the cohort was made with, so that going on does not do it all again."""
        if made is None:
            self.footer.message.say(
                "This folder does not say with which settings it was made; set them before you "
                "go on, or its slides are done again",
                "warning",
            )
            return
        what = "Features" if made.checkpoint is None else "Checkpoint, model, features"
        self.footer.message.say(
            f"{what}, patches and regions are set again as this cohort was made with them, so "
            "that going on does nothing twice"
        )
        if made.checkpoint is not None:
            path = Path(made.checkpoint)
            if not path.is_file():
                self.footer.message.say(
                    f"The checkpoint of this cohort, {path}, is gone; choose where it is now, or "
                    "its slides are done again with another one",
                    "warning",
                )
            elif path != self.model_section.path:
                self.model_section.add_checkpoint(path, made.checkpoint_settings)
        self._last_with_model = made.checkpoint is not None
        settings, features = made.settings, self.features_section
        self.patches_section.set_settings(settings)
        self.patches_section.regions.set(made.regions)
        # Where it ran is no matter of the result, and may have been another machine
        model, device = self.model_section, self.model_section.settings.device
        model.form.set_settings(dataclasses.replace(settings.model, device=device))
        device = features.settings.device
        features.encoder_form.set_settings(dataclasses.replace(settings.features, device=device))
        features.file.set(made.features)
        (features.compute if made.features is None else features.from_file).setChecked(True)

    def _look_again(self) -> None:
        folder = self.output_section.folder
        if folder is not None and self._job is None:
            self._read(folder)

    def _follow_checkpoint(self, header: CheckpointHeader | None) -> None:
        self._follow_table()
        self.features_section.follow_checkpoint(header)
        if header is not None:
            self.patches_section.follow_checkpoint(header)

    def _follow_table(self) -> None:
        if self._job is None:
            has_model = self.model_section.header is not None
            self.footer.offer(len(self.table), with_model=has_model)
        self.footer.retry.setEnabled(self.table.count(*_TO_RETRY) > 0)

    # -- the work -------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether slides are worked on."""
        return self._job is not None

    def start_run(self) -> None:
        """Run the chosen model on every slide."""
        self._start(self.slides_section.slides, with_model=True)

    def start_extraction(self) -> None:
        """Compute the features of every slide."""
        self._start(self.slides_section.slides, with_model=False)

    def retry(self) -> None:
        """Do again what failed or was stopped, the way it was done last."""
        wanted = {row.slide for row in self.table.rows if row.state in _TO_RETRY}
        slides = [one for one in self.slides_section.slides if str(one.path) in wanted]
        self._start(slides, with_model=self._with_model, is_retry=True)

    def pause(self, is_wanted: bool) -> None:
        """Let every slide wait after its present batch, or go on."""
        if self._following is None:
            return
        if is_wanted:
            self._following.paused.set()
        else:
            self._following.paused.clear()
        self.table.set_paused(is_wanted)
        self._show_progress()

    def cancel(self) -> None:
        """Stop after the present batches."""
        if self._job is not None:
            self.footer.set_stopping()
            self._job.cancel()

    @property
    def _with_model(self) -> bool:
        """Whether the last work, or that in the folder, was a model's and not features alone."""
        if self._last_with_model is not None:
            return self._last_with_model
        done = [row for row in self.table.rows if row.good]
        if not done:
            return self.model_section.header is not None
        return any("feature_size" not in row.result for row in done)

    def _start(
        self, slides: list[CohortSlide], *, with_model: bool, is_retry: bool = False
    ) -> None:
        if self._job is not None:
            return
        problem = self._what_is_missing(slides, with_model)
        if problem:
            self._complain(problem)
            return
        out, features = self.output_section.folder, self.features_section.feature_file
        checkpoint, given = self.model_section.path, self.model_section.checkpoint_settings
        settings, how = self._run_settings(), self.output_section.settings
        regions = self.patches_section.regions.get()
        try:
            if features is None and not may_run(self, settings.features.encoder):
                return
        except UserError as error:
            self._complain(str(error))
            return
        following = self._following = Following(len(slides))
        assert out is not None

        def task(progress: ProgressCallback, stop: StopCallback) -> CohortSummary:
            common: dict[str, Any] = {
                "out": out, "cohort": how, "on_status": following.put, "should_stop": stop,
                "should_pause": following.paused.is_set, "regions": regions,
            }  # fmt: skip
            if not with_model:
                return extract_cohort(slides, settings, **common)
            assert checkpoint is not None
            return run_cohort(
                slides, checkpoint, settings, checkpoint_settings=given, features=features, **common
            )

        if is_retry:
            self.table.update(_waiting(slides))
        else:
            self.table.set_rows(_waiting(slides))
        self._looking.stop()
        self._last_with_model = with_model
        job = Job(task)
        job.succeeded.connect(self._show_summary)
        job.failed.connect(self._complain)
        job.cancelled.connect(self._say_cancelled)
        job.finished.connect(self._on_finished)
        self.destroyed.connect(job.cancel)
        self._job = job
        self.footer.set_running(True)
        self._make_room()
        self._timer.start()
        job.start()

    def _what_is_missing(self, slides: list[CohortSlide], with_model: bool) -> str:
        """Return why nothing can begin, or nothing."""
        from_file = self.features_section.from_file.isChecked()
        if self.slides_section.is_looking:
            return "slides are still being looked for; wait a moment"
        if not slides:
            return "no slide is named; drop a folder, slides or a .csv list here"
        if self.output_section.folder is None:
            return "no folder for the results is chosen; give one under Results and workers"
        if with_model and self.model_section.header is None:
            return "no checkpoint can be used; choose one under Model and checkpoint"
        if not with_model and from_file:
            return "features that are read are not extracted; choose Compute from the slides"
        if from_file and self.features_section.feature_file is None:
            return "no folder of features is chosen; choose one under Features"
        return ""

    def _run_settings(self) -> RunSettings:
        return dataclasses.replace(
            self.patches_section.settings(),
            features=self.features_section.settings,
            model=self.model_section.settings,
        )

    def _show_news(self) -> None:
        if self._following is not None:
            self.table.update(self._following.take())
            self._show_progress()

    def _show_progress(self) -> None:
        progress = self._following.progress() if self._following else None
        if progress is not None:
            self.footer.show_progress(*progress)

    def _show_summary(self, summary: CohortSummary) -> None:
        self.table.update(summary.rows)
        failed = len(summary.failed)
        words = f"{summary.sentence()} in {in_words(summary.seconds)}. Table: {summary.table}"
        words = " ".join([words, *(f"Note: {warning}." for warning in summary.warnings)])
        is_good = not failed and not summary.warnings
        self.footer.message.say(words, "good" if is_good else "warning")

    def _say_cancelled(self) -> None:
        self.footer.message.say("Stopped; what is finished is kept, and Run goes on from there.")

    def _on_finished(self) -> None:
        self._timer.stop()
        self._job = None
        if self._following is not None:
            self.table.update(self._following.ended())
            self._following = None
        self.table.set_paused(False)
        self.footer.set_running(False)
        self.footer.say("")
        self.features_section.show_facts()
        self._follow_table()

    def _complain(self, sentence: str) -> None:
        self._looking.stop()
        self.footer.message.say(sentence, "error")
        show_error(sentence)

    # -- one slide ------------------------------------------------------------------------

    def open_result(self, row: SlideStatus) -> None:
        """Show a slide's saved run, or the slide itself where there is none."""
        if row.good and row.folder and Path(row.folder, RECORD_FILE).is_file():
            folder, already_open = row.folder, [one.slide for one in self.session.slides]
            self._opening_run.request(lambda *_: OpenedRun.of(folder, already_open))
            docks.show(self._viewer, docks.RUN)
            return
        for slide in self.session.slides:
            if str(slide.slide.path) == row.slide:
                self.session.show(slide)
                break
        else:
            for problem in self.session.open([row.slide], row.mpp):
                self._complain(problem)
                return
        docks.show(self._viewer, docks.RUN)

    def _show_run(self, opened: OpenedRun) -> None:
        opened.put_on_display(self.session)

    def _show_folder(self, row: SlideStatus) -> None:
        if not QDesktopServices.openUrl(QUrl.fromLocalFile(row.folder)):
            self._complain(f"no program here shows folders; it is {row.folder}")

    def _show_log(self, row: SlideStatus) -> None:
        show_log(Path(row.folder, _LOG_FILE), row.name, self)


def is_cohort(folder: Path) -> bool:
    """Return whether a folder holds the results of a cohort."""
    return folder.is_dir() and next(folder.glob(f"*/{states.STATUS_FILE}"), None) is not None


def _waiting(slides: Sequence[CohortSlide]) -> list[SlideStatus]:
    return [
        SlideStatus(
            str(one.path),
            label=one.label,
            notes=dict(one.notes),
            mpp=one.mpp,
            regions="" if one.regions is None else str(one.regions),
        )
        for one in slides
    ]
