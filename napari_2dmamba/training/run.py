"""From a table and a split to checkpoints, predictions, scores and a report in one folder.

training.json         what was trained with what
split.csv             the split
fold-0/               model.safetensors, model-card.md, history.csv, predictions.csv, state.pt
final/                the same, trained on all slides, without predictions
predictions.csv, scores.json, scores.csv, report.html
baselines/            scores of what a model must beat
"""

import csv
import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import TrainingError
from napari_2dmamba.evaluation.comparison import Difference, compare_models
from napari_2dmamba.evaluation.predictions import (
    Predictions,
    predict,
    read_predictions,
    together,
    write_predictions,
)
from napari_2dmamba.evaluation.report import Rival, write_report
from napari_2dmamba.evaluation.scoring import (
    Evaluation,
    marks_of,
    point_scores,
    score_predictions,
    write_evaluation,
)
from napari_2dmamba.evaluation.settings import EvaluationSettings
from napari_2dmamba.models import Aggregator, save_checkpoint
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.tasks.bags import TableBags, check_features, features_digest
from napari_2dmamba.tasks.settings import SplitSettings
from napari_2dmamba.tasks.splits import Fold, Split, check_split, make_split
from napari_2dmamba.tasks.table import Problem, Table
from napari_2dmamba.tasks.time_bins import time_bins
from napari_2dmamba.training.baselines import baseline_predictions
from napari_2dmamba.training.fitting import Epoch, FitResult, fit
from napari_2dmamba.training.logs import available_logs, open_logs
from napari_2dmamba.training.model import new_aggregator
from napari_2dmamba.training.model_card import write_model_card
from napari_2dmamba.training.presets import Preset, preset
from napari_2dmamba.training.record import MODEL, TrainingPlan, claim, finished
from napari_2dmamba.training.report_facts import commands, remarks

STATE = "state.pt"


@dataclass(frozen=True)
class TrainingRun:
    """A finished training.

    Attributes
    ----------
    folder
        Where everything lies.
    evaluation
        Of the test parts together; None when nothing was tested.
    checkpoints
        One per fold, and the final one last where it was made.
    final
        The model trained on all slides, or None.
    problems
        What was found in table, split and features.
    """

    folder: Path
    evaluation: Evaluation | None
    checkpoints: tuple[Path, ...]
    final: Path | None
    problems: tuple[Problem, ...]


