"""Which models are compared: one row each, with its name and its maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QMenu,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.compare.contender import MOST, SCORE, Contender
from napari_2dmamba.errors import CheckpointError, UserError
from napari_2dmamba.explain.named_maps import MAPS
from napari_2dmamba.models.header import CheckpointHeader, read_header
from napari_2dmamba.plugin.inspect_widget.map_list import TITLES
from napari_2dmamba.plugin.run_widget.message import Message
from napari_2dmamba.plugin.run_widget.model_section import CHECKPOINT_FILTER, describe

if TYPE_CHECKING:
    from napari_2dmamba.models import Aggregator

_OURS = ".safetensors"
_SCORE_TITLE = "Score of the model"
_MAP_TITLES = {
    SCORE: _SCORE_TITLE,
    **{name: title for name, title in TITLES.items() if not MAPS[name].at_patch},
}


@dataclass(frozen=True)
class Choice:
    """A model that can be chosen.

    Attributes
    ----------
    title
        What the list calls it.
    source
        A file, or a model that is loaded already.
    header
        What it says of itself; None where only loading it would tell.
    """

    title: str
    source: "Path | Aggregator"
    header: CheckpointHeader | None


@dataclass(frozen=True)
class Chosen:
    """One row: a model, the name it gets (empty for that of its architecture), its maps."""

    choice: Choice
    label: str
    maps: tuple[str, ...]


class ContenderList(QWidget):
    """Rows of models, with buttons that add some.

    Signals
    -------
    changed()
        Models, names or maps are others.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setAcceptDrops(True)
        self.choices: list[Choice] = []
        self.rows: list[ContenderRow] = []
        self.message = Message()
        self.add = QPushButton("Add model")
        self.browse = QPushButton("Browse…")
        self.folder = QPushButton("Folder…")
        self.browse.setToolTip("Add checkpoint files; they can also be dropped here")
        self.folder.setToolTip("Offer all checkpoints of a folder")
        self.add.clicked.connect(self.add_row)
        self.browse.clicked.connect(self._browse)
        self.folder.clicked.connect(self._browse_folder)
        self._rows_layout = QVBoxLayout()
        self._rows_layout.setSpacing(8)
        buttons = QHBoxLayout()
        for button in (self.add, self.browse, self.folder):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(self._rows_layout)
        layout.addLayout(buttons)
        layout.addWidget(self.message)
        self._follow()

    # -- what can be chosen ---------------------------------------------------------------

    def offer(self, choices: Sequence[Choice]) -> None:
        """Offer more models; those offered already are not offered twice."""
        known = [choice.source for choice in self.choices]
        new = [choice for choice in choices if choice.source not in known]
        self.choices += new
        for row in self.rows:
            row.offer(new)
        self._follow()

    def offer_files(self, paths: Sequence[Path]) -> list[Choice]:
        """Offer files; says which cannot be used, in one sentence."""
        found = []
        for path in paths:
            try:
                found.append(choice_of(path))
            except UserError as error:
                self.message.say(str(error), "error")
        self.offer(found)
        return found

    def offer_folder(self, folder: Path) -> list[Choice]:
        """Offer all checkpoints right in a folder that say what they are."""
        found = []
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix == _OURS:
                try:
                    found.append(Choice(path.stem, path, read_header(path)))
                except UserError:
                    continue  # features, or weights of something else
        if not found:
            self.message.say(
                f"{folder} holds no checkpoint of this project; choose other files with Browse…",
                "warning",
            )
        self.offer(found)
        return found

    # -- the rows -------------------------------------------------------------------------

    def show_choices(self, choices: Sequence[Choice]) -> None:
        """Compare these, in place of the rows there are."""
        self.offer(choices)
        for row in list(self.rows):
            self._remove(row)
        for choice in choices[:MOST]:
            self.add_row(choice)

    def add_row(self, choice: Choice | None = None) -> None:
        """Add a model; without one the first that is not compared yet."""
        if len(self.rows) >= MOST or not self.choices:
            return
        if not isinstance(choice, Choice):
            taken = [row.choice for row in self.rows]
            free = [one for one in self.choices if one not in taken]
            choice = (free or self.choices)[0]
        row = ContenderRow(self.choices, choice)
        row.removed.connect(lambda: self._remove(row))
        row.changed.connect(self._follow)
        self.rows.append(row)
        self._rows_layout.addWidget(row)
        self._follow()

    @property
    def chosen(self) -> tuple[Chosen, ...]:
        """The rows."""
        return tuple(row.chosen for row in self.rows)

    def _remove(self, row: "ContenderRow") -> None:
        self.rows.remove(row)
        self._rows_layout.removeWidget(row)
        row.deleteLater()
        self._follow()

    def _follow(self) -> None:
        self.add.setEnabled(bool(self.choices) and len(self.rows) < MOST)
        self.changed.emit()

    # -- files ----------------------------------------------------------------------------

    def _take(self, paths: Sequence[Path]) -> None:
        self.message.clear()
        for path in paths:
            found = self.offer_folder(path) if path.is_dir() else self.offer_files([path])
            for choice in found:
                if choice.source not in [row.choice.source for row in self.rows]:
                    self.add_row(next(c for c in self.choices if c.source == choice.source))

    def _browse(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Choose checkpoints", "", CHECKPOINT_FILTER)
        self._take([Path(path) for path in paths])

    def _browse_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A folder of checkpoints")
        if folder:
            self.message.clear()
            self.offer_folder(Path(folder))

    def dragEnterEvent(self, event: Any) -> None:
        """Accept files and folders."""
        data = event.mimeData()
        if data is not None and any(url.isLocalFile() for url in data.urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Compare the dropped files."""
        data = event.mimeData()
        if data is not None:
            self._take([Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile()])


class ContenderRow(QWidget):
    """A model, its name and its maps.

    Signals
    -------
    changed(), removed()
    """

    changed = Signal()
    removed = Signal()

    def __init__(self, choices: Sequence[Choice], choice: Choice) -> None:
        super().__init__()
        self._choices: list[Choice] = []
        self.models = QComboBox()
        self.models.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.models.installEventFilter(self)
        self.remove = QToolButton()
        self.remove.setText("✕")
        self.remove.setToolTip("Compare without this model")
        self.remove.setAutoRaise(True)
        self.remove.clicked.connect(self.removed)
        self.name = QLineEdit()
        self.name.setPlaceholderText("named after its architecture")
        self.name.setToolTip("What panels, tables and figures call the model")
        self.name.editingFinished.connect(self.changed)
        self.maps = MapsButton()
        self.maps.changed.connect(self.changed)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setHorizontalSpacing(4)
        layout.setVerticalSpacing(2)
        layout.addWidget(self.models, 0, 0, 1, 2)
        layout.addWidget(self.remove, 0, 2)
        layout.addWidget(self.name, 1, 0)
        layout.addWidget(self.maps, 1, 1, 1, 2)
        layout.setColumnStretch(0, 1)
        self.offer(choices)
        self.models.setCurrentIndex(self._choices.index(choice))
        self.models.currentIndexChanged.connect(self._follow)
        self._follow()

    def offer(self, choices: Sequence[Choice]) -> None:
        """Offer more models."""
        self._choices += choices
        self.models.blockSignals(True)
        self.models.addItems([choice.title for choice in choices])
        self.models.blockSignals(False)

    @property
    def choice(self) -> Choice:
        """The model."""
        return self._choices[self.models.currentIndex()]

    @property
    def chosen(self) -> Chosen:
        """What the row says."""
        return Chosen(self.choice, self.name.text().strip(), self.maps.names)

    def _follow(self) -> None:
        header = self.choice.header
        self.models.setToolTip("" if header is None else describe(header))
        self.changed.emit()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Let the wheel scroll the list, not change models by accident."""
        if event is not None and event.type() == QEvent.Type.Wheel:
            event.ignore()
            return True
        return False


class MapsButton(QPushButton):
    """A menu of maps with ticks; at least one stays ticked.

    Signals
    -------
    changed()
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Preferred)
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        self._actions = {}
        for name, title in _MAP_TITLES.items():
            action = menu.addAction(title)
            assert action is not None
            action.setCheckable(True)
            action.setChecked(name == SCORE)
            action.toggled.connect(self._follow)
            if name in MAPS:
                action.setToolTip(MAPS[name].question)
            self._actions[name] = action
        self.setMenu(menu)
        self._follow()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the ticked maps."""
        ticked = tuple(name for name, action in self._actions.items() if action.isChecked())
        return ticked or (SCORE,)

    def tick(self, name: str, is_on: bool = True) -> None:
        """Tick a map, as a click does."""
        self._actions[name].setChecked(is_on)

    def _follow(self) -> None:
        count = len(self.names)
        self.setText("1 map" if count == 1 else f"{count} maps")
        self.setToolTip("Maps of this model: " + ", ".join(_MAP_TITLES[n] for n in self.names))
        self.changed.emit()


def choice_of(path: Path) -> Choice:
    """Return what a file offers.

    Raises
    ------
    CheckpointError
        When it is no checkpoint, or states too little to be compared.
    """
    if path.suffix != _OURS:
        raise CheckpointError(
            f"{path.name} is not a checkpoint of this project; choose it in Run 2DMamba, which "
            "asks for what it does not state, and then it can be added here"
        )
    return Choice(path.stem, path, read_header(path))


def contenders_of_rows(rows: Sequence[Chosen]) -> list[Contender]:
    """Load the models of rows, and name those without a name after their architecture.

    Raises
    ------
    CheckpointError
        When a file cannot be loaded.
    """
    from napari_2dmamba.models import Aggregator, load_checkpoint

    models = [
        source if isinstance(source, Aggregator) else load_checkpoint(source)
        for source in (row.choice.source for row in rows)
    ]
    titles = [model.model.variant for model in models]
    return [
        Contender(
            row.label or (title if titles.count(title) == 1 else f"{title} ({row.choice.title})"),
            model,
            maps=row.maps,
        )
        for row, model, title in zip(rows, models, titles, strict=True)
    ]
