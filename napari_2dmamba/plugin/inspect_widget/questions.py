"""What jobs run: questions to a model that take a while, as tasks without a widget."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import Cancelled, UserError
from napari_2dmamba.explain.counterfactual import Decisive, Goal, smallest_set
from napari_2dmamba.explain.faithfulness import (
    Faithfulness,
    Stability,
    faithfulness,
    stability_under_dropout,
    stability_under_turns,
)
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.inspection import Inspection, MapOptions
from napari_2dmamba.explain.outcome import Target
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.plugin.parts.jobs import Task
from napari_2dmamba.settings import ProgressCallback, StopCallback

_STEPS = 12  # of a deletion curve: enough to see its shape, and to wait for


def live_maps(
    inspected: Inspection,
    names: Sequence[str],
    patches: Sequence[int],
    how: MapOptions,
    take: Callable[[str, GridMap], None],
) -> Task:
    """Compute maps one after another; each goes to ``take`` as soon as it is there."""

    def task(progress: ProgressCallback, stop: StopCallback) -> None:
        problem: UserError | None = None
        for name in names:
            if stop():
                raise Cancelled
            try:
                made = inspected.map(name, patches, how, progress, stop)
            except Cancelled:
                raise
            except UserError as error:  # the other maps can be had all the same
                problem = error
            else:
                take(name, made)
        if problem is not None:
            raise problem

    return task


def fewest_patches(subject: Subject, target: Target) -> Task:
    """Search for a small set of patches that decides the answer."""
    goal: Goal = "halve" if subject.header.task == "survival" else "flip"

    def task(progress: ProgressCallback, stop: StopCallback) -> Decisive:
        return smallest_set(subject, goal, target=target, on_progress=progress, should_stop=stop)

    return task


def deletion_and_insertion(
    subject: Subject, scores: Mapping[str, NDArray[np.float64]], target: Target
) -> Task:
    """Check maps, given as one score per patch, against random orders."""

    def task(progress: ProgressCallback, stop: StopCallback) -> Faithfulness:
        return faithfulness(
            subject, scores, target=target, steps=_STEPS, on_progress=progress, should_stop=stop
        )

    return task


def stability(subject: Subject) -> Task:
    """Check the answer under flips, rotations and patches left out; by the name of the map."""

    def task(progress: ProgressCallback, stop: StopCallback) -> dict[str, Stability]:
        turns = stability_under_turns(subject, on_progress=progress, should_stop=stop)
        dropout = stability_under_dropout(subject, on_progress=progress, should_stop=stop)
        return {"stability-turns": turns, "stability-dropout": dropout}

    return task