def train(
    table: Table,
    split: Split | None = None,
    *,
    out: str | os.PathLike[str],
    architecture: str = "2dmamba",
    use: Preset | str = "recommended",
    preset_name: str = "own",
    config: dict[str, Any] | None = None,
    class_names: dict[str, str] | None = None,
    intended_use: str = "",
    final: bool = True,
    only: Sequence[int] | None = None,
    logs: Sequence[str] | None = None,
    scoring: EvaluationSettings | None = None,
    on_progress: ProgressCallback | None = None,
    on_epoch: Callable[[str, Epoch], None] | None = None,
    should_stop: StopCallback | None = None,
) -> TrainingRun:
    """Train a model per fold, test each on its own test part, and one on all slides.

    What is finished in the folder is kept, and a training that was cut off goes on with the
    numbers it would have had.

    Parameters
    ----------
    table
        With features for every slide.
    split
        Made with `SplitSettings` when None.
    out
        Folder of this training; another training in it is refused.
    architecture, use, config
        Name in the registry, preset (or its name), and options of the architecture.
    preset_name
        What the record calls a preset that is given whole.
    class_names
        Names for people of the table's labels.
    intended_use
        Stated wherever the results of the model are shown.
    final
        Whether a model is trained on all slides at the end, test parts included.
    only
        Numbers of the folds to train, and nothing else: no scores, no final model. A call without
        it takes what is there and makes the rest, so folds can be shared out among machines.
    logs
        Where epochs are written beside ``history.csv``: see `training.logs`.
    scoring
        How the test parts are scored.
    on_epoch
        Called with the name of the model (``fold 0``) after each of its epochs.

    Raises
    ------
    TaskError
        When table, split or features have a problem that stops.
    TrainingError
        When the folder holds another training, or a loss is not a number.
    CheckpointError, FeatureError, GridError, BackendError
        When a bag does not fit the model or this machine; the sentence names the slide.
    Cancelled
        When ``should_stop()`` said so; what was finished is kept.
    """
    out = Path(out)
    wanted_logs = available_logs(logs)
    table.require_usable()
    split = make_split(table, SplitSettings()) if split is None else split
    name = use if isinstance(use, str) else preset_name
    chosen = preset(use, architecture, table.kind) if isinstance(use, str) else use
    split, of_split = check_split(table, split)
    absent = [number for number in only or () if not 0 <= number < len(split.folds)]
    if absent:
        raise TrainingError(
            f"there is no fold {absent[0]}; the split has the folds 0 to {len(split.folds) - 1}"
        )
    features, of_features = check_features(
        table, canvas=chosen.needs_canvas, on_progress=on_progress, should_stop=should_stop
    )
    table = table.with_problems([*of_split, *of_features, *_of_preset(table, split, chosen)])
    table.require_usable()
    plan = TrainingPlan(
        table, split, features, features_digest(table), architecture, chosen, name, config or {},
        class_names or {}, intended_use, scoring or EvaluationSettings(), wanted_logs,
    )  # fmt: skip
    claim(out, plan)
    folds = {f"fold {number}": fold for number, fold in enumerate(split.folds)}
    models = len(folds) + (1 if final else 0)
    parts, patients, validated, checkpoints = [], [], [], []
    known = table.by_name()

    def folder_of(called: str) -> Path:
        return out / called.replace(" ", "-")

    for number, (called, fold) in enumerate(folds.items()):
        if only is not None and number not in only:
            continue
        folder = folder_of(called)
        told = _counted(on_progress, number, models, called, chosen.fit.epochs)
        found, header = _fold(plan, called, fold, folder, told, on_epoch, should_stop)
        checkpoints.append(folder / MODEL)
        if found is not None:
            parts.append(found)
            patients.append([known[slide].patient for slide in found.slides])
            validated.append(header.get("validation", {}))
    if only is not None:
        return TrainingRun(out, None, tuple(checkpoints), None, table.problems)
    evaluation = None
    if parts:
        if on_progress is not None:
            done, all_epochs = (count * chosen.fit.epochs for count in (len(folds), models))
            on_progress(done, all_epochs, "Scoring the test parts, and what a model must beat")
        evaluation = score_predictions(
            together(parts, patients),
            plan.scoring,
            title=f"{architecture}, {name}, {split.method}",
            remarks=remarks(table, validated),
            should_stop=should_stop,
        )
        rivals = _baselines(plan, evaluation, out, should_stop)
        write_evaluation(evaluation, out)
        write_report(
            evaluation,
            out / "report.html",
            commands=commands(
                table, folds, {called: folder_of(called) / MODEL for called in folds}
            ),
            facts=plan.record(),
            rivals=rivals,
        )
    last = None
    if final:
        told = _counted(on_progress, len(folds), models, "final", chosen.fit.epochs)
        last = _final(plan, out / "final", evaluation, told, on_epoch, should_stop)
        checkpoints.append(last)
    if on_progress is not None:
        on_progress(models, models, "Done")
    return TrainingRun(out, evaluation, tuple(checkpoints), last, table.problems)


def _baselines(
    plan: TrainingPlan, evaluation: Evaluation, out: Path, should_stop: StopCallback | None
) -> tuple[Rival, ...]:
    """Score what a model must beat, on the same folds."""
    rivals = []
    found = baseline_predictions(plan.table, plan.split, should_stop=should_stop)
    for name, told in found.items():
        told = dataclasses.replace(told, class_names=evaluation.predictions.class_names)
        scored = score_predictions(told, plan.scoring, title=name, should_stop=should_stop)
        differences: tuple[Difference, ...] = ()
        if plan.scoring.resamples and len(set(told.slides)) == len(told):
            differences = compare_models(
                evaluation.predictions,
                told,
                permutations=plan.scoring.resamples,
                should_stop=should_stop,
            )
        rivals.append(Rival(name, scored, differences))
        write_evaluation(scored, out / "baselines" / name.replace(" ", "-"))
    return tuple(rivals)


