"""The section *Runs*: the saved runs of the slide, and what can be done with them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QAction
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QGridLayout,
    QInputDialog,
    QLabel,
    QMessageBox,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
)

from napari_2dmamba.export.run_library import RunSummary
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.row_look import ROW_LOOK
from napari_2dmamba.plugin.parts.section import Section

_COLUMNS = "Run", "Made", "Answer", "Regions", "Model", "Slide"
_SLIDE = 5
_WIDEST = 130  # of a column, in pixels: the tooltip has all
_ROWS = 6  # that show without scrolling


class RunsSection(Section):
    """Lists runs; emits what is to be done with them, and reads no file itself.

    Signals
    -------
    show_wanted(folder)
    compare_wanted(first, second)
        Folders; the second is None for the run on display.
    report_wanted(folder), export_wanted(folder)
    rename_wanted(folder, title), notes_wanted(folder, notes)
    bin_wanted(folders)
        The user was asked already.
    all_wanted(are_wanted)
        Whether runs of other slides are to be listed too.
    """

    show_wanted = Signal(object)
    compare_wanted = Signal(object, object)
    report_wanted = Signal(object)
    export_wanted = Signal(object)
    rename_wanted = Signal(object, str)
    notes_wanted = Signal(object, str)
    bin_wanted = Signal(object)
    all_wanted = Signal(bool)

    def __init__(self) -> None:
        super().__init__("Runs", is_open=False)
        self._runs: tuple[RunSummary, ...] = ()
        self._on_display: Path | None = None
        self._is_busy = False
        self.message = Message()
        self.empty = QLabel()
        self.empty.setWordWrap(True)
        self.table = QTreeWidget()
        self.table.setHeaderLabels(list(_COLUMNS))
        self.table.setRootIsDecorated(False)
        self.table.setAlternatingRowColors(True)
        self.table.setStyleSheet(ROW_LOOK)
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # numbers are at the end
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.table.setAccessibleName("Saved runs")
        self.table.setFixedHeight((_ROWS + 2) * (self.fontMetrics().height() + 6))
        self.table.setContextMenuPolicy(Qt.ContextMenuPolicy.ActionsContextMenu)
        self.table.itemSelectionChanged.connect(self._allow)
        self.table.itemDoubleClicked.connect(lambda *_: self.show_run.click())
        self.all = QCheckBox("Runs of all slides")
        self.all.toggled.connect(self.all_wanted)
        self.show_run = self._button("Show", "Put the run on display", self._show_chosen)
        self.compare = self._button(
            "Compare", "Put two chosen runs, or one and that on display, side by side",
            self._compare,
        )  # fmt: skip
        self.report = self._button(
            "Report", "Write the run on one page, with slide, map, answer, top patches and "
            "numbers, and show it in the browser",
            lambda: self.report_wanted.emit(self._one().folder),
        )  # fmt: skip
        self.export = self._button(
            "Export all", "Write pictures, pyramids, tables, report and record into the folder "
            "exports of the run, as the command line's export does",
            lambda: self.export_wanted.emit(self._one().folder),
        )  # fmt: skip
        self.rename = self._button("Rename…", "Give the run a title", self._rename)
        self.notes = self._button("Notes…", "Read and write notes on the run", self._write_notes)
        self.bin = self._button(
            "To the bin…", "Move runs to the bin of the system; asks before", self._throw_away
        )
        buttons = QGridLayout()
        buttons.setSpacing(4)
        self._buttons = (
            self.show_run, self.compare, self.report, self.export,
            self.rename, self.notes, self.bin,
        )  # fmt: skip
        for place, button in enumerate(self._buttons):
            buttons.addWidget(button, place // 4, place % 4)
        for part in (self.message, self.empty, self.table, self.all):
            self.body.addWidget(part)
        self.body.addLayout(buttons)
        self.show_runs((), None, of_all=False)

    def _button(self, text: str, tip: str, do: Callable[[], object]) -> QPushButton:
        button = QPushButton(text)
        button.setToolTip(tip)
        button.clicked.connect(lambda: do())
        action = QAction(text, self.table)
        action.triggered.connect(button.click)
        self.table.addAction(action)
        return button

    def show_runs(
        self, runs: Sequence[RunSummary], on_display: Path | None, *, of_all: bool
    ) -> None:
        """List runs, the one on display in bold; what was chosen stays so."""
        chosen = {one.folder for one in self.chosen}
        self._runs, self._on_display = tuple(runs), on_display
        self.table.blockSignals(True)
        self.table.clear()
        for run in runs:
            self._add(run, is_chosen=run.folder in chosen)
        self.table.setColumnHidden(_SLIDE, not of_all)
        for column in range(len(_COLUMNS)):
            self.table.resizeColumnToContents(column)
            self.table.setColumnWidth(column, min(_WIDEST, self.table.columnWidth(column)))
        self.table.blockSignals(False)
        self.table.setVisible(bool(runs))
        self.empty.setVisible(not runs)
        self.empty.setText("No run is saved yet." if of_all else "This slide has no saved run yet.")
        self.set_summary("" if not runs else "1 run" if len(runs) == 1 else f"{len(runs)} runs")
        self._allow()

    def _add(self, run: RunSummary, *, is_chosen: bool) -> None:
        if run.started is None:  # nothing is known of it but why
            cells = (f"{run.folder.name}: {run.problem}", "", "", "", "", "")
        else:
            cells = (
                run.title or run.model, f"{run.started.astimezone():%Y-%m-%d %H:%M}",
                f"damaged: {run.problem}" if run.problem else run.verdict,
                run.regions or "all tissue", run.model, run.slide_name,
            )  # fmt: skip
        item = QTreeWidgetItem(list(cells))
        said = run.problem, run.display_name, run.verdict, run.notes, str(run.folder)
        tip = "\n".join(filter(None, said))
        for column in range(len(_COLUMNS)):
            item.setToolTip(column, tip)
            font = item.font(column)
            font.setBold(run.folder == self._on_display)
            font.setItalic(run.problem is not None)
            item.setFont(column, font)
        self.table.addTopLevelItem(item)
        item.setFirstColumnSpanned(run.started is None)
        item.setSelected(is_chosen)

    @property
    def chosen(self) -> list[RunSummary]:
        """The runs that are chosen, from the top."""
        lines = sorted(self.table.indexOfTopLevelItem(one) for one in self.table.selectedItems())
        return [self._runs[line] for line in lines]

    def choose(self, *folders: Path) -> None:
        """Choose runs by their folders."""
        for line, run in enumerate(self._runs):
            item = self.table.topLevelItem(line)
            assert item is not None
            item.setSelected(run.folder in folders)

    def set_busy(self, is_busy: bool) -> None:
        """Grey what can be done while something else is."""
        self._is_busy = is_busy
        self._allow()

    def _one(self) -> RunSummary:
        (run,) = self.chosen
        return run

    def _allow(self) -> None:
        chosen = self.chosen
        whole = [one for one in chosen if one.problem is None]
        free = not self._is_busy
        single = free and len(chosen) == len(whole) == 1
        for button in (self.show_run, self.report, self.export, self.rename, self.notes):
            button.setEnabled(single)
        other = single and self._on_display not in (None, whole[0].folder)
        self.compare.setEnabled(other or (free and len(chosen) == len(whole) == 2))
        self.bin.setEnabled(free and bool(chosen))
        for action, button in zip(self.table.actions(), self._buttons, strict=True):
            action.setEnabled(button.isEnabled())

    def _show_chosen(self) -> None:
        self.show_wanted.emit(self._one().folder)

    def _compare(self) -> None:
        first, *others = (one.folder for one in self.chosen)
        self.compare_wanted.emit(first, others[0] if others else None)

    def _rename(self) -> None:
        run = self._one()
        title, is_ok = QInputDialog.getText(
            self, "Rename the run", f"Title of {run.display_name}:", text=run.title
        )
        if is_ok:
            self.rename_wanted.emit(run.folder, title)

    def _write_notes(self) -> None:
        run = self._one()
        notes, is_ok = QInputDialog.getMultiLineText(
            self, "Notes", f"Notes on {run.display_name}:", run.notes
        )
        if is_ok:
            self.notes_wanted.emit(run.folder, notes)

    def _throw_away(self) -> None:
        runs = self.chosen
        what = f"the run {runs[0].display_name}" if len(runs) == 1 else f"{len(runs)} runs"
        answer = QMessageBox.question(
            self, "Move to the bin", f"Move {what} to the bin, with maps, exports and notes? "
            "The features of the slide stay.",
        )  # fmt: skip
        if answer == QMessageBox.StandardButton.Yes:
            self.bin_wanted.emit([one.folder for one in runs])
