"""One figure for a paper: the slide, every map, what each model answers, zoomed regions."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.compare.comparison import Comparison
from napari_2dmamba.compare.figure_colours import Colouring, colourings
from napari_2dmamba.compare.figure_layout import (
    BAR_THICKNESS,
    MARGIN,
    MM_PER_POINT,
    Box,
    Layout,
    Words,
    bar_room,
    lay_out,
)
from napari_2dmamba.compare.figure_marks import (
    Region,
    box_colour,
    draw_boxes,
    draw_circle,
    draw_scale_bar_below,
    draw_scale_bar_inside,
)
from napari_2dmamba.compare.figure_text import panel_letters, shortened, width_of_text, wrapped
from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import (
    DisplaySettings,
    Tick,
    colour_indices,
)
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.frame import scale_bar
from napari_2dmamba.export.raster import MapPainter, Raster, SlidePainter
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.settings import setting, validate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from napari_2dmamba.slide import Slide

MOST_PIXELS = 60e6
"""Of all pictures in a figure: two columns and a page at 600 dots per inch have 24 million."""

KINDS = (".pdf", ".svg", ".png")

Rectangle = tuple[float, float, float, float]
"""``(x, y, width, height)`` from the corner of level 0, in µm; in level-0 pixels on a slide that
states no µm per pixel."""


@dataclass(frozen=True)
class FigureSettings:
    """How the figure of a comparison looks."""

    width: float = setting(
        180.0, "Width of the figure; 180 mm is two columns of most journals.", unit="mm",
        minimum=60.0, maximum=500.0,
    )  # fmt: skip
    columns: int | None = setting(
        None, "Panels side by side; left empty, as many as make them largest.", minimum=1,
        maximum=12,
    )  # fmt: skip
    font_size: float = setting(
        7.0, "Size of the words.", label="Letters", unit="pt", minimum=4.0, maximum=24.0
    )
    dpi: int = setting(
        300, "Resolution of slide and maps; words and lines stay sharp at any.",
        label="Resolution", unit="dots per inch", minimum=50, maximum=1200,
    )  # fmt: skip
    shared_range: bool = setting(
        True, "One colour bar for all maps; otherwise each has its own.", label="Same colours"
    )
    grey_slide: bool = setting(
        True,
        "Show the slide grey under the maps, so that its own colours do not mix with theirs.",
    )
    opacity: float = setting(0.65, "How much a map covers the slide.", minimum=0.0, maximum=1.0)
    crop: bool = setting(True, "Show the tissue that was analysed, not the whole slide.")
    letters: bool = setting(True, "Letter the panels A, B, C.", label="Panel letters")
    predictions: bool = setting(True, "Write what the model answers under its map.")


@dataclass(frozen=True)
class FigurePanel:
    """A map with its words."""

    title: str
    grid_map: GridMap
    below: str


def write_figure(
    comparison: Comparison,
    slide: "Slide",
    paths: Sequence[str | os.PathLike[str]],
    settings: FigureSettings | None = None,
    *,
    display: DisplaySettings | None = None,
    zooms: Sequence[Rectangle] = (),
    more: Sequence[GridMap] = (),
) -> list[Path]:
    """Draw a comparison and write it as PDF, SVG or PNG, one file for each path.

    PDF and SVG hold words and lines as such, editable in a drawing program; slide and maps are
    pictures in them.

    Parameters
    ----------
    comparison, slide
        What is shown.
    paths
        Files; the suffix of each chooses its format.
    settings, display
        How; defaults when absent. The opacity is that of the settings.
    zooms
        Regions marked in every panel and shown enlarged from the slide in a row of their own.
    more
        Further maps, such as differences, after those of the comparison.

    Raises
    ------
    ExportError
        For another suffix, a zoomed region off the slide, a figure of too many pixels, or when a
        file cannot be written.
    """
    settings, display = settings or FigureSettings(), display or DisplaySettings()
    validate(settings)
    validate(display)
    files = [Path(path) for path in paths]
    for file in files:
        if file.suffix.lower() not in KINDS:
            raise ExportError(f"{file.name} is no figure this program writes; use .pdf, .svg, .png")
    import matplotlib

    with matplotlib.rc_context(
        {
            "pdf.fonttype": 42,
            "svg.fonttype": "none",
            "svg.hashsalt": "napari-2dmamba",
            "font.family": ["DejaVu Sans"],
            "axes.linewidth": 0.5,
            "text.parse_math": False,  # names of models and classes may hold dollars
        }
    ):
        figure = _Drawing(comparison, slide, settings, display, zooms, more).figure
        for file in files:
            kind = file.suffix.lower().removeprefix(".")
            undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind, {})
            with atomic_write(file) as part:
                figure.savefig(part, format=kind, dpi=settings.dpi, metadata=undated)
    return files


def answer_in_words(prediction: SlidePrediction) -> str:
    """Say what a model answers in as few words as a panel has room for."""
    if prediction.probabilities is None:
        return "" if prediction.risk is None else f"risk {prediction.risk:.2f}".replace("-", "−")
    probability = float(prediction.probabilities[prediction.top_class])
    shown = ">99.9" if probability > 0.9995 else f"{100 * probability:.1f}"
    return f"{prediction.class_names[prediction.top_class]} {shown} %"


class _Drawing:
    """The figure while it is drawn."""

    def __init__(
        self,
        comparison: Comparison,
        slide: "Slide",
        settings: FigureSettings,
        display: DisplaySettings,
        zooms: Sequence[Rectangle],
        more: Sequence[GridMap],
    ) -> None:
        from matplotlib.figure import Figure

        self.slide, self.settings = slide, settings
        self.unit = slide.mpp or 1.0
        self.panels = [
            FigurePanel(
                entry.title,
                entry.grid_map,
                answer_in_words(entry.prediction) if settings.predictions else "",
            )
            for entry in comparison.entries
        ] + [FigurePanel(one.name, one, "") for one in more]
        self.zooms = [self._level0(zoom) for zoom in zooms]
        self.region = self._region(comparison.entries[0].grid_map)
        self.colours = colourings(
            [panel.grid_map for panel in self.panels], display, shared=settings.shared_range
        )
        self.kinds = list(dict.fromkeys(colouring.kind for colouring in self.colours))
        self.notes = list(
            dict.fromkeys(e.header.intended_use for e in comparison.runs if e.header.intended_use)
        )
        if not settings.shared_range:
            hows = dict.fromkeys(colouring.transform.caption() for colouring in self.colours)
            self.notes.insert(0, f"Colour bars: the values of each map, colours {'; '.join(hows)}.")
        if any(panel.grid_map.queries for panel in self.panels):
            self.notes.insert(0, "Circle: the patch that maps of one patch are about.")
        self.line = settings.font_size * MM_PER_POINT * 1.3
        self.layout = self._lay_out()
        self._refuse_too_large()
        self.figure: Figure = Figure(
            figsize=(self.layout.width / 25.4, self.layout.height / 25.4), facecolor="white"
        )
        self._draw()

    def _level0(self, zoom: Rectangle) -> Region:
        """Return a zoomed region in level-0 pixels."""
        x, y, width, height = (round(value / self.unit) for value in zoom)
        across, down = self.slide.dimensions
        if width < 1 or height < 1 or x < 0 or y < 0 or x + width > across or y + height > down:
            unit = "µm" if self.slide.mpp else "level-0 px"
            raise ExportError(
                f"the zoomed region x {zoom[0]:g}, y {zoom[1]:g}, {zoom[2]:g} x {zoom[3]:g} {unit} "
                f"does not lie on {self.slide.name}, which is {across * self.unit:.0f} x "
                f"{down * self.unit:.0f} {unit}; choose one inside"
            )
        return x, y, width, height

    def _region(self, placed: GridMap) -> Region:
        """Return what the panels show, in level-0 pixels: the maps and a rim, or everything."""
        across, down = self.slide.dimensions
        if not self.settings.crop:
            return 0, 0, across, down
        side, (x, y) = placed.patch_size_level0, placed.origin
        rows, cols = placed.values.shape
        rim = max(side, round(0.02 * side * max(rows, cols)))
        left, top = max(x - rim, 0), max(y - rim, 0)
        right, bottom = min(x + cols * side + rim, across), min(y + rows * side + rim, down)
        for zx, zy, zw, zh in self.zooms:  # a box that is shown enlarged is shown in its place
            left, top = min(left, zx), min(top, zy)
            right, bottom = max(right, zx + zw), max(bottom, zy + zh)
        return left, top, right - left, bottom - top

    def _lay_out(self) -> Layout:
        aspect = self.region[3] / self.region[2]
        zooms = [width / height for _, _, width, height in self.zooms]
        shared = self.settings.shared_range
        above = self.line * 1.35
        below = self.line * 1.15 + 0.5  # answers, and the scale bar of the slide
        room = bar_room(self.settings.width, len(self.kinds))
        self.bar_labels = {
            colouring.kind: wrapped(colouring.label, room, self.settings.font_size)
            for colouring in self.colours
        }
        lines = max(len(label) for label in self.bar_labels.values())
        own_bar = 0.0 if shared else BAR_THICKNESS + self.line * 1.2 + 1.5

        def made(foot: int) -> Layout:
            words = Words(
                above,
                below + own_bar,
                (1.4 + lines) * self.line + 1.0,
                foot * self.line * 0.85 + bool(foot),
            )
            return lay_out(
                self.settings.width, len(self.panels) + 1, aspect, zooms,
                len(self.kinds) if shared else 0, words, self.settings.columns,
            )  # fmt: skip

        self.foot = [
            line
            for note in self.notes
            for line in wrapped(
                note, self.settings.width - 2 * MARGIN, 0.8 * self.settings.font_size
            )
        ]
        return made(len(self.foot))

    def _refuse_too_large(self) -> None:
        places = (*self.layout.panels, *self.layout.zooms)
        area = sum(place.width * place.height for place in places)
        dpi = self.settings.dpi
        if area * (dpi / 25.4) ** 2 > MOST_PIXELS:
            fits = math.floor(25.4 * math.sqrt(MOST_PIXELS / area))
            raise ExportError(
                f"at {dpi} dots per inch the figure would have more than the "
                f"{MOST_PIXELS / 1e6:.0f} million pixels that are drawn; choose {fits} or fewer"
            )

    # drawing

    def _draw(self) -> None:
        settings, first = self.settings, self.layout.panels[0]
        picture = self._pixels(self.region, first)
        letters = iter(panel_letters())
        axes = self._picture(first, picture, self.region)
        self._title(first, next(letters), "Slide")
        long, label = self._scale(self.region, first)
        middle = first.top + first.height + 0.5 + 0.42 * self.line
        draw_scale_bar_below(self.figure, self.layout, first.left, middle, long)
        self._text(first.left + long + 1.2, middle, label, va="center_baseline")
        draw_boxes(axes, self.region, self.zooms, settings.font_size, named=True)
        base = picture
        if settings.grey_slide:
            grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
            base = np.repeat(np.rint(grey)[..., None], 3, axis=2).astype(np.uint8)
        self.ground = self._colour_of_tissue(base)
        for panel, place, colouring in zip(
            self.panels, self.layout.panels[1:], self.colours, strict=True
        ):
            axes = self._picture(place, self._painted(base, panel.grid_map, colouring), self.region)
            draw_boxes(axes, self.region, self.zooms, settings.font_size, named=False)
            for x, y in panel.grid_map.queries:
                half = panel.grid_map.patch_size_level0 / 2
                draw_circle(axes, (x + half, y + half))
            self._title(place, next(letters), panel.title)
            middle, top = place.left + place.width / 2, place.top + place.height + 0.5
            if not settings.shared_range:
                bar = Box(place.left + 0.1 * place.width, top + 0.7, 0.8 * place.width,
                          BAR_THICKNESS)  # fmt: skip
                self._colour_bar(bar, colouring.colours, colouring.transform.ticks(2))
                top += BAR_THICKNESS + self.line * 1.2 + 1.0
            self._text(middle, top, shortened(panel.below, place.width, settings.font_size),
                       ha="center", va="top")  # fmt: skip
        for number, (place, region) in enumerate(
            zip(self.layout.zooms, self.zooms, strict=True), start=1
        ):
            axes = self._picture(place, self._pixels(region, place), region)
            colour = box_colour(number)
            for spine in axes.spines.values():
                spine.set(edgecolor=colour, linewidth=1.4)
            self._title(place, next(letters), f"Region {number}", colour)
            draw_scale_bar_inside(
                axes, region, place, *self._scale(region, place), 0.9 * settings.font_size
            )
        if settings.shared_range:
            for place, kind in zip(self.layout.bars, self.kinds, strict=True):
                found = next(colouring for colouring in self.colours if colouring.kind == kind)
                self._colour_bar(
                    place, found.colours, found.ticks, "\n".join(self.bar_labels[kind])
                )
        for number, line in enumerate(self.foot):
            self._text(MARGIN, self.layout.foot + 1.0 + number * self.line * 0.85, line,
                       va="top", size=0.8 * settings.font_size, color="0.35")  # fmt: skip

    def _colour_of_tissue(self, base: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the median colour ``(3,)`` of the slide where the maps are."""
        raster = self._raster(self.region, self.layout.panels[0])
        placed = self.panels[0].grid_map
        under = MapPainter(placed, raster).sample(
            np.isfinite(placed.values), (0, 0, raster.width, raster.height), np.False_
        )
        return np.median(base[under], axis=0) if under.any() else np.full(3, 255.0)

    def _axes(self, place: Box) -> "Axes":
        whole = self.layout
        return self.figure.add_axes(
            (
                place.left / whole.width,
                1 - (place.top + place.height) / whole.height,
                place.width / whole.width,
                place.height / whole.height,
            )
        )

    def _picture(self, place: Box, pixels: NDArray[np.uint8], region: Region) -> "Axes":
        """Show pixels of a region of level 0, with its pixels as coordinates."""
        x, y, width, height = region
        axes = self._axes(place)
        axes.imshow(
            pixels, extent=(x, x + width, y + height, y), interpolation="none", aspect="auto"
        )
        axes.set(xlim=(x, x + width), ylim=(y + height, y), xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(edgecolor="0.6", linewidth=0.5)
        return axes

    def _raster(self, region: Region, place: Box) -> Raster:
        width, height = (
            max(1, round(length / 25.4 * self.settings.dpi))
            for length in (place.width, place.height)
        )
        return Raster(region, width, height, self.slide.mpp)

    def _pixels(self, region: Region, place: Box) -> NDArray[np.uint8]:
        raster = self._raster(region, place)
        return SlidePainter(self.slide, raster)((0, 0, raster.width, raster.height))

    def _painted(
        self, base: NDArray[np.uint8], grid_map: GridMap, colouring: Colouring
    ) -> NDArray[np.uint8]:
        """Return the map over the slide."""
        raster = self._raster(self.region, self.layout.panels[0])
        painter, box = MapPainter(grid_map, raster), (0, 0, raster.width, raster.height)
        positions = colouring.transform(grid_map.values)
        indices = colour_indices(positions)
        covers = self.settings.opacity * colouring.colours[indices, 3]
        covers = np.where(np.isnan(positions), np.float32(0), covers).astype(np.float32)
        alpha = painter.sample(covers, box, np.float32(0))[..., None]
        colours = 255 * colouring.colours[painter.sample(indices, box, np.uint8(0)), :3]
        return np.rint(base + alpha * (colours - base)).astype(np.uint8)

    def _colour_bar(
        self, place: Box, colours: NDArray[np.float32], ticks: Sequence[Tick], label: str = ""
    ) -> None:
        axes = self._axes(place)
        # as the colours look over tissue, for only so can they be read off
        covers = self.settings.opacity * colours[:, 3:]
        shown = self.ground + covers * (255 * colours[:, :3] - self.ground)
        axes.imshow(np.rint(shown).astype(np.uint8)[None], extent=(0, 1, 0, 1), aspect="auto")
        axes.set(yticks=[], xlim=(0, 1))
        labels = [tick.label.replace("-", "−") for tick in ticks]
        axes.set_xticks([tick.position for tick in ticks], labels)
        size = self.settings.font_size
        axes.tick_params(labelsize=0.9 * size, length=1.5, width=0.5, pad=1.5)
        marks = axes.get_xticklabels()
        if not label and len(marks) > 1:  # at the ends of a short bar words grow inwards
            marks[0].set_horizontalalignment("left")
            marks[-1].set_horizontalalignment("right")
        if label:
            axes.set_xlabel(label, fontsize=size, labelpad=1.5)

    def _title(self, place: Box, letter: str, title: str, colour: str = "black") -> None:
        size = self.settings.font_size
        left, base = place.left, place.top - 0.25 * self.line
        if self.settings.letters:
            self._text(left, base, letter, size=1.25 * size, weight="bold", va="baseline")
            left += width_of_text(letter, 1.25 * size, bold=True) + 0.35 * self.line
        room = place.left + place.width - left
        self._text(left, base, shortened(title, room, size), va="baseline", color=colour)

    def _text(self, x: float, y: float, text: str, **how: Any) -> None:
        """Write at a place in mm."""
        how = {"size": self.settings.font_size, **how}
        self.figure.text(x / self.layout.width, 1 - y / self.layout.height, text, **how)

    def _scale(self, region: Region, place: Box) -> tuple[float, str]:
        """Return length in mm on paper and label of a scale bar of round length."""
        unit = "µm" if self.slide.mpp else "px"
        per_mm = region[2] * self.unit / place.width
        # in thousandths of a mm, for the length comes as a whole number
        length, label = scale_bar(0.3 * place.width * 1000, per_mm / 1000, unit)
        return length / 1000, label
