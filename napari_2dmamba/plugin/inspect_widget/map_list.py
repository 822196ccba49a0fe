"""The maps that can be asked for: tick to keep one up to date, choose to look at it."""

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QLabel, QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.named_maps import MAPS
from napari_2dmamba.explain.receptive_field import FIGURE_DISPLAY

TITLES = {
    "provenance": "Provenance: where its state came from",
    "provenance-gate": "Provenance through gate and skip",
    "provenance-projection": "Provenance through the output projection",
    "feeds": "Feeds: where its input goes",
    "rollout": "Provenance through all layers (rollout)",
    "state-relevance": "Relevance to its state (LRP)",
    "erf": "Receptive field (ERF)",
    "erf-figure": "Receptive field, drawn as in papers",
    "slide-erf": "Receptive field of the answer",
    "gradient-x-input": "Contribution: gradient x input",
    "integrated-gradients": "Contribution: integrated gradients",
    "relevance": "Contribution: relevance (LRP)",
    "stability-turns": "Unsteady under flips and rotations",
    "stability-dropout": "Unsteady when patches are left out",
}
"""What the list offers; the decisive patches have a button of their own."""

STARTING = ("provenance", "erf")

_FAINT = DisplaySettings(transform="raw", gamma=0.3, colormap="YlOrRd", opacity=0.6)


def first_display(name: str) -> DisplaySettings:
    """Return how a map is shown at first.

    Maps of a patch are zero at many patches and fall off fast: a rank would show the zeros as
    middling, and a linear scale a single patch.
    """
    if name == "erf-figure":
        return FIGURE_DISPLAY
    if MAPS[name].at_patch:
        return _FAINT
    return DisplaySettings(opacity=0.65)


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
        for name, title in TITLES.items():
            item = QListWidgetItem(title)
            item.setData(Qt.ItemDataRole.UserRole, name)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            on = name in STARTING
            item.setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)
            about = "of the inspected patch" if MAPS[name].at_patch else "of the slide's answer"
            item.setToolTip(f"{MAPS[name].question}\nA map {about}.")
            self.list.addItem(item)
        rows = self.list.sizeHintForRow(0) * self.list.count()
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
        self.list.setCurrentRow(0)

    @property
    def ticked_names(self) -> list[str]:
        """Names of the ticked maps, in the order of the list."""
        return [name for name, item in self._items() if item.checkState() == Qt.CheckState.Checked]

    @property
    def current(self) -> str:
        """Name of the map that is looked at."""
        return tuple(TITLES)[self.list.currentRow()]

    def tick(self, name: str, is_on: bool = True) -> None:
        """Tick a map, as a click does."""
        item = dict(self._items())[name]
        item.setCheckState(Qt.CheckState.Checked if is_on else Qt.CheckState.Unchecked)

    def choose(self, name: str) -> None:
        """Look at a map, as a click does."""
        self.list.setCurrentItem(dict(self._items())[name])

    def _items(self) -> list[tuple[str, QListWidgetItem]]:
        items = [self.list.item(row) for row in range(self.list.count())]
        return [(name, item) for name, item in zip(TITLES, items, strict=True) if item is not None]

    def _on_tick(self, item: QListWidgetItem) -> None:
        name = str(item.data(Qt.ItemDataRole.UserRole))
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
