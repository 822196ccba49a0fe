"""The checkpoints as a Qt table model: one for all widgets that list or choose them."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, Qt, Signal

from napari_2dmamba.checkpoints.columns import COLUMNS, Row
from napari_2dmamba.checkpoints.index import SummaryCache, default_cache, index
from napari_2dmamba.checkpoints.library import CheckpointLibrary, source_of
from napari_2dmamba.checkpoints.summary import CheckpointSummary
from napari_2dmamba.errors import UserError
from napari_2dmamba.plugin.parts.jobs import LatestJob
from napari_2dmamba.sample import demo_checkpoints
from napari_2dmamba.settings import ProgressCallback, StopCallback

ROW = Qt.ItemDataRole.UserRole
"""Role of the `Row` of a line."""
LOCATION = Qt.ItemDataRole.UserRole + 1
"""Role of a line's location, a text."""

_BATCH, _BATCH_SECONDS = 250, 0.2
_NO_INDEX = QModelIndex()


class CheckpointModel(QAbstractTableModel):
    """The user's list of checkpoints, filled in the background.

    Parameters
    ----------
    library
        The list; that of this user by default.

    Signals
    -------
    progressed(done, total, message)
        While headers are read.
    settled()
        All headers are read, or the reading was stopped.
    told(sentence)
        Something about the list itself went wrong.
    """

    progressed = Signal(int, int, str)
    settled = Signal()
    told = Signal(str)
    _found = Signal(object)

    def __init__(
        self, library: CheckpointLibrary | None = None, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self.library = CheckpointLibrary() if library is None else library
        self._rows: list[Row] = []
        self._places: dict[str, int] = {}
        self._pass = 0
        self._demos = tuple(str(path) for path in demo_checkpoints())
        self._reading = LatestJob(self, delay_ms=0)
        self._reading.progressed.connect(self.progressed)
        self._reading.succeeded.connect(self._drop_what_is_gone)
        self._reading.failed.connect(self.told)
        self._reading.finished.connect(self.settled)
        self._found.connect(self._take)
        self._put(
            CheckpointSummary(demo) for demo in self._demos if demo not in self.library.removed
        )
        self.refresh()

    # -- what views ask -------------------------------------------------------------------

    def rowCount(self, parent: QModelIndex = _NO_INDEX) -> int:
        """See `QAbstractItemModel.rowCount`."""
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex = _NO_INDEX) -> int:
        """See `QAbstractItemModel.columnCount`."""
        return 0 if parent.isValid() else len(COLUMNS)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """See `QAbstractItemModel.data`."""
        if not index.isValid():
            return None
        row = self._rows[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[index.column()].text(row)
        if role == ROW:
            return row
        return row.summary.location if role == LOCATION else None

    def headerData(
        self,
        section: int,
        orientation: Qt.Orientation,
        role: int = Qt.ItemDataRole.DisplayRole,
    ) -> Any:
        """See `QAbstractItemModel.headerData`."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[section].title
        return COLUMNS[section].help if role == Qt.ItemDataRole.ToolTipRole else None

    # -- what the list holds --------------------------------------------------------------

    def row_at(self, place: int) -> Row:
        """Return the checkpoint of a line."""
        return self._rows[place]

    @property
    def is_reading(self) -> bool:
        """Whether headers are still being read."""
        return self._reading.is_busy

    def row_of(self, location: str) -> Row | None:
        """Return the checkpoint at a location."""
        place = self._places.get(location)
        return None if place is None else self._rows[place]

    def add(self, given: str | Path) -> str:
        """Put a folder, a file or a repository on the list, and return it as a source.

        A file stands in the table at once, and is read in the background. A list that cannot be
        written is told, and holds what was added until the program ends.
        """
        if str(given) in self._places:
            return str(given)
        try:
            source = source_of(given)
        except UserError as error:
            self.told.emit(str(error))
            return ""
        if source in self._places:
            return source
        try:
            self.library.add(source)
        except UserError as error:
            self.told.emit(str(error))
        if Path(source).is_file():
            self._put([CheckpointSummary(source)])
        self.refresh()
        return source

    def remove(self, locations: Iterable[str]) -> None:
        """Take checkpoints off the list; their files stay."""
        self._change(partial(self.library.remove, *locations))

    def remove_source(self, source: str) -> None:
        """Stop looking into a folder or a repository."""
        self._change(lambda: self.library.remove_source(source))

    def restore(self) -> None:
        """Put back what was taken off one by one."""
        self._change(self.library.restore)

    def set_note(self, location: str, note: str) -> None:
        """Keep the user's note on a checkpoint."""
        try:
            self.library.set_note(location, note)
        except UserError as error:
            self.told.emit(str(error))
            return
        row = self.row_of(location)
        if row is not None:
            self._put([row.summary])

    def refresh(self) -> None:
        """Read all headers again that may have changed."""
        self._pass += 1
        this_pass, sources, removed = self._pass, self.library.sources, self.library.removed

        def task(progress: ProgressCallback, stop: StopCallback) -> tuple[int, set[str]]:
            seen: set[str] = set()
            batch: list[CheckpointSummary] = []
            sent = time.monotonic()
            cache = SummaryCache(default_cache())
            for summary in index(
                (*self._demos, *sources),
                removed=removed,
                cache=cache,
                on_progress=progress,
                should_stop=stop,
            ):
                seen.add(summary.location)
                batch.append(summary)
                if len(batch) >= _BATCH or time.monotonic() - sent > _BATCH_SECONDS:
                    self._found.emit((this_pass, batch))
                    batch, sent = [], time.monotonic()
            self._found.emit((this_pass, batch))
            return this_pass, seen

        self._reading.request(task)

    def stop(self) -> None:
        """Stop reading; what was read stays."""
        self._reading.cancel()

    def _change(self, change: Callable[[], None]) -> None:
        try:
            change()
        except UserError as error:
            self.told.emit(str(error))
            return
        gone = self.library.removed
        self._keep(lambda location: location not in gone)
        self.refresh()

    def _take(self, found: tuple[int, list[CheckpointSummary]]) -> None:
        this_pass, summaries = found
        if this_pass == self._pass:
            removed = self.library.removed
            self._put(one for one in summaries if one.location not in removed)

    def _drop_what_is_gone(self, seen: tuple[int, set[str]]) -> None:
        this_pass, locations = seen
        if this_pass == self._pass:
            self._keep(lambda location: location in locations)

    def _put(self, summaries: Iterable[CheckpointSummary]) -> None:
        """Show checkpoints: those known already in their places, the others at the end."""
        new: dict[str, Row] = {}
        last = self.columnCount() - 1
        for summary in summaries:
            row = Row(summary, note=self.library.note(summary.location))
            place = self._places.get(summary.location)
            if place is None:
                new[summary.location] = row
            elif self._rows[place] != row:
                self._rows[place] = row
                self.dataChanged.emit(self.index(place, 0), self.index(place, last))
        if new:
            first = len(self._rows)
            self.beginInsertRows(QModelIndex(), first, first + len(new) - 1)
            self._places.update({location: first + n for n, location in enumerate(new)})
            self._rows.extend(new.values())
            self.endInsertRows()

    def _keep(self, wanted: Callable[[str], bool]) -> None:
        """Take lines away, neighbours together and from the end, so that places stay right."""
        end = len(self._rows)
        while end > 0:
            start = end
            while start > 0 and not wanted(self._rows[start - 1].summary.location):
                start -= 1
            if start == end:
                end -= 1
                continue
            self.beginRemoveRows(QModelIndex(), start, end - 1)
            del self._rows[start:end]
            self._places = {row.summary.location: n for n, row in enumerate(self._rows)}
            self.endRemoveRows()
            end = start


_shared: list[CheckpointModel] = []


def shared_checkpoints() -> CheckpointModel:
    """Return the list that all widgets share, which is read when it is first asked for."""
    if not _shared:
        _shared.append(CheckpointModel())
    return _shared[0]
