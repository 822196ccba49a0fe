"""Counterfactuals: what the model says when part of the slide is not what it is.

Only the aggregator runs again, on cached features. A model that sees positions and uses each
slide's own canvas leaves two meanings of removing patches open, see `Canvas`.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_2dmamba.errors import Cancelled, CheckpointError, FeatureError
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.outcome import (
    Outcome,
    Target,
    outcome_of,
    resolve,
    strength,
    target_value,
)
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.models.answer import class_logits
from napari_2dmamba.settings import ProgressCallback, StopCallback

Action = Literal["remove", "keep", "pad", "similar"]
ACTIONS: dict[Action, str] = {
    "remove": "as if these patches had not been tissue",
    "keep": "as if only these patches had been tissue",
    "pad": "the pad token in their cells",
    "similar": "the mean of similar patches of the rest in their place",
}

Canvas = Literal["kept", "own"]
"""What becomes of the canvas when patches are removed.

``"kept"``: it stays as it is, and so does the place of every other patch; only the chosen patches
differ, and their cells count as background. ``"own"``: it shrinks to the patches that are left, as
in a run on a slide that never had the others. The two differ where a whole outer row or column is
removed and the model uses each slide's own canvas.
"""


@dataclass(frozen=True)
class Edited:
    """A bag after some edits: which patches are there, and their features."""

    present: NDArray[np.bool_]  # (N,)
    features: Tensor  # (N, D)


@dataclass(frozen=True)
class Counterfactual:
    """The model's answer before and after.

    Attributes
    ----------
    before, after
        Answers for the slide as it is, and after the edits.
    present
        ``(N,)`` the patches that are still there.
    attention
        ``(N,)`` attention after; NaN where a patch is gone.
    attention_change
        After minus before, NaN where a patch is gone.
    canvas
        What became of the canvas, and ``canvases_differ`` whether it mattered.
    """

    before: Outcome
    after: Outcome
    present: NDArray[np.bool_]
    attention: NDArray[np.float64]
    attention_change: GridMap
    canvas: Canvas = "kept"
    canvases_differ: bool = False

    @property
    def about_canvas(self) -> str:
        """Which of two answers this is, as a sentence; empty where there is only one."""
        if not self.canvases_differ:
            return ""
        if self.canvas == "kept":
            return (
                "The canvas was kept: all other patches stay where they were, and the cells of "
                "those removed count as background. A slide that never had them has a smaller "
                "canvas, and the answer for it may be another."
            )
        return (
            "The canvas is that of the patches left, as in a run on a slide that never had the "
            "others: their places changed too, not only the patches removed."
        )

    @property
    def change(self) -> NDArray[np.float64]:
        """``(K,)`` change of the probabilities, of the survival curve, or of a Cox model's risk."""
        for name in ("probabilities", "survival", "logits"):
            old, new = getattr(self.before, name), getattr(self.after, name)
            if old is not None:
                return new - old
        raise AssertionError("an outcome has logits")

    @property
    def flipped(self) -> bool:
        """Whether another class is the most probable one now."""
        return self.before.top_class != self.after.top_class


