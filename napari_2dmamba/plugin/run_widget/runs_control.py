"""Joins the section *Runs* to the session and to the folder of the slide's runs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_2dmamba.errors import UserError
from napari_2dmamba.export.run_folder import open_run
from napari_2dmamba.export.run_library import (
    RunSummary,
    list_all_runs,
    list_runs,
    move_to_bin,
    rename_run,
    set_notes,
)
from napari_2dmamba.plugin.parts.docked import DockedWidget
from napari_2dmamba.plugin.parts.jobs import LatestJob
from napari_2dmamba.plugin.parts.one_job import OneJob
from napari_2dmamba.plugin.run_widget.run_pair_window import RunPairWindow
from napari_2dmamba.plugin.run_widget.runs_section import RunsSection
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.plugin.session.preferences import features_folder, runs_folder
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari_2dmamba.compare import RunPair


class RunsControl(QObject):
    """Lists the saved runs of the current slide, and changes them as the section asks.

    Parameters
    ----------
    session, section
        What is joined.
    jobs
        Runs what takes long.
    parent
        The docked widget.

    Signals
    -------
    failed(sentence)
    said(sentence)
        What was done.
    """

    failed = Signal(str)
    said = Signal(str)

    def __init__(
        self, session: Session, section: RunsSection, jobs: OneJob, parent: DockedWidget
    ) -> None:
        super().__init__(parent)
        self._session, self._section, self._jobs = session, section, jobs
        self._listing = LatestJob(self, delay_ms=50)
        self._listing.succeeded.connect(self._show)
        self._listing.failed.connect(lambda words: section.message.say(words, "error"))
        section.toggled.connect(self.refresh)
        section.all_wanted.connect(self.refresh)
        section.compare_wanted.connect(self._compare)
        section.rename_wanted.connect(self._rename)
        section.notes_wanted.connect(self._set_notes)
        section.bin_wanted.connect(self._throw_away)
        parent.listen(session.events.current, self._follow)
        parent.listen(session.events.run, self._follow)
        self.refresh()

    def let_go(self) -> None:
        """Stop reading."""
        self._listing.cancel()

    @property
    def is_listing(self) -> bool:
        """Whether the list is being read."""
        return self._listing.is_busy

    def _follow(self, slide: SlideState | None) -> None:
        if slide is self._session.current:
            self._section.message.clear()
            self.refresh()

    def refresh(self, *_: Any) -> None:
        """Read the list again, off the GUI thread."""
        slide = self._session.current
        of_all = slide is None or self._section.all.isChecked()
        folder = runs_folder() if slide is None or of_all else features_folder(slide.slide)

        def task(progress: ProgressCallback, stop: StopCallback) -> Any:
            runs = list_all_runs(folder) if of_all else list_runs(folder)
            return slide, runs, of_all

        self._listing.request(task)

    def _show(self, listed: tuple[SlideState | None, list[RunSummary], bool]) -> None:
        slide, runs, of_all = listed
        if slide is self._session.current:  # else the list of that one is on its way
            found = (one.folder for one in runs if slide in self._of_folder(one.folder))
            self._section.show_runs(runs, next(found, None), of_all=of_all)

    # -- what is done with runs -------------------------------------------------------------

    def _compare(self, first: Path, second: Path | None) -> None:
        slide = self._session.current
        shown = None if slide is None else slide.run
        other = shown.folder if second is None and shown is not None else second
        if other is None:
            self.failed.emit("the run on display is not saved; choose two runs of the list")
            return

        def task(progress: ProgressCallback, stop: StopCallback) -> Any:
            from napari_2dmamba.compare import compare_runs

            return compare_runs(open_run(other), open_run(first))

        self._jobs.start(task, self._show_pair, "Stopped; nothing was compared.")

    def _show_pair(self, pair: "RunPair") -> None:
        self.window = RunPairWindow(pair, self._section.window())
        self.window.show()

    def _rename(self, folder: Path, title: str) -> None:
        try:
            run = rename_run(folder, title)
        except UserError as error:
            self.failed.emit(str(error))
            return
        self._take_over(run)

    def _set_notes(self, folder: Path, notes: str) -> None:
        try:
            run = set_notes(folder, notes)
        except UserError as error:
            self.failed.emit(str(error))
            return
        self._take_over(run)

    def _take_over(self, run: RunSummary) -> None:
        """Let runs on display have the new title and notes: they may be saved once more."""
        for slide in self._of_folder(run.folder):
            assert slide.run is not None
            record = replace(slide.run.record, title=run.title, notes=run.notes)
            self._session.runs.change(slide, record=record)
        self.refresh()

    def _throw_away(self, folders: Sequence[Path]) -> None:
        told = []
        for folder in folders:
            try:
                told.append(move_to_bin(folder))
            except UserError as error:
                self.failed.emit(str(error))
                break
            for slide in self._of_folder(folder):
                self._session.runs.change(slide, folder=None)
        if told:
            self.said.emit(told[0] if len(told) == 1 else f"{len(told)} runs are in the bin")
        self.refresh()

    def _of_folder(self, folder: Path) -> list[SlideState]:
        return [
            slide
            for slide in self._session.slides
            if slide.run is not None
            and slide.run.folder is not None
            and slide.run.folder.resolve() == folder.resolve()
        ]
