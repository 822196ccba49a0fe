"""From predictions, or a checkpoint and a table, to scores with intervals."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import EvaluationError
from napari_2dmamba.evaluation import classification, survival
from napari_2dmamba.evaluation.bootstrap import Score, bootstrap
from napari_2dmamba.evaluation.predictions import Predictions, predict, write_predictions
from napari_2dmamba.evaluation.settings import EvaluationSettings
from napari_2dmamba.models import load_checkpoint
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.settings import ProgressCallback, StopCallback, validate
from napari_2dmamba.tasks.bags import TableBags
from napari_2dmamba.tasks.cells import spelling
from napari_2dmamba.tasks.table import LabelledSlide, Table

_OFTEN = 0.95
"""Share of drawn samples below which it is said that a score had no meaning in the others."""
TITLES = {**classification.TITLES, **survival.TITLES}
"""Name for people of each score."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of predictions.

    Attributes
    ----------
    predictions
        What was scored.
    scores
        Over all rows together, with intervals by patient.
    by_model
        Of each model (fold, seed) on its own rows.
    details
        Counts behind the scores: pairs of the concordance index, curves over time, log-rank test.
    remarks
        What a reader must know: slides left out, scores without meaning.
    title
        What was evaluated.
    """

    predictions: Predictions
    scores: dict[str, Score]
    by_model: dict[str, dict[str, float | None]]
    details: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    title: str = ""

    def spread(self) -> dict[str, tuple[float, float, int]]:
        """Return mean, standard deviation and number of the models' own scores."""
        found = {}
        for name in self.scores:
            values = [one[name] for one in self.by_model.values() if one.get(name) is not None]
            if len(values) > 1:
                numbers = np.array(values, np.float64)
                found[name] = (float(numbers.mean()), float(numbers.std(ddof=1)), len(numbers))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able data, without names of slides."""
        told = self.predictions
        return {
            "title": self.title,
            "kind": told.kind,
            "slides": len(set(told.slides)),
            "patients": len(np.unique(told.groups)),
            "predictions": len(told),
            "scores": {name: dataclasses.asdict(score) for name, score in self.scores.items()},
            "models": self.by_model,
            "mean_and_sd_over_models": {
                name: {"mean": mean, "sd": sd, "models": count}
                for name, (mean, sd, count) in self.spread().items()
            },
            "details": self.details,
            "remarks": list(self.remarks),
        }

    def lines(self) -> list[str]:
        """Return one line per score, for a terminal."""
        spread = self.spread()
        lines = []
        for name, score in self.scores.items():
            if score.value is None:
                continue
            words = f"{TITLES.get(name, name):22} {score}"
            if name in spread:
                mean, sd, count = spread[name]
                words += f"   mean of {count} models {mean:.3f} (sd {sd:.3f})"
            lines.append(words)
        return lines


def point_scores(told: Predictions) -> dict[str, float | None]:
    """Return all scores of some predictions, without intervals."""
    if told.kind != "survival":
        return classification.classification_scores(
            told.labels, told.values, ordinal=told.kind == "ordinal"
        )
    assert told.times is not None
    assert told.events is not None
    risks = told.comparable_risks()
    scores: dict[str, float | None] = {
        "concordance": survival.concordance(risks, told.times, told.events).index,
        "time_dependent_auc": None,
        "integrated_brier": None,
    }
    at = survival.evaluation_times(told.times, told.events)
    auc = survival.time_dependent_auc(risks, told.times, told.events, at)
    if auc is not None:
        scores["time_dependent_auc"] = float(auc.mean())
    if told.edges is not None:
        curves = survival_curves(told, at)
        scores["integrated_brier"] = survival.integrated_brier(curves, told.times, told.events, at)
    return scores


def survival_curves(told: Predictions, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``(n, len(at))`` predicted survival, each row by the bins of its own model."""
    assert told.edges is not None
    rows = [
        survival.survival_at(told.values[i : i + 1], told.edges[i], at)[0] for i in range(len(told))
    ]
    return np.stack(rows) if len(at) else np.empty((len(told), 0))


