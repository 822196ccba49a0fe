"""Read JSON into dataclasses by their type hints, and refuse everything else in one sentence.

Fields that a dataclass does not have are left aside: a newer version wrote them. Bounds are
stated here and hold for every value, so that a damaged or hostile file cannot reach what draws
or computes.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Collection
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

LONGEST_TEXT = 20_000
"""Characters of one text in a record: a page of notes fits many times over."""

_MOST_ITEMS = 1_000_000
_LARGEST_INTEGER = 2**63 - 1
_DEEPEST = 30

Kind = TypeVar("Kind")


class WrongTypeError(ValueError):
    """A value has another type, or lies beyond a bound; the message names it."""


def read_typed(kind: type[Kind], value: Any, where: str = "") -> Kind:
    """Return JSON as the dataclass ``kind``.

    Parameters
    ----------
    value
        What `json.loads` gave.
    where
        Name of the value in the file, for messages: ``"slide"``.

    Raises
    ------
    WrongTypeError
        Naming the value, what it is and what it must be.
    """
    return kind(**read_fields(kind, value, where))


def read_fields(
    kind: type, value: Any, where: str = "", *, leave_out: Collection[str] = ()
) -> dict[str, Any]:
    """Return the fields of a dataclass that JSON holds, each of its type.

    Raises
    ------
    WrongTypeError
        When one is missing that has no default, or has another type.
    """
    if not isinstance(value, dict):
        raise _wrong(where or "the record", value, "an object")
    hints = _hints(kind)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in leave_out:
            continue
        name = f"{where}.{field.name}" if where else field.name
        if field.name in value:
            found[field.name] = _read(hints[field.name], value[field.name], name, 0)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise WrongTypeError(f"{name} is missing")
    return found


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(hint: Any, value: Any, where: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise WrongTypeError(f"{where} is nested more than {_DEEPEST} deep")
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _read_union(parts, value, where, depth)
    if origin is typing.Literal:
        if not isinstance(value, str) or value not in parts:
            raise _wrong(where, value, f"one of {', '.join(map(str, parts))}")
        return value
    if dataclasses.is_dataclass(hint):
        return read_typed(typing.cast(type, hint), value, where)
    if hint is tuple or origin in (tuple, list):
        return _read_list(hint, parts, value, where, depth)
    if hint is dict or origin is dict:
        return _read_mapping(parts or (str, Any), value, where, depth)
    return _read_plain(hint, value, where, depth)


def _read_union(parts: tuple[Any, ...], value: Any, where: str, depth: int) -> Any:
    if value is None:
        if type(None) in parts:
            return None
        raise _wrong(where, value, "a value")
    reasons = []
    for part in parts:
        if part is type(None):
            continue
        try:
            return _read(part, value, where, depth)
        except WrongTypeError as error:
            reasons.append(error)
    raise reasons[0]


def _read_list(hint: Any, parts: tuple[Any, ...], value: Any, where: str, depth: int) -> Any:
    if not isinstance(value, list):
        raise _wrong(where, value, "a list")
    if len(value) > _MOST_ITEMS:
        raise WrongTypeError(f"{where} has {len(value)} items, and {_MOST_ITEMS} are the most")
    if len(parts) == 2 and parts[1] is Ellipsis:
        parts = (parts[0],) * len(value)
    elif not parts:
        parts = (Any,) * len(value)
    if len(parts) != len(value):
        raise _wrong(where, value, f"a list of {len(parts)}")
    return tuple(
        _read(part, item, f"{where}[{index}]", depth + 1)
        for index, (part, item) in enumerate(zip(parts, value, strict=True))
    )


def _read_mapping(parts: tuple[Any, ...], value: Any, where: str, depth: int) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    if len(value) > _MOST_ITEMS:
        raise WrongTypeError(f"{where} has {len(value)} items, and {_MOST_ITEMS} are the most")
    found = {}
    for name, item in value.items():
        _bounded(name, where)
        found[name] = _read(parts[1], item, f"{where}.{name[:80]}", depth + 1)
    return found


def _read_plain(hint: Any, value: Any, where: str, depth: int) -> Any:
    if hint is Any:
        return _anything(value, where, depth)
    if hint is str:
        if not isinstance(value, str):
            raise _wrong(where, value, "text")
        return _bounded(value, where)
    if hint is bool:
        if not isinstance(value, bool):
            raise _wrong(where, value, "true or false")
        return value
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong(where, value, "a whole number")
        if abs(value) > _LARGEST_INTEGER:
            raise WrongTypeError(f"{where} is beyond 64 bits")
        return value
    if hint is float:
        return _number(value, where)
    if hint is datetime:
        try:
            moment = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            raise _wrong(where, value, "a date and time in ISO form") from None
        if moment.tzinfo is None:
            raise _wrong(where, value, "a date and time with its time zone")
        return moment
    raise TypeError(f"{hint} has no JSON form here")


def _anything(value: Any, where: str, depth: int) -> Any:
    """Return free JSON as it is, within the bounds."""
    if isinstance(value, dict):
        return _read_mapping((str, Any), value, where, depth)
    if isinstance(value, list):
        return list(_read_list(list, (), value, where, depth))
    if isinstance(value, str):
        return _bounded(value, where)
    if isinstance(value, float):
        return _number(value, where)
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(where, value, "a number")
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise WrongTypeError(f"{where} is beyond 64 bits")
    if not math.isfinite(value):
        raise _wrong(where, value, "a finite number")
    return float(value)


def _bounded(text: str, where: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise WrongTypeError(
            f"{where} is a text of {len(text)} characters, and {LONGEST_TEXT} are the most"
        )
    return text


def _wrong(where: str, value: Any, expected: str) -> WrongTypeError:
    if isinstance(value, dict | list):
        shown = "an object" if isinstance(value, dict) else "a list"
    else:
        shown = repr(value)[:57]
    return WrongTypeError(f"{where} is {shown}, but must be {expected}")
