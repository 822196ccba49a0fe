"""What the panels of the grid show, made from a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_2dmamba.compare.figure import answer_in_words
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap

if TYPE_CHECKING:
    from napari_2dmamba.compare import Comparison
    from napari_2dmamba.models.prediction import SlidePrediction


@dataclass(frozen=True)
class Panel:
    """A map with its heading.

    Attributes
    ----------
    key
        Tells panels apart, as their headings may be alike.
    title
        The heading: whose map it is.
    caption
        The line below it, such as the prediction.
    grid_map
        What is shown.
    entry
        Number of the entry of the comparison; None for a map made of several.
    """

    key: str
    title: str
    caption: str
    grid_map: GridMap
    entry: int | None = None

    def display(self, chosen: DisplaySettings) -> DisplaySettings:
        """Return how the map is shown: as chosen, but differences of ranks are ranked already."""
        if self.entry is None and self.grid_map.signed:
            return replace(chosen, transform="raw")
        return chosen


def entry_panels(comparison: "Comparison") -> list[Panel]:
    """Return one panel per map of a comparison."""
    return [
        Panel(
            f"entry {number}",
            entry.title,
            answer_in_words(entry.prediction),
            entry.grid_map,
            number,
        )
        for number, entry in enumerate(comparison.entries)
    ]


def difference_panel(comparison: "Comparison", first: int, second: int) -> Panel:
    """Return the panel of one map minus another, in percentile ranks."""
    made = comparison.difference(first, second)
    return Panel(f"difference {first} {second}", made.name, "percentile points", made)


def ensemble_panels(comparison: "Comparison", members: Sequence[int]) -> list[Panel]:
    """Return the panels of mean and spread of some maps.

    Raises
    ------
    CheckpointError
        When they are fewer than two, or not of one kind.
    """
    from napari_2dmamba.compare.ensemble import ensemble

    made = ensemble(comparison, members)
    who = ", ".join(str(number) for number in members)
    titles = ", ".join(made.members)  # another mean, of others, may stand beside it
    if made.risk is not None:
        said = f"risk {made.risk:.2f} ± {made.risk_spread:.2f}"
    elif made.probabilities is None:
        said = "no common scale of risks (Cox)"
    else:
        assert made.probabilities is not None
        assert made.probabilities_spread is not None
        top = int(np.argmax(made.probabilities))
        said = (
            f"{made.class_names[top]} {100 * made.probabilities[top]:.1f} "
            f"± {100 * made.probabilities_spread[top]:.1f} %"
        )
    return [
        Panel(f"mean {who}", f"Mean of {titles}", said, made.mean),
        Panel(f"spread {who}", f"Spread of {titles}", "percentile points", made.spread),
    ]


def answer(prediction: "SlidePrediction") -> tuple[str, str]:
    """Return what a model says and how much of it: a class and its probability, or the risk."""
    name = "risk" if prediction.probabilities is None else ""
    name = name or prediction.class_names[prediction.top_class]
    return name, answer_in_words(prediction).removeprefix(name).strip()


def shared_limits(panels: Sequence[Panel]) -> dict[bool, GridMap]:
    """Return all values of the models' maps as one map, which gives limits and ranks.

    By whether the maps are signed. Maps made of several have units and limits of their own.
    """
    pools: dict[bool, GridMap] = {}
    for signed in (False, True):
        maps = [
            panel.grid_map
            for panel in panels
            if panel.entry is not None and panel.grid_map.signed == signed
        ]
        if maps:
            values = np.concatenate([one.values.ravel() for one in maps])
            ranges = [one.display_range for one in maps if one.display_range is not None]
            limits = None
            if len(ranges) == len(maps):
                limits = min(low for low, _ in ranges), max(high for _, high in ranges)
            pools[signed] = replace(maps[0], values=values[None], display_range=limits)
    return pools