def score_predictions(
    told: Predictions,
    settings: EvaluationSettings | None = None,
    *,
    title: str = "",
    remarks: tuple[str, ...] = (),
    should_stop: StopCallback | None = None,
) -> Evaluation:
    """Score predictions, with intervals by patient.

    Of survival only the concordance index has an interval.

    Raises
    ------
    EvaluationError
        When there is nothing to score, or a prediction is not a number.
    Cancelled
        When ``should_stop()`` said so.
    """
    settings = settings or EvaluationSettings()
    try:
        validate(settings)
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    if not len(told):
        raise EvaluationError("there is no prediction to score; predict some slides first")
    told.require_finite()
    values = point_scores(told)
    risks = told.comparable_risks() if told.kind == "survival" else None

    def statistic(rows: NDArray[np.int64]) -> dict[str, float | None]:
        if risks is not None:
            assert told.times is not None
            assert told.events is not None
            c = survival.concordance(risks[rows], told.times[rows], told.events[rows])
            return {"concordance": c.index}
        return classification.classification_scores(
            told.labels[rows], told.values[rows], ordinal=told.kind == "ordinal"
        )

    scores = {name: Score(value) for name, value in values.items()}
    scores |= bootstrap(
        statistic,
        told.groups,
        resamples=settings.resamples,
        level=settings.level,
        seed=settings.bootstrap_seed,
        should_stop=should_stop,
    )
    models = {
        model: point_scores(told.take(np.array([m == model for m in told.models])))
        for model in dict.fromkeys(told.models)
    }
    noted = list(remarks)
    if not (told.kind != "survival" or told.has_one_scale):
        noted.append(
            "the risks of these models have no common scale, so that over all slides together "
            "each counts by its rank among the slides of its model"
        )
    undefined = [TITLES[name] for name, value in values.items() if value is None]
    if undefined:
        noted.append(
            f"without meaning for these slides: {', '.join(undefined)} (a class, events and times, "
            "or the model's time bins are missing)"
        )
    for name, score in scores.items():
        if score.value is not None and score.defined < _OFTEN:
            noted.append(
                f"{TITLES[name]} has a meaning in {score.defined:.0%} of the drawn samples of "
                "patients only (a class, or events, are missing in the others), of which alone "
                "its interval could be made"
            )
    return Evaluation(told, scores, models, _details(told), tuple(dict.fromkeys(noted)), title)


def _details(told: Predictions) -> dict[str, Any]:
    if told.kind != "survival":
        return {
            "classes": list(told.class_names),
            "confusion": classification.confusion(told.labels, told.values).tolist(),
        }
    assert told.times is not None
    assert told.events is not None
    risks = told.comparable_risks()
    at = survival.evaluation_times(told.times, told.events)
    auc = survival.time_dependent_auc(risks, told.times, told.events, at)
    groups = survival.risk_groups(*told.of_patients())
    return {
        "events": int(told.events.sum()),
        "concordance_pairs": dataclasses.asdict(
            survival.concordance(risks, told.times, told.events)
        ),
        "times": at.tolist(),
        "auc_over_time": None if auc is None else auc.tolist(),
        "log_rank": {"statistic": groups.statistic, "p_value": groups.p_value},
    }