class Counterfactuals:
    """Edits of one slide, one after another, with undo.

    Parameters
    ----------
    subject
        The model and the bag.
    canvas
        What becomes of the canvas when patches are removed; may be changed between edits.
    """

    def __init__(self, subject: Subject, canvas: Canvas = "kept") -> None:
        self.subject = subject
        self.canvas: Canvas = canvas
        self._states = [Edited(np.ones(len(subject), dtype=bool), subject.features)]
        with torch.inference_mode():
            self.before = outcome_of(subject.run(), subject.header)

    def __len__(self) -> int:
        """Edits that can be undone."""
        return len(self._states) - 1

    def apply(
        self, patches: NDArray[np.integer], action: Action, *, neighbours: int = 16
    ) -> Counterfactual:
        """Edit the slide as it stands and run the model.

        Parameters
        ----------
        patches
            Numbers of the chosen patches.
        action
            ``"remove"``, ``"keep"`` (remove all others), ``"pad"`` (only 2DMambaMIL has a pad
            token; there it is the same as removing), or ``"similar"``: each patch gets the mean
            of the ``neighbours`` patches outside the choice that are nearest by cosine.

        Raises
        ------
        FeatureError
            When no patch would be left, or none is chosen. Nothing changes then.
        CheckpointError
            For ``"pad"`` when the model has no pad token.
        """
        state = edit(self.subject, self._states[-1], patches, action, neighbours=neighbours)
        found = self._answer(state)
        self._states.append(state)
        return found

    def undo(self) -> Counterfactual:
        """Take the last edit back; without edits nothing happens."""
        if len(self._states) > 1:
            self._states.pop()
        return self.current()

    def bookmark(self) -> Callable[[], None]:
        """Return what brings edits and canvas back to as they are now, whatever came since."""
        states, canvas = list(self._states), self.canvas

        def go_back() -> None:
            self._states[:] = states
            self.canvas = canvas

        return go_back

    def forget(self) -> None:
        """Take all edits back without running the model."""
        del self._states[1:]

    def current(self) -> Counterfactual:
        """Return the answer for the slide as it stands."""
        return self._answer(self._states[-1])

    def _answer(self, state: Edited) -> Counterfactual:
        subject = self.subject
        after = run_edited(subject, state, self.canvas)
        attention = np.full(len(subject), np.nan)
        attention[state.present] = after.attention
        return Counterfactual(
            self.before,
            after,
            state.present.copy(),
            attention,
            subject.map_of_patches(
                attention - self.before.attention,
                "change of attention",
                "attention after the edit minus before; no value where a patch was removed",
                signed=True,
                gaps=True,
            ),
            self.canvas,
            canvases_differ(subject, state),
        )


def canvases_differ(subject: Subject, state: Edited) -> bool:
    """Whether the patches left would have another canvas, or another place on it, of their own."""
    if not subject.model.uses_grid or subject.record.get("canvas_mode", "slide") != "slide":
        return False
    first, size = _own_canvas(subject, state)
    return bool(first.any()) or size != subject.canvas


