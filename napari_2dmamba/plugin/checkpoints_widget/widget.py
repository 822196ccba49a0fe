"""The widget *Checkpoints*: which there are, what they are, and which fit the open slide."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QHBoxLayout,
    QMenu,
    QPushButton,
    QSizePolicy,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.checkpoints.columns import Row
from napari_2dmamba.checkpoints.fit import InputFacts
from napari_2dmamba.plugin.checkpoints_widget.details import Details
from napari_2dmamba.plugin.checkpoints_widget.places import Places
from napari_2dmamba.plugin.checkpoints_widget.subject import find_subject
from napari_2dmamba.plugin.checkpoints_widget.table import CheckpointTable
from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.parts.checkpoint_model import shared_checkpoints
from napari_2dmamba.plugin.parts.docked import DockedWidget
from napari_2dmamba.plugin.parts.jobs import LatestJob
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.progress_bar import ProgressBar
from napari_2dmamba.plugin.parts.section import ElidedLabel
from napari_2dmamba.plugin.session import ChosenCheckpoint, Session
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari.viewer import Viewer

_NO_SLIDE = "No slide is open, so nothing is marked as fitting."


class CheckpointsWidget(DockedWidget):
    """A table of all checkpoints, and the details of the selected one.

    Parameters
    ----------
    napari_viewer
        The viewer whose slide checkpoints are held against, and whose Run widget gets one.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        super().__init__()
        self.session = Session.of(napari_viewer)
        self._viewer = self.session.viewer
        self.checkpoints = shared_checkpoints()
        self.setAcceptDrops(True)
        self.message = Message()
        self.table = CheckpointTable(self.checkpoints)
        self.places = Places(self.checkpoints)
        self.details = Details()
        self.use = QPushButton("Use in Run 2DMamba")
        self.use.setToolTip("Choose this checkpoint in the Run widget (Enter, double click)")
        self.remove = QPushButton("Remove from list")
        self.remove.setToolTip("The file stays where it is (Delete)")
        self.open_folder = QPushButton("Open folder")
        self.about = ElidedLabel()
        self.progress = ProgressBar()
        self.progress.setMaximumWidth(160)
        self.progress.setTextVisible(False)
        self.stop = QPushButton("Stop")
        self._lay_out()
        self._held_against = LatestJob(self, delay_ms=100)
        self._connect()
        self._tell_state()
        self._follow_selection()
        if self.checkpoints.library.remark:
            self.message.say(self.checkpoints.library.remark, "warning")

    def sizeHint(self) -> QSize:
        """Return a size at which the columns that matter show."""
        return QSize(1000, 380)

    # -- what it is made of ---------------------------------------------------------------

    def _lay_out(self) -> None:
        self.add_menu = QPushButton("Add")
        self.add_menu.setToolTip("Files and folders can also be dropped here")
        menu = QMenu(self.add_menu)
        for text, act in (
            ("Folder, and all below it…", self.places.ask_for_folder),
            ("Files…", self._ask_for_files),
            ("Repository on Hugging Face…", self.places.ask_for_repository),
        ):
            menu.addAction(text).triggered.connect(act)  # type: ignore[union-attr]
        self.add_menu.setMenu(menu)
        refresh = QPushButton("Refresh")
        refresh.setToolTip("Look for new and changed files (F5)")
        refresh.setShortcut("F5")
        refresh.clicked.connect(self.checkpoints.refresh)
        self.table.top.addWidget(self.add_menu)
        self.table.top.addWidget(refresh)
        state = QHBoxLayout()
        state.addWidget(self.about, 1)
        state.addWidget(self.progress)
        state.addWidget(self.stop)
        where = QPushButton("Where it looks")
        where.setCheckable(True)
        where.toggled.connect(self.places.setVisible)
        self.places.hide()
        buttons = QHBoxLayout()
        for button in (self.use, self.open_folder, self.remove):
            buttons.addWidget(button)
        buttons.addStretch(1)
        buttons.addWidget(where)
        left = QWidget()
        column = QVBoxLayout(left)
        column.setContentsMargins(4, 4, 4, 4)
        column.setSpacing(4)
        column.addWidget(self.message)
        column.addWidget(self.table, 1)
        column.addLayout(state)
        column.addLayout(buttons)
        column.addWidget(self.places)
        right = QWidget()
        beside = QVBoxLayout(right)
        beside.setContentsMargins(0, 4, 4, 4)
        beside.setSpacing(4)
        beside.addWidget(self.details, 1)
        self.splitter = QSplitter()
        self.splitter.addWidget(left)
        self.splitter.addWidget(right)
        self.splitter.setSizes([300, 100])
        self.splitter.setChildrenCollapsible(False)
        right.setMinimumWidth(280)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.splitter)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(240)  # Qt would give a dock below the canvas a few lines only

    def resizeEvent(self, event: Any) -> None:
        """Put the details below the table where the dock is narrow."""
        super().resizeEvent(event)
        wide = self.width() > 1.2 * self.height()
        orientation = Qt.Orientation.Horizontal if wide else Qt.Orientation.Vertical
        if orientation != self.splitter.orientation():
            self.splitter.setOrientation(orientation)
            self.splitter.setSizes([300, 100] if wide else [300, 200])

    def _connect(self) -> None:
        table, checkpoints = self.table, self.checkpoints
        table.selection_changed.connect(self._follow_selection)
        table.activated.connect(self.use_in_run)
        table.removal_wanted.connect(self._remove)
        table.view.dataChanged.connect(self._follow_selection)
        for changed in (table.view.rowsInserted, table.view.rowsRemoved, table.view.layoutChanged):
            changed.connect(self._tell_state)
        checkpoints.progressed.connect(self._show_progress)
        checkpoints.settled.connect(self._tell_state)
        checkpoints.told.connect(self._complain)
        self.places.refused.connect(self._complain)
        self.stop.clicked.connect(checkpoints.stop)
        self.use.clicked.connect(self._use_selected)
        self.remove.clicked.connect(self._remove)
        self.open_folder.clicked.connect(self._open_folder)
        self.details.note_written.connect(checkpoints.set_note)
        self._held_against.succeeded.connect(self._hold_against)
        self._held_against.failed.connect(self._complain)
        events = self.session.events
        for signal in (events.current, events.mpp, events.choices, events.run):
            self.listen(signal, self._look_at_slide)

    def showEvent(self, event: Any) -> None:
        """Hold the checkpoints against the slide, which waits until they are looked at."""
        super().showEvent(event)
        self._look_at_slide()

    def let_go(self) -> None:
        """Disconnect from the viewer, keep the note."""
        super().let_go()
        self.details.keep_note()
        self._held_against.cancel()

    # -- the slide ------------------------------------------------------------------------

    def _look_at_slide(self, event: Any = None) -> None:
        if not self.isVisible():
            return
        find = find_subject(self.session)

        def task(progress: ProgressCallback, stop: StopCallback) -> InputFacts | None:
            return find()

        self._held_against.request(task)

    def _hold_against(self, subject: InputFacts | None) -> None:
        if self.message.kind == "error":
            self.message.clear()
        self.table.view.hold_against(subject)
        self._tell_state()
        self._follow_selection()

    # -- the list -------------------------------------------------------------------------

    def _tell_state(self, *_: Any) -> None:
        reading = self.checkpoints.is_reading
        self.progress.setVisible(reading)
        self.stop.setVisible(reading)
        total, shown = self.checkpoints.rowCount(), self.table.view.rowCount()
        count = f"{shown} of {total} checkpoints" if shown != total else f"{total} checkpoints"
        subject = self.table.view.subject
        against = _NO_SLIDE if subject is None else f"Held against {subject}."
        self.about.set_text(f"{count}{', reading more…' if reading else ''}. {against}")

    def _show_progress(self, done: int, total: int, message: str) -> None:
        self.progress.setRange(0, total)
        self.progress.setValue(done)
        self._tell_state()

    def _follow_selection(self, *_: Any) -> None:
        rows = self.table.selected_rows
        self.details.show_rows(rows)
        one = rows[0].summary if len(rows) == 1 else None
        self.use.setEnabled(one is not None and not one.problem)
        self.open_folder.setEnabled(one is not None and not one.on_hub)
        self.remove.setEnabled(bool(rows))

    def _use_selected(self) -> None:
        rows = self.table.selected_rows
        if len(rows) == 1:
            self.use_in_run(rows[0])

    def use_in_run(self, row: Row) -> None:
        """Choose a checkpoint in the Run widget; one that cannot be used is only explained."""
        if row.summary.problem:
            self._complain(row.summary.problem)
            return
        self.session.choose(checkpoint=ChosenCheckpoint(row.summary.location))
        docks.show(self._viewer, docks.RUN)
        self.message.say(f"{row.summary.name} is chosen in Run 2DMamba", "good")

    def _remove(self) -> None:
        self.checkpoints.remove([row.summary.location for row in self.table.selected_rows])

    def _open_folder(self) -> None:
        rows = self.table.selected_rows
        if len(rows) == 1:
            path = Path(rows[0].summary.location)
            folder = path if path.is_dir() else path.parent
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))

    def _ask_for_files(self) -> None:
        from qtpy.QtWidgets import QFileDialog

        from napari_2dmamba.plugin.checkpoints_widget.places import FILTER

        paths, _ = QFileDialog.getOpenFileNames(self, "Checkpoints", "", FILTER)
        self.add(paths)

    def add(self, paths: list[str]) -> None:
        """Put files and folders on the list, and select the last file."""
        for path in paths:
            self.table.select(self.checkpoints.add(path))

    def dragEnterEvent(self, event: Any) -> None:
        """Accept files and folders."""
        data = event.mimeData()
        if data is not None and data.urls() and all(url.isLocalFile() for url in data.urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Put what was dropped on the list."""
        data = event.mimeData()
        if data is not None:
            self.add([url.toLocalFile() for url in data.urls()])

    def _complain(self, sentence: str) -> None:
        self.message.say(sentence, "error")
