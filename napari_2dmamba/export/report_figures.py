"""Drawings of the report as SVG: slide with scale bar and numbered patches, and colour bars."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from napari_2dmamba.explain.display import DisplaySettings, DisplayTransform, bar_colours
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.frame import scale_bar
from napari_2dmamba.export.raster import Raster

_FONT = "font-family=\"system-ui,'DejaVu Sans',sans-serif\""


@dataclass(frozen=True)
class Mark:
    """A patch with a number: level-0 ``x`` and ``y`` of its top left corner."""

    label: str
    x: int
    y: int


def slide_figure(
    picture: str, raster: Raster, *, marks: Sequence[Mark] = (), patch_size: int = 0
) -> str:
    """Return a picture of a raster with a scale bar below it and numbered patches on it.

    Parameters
    ----------
    picture
        Address of the pixels.
    marks, patch_size
        Patches that are outlined, each with its number nearby, and their side in level-0 pixels.
    """
    width, height = raster.width, raster.height
    letter = max(width, height) / 42
    room = 2.0 * letter
    unit = "px" if raster.slide_mpp is None else "µm"
    length, label = scale_bar(max(width / 4, 20.0), raster.pixel_size, unit)
    middle = height + 0.55 * room
    wide = max(width, length + (len(label) + 1) * letter)
    parts = [
        f'<image href="{picture}" width="{width}" height="{height}"/>',
        f'<rect x="0" y="{middle - letter / 8:.1f}" width="{length}" height="{letter / 4:.1f}"/>',
        f'<text x="{length + letter / 2:.1f}" y="{middle + letter / 3:.1f}" '
        f'font-size="{letter:.1f}" {_FONT}>{escape(label)}</text>',
        *_drawn(marks, patch_size, raster, letter),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {height + room:.0f}" '
        f'role="img" aria-label="slide, scale bar {escape(label)}">{"".join(parts)}</svg>'
    )


def _drawn(marks: Sequence[Mark], size: int, raster: Raster, letter: float) -> list[str]:
    """Outline patches; their numbers stand where they cover neither patch nor one another."""
    step_x, step_y = raster.step
    boxes = [
        (
            (mark.x - raster.region[0]) / step_x, (mark.y - raster.region[1]) / step_y,
            size / step_x, size / step_y,
        )
        for mark in marks
    ]  # fmt: skip
    parts = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="none" '
        f'stroke="#000" stroke-width="{letter / 8:.1f}"/>'
        for x, y, w, h in boxes
    ]
    radius = 0.75 * letter
    taken: list[tuple[float, float]] = []
    for mark, (x, y, w, h) in zip(marks, boxes, strict=True):
        centre = x + w / 2, y + h / 2
        spot = _free_spot(centre, boxes, taken, radius, raster)
        taken.append(spot)
        parts.append(
            f'<line x1="{centre[0]:.1f}" y1="{centre[1]:.1f}" x2="{spot[0]:.1f}" '
            f'y2="{spot[1]:.1f}" stroke="#000" stroke-width="{letter / 14:.1f}"/>'
            f'<circle cx="{spot[0]:.1f}" cy="{spot[1]:.1f}" r="{radius:.1f}" fill="#fff" '
            f'stroke="#000" stroke-width="{letter / 14:.1f}"/>'
            f'<text x="{spot[0]:.1f}" y="{spot[1] + 0.34 * letter:.1f}" font-size="{letter:.1f}" '
            f'font-weight="600" text-anchor="middle" {_FONT}>{escape(mark.label)}</text>'
        )
    return parts


def _free_spot(
    centre: tuple[float, float],
    boxes: Sequence[tuple[float, float, float, float]],
    taken: Sequence[tuple[float, float]],
    radius: float,
    raster: Raster,
) -> tuple[float, float]:
    """Return the nearest place on the picture that covers no patch and no other number."""
    half = max(boxes[0][2:]) / 2
    for ring in range(1, 40):
        reach = half + radius * (0.6 + 0.9 * ring)
        for turn in range(16):
            angle = math.tau * turn / 16 - math.pi / 4
            x, y = centre[0] + reach * math.cos(angle), centre[1] + reach * math.sin(angle)
            on_it = radius <= x <= raster.width - radius and radius <= y <= raster.height - radius
            apart = all(math.dist((x, y), other) > 2.2 * radius for other in taken)
            clear = all(
                abs(x - (left + w / 2)) > w / 2 + radius or abs(y - (top + h / 2)) > h / 2 + radius
                for left, top, w, h in boxes
            )
            if on_it and apart and clear:
                return x, y
    return centre


def colour_bar(grid_map: GridMap, display: DisplaySettings) -> str:
    """Return the colour bar of a map with raw values below it, and how colours follow values."""
    transform = DisplayTransform(grid_map, display)
    held = io.BytesIO()
    Image.fromarray(bar_colours(grid_map, display)[None]).save(held, "PNG")
    address = "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
    left, width, top, thick = 30.0, 540.0, 6.0, 16.0
    parts = [
        f'<image href="{address}" x="{left}" y="{top}" width="{width}" height="{thick}" '
        'preserveAspectRatio="none"/>',
        f'<rect x="{left}" y="{top}" width="{width}" height="{thick}" fill="none" stroke="#555"/>',
    ]
    for tick in transform.ticks(5):
        x = left + width * float(np.clip(tick.position, 0, 1))
        anchor = "start" if x == left else "end" if x == left + width else "middle"
        parts.append(
            f'<line x1="{x:.1f}" y1="{top + thick}" x2="{x:.1f}" y2="{top + thick + 5}" '
            f'stroke="#555"/><text x="{x:.1f}" y="{top + thick + 20}" font-size="14" '
            f'text-anchor="{anchor}" {_FONT}>{escape(tick.label)}</text>'
        )
    words = "no values" if transform.empty else f"colours {transform.caption()}"
    parts.append(
        f'<text x="{left + width / 2}" y="{top + thick + 38}" font-size="13" fill="#5b6472" '
        f'text-anchor="middle" {_FONT}>{escape(words)}</text>'
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 66" role="img" '
        f'aria-label="colour bar">{"".join(parts)}</svg>'
    )
