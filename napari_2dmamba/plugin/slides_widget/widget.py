"""The widget *Slides*: every open and recent slide, with its state and verdict."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
)

from napari_2dmamba.errors import UserError
from napari_2dmamba.export.run_library import RunSummary, list_all_runs
from napari_2dmamba.plugin.parts.closing import close_slide
from napari_2dmamba.plugin.parts.docked import DockedWidget
from napari_2dmamba.plugin.parts.dropped import accept_drops, take
from napari_2dmamba.plugin.parts.file_or_folder import (
    FILE_SLIDES,
    FOLDER_SLIDES,
    FileOrFolderButton,
)
from napari_2dmamba.plugin.parts.jobs import LatestJob
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.recent_slides import forget, recent_slides, remember
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.plugin.session.preferences import runs_folder
from napari_2dmamba.plugin.slides_widget.thumbnails import SIDE, Thumbnails, Wanted

if TYPE_CHECKING:
    from napari.viewer import Viewer

WHAT = Qt.ItemDataRole.UserRole
"""Under this role an item holds a `SlideState`, the path of a recent slide, or a saved run."""

_SAVED_RUNS = 10


class SlidesWidget(DockedWidget):
    """Every open slide, the recent ones, and the saved runs while nothing is open.

    A click shows a slide, or opens it. Delete closes an open slide and takes a recent one off
    the list.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        super().__init__()
        self.session = Session.of(napari_viewer)
        self.list = QListWidget()
        self.list.setIconSize(QSize(SIDE, SIDE))
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setMinimumHeight(90)
        self.message = Message()
        self.open = FileOrFolderButton("Open…", FOLDER_SLIDES, FILE_SLIDES)
        self.open.setToolTip("Open slides; they can also be dropped into the window")
        self.close_slide = QPushButton("Close")
        buttons = QHBoxLayout()
        buttons.addWidget(self.open)
        buttons.addWidget(self.close_slide)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 6)
        layout.addWidget(self.list, 1)
        layout.addWidget(self.message)
        layout.addLayout(buttons)
        self.thumbnails = Thumbnails(self)
        self._runs: list[RunSummary] = []
        self._finding = LatestJob(self, delay_ms=0)
        self._connect()
        accept_drops(self.session.viewer)
        self._remember()
        self._follow_slides()

    def sizeHint(self) -> QSize:
        """Return a size at which two slides can be seen."""
        return QSize(260, 220)

    def let_go(self) -> None:
        """Disconnect from the viewer and read no more."""
        super().let_go()
        self.thumbnails.cancel()
        self._finding.cancel()

    def _connect(self) -> None:
        self.list.itemClicked.connect(self._go_to)
        self.list.itemActivated.connect(self._go_to)  # Enter
        self.list.currentItemChanged.connect(self._follow_selection)
        delete = QShortcut(QKeySequence(QKeySequence.StandardKey.Delete), self.list)
        delete.setContext(Qt.ShortcutContext.WidgetShortcut)
        delete.activated.connect(self._take_away)
        self.open.file_wanted.connect(self._browse)
        self.open.folder_wanted.connect(self._browse_folder)
        self.close_slide.clicked.connect(self._take_away)
        self.thumbnails.loaded.connect(self._show_icons)
        self._finding.succeeded.connect(self._take_runs)
        self._finding.failed.connect(self._complain)
        events = self.session.events
        self.listen(events.slides, self._follow_slides)
        self.listen(events.current, self._follow_current)
        for signal in (events.run, events.work):
            self.listen(signal, self._follow_state)
        self.listen(events.run, self._find_runs)

    # -- the list follows the session -------------------------------------------------------

    def _follow_slides(self) -> None:
        self._remember()
        self._find_runs()
        self.refresh()

    def _find_runs(self, slide: SlideState | None = None) -> None:
        root = runs_folder()
        self._finding.request(lambda progress, stop: list_all_runs(root))

    def _follow_current(self, slide: SlideState | None) -> None:
        self.message.clear()
        self.refresh()

    def _follow_state(self, slide: SlideState) -> None:
        for item in self._items():
            if item.data(WHAT) is slide:
                item.setText(self._text_of(slide))

    def _take_runs(self, runs: list[RunSummary]) -> None:
        self._runs = [one for one in runs if one.problem is None]
        self.refresh()

    def refresh(self) -> None:
        """List what there is now."""
        open_paths = {_whole(one.slide.path) for one in self.session.slides}
        recent = [one for one in recent_slides() if one not in open_paths]
        self.list.blockSignals(True)
        self.list.clear()
        for slide in self.session.slides:
            item = self._add(self._text_of(slide), slide, self._tip(_whole(slide.slide.path)))
            if slide is self.session.current:
                self.list.setCurrentItem(item)
                font = item.font()
                font.setBold(True)
                item.setFont(font)
        if recent:
            self._add_heading("Recent")
        for path in recent:
            self._add(f"{path.name}\nopened before", path, self._tip(path))
        if self._runs and not self.session.slides:
            self._add_heading("Saved runs")
            for run in self._runs[:_SAVED_RUNS]:
                self._add(f"{run.slide_name}: {run.verdict}\n{run.display_name}", run, "")
        if not self.list.count():
            self._add_heading("No slide yet: open one, or drop it here")
        self.list.blockSignals(False)
        self._follow_selection()
        self._show_icons()
        wanted: Wanted = {_whole(one.slide.path): one.slide for one in self.session.slides}
        self.thumbnails.want(wanted | dict.fromkeys(recent))

    def _add(self, text: str, what: object, tip: str) -> QListWidgetItem:
        item = QListWidgetItem(text)
        item.setData(WHAT, what)
        item.setToolTip(tip)
        self.list.addItem(item)
        return item

    def _add_heading(self, text: str) -> None:
        item = QListWidgetItem(text)
        item.setFlags(Qt.ItemFlag.NoItemFlags)
        self.list.addItem(item)

    def _text_of(self, slide: SlideState) -> str:
        """Return name, state and verdict of an open slide."""
        saved = sum(run.slide_fingerprint == slide.slide.fingerprint for run in self._runs)
        if slide.works:
            state = "running…"
        elif slide.run is not None:
            state = slide.run.record.result.verdict
        else:
            state = {0: "no run yet", 1: "1 saved run"}.get(saved, f"{saved} saved runs")
        return f"{slide.name}\n{state}"

    def _tip(self, path: Path) -> str:
        return f"{path.name}: click to look at it"

    def _items(self) -> list[QListWidgetItem]:
        items = (self.list.item(row) for row in range(self.list.count()))
        return [one for one in items if one is not None]

    def _show_icons(self) -> None:
        for item in self._items():
            what = item.data(WHAT)
            if isinstance(what, SlideState):
                item.setIcon(self.thumbnails.icon(_whole(what.slide.path)))
            elif isinstance(what, Path):
                item.setIcon(self.thumbnails.icon(what))

    def _follow_selection(self, *_: Any) -> None:
        what = self._selected
        is_open = isinstance(what, SlideState)
        self.close_slide.setEnabled(is_open or isinstance(what, Path))
        self.close_slide.setText("Close" if is_open or what is None else "Forget")
        self.close_slide.setToolTip(
            "Close this slide with its layers (Delete)"
            if is_open
            else "Take it off this list; its file stays (Delete)"
        )

    @property
    def _selected(self) -> Any:
        item = self.list.currentItem()
        return None if item is None else item.data(WHAT)

    # -- the session follows the list -------------------------------------------------------

    def _go_to(self, item: QListWidgetItem) -> None:
        what = item.data(WHAT)
        if isinstance(what, SlideState):
            self.session.show(what)
        elif isinstance(what, Path):
            take(self.session, [what])
        elif isinstance(what, RunSummary):
            take(self.session, [what.folder])

    def _take_away(self) -> None:
        what = self._selected
        if isinstance(what, SlideState):
            close_slide(self.session, what, self)
        elif isinstance(what, Path):
            try:
                forget(what)
            except UserError as error:
                self._complain(str(error))
            self.refresh()

    def _browse(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Open slides, runs or regions")
        take(self.session, [Path(one) for one in paths])

    def _browse_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A slide that is a folder")
        if folder:
            take(self.session, [folder])

    def _remember(self) -> None:
        try:
            remember(one.slide.path for one in self.session.slides)
        except UserError as error:
            self._complain(f"recent slides are not remembered: {error}")

    def _complain(self, sentence: str) -> None:
        self.message.say(sentence, "warning")


def _whole(path: Path) -> Path:
    return Path(os.path.abspath(path))
