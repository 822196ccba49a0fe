"""One row per slide and model that tests it: what is known, and what the model said."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING

from napari_2dmamba.plugin.training_widget.plan import Checked

if TYPE_CHECKING:
    from napari_2dmamba.evaluation import Predictions
    from napari_2dmamba.tasks import LabelledSlide


@dataclass(frozen=True)
class SlideRow:
    """A line of the table.

    Attributes
    ----------
    name
        Of the slide.
    slide, features
        Its files, where the table names them.
    label
        The class, with its name in the model where that is another; or the time with what it is.
    model
        The model that tests it, such as ``fold 0``; empty where none does.
    prediction
        In words; empty before the training has ended.
    error
        As `evaluation.report.errors_of`; NaN where there is none.
    values
        Probabilities, or the survival of each bin, or the risk of a Cox model.
    problem
        What was found about it, in a sentence.
    stops
        Whether that must be mended before anything starts.
    mpp
        µm per level-0 pixel that the table states in the slide's place.
    """

    name: str
    slide: Path | None = None
    features: Path | None = None
    label: str = ""
    model: str = ""
    prediction: str = ""
    error: float = nan
    values: tuple[float, ...] = ()
    problem: str = ""
    stops: bool = False
    mpp: float | None = None

    @property
    def has_error(self) -> bool:
        """Whether it was tested, and the error has a meaning."""
        return isfinite(self.error)


def rows_of(checked: Checked, told: "Predictions | None" = None) -> list[SlideRow]:
    """Return the rows of a table, with what was predicted.

    Slides that were left out stand at the end, with the reason.
    """
    problems: dict[str, list[str]] = defaultdict(list)
    stopping: set[str] = set()
    for problem in checked.problems:
        for name in problem.slides:
            problems[name].append(problem.sentence)
            if problem.stops:
                stopping.add(name)
    testing: dict[str, list[str]] = defaultdict(list)
    for number, fold in enumerate(checked.split.folds if checked.split is not None else ()):
        for name in fold.test:
            testing[name].append(f"fold {number}")
    said = {} if told is None else _said(told)
    names: dict[str, str] = {}
    if told is not None and checked.table.classes:
        names = dict(zip(checked.table.classes, told.class_names, strict=True))
    rows = []
    for slide in checked.table.slides:
        label = _label(slide, names)
        for model in testing.get(slide.name) or [""]:
            prediction, error, values = said.get((slide.name, model), ("", nan, ()))
            rows.append(
                SlideRow(
                    slide.name, slide.slide, slide.features, label, model, prediction,
                    error, values, "; ".join(problems[slide.name]), slide.name in stopping,
                    slide.mpp,
                )
            )  # fmt: skip
    known = {row.name for row in rows}
    rows += [
        SlideRow(name, problem="; ".join(sentences), stops=name in stopping)
        for name, sentences in problems.items()
        if name not in known
    ]
    return rows


def _label(slide: "LabelledSlide", names: dict[str, str]) -> str:
    if slide.time is None:
        label = slide.label or ""
        name = names.get(label, label)
        return label if name == label else f"{label} ({name})"
    return f"{slide.time:g} ({'event' if slide.event else 'censored'})"


def _said(told: "Predictions") -> dict[tuple[str, str], tuple[str, float, tuple[float, ...]]]:
    from napari_2dmamba.evaluation.report import errors_of

    found = {}
    places: Iterable[tuple[str, str]] = zip(told.slides, told.models, strict=True)
    for row, (place, error) in enumerate(zip(places, errors_of(told).tolist(), strict=True)):
        values = told.values[row]
        if told.risks is not None:
            words = f"risk {told.risks[row]:.3f}"
            values = values if len(values) else told.risks[row : row + 1]
        else:
            top = int(values.argmax())
            words = f"{told.class_names[top]} {values[top]:.3f}"
        found[place] = words, error, tuple(values.tolist())
    return found
