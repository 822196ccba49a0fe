"""A table of labelled slides: one CSV, checked before anything is computed from it."""

import contextlib
import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from napari_2dmamba.errors import TaskError
from napari_2dmamba.features.files import FeatureFolder, are_features
from napari_2dmamba.file_suffixes import FEATURE_SUFFIXES, SLIDE_SUFFIXES
from napari_2dmamba.settings import validate
from napari_2dmamba.slide.backend import LARGEST_MPP, SMALLEST_MPP
from napari_2dmamba.tasks.cells import (
    NO,
    NO_VALUE,
    YES,
    as_whole,
    classes_of,
    event_of,
    spelling,
    spelt_differently,
)
from napari_2dmamba.tasks.csv_rows import read_csv
from napari_2dmamba.tasks.layouts import Columns, columns_of
from napari_2dmamba.tasks.settings import TableSettings

_NEVER_SLIDES = tuple(suffix for suffix in FEATURE_SUFFIXES if suffix not in SLIDE_SUFFIXES)
_LONGEST_FOLD = 6
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What published tables call the three parts."""


@dataclass(frozen=True)
class LabelledSlide:
    """One slide and what is known about it or its patient.

    Attributes
    ----------
    name
        Unique in the table: the file's name without its suffix.
    patient
        Who it is of; the slide's own name where the table does not say.
    label
        Name of the class; None for survival.
    time, event
        Survival: time of the event or of the censoring, and whether the event was seen.
    slide, features
        Files, where they are known.
    mpp, regions
        As in a cohort's list: µm per level-0 pixel where the slide states it wrongly or not at
        all, and GeoJSON of what is looked at. They say how features are extracted and the slide
        is opened; features that are there already are taken as they are.
    fold, part
        As the table parts its slides: number of the fold that tests it; train, validation, test.
    notes
        Further columns.
    """

    name: str
    patient: str
    label: str | None = None
    time: float | None = None
    event: bool | None = None
    slide: Path | None = None
    features: Path | None = None
    fold: int | None = None
    part: str | None = None
    mpp: float | None = None
    regions: Path | None = None
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Something a user should know before training starts.

    Attributes
    ----------
    what
        Kind of problem.
    count
        How many rows, slides or patients have it.
    sentence
        What it is, and what was done about it or is to be done.
    stops
        Whether nothing can be trained before it is mended.
    slides
        Names of the slides concerned, to mark them in a table.
    """

    what: str
    count: int
    sentence: str
    stops: bool = False
    slides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A task: what is to be learnt from which slides.

    Attributes
    ----------
    kind
        ``"classification"``, ``"ordinal"`` or ``"survival"``.
    classes
        Names of the classes in order; empty for survival.
    slides
        Those that can be used.
    layout
        How the columns were understood.
    problems
        What was found wrong and what was done about it.
    """

    kind: str
    classes: tuple[str, ...]
    slides: tuple[LabelledSlide, ...]
    layout: str = "manifest"
    problems: tuple[Problem, ...] = ()
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.slides)

    @property
    def patients(self) -> tuple[str, ...]:
        """All patients, each once, in the order of the table."""
        return tuple(dict.fromkeys(slide.patient for slide in self.slides))

    def by_name(self) -> dict[str, LabelledSlide]:
        """Return the slides by name."""
        return {slide.name: slide for slide in self.slides}

    def class_index(self, slide: LabelledSlide) -> int:
        """Return the index of a slide's class."""
        assert slide.label is not None
        return self.classes.index(slide.label)

    def digest(self) -> str:
        """Return a hash of what is learnt: names, patients, labels, times."""
        told: list[object] = [self.kind, self.classes]
        told += sorted((s.name, s.patient, s.label, s.time, s.event) for s in self.slides)
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def counts(self) -> str:
        """Return in words how many slides of what there are."""
        words = f"{len(self.slides)} slides of {len(self.patients)} patients"
        if self.kind == "survival":
            events = sum(bool(slide.event) for slide in self.slides)
            return f"{words}: {events} with the event, {len(self.slides) - events} censored"
        each = Counter(slide.label for slide in self.slides)
        return f"{words}: " + ", ".join(f"{each[name]} {name!r}" for name in self.classes)

    def require_usable(self) -> None:
        """Refuse a table that nothing can be learnt from.

        Raises
        ------
        TaskError
            With the first problem that stops, and how many more there are.
        """
        stopping = [problem for problem in self.problems if problem.stops]
        if stopping:
            more = f" (and {len(stopping) - 1} more such problems)" if len(stopping) > 1 else ""
            raise TaskError(stopping[0].sentence + more)

    def with_problems(self, problems: Iterable[Problem]) -> "Table":
        """Return the table with further problems noted."""
        return replace(self, problems=(*self.problems, *problems))


