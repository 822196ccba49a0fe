"""What is asked of the slides, and what each class is called in the model."""

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFormLayout, QLabel, QVBoxLayout, QWidget

from napari_2dmamba.plugin.parts.form import TextEditor

if TYPE_CHECKING:
    from napari_2dmamba.tasks import Table

_ASKED = {
    "classification": "Asked: which of {count} classes. The model gives them in this order; a name "
    "given here stands in it in place of the table's label.",
    "ordinal": "Asked: the grade, of {count} from lowest to highest. A name given here stands in "
    "the model in place of the table's label; the order stays.",
    "survival": "Asked: how early the event comes. A slide gets a risk, higher for an earlier "
    "event; censored slides count as long as they were followed. There are no classes to name.",
}


class ClassNames(QWidget):
    """One row per class, in the order of the model's outputs.

    Names belong to a table and its classes: with other ones they are forgotten, so that none can
    come to stand for another class.

    Signals
    -------
    changed()
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.asked = QLabel()
        self.asked.setWordWrap(True)
        self._of: tuple[Path | None, tuple[str, ...]] = (None, ())
        self._editors: dict[str, TextEditor] = {}
        self._rows = QFormLayout()
        self._rows.setContentsMargins(0, 0, 0, 0)
        self._rows.setSpacing(4)
        self._rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.asked)
        layout.addLayout(self._rows)
        self.hide()

    def show_table(self, table: "Table | None") -> None:
        """Say what a table asks, and offer its classes to be named; None shows nothing."""
        self.setVisible(table is not None)
        if table is None:
            return
        self.asked.setText(_ASKED[table.kind].format(count=len(table.classes)))
        if (table.path, table.classes) == self._of:
            return
        self._of = (table.path, table.classes)
        self._editors.clear()
        while self._rows.rowCount():
            self._rows.removeRow(0)
        for number, label in enumerate(table.classes):
            shown = QLabel(f"{number}: {label}")
            shown.setTextFormat(Qt.TextFormat.PlainText)
            editor = TextEditor(optional=False)
            editor.set(label)
            editor.setToolTip(f"What the model calls the slides with the label {label!r}")
            editor.changed.connect(self.changed)
            self._editors[label] = editor
            self._rows.addRow(shown, editor)

    def editor(self, label: str) -> TextEditor:
        """Return the editor of the name of one label."""
        return self._editors[label]

    @property
    def names(self) -> dict[str, str]:
        """The names given, by the table's label; an empty one is the label itself."""
        told = {label: editor.get() or label for label, editor in self._editors.items()}
        return {label: name for label, name in told.items() if name != label}

    @property
    def problem(self) -> str:
        """Why these names cannot be used, or nothing."""
        given = self.names
        told = [given.get(label, label) for label in self._editors]
        twice = next((name for name in told if told.count(name) > 1), None)
        if twice is None:
            return ""
        return f"two classes are called {twice!r}; give each a name of its own"
