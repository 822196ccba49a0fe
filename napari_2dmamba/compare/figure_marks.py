"""Scale bars and the boxes of zoomed regions in a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari_2dmamba.compare.figure_layout import MM_PER_POINT, Box, Layout
from napari_2dmamba.compare.figure_text import width_of_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Region = tuple[int, int, int, int]
"""``(x, y, width, height)`` in level-0 pixels."""

_COLOURS = ("#d81b60", "#1e88e5", "#e08e00", "#004d40", "#6a1b9a", "#5d4037")
"""Told apart in the common forms of colour blindness, and on pink tissue."""

_THICKNESS = 0.7
"""Of a scale bar in mm."""


def box_colour(number: int) -> str:
    """Return the colour of a zoomed region; they count from 1."""
    return _COLOURS[(number - 1) % len(_COLOURS)]


def draw_scale_bar_below(
    figure: "Figure", layout: Layout, left: float, middle: float, length: float
) -> None:
    """Draw a bar under a picture, where it hides nothing; all lengths in mm."""
    from matplotlib.patches import Rectangle

    across, down = layout.width, layout.height
    figure.add_artist(
        Rectangle(
            (left / across, 1 - (middle + _THICKNESS / 2) / down),
            length / across,
            _THICKNESS / down,
            facecolor="black",
            linewidth=0,
            transform=figure.transFigure,
        )
    )


def draw_scale_bar_inside(
    axes: "Axes", region: Region, place: Box, length: float, label: str, size: float
) -> None:
    """Draw a bar of ``length`` mm on paper in the lower left corner of a picture, on white."""
    from matplotlib.patches import Rectangle

    per_mm, inset = region[2] / place.width, 0.9
    wide = max(length, width_of_text(label, size)) + 2 * inset
    high = _THICKNESS + 1.25 * size * MM_PER_POINT + 1.5 * inset
    x, y, _, height = region

    def at(right: float, up: float) -> tuple[float, float]:
        return x + right * per_mm, y + height - up * per_mm

    for corner, across, down, colour, opacity in (
        (at(0, high), wide, high, "white", 0.85),
        (at((wide - length) / 2, inset + _THICKNESS), length, _THICKNESS, "black", 1.0),
    ):
        axes.add_patch(
            Rectangle(
                corner,
                across * per_mm,
                down * per_mm,
                facecolor=colour,
                alpha=opacity,
                linewidth=0,
            )
        )
    axes.text(*at(wide / 2, inset + _THICKNESS + 0.4), label, size=size, ha="center", va="bottom")


def draw_boxes(
    axes: "Axes", shown: Region, zooms: Sequence[Region], size: float, *, named: bool
) -> None:
    """Mark the zoomed regions in a picture of ``shown``, with their numbers where ``named``."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.2, foreground="white")]
    for number, (x, y, width, height) in enumerate(zooms, start=1):
        axes.add_patch(
            Rectangle(
                (x, y),
                width,
                height,
                fill=False,
                edgecolor=box_colour(number),
                linewidth=1.1,
                path_effects=halo,
            )
        )
        if named:
            room = y - shown[1] > 0.13 * shown[3]
            axes.annotate(
                str(number),
                (x, y if room else y + height),
                xytext=(1, 1.5 if room else -1.5),
                textcoords="offset points",
                size=size,
                weight="bold",
                color=box_colour(number),
                va="bottom" if room else "top",
                path_effects=halo,
            )


def draw_circle(axes: "Axes", centre: tuple[float, float]) -> None:
    """Mark a point, in level-0 pixels, so that it is seen on dark and on bright."""
    for colour, width in (("white", 2.4), ("black", 1.0)):
        axes.plot(
            *centre, marker="o", markersize=6, markerfacecolor="none", markeredgecolor=colour,
            markeredgewidth=width,
        )  # fmt: skip
