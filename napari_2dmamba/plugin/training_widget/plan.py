"""What is to be trained, looked at before anything starts, and the training itself."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba.errors import TaskError
from napari_2dmamba.evaluation.settings import EvaluationSettings
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.tasks.installed import training_installed
from napari_2dmamba.tasks.settings import SplitSettings, TableSettings
from napari_2dmamba.training.presets import preset
from napari_2dmamba.training.settings import FitSettings

if TYPE_CHECKING:
    from napari_2dmamba.cohort import SlideStatus
    from napari_2dmamba.pipeline import RunSettings
    from napari_2dmamba.tasks import Problem, Split, Table
    from napari_2dmamba.tasks.bags import FeatureKind
    from napari_2dmamba.training import Epoch, TrainingRun

_TO_EXTRACT = "to extract"


@dataclass(frozen=True)
class Question:
    """A table and how it is read and split.

    Attributes
    ----------
    table
        The CSV file.
    reading, splitting
        How.
    split_file
        A split made before; None where one is drawn.
    """

    table: Path
    reading: TableSettings
    splitting: SplitSettings
    split_file: Path | None = None


@dataclass(frozen=True)
class Checked:
    """A table that was looked at.

    Attributes
    ----------
    table
        As it was read.
    split
        None where the table cannot be split before it is mended.
    found
        What was found in split and features; the rest stands in the table.
    features
        What the features that are there are; None where there are none.
    to_extract
        Names of the slides whose features must be computed first, and can be.
    """

    table: "Table"
    split: "Split | None" = None
    found: "tuple[Problem, ...]" = ()
    features: "FeatureKind | None" = None
    to_extract: tuple[str, ...] = ()

    @property
    def problems(self) -> "tuple[Problem, ...]":
        """Everything that was found, what must be mended first."""
        return tuple(sorted((*self.table.problems, *self.found), key=lambda one: not one.stops))

    @property
    def stopping(self) -> int:
        """How many problems must be mended before anything starts."""
        return sum(problem.stops for problem in self.problems)


@dataclass(frozen=True)
class Recipe:
    """What is fitted and where it goes.

    Attributes
    ----------
    architecture, preset_name
        Names in the registry and of the preset.
    fit
        The settings as the form shows them.
    out
        Folder of the training.
    config
        Options of the architecture, in place of the preset's.
    class_names
        Names for people of the table's labels.
    final
        Whether a model of all slides is made at the end.
    intended_use
        Stated in the checkpoints.
    scoring
        How the test parts are scored.
    """

    architecture: str
    preset_name: str
    fit: FitSettings
    out: Path
    config: dict[str, Any] = field(default_factory=dict)
    class_names: dict[str, str] = field(default_factory=dict)
    final: bool = True
    intended_use: str = ""
    scoring: EvaluationSettings = field(default_factory=EvaluationSettings)


def check(question: Question, progress: ProgressCallback, stop: StopCallback) -> Checked:
    """Read a table, split it, and look at its features; problems are returned, not raised.

    Raises
    ------
    TaskError
        When the file cannot be read as a table, or cannot be split as asked for.
    Cancelled
        When ``stop()`` said so.
    """
    from napari_2dmamba.tasks import make_split, read_split, read_table
    from napari_2dmamba.tasks.splits import check_split

    table = read_table(question.table, question.reading)
    looked = _look_at_features(table, progress, stop)
    if any(problem.stops for problem in table.problems):
        return looked
    with training_installed():
        if question.split_file is not None:
            split = read_split(question.split_file)
        else:
            split = make_split(table, question.splitting)
    split, of_split = check_split(table, split)
    return dataclasses.replace(looked, split=split, found=(*of_split, *looked.found))


def _look_at_features(table: "Table", progress: ProgressCallback, stop: StopCallback) -> Checked:
    """Look at the features that are there, and for the slides of those that are not."""
    from napari_2dmamba.features.files import are_features
    from napari_2dmamba.tasks import Problem
    from napari_2dmamba.tasks.bags import check_features

    absent = [s for s in table.slides if s.features is None or not are_features(s.features)]
    without = {slide.name for slide in absent}
    there = tuple(slide for slide in table.slides if slide.name not in without)
    kind: FeatureKind | None = None
    found: list[Problem] = []
    if there or not absent:
        try:
            kind, of_features = check_features(
                dataclasses.replace(table, slides=there), on_progress=progress, should_stop=stop
            )
            found += of_features
        except TaskError as error:
            names = tuple(slide.name for slide in there)
            found.append(Problem("damaged features", len(names), str(error), True, names))
    can = tuple(s.name for s in absent if s.slide is not None and s.slide.exists())
    cannot = tuple(slide.name for slide in absent if slide.name not in can)
    if cannot:
        words = (
            f"{len(cannot)} slides have no features file (first {cannot[0]}), nor a slide file to "
            "extract them from; mend the columns slide and features, or name the feature folder"
        )
        found.append(Problem("no features", len(cannot), words, True, cannot))
    if can:
        words = f"{len(can)} slides have no features file (first {can[0]}); extracted first"
        found.append(Problem(_TO_EXTRACT, len(can), words, False, can))
    return Checked(table, found=tuple(found), features=kind, to_extract=can)


def extract_missing(
    checked: Checked,
    settings: "RunSettings",
    out: Path,
    progress: ProgressCallback,
    stop: StopCallback,
) -> Checked:
    """Compute the features that are not there, by the cohort's machinery.

    Raises
    ------
    UserError
        As `cohort.table_features.extract_table`.
    """
    from napari_2dmamba.cohort.table_features import extract_table

    if not checked.to_extract:
        return checked
    total, ended = len(checked.to_extract), 0

    def tell(done: int, _: int, message: str) -> None:
        nonlocal ended
        ended = done
        progress(done, total, f"extracting features: {message}")

    def tell_patches(row: "SlideStatus") -> None:
        if row.patches_total:
            words = f"{row.patches_done} of {row.patches_total} patches"
            progress(ended, total, f"extracting features of {row.name}: {words}")

    table = extract_table(
        checked.table,
        settings,
        out=out / "features",
        on_progress=tell,
        on_status=tell_patches,
        should_stop=stop,
    )
    found = tuple(problem for problem in checked.found if problem.what != _TO_EXTRACT)
    return dataclasses.replace(checked, table=table, found=found, to_extract=())


def train_as(
    checked: Checked,
    recipe: Recipe,
    on_epoch: Callable[[str, "Epoch"], None],
    progress: ProgressCallback,
    stop: StopCallback,
) -> "TrainingRun":
    """Train on what was looked at; epochs that the folder holds already are told as well.

    Raises
    ------
    UserError
        As `training.train`.
    """
    use = preset(recipe.preset_name, recipe.architecture, checked.table.kind)
    same = use.fit == recipe.fit
    with training_installed():
        from napari_2dmamba.training import read_history, train

        def tell_known() -> None:
            for model, epochs in read_history(recipe.out).items():
                for one in epochs:
                    on_epoch(model, one)

        known = False

        def tell(model: str, epoch: "Epoch") -> None:
            nonlocal known
            if not known:  # only now: a folder of another training would have been refused
                known = True
                tell_known()
            on_epoch(model, epoch)

        run = train(
            checked.table,
            checked.split,
            out=recipe.out,
            architecture=recipe.architecture,
            use=dataclasses.replace(use, fit=recipe.fit),
            preset_name=recipe.preset_name + ("" if same else ", changed"),
            config=recipe.config,
            class_names=recipe.class_names,
            intended_use=recipe.intended_use,
            final=recipe.final,
            scoring=recipe.scoring,
            on_progress=progress,
            on_epoch=tell,
            should_stop=stop,
        )
        tell_known()
        return run
