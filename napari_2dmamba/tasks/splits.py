"""Splits: which slides train, choose and test, drawn by patient, written to a file, read back."""

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import TaskError
from napari_2dmamba.settings import validate
from napari_2dmamba.tasks.csv_rows import read_csv
from napari_2dmamba.tasks.settings import SplitSettings
from napari_2dmamba.tasks.table import (
    PARTS,
    LabelledSlide,
    Problem,
    Table,
    slide_name,
)


@dataclass(frozen=True)
class Fold:
    """Names of the slides that fit a model, that choose its epoch, and that test it."""

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """One fold per model that is trained.

    Attributes
    ----------
    folds
        A held-out split has one.
    method
        How it came about, in words.
    """

    folds: tuple[Fold, ...]
    method: str


def make_split(table: Table, settings: SplitSettings | None = None) -> Split:
    """Split a table by patient, each class (or events and times) spread evenly.

    Parameters
    ----------
    table
        Its own ``fold`` or ``split`` column is taken where there is one and the method is auto.
    settings
        Method, shares and seed.

    Raises
    ------
    TaskError
        When there are too few patients for it, or the table's own columns are incomplete.
    """
    settings = settings or SplitSettings()
    try:
        validate(settings)
    except ValueError as error:
        raise TaskError(str(error)) from error
    table.require_usable()
    if settings.method == "auto":
        if any(slide.fold is not None for slide in table.slides):
            return _of_fold_column(table, settings)
        if any(slide.part is not None for slide in table.slides):
            return _of_split_column(table, settings)
    draw = _Draw(table, settings.split_seed)
    everything = np.arange(len(table))
    if settings.method == "all":
        train, validation = draw.apart(everything, settings.validation_share)
        return Split((draw.fold(train, validation, everything[:0]),), "no test part")
    if settings.method == "held-out":
        rest, test = draw.apart(everything, settings.test_share)
        train, validation = draw.apart(rest, settings.validation_share)
        method = f"held-out test part of {settings.test_share:g}, seed {settings.split_seed}"
        return Split((draw.fold(train, validation, test),), method)
    folds = []
    for repeat in range(settings.repeats):
        again = _Draw(table, settings.split_seed + 1000 * repeat)
        for rest, test in again.kfold(everything, settings.folds):
            train, validation = again.apart(rest, settings.validation_share)
            folds.append(draw.fold(train, validation, test))
    times = f", {settings.repeats} times" if settings.repeats > 1 else ""
    return Split(tuple(folds), f"{settings.folds}-fold{times}, seed {settings.split_seed}")


def strata(table: Table) -> NDArray[np.int64]:
    """Return ``(n,)`` the group that should be spread evenly: the class, or event and time."""
    if table.kind != "survival":
        return np.array([table.class_index(slide) for slide in table.slides])
    times = np.array([slide.time for slide in table.slides], np.float64)
    events = np.array([bool(slide.event) for slide in table.slides])
    later = times > np.median(times)
    return (2 * events + later).astype(np.int64)