def read_table(path: str | os.PathLike[str], settings: TableSettings | None = None) -> Table:
    """Read a table of labelled slides, ours or a published one.

    Rows that cannot be used are left out, and counted in `Table.problems`; whether the rest can
    be trained on is asked with `Table.require_usable`.

    Parameters
    ----------
    path
        A CSV file (commas, semicolons or tabs). Files named in it are relative to its folder.
    settings
        Where features lie, and which columns are meant.

    Raises
    ------
    TaskError
        When the file cannot be read, is of no known layout, or contradicts itself.
    FeatureError
        When a folder of features cannot be searched, or two files of it differ by capitals only.
    """
    settings = settings or TableSettings()
    try:
        validate(settings)
    except ValueError as error:
        raise TaskError(str(error)) from error
    path = Path(path)
    header, rows = read_csv(path)
    columns = columns_of(
        header,
        path.name,
        label_column=settings.label_column,
        patient_column=settings.patient_column,
    )
    kind = _kind(columns, settings)
    reader = _Rows(path, columns, kind, settings)
    slides, spellings = _one_patient_each(reader.read(rows))
    classes = () if kind == "survival" else classes_of({s.label for s in slides if s.label}, kind)
    table = Table(kind, classes, tuple(slides), columns.layout.name, path=path)
    undecided = settings.kind == "auto" and columns.layout.name == "manifest"
    if undecided and kind != "survival" and _has_times(columns):
        words = (
            "the table has labels, and times with events too; the labels are learnt (kind survival "
            "learns the times)"
        )
        spellings.append(Problem("two tasks", len(table), words))
    return table.with_problems([*reader.problems(), *spellings, *_of_whole(table)])


