"""Classes with their colours and shares, as a legend that can hide each."""

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_2dmamba.export.labels import class_colours

_MOST_LINES = 8


class ClassList(QListWidget):
    """One line for each class.

    Signals
    -------
    hidden_changed(names)
        The classes that are not ticked; only where lines can be ticked.
    """

    hidden_changed = Signal(list)

    def __init__(self, *, can_hide: bool) -> None:
        super().__init__()
        self._can_hide = can_hide
        self._names: tuple[str, ...] = ()
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSelectionMode(QListWidget.SelectionMode.NoSelection)
        self.itemChanged.connect(lambda _: self.hidden_changed.emit(self.hidden))

    def show_classes(
        self,
        names: Sequence[str],
        shares: Sequence[float],
        given: Sequence[tuple[int, int, int]] = (),
    ) -> None:
        """List classes, largest share first."""
        self.blockSignals(True)
        self.clear()
        self._names = tuple(names)
        colours = class_colours(names, given)
        for number in sorted(range(len(names)), key=lambda k: (-shares[k], k)):
            picture = QPixmap(14, 14)
            picture.fill(QColor(*colours[number].tolist()))
            item = QListWidgetItem(QIcon(picture), f"{names[number]}, {100 * shares[number]:.1f} %")
            item.setData(Qt.ItemDataRole.UserRole, names[number])
            item.setToolTip(names[number])
            item.setFlags(Qt.ItemFlag.ItemIsEnabled)
            if self._can_hide:
                item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
                item.setCheckState(Qt.CheckState.Checked)
            self.addItem(item)
        self.blockSignals(False)
        lines = min(max(1, len(names)), _MOST_LINES)
        self.setFixedHeight(lines * max(18, self.sizeHintForRow(0)) + 6)

    @property
    def hidden(self) -> list[str]:
        """Names of the classes that are not ticked."""
        items = [self.item(row) for row in range(self.count())]
        return [
            item.data(Qt.ItemDataRole.UserRole)
            for item in items
            if item is not None and item.checkState() == Qt.CheckState.Unchecked
        ]
