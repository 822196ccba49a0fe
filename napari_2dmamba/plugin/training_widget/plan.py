"""What is to be trained, looked at before anything starts, and the training itself."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from napari_2dmamba.errors import TaskError
from napari_2dmamba.evaluation.settings import EvaluationSettings
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.tasks.installed import training_installed
from napari_2dmamba.tasks.settings import SplitSettings, TableSettings
from napari_2dmamba.training.presets import preset
from napari_2dmamba.training.settings import FitSettings

if TYPE_CHECKING:
    from napari_2dmamba.tasks import Problem, Split, Table
    from napari_2dmamba.training import Epoch, TrainingRun


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
    """

    table: "Table"
    split: "Split | None" = None
    found: "tuple[Problem, ...]" = ()

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
    from napari_2dmamba.tasks import Problem, make_split, read_split, read_table
    from napari_2dmamba.tasks.bags import check_features
    from napari_2dmamba.tasks.splits import check_split

    table = read_table(question.table, question.reading)
    try:
        _, found = check_features(table, on_progress=progress, should_stop=stop)
    except TaskError as error:
        names = tuple(slide.name for slide in table.slides)
        found = (Problem("no features", len(names), str(error), True, names),)
    usable = not any(problem.stops for problem in table.problems)
    if not usable:
        return Checked(table, found=found)
    with training_installed():
        if question.split_file is not None:
            split = read_split(question.split_file)
        else:
            split = make_split(table, question.splitting)
    split, of_split = check_split(table, split)
    return Checked(table, split, (*of_split, *found))


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
            intended_use=recipe.intended_use,
            final=recipe.final,
            scoring=recipe.scoring,
            on_progress=progress,
            on_epoch=tell,
            should_stop=stop,
        )
        tell_known()
        return run
