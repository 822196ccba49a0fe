"""Several seeds or folds of one model, as one: mean and spread."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.compare.comparison import Comparison, Entry, Scale, on_scale
from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.explain.grid_map import GridMap


@dataclass(frozen=True)
class Ensemble:
    """What several models of one kind say together.

    Spreads are sample standard deviations over the members (divided by n - 1).

    Attributes
    ----------
    members
        Titles of the maps.
    scale
        What was averaged: percentile ranks of the patches, or raw values.
    mean, spread
        Mean and standard deviation of each patch over the members.
    class_names
        Classes, or time bins.
    probabilities, probabilities_spread
        ``(K,)`` mean and standard deviation; None for survival.
    survival, survival_spread
        The same for the survival curve; None for classification and Cox models.
    risk, risk_spread
        The same for the risk; None for classification, and for Cox models, whose risks have no
        common scale.
    same_answer
        Share of the members whose most probable class is that of the mean; None for survival.
    """

    members: tuple[str, ...]
    scale: Scale
    mean: GridMap
    spread: GridMap
    class_names: tuple[str, ...]
    probabilities: NDArray[np.float64] | None = None
    probabilities_spread: NDArray[np.float64] | None = None
    survival: NDArray[np.float64] | None = None
    survival_spread: NDArray[np.float64] | None = None
    risk: float | None = None
    risk_spread: float | None = None
    same_answer: float | None = None


def ensemble(
    comparison: Comparison,
    members: Sequence[int] | None = None,
    *,
    scale: Scale = "percentile",
) -> Ensemble:
    """Combine entries of a comparison: the same map of models of one architecture and task.

    Parameters
    ----------
    members
        Numbers of entries; None for all.
    scale
        ``"percentile"`` averages the percentile rank a patch has within each map, ``"raw"`` the
        values.

    Raises
    ------
    CheckpointError
        When the members are fewer than two, not of one kind, or their maps are about different
        answers; says which two differ and how.
    """
    numbers = list(range(len(comparison)) if members is None else members)
    entries = [comparison.entries[number] for number in numbers]
    _refuse_mixture(entries)
    maps = np.stack([on_scale(entry.scores, scale) for entry in entries])
    count = len(entries)
    of = "percentile rank of the patch" if scale == "percentile" else "value of the patch"
    about = f"over {count} models ({', '.join(entry.title for entry in entries)})"
    first = entries[0]
    mean_map = comparison.map_of(
        maps.mean(axis=0),
        name="ensemble mean",
        meaning=f"mean {of} {about}; each: {first.score_meaning}",
        # percentile ranks run from 0 to 100 also where the values have signs
        signed=first.grid_map.signed and scale == "raw",
    )
    spread_map = comparison.map_of(
        maps.std(axis=0, ddof=1),
        name="ensemble spread",
        meaning=f"standard deviation (n - 1) of the {of} {about}",
    )
    answers = [entry.prediction for entry in entries]
    names = answers[0].class_names
    if answers[0].task == "survival":
        if answers[0].survival is None:  # Cox models have a baseline each, which nobody knows
            return Ensemble(
                tuple(entry.title for entry in entries), scale, mean_map, spread_map, names
            )
        curves = np.stack([a.survival for a in answers if a.survival is not None])
        risks = np.array([a.risk for a in answers], dtype=np.float64)
        return Ensemble(
            tuple(entry.title for entry in entries), scale, mean_map, spread_map, names,
            survival=curves.mean(axis=0), survival_spread=curves.std(axis=0, ddof=1),
            risk=float(risks.mean()), risk_spread=float(risks.std(ddof=1)),
        )  # fmt: skip
    probabilities = np.stack([a.probabilities for a in answers if a.probabilities is not None])
    mean = probabilities.mean(axis=0)
    return Ensemble(
        tuple(entry.title for entry in entries), scale, mean_map, spread_map, names,
        probabilities=mean, probabilities_spread=probabilities.std(axis=0, ddof=1),
        same_answer=float((probabilities.argmax(axis=1) == mean.argmax()).mean()),
    )  # fmt: skip


def _refuse_mixture(entries: Sequence[Entry]) -> None:
    if len(entries) < 2:
        raise CheckpointError(
            f"an ensemble needs two members, and {len(entries)} was chosen; choose several seeds "
            "or folds of one model"
        )
    first = entries[0]
    for entry in entries[1:]:
        for what, mine, its in (
            ("architecture", first.header.architecture, entry.header.architecture),
            ("task", first.header.task, entry.header.task),
            ("classes", first.header.class_names, entry.header.class_names),
            ("map", first.map_name, entry.map_name),
        ):
            if mine != its:
                raise CheckpointError(
                    f"the {what} of {entry.title} is {_said(its)} and that of {first.title} is "
                    f"{_said(mine)}, so they are no ensemble; choose seeds or folds of one model"
                    if what != "classes"
                    else f"{entry.title} has the classes {_said(its)} and {first.title} has "
                    f"{_said(mine)}, so they are no ensemble; choose seeds or folds of one model"
                )
        for of, about in ((entry, _about(entry)), (first, _about(first))):
            if about is not None and _about(entry) != _about(first):
                raise CheckpointError(
                    f"the maps of {entry.title} and {first.title} explain different answers "
                    f"({of.title}: {about}), so that their mean is about neither; name one class "
                    "for all maps to explain, or choose models that answer alike"
                )
    labels = [entry.label for entry in entries]
    again = [label for label in labels if labels.count(label) > 1]
    if again:
        raise CheckpointError(f"{again[0]} was chosen twice; choose each member once")


def _about(entry: Entry) -> str | None:
    """Return the output a map is about, where that depends on what the model answered."""
    if entry.grid_map.quantity:
        return entry.grid_map.quantity
    own = {"the predicted class"}
    if entry.header.config["n_outputs"] > 1:
        own.add(entry.header.scored_output)
    if any(words in entry.score_meaning for words in own):
        return entry.prediction.class_names[entry.prediction.top_class]
    return None


def _said(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value)
