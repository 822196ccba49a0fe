"""Forms made from settings dataclasses, so that no default is written twice."""

import dataclasses
import html
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QFont, QStandardItem, QStandardItemModel
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QLabeledDoubleSlider

from napari_2dmamba.plugin.parts.file_or_folder import FileOrFolderButton
from napari_2dmamba.plugin.parts.section import Fold

Settings = TypeVar("Settings")

_LARGE = 10**6
_SMALL = 1e-2


class Form(QWidget, Generic[Settings]):
    """One row per field of a settings dataclass; advanced fields in a fold below.

    Parameters
    ----------
    settings_class
        A dataclass whose fields are made with `napari_2dmamba.settings.setting`.
    leave_out
        Names of fields that another widget sets; they keep their defaults here.
    choices
        What to offer for fields that could hold more than a form can list.
    suggestions
        The same for texts, which may still be typed.
    files, folders
        Names of text fields that hold the path of a file or a folder.

    Signals
    -------
    changed()
        After any field was edited.
    """

    changed = Signal()

    def __init__(
        self,
        settings_class: type[Settings],
        *,
        leave_out: tuple[str, ...] = (),
        choices: dict[str, tuple[Any, ...]] | None = None,
        suggestions: "dict[str, Suggestions] | None" = None,
        files: tuple[str, ...] = (),
        folders: tuple[str, ...] = (),
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._class = settings_class
        self._start: Settings = settings_class()
        self._editors: dict[str, Editor] = {}
        hints = typing.get_type_hints(settings_class)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        plain, advanced = _rows(), _rows()
        for field in dataclasses.fields(settings_class):  # type: ignore[arg-type]
            if field.name in leave_out or "help" not in field.metadata:
                continue
            editor: Editor
            if field.name in (*files, *folders):
                editor = PathEditor(as_text=True, folder=field.name in folders)
            elif field.name in (suggestions or {}):
                editor = SuggestEditor((suggestions or {})[field.name])
            else:
                editor = make_editor(field, hints[field.name], (choices or {}).get(field.name))
            editor.set(getattr(self._start, field.name))
            editor.changed.connect(self.changed)
            editor.setToolTip(field.metadata["help"])
            self._editors[field.name] = editor
            rows = advanced if field.metadata.get("advanced") else plain
            label = field.metadata.get("label") or field.name.replace("_", " ").capitalize()
            name = QLabel(label)
            name.setToolTip(field.metadata["help"])
            rows.addRow(name, editor)
        if plain.rowCount():
            layout.addLayout(plain)
        if advanced.rowCount():
            inner = QWidget()
            inner.setLayout(advanced)
            layout.addWidget(Fold("More settings", inner))

    def settings(self) -> Settings:
        """Return the dataclass the form shows now."""
        values = {name: editor.get() for name, editor in self._editors.items()}
        return dataclasses.replace(self._start, **values)  # type: ignore[type-var]

    def set_settings(self, settings: Settings) -> None:
        """Show ``settings``; emits `changed` once, and only when something changed."""
        before = self.settings()
        self._start = settings
        was_blocked = self.blockSignals(True)
        for name, editor in self._editors.items():
            editor.set(getattr(settings, name))
        self.blockSignals(was_blocked)
        if self.settings() != before:
            self.changed.emit()

    def set_row_visible(self, name: str, is_visible: bool) -> None:
        """Show or hide the row of one field, which keeps its value."""
        editor = self._editors[name]
        for rows in self.findChildren(QFormLayout):
            if rows.indexOf(editor) >= 0:
                rows.setRowVisible(editor, is_visible)

    def put_below(self, name: str, widget: QWidget) -> None:
        """Show a widget of the caller's below the row of one field, over the whole width."""
        editor = self._editors[name]
        for rows in self.findChildren(QFormLayout):
            if rows.indexOf(editor) >= 0:
                row, _ = rows.getWidgetPosition(editor)
                rows.insertRow(row + 1, widget)

    def editor(self, name: str) -> "Editor":
        """Return the editor of one field."""
        return self._editors[name]


class Editor(QWidget):
    """Edits one value. Subclasses give `get` and `set`."""

    changed = Signal()

    def get(self) -> Any:
        """Return the value shown."""
        raise NotImplementedError

    def set(self, value: Any) -> None:
        """Show ``value``."""
        raise NotImplementedError

    def _hold(self, *widgets: QWidget) -> None:
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for index, widget in enumerate(widgets):
            layout.addWidget(widget, 1 if index == 0 else 0)


class FlagEditor(Editor):
    """True or false."""

    def __init__(self) -> None:
        super().__init__()
        self._box = QCheckBox()
        self._box.toggled.connect(lambda _: self.changed.emit())
        self._hold(self._box)

    def get(self) -> bool:  # noqa: D102
        return self._box.isChecked()

    def set(self, value: bool) -> None:  # noqa: D102
        self._box.setChecked(bool(value))


class ChoiceEditor(Editor):
    """One of a few values."""

    def __init__(self, choices: tuple[Any, ...]) -> None:
        super().__init__()
        self._choices = choices
        self._box = QComboBox()
        self._box.addItems(["none" if c is None else str(c) for c in choices])
        self._box.currentIndexChanged.connect(lambda _: self.changed.emit())
        self._hold(self._box)

    def get(self) -> Any:  # noqa: D102
        return self._choices[self._box.currentIndex()]

    def set(self, value: Any) -> None:  # noqa: D102
        self._box.setCurrentIndex(self._choices.index(value))


class NumberEditor(Editor):
    """A whole or a broken number, with unit and limits; may be absent.

    An optional number shows ``auto`` at the bottom end of its range, and is then None; ``lowest``
    is shown in place of the lowest number of one that is not optional.
    """

    def __init__(
        self,
        *,
        whole: bool,
        minimum: float | None,
        maximum: float | None,
        unit: str | None,
        default: float | None,
        optional: bool,
        lowest: str | None = None,
    ) -> None:
        super().__init__()
        self._optional = optional
        self._box: QSpinBox | QDoubleSpinBox
        low = minimum if minimum is not None else (0 if optional else -_LARGE)
        high = maximum if maximum is not None else _LARGE
        if whole:
            self._box = QSpinBox()
            self._step = 1.0
            self._box.setRange(int(low) - optional, int(high))
            if default is not None and default >= 64:
                self._box.setSingleStep(int(default) // 8)
        else:
            self._box = PlainSpinBox()
            span = maximum - minimum if minimum is not None and maximum is not None else None
            size = abs(default) if default else (span or 1.0)
            self._step = 0.01 if size < 5 else 0.1 if size < 50 else 10 ** int(math.log10(size) - 1)
            is_small = size < _SMALL  # a learning rate: its digits and steps are far below 1
            self._box.setDecimals(9 if is_small else 4)
            self._box.setRange(low - (self._step if optional else 0), high)
            self._box.setSingleStep(0.05 if span == 1 else self._step * 5)
            if is_small:
                self._box.setStepType(QAbstractSpinBox.StepType.AdaptiveDecimalStepType)
        if optional or lowest:
            self._box.setSpecialValueText("auto" if optional else lowest)
        if unit:
            self._box.setSuffix(f" {unit}")
        self._box.setKeyboardTracking(False)
        self._box.setAlignment(Qt.AlignmentFlag.AlignRight)
        self._box.valueChanged.connect(lambda _: self.changed.emit())
        self._hold(self._box)

    def get(self) -> float | int | None:  # noqa: D102
        if self._optional and self._box.value() <= self._box.minimum():
            return None
        return self._box.value()

    def set(self, value: float | int | None) -> None:  # noqa: D102
        self._box.setValue(self._box.minimum() if value is None else value)  # type: ignore[arg-type]


class PlainSpinBox(QDoubleSpinBox):
    """Writes 0.5 as 0.5 and not as 0.5000."""

    def textFromValue(self, value: float) -> str:  # noqa: D102
        return f"{value:.{self.decimals()}f}".rstrip("0").rstrip(".") or "0"


class ShareEditor(Editor):
    """A number from 0 to 1, with a slider."""

    def __init__(self) -> None:
        super().__init__()
        self._slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self._slider.setRange(0.0, 1.0)
        self._slider.setDecimals(2)
        self._slider.valueChanged.connect(lambda _: self.changed.emit())
        self._hold(self._slider)

    def get(self) -> float:  # noqa: D102
        return float(self._slider.value())

    def set(self, value: float) -> None:  # noqa: D102
        self._slider.setValue(value)


class TextEditor(Editor):
    """A line of text; empty is None where the setting may be absent."""

    def __init__(self, *, optional: bool) -> None:
        super().__init__()
        self._optional = optional
        self._line = QLineEdit()
        self._line.editingFinished.connect(self.changed)
        self._hold(self._line)

    def get(self) -> str | None:  # noqa: D102
        text = self._line.text().strip()
        return None if self._optional and not text else text

    def set(self, value: str | None) -> None:  # noqa: D102
        self._line.setText(value or "")


Suggestions = tuple[str, ...] | Mapping[str, Mapping[str, str]]
"""Texts to suggest; or, by heading, the texts with what to say of each."""


class SuggestEditor(Editor):
    """A line of text with some to choose from."""

    def __init__(self, suggestions: Suggestions) -> None:
        super().__init__()
        self._box = QComboBox()
        self._box.setEditable(True)
        self._box.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self._said: dict[str, str] = {}
        if isinstance(suggestions, Mapping):
            for heading, texts in suggestions.items():
                self._add_group(heading, texts)
        else:
            self._box.addItems(suggestions)
        self._box.setMinimumContentsLength(12)
        line = self._box.lineEdit()
        assert line is not None
        line.editingFinished.connect(self.changed)
        self._box.activated.connect(lambda _: self.changed.emit())
        self._hold(self._box)

    def get(self) -> str:  # noqa: D102
        return self._box.currentText().strip()

    def set(self, value: str) -> None:  # noqa: D102
        self._box.setEditText(value)

    def mark(self, text: str | None, why: str) -> None:
        """Show one suggestion in bold, with ``why`` before what is said of it; None marks none."""
        for row in range(self._box.count()):
            here = self._box.itemText(row)
            if here in self._said:
                font = QFont()
                font.setBold(here == text)
                self._box.setItemData(row, font, Qt.ItemDataRole.FontRole)
                said = f"{why}. {self._said[here]}" if here == text else self._said[here]
                self._box.setItemData(row, _wrapped(said), Qt.ItemDataRole.ToolTipRole)

    def _add_group(self, heading: str, texts: Mapping[str, str]) -> None:
        model = self._box.model()
        assert isinstance(model, QStandardItemModel)
        title = QStandardItem(f"— {heading} —")
        title.setFlags(Qt.ItemFlag.NoItemFlags)
        model.appendRow(title)
        for text, said in texts.items():
            self._said[text] = said
            item = QStandardItem(text)
            item.setToolTip(_wrapped(said))
            model.appendRow(item)


def _wrapped(text: str) -> str:
    """Return a tooltip that Qt breaks into lines."""
    return f"<qt>{html.escape(text)}</qt>"


class PathEditor(Editor):
    """A file or folder, typed, browsed for or dropped.

    Parameters
    ----------
    folder
        Browse for a folder.
    or_folder
        Some of the files are folders to the system, as Zarr stores are: what they are called in
        the menu of *Browse*. "" where there are none.
    as_text
        Give the path as text, for settings that hold texts.
    """

    def __init__(
        self,
        caption: str = "Choose a file",
        file_filter: str = "",
        *,
        as_text: bool = False,
        folder: bool = False,
        or_folder: str = "",
    ) -> None:
        super().__init__()
        self._caption, self._filter, self._as_text = caption, file_filter, as_text
        self._line = _DropLine()
        what = "folder" if folder else "file or folder" if or_folder else "file"
        self._line.setPlaceholderText(f"drop a {what} here, or browse")
        self._line.editingFinished.connect(self.changed)
        self._line.dropped.connect(self.changed)
        browse: QPushButton
        if or_folder:
            browse = FileOrFolderButton("Browse…", or_folder)
            browse.file_wanted.connect(self._browse_file)
            browse.folder_wanted.connect(self._browse_folder)
        else:
            browse = QPushButton("Browse…")
            browse.clicked.connect(self._browse_folder if folder else self._browse_file)
        self._hold(self._line, browse)

    def get(self) -> Path | str | None:  # noqa: D102
        text = self._line.text().strip()
        if not text:
            return None
        path = Path(text).expanduser()
        return str(path) if self._as_text else path

    def set(self, value: Path | str | None) -> None:  # noqa: D102
        self._line.setText(str(value) if value else "")

    def _browse_folder(self) -> None:
        self._take(QFileDialog.getExistingDirectory(self, self._caption, self._line.text()))

    def _browse_file(self) -> None:
        now = self._line.text()
        self._take(QFileDialog.getOpenFileName(self, self._caption, now, self._filter)[0])

    def _take(self, path: str) -> None:
        if path:
            self._line.setText(path)
            self.changed.emit()


class _DropLine(QLineEdit):
    dropped = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setAcceptDrops(True)

    def dragEnterEvent(self, event: Any) -> None:
        if event.mimeData().hasUrls():
            event.acceptProposedAction()
        else:
            super().dragEnterEvent(event)

    def dropEvent(self, event: Any) -> None:
        urls = event.mimeData().urls()
        if urls:
            self.setText(urls[0].toLocalFile())
            self.dropped.emit()
        else:
            super().dropEvent(event)


def make_editor(
    field: dataclasses.Field, hint: Any, choices: tuple[Any, ...] | None = None
) -> Editor:
    """Return the editor that suits a dataclass field of type ``hint``."""
    options = [t for t in typing.get_args(hint) if t is not types.NoneType]
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    optional = is_union and len(options) < len(typing.get_args(hint))
    kind = options[0] if is_union and options else hint
    meta = field.metadata
    choices = choices or meta.get("choices")
    if choices is None and typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
    if choices is not None:
        return ChoiceEditor((None, *choices) if optional and None not in choices else choices)
    if kind is bool:
        return FlagEditor()
    if kind is float and not optional and (meta.get("minimum"), meta.get("maximum")) == (0, 1):
        return ShareEditor()
    if kind in (int, float):
        return NumberEditor(
            whole=kind is int,
            minimum=meta.get("minimum"),
            maximum=meta.get("maximum"),
            unit=meta.get("unit"),
            default=field.default,  # type: ignore[arg-type]
            optional=optional,
            lowest=meta.get("zero"),
        )
    if kind is Path:
        return PathEditor()
    return TextEditor(optional=optional)


def _rows() -> QFormLayout:
    rows = QFormLayout()
    rows.setContentsMargins(0, 0, 0, 0)
    rows.setSpacing(4)
    rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    rows.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
    return rows
