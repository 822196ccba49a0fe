"""One dataclass field is the single source of a setting's default, help and limits.

The Python call takes the dataclass, the command line is generated from it, the widget's
form is generated from it, and the run's record stores it. Nothing else states a default.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

ProgressCallback = Callable[[int, int, str], None]
"""``on_progress(done, total, message)``; total is 0 while unknown."""

StopCallback = Callable[[], bool]
"""``should_stop()`` is polled between batches; True raises `errors.Cancelled`. It may hold back its
answer for as long as it likes: that is a pause."""


def setting(
    default: Any,
    help: str,
    *,
    label: str | None = None,
    unit: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] | None = None,
    advanced: bool = False,
) -> Any:
    """Declare a dataclass field together with what a form and a command line need.

    Parameters
    ----------
    default
        The only place where the default is written. Must be immutable.
    help
        One sentence: tooltip in the widget, help text on the command line.
    label
        Short name in a form; derived from the field name when absent.
    unit
        Unit shown after the value, such as ``"µm/px"``.
    minimum, maximum
        Inclusive limits, checked by `validate`.
    choices
        Allowed values.
    advanced
        Kept in a folded part of the form.
    """
    metadata = {
        "help": help,
        "label": label,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "advanced": advanced,
    }
    return dataclasses.field(default=default, metadata=metadata)


def validate(settings: Any) -> None:
    """Check every field of a settings dataclass against its declared limits.

    Raises
    ------
    ValueError
        Naming the field, its value and the allowed range or choices.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None:
            continue
        low, high = field.metadata.get("minimum"), field.metadata.get("maximum")
        choices = field.metadata.get("choices")
        if choices is not None and value not in choices:
            allowed = ", ".join(map(str, choices))
            raise ValueError(f"{field.name} is {value!r}, but must be one of {allowed}")
        if low is not None and value < low:
            raise ValueError(f"{field.name} is {value}, but must be at least {low}")
        if high is not None and value > high:
            raise ValueError(f"{field.name} is {value}, but must be at most {high}")