def _fold(
    plan: TrainingPlan,
    called: str,
    fold: Fold,
    folder: Path,
    on_progress: ProgressCallback | None,
    on_epoch: Callable[[str, Epoch], None] | None,
    should_stop: StopCallback | None,
) -> tuple[Predictions | None, dict[str, Any]]:
    """Train and test one model, unless that is done."""
    tested = folder / "predictions.csv"
    header = finished(plan, called, folder)
    if header is not None and (tested.is_file() or not fold.test):
        held = read_predictions(tested) if fold.test else None
        if held is not None and set(held.slides) != set(fold.test):
            raise TrainingError(
                f"{tested} is of other slides than the test part of {called}; delete {folder.name} "
                "to train and test it again"
            )
        return held, header.training
    aggregator, result, edges = _fitted(
        plan, called, fold, folder, on_progress, on_epoch, should_stop
    )
    run = ModelSettings(device=plan.preset.fit.device)

    def predicted(names: Sequence[str]) -> Predictions | None:
        if not names:
            return None
        bags = TableBags(plan.table, names, edges, memory_mb=0)
        return predict(
            aggregator, bags, run, kind=plan.table.kind, model=called, edges=edges,
            should_stop=should_stop,
        )  # fmt: skip

    validation, test = predicted(fold.validation), predicted(fold.test)
    told = _told(plan, called, fold, result)
    if validation is not None:
        told["validation"] = _defined(point_scores(validation))
    scored = None
    if test is not None:
        scored = score_predictions(test, plan.scoring, title=called, should_stop=should_stop)
        told["test"] = _defined({name: score.value for name, score in scored.scores.items()})
        write_predictions(test, tested)
    _save(plan, aggregator, told, folder, scored)
    return test, told


def _final(
    plan: TrainingPlan,
    folder: Path,
    evaluation: Evaluation | None,
    on_progress: ProgressCallback | None,
    on_epoch: Callable[[str, Epoch], None] | None,
    should_stop: StopCallback | None,
) -> Path:
    if finished(plan, "final", folder) is not None:
        return folder / MODEL
    # As many choose the epoch as in the folds: none where the last epoch was kept there
    chose = sum(len(fold.validation) for fold in plan.split.folds)
    fitted = sum(len(fold.train) for fold in plan.split.folds)
    how = SplitSettings(
        method="all",
        validation_share=min(0.5, chose / (chose + fitted)),
        split_seed=plan.preset.fit.seed,
    )
    (fold,) = make_split(plan.table, how).folds
    aggregator, result, _ = _fitted(plan, "final", fold, folder, on_progress, on_epoch, should_stop)
    told = _told(plan, "final", fold, result)
    if evaluation is not None:
        told["cross_validation"] = {
            name: {"value": s.value, "low": s.low, "high": s.high}
            for name, s in evaluation.scores.items()
            if s.value is not None
        }
    _save(plan, aggregator, told, folder, evaluation)
    return folder / MODEL


