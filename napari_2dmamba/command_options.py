"""Command line options made from settings dataclasses.

Only options that were given replace a value, so that a default is written once: in the
dataclass (or, for the patch grid, in the checkpoint).
"""

import argparse
import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from napari_2dmamba.settings import validate

Settings = TypeVar("Settings")


def add_options(
    parser: argparse.ArgumentParser, settings: type, title: str, *, defaults: str | None = None
) -> None:
    """Add one option per field of a settings dataclass, in a group of its own.

    A field ``patch_size`` becomes ``--patch-size``; a boolean one also ``--no-patch-size``.
    A field of the same name in a second dataclass shares the option of the first.
    ``defaults`` says where values come from that are not the dataclass's own.
    """
    group = parser.add_argument_group(title)
    taken = {action.dest for action in parser._actions}
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if "help" not in field.metadata or field.name in taken:
            continue
        kind = _plain_type(hints[field.name])
        unit = f" [{field.metadata['unit']}]" if field.metadata.get("unit") else ""
        default = defaults or (None if field.default is None else f"{field.default}{unit}")
        told = field.metadata["help"] + (f" Default: {default}" if default else unit)
        options: dict[str, Any] = {
            "dest": field.name,
            "default": argparse.SUPPRESS,
            "help": told.replace("%", "%%"),
        }
        flag = "--" + field.name.replace("_", "-")
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        else:
            choices = field.metadata.get("choices")
            metavar = None if choices else kind.__name__.upper()
            group.add_argument(flag, type=kind, choices=choices, metavar=metavar, **options)


def given_options(arguments: argparse.Namespace, settings: type) -> dict[str, Any]:
    """Return what was given on the command line for the fields of a dataclass."""
    names = {field.name for field in dataclasses.fields(settings)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def settings_from(
    arguments: argparse.Namespace, settings: type[Settings], parser: argparse.ArgumentParser
) -> Settings:
    """Return the dataclass with what was given; values out of range end the program."""
    made = settings(**given_options(arguments, settings))
    try:
        validate(made)
    except ValueError as error:
        parser.error(str(error))
    return made


def _plain_type(hint: Any) -> type:
    """Reduce ``int | None`` to ``int`` and ``Literal["a"]`` to ``str``."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _plain_type(next(a for a in typing.get_args(hint) if a is not type(None)))
    if origin is typing.Literal:
        return type(typing.get_args(hint)[0])
    if hint in (bool, int, float, str, Path):
        return typing.cast(type, hint)
    raise TypeError(f"a setting of type {hint} has no command line option")