def _own_canvas(subject: Subject, state: Edited) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Return the first cell ``(row, col)`` of the patches left, and the size of their canvas."""
    cells = subject.cells_of_patches[state.present]
    first = cells.min(axis=0)
    rows, cols = (int(v) + 1 for v in cells.max(axis=0) - first)
    return first, (rows, cols)


def run_edited(subject: Subject, state: Edited, canvas: Canvas = "kept") -> Outcome:
    """Run the model on the patches that are left, each in its old cell or on their own canvas.

    Raises
    ------
    NotFiniteError
        When numbers overflow in the model.
    """
    if canvas not in ("kept", "own"):
        raise ValueError(f"the canvas is {canvas!r}, but must be kept or own")
    kept = torch.from_numpy(np.flatnonzero(state.present)).to(subject.cells.device)
    cells, size = subject.cells[kept], subject.canvas
    if canvas == "own" and canvases_differ(subject, state):
        first, size = _own_canvas(subject, state)
        cells = cells - torch.from_numpy(first).to(cells)
    with torch.inference_mode():
        output = subject.model(state.features[kept], cells, size)
        return outcome_of(output, subject.header)


def edit(
    subject: Subject,
    state: Edited,
    patches: NDArray[np.integer],
    action: Action,
    *,
    neighbours: int = 16,
) -> Edited:
    """Return a bag after one more edit; arguments and errors as in `Counterfactuals.apply`."""
    chosen = np.zeros(len(subject), dtype=bool)
    chosen[np.asarray(patches, dtype=np.int64)] = True
    chosen &= state.present
    if action not in ACTIONS:
        raise ValueError(f"the action is {action!r}, but must be one of {', '.join(ACTIONS)}")
    if action == "pad" and not hasattr(getattr(subject.model, "layers", None), "pad_token"):
        raise CheckpointError(
            f"{subject.model.title} has no pad token; choose to remove the patches, or to "
            "replace them by similar ones"
        )
    if not chosen.any():
        raise FeatureError(
            "no patch that is still there was chosen; draw the region over tissue patches"
        )
    rest = state.present & ~chosen
    if not rest.any() and action != "keep":
        raise FeatureError("this would leave no patch; choose a smaller region")
    if action == "keep":
        return dataclasses.replace(state, present=chosen)
    if action in ("remove", "pad"):
        # a 2DMambaMIL puts its pad token into every cell without a patch
        return dataclasses.replace(state, present=rest)
    features = state.features.clone()
    others = state.features[torch.from_numpy(np.flatnonzero(rest))]
    direction = torch.nn.functional.normalize(others, dim=1)
    numbers = np.flatnonzero(chosen)
    for first in range(0, len(numbers), 256):
        block = torch.from_numpy(numbers[first : first + 256])
        alike = torch.nn.functional.normalize(state.features[block], dim=1) @ direction.t()
        nearest = alike.topk(min(neighbours, len(others)), dim=1).indices
        features[block] = others[nearest].mean(dim=1)
    return dataclasses.replace(state, features=features)


Goal = Literal["flip", "halve"]


@dataclass(frozen=True)
class Decisive:
    """A small set of patches without which the answer changes.

    Attributes
    ----------
    patches
        Their numbers, in the order the search took them; empty when none was found.
    found
        Whether removing them reaches the goal.
    goal
        ``"flip"`` or ``"halve"``.
    before, after
        Answers with and without them.
    runs
        Times the model was run.
    map
        1 on the patches of the set, 0 elsewhere.
    verdict
        One sentence for people.
    """

    patches: NDArray[np.int64]
    found: bool
    goal: Goal
    before: Outcome
    after: Outcome
    runs: int
    map: GridMap
    verdict: str


def smallest_set(
    subject: Subject,
    goal: Goal = "flip",
    *,
    target: Target = None,
    rounds: int = 24,
    trims: int = 64,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Decisive:
    """Search greedily for the smallest set of patches whose removal changes the answer.

    Every round ranks the patches still there, with what was removed so far gone, in three ways:
    by attention, by gradient times input, and by gradient times what sets a patch apart from the
    mean of the slide (a saturated answer misleads gradients, and attention knows no sign). Each
    proposes its first patches, and those whose removal lowers the answer most are taken; their
    number doubles while the goal is far. Then the last step is halved as long as that reaches
    the goal too, and patches are put back one by one, the last taken first, where the goal is
    still reached without them. The result cannot lose one of the tried patches, but a smaller
    set of other patches may exist.

    Parameters
    ----------
    goal
        ``"flip"``: another class becomes the most probable (classification only);
        ``"halve"``: the probability or hazard of the target halves; for the risk, which is
        negative, half of the expected number of survived bins is gained or lost. The relative
        hazard of a Cox model, whose logarithm is the risk, halves or doubles.
    target
        What is halved; None for the predicted class, or the risk.
    rounds, trims
        Most rounds of removing, and most patches tried to be put back.

    Raises
    ------
    ValueError
        When a survival model shall flip.
    Cancelled
        When ``should_stop()`` said so.
    """
    header = subject.header
    if goal not in ("flip", "halve"):
        raise ValueError(f"the goal is {goal!r}, but must be flip or halve")
    if goal == "flip" and header.task == "survival":
        raise ValueError("a survival model has no class to flip; choose to halve")
    state = Edited(np.ones(len(subject), dtype=bool), subject.features)
    before = run_edited(subject, state)
    wanted = None if goal == "flip" else target
    chosen = resolve(torch.from_numpy(before.logits), header, wanted)
    runs, taken = 1, list[int]()
    total = rounds + trims

    def tell(done: int, message: str) -> None:
        if should_stop is not None and should_stop():
            raise Cancelled
        if on_progress is not None:
            on_progress(min(done, total), total, message)

    def without(patches: list[int]) -> Outcome:
        nonlocal runs
        runs += 1
        present = np.ones(len(subject), dtype=bool)
        present[patches] = False
        return run_edited(subject, Edited(present, subject.features))

    def reached(outcome: Outcome) -> bool:
        if goal == "flip":
            return outcome.top_class != before.top_class
        old, new = strength(before, chosen), strength(outcome, chosen)
        if chosen != "risk":
            return new <= old / 2
        # the risk is minus the expected number of survived bins: halving it means less survival
        return abs(new - old) >= (math.log(2) if before.hazards is None else abs(old) / 2)

    def standing(outcome: Outcome) -> float:
        """What the search lowers, in logits, which do not saturate."""
        if chosen == "risk":
            return -abs(strength(outcome, chosen) - strength(before, chosen))
        rivals = np.delete(outcome.logits, chosen)
        rival = rivals.max() if header.task == "classification" else 0.0
        return float(outcome.logits[chosen] - rival)

    after, found, step = before, False, 1
    for done in range(rounds):
        left = np.setdiff1d(np.arange(len(subject)), taken)
        if len(left) < 2:
            break
        tried: dict[tuple[int, ...], Outcome] = {}
        for order in _rankings(subject, left, chosen):
            tell(done, f"{len(taken)} patches removed")
            best = tuple(int(k) for k in left[order][: min(step, len(left) - 1)])
            if best not in tried:
                tried[best] = without([*taken, *best])
        runs += 1
        proposal, after = min(
            tried.items(), key=lambda one: (not reached(one[1]), standing(one[1]))
        )
        fresh = list(proposal)
        step *= 2
        if not reached(after):
            taken += fresh
            continue
        found = True
        low, high = 0, len(fresh)  # the goal is not reached with low of them, but with high
        while high - low > 1:
            tell(done, f"{len(taken) + high} patches are enough")
            middle = (low + high) // 2
            if reached(without(taken + fresh[:middle])):
                high = middle
            else:
                low = middle
        taken += fresh[:high]
        break
    if found:
        for done, patch in enumerate(list(reversed(taken))[1:trims]):
            tell(rounds + done, f"{len(taken)} patches are enough")
            fewer = [k for k in taken if k != patch]
            if fewer and reached(without(fewer)):
                taken = fewer
        after = without(taken)
    tell(total, "Done")
    patches = np.array(taken if found else [], dtype=np.int64)
    marks = np.zeros(len(subject))
    marks[patches] = 1
    return Decisive(
        patches, found, goal, before, after if found else before, runs,
        subject.map_of_patches(
            marks, "decisive patches", "1 on the patches whose removal changes the answer"
        ),
        _verdict(subject, patches, found, goal),
    )  # fmt: skip


def _rankings(
    subject: Subject, left: NDArray[np.int64], target: int | Literal["risk"]
) -> list[NDArray[np.int64]]:
    """Return orders of the patches left in which they may hold the answer up."""
    kept = torch.from_numpy(left).to(subject.cells.device)
    features = subject.features[kept].detach().requires_grad_()
    output = subject.model(features, subject.cells[kept], subject.canvas)
    value = target_value(output.logits, subject.header, target)
    if target != "risk" and subject.header.task == "classification":
        # against the strongest rival: what holds the class up against it
        logits = class_logits(output.logits)
        value = logits[target] - torch.cat([logits[:target], logits[target + 1 :]]).max()
    (gradient,) = torch.autograd.grad(value, features)
    found = features.detach()
    parts = ((gradient * found).sum(1), (gradient * (found - found.mean(0))).sum(1))
    if target == "risk":  # it may be pushed either way
        parts = (parts[0].abs(), parts[1].abs())
    return [
        np.argsort(-scores.detach().cpu().numpy(), kind="stable")
        for scores in (output.scores, *parts)
    ]


def _verdict(subject: Subject, patches: NDArray[np.int64], found: bool, goal: Goal) -> str:
    does = "changes the predicted class" if goal == "flip" else "halves the answer"
    if not found:
        return (
            f"No set of patches was found whose removal {does}: the answer does not hang on "
            "the patches, or the search gave up too early."
        )
    share = len(patches) / len(subject)
    tail = (
        "the answer hangs on very little of the slide"
        if share <= 0.02
        else "the answer hangs on part of the slide"
        if share <= 0.25
        else "the answer rests on much of the slide"
    )
    count = "1 patch" if len(patches) == 1 else f"{len(patches)} patches"
    return (
        f"Removing {count} of {len(subject)} ({share:.1%}) {does}: {tail}. The search is "
        "greedy; a smaller set may exist."
    )
