"""The widget *Train 2DMamba*: joins its sections, the table, the curves and the training."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QFrame,
    QPushButton,
    QScrollArea,
    QTabWidget,
    QVBoxLayout,
)

from napari_2dmamba.errors import UserError
from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.parts.checkpoint_model import shared_checkpoints
from napari_2dmamba.plugin.parts.docked import DockedWidget
from napari_2dmamba.plugin.parts.jobs import LatestJob
from napari_2dmamba.plugin.parts.one_job import OneJob
from napari_2dmamba.plugin.parts.progress_footer import ProgressFooter
from napari_2dmamba.plugin.parts.section import scrolling_column
from napari_2dmamba.plugin.parts.settings_beside import SettingsBeside
from napari_2dmamba.plugin.parts.trust_question import may_run
from napari_2dmamba.plugin.session import ChosenCheckpoint, Session
from napari_2dmamba.plugin.session.preferences import runs_folder
from napari_2dmamba.plugin.training_widget.comparison import ComparisonView, score_name
from napari_2dmamba.plugin.training_widget.curves import Curves
from napari_2dmamba.plugin.training_widget.extraction_section import ExtractionSection
from napari_2dmamba.plugin.training_widget.opening import Opened, open_tested
from napari_2dmamba.plugin.training_widget.plan import (
    Checked,
    Question,
    Recipe,
    check,
    extract_missing,
    train_as,
)
from napari_2dmamba.plugin.training_widget.progress import Epochs, WithTimeLeft
from napari_2dmamba.plugin.training_widget.rows import SlideRow, rows_of
from napari_2dmamba.plugin.training_widget.sections import (
    FitSection,
    OutputSection,
    SplitSection,
    TaskSection,
)
from napari_2dmamba.plugin.training_widget.slides_view import SlidesView, SlideTable
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.tasks.table import slide_name

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.models.architecture import ArchitectureConfig
    from napari_2dmamba.training import TrainingRun

_TITLE = "Train 2DMamba"


class TrainingWidget(DockedWidget):
    """Choose a table, train on it, watch, and look at what the models said of each slide.

    Parameters
    ----------
    napari_viewer
        The viewer that shows the slides that are opened.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        super().__init__()
        self.session = Session.of(napari_viewer)
        self._viewer = self.session.viewer
        self.checked: Checked | None = None
        self.run: TrainingRun | None = None
        self._tested: Checked | None = None
        self.task_section = TaskSection()
        self.extraction_section = ExtractionSection()
        self.split_section = SplitSection()
        self.fit_section = FitSection()
        self.output_section = OutputSection()
        self.table = SlideTable()
        self.view = SlidesView(self.table)
        self.curves = Curves()
        self.comparison = ComparisonView()
        self.footer = ProgressFooter(_TITLE)
        self.use = QPushButton("Use on the current slide")
        self.use.setToolTip("Choose the finished checkpoint in Run 2DMamba")
        self.use.setEnabled(False)
        self.report = QPushButton("Open the report")
        self.report.setEnabled(False)
        self._work = OneJob(self.footer, self)
        self._checking = LatestJob(self, delay_ms=150)
        self._opening = LatestJob(self, delay_ms=0)
        self._looking = LatestJob(self, delay_ms=0)
        self._lay_out()
        self._connect()
        self._looking.request(_architectures)
        self._follow()

    def _lay_out(self) -> None:
        self.sections = scrolling_column(
            self.task_section, self.extraction_section, self.split_section, self.fit_section,
            self.output_section,
        )  # fmt: skip
        self.tabs = QTabWidget()
        self.tabs.addTab(self.view, "Slides")
        self.tabs.addTab(self.curves, "Curves")
        beside = QScrollArea()  # what is said there must not make a low window higher
        beside.setWidgetResizable(True)
        beside.setFrameShape(QFrame.Shape.NoFrame)
        beside.setWidget(self.comparison)
        self.tabs.addTab(beside, "Comparison")
        for button in (self.use, self.report):
            self.view.above.addWidget(button)
        self.splitter = SettingsBeside(self.sections, self.tabs, self.footer)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.splitter)

    def _connect(self) -> None:
        self.task_section.changed.connect(self._look)
        self.split_section.changed.connect(self._look)
        self.footer.run_clicked.connect(self.start)
        self.use.clicked.connect(self.use_checkpoint)
        self.report.clicked.connect(self._show_report)
        self.comparison.report_wanted.connect(self._open_page)
        self.view.open_wanted.connect(self.open_slide)
        self._work.failed.connect(self._complain)
        self._work.finished.connect(self._follow)
        self._checking.started.connect(lambda: self.task_section.say("Looking at the table…"))
        self._checking.progressed.connect(self._show_looking)
        self._checking.succeeded.connect(self._show_checked)
        self._checking.failed.connect(self._refuse_table)
        self._looking.succeeded.connect(self.fit_section.set_architectures)
        self._looking.failed.connect(self._complain)
        self._opening.succeeded.connect(self._show_opened)
        self._opening.failed.connect(self._complain)

    def let_go(self) -> None:
        """Stop what runs; whole epochs are kept."""
        super().let_go()
        for job in (self._checking, self._looking, self._opening):
            job.cancel()
        self.comparison.cancel()
        if self._work.is_busy:
            self._work.cancel()
            show_info(
                "The training stops; with the same table and folder, Train goes on from its last "
                "whole epoch"
            )

    # -- the table ------------------------------------------------------------------------

    @property
    def is_looking(self) -> bool:
        """Whether the table is still being looked at."""
        return self._checking.is_busy

    def set_table(self, path: str | Path) -> None:
        """Choose a table."""
        self.task_section.table.set(Path(path))
        self._look()

    def _look(self) -> None:
        path = self.task_section.path
        self.checked = None
        self._follow()
        if path is None:
            self._checking.cancel()
            return
        question = Question(
            path,
            self.task_section.form.settings(),
            self.split_section.form.settings(),
            self.split_section.path,
        )
        if not self._work.is_busy:
            self.output_section.suggest(runs_folder() / f"training {path.stem}")
        self._checking.request(lambda progress, stop: check(question, progress, stop))

    def _show_looking(self, done: int, total: int, message: str) -> None:
        self.task_section.say(f"{message}: {done} of {total}" if total else message)

    def _show_checked(self, checked: Checked) -> None:
        self.checked = checked
        self.task_section.show_checked(checked)
        self.extraction_section.show_checked(checked)
        self.split_section.show_checked(checked)
        self.fit_section.set_kind(checked.table.kind)
        if not self._work.is_busy:
            self._forget_result()
            self.table.set_rows(rows_of(checked))
        self._follow()

    def _refuse_table(self, sentence: str) -> None:
        self.checked = None
        self.task_section.refuse(sentence)
        self.extraction_section.show_checked(None)
        if not self._work.is_busy:
            self._forget_result()
            self.table.set_rows([])
        self._follow()

    def _forget_result(self) -> None:
        """Show nothing of an earlier training beside another table."""
        self.run = self._tested = None
        self.curves.clear()
        self.footer.message.clear()

    def _follow(self) -> None:
        """Offer what can be done now."""
        busy = self._work.is_busy
        settings = self.sections.widget()
        if settings is not None:  # what is seen there is what is trained
            settings.setEnabled(not busy)
        ready = self.checked is not None and not self.checked.stopping
        self.footer.run.setEnabled(ready and not busy)
        self.use.setEnabled(self.run is not None and not busy)
        self.report.setEnabled(self.run is not None and self.run.evaluation is not None)

    # -- the training ---------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether a training is at work."""
        return self._work.is_busy

    def start(self) -> None:
        """Train as it is set, or go on with the training that the folder holds."""
        checked, out = self.checked, self.output_section.folder
        if self._work.is_busy:
            return
        problem = ""
        if self._checking.is_busy:
            problem = "the table is still being looked at; wait a moment"
        elif checked is None:
            problem = "no table can be used; choose one under Table and task"
        elif checked.stopping:
            problem = "the table has problems that must be mended first; see Table and task"
        elif out is None:
            problem = "no folder is chosen; give one under Results"
        elif self.task_section.classes.problem:
            problem = self.task_section.classes.problem
        elif self.fit_section.options.problem:
            problem = f"{self.fit_section.options.problem}; see Options of the architecture"
        if problem or checked is None or out is None:
            self._complain(problem)
            return
        recipe = Recipe(
            self.fit_section.architecture.get(),
            self.fit_section.preset.get(),
            self.fit_section.form.settings(),
            out,
            self.fit_section.options.changes,
            self.task_section.classes.names,
            self.output_section.final.get(),
            self.output_section.intended_use.get() or "",
            self.output_section.scoring.settings(),
        )
        extraction = self.extraction_section.settings()
        try:
            if checked.to_extract and not may_run(self, extraction.features.encoder):
                return
        except UserError as error:
            self._complain(str(error))
            return
        self._forget_result()
        self.table.set_rows(rows_of(checked))
        self._tested = checked
        epochs = Epochs()
        epochs.came.connect(self.curves.add)
        self.curves.score_name = "Concordance" if checked.table.kind == "survival" else "AUROC"

        def task(progress: ProgressCallback, stop: StopCallback) -> "tuple[Checked, TrainingRun]":
            whole = extract_missing(checked, extraction, out, progress, stop)
            told = WithTimeLeft(progress)

            def stopped() -> bool:
                asked = time.monotonic()  # the answer is held back in a pause
                answer = stop()
                told.wait_for(time.monotonic() - asked)
                return answer

            return whole, train_as(whole, recipe, epochs.came.emit, told, stopped)

        self.tabs.setCurrentWidget(self.curves)
        self._work.start(
            task,
            self._show_run,
            "Stopped; Train goes on in this folder: slides that are extracted and whole epochs "
            "are kept.",
            can_pause=True,
        )
        self._follow()

    def _show_run(self, result: "tuple[Checked, TrainingRun]") -> None:
        whole, run = result
        self.run = run
        if self.checked is not None and self.checked is self._tested:
            self.checked = whole
            self.task_section.show_checked(whole)
            self.extraction_section.show_checked(whole)
        self._tested = whole
        told = None if run.evaluation is None else run.evaluation.predictions
        self.table.set_rows(rows_of(whole, told))
        if run.evaluation is not None:
            self.comparison.set_first(run.folder)
        self.curves.draw()
        for checkpoint in (run.final,) if run.final is not None else run.checkpoints:
            _put_on_the_list(checkpoint)
        self.tabs.setCurrentWidget(self.view)
        words = f"{len(run.checkpoints)} model{'s' * (len(run.checkpoints) != 1)} in {run.folder}"
        if run.evaluation is not None:
            self.view.worst_first()
            scores = run.evaluation.scores
            shown = [
                f"{score_name(name)} {scores[name]}"
                for name in ("auroc", "quadratic_kappa", "concordance")
                if name in scores and scores[name].value is not None
            ]
            words = ", ".join(shown) + f" on the test parts. {words}" if shown else words
        self.footer.message.say(words, "good")

    def _complain(self, sentence: str) -> None:
        self.footer.message.say(sentence, "error")
        show_error(sentence)

    # -- what came of it ------------------------------------------------------------------

    def use_checkpoint(self) -> None:
        """Choose the finished checkpoint for the current slide, or for the next one."""
        if self.run is None:
            return
        final, current = self.run.final or self.run.checkpoints[-1], self.session.current
        location = _put_on_the_list(final)
        self.session.choose(checkpoint=ChosenCheckpoint(location))
        docks.show(self._viewer, docks.RUN)
        which = f"{final.parent.name}/{final.name}"
        known = {row.name for row in self.table.rows}
        if current is not None and slide_name(current.slide.path.name) in known:
            self.footer.message.say(
                f"{which} is chosen in Run 2DMamba, but it may have learnt from {current.name}: "
                "what it says of that proves nothing. A double click in the table takes the model "
                "that tested a slide",
                "warning",
            )
        else:
            self.footer.message.say(f"{which} is chosen in Run 2DMamba", "good")

    def checkpoint_of(self, row: SlideRow) -> Path | None:
        """Return the file of the model that tested a slide, or None."""
        if self.run is None or not row.model:
            return None  # what lies in the folder may be of another training
        path = self.run.folder / row.model.replace(" ", "-") / "model.safetensors"
        return path if path.is_file() else None

    def open_slide(self, row: SlideRow) -> None:
        """Show a slide, with the map of the model that tested it where a run of it is saved."""
        checkpoint, runs = self.checkpoint_of(row), runs_folder()
        already_open = [one.slide for one in self.session.slides]
        self._opening.request(lambda *_: open_tested(row, checkpoint, runs, already_open))

    def _show_opened(self, opened: Opened) -> None:
        row = opened.row
        if opened.run is not None:
            opened.run.put_on_display(self.session)
            if opened.differs:
                self.footer.message.say(
                    f"the saved run of {row.name} says something else than the test did "
                    f"({row.prediction}): it was made of other features or settings",
                    "warning",
                )
            else:
                self.footer.message.say(f"{row.name} with its saved run of {row.model}")
            docks.show(self._viewer, docks.RUN)
            return
        try:
            self._show_slide(opened)
        except UserError as error:
            self._complain(str(error))

    def _show_slide(self, opened: Opened) -> None:
        """Show a slide without a run, with all set so that Run gives its map."""
        row, path = opened.row, opened.slide.path.resolve()
        known = next((s for s in self.session.slides if s.slide.path.resolve() == path), None)
        if known is None:
            self.session.add(opened.slide)
        else:
            self.session.show(known)
        checkpoint = self.checkpoint_of(row)
        if checkpoint is None:
            self.footer.message.say(f"{row.name} is open; no model has tested it yet")
            return
        location = _put_on_the_list(checkpoint)
        features: dict[str, Any] = {}
        if row.features is not None:
            features = {"from_file": True, "feature_file": row.features}
        self.session.choose(checkpoint=ChosenCheckpoint(location), **features)
        docks.show(self._viewer, docks.RUN)
        self.footer.message.say(
            f"{row.name} has no saved run of {row.model}, which tested it; that model and the "
            "features of the table are chosen: press Run for the map"
        )

    def _show_report(self) -> None:
        if self.run is not None:
            self._open_page(self.run.folder / "report.html")

    def _open_page(self, page: Path) -> None:
        if not QDesktopServices.openUrl(QUrl.fromLocalFile(str(page))):
            self._complain(f"no program here shows web pages; the report is {page}")


def _put_on_the_list(checkpoint: Path) -> str:
    """Put a checkpoint on the user's list, with a note, as all of a training have one name."""
    shared = shared_checkpoints()
    location = shared.add(checkpoint)
    if not shared.library.note(location):
        model = checkpoint.parent
        shared.set_note(location, f"{model.name.replace('-', ' ')} of {model.parent.name}")
    return location


def _architectures(
    progress: ProgressCallback, stop: StopCallback
) -> "dict[str, type[ArchitectureConfig]]":
    from napari_2dmamba.models.registry import architectures

    known = architectures()
    names = sorted(known, key=lambda name: (name != "2dmamba", name))
    return {name: known[name].config_class for name in names}
