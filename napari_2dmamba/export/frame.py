"""Colour bar, scale bar and words around a picture."""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from napari_2dmamba.explain.display import DisplaySettings, DisplayTransform, bar_colours
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.models.prediction import SlidePrediction

_BLACK, _GREY, _WHITE = (0, 0, 0), (70, 70, 70), (255, 255, 255)


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return matplotlib's own font: it has µ and superscripts, and is on every machine."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break text into lines no wider than ``width`` pixels; a longer word is cut."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        while font.getlength(word) > width and len(word) > 1:
            fits = next(
                (n for n in range(len(word) - 1, 1, -1) if font.getlength(word[:n]) <= width), 1
            )
            lines.append(word[:fits])
            word = word[fits:]
        lines.append(word)
    return lines


def scale_bar(longest: float, pixel_size: float, unit: str) -> tuple[int, str]:
    """Return length in pixels and label of the longest round scale bar up to ``longest`` px.

    ``pixel_size`` is the side of a pixel in ``unit``; µm become mm where that reads better.
    """
    power = 10.0 ** math.floor(math.log10(longest * pixel_size))
    limit = longest * pixel_size * (1 + 1e-9)
    length = max(n * power for n in (1, 2, 5) if n * power <= limit)
    label = f"{length / 1000:g} mm" if unit == "µm" and length >= 1000 else f"{length:g} {unit}"
    return max(1, round(length / pixel_size)), label


def describe(prediction: SlidePrediction) -> str:
    """Say the prediction in one line, as a title shows it."""
    if prediction.probabilities is not None:
        order = np.argsort(-prediction.probabilities, kind="stable")
        parts = [f"{prediction.class_names[i]} {prediction.probabilities[i]:.1%}" for i in order]
        return "Prediction: " + ", ".join(parts[:4]) + (", …" if len(parts) > 4 else "")
    parts = [] if prediction.risk is None else [f"risk {prediction.risk:.3f}"]
    bins = prediction.survival_by_bin
    if bins:
        last = list(bins)[-1]
        parts.append(f"survival to the end of {last} {bins[last]:.1%}")
    return "Prediction: " + ", ".join(parts)


