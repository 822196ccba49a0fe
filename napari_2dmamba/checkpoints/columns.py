"""The table of checkpoints: its columns, their texts and their order, for screen and terminal."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from napari_2dmamba.checkpoints.fit import Fit, State
from napari_2dmamba.checkpoints.summary import CheckpointSummary


@dataclass(frozen=True)
class Row:
    """One line of the table: a checkpoint, how it suits the open slide, the user's note."""

    summary: CheckpointSummary
    fit: Fit | None = None
    note: str = ""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes
    ----------
    name, title
        In JSON, and for people.
    text
        What a row shows; empty where the file does not say.
    value
        What rows are sorted by: numbers or texts, None where the file does not say.
    help
        One sentence: what it is.
    is_number
        Whether texts stand to the right.
    """

    name: str
    title: str
    text: Callable[[Row], str]
    value: Callable[[Row], Any]
    help: str
    is_number: bool = False


def sort_key(column: Column, row: Row) -> tuple[Any, ...] | None:
    """Return what a row is sorted by, comparable within a column; None where nothing is said.

    Texts are compared without case, and numbers within them as numbers: ``fold2`` before
    ``fold10``.
    """
    value = column.value(row)
    if isinstance(value, tuple):
        parts: tuple[Any, ...] = ()
        for part in value:
            key = _key(part)
            if key is None:
                return None
            parts += (key,)
        return parts
    return _key(value)


def sorted_rows(rows: Iterable[Row], column: Column, *, descending: bool = False) -> list[Row]:
    """Return rows in the order of a column; those without a value come last either way."""
    keyed = [(sort_key(column, row), row) for row in rows]
    stated = [(key, row) for key, row in keyed if key is not None]
    stated.sort(key=itemgetter(0), reverse=descending)
    return [row for _, row in stated] + [row for key, row in keyed if key is None]


def file_size(size: int) -> str:
    """Return bytes in the unit that suits."""
    if size <= 0:
        return ""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= 0.9995 * factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"


def day(created: str) -> str:
    """Return the local day of an ISO date, or nothing where it is none."""
    moment = _moment(created)
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d")


def score_text(summary: CheckpointSummary) -> str:
    """Return name and value of the validation score."""
    return "" if summary.score is None else f"{summary.score[0]} {summary.score[1]:.3f}"


def outputs_text(summary: CheckpointSummary) -> str:
    """Return the classes or time bins by name, or how many there are."""
    if summary.class_names:
        return ", ".join(summary.class_names)
    return "" if summary.n_outputs is None else f"{summary.n_outputs} unnamed"


def matches(row: Row, words: str) -> bool:
    """Whether each of the words stands somewhere in a row or its place."""
    text = " ".join(column.text(row) for column in COLUMNS)
    text = f"{text} {row.summary.title or ''} {row.summary.location}".casefold()
    return all(word in text for word in words.casefold().split())


_STATES = list(State)
_BETTER = ("loss", "accuracy", "C-index", "AUROC")


def _score_value(row: Row) -> tuple[int, float] | None:
    if row.summary.score is None:
        return None
    name, value = row.summary.score
    return _BETTER.index(name), -value if name == "loss" else value


def _date_value(row: Row) -> float | None:
    moment = _moment(row.summary.created)
    return None if moment is None else moment.timestamp()


def _moment(created: str) -> datetime | None:
    try:
        return datetime.fromisoformat(created) if created else None
    except ValueError:
        return None


def _key(value: Any) -> tuple[Any, ...] | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return tuple(
            (0, int(part), "") if part.isdecimal() else (1, 0, part)
            for part in re.split(r"(\d+)", value.casefold())
            if part
        )
    return None if math.isnan(value) else (value,)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


COLUMNS = (
    Column(
        "name", "Checkpoint", lambda row: row.summary.name, lambda row: row.summary.name,
        "Name of the file.",
    ),
    Column(
        "fit", "Fit", lambda row: row.fit.state.value if row.fit else "",
        lambda row: _STATES.index(row.fit.state) if row.fit else None,
        "Whether it suits the features of the open slide.",
    ),
    Column(
        "architecture", "Architecture", lambda row: row.summary.architecture or "",
        lambda row: row.summary.architecture,
        "Kind of model; of weights without a header told from the names of the weights.",
    ),
    Column(
        "task", "Task", lambda row: row.summary.task or "", lambda row: row.summary.task,
        "Classification or survival.",
    ),
    Column(
        "classes", "Classes", lambda row: outputs_text(row.summary),
        lambda row: (
            None if row.summary.n_outputs is None
            else (row.summary.n_outputs, ", ".join(row.summary.class_names) or " ")
        ),
        "Classes or time bins; sorted by how many there are.",
    ),
    Column(
        "encoder", "Encoder", lambda row: row.summary.encoder or "",
        lambda row: row.summary.encoder, "Encoder whose features it was trained on.",
    ),
    Column(
        "features", "Features", lambda row: _number(row.summary.feature_size),
        lambda row: row.summary.feature_size, "Features per patch.", is_number=True,
    ),
    Column(
        "patch", "Patch [px]", lambda row: _number(row.summary.patch_size),
        lambda row: row.summary.patch_size, "Side of a training patch.", is_number=True,
    ),
    Column(
        "mpp", "µm/px", lambda row: _number(row.summary.mpp), lambda row: row.summary.mpp,
        "Resolution of the training patches.", is_number=True,
    ),
    Column(
        "score", "Validation", lambda row: score_text(row.summary), _score_value,
        "Score on slides it was not trained on, as the file states it.", is_number=True,
    ),
    Column(
        "date", "Date", lambda row: day(row.summary.created), _date_value,
        "Day it was made; of weights without a header the day the file was changed.",
    ),
    Column(
        "size", "Size", lambda row: file_size(row.summary.size),
        lambda row: row.summary.size or None, "Size of the file.", is_number=True,
    ),
    Column("note", "Note", lambda row: row.note, lambda row: row.note, "Your own note."),
)  # fmt: skip


def column(name: str) -> Column:
    """Return a column by its name."""
    return next(one for one in COLUMNS if one.name == name)
