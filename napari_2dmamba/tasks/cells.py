"""What the cells of a table mean: absent values, events, whole numbers, spellings of one name."""

from collections import defaultdict
from collections.abc import Iterable

from napari_2dmamba.errors import TaskError

NO_VALUE = frozenset(("", "na", "n/a", "nan", "none", "null", "?"))
YES, NO = frozenset(("1", "1.0", "true", "yes")), frozenset(("0", "0.0", "false", "no"))
_DEAD = frozenset(("dead", "deceased", "died", "death", "event"))
_ALIVE = frozenset(("alive", "living", "censored"))


def as_whole(text: str) -> str:
    """Return ``2.0`` as ``2``: spreadsheets write whole numbers so beside empty cells."""
    head, dot, tail = text.partition(".")
    return head if dot and head.isdecimal() and set(tail) == {"0"} else text


def event_of(text: str) -> bool | None:
    """Return whether a cell says that the event was seen; None where it says neither.

    Numbers, yes and no, alive and dead, and cBioPortal's ``0:LIVING`` and ``1:DECEASED``.
    """
    words = text.strip().lower()
    number, colon, _ = words.partition(":")
    if colon:
        words = number.strip()
    if words in YES | _DEAD:
        return True
    return False if words in NO | _ALIVE else None


def spelling(name: str) -> str:
    """Return what names share that differ in case, spaces or zeros (``.0``, ``07``) only."""
    words = "".join(name.casefold().split())
    whole = as_whole(words)
    return (whole.lstrip("0") or "0") if whole.isdecimal() else whole


def spelt_differently(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of different names that have one `spelling`."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        found[spelling(name)].add(name)
    return tuple(tuple(sorted(group)) for _, group in sorted(found.items()) if len(group) > 1)


def classes_of(labels: set[str], kind: str) -> tuple[str, ...]:
    """Return class names, numbers by value and words by the alphabet.

    Raises
    ------
    TaskError
        When ordinal labels are not the numbers from 0 on.
    """
    if all(label.isdecimal() for label in labels):
        names = sorted(labels, key=int)
        if kind == "ordinal" and names:
            return tuple(str(grade) for grade in range(int(names[-1]) + 1))
        return tuple(names)
    if kind == "ordinal":
        word = min(label for label in labels if not label.isdecimal())
        raise TaskError(f"ordinal labels are whole numbers from 0 on, not {word!r}; number them")
    return tuple(sorted(labels))
