"""Options of an architecture as a form: the fields of its configuration."""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_2dmamba.plugin.parts.form import Form
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.settings import setting

if TYPE_CHECKING:
    from napari_2dmamba.models.architecture import ArchitectureConfig

_OF_TABLE = ("feature_size", "n_outputs")
_PLAIN = (bool, int, float, str)


class ArchitectureOptions(QWidget):
    """The options that ``--model-option`` takes on the command line.

    Signals
    -------
    changed()
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.form: Form[Any] | None = None
        self.message = Message()
        self._config_class: type[ArchitectureConfig] | None = None
        self._given: dict[str, Any] = {}
        self._base: dict[str, Any] = {}
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.addWidget(self.message)

    def show_options(
        self, config_class: "type[ArchitectureConfig] | None", given: Mapping[str, Any]
    ) -> None:
        """Show the options of an architecture; what was changed of another one is forgotten.

        Parameters
        ----------
        config_class
            None while it is not known.
        given
            Options of the preset, which stand in place of the defaults.
        """
        if config_class is self._config_class and dict(given) == self._given:
            return
        self.forget()
        self._config_class, self._given = config_class, dict(given)
        if config_class is not None:
            of_form = options_class(config_class)
            names = {field.name for field in dataclasses.fields(of_form)}
            self.form = Form(of_form)
            known = {name: value for name, value in given.items() if name in names}
            self.form.set_settings(dataclasses.replace(of_form(), **known))
            self._base = dataclasses.asdict(self.form.settings())
            self._layout.insertWidget(0, self.form)
            self.form.changed.connect(self._follow)
        self._follow()

    def forget(self) -> None:
        """Forget the architecture and all that was changed of it."""
        if self.form is not None:
            self._layout.removeWidget(self.form)
            self.form.deleteLater()
        self.form, self._config_class = None, None
        self._given, self._base = {}, {}

    @property
    def changes(self) -> dict[str, Any]:
        """The options that are neither the default nor the preset's."""
        if self.form is None:
            return {}
        now = dataclasses.asdict(self.form.settings())
        return {name: value for name, value in now.items() if value != self._base[name]}

    @property
    def problem(self) -> str:
        """Why no network can have these options, or nothing."""
        if self.form is None or self._config_class is None:
            return ""
        try:
            self._config_class(
                feature_size=1024, n_outputs=2, **dataclasses.asdict(self.form.settings())
            )
        except (TypeError, ValueError) as error:
            return str(error)
        return ""

    def _follow(self) -> None:
        problem = self.problem
        if problem:
            self.message.say(problem, "error")
        else:
            self.message.clear()
        self.changed.emit()


def options_class(config_class: "type[ArchitectureConfig]") -> type[Any]:
    """Return a dataclass for a form of the fields that do not follow from the table.

    Left out are fields without a default, and those that are no number, text, choice or flag.
    """
    hints = typing.get_type_hints(config_class)
    told = _help(config_class)
    fields = [
        (
            field.name,
            hints[field.name],
            setting(field.default, told.get(field.name, field.name), label=field.name),
        )
        for field in dataclasses.fields(config_class)
        if field.name not in _OF_TABLE
        and field.default is not dataclasses.MISSING
        and _is_plain(hints[field.name])
    ]
    return dataclasses.make_dataclass(f"{config_class.__name__}Options", fields, frozen=True)


def _is_plain(hint: Any) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        return len(kinds) == 1 and _is_plain(kinds[0])
    return hint in _PLAIN or typing.get_origin(hint) is typing.Literal


def _help(config_class: type[Any]) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of each attribute."""
    told: dict[str, str] = {}
    for kind in reversed(config_class.__mro__):
        text = kind.__dict__.get("__doc__") or ""
        _, _, attributes = text.partition("----------\n")
        for names, words in re.findall(r"^ {4}(\S.*)\n((?: {8}.*\n?|\n)+)", attributes, re.M):
            said = " ".join(words.replace("``", "").split())
            told.update(dict.fromkeys((name.strip() for name in names.split(",")), said))
    return told