def _fitted(
    plan: TrainingPlan,
    called: str,
    fold: Fold,
    folder: Path,
    on_progress: ProgressCallback | None,
    on_epoch: Callable[[str, Epoch], None] | None,
    should_stop: StopCallback | None,
) -> tuple[Aggregator, FitResult, list[float] | None]:
    s = plan.preset.fit
    edges = time_edges(plan.table, plan.preset, fold)
    aggregator = new_aggregator(
        plan.architecture, plan.table, plan.features, plan.preset, config=plan.config,
        class_names=plan.class_names, intended_use=plan.intended_use, edges=edges,
    )  # fmt: skip
    share = len(fold.train) / (len(fold.train) + len(fold.validation))
    whole = s.memory_mb // s.devices  # every process keeps bags of its own
    room = int(whole * share)

    with open_logs(plan.logs, folder.parent, called, plan.record()) as log:

        def tell(epoch: Epoch) -> None:
            log(epoch)
            if on_epoch is not None:
                on_epoch(called, epoch)

        result = fit(
            aggregator,
            TableBags(plan.table, fold.train, edges, room),
            TableBags(plan.table, fold.validation, edges, whole - room),
            s,
            state_file=folder / STATE,
            on_progress=on_progress,
            on_epoch=tell,
            should_stop=should_stop,
        )
    names = [field.name for field in dataclasses.fields(Epoch)]
    with (
        atomic_write(folder / "history.csv") as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(asdict(epoch) for epoch in result.history)
    return aggregator, result, edges


def _of_preset(table: Table, split: Split, chosen: Preset) -> list[Problem]:
    """Say where a preset lets tested patients decide something, as published code does."""
    tested = tuple(name for fold in split.folds for name in fold.test)
    if not chosen.bins_of_all or not tested or time_edges(table, chosen, split.folds[0]) is None:
        return []
    words = (
        "the edges of the time bins follow from the times of all patients, tested ones included, "
        "as in published training"
    )
    return [Problem("bins of all", len(tested), words)]


def time_edges(table: Table, chosen: Preset, fold: Fold) -> list[float] | None:
    """Return the edges of the time bins of a fold, or None where there are none."""
    s = chosen.fit
    if table.kind != "survival" or s.survival_loss == "cox":
        return None
    # Published training places them by all patients, tested ones included
    used = set(fold.train) | set(fold.validation)
    # One slide per patient, as published: one with many slides must not pull the edges
    patients = {x.patient: x for x in table.slides if chosen.bins_of_all or x.name in used}
    slides = list(patients.values())
    times = np.array([slide.time for slide in slides], np.float64)
    return time_bins(times, [bool(slide.event) for slide in slides], s.time_bins).tolist()


def _told(plan: TrainingPlan, called: str, fold: Fold, result: FitResult) -> dict[str, Any]:
    """Return what the header says of a training."""
    known = plan.table.by_name()
    used = [known[name] for name in (*fold.train, *fold.validation)]
    seen = {mark for slide in used for mark in marks_of(slide)}
    base = result.aggregator.header.training
    return {
        **{key: base[key] for key in ("kind", "labels", "time_bins") if key in base},
        "data": plan.table.counts(),
        "table": plan.table.digest(),
        "model": called,
        "training": plan.digest,
        "split": f"{'all slides' if called == 'final' else plan.split.method}: "
        f"{len(fold.train)} slides fitted, {len(fold.validation)} to choose the epoch, "
        f"{len(fold.test)} tested",
        "preset": plan.preset_name,
        **result.summary(plan.preset.fit),
        "remarks": list(result.remarks),
        "seen": sorted(seen),
    }


def _save(
    plan: TrainingPlan,
    aggregator: Aggregator,
    told: dict[str, Any],
    folder: Path,
    evaluation: Evaluation | None,
) -> None:
    """Write checkpoint and card; the state of the training is not needed any more."""
    header = dataclasses.replace(aggregator.header, training=told)
    saved = Aggregator(aggregator.model, header)
    write_model_card(header, evaluation, plan.table, folder / "model-card.md")
    save_checkpoint(saved, folder / MODEL)
    (folder / STATE).unlink(missing_ok=True)


def _defined(scores: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if value is not None}


def _counted(
    on_progress: ProgressCallback | None, number: int, models: int, called: str, epochs: int
) -> ProgressCallback | None:
    """Count the epochs of one model among those of all."""
    if on_progress is None:
        return None

    def tell(done: int, total: int, message: str) -> None:
        assert on_progress is not None
        on_progress(number * epochs + done, models * epochs, f"{called}: {message}")

    return tell
