"""Settings chosen by Optuna on the validation part; tested slides take no part in it."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_2dmamba.errors import Cancelled, TrainingError, UserError
from napari_2dmamba.evaluation.scoring import marks_of
from napari_2dmamba.models.registry import architecture as architecture_class
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.tasks.bags import FeatureKind, TableBags, check_features, features_digest
from napari_2dmamba.tasks.splits import Fold, Split, check_split
from napari_2dmamba.tasks.table import Table
from napari_2dmamba.training.fitting import fit
from napari_2dmamba.training.model import new_aggregator
from napari_2dmamba.training.presets import Preset, preset
from napari_2dmamba.training.run import time_edges
from napari_2dmamba.training.settings_file import GivenSettings, write_settings_file
from napari_2dmamba.training.state import fingerprint

SETTINGS, STORAGE = "settings.json", "search.db"


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes
    ----------
    settings
        The best ones, with how they came about.
    file
        Where they lie, as `train` takes them.
    validation_loss
        Lowest one; biased, because it was chosen.
    trials
        Of each finished trial: what was tried, and its validation loss.
    """

    settings: GivenSettings
    file: Path
    validation_loss: float
    trials: tuple[tuple[dict[str, Any], float], ...]


def search(
    table: Table,
    split: Split,
    *,
    out: str | os.PathLike[str],
    architecture: str = "2dmamba",
    preset_name: str = "recommended",
    fixed: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    trials: int = 20,
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> SearchResult:
    """Try settings, and keep those with the lowest validation loss.

    Learning rate, weight decay, bags per step and dropout are tried, unless they are fixed. The
    trials lie in ``search.db`` (Optuna's storage); the same call goes on from there with the
    trials it would have made.

    Parameters
    ----------
    table, split
        With features; a split of one fold, whose test part is not read.
    out
        Folder of the search.
    architecture, preset_name, fixed, config
        What holds for all trials: fields of `FitSettings`, and options of the architecture.
    trials
        How many in all, those of earlier calls included.
    seed
        Of what is tried.

    Raises
    ------
    TrainingError
        When Optuna is not installed, the split has several folds or no validation part, the
        folder holds another search, or every trial failed.
    TaskError
        When table, split or features have a problem that stops.
    Cancelled
        When ``should_stop()`` said so; finished trials are kept.
    """
    optuna = _optuna()
    if trials < 1:
        raise TrainingError(f"a search of {trials} trials finds nothing; ask for at least 1")
    base = preset(preset_name, architecture, table.kind)
    base = dataclasses.replace(base, fit=dataclasses.replace(base.fit, **(fixed or {})))
    table.require_usable()
    split, problems = check_split(table, split)
    table = table.with_problems(problems)
    table.require_usable()
    fold = _only_fold(split)
    # Without the tested slides nothing can depend on them, canvas and time bins included
    used = {*fold.train, *fold.validation}
    table = dataclasses.replace(table, slides=tuple(s for s in table.slides if s.name in used))
    features, problems = check_features(
        table, canvas=base.needs_canvas, on_progress=on_progress, should_stop=should_stop
    )
    table.with_problems(problems).require_usable()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    told = fingerprint(
        [table.digest(), features_digest(table), dataclasses.asdict(fold), architecture,
         preset_name, fixed, config, seed]
    )  # fmt: skip
    study = _study(optuna, out / STORAGE, told)
    last: UserError | None = None
    while (done := len(_finished(study))) < trials:
        if should_stop is not None and should_stop():
            raise Cancelled
        # Seeded by what is finished: a search that was cut off goes on with the same trials
        study.sampler = optuna.samplers.TPESampler(seed=seed * 100_003 + done)
        trial = study.ask()
        tried = _draw(trial, architecture, fixed or {}, config or {})
        words = ", ".join(f"{name} {value:.3g}" for name, value in tried.items())

        def tell(
            epoch: int, epochs: int, message: str, done: int = done, words: str = words
        ) -> None:
            if on_progress is not None:
                on_progress(done, trials, f"trial {done + 1} ({words}): {message}")

        try:
            loss = _validation_loss(
                table, fold, features, base, architecture, tried, config or {}, tell, should_stop
            )
        except Cancelled:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            raise
        except TrainingError as error:
            # Such as a learning rate at which the loss is no number: a finding, not a failure
            last, loss = error, None
        if loss is None:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, loss)
    good = [one for one in _finished(study) if one.value is not None]
    if not good:
        raise TrainingError(f"no trial came to an end (the last one: {last}); fix other settings")
    best = min(good, key=lambda one: (one.value, one.number))
    fitted = {name: value for name, value in best.params.items() if name != "dropout"}
    options = {name: value for name, value in best.params.items() if name == "dropout"}
    given = GivenSettings(
        architecture, preset_name, {**(fixed or {}), **fitted}, {**(config or {}), **options},
        {"validation_loss": best.value, "trials": len(_finished(study)), "seed": seed,
         "table": table.digest(), "split": split.method,
         "seen": sorted({mark for slide in table.slides for mark in marks_of(slide)})},
    )  # fmt: skip
    file = write_settings_file(given, out / SETTINGS)
    return SearchResult(
        given, file, float(best.value), tuple((one.params, float(one.value)) for one in good)
    )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise TrainingError(
            f"a search needs Optuna, which is not installed ({error}); run pip install "
            '"napari-2dmamba[search]"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _only_fold(split: Split) -> Fold:
    if len(split.folds) != 1:
        raise TrainingError(
            f"the split has {len(split.folds)} folds, each of whose slides is tested in one of "
            "them and would take part in choosing; search on a held-out split"
        )
    if not split.folds[0].validation:
        raise TrainingError(
            "the split has no validation part to choose settings by; draw it with one"
        )
    return split.folds[0]


def _study(optuna: Any, file: Path, told: str) -> Any:
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{file.absolute()}", study_name="search", load_if_exists=True
        )
        held = study.user_attrs.get("fingerprint")
    except Exception as error:
        raise TrainingError(
            f"{file} cannot be used ({str(error).partition(chr(10))[0]}); delete it to start again"
        ) from error
    if held is None:
        study.set_user_attr("fingerprint", told)
    elif held != told:
        raise TrainingError(
            f"{file.parent} holds a search of other slides or settings; choose another folder, or "
            f"delete {file.name}"
        )
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # it was killed
    return study