class Frame:
    """A white frame with title, colour bar, scale bar and the meaning of the colours.

    The size of the letters follows the size of the picture, so that they can be read on a
    screen that shows all of it. The picture itself is not drawn over and not resized.

    Parameters
    ----------
    width, height
        Of the picture inside, in pixels.
    um_per_px
        µm per picture pixel; None gives a scale bar in pixels.
    level0_per_px
        Level-0 pixels per picture pixel, for that scale bar in level-0 pixels.
    grid_map, display
        The map shown; None draws no colour bar.
    title, notes
        Lines above and below the picture.
    """

    def __init__(
        self,
        width: int,
        height: int,
        *,
        pixel_size: float,
        unit: str = "µm",
        grid_map: GridMap | None = None,
        display: DisplaySettings | None = None,
        title: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        self.picture_size = width, height
        self.font_size = max(13, round(max(width, height) / 70))
        self._space = max(6, self.font_size // 2)
        self._scale = scale_bar(max(width / 4, 20.0), pixel_size, unit)
        self._bar = (
            None
            if grid_map is None
            else _draw_colour_bar(grid_map, display or DisplaySettings(), height, self.font_size)
        )
        side = 0 if self._bar is None else self._bar.shape[1]
        self.width = max(width + side, 26 * self.font_size)
        self._body_height = max(height, 0 if self._bar is None else self._bar.shape[0])
        heading = [line for line in title.split("\n") if line]
        self.top = self._lines([(line, index == 0) for index, line in enumerate(heading)])
        words = []
        if grid_map is not None:
            how = DisplayTransform(grid_map, display or DisplaySettings()).caption()
            words.append(f"{grid_map.name}: {grid_map.meaning.rstrip('.')}. Colours {how}.")
        below = self._lines([(line, False) for line in (*words, *notes)])
        self.bottom = np.vstack([self._draw_scale_bar(), below])

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` of picture and frame together."""
        return self.width, len(self.top) + self._body_height + len(self.bottom)

    @property
    def corner(self) -> tuple[int, int]:
        """``(x, y)`` of the picture's top left pixel."""
        return 0, len(self.top)

    def around(self, strips: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """Yield the rows of the framed picture from strips of rows of the picture."""
        if len(self.top):
            yield self.top
        done = 0
        for strip in strips:
            yield self._beside(strip, done)
            done += len(strip)
        if done < self._body_height:
            missing = np.full((self._body_height - done, self.picture_size[0], 3), 255, np.uint8)
            yield self._beside(missing, done)
        yield self.bottom

    def _beside(self, strip: NDArray[np.uint8], start: int) -> NDArray[np.uint8]:
        wide = np.full((len(strip), self.width, 3), 255, dtype=np.uint8)
        wide[:, : strip.shape[1]] = strip
        if self._bar is not None:
            part = self._bar[start : start + len(strip)]
            left = self.picture_size[0]
            wide[: len(part), left : left + part.shape[1]] = part
        return wide

    def _lines(self, lines: list[tuple[str, bool]]) -> NDArray[np.uint8]:
        """Draw wrapped lines of text over the full width."""
        inner = self.width - 2 * self._space
        drawn = [
            (part, bold)
            for text, bold in lines
            for part in _wrap(text, _font(self.font_size, bold), inner)
        ]
        step = round(1.35 * self.font_size)
        height = len(drawn) * step + (self._space if drawn else 0)
        picture = Image.new("RGB", (self.width, height), _WHITE)
        draw = ImageDraw.Draw(picture)
        for row, (text, bold) in enumerate(drawn):
            place = (self._space, self._space // 2 + row * step)
            draw.text(place, text, _BLACK, _font(self.font_size, bold))
        return np.asarray(picture)

    def _draw_scale_bar(self) -> NDArray[np.uint8]:
        length, label = self._scale
        thick = max(3, self.font_size // 4)
        height = round(2.1 * self.font_size)
        picture = Image.new("RGB", (self.width, height), _WHITE)
        draw = ImageDraw.Draw(picture)
        middle = height // 2
        left = self._space
        draw.rectangle((left, middle - thick // 2, left + length - 1, middle + thick // 2), _BLACK)
        place = (left + length + self._space, middle)
        draw.text(place, label, _BLACK, _font(self.font_size), anchor="lm")
        return np.asarray(picture)


def _draw_colour_bar(
    grid_map: GridMap, display: DisplaySettings, height: int, size: int
) -> NDArray[np.uint8]:
    """Draw the upright colour bar with its name above and raw values beside it."""
    transform = DisplayTransform(grid_map, display)
    font = _font(size)
    space = max(6, size // 2)
    top = round(2.2 * size)
    bar = min(max(height - top - size, 6 * size), 24 * size)
    ticks = transform.ticks(5 if bar >= 9 * size else 3)
    named = "no values" if not ticks else ""
    thick = round(1.5 * size)
    labels = max([font.getlength(t.label) for t in ticks] + [font.getlength(named)])
    first, *more = _wrap(grid_map.name, font, 10 * size) or [""]
    heading = first + (" …" if more else "")
    widest = max(thick + space + labels, font.getlength(heading))
    width = 3 * space + math.ceil(widest)
    picture = Image.new("RGB", (width, top + bar + size), _WHITE)
    draw = ImageDraw.Draw(picture)
    draw.text((2 * space, size // 2), heading, _BLACK, font)
    position = 1.0 - (np.arange(bar) + 0.5) / bar
    table = bar_colours(grid_map, display)
    column = table[np.minimum((position * 256).astype(int), 255)]
    stripe = np.repeat(column[:, None], thick, axis=1).astype(np.uint8)
    picture.paste(Image.fromarray(stripe), (2 * space, top))
    draw.rectangle((2 * space - 1, top - 1, 2 * space + thick, top + bar), outline=_GREY)
    for tick in ticks:
        y = top + (1.0 - tick.position) * (bar - 1)
        right = 2 * space + thick
        draw.line((right, y, right + space // 2, y), _GREY, max(1, size // 12))
        draw.text((right + space, y), tick.label, _BLACK, font, anchor="lm")
    if named:
        draw.text((2 * space + thick + space, top), named, _BLACK, font)
    return np.asarray(picture)


def add_bars(
    picture: NDArray[np.uint8],
    *,
    pixel_size: float,
    unit: str = "µm",
    grid_map: GridMap | None = None,
    display: DisplaySettings | None = None,
    title: str = "",
    notes: Sequence[str] = (),
) -> NDArray[np.uint8]:
    """Return an ``(h, w, 3 or 4)`` picture, such as a screenshot, with a `Frame` around it."""
    frame = Frame(
        picture.shape[1],
        picture.shape[0],
        pixel_size=pixel_size,
        unit=unit,
        grid_map=grid_map,
        display=display,
        title=title,
        notes=notes,
    )
    return np.vstack(list(frame.around([picture[..., :3]])))