def digest_of(text: str) -> str:
    """Return the short hash by which a checkpoint knows what it was trained on."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def marks_of(slide: LabelledSlide) -> set[str]:
    """Return the hashes by which a slide and its patient are known again, however spelt."""
    return {digest_of(spelling(slide.name)), digest_of(f"patient {spelling(slide.patient)}")}


def known_by(marks: Collection[str], slides: Iterable[LabelledSlide]) -> list[str]:
    """Return the names of slides that marks are of, or of whose patients they are."""
    marks = set(marks)
    return [
        slide.name
        for slide in slides
        # Checkpoints made before spellings were heeded hold the names as they were written
        if marks & {*marks_of(slide), digest_of(slide.name), digest_of(f"patient {slide.patient}")}
    ]


def table_for(header: CheckpointHeader, table: Table) -> Table:
    """Return a table whose classes are the outputs of a model, matched by name.

    Raises
    ------
    EvaluationError
        When table and model do not answer the same question, or grades are no grades there.
    """
    kind = "survival" if table.kind == "survival" else "classification"
    if kind != header.task:
        raise EvaluationError(
            f"the table is about {table.kind}, but the model does {header.task}; give the table "
            "that belongs to it"
        )
    if kind == "survival":
        return table
    known = tuple(header.training.get("labels") or header.class_names)
    unknown = [name for name in table.classes if name not in known]
    unknown = [name for name in unknown if any(s.label == name for s in table.slides)]
    if unknown:
        raise EvaluationError(
            f"the table has the label {unknown[0]!r}, and the model knows {', '.join(known)}; "
            "name the labels alike"
        )
    if table.kind == "ordinal" and known != tuple(map(str, range(len(known)))):
        raise EvaluationError(
            f"the table holds grades, and the model's classes {', '.join(known)} are not those "
            "from 0 on in their order; read the table as a classification"
        )
    return dataclasses.replace(table, classes=known)


def evaluate(
    checkpoint: str | os.PathLike[str] | Aggregator,
    table: Table,
    settings: EvaluationSettings | None = None,
    model_settings: ModelSettings | None = None,
    *,
    seen: str = "leave out",
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Evaluation:
    """Score a checkpoint on a table of labelled slides.

    Parameters
    ----------
    checkpoint
        A file or a loaded model.
    table
        With features; labels are matched to the model's classes by name.
    seen
        Slides of patients that the model was fitted to or chosen on, as its header tells:
        ``"leave out"``, or ``"keep"`` and say so.

    Raises
    ------
    CheckpointError, FeatureError, GridError, BackendError
        When model and features do not fit; the sentence names the slide.
    EvaluationError
        When nothing is left to score, or table and model differ in what they are about.
    Cancelled
        When ``should_stop()`` said so.
    """
    aggregator = checkpoint if isinstance(checkpoint, Aggregator) else load_checkpoint(checkpoint)
    header = aggregator.header
    fitting = table_for(header, table)
    used = set(header.training.get("seen", ()))
    known = known_by(used, fitting.slides)
    remarks = [problem.sentence for problem in table.problems]
    names = [slide.name for slide in fitting.slides]
    if known and seen == "leave out":
        names = [name for name in names if name not in set(known)]
        remarks.append(
            f"{len(known)} slides are of patients the model was trained on or chosen on, and were "
            "left out"
        )
        if not names:
            raise EvaluationError(
                f"the model was trained on all {len(known)} slides of the table, so nothing is "
                "left to test it on; give other slides (or --seen keep, to see how well it knows "
                "these)"
            )
    elif known:
        remarks.append(
            f"{len(known)} slides are of patients the model was trained on or chosen on: these "
            "numbers are no test"
        )
    elif not used:
        remarks.append(
            "the checkpoint does not say on which slides it was trained, so it was not checked "
            "whether it is tested on its own training slides"
        )
    edges = header.training.get("time_bins")
    kind = table.kind
    found = predict(
        aggregator,
        TableBags(fitting, names, edges, memory_mb=0),
        model_settings,
        kind=kind,
        model=_model_name(aggregator),
        edges=edges,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    return score_predictions(
        found,
        settings,
        title=_model_name(aggregator),
        remarks=(*remarks, *_of_another_unit(found), *found.unchecked),
        should_stop=should_stop,
    )


def _of_another_unit(told: Predictions) -> list[str]:
    """Say where times look as if they were counted otherwise than those of the model's bins."""
    if told.edges is None or told.times is None:
        return []
    low, high = float(told.edges[0, 1]), float(told.edges[0, -1])
    beyond, first = int((told.times > high).sum()), int((told.times < low).sum())
    if 2 * beyond <= len(told) and first < len(told):
        return []
    where = (
        f"{beyond} of {len(told)} times lie beyond {high:g}, the last time of the training"
        if 2 * beyond > len(told)
        else f"all {len(told)} times lie in the model's first time bin, before {low:g}"
    )
    return [
        f"{where}: unless both tables count in one unit (days, months, years), the integrated "
        "Brier score is of other times than the model means"
    ]


def _model_name(aggregator: Aggregator) -> str:
    return aggregator.path.name if aggregator.path is not None else aggregator.model.title


def write_evaluation(found: Evaluation, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``predictions.csv``, ``scores.json`` and ``scores.csv`` into a folder.

    Raises
    ------
    ExportError
        When they cannot be written.
    """
    folder = Path(folder)
    written = [write_predictions(found.predictions, folder / "predictions.csv")]
    with atomic_write(folder / "scores.json") as part:
        part.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    with atomic_write(folder / "scores.csv") as part:
        spread = found.spread()
        lines = ["score,value,low,high,mean over models,sd over models"]
        for name, score in found.scores.items():
            mean, sd = spread.get(name, (None, None, 0))[:2]
            cells = (name, score.value, score.low, score.high, mean, sd)
            lines.append(",".join("" if cell is None else str(cell) for cell in cells))
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [*written, folder / "scores.json", folder / "scores.csv"]