def slide_name(text: str) -> str:
    """Return the name of a slide from a file name, a table in a store, or an identifier."""
    path = text.replace("\\", "/")
    store, found, _ = path.rpartition(".zarr/tables/")
    name = (store if found else path).rpartition("/")[2]
    for suffix in (*FEATURE_SUFFIXES, *SLIDE_SUFFIXES, ".jpg", ".png"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _has_times(columns: Columns) -> bool:
    return "time" in columns.names and not {"event", "censored"}.isdisjoint(columns.names)


def _kind(columns: Columns, settings: TableSettings) -> str:
    has_times = _has_times(columns)
    if settings.kind != "auto":
        kind = settings.kind
    elif columns.layout.kind is not None and settings.label_column is None:
        kind = columns.layout.kind
    else:
        kind = "survival" if has_times and "label" not in columns.names else "classification"
    if kind == "survival" and not has_times:
        raise TaskError("survival needs the columns time and event (or censorship); add them")
    if kind != "survival" and "label" not in columns.names:
        raise TaskError(f"{kind} needs a column label; add it, or name the column of the label")
    return kind


class _Rows:
    """Reads rows into slides, and counts what is wrong with them."""

    def __init__(self, path: Path, columns: Columns, kind: str, settings: TableSettings) -> None:
        self.folder = path.parent
        self.name = path.name
        self.columns, self.kind = columns, kind
        self.features = None if settings.features is None else Path(settings.features)
        self.wrong: dict[str, list[str]] = defaultdict(list)

    def read(self, rows: list[dict[str, str]]) -> list[LabelledSlide]:
        found: dict[str, LabelledSlide] = {}
        for number, row in enumerate(rows, start=2):
            slide = self._slide(row, number)
            if slide is None:
                continue
            before = found.get(slide.name)
            if before is not None:
                if _answer(slide) != _answer(before):
                    raise TaskError(
                        f"{self.name} names the slide {slide.name} twice with different answers "
                        f"(the second time in row {number}); keep the right one"
                    )
                self.wrong["duplicate"].append(slide.name)
                continue
            found[slide.name] = slide
        return list(found.values())

    def _slide(self, row: dict[str, str], number: int) -> LabelledSlide | None:
        get = self.columns.get
        given = get(row, "features") or get(row, "slide")
        if not given:
            self.wrong["nameless"].append(f"row {number}")
            return None
        name = slide_name(given)
        patient = get(row, "patient")
        if patient.lower() in NO_VALUE:
            self.wrong["patient"].append(name)
            patient = name
        slide = LabelledSlide(
            name,
            patient,
            slide=self._slide_file(get(row, "slide")),
            features=self._feature_file(get(row, "features"), get(row, "slide"), name),
            fold=self._fold(get(row, "fold"), number),
            part=self._part(get(row, "split"), number),
            mpp=self._mpp(get(row, "mpp"), number),
            regions=self.folder / get(row, "regions") if get(row, "regions") else None,
            notes={k: v for k, v in row.items() if k not in self.columns.names.values()},
        )
        return self._answered(slide, row, number)

    def _answered(
        self, slide: LabelledSlide, row: dict[str, str], number: int
    ) -> LabelledSlide | None:
        get = self.columns.get
        if self.kind != "survival":
            label = get(row, "label")
            if label.lower() in NO_VALUE:
                self.wrong["label"].append(slide.name)
                return None
            return replace(slide, label=as_whole(label))
        text, time = get(row, "time"), math.nan
        said = get(row, "event" if "event" in self.columns.names else "censored").lower()
        if text.lower() in NO_VALUE or said in NO_VALUE:
            self.wrong["label"].append(slide.name)
            return None
        with contextlib.suppress(ValueError):
            time = float(text)
        if not (math.isfinite(time) and time >= 0):
            raise TaskError(
                f"{self.name}, row {number}: the time is {text!r}, but must be a number from 0 on"
            )
        if "event" in self.columns.names:
            seen = event_of(said)
            other = get(row, "censored").lower()
            if seen is not None and other in (YES if seen else NO):
                raise TaskError(
                    f"{self.name}, row {number}: event is {said!r} and censored {other!r}, which "
                    "contradict each other; leave the right column"
                )
        else:  # words such as alive would be taken the wrong way round here
            seen = None if said not in YES | NO else said in NO
        if seen is None:
            raise TaskError(
                f"{self.name}, row {number}: whether the event was seen is {said!r}, but must be "
                "0 or 1 (or alive or dead, in a column event)"
            )
        return replace(slide, time=time, event=seen)

    def _slide_file(self, text: str) -> Path | None:
        if not text or text.lower().endswith(_NEVER_SLIDES):
            return None
        path = self.folder / Path(text)
        return path if path.suffix.lower() in SLIDE_SUFFIXES else None

    def _feature_file(self, named: str, slide: str, name: str) -> Path | None:
        if not named and slide.lower().endswith(_NEVER_SLIDES):
            named = slide
        if named:
            places = [self.folder / named]
            if self.features is not None:
                places.append(self.features / Path(named).name)
            return next((path for path in places if are_features(path)), places[0])
        found = (folder.find(name) for folder in self._feature_folders)
        return next((path for path in found if path is not None), None)

    @cached_property
    def _feature_folders(self) -> list[FeatureFolder]:
        return [
            FeatureFolder(folder / below)
            for folder in (self.features, self.folder / "features")
            if folder is not None
            for below in ("", "h5_files", "pt_files")
        ]

    def _fold(self, text: str, number: int) -> int | None:
        if text.lower() in NO_VALUE:
            return None
        whole = as_whole(text)
        if not whole.isdecimal() or len(whole) > _LONGEST_FOLD:
            raise TaskError(
                f"{self.name}, row {number}: the fold is {text!r}, but must be a whole number "
                "from 0 on"
            )
        return int(whole)

    def _mpp(self, text: str, number: int) -> float | None:
        if text.lower() in NO_VALUE:
            return None
        with contextlib.suppress(ValueError):
            mpp = float(text.replace(",", "."))
            if SMALLEST_MPP <= mpp <= LARGEST_MPP:
                return mpp
        raise TaskError(
            f"{self.name}, row {number}: mpp is {text!r}, but must be the slide's µm per level-0 "
            f"pixel, from {SMALLEST_MPP:g} to {LARGEST_MPP:g}"
        )

    def _part(self, text: str, number: int) -> str | None:
        if text.lower() in NO_VALUE:
            return None
        if text.lower() not in PARTS:
            raise TaskError(
                f"{self.name}, row {number}: the split is {text!r}, but must be train, "
                "validation or test"
            )
        return PARTS[text.lower()]

    def problems(self) -> list[Problem]:
        remark = self.columns.layout.remark
        found = [Problem("layout", 1, remark)] if remark else []
        sentences = {
            "nameless": "{n} rows name no slide and were left out",
            "label": "{n} slides have no label and were left out",
            "duplicate": "{n} rows name a slide that stands above already and were left out",
            "patient": "{n} slides name no patient, so each counts as a patient of its own; "
            "slides of one patient may then stand on both sides of the split",
        }
        for what, sentence in sentences.items():
            names = tuple(self.wrong.get(what, ()))
            if names:
                words = sentence.format(n=len(names))
                found.append(Problem(what, len(names), words, slides=names))
        return found


def _answer(slide: LabelledSlide) -> tuple[object, ...]:
    """Return what two rows of one slide must agree on."""
    patient = spelling(slide.patient)
    return slide.label, slide.time, slide.event, patient, slide.fold, slide.part


def _one_patient_each(slides: list[LabelledSlide]) -> tuple[list[LabelledSlide], list[Problem]]:
    """Give patients whose names differ in case or spaces only one name: else they could leak."""
    groups = spelt_differently(slide.patient for slide in slides)
    if not groups:
        return slides, []
    one = {name: group[0] for group in groups for name in group}
    concerned = tuple(slide.name for slide in slides if slide.patient in one)
    words = (
        f"{len(groups)} patients are written in several ways that differ in case, spaces or zeros "
        "only, and count as one patient each"
    )
    kept = [replace(s, patient=one.get(s.patient, s.patient)) for s in slides]
    return kept, [Problem("spelling", len(groups), words, slides=concerned)]


def _of_whole(table: Table) -> list[Problem]:
    """Return what is wrong with the table as a whole."""
    if not table.slides:
        return [Problem("empty", 0, "no slide with a label is left; check the labels", True)]
    found = []
    if {s.fold is None for s in table.slides} == {s.part is None for s in table.slides} == {False}:
        words = "the table has a fold and a split column; the split is not looked at"
        found.append(Problem("two splits", len(table), words))
    groups = spelt_differently(table.classes)
    if groups:
        words = (
            f"the labels {' and '.join(map(repr, groups[0]))} differ in case, spaces or zeros "
            "only; write them alike"
        )
        several_ways = {label for group in groups for label in group}
        slides = tuple(s.name for s in table.slides if s.label in several_ways)
        found.append(Problem("spelling of labels", len(groups), words, True, slides))
    answers: dict[str, set[object]] = defaultdict(set)
    for slide in table.slides:
        answers[slide.patient].add(slide.label or (slide.time, slide.event))
    several = [patient for patient, given in answers.items() if len(given) > 1]
    if several:
        names = tuple(s.name for s in table.slides if s.patient in set(several))
        what = "times or events" if table.kind == "survival" else "labels"
        found.append(
            Problem(
                "contradiction",
                len(several),
                f"{len(several)} patients have slides with different {what}"
                + ("; mend the table" if table.kind == "survival" else ", which may be meant"),
                stops=table.kind == "survival",
                slides=names,
            )
        )
    if table.kind == "survival":
        if not any(slide.event for slide in table.slides):
            sentence = "all patients are censored, so there is no event to learn from"
            found.append(Problem("censored", len(table.slides), sentence, True))
        return found
    present = {slide.label for slide in table.slides}
    if len(present) < 2:
        sentence = f"all slides have the label {min(present, key=str)!r}; two classes are needed"
        found.append(Problem("one class", len(table.slides), sentence, True))
    patients = {
        name: len({s.patient for s in table.slides if s.label == name}) for name in table.classes
    }
    rare = [name for name, count in patients.items() if count < 2]
    if rare and len(present) > 1:
        found.append(
            Problem(
                "rare class",
                len(rare),
                f"{len(rare)} classes have fewer than two patients ({', '.join(rare)}), so they "
                "cannot be both learnt and tested",
            )
        )
    return found
