"""How maps become colours in a figure, and what a colour bar says that several maps share."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.compare.comparison import DIFFERENCE
from napari_2dmamba.explain.display import (
    DisplaySettings,
    DisplayTransform,
    Tick,
    display_for,
    map_colours,
)
from napari_2dmamba.explain.grid_map import GridMap

Kind = Literal["plain", "signed", "difference", "patch"]
"""Maps of one kind share a colour bar: scores, signed scores, differences of ranks, and maps of
a patch."""


@dataclass(frozen=True)
class Colouring:
    """How the values of one map become colours.

    Attributes
    ----------
    kind
        With which others it can share a bar.
    transform
        From values to places on the bar.
    colours
        ``(256, 4)`` colours of the bar, 0 to 1; the last column is the share of the opacity.
    ticks, label
        Of the bar that all maps of the kind share.
    """

    kind: Kind
    transform: DisplayTransform
    colours: NDArray[np.float32]
    ticks: Sequence[Tick]
    label: str


def kind_of(grid_map: GridMap) -> Kind:
    """Return the kind of a map."""
    if grid_map.quantity == DIFFERENCE:
        return "difference"
    if grid_map.queries and not grid_map.signed:
        return "patch"
    return "signed" if grid_map.signed else "plain"


def colourings(
    maps: Sequence[GridMap], display: DisplaySettings, *, shared: bool
) -> list[Colouring]:
    """Return how each map is coloured; with ``shared``, maps of one kind on one range.

    Ranks are on one range as they are. Maps of a patch reach from zero to their own highest
    value also where ranges are shared: what they hold differs from map to map.
    """
    made = []
    for one in maps:
        kind = kind_of(one)
        how = _display_of(one, kind, display)
        alike = [other for other in maps if kind_of(other) == kind]
        pool = shared and kind != "patch" and how.transform != "percentile"
        transform = DisplayTransform(_pooled(alike) if pool else one, how)
        ticks, label = _scale(kind, transform, alike)
        made.append(Colouring(kind, transform, map_colours(one, how), ticks, label))
    return made


def _display_of(grid_map: GridMap, kind: Kind, chosen: DisplaySettings) -> DisplaySettings:
    if kind == "difference":  # its range is known, and zero must stay in the middle
        return dataclasses.replace(
            chosen, transform="raw", clip_low=0.0, clip_high=100.0, gamma=1.0
        )
    return display_for(grid_map, chosen) if kind == "patch" else chosen


def _pooled(maps: Sequence[GridMap]) -> GridMap:
    """Return a map that holds the values of all, for their common range."""
    values = np.concatenate([one.values.ravel() for one in maps])[None]
    ranges = [one.display_range for one in maps if one.display_range is not None]
    limits = None
    if len(ranges) == len(maps):
        limits = (min(low for low, _ in ranges), max(high for _, high in ranges))
    return dataclasses.replace(maps[0], values=values, display_range=limits)


def _scale(
    kind: Kind, transform: DisplayTransform, alike: Sequence[GridMap]
) -> tuple[list[Tick], str]:
    """Return marks and label that are true for all maps of a kind."""
    if kind == "difference":
        marks = ("−100", "−50", "0", "+50", "+100")
        return [Tick(n / 4, text) for n, text in enumerate(marks)], "Difference of percentile ranks"
    if kind == "patch":
        return [Tick(0.0, "0"), Tick(1.0, "highest")], "Maps of a patch: value, each map by itself"
    settings = transform.settings
    if settings.transform != "percentile":
        log = ", logarithmic" if settings.transform == "log" else ""
        quantities = {one.quantity for one in alike}
        what = quantities.pop() if len(quantities) == 1 else ""
        plain = "Signed value" if kind == "signed" else "Score of the patch"
        return transform.ticks(5), (what or plain) + log
    label = "Rank of the patch within its map (percentile)"
    if kind == "signed":
        label = "Signed maps: rank of the magnitude (percentile)"
    ticks = []
    for position in np.linspace(0, 1, 5):
        side = abs(2 * position - 1) if kind == "signed" else position
        span = transform.high - transform.low
        rank = 100 * (transform.low + span * side ** (1 / settings.gamma))
        minus = "−" if kind == "signed" and position < 0.5 else ""
        ticks.append(Tick(float(position), f"{minus}{rank:.0f}"))
    return ticks, label