class _Draw:
    """Draws parts of a table by patient, from one seed."""

    def __init__(self, table: Table, seed: int) -> None:
        self.names = np.array([slide.name for slide in table.slides])
        self.patients = np.unique([slide.patient for slide in table.slides], return_inverse=True)[1]
        self.strata, self.seed = strata(table), seed

    def kfold(
        self, among: NDArray[np.int64], folds: int
    ) -> Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        from sklearn.model_selection import StratifiedGroupKFold

        patients = len(np.unique(self.patients[among]))
        if patients < folds:
            raise TaskError(
                f"{patients} patients cannot be split into {folds} parts; ask for fewer folds, or "
                "add patients"
            )
        import warnings

        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=self.seed)
        with warnings.catch_warnings():
            # Said by `check_split` in our own words, with counts
            warnings.filterwarnings("ignore", message="The least populated class", module="sklearn")
            try:
                parts = list(splitter.split(among, self.strata[among], groups=self.patients[among]))
            except ValueError as error:
                raise TaskError(
                    f"{folds} folds are more than the slides of any class; ask for fewer folds, or "
                    "add slides"
                ) from error
        return [(among[rest], among[test]) for rest, test in parts]

    def apart(
        self, among: NDArray[np.int64], share: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Take about `share` of the patients apart."""
        if share == 0:
            return among, among[:0]
        smaller = min(share, 1 - share)
        # Not finer than the patients and the largest class allow
        largest = int(np.bincount(self.strata[among]).max())
        patients = len(np.unique(self.patients[among]))
        parts = max(2, min(round(1 / smaller), largest, patients))
        rest, apart = next(iter(self.kfold(among, parts)))
        return (rest, apart) if share <= 0.5 else (apart, rest)

    def fold(self, *parts: NDArray[np.int64]) -> Fold:
        return Fold(*(tuple(self.names[np.sort(part)].tolist()) for part in parts))


def _of_fold_column(table: Table, settings: SplitSettings) -> Split:
    absent = [slide.name for slide in table.slides if slide.fold is None]
    if absent:
        raise TaskError(
            f"{len(absent)} slides have no fold (first {absent[0]}), and the others have one; "
            "number them all, or choose the method kfold"
        )
    numbers = np.array([slide.fold for slide in table.slides])
    draw = _Draw(table, settings.split_seed)
    folds = []
    for number in np.unique(numbers):
        test, rest = np.flatnonzero(numbers == number), np.flatnonzero(numbers != number)
        if not len(rest):
            raise TaskError("all slides have the same fold; number them from 0 on")
        train, validation = draw.apart(rest, settings.validation_share)
        folds.append(draw.fold(train, validation, test))
    return Split(tuple(folds), "the table's own folds")


def _of_split_column(table: Table, settings: SplitSettings) -> Split:
    parts: dict[str, list[int]] = defaultdict(list)
    for index, slide in enumerate(table.slides):
        parts[slide.part or ""].append(index)
    if parts.get(""):
        raise TaskError(
            f"{len(parts[''])} slides are in no part of the split (first "
            f"{table.slides[parts[''][0]].name}), and the others are; fill the column, or choose "
            "the method kfold"
        )
    train, validation, test = (
        np.array(parts.get(name, []), np.int64) for name in ("train", "validation", "test")
    )
    if not len(train):
        raise TaskError("no slide is in the part train; check the split column")
    draw = _Draw(table, settings.split_seed)
    if not len(validation):
        train, validation = draw.apart(train, settings.validation_share)
    return Split((draw.fold(train, validation, test),), "the table's own split")


def write_split(split: Split, path: str | os.PathLike[str]) -> Path:
    """Write one row per slide and one column per fold, with the slide's part in it.

    Raises
    ------
    ExportError
        When the file cannot be written.
    """
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    columns = [f"fold_{number}" for number in range(len(split.folds))]
    for column, fold in zip(columns, split.folds, strict=True):
        for part in ("train", "validation", "test"):
            for name in getattr(fold, part):
                rows[name][column] = part
    path = Path(path)
    with (
        atomic_write(path) as part_file,
        part_file.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, ["slide", *columns], restval="")
        writer.writeheader()
        writer.writerows({"slide": name, **rows[name]} for name in sorted(rows))
    return path


def read_split(path: str | os.PathLike[str]) -> Split:
    """Read a split: ours, a CLAM ``splits_*.csv``, or a folder of those.

    Raises
    ------
    TaskError
        When it is neither.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(
            (file for file in path.glob("splits_*.csv") if file.stem[7:].isdigit()),
            key=lambda file: int(file.stem[7:]),
        )
        if not files:
            raise TaskError(
                f"{path} holds no splits_0.csv, splits_1.csv ...; name the right folder"
            )
        return Split(tuple(_read_one(file)[0] for file in files), f"{len(files)} published folds")
    folds = _read_one(path)
    return Split(folds, f"read from {path.name}")


def _read_one(path: Path) -> tuple[Fold, ...]:
    header, rows = read_csv(path)
    lower = {name.lower(): name for name in header}
    parts = {PARTS[name]: lower[name] for name in lower if name in PARTS}
    if "train" in parts:
        if all(row[parts["train"]].strip().lower() in ("true", "false") for row in rows):
            names = [row[header[0]] for row in rows]
            held = {
                part: [
                    n
                    for n, row in zip(names, rows, strict=True)
                    if row[c].strip().lower() == "true"
                ]
                for part, c in parts.items()
            }
        else:
            held = {p: [row[c] for row in rows if row[c].strip()] for p, c in parts.items()}
        return (Fold(**{p: tuple(map(_identifier, names)) for p, names in held.items()}),)
    columns = [name for name in header if name.lower().startswith("fold_")]
    if "slide" not in header or not columns:
        raise TaskError(
            f"{path.name} is no split: it has the columns {', '.join(header)}, and slide with "
            "fold_0, fold_1 ... (ours) or train, val, test (CLAM) are expected"
        )
    folds = []
    for column in columns:
        members: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        for row in rows:
            part = row[column].strip().lower()
            if not part:
                continue
            if part not in PARTS:
                raise TaskError(
                    f"{path.name}: slide {row['slide']} has {part!r} in {column}, but train, "
                    "validation or test are expected"
                )
            members[PARTS[part]].append(row["slide"])
        folds.append(Fold(**{part: tuple(names) for part, names in members.items()}))
    return tuple(folds)


def _identifier(text: str) -> str:
    """Return a slide's name from a cell; pandas writes numbers beside empty cells as 12.0."""
    text = text.strip()
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else slide_name(text)


def check_split(table: Table, split: Split) -> tuple[Split, tuple[Problem, ...]]:
    """Compare a split with its table.

    Returns
    -------
    The split without slides that the table does not have, and what was found.
    """
    known = table.by_name()
    found: list[Problem] = []
    unknown: set[str] = set()
    cut = []
    for fold in split.folds:
        parts = {}
        for part in ("train", "validation", "test"):
            names = getattr(fold, part)
            unknown |= {name for name in names if name not in known}
            parts[part] = tuple(name for name in names if name in known)
        cut.append(Fold(**parts))
    if unknown:
        words = f"{len(unknown)} slides of the split are not in the table and were left out"
        found.append(Problem("unknown slides", len(unknown), words, slides=tuple(sorted(unknown))))
    used = {name for fold in cut for part in _parts(fold) for name in part}
    idle = [name for name in known if name not in used]
    if idle:
        words = f"{len(idle)} slides of the table are in no part of the split"
        found.append(Problem("unused slides", len(idle), words, slides=tuple(idle)))
    for number, fold in enumerate(cut):
        found += _problems_of_fold(table.kind, table.classes, known, number, fold)
    return Split(tuple(cut), split.method), tuple(found)


def _parts(fold: Fold) -> tuple[tuple[str, ...], ...]:
    return fold.train, fold.validation, fold.test


def _problems_of_fold(
    kind: str,
    classes: Sequence[str],
    known: dict[str, LabelledSlide],
    number: int,
    fold: Fold,
) -> list[Problem]:
    found = []
    names = [name for part in _parts(fold) for name in part]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        words = f"fold {number}: {len(twice)} slides are in two parts; correct the split"
        found.append(Problem("slide in two parts", len(twice), words, True, tuple(twice)))
    parts_of: dict[str, set[str]] = defaultdict(set)
    for part, members in zip(("train", "validation", "test"), _parts(fold), strict=True):
        for name in members:
            parts_of[known[name].patient].add(part)
    leaks = {patient for patient, parts in parts_of.items() if len(parts) > 1}
    if leaks:
        slides = tuple(name for name in names if known[name].patient in leaks)
        words = (
            f"fold {number}: {len(leaks)} patients have slides in two parts, so that the model "
            "is tested or chosen on patients it was fitted to; split by patient"
        )
        found.append(Problem("patient in two parts", len(leaks), words, True, slides))
    if not fold.train:
        found.append(Problem("empty", 0, f"fold {number} has no slide to train on", True))
    for part, members in (("train", fold.train), ("validation", fold.validation)):
        if not members:
            continue
        slides_of = [known[name] for name in members]
        if kind == "survival":
            if not any(slide.event for slide in slides_of):
                words = f"fold {number}: no patient of the {part} part had the event"
                found.append(Problem("censored", len(members), words, part == "train"))
            continue
        there = {slide.label for slide in slides_of}
        if part == "train" and len(there) < 2:
            words = f"fold {number}: its train part has one class only; draw another split"
            found.append(Problem("one class", len(members), words, True))
        absent = [name for name in classes if name not in there]
        present_somewhere = {slide.label for slide in known.values()}
        absent = [name for name in absent if name in present_somewhere]
        if absent:
            words = f"fold {number}: the {part} part has no slide of {', '.join(absent)}"
            found.append(Problem("absent class", len(absent), words))
    return found
