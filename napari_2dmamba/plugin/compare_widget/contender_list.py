"""Which models are compared: one row each, with its name and its maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, Signal
from qtpy.QtWidgets import (
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
from napari_2dmamba.explain.maps import MAPS
from napari_2dmamba.plugin.parts.checkpoint_chooser import CheckpointChooser
from napari_2dmamba.plugin.parts.checkpoint_model import CheckpointModel
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.model_section import CHECKPOINT_FILTER

if TYPE_CHECKING:
    from napari_2dmamba.models import Aggregator
    from napari_2dmamba.settings import ProgressCallback, StopCallback

_SCORE_TITLE = "Score of the model"
_MAP_TITLES = {
    SCORE: _SCORE_TITLE,
    **{name: one.title for name, one in MAPS.items() if one.title and not one.at_patch},
}


@dataclass(frozen=True)
class Chosen:
    """One row.

    Attributes
    ----------
    location
        Of the checkpoint, as the shared list has it.
    label
        The name the model gets; empty for that of its architecture.
    maps
        Names of its maps.
    """

    location: str
    label: str
    maps: tuple[str, ...]


class ContenderList(QWidget):
    """Rows of models, with buttons that add some.

    Parameters
    ----------
    checkpoints
        The list of checkpoints that all widgets share.

    Signals
    -------
    changed()
        Models, names or maps are others.
    table_wanted()
        All checkpoints are to be shown.
    """

    changed = Signal()
    table_wanted = Signal()

    def __init__(self, checkpoints: CheckpointModel) -> None:
        super().__init__()
        self.setAcceptDrops(True)
        self._checkpoints = checkpoints
        self.rows: list[ContenderRow] = []
        self.message = Message()
        self.add = QPushButton("Add model")
        self.browse = QPushButton("Browse…")
        self.all = QPushButton("All…")
        self.browse.setToolTip("Add checkpoint files; they can also be dropped here")
        self.all.setToolTip("Show all checkpoints in a table, with what fits the open slide")
        self.add.clicked.connect(lambda: self.add_row())
        self.browse.clicked.connect(self._browse)
        self.all.clicked.connect(self.table_wanted)
        self._rows_layout = QVBoxLayout()
        self._rows_layout.setSpacing(8)
        buttons = QHBoxLayout()
        for button in (self.add, self.browse, self.all):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(self._rows_layout)
        layout.addLayout(buttons)
        layout.addWidget(self.message)
        checkpoints.settled.connect(self._tell_problems)
        self._follow()

    def show_rows(self, paths: Sequence[Path | str]) -> None:
        """Compare these checkpoints, in place of the rows there are."""
        for row in list(self.rows):
            self._remove(row)
        for path in paths[:MOST]:
            self.add_row(path)

    def add_row(self, path: Path | str | None = None) -> None:
        """Add a model; without one the first of the list that is not compared yet."""
        if len(self.rows) >= MOST:
            return
        row = ContenderRow(self._checkpoints)
        location = self._free(row.models) if path is None else self._checkpoints.add(path)
        row.models.choose(location)
        row.removed.connect(lambda: self._remove(row))
        row.changed.connect(self._follow)
        self.rows.append(row)
        self._rows_layout.addWidget(row)
        self._follow()

    @property
    def chosen(self) -> tuple[Chosen, ...]:
        """The rows."""
        return tuple(row.chosen for row in self.rows)

    def take(self, paths: Sequence[Path]) -> None:
        """Compare files as well; folders only offer what they hold."""
        for path in paths:
            if path.is_dir():
                self._checkpoints.add(path)
            elif str(path) not in [row.chosen.location for row in self.rows]:
                self.add_row(path)

    def _free(self, models: CheckpointChooser) -> str:
        taken = [row.chosen.location for row in self.rows]
        offered = models.locations
        return next((one for one in offered if one not in taken), models.location)

    def _remove(self, row: "ContenderRow") -> None:
        self.rows.remove(row)
        self._rows_layout.removeWidget(row)
        row.deleteLater()
        self._follow()

    def _follow(self) -> None:
        self.add.setEnabled(len(self.rows) < MOST)
        self._tell_problems()
        self.changed.emit()

    def _tell_problems(self) -> None:
        """Say what is wrong with the first model that cannot be used."""
        self.message.clear()
        for row in self.rows:
            known = self._checkpoints.row_of(row.chosen.location)
            if known is not None and known.summary.problem:
                self.message.say(known.summary.problem, "error")
                return

    # -- files ----------------------------------------------------------------------------

    def _browse(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Choose checkpoints", "", CHECKPOINT_FILTER)
        self.take([Path(path) for path in paths])

    def dragEnterEvent(self, event: Any) -> None:
        """Accept files and folders."""
        data = event.mimeData()
        if data is not None and any(url.isLocalFile() for url in data.urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Compare the dropped files."""
        data = event.mimeData()
        if data is not None:
            self.take([Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile()])


class ContenderRow(QWidget):
    """A model, its name and its maps.

    Signals
    -------
    changed(), removed()
    """

    changed = Signal()
    removed = Signal()

    def __init__(self, checkpoints: CheckpointModel) -> None:
        super().__init__()
        self.models = CheckpointChooser(checkpoints)
        self.models.installEventFilter(self)
        self.models.chosen.connect(self.changed)
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

    @property
    def chosen(self) -> Chosen:
        """What the row says."""
        return Chosen(self.models.location, self.name.text().strip(), self.maps.names)

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


def contenders_of_rows(
    rows: Sequence[Chosen],
    loaded: "dict[str, Aggregator]",
    on_progress: "ProgressCallback",
    should_stop: "StopCallback",
) -> list[Contender]:
    """Load the models of rows, and name those without a name after their architecture.

    Parameters
    ----------
    rows
        What was chosen.
    loaded
        Models that are loaded already, by location.
    on_progress, should_stop
        See `settings`.

    Raises
    ------
    UserError
        When a checkpoint cannot be fetched or loaded.
    """
    from napari_2dmamba.checkpoints.hub import fetch
    from napari_2dmamba.checkpoints.summary import HUB_PREFIX
    from napari_2dmamba.errors import CheckpointError
    from napari_2dmamba.models import load_checkpoint
    from napari_2dmamba.models.published import MissingSettingsError

    models, names = [], []
    for row in rows:
        if not row.location:
            raise CheckpointError("a model is not chosen yet; choose a checkpoint, or remove it")
        names.append(row.location.replace("\\", "/").rpartition("/")[2].rpartition(".")[0])
        if row.location in loaded:
            models.append(loaded[row.location])
            continue
        on_hub = row.location.startswith(HUB_PREFIX)
        path = fetch(row.location, on_progress, should_stop) if on_hub else Path(row.location)
        try:
            models.append(load_checkpoint(path))
        except MissingSettingsError as error:
            raise CheckpointError(
                f"{path.name} does not state all its settings; choose it in Run 2DMamba, which "
                "asks for them, and compare while it is chosen there"
            ) from error
    titles = [model.model.variant for model in models]
    return [
        Contender(
            row.label or (title if titles.count(title) == 1 else f"{title} ({name})"),
            model,
            maps=row.maps,
        )
        for row, model, title, name in zip(rows, models, titles, names, strict=True)
    ]
