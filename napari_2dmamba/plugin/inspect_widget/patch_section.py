"""The section *Patch*: the inspected patch at full resolution, with its numbers."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import QHBoxLayout, QLabel

from napari_2dmamba.explain.display import format_value
from napari_2dmamba.explain.mass import LINE_COLOURS, PERCENTS
from napari_2dmamba.explain.patch_numbers import Extent, PatchNumbers
from napari_2dmamba.plugin.parts.pictures import as_qimage
from napari_2dmamba.plugin.parts.section import Section

PICTURE_SIDE = 150
_HINT = "Click a patch on the slide."


class PatchSection(Section):
    """Picture and numbers of the last patch that was clicked."""

    def __init__(self) -> None:
        super().__init__("Patch")
        self.picture = QLabel()
        self.picture.setFixedSize(PICTURE_SIDE, PICTURE_SIDE)
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.picture.setAccessibleName("The inspected patch at full resolution")
        self.numbers = QLabel(_HINT)
        self.numbers.setWordWrap(True)
        self.numbers.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.numbers.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.extent = QLabel()
        self.extent.setWordWrap(True)
        self.extent.setToolTip(
            "Reach: distance from the patch within which 50, 90 and 99 % of the map lie.\n"
            "own: share of it on the patch itself.\n"
            "zero: share of the slide's patches that are out of reach, or hold too small a number."
        )
        row = QHBoxLayout()
        row.addWidget(self.picture, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self.numbers, 1)
        self.body.addLayout(row)
        self.body.addWidget(self.extent)
        self.clear()

    def clear(self) -> None:
        """Show that no patch is inspected."""
        self.picture.setPixmap(QPixmap())
        self.picture.hide()
        self.numbers.setText(_HINT)
        self.extent.hide()
        self.set_summary("")

    def show_picture(self, pixels: NDArray[np.uint8]) -> None:
        """Show the pixels of the patch."""
        ratio = self.devicePixelRatioF()
        side = round(PICTURE_SIDE * ratio)
        pixmap = QPixmap.fromImage(as_qimage(pixels)).scaled(
            side,
            side,
            Qt.AspectRatioMode.KeepAspectRatio,
            Qt.TransformationMode.SmoothTransformation,
        )
        pixmap.setDevicePixelRatio(ratio)
        self.picture.setPixmap(pixmap)
        self.picture.show()

    def show_numbers(
        self, numbers: PatchNumbers, together: int, shown: str, held: Mapping[int, int]
    ) -> None:
        """Say what is known of the patch, the last of ``together`` inspected ones.

        ``shown`` names the map that is looked at; ``held`` says how many patches the lines on
        the slide hold.
        """
        row, col = numbers.cell
        lines = [
            f"<b>Attention {format_value(numbers.attention)}</b>",
            f"rank {numbers.rank} of {numbers.count}",
            f"x {numbers.corner[0]}, y {numbers.corner[1]} (level 0)",
            f"row {row}, column {col}",
        ]
        self.numbers.setText("<br>".join(lines))
        self.set_summary(
            f"row {row}, column {col}" + (f" and {together - 1} more" if together > 1 else "")
        )
        values = [
            f"{name}&nbsp;<b>{format_value(value)}</b>" for name, value in numbers.values.items()
        ]
        parts = [f"Here: {', '.join(values)}."] if values else []
        if numbers.extents:
            parts.append(extents_table(numbers.extents))
        if shown in numbers.extents:
            parts.append(shape_words(numbers.extents[shown]))
        if held:
            parts.append(lines_words(held))
        self.extent.setText("".join(f"<p style='margin: 3px 0'>{part}</p>" for part in parts))
        self.extent.setVisible(any(parts))


def extents_table(extents: Mapping[str, Extent]) -> str:
    """Return how far maps reach as a table: distances that hold 50, 90 and 99 % of each."""
    unit = next(iter(extents.values())).size.unit
    rows = [_row(f"Reach [{unit}]", [*(f"{p} %" for p in PERCENTS), "own", "zero"], "{}")]
    for one in extents.values():
        cells = [_distance(radius) for radius in one.size.radii.values()]
        rows.append(
            _row(
                one.title, [*cells, _share(one.own_share), _share(one.size.zero_share)], "<b>{}</b>"
            )
        )
    return f"<table cellspacing='0'>{''.join(rows)}</table>"


def _row(title: str, cells: Sequence[str], look: str) -> str:
    made = "".join(
        f"<td align='right' style='padding-left: 9px'>{look.format(cell)}</td>" for cell in cells
    )
    return f"<tr><td>{title}</td>{made}</tr>"


def shape_words(one: Extent) -> str:
    """Say which form a map of a patch has."""
    size = one.size
    if math.isnan(one.own_share):
        return f"<b>{one.title}</b>: nothing at all."
    words = []
    if math.isinf(size.anisotropy):
        words.append(f"all along {_angle(size.angle)}")
    elif not math.isnan(size.anisotropy):
        words.append(f"{size.anisotropy:.1f} times as long along {_angle(size.angle)} as across")
    sides = {"left": size.left, "right": size.right, "above": size.above, "below": size.below}
    words += [f"{share:.0%} {side}" for side, share in sides.items() if share >= 0.005]
    return f"<b>{one.title}</b>: {', '.join(words) or 'all on the patch itself'}."


def lines_words(held: Mapping[int, int]) -> str:
    """Say what the lines on the slide hold, in their colours."""
    parts = []
    for percent, count in held.items():
        colour = "#{:02x}{:02x}{:02x}".format(*LINE_COLOURS[percent])
        parts.append(f"<span style='color: {colour}'>\u25a0</span> {percent} % in {count}")
    return f"Lines on the slide: {', '.join(parts)} patches."


def _distance(radius: float) -> str:
    if math.isnan(radius):
        return "\u2013"
    whole = radius >= 10 or radius == 0
    return f"{radius:,.0f}".replace(",", "\u202f") if whole else f"{radius:.1f}"


def _share(share: float) -> str:
    return "\u2013" if math.isnan(share) else f"{share:.0%}"


def _angle(degrees: float) -> str:
    turned = degrees % 180
    if turned < 22.5 or turned >= 157.5:
        return "the rows"
    if 67.5 <= turned < 112.5:
        return "the columns"
    return "the diagonal to the lower right" if turned < 90 else "the diagonal to the lower left"
