"""Which panels the grid shows: ticks, and differences that are added for any pair."""

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.plugin.compare_widget.panel import Panel

_SHOWN_ROWS = 9


class PanelList(QWidget):
    """The panels there are, with ticks.

    Signals
    -------
    changed()
        Other panels are ticked.
    difference_wanted(first, second)
        Numbers of two entries of the comparison.
    ensemble_wanted(members)
        Numbers of the ticked entries.
    """

    changed = Signal()
    difference_wanted = Signal(int, int)
    ensemble_wanted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._panels: list[Panel] = []
        self.list = QListWidget()
        self.list.setAccessibleName("Panels")
        self.list.itemChanged.connect(lambda _: self.changed.emit())
        self.first, self.second = QComboBox(), QComboBox()
        for box in (self.first, self.second):
            box.setSizeAdjustPolicy(
                QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
            )
            box.setMinimumContentsLength(6)
            box.currentIndexChanged.connect(self._follow)
        self.add = QPushButton("Add")
        self.add.setToolTip("Add the difference of two maps, in percentile ranks")
        self.add.clicked.connect(
            lambda: self.difference_wanted.emit(
                self.first.currentIndex(), self.second.currentIndex()
            )
        )
        self.combine = QPushButton("Add mean and spread of the ticked")
        self.combine.setToolTip("For seeds or folds of one model: an ensemble")
        self.combine.clicked.connect(
            lambda: self.ensemble_wanted.emit(
                [panel.entry for panel in self.ticked if panel.entry is not None]
            )
        )
        pair = QHBoxLayout()
        pair.addWidget(self.first, 1)
        pair.addWidget(QLabel("−"))
        pair.addWidget(self.second, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.list)
        pair.addWidget(self.add)
        layout.addLayout(pair)
        layout.addWidget(self.combine)

    @property
    def panels(self) -> list[Panel]:
        """All panels there are."""
        return list(self._panels)

    @property
    def ticked(self) -> list[Panel]:
        """The panels to show."""
        return [panel for panel, item in self._items() if _is_ticked(item)]

    def offer(self, panels: Sequence[Panel]) -> None:
        """Offer the panels of a comparison, all ticked, in place of those before."""
        self.blockSignals(True)
        self.list.clear()
        self._panels = []
        for panel in panels:
            self._append(panel)
        for number, box in enumerate((self.first, self.second)):
            box.clear()
            box.addItems([panel.title for panel in panels])
            box.setCurrentIndex(min(number, len(panels) - 1))
        self.blockSignals(False)
        self._follow()
        self.changed.emit()

    def show_panels(self, panels: Sequence[Panel]) -> None:
        """Add panels, or tick those of their keys."""
        was_blocked = self.blockSignals(True)
        known = [panel.key for panel in self._panels]
        for panel in panels:
            if panel.key in known:
                self.tick(panel.key)
            else:
                self._append(panel)
        self.blockSignals(was_blocked)
        self.changed.emit()

    def tick(self, key: str, is_on: bool = True) -> None:
        """Show or hide a panel, as a click does."""
        for panel, item in self._items():
            if panel.key == key:
                item.setCheckState(Qt.CheckState.Checked if is_on else Qt.CheckState.Unchecked)

    def _append(self, panel: Panel) -> None:
        self._panels.append(panel)
        item = QListWidgetItem(panel.title)
        item.setToolTip(panel.grid_map.meaning)
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
        item.setCheckState(Qt.CheckState.Checked)
        was_blocked = self.list.blockSignals(True)
        self.list.addItem(item)
        self.list.blockSignals(was_blocked)
        rows = min(self.list.count(), _SHOWN_ROWS) * self.list.sizeHintForRow(0)
        self.list.setFixedHeight(rows + 2 * self.list.frameWidth() + 2)

    def _items(self) -> list[tuple[Panel, QListWidgetItem]]:
        items = [self.list.item(row) for row in range(self.list.count())]
        return [(p, item) for p, item in zip(self._panels, items, strict=True) if item is not None]

    def _follow(self) -> None:
        self.add.setEnabled(self.first.currentIndex() != self.second.currentIndex())


def _is_ticked(item: QListWidgetItem) -> bool:
    return item.checkState() == Qt.CheckState.Checked
