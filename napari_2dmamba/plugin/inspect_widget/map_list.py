"""The maps that can be asked for: tick to keep one up to date, choose to look at it."""

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QLabel, QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from napari_2dmamba.explain.maps import MAPS
from napari_2dmamba.models.architecture import Architecture

STARTING = ("provenance", "erf")
"""Maps that are ticked at first."""

_ROLE = Qt.ItemDataRole.UserRole


class MapList(QWidget):
    """A list of maps with ticks, and the question that the chosen one answers.

    Signals
    -------
    ticked(name, is_on)
    chosen(name)
        A ticked map is to be looked at.
    """

    ticked = Signal(str, bool)
    chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.list = QListWidget()
        self.list.setAccessibleName("Maps")
        self._items: dict[str, QListWidgetItem] = {}
        for heading, at_patch in (("Of the patch", True), ("Of the slide's answer", False)):
            self._add_heading(heading)
            for name, kind in MAPS.items():
                if kind.title is None or kind.at_patch != at_patch:
                    continue
                item = QListWidgetItem(kind.title)
                item.setData(_ROLE, name)
                item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
                on = name in STARTING
                item.setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)
                item.setToolTip(_tip(name))
                self.list.addItem(item)
                self._items[name] = item
        rows = sum(self.list.sizeHintForRow(row) for row in range(self.list.count()))
        self.list.setFixedHeight(rows + 2 * self.list.frameWidth() + 2)
        self.question = QLabel()
        self.question.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.list)
        layout.addWidget(self.question)
        self.list.itemChanged.connect(self._on_tick)
        self.list.currentItemChanged.connect(self._on_choice)
        self.choose(STARTING[0])

    def _add_heading(self, text: str) -> None:
        heading = QListWidgetItem(text)
        heading.setFlags(Qt.ItemFlag.NoItemFlags)
        font = heading.font()
        font.setBold(True)
        heading.setFont(font)
        self.list.addItem(heading)

    @property
    def ticked_names(self) -> list[str]:
        """Names of the ticked maps that the model has, in the order of the list."""
        return [
            name
            for name, item in self._items.items()
            if item.checkState() == Qt.CheckState.Checked
            and item.flags() & Qt.ItemFlag.ItemIsEnabled
        ]

    @property
    def current(self) -> str:
        """Name of the map that is looked at."""
        item = self.list.currentItem()
        assert item is not None
        return str(item.data(_ROLE))

    def offer(self, model: Architecture) -> None:
        """Grey out what a model does not have, and say why."""
        self.list.blockSignals(True)
        for name, item in self._items.items():
            reason = MAPS[name].why_not(model)
            on = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
            item.setFlags(item.flags() & ~on if reason else item.flags() | on)
            item.setToolTip(f"Not here: {reason}" if reason else _tip(name))
        self.list.blockSignals(False)
        ticked = self.ticked_names
        if ticked and self.current not in ticked:
            self.choose(ticked[0])

    def tick(self, name: str, is_on: bool = True) -> None:
        """Tick a map, as a click does."""
        self._items[name].setCheckState(Qt.CheckState.Checked if is_on else Qt.CheckState.Unchecked)

    def choose(self, name: str) -> None:
        """Look at a map, as a click does."""
        self.list.setCurrentItem(self._items[name])

    def _on_tick(self, item: QListWidgetItem) -> None:
        name = str(item.data(_ROLE))
        is_on = item.checkState() == Qt.CheckState.Checked
        if is_on:
            self.list.setCurrentItem(item)
        self.ticked.emit(name, is_on)

    def _on_choice(self, item: QListWidgetItem | None, last: object = None) -> None:
        if item is None:
            return
        question = MAPS[self.current].question
        self.question.setText(f"<i>{question[:1].upper()}{question[1:]}</i>")
        if item.checkState() == Qt.CheckState.Checked:
            self.chosen.emit(self.current)


def _tip(name: str) -> str:
    """Return the question a map answers, and what its title means."""
    return "\n".join(filter(None, (MAPS[name].question, MAPS[name].terms)))
