"""What models said of slides, beside what is known: the table that every score is made of."""

import csv
import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import EvaluationError, UserError
from napari_2dmamba.features.lattice import laid_out
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.tasks.bags import LabelledBag


@dataclass(frozen=True)
class Predictions:
    """Predictions for slides whose outcome is known; one row per slide and model.

    Attributes
    ----------
    kind
        ``"classification"``, ``"ordinal"`` or ``"survival"``.
    class_names
        Classes, or time bins.
    slides
        ``(n,)`` names.
    groups
        ``(n,)`` int64; rows of one group are of one patient. The patients' names are not kept.
    models
        ``(n,)`` names of the models that predicted, such as ``fold 0``.
    values
        ``(n, K)`` probabilities; for survival the probability of surviving each bin. ``(n, 0)``
        of Cox models, which know none, and whose `class_names` are empty.
    labels
        ``(n,)`` int64 class; for survival the time bin.
    times, events, risks
        ``(n,)`` for survival.
    edges
        ``(n, bins + 1)``: edges of the time bins of the model that predicted each row; None
        where a model has none (Cox).
    unchecked
        One sentence for each thing of model and features that neither could be held against the
        other; not written.
    """

    kind: str
    class_names: tuple[str, ...]
    slides: tuple[str, ...]
    groups: NDArray[np.int64]
    models: tuple[str, ...]
    values: NDArray[np.float64]
    labels: NDArray[np.int64]
    times: NDArray[np.float64] | None = None
    events: NDArray[np.bool_] | None = None
    risks: NDArray[np.float64] | None = None
    edges: NDArray[np.float64] | None = None
    unchecked: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.slides)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Predictions":
        """Return some of the rows."""
        index = np.arange(len(self))[rows]

        def part(values: NDArray | None) -> NDArray | None:
            return None if values is None else values[index]

        return dataclasses.replace(
            self,
            slides=tuple(self.slides[i] for i in index),
            models=tuple(self.models[i] for i in index),
            groups=self.groups[index],
            values=self.values[index],
            labels=self.labels[index],
            times=part(self.times),
            events=part(self.events),
            risks=part(self.risks),
            edges=part(self.edges),
        )

    @property
    def has_one_scale(self) -> bool:
        """Whether risks of all rows can be held against each other.

        Those of Cox models are relative to a baseline that each model has of its own.
        """
        return self.edges is not None or len(set(self.models)) < 2

    def comparable_risks(self) -> NDArray[np.float64]:
        """Return ``(n,)`` risks that can be held against each other across models.

        They are the risks as they are, or, without a common scale (`has_one_scale`), the rank of
        each among the rows of its model, 0 to 1.
        """
        assert self.risks is not None
        if self.has_one_scale:
            return self.risks
        from scipy.stats import rankdata  # for seconds of a start that may rank nothing

        found = np.empty(len(self))
        models = np.array(self.models)
        for model in dict.fromkeys(self.models):
            rows = np.flatnonzero(models == model)
            ranks = rankdata(np.round(self.risks[rows], 8))  # as `survival.TIED`
            found[rows] = (ranks - 0.5) / len(rows)
        return found

    def of_patients(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Return risk (the mean of a patient's rows), time and event, ``(patients,)`` each.

        What tests patients against each other must not count one of them several times.
        """
        assert self.times is not None
        assert self.events is not None
        _, first, patient = np.unique(self.groups, return_index=True, return_inverse=True)
        count = np.bincount(patient)
        risks = np.bincount(patient, self.comparable_risks()) / count
        return risks, self.times[first], self.events[first]

    def require_finite(self) -> None:
        """Refuse predictions that are not numbers.

        Raises
        ------
        EvaluationError
            Naming the first slide.
        """
        broken = ~np.isfinite(self.values).all(1)
        if self.risks is not None:
            broken |= ~np.isfinite(self.risks)
        if broken.any():
            first = self.slides[int(np.argmax(broken))]
            raise EvaluationError(
                f"the prediction for {int(broken.sum())} slides (first {first}) is not a number; "
                "the model is broken: train it again"
            )


def predict(
    aggregator: Aggregator,
    bags: Sequence[LabelledBag] | Iterable[LabelledBag],
    settings: ModelSettings | None = None,
    *,
    kind: str = "",
    model: str = "",
    edges: Sequence[float] | None = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Predictions:
    """Run a model on labelled bags, by the same call as everywhere else.

    Parameters
    ----------
    kind
        Taken from the header when empty.
    model
        What the rows call the model.
    edges
        Survival: the edges of its time bins.

    Raises
    ------
    CheckpointError, GridError, FeatureError, BackendError
        When a bag does not fit the model; the sentence names the slide.
    EvaluationError
        When a prediction is not a number, or there is no bag.
    Cancelled
        When ``should_stop()`` said so.
    """
    kind = kind or aggregator.header.task
    total = len(bags) if isinstance(bags, Sequence) else 0
    rows, values, risks = [], [], []
    unchecked: Counter[str] = Counter()
    shared_cells = (settings or ModelSettings()).shared_cells
    for number, example in enumerate(bags):
        if on_progress is not None:
            on_progress(number, total, "Predicting")
        with named(example.name):
            bag, overlap = laid_out(
                example.bag, uses_grid=aggregator.model.uses_grid, shared_cells=shared_cells
            )
            said = aggregator.predict(bag, settings, should_stop=should_stop)
        unchecked["the patches overlap"] += bool(overlap)
        unchecked.update(said.extra.get("unchecked", ()))
        if kind == "survival":
            assert said.risk is not None
            values.append(np.empty(0) if said.survival is None else said.survival)
            risks.append(said.risk)
        else:
            assert said.probabilities is not None
            values.append(said.probabilities)
        # Without its bag: a thousand of them are not to be held
        rows.append(dataclasses.replace(example, bag=None))  # type: ignore[arg-type]
    if not rows:
        raise EvaluationError("there is no slide to predict; give at least one")
    patients = [row.patient or row.name or str(i) for i, row in enumerate(rows)]
    survival = kind == "survival"
    found = Predictions(
        kind,
        aggregator.header.class_names if values[0].size else (),
        tuple(row.name or f"bag {i}" for i, row in enumerate(rows)),
        np.unique(patients, return_inverse=True)[1].astype(np.int64),
        (model,) * len(rows),
        np.stack(values),
        np.array([row.label for row in rows], np.int64),
        times=np.array([row.label if row.time is None else row.time for row in rows], np.float64)
        if survival
        else None,
        events=np.array([not row.censored for row in rows]) if survival else None,
        risks=np.array(risks) if survival else None,
        edges=None if edges is None or not survival else np.tile(np.asarray(edges), (len(rows), 1)),
        unchecked=tuple(
            f"of {count} slides {words}" for words, count in unchecked.items() if count
        ),
    )
    found.require_finite()
    return found


@contextmanager
def named(slide: str) -> Iterator[None]:
    """Put the slide's name into what goes wrong with its bag."""
    try:
        yield
    except UserError as error:
        if slide and slide not in str(error):
            error.args = (f"slide {slide}: {error}",)
        raise


def together(parts: Sequence[Predictions], patients: Sequence[Sequence[str]]) -> Predictions:
    """Put predictions of several models into one table.

    Parameters
    ----------
    parts
        Of one task.
    patients
        For each part the patient of each row, so that groups agree across parts.

    Raises
    ------
    EvaluationError
        When they are of different tasks or classes.
    """
    first = parts[0]
    names = first.class_names
    for part in parts[1:]:
        if part.kind != first.kind or part.values.shape[1] != first.values.shape[1]:
            raise EvaluationError("the models answer different questions; take those of one task")
        if part.class_names == first.class_names:
            continue
        if part.kind != "survival":
            raise EvaluationError(
                f"one model has the classes {', '.join(first.class_names)} and another "
                f"{', '.join(part.class_names)}; take models of the same classes in one order"
            )
        # Each model has bins of its own, whose edges stand in each row
        names = tuple(f"bin {number + 1}" for number in range(len(first.class_names)))
    everyone = [patient for some in patients for patient in some]
    groups = np.unique(everyone, return_inverse=True)[1].astype(np.int64)

    def joined(name: str) -> NDArray | None:
        arrays = [getattr(part, name) for part in parts]
        return None if any(a is None for a in arrays) else np.concatenate(arrays)

    values, labels = joined("values"), joined("labels")
    assert values is not None
    assert labels is not None
    return dataclasses.replace(
        first,
        class_names=names,
        slides=tuple(name for part in parts for name in part.slides),
        models=tuple(name for part in parts for name in part.models),
        groups=groups,
        values=values,
        labels=labels,
        times=joined("times"),
        events=joined("events"),
        risks=joined("risks"),
        edges=joined("edges"),
    )


def write_predictions(found: Predictions, path: str | os.PathLike[str]) -> Path:
    """Write a CSV of one row per slide and model; numbers in full precision.

    Raises
    ------
    ExportError
        When the file cannot be written.
    """
    path = Path(path)
    columns: dict[str, Sequence[object]] = {
        "slide": found.slides,
        "group": found.groups.tolist(),
        "model": found.models,
    }
    if found.kind == "survival":
        assert found.times is not None
        assert found.events is not None
        assert found.risks is not None
        columns |= {
            "time": found.times.tolist(),
            "event": found.events.astype(int).tolist(),
            "time_bin": found.labels.tolist(),
            "risk": found.risks.tolist(),
        }
        columns |= {
            f"survival {name}": found.values[:, k].tolist()
            for k, name in enumerate(found.class_names)
        }
        if found.edges is not None:
            columns |= {
                f"edge {k}": found.edges[:, k].tolist() for k in range(found.edges.shape[1])
            }
    else:
        columns["label"] = [found.class_names[label] for label in found.labels]
        columns["prediction"] = [found.class_names[k] for k in found.values.argmax(1)]
        columns |= {
            f"probability {name}": found.values[:, k].tolist()
            for k, name in enumerate(found.class_names)
        }
        columns["kind"] = [found.kind] * len(found)
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def read_predictions(path: str | os.PathLike[str]) -> Predictions:
    """Read what `write_predictions` wrote.

    Raises
    ------
    EvaluationError
        When the file is not such a table.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{path} cannot be read ({error}); check the name") from error
    try:
        header = list(rows[0])
        survival = "risk" in header
        mark = "survival " if survival else "probability "
        names = tuple(name.removeprefix(mark) for name in header if name.startswith(mark))
        if survival and len(names) == 1:
            names = ()  # of a Cox model, by an earlier version; its risks have the right order
        edges = [name for name in header if name.startswith("edge ")]

        def column(name: str) -> NDArray[np.float64]:
            return np.array([float(row[name]) for row in rows])

        found = Predictions(
            "survival" if survival else rows[0]["kind"],
            names,
            tuple(row["slide"] for row in rows),
            column("group").astype(np.int64),
            tuple(row["model"] for row in rows),
            np.array([column(mark + name) for name in names]).reshape(len(names), len(rows)).T,
            column("time_bin").astype(np.int64)
            if survival
            else np.array([names.index(row["label"]) for row in rows], np.int64),
            times=column("time") if survival else None,
            events=column("event") > 0 if survival else None,
            risks=column("risk") if survival else None,
            edges=np.stack([column(name) for name in edges], axis=1) if edges else None,
        )
    except (IndexError, KeyError, ValueError, TypeError) as error:
        raise EvaluationError(
            f"{path.name} is no table of predictions ({type(error).__name__}: {error}); give a "
            "predictions.csv as train and evaluate write it"
        ) from error
    found.require_finite()
    return found
