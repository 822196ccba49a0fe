"""Where the parts of a figure stand, in millimetres."""

from collections.abc import Sequence
from dataclasses import dataclass

GAP = 2.5
"""Between panels."""

MARGIN = 1.0
"""Around everything, so that lines at the edge are whole."""

TALLEST = 240.0
"""Of a figure: a page less its caption."""

TALLEST_ZOOM = 40.0

MM_PER_POINT = 25.4 / 72


@dataclass(frozen=True)
class Box:
    """A rectangle in mm from the top left corner of the figure."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Layout:
    """Places of all parts.

    Attributes
    ----------
    width, height
        Of the figure.
    panels
        Pictures of the first rows; words stand above and below each.
    zooms
        Pictures of the zoomed regions.
    bars
        Colour bars under everything: the coloured part, labels stand below.
    foot
        Top of the footnote.
    """

    width: float
    height: float
    panels: tuple[Box, ...]
    zooms: tuple[Box, ...]
    bars: tuple[Box, ...]
    foot: float


@dataclass(frozen=True)
class Words:
    """Heights of what is written, in mm.

    Attributes
    ----------
    above, below
        Of each panel; `below` holds the colour bar of a panel that has its own.
    bar
        Ticks and label under a shared colour bar.
    foot
        All lines at the bottom.
    """

    above: float
    below: float
    bar: float
    foot: float


BAR_THICKNESS = 2.5


def bar_room(width: float, bars: int) -> float:
    """Return the width in mm that each of several colour bars has for its label."""
    return (width - 2 * MARGIN) / bars - GAP


def lay_out(
    width: float,
    panels: int,
    aspect: float,
    zooms: Sequence[float],
    bars: int,
    words: Words,
    columns: int | None = None,
) -> Layout:
    """Return the layout with the largest panels that fit the width and a page.

    Parameters
    ----------
    width
        Of the figure.
    panels
        How many.
    aspect
        Height over width of a panel.
    zooms
        Width over height of each zoomed region.
    bars
        Shared colour bars.
    words
        Heights of text.
    columns
        Panels in a row; None chooses.
    """
    inner = width - 2 * MARGIN
    widest = inner * 0.5 if panels > 1 else inner
    zoom_height = 0.0
    if zooms:
        room = inner - GAP * (len(zooms) - 1)
        zoom_height = min(room / sum(zooms), TALLEST_ZOOM)
    below_panels = words.foot + (BAR_THICKNESS + GAP + words.bar if bars else 0.0)
    if zooms:
        below_panels += words.above + zoom_height + GAP

    def panel_width(count: int) -> float:
        rows = -(-panels // count)
        by_width = (inner - GAP * (count - 1)) / count
        free = TALLEST - 2 * MARGIN - below_panels
        free -= rows * (words.above + words.below) + (rows - 1) * GAP
        return min(by_width, widest, max(free, 1.0) / rows / aspect)

    # rows that are full and as wide as the figure, of panels not much below a third of it
    choices = [columns] if columns else list(range(1, panels + 1))
    largest = min(max(panel_width(choice) for choice in choices), (inner - 2 * GAP) / 3)
    near = [choice for choice in choices if panel_width(choice) >= 0.7 * largest]
    count = max(near, key=lambda c: (_fills(panel_width(c), c, inner), -(-panels % c), c))
    side = panel_width(count)
    used = count * side + GAP * (count - 1)
    start = MARGIN + (inner - used) / 2
    places, top = [], MARGIN
    for number in range(panels):
        row, col = divmod(number, count)
        top = MARGIN + row * (words.above + side * aspect + words.below + GAP) + words.above
        places.append(Box(start + col * (side + GAP), top, side, side * aspect))
    top += side * aspect + words.below
    regions = []
    if zooms:
        top += GAP + words.above
        left = MARGIN + (inner - sum(zooms) * zoom_height - GAP * (len(zooms) - 1)) / 2
        for ratio in zooms:
            regions.append(Box(left, top, ratio * zoom_height, zoom_height))
            left += ratio * zoom_height + GAP
        top += zoom_height
    shared = []
    if bars:
        top += GAP
        room = bar_room(width, bars)
        long = min(60.0, room - 10.0)
        for number in range(bars):
            left = MARGIN + number * (inner / bars) + (inner / bars - long) / 2
            shared.append(Box(left, top, long, BAR_THICKNESS))
        top += BAR_THICKNESS + words.bar
    return Layout(
        width, top + words.foot + MARGIN, tuple(places), tuple(regions), tuple(shared), top
    )


def _fills(side: float, columns: int, inner: float) -> bool:
    """Whether a row of panels takes the whole width."""
    return columns * side + GAP * (columns - 1) > 0.95 * inner
