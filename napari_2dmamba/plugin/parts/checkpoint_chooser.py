"""A box to choose one checkpoint of the shared list from."""

from typing import Any

from qtpy.QtCore import QModelIndex, QObject, QSortFilterProxyModel, Qt, Signal
from qtpy.QtWidgets import QComboBox

from napari_2dmamba.plugin.parts.checkpoint_model import LOCATION, CheckpointModel
from napari_2dmamba.sample import demo_checkpoints

_DEMO = "demo-2dmamba"
_WRITTEN = {name.casefold(): name for name in (
    "ABMIL", "CLAM-SB", "DSMIL", "MambaMIL", "SRMambaMIL", "TransMIL",
)}  # fmt: skip
"""Models whose names are more than their file's."""


class CheckpointChooser(QComboBox):
    """Offers all checkpoints of the list that can be read, the demo checkpoints first.

    Parameters
    ----------
    checkpoints
        The shared list.

    Signals
    -------
    chosen(location)
        Another checkpoint was chosen; empty where there is none any more.
    """

    chosen = Signal(str)

    def __init__(self, checkpoints: CheckpointModel) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self._offered = _Offered(checkpoints, self)
        self.setModel(self._offered)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMaxVisibleItems(25)
        self._last = ""
        self.currentIndexChanged.connect(self._follow)
        self.setCurrentIndex(0 if self.count() else -1)
        self._last = self.location

    @property
    def location(self) -> str:
        """What is chosen: a path, or a place on Hugging Face; empty where there is nothing."""
        return str(self.currentData(LOCATION) or "")

    @property
    def locations(self) -> list[str]:
        """All that can be chosen, in the order of the box."""
        return [str(self.itemData(line, LOCATION)) for line in range(self.count())]

    def choose(self, location: str) -> None:
        """Choose a checkpoint of the list, also one that cannot be read."""
        self._offered.keep(location)
        for line in range(self.count()):
            if self.itemData(line, LOCATION) == location:
                self.setCurrentIndex(line)
                return

    def initStyleOption(self, option: Any) -> None:
        """Let a name that is too long end in … and not be cut."""
        super().initStyleOption(option)
        room = self.width() - 2 * self.height()  # beside arrow and frame
        elide = Qt.TextElideMode.ElideMiddle
        option.currentText = self.fontMetrics().elidedText(option.currentText, elide, room)

    def _follow(self, line: int) -> None:
        # Lines that come and go before the chosen one change its number, and not the choice
        if self.location != self._last:
            self._last = self.location
            self.chosen.emit(self._last)


class _Offered(QSortFilterProxyModel):
    def __init__(self, checkpoints: CheckpointModel, parent: QObject) -> None:
        super().__init__(parent)
        self._checkpoints = checkpoints
        self._demos = {str(path): _demo_name(path.stem) for path in demo_checkpoints()}
        self._kept: set[str] = set()
        self.setSourceModel(checkpoints)
        self.setDynamicSortFilter(True)
        self.sort(0)

    def keep(self, location: str) -> None:
        """Offer a checkpoint whatever is wrong with it."""
        if location not in self._kept:
            self._kept.add(location)
            self.invalidateFilter()

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 1

    def filterAcceptsRow(self, source_row: int, source_parent: QModelIndex) -> bool:
        summary = self._checkpoints.row_at(source_row).summary
        return not summary.problem or summary.location in self._kept

    def lessThan(self, left: QModelIndex, right: QModelIndex) -> bool:
        return bool(self._order(left) < self._order(right))

    def _order(self, index: QModelIndex) -> tuple[bool, str, str]:
        location = str(self._checkpoints.data(index, LOCATION))
        name = self._demos.get(location)
        text = str(self._checkpoints.data(index) or "")
        return name is None, (name or text).casefold(), location

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return super().data(index, role)
        location = str(super().data(index, LOCATION))
        if role == Qt.ItemDataRole.ToolTipRole:
            return location
        return self._demos.get(location) or super().data(index, role)


def _demo_name(stem: str) -> str:
    """Return what a demo checkpoint is called, by its file; the classifier sorts before all."""
    kind = stem.removeprefix(_DEMO).removeprefix("demo").removeprefix("-")
    if kind == "real":
        return "Demo, gastrointestinal tract or not (real slides)"
    kind = _WRITTEN.get(kind, kind)
    return f"Demo, {kind} (synthetic slides)" if kind else "Demo (synthetic slides)"
