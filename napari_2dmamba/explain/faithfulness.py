"""Faithfulness and stability: how far a map may be trusted.

Deletion and insertion curves (Petsiuk et al., BMVC 2018, arXiv 1806.07421; patch flipping in
MIL: Hense et al. 2024, arXiv 2406.04280): patches are removed, or put on an empty slide, in
the order of a map, and the model runs again. A map that knows what the model uses makes the
answer fall early and rise early. Random orders are the yardstick, in the same run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from napari_2dmamba.errors import Cancelled
from napari_2dmamba.explain.counterfactual import Edited, run_edited
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.outcome import Outcome, Target, outcome_of, resolve, strength
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.settings import ProgressCallback, StopCallback


@dataclass(frozen=True)
class Curve:
    """The answer as patches go or come.

    Attributes
    ----------
    share
        ``(S,)`` share of the patches removed (deletion) or present (insertion), 0 to 1.
    answer
        ``(S,)`` probability, hazard or risk of the target.
    """

    share: NDArray[np.float64]
    answer: NDArray[np.float64]

    @property
    def area(self) -> float:
        """Mean of the answer along the curve, by trapezoids."""
        width = self.share[-1] - self.share[0]
        return float(np.trapezoid(self.answer, self.share) / width)


@dataclass(frozen=True)
class Faithfulness:
    """Curves of one or more maps beside random orders.

    Attributes
    ----------
    target
        Class, bin or ``"risk"`` whose answer the curves show.
    deletion, insertion
        A curve for each map, by its name.
    random_deletion, random_insertion
        Curves of random orders.
    """

    target: int | Literal["risk"]
    deletion: dict[str, Curve]
    insertion: dict[str, Curve]
    random_deletion: tuple[Curve, ...]
    random_insertion: tuple[Curve, ...]

    def advantage(self, name: str) -> tuple[float, float]:
        """Return by how much a map beats the mean random order: in deletion, in insertion.

        Positive is better; differences of areas.
        """
        random_deletion = np.mean([c.area for c in self.random_deletion])
        random_insertion = np.mean([c.area for c in self.random_insertion])
        return (
            float(random_deletion - self.deletion[name].area),
            float(self.insertion[name].area - random_insertion),
        )

    def verdict(self, name: str) -> str:
        """Say in plain words what may be concluded about a map.

        A map beats random when it is better than every random order drawn.
        """
        fell = self.deletion[name].area < min(c.area for c in self.random_deletion)
        rose = self.insertion[name].area > max(c.area for c in self.random_insertion)
        count = len(self.random_deletion)
        numbers = "deletion {:+.3f}, insertion {:+.3f} against random".format(*self.advantage(name))
        if fell and rose:
            return (
                f"The {name} map finds patches the model's answer depends on: removing them "
                f"first lowers it faster, and showing them first raises it faster, than each of "
                f"{count} random orders ({numbers})."
            )
        if fell or rose:
            good, bad = (
                ("removing its patches first lowers the answer", "showing them first raises it")
                if fell
                else (
                    "showing its patches first raises the answer",
                    "removing them first lowers it",
                )
            )
            return (
                f"The {name} map is partly faithful: {good} faster than each of {count} random "
                f"orders, but it does not hold that {bad} faster ({numbers})."
            )
        return (
            f"The {name} map does no better than {count} random orders on this slide "
            f"({numbers}): do not read it as the reason for the answer."
        )


def faithfulness(
    subject: Subject,
    maps: Mapping[str, NDArray[np.floating] | GridMap],
    *,
    target: Target = None,
    steps: int = 20,
    random_orders: int = 5,
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Faithfulness:
    """Compute deletion and insertion curves of maps and of random orders.

    Parameters
    ----------
    maps
        By name, one score per patch ``(N,)``, or a map; higher is expected to matter more.
        Patches without a score come last.
    target
        None for the predicted class, or the risk.
    steps
        Points of a curve besides the whole slide. A slide without any patch is never run: the
        last point of a deletion curve keeps at least one patch.
    random_orders, seed
        Random orders to compare with.

    Raises
    ------
    Cancelled
        When ``should_stop()`` said so.
    """
    whole = run_edited(subject, Edited(np.ones(len(subject), dtype=bool), subject.features))
    chosen = resolve(torch.from_numpy(whole.logits), subject.header, target)
    rng = np.random.default_rng(seed)
    orders: dict[str | int, NDArray[np.int64]] = {}
    for name, given in maps.items():
        scores = subject.scores_of_map(given) if isinstance(given, GridMap) else np.asarray(given)
        if len(scores) != len(subject):
            raise ValueError(f"{name} has {len(scores)} scores for {len(subject)} patches")
        orders[name] = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    for number in range(random_orders):
        orders[number] = rng.permutation(len(subject))
    count = len(subject)
    removed = np.unique(np.linspace(0, count - 1, min(steps, count - 1) + 1).round().astype(int))
    total, done = 2 * len(orders) * len(removed), 0

    def curve(order: NDArray[np.int64], insert: bool) -> Curve:
        nonlocal done
        answers = []
        for number in removed:
            if should_stop is not None and should_stop():
                raise Cancelled
            present = np.ones(count, dtype=bool)
            present[order[count - number :] if insert else order[:number]] = False
            outcome = run_edited(subject, Edited(present, subject.features)) if number else whole
            answers.append(strength(outcome, chosen))
            done += 1
            if on_progress is not None:
                on_progress(done, total, "Deletion and insertion")
        values = np.array(answers)
        share = removed / count
        return Curve(1 - share[::-1], values[::-1]) if insert else Curve(share, values)

    curves = {name: (curve(order, False), curve(order, True)) for name, order in orders.items()}
    return Faithfulness(
        chosen,
        {name: curves[name][0] for name in maps},
        {name: curves[name][1] for name in maps},
        tuple(curves[k][0] for k in range(random_orders)),
        tuple(curves[k][1] for k in range(random_orders)),
    )


@dataclass(frozen=True)
class Agreement:
    """How far two maps order the patches alike.

    Attributes
    ----------
    spearman
        Rank correlation, -1 to 1; NaN where a map is constant.
    overlap
        Share of the k highest patches of one map among those of the other; among patches of
        equal value, which of them count is drawn by lot, and this is the mean of all draws.
    k
        How many.
    expected_overlap
        What two unrelated maps share on average, k / N.
    """

    spearman: float
    overlap: float
    k: int
    expected_overlap: float


def agreement(
    first: NDArray[np.floating], second: NDArray[np.floating], k: int | None = None
) -> Agreement:
    """Compare two maps patch by patch; k is a tenth of the patches unless given."""
    from scipy.stats import rankdata

    both = np.isfinite(first) & np.isfinite(second)
    a, b = np.asarray(first)[both], np.asarray(second)[both]
    size = len(a)
    k = min(max(1, round(size / 10)) if k is None else k, size)
    with np.errstate(invalid="ignore", divide="ignore"):
        spearman = float(np.corrcoef(rankdata(a), rankdata(b))[0, 1]) if size > 1 else float("nan")
    shared = float((_among_highest(a, k) * _among_highest(b, k)).sum())
    return Agreement(spearman, shared / max(k, 1), k, k / max(size, 1))


def _among_highest(values: NDArray[np.floating], k: int) -> NDArray[np.float64]:
    """Return ``(N,)`` the chance of each patch to be among the k highest, ties drawn by lot.

    Maps that are zero nearly everywhere would else agree wherever the order of the patches does.
    """
    if k < 1:
        return np.zeros(len(values))
    last = np.partition(values, len(values) - k)[len(values) - k]
    above, level = values > last, values == last
    return above + level * ((k - above.sum()) / level.sum())


@dataclass(frozen=True)
class Stability:
    """Answers and attention under changes that should not matter.

    Attributes
    ----------
    names
        What was done in each run; the first is the slide as it is.
    outcomes
        The answers.
    attention
        ``(runs, N)`` attention of every patch; NaN where it was left out.
    spread
        Standard deviation of the attention of each patch over the runs, as a map.
    """

    names: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    attention: NDArray[np.float64]
    spread: GridMap

    @property
    def same_answer(self) -> float:
        """Share of the changed slides with the same most probable class (or bin)."""
        first, *others = (o.top_class for o in self.outcomes)
        return float(np.mean([o == first for o in others]))

    def verdict(self) -> str:
        """Say in plain words what may be concluded."""
        whole, *others = self.outcomes
        chosen: int | Literal["risk"] = whole.top_class if whole.risk is None else "risk"
        answers = [strength(o, chosen) for o in others]
        relation = [
            agreement(self.attention[0], attention).spearman for attention in self.attention[1:]
        ]
        kept = np.nanmedian(relation) if np.isfinite(relation).any() else float("nan")
        span = (
            f"between {min(answers):.4f} and {max(answers):.4f} (as it is: "
            f"{strength(whole, chosen):.4f})"
        )
        same = round(self.same_answer * len(others))
        words = (
            f"In {same} of {len(others)} changed slides the model gives the same answer; its "
            f"value lies {span}. "
        )
        if self.same_answer == 1 and kept >= 0.8:
            return words + "The attention keeps its order too: both may be relied on this far."
        if self.same_answer == 1:
            return (
                words + f"The attention changes its order (median rank correlation {kept:.2f}): "
                "do not rely on where single patches rank."
            )
        return words + "The answer hangs on things that should not matter: treat it with caution."


FLIPS_AND_ROTATIONS: tuple[tuple[str, int, bool], ...] = (
    ("as it is", 0, False),
    ("rotated by 90°", 1, False),
    ("rotated by 180°", 2, False),
    ("rotated by 270°", 3, False),
    ("mirrored left to right", 0, True),
    ("mirrored, rotated by 90°", 1, True),
    ("mirrored, rotated by 180°", 2, True),
    ("mirrored, rotated by 270°", 3, True),
)
"""Name, quarter turns counter-clockwise, and whether mirrored left to right before."""


def turned(cells: NDArray[np.int64], quarter_turns: int, mirrored: bool) -> NDArray[np.int64]:
    """Flip and rotate cells within their own bounding box, whose top left corner stays."""
    corner = cells.min(axis=0)
    row, col = (cells - corner).T
    height, width = row.max() + 1, col.max() + 1
    if mirrored:
        col = width - 1 - col
    for _ in range(quarter_turns % 4):
        row, col = width - 1 - col, row
        height, width = width, height
    return np.stack([row, col], axis=1) + corner


def stability_under_turns(
    subject: Subject,
    *,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Stability:
    """Run the model on the grid flipped and rotated in the 8 ways a square can be.

    Patches keep their features: their place changes, their picture does not. Tissue has no up
    and down, but a causal scan does. On a canvas of the slide's own the canvas turns with the
    tissue; on a training canvas the tissue turns in place, and the turns that would leave the
    canvas are left out. Patches are given row by row again, as extraction gives them, for
    models that read them as a sequence.
    """
    cells = subject.cells_of_patches
    own = subject.canvas == tuple(cells.max(axis=0) + 1) and not cells.min(axis=0).any()
    names, outcomes, attention = [], [], []
    for done, (name, turns, mirrored) in enumerate(FLIPS_AND_ROTATIONS):
        if should_stop is not None and should_stop():
            raise Cancelled
        moved = turned(cells, turns, mirrored)
        canvas = subject.canvas[::-1] if own and turns % 2 else subject.canvas
        if (moved >= np.asarray(canvas)).any():
            continue
        order = np.arange(len(moved)) if done == 0 else np.lexsort((moved[:, 1], moved[:, 0]))
        outcome, scores = _run_ordered(subject, order, moved, canvas)
        names.append(name)
        outcomes.append(outcome)
        attention.append(scores)
        if on_progress is not None:
            on_progress(done + 1, len(FLIPS_AND_ROTATIONS), "Flips and rotations")
    return _stability(
        subject, names, outcomes, attention, "turns", "flips and rotations of the grid"
    )


def stability_under_dropout(
    subject: Subject,
    *,
    share: float = 0.2,
    runs: int = 8,
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Stability:
    """Run the model with random patches left out, ``share`` of them each time."""
    if not 0 < share < 1:
        raise ValueError(f"share is {share}, but must lie between 0 and 1")
    rng = np.random.default_rng(seed)
    names, outcomes, attention = [], [], []
    for number in range(runs + 1):
        if should_stop is not None and should_stop():
            raise Cancelled
        present = np.ones(len(subject), dtype=bool)
        if number:
            gone = min(len(subject) - 1, max(1, round(share * len(subject))))
            present[rng.choice(len(subject), gone, replace=False)] = False
        outcome = run_edited(subject, Edited(present, subject.features))
        scores = np.full(len(subject), np.nan)
        scores[present] = outcome.attention
        names.append(f"without {share:.0%} of the patches" if number else "as it is")
        outcomes.append(outcome)
        attention.append(scores)
        if on_progress is not None:
            on_progress(number + 1, runs + 1, "Dropping patches")
    return _stability(
        subject, names, outcomes, attention, "dropout",
        f"leaving out {share:.0%} of the patches at random",
    )  # fmt: skip


def _run_ordered(
    subject: Subject,
    order: NDArray[np.int64],
    cells: NDArray[np.int64],
    canvas: tuple[int, int],
) -> tuple[Outcome, NDArray[np.float64]]:
    """Run the patches in an order and at places of their own."""
    places = torch.from_numpy(np.ascontiguousarray(cells[order])).to(subject.cells.device)
    index = torch.from_numpy(order).to(subject.cells.device)
    with torch.inference_mode():
        output = subject.model(subject.features[index], places, canvas)
    outcome = outcome_of(output, subject.header)
    scores = np.empty(len(subject))
    scores[order] = outcome.attention
    return outcome, scores


def _stability(
    subject: Subject,
    names: list[str],
    outcomes: list[Outcome],
    attention: list[NDArray[np.float64]],
    kind: str,
    of: str,
) -> Stability:
    stacked = np.stack(attention)
    count = np.isfinite(stacked).sum(axis=0)
    mean = np.nansum(stacked, axis=0) / np.maximum(count, 1)
    variance = np.nansum((stacked - mean) ** 2, axis=0) / np.maximum(count, 1)
    spread = np.where(count > 1, np.sqrt(variance), np.nan)
    return Stability(
        tuple(names),
        tuple(outcomes),
        stacked,
        subject.map_of_patches(
            spread,
            f"spread of attention ({kind})",
            f"standard deviation of the attention under {of}",
            quantity="standard deviation of the attention",
            gaps=True,
        ),
    )