def _finished(study: Any) -> list[Any]:
    return [one for one in study.get_trials(deepcopy=False) if one.state.name in _FINISHED]


_FINISHED = ("COMPLETE", "PRUNED")


def _draw(
    trial: Any, architecture: str, fixed: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    tried: dict[str, Any] = {}
    if "learning_rate" not in fixed:
        tried["learning_rate"] = trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)
    if "weight_decay" not in fixed:
        tried["weight_decay"] = trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True)
    if "accumulate" not in fixed:
        tried["accumulate"] = trial.suggest_categorical("accumulate", [1, 2, 4, 8, 16])
    names = {one.name for one in dataclasses.fields(architecture_class(architecture).config_class)}
    if "dropout" in names and "dropout" not in config:
        tried["dropout"] = trial.suggest_float("dropout", 0.0, 0.5)
    return tried


def _validation_loss(
    table: Table,
    fold: Fold,
    features: FeatureKind,
    base: Preset,
    architecture: str,
    tried: dict[str, Any],
    config: dict[str, Any],
    on_progress: ProgressCallback,
    should_stop: StopCallback | None,
) -> float:
    changed = {name: value for name, value in tried.items() if name != "dropout"}
    settings = dataclasses.replace(base.fit, **changed)
    chosen = dataclasses.replace(base, fit=settings)
    edges = time_edges(table, chosen, fold)
    options = {**config, **{name: tried[name] for name in ("dropout",) if name in tried}}
    aggregator = new_aggregator(architecture, table, features, chosen, config=options, edges=edges)
    room = settings.memory_mb // settings.devices // 2
    result = fit(
        aggregator,
        TableBags(table, fold.train, edges, room),
        TableBags(table, fold.validation, edges, room),
        settings,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    assert result.best.validation_loss is not None
    return result.best.validation_loss
