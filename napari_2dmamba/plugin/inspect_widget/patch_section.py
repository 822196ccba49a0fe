"""The section *Patch*: the inspected patch at full resolution, with its numbers."""

import math

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import QHBoxLayout, QLabel

from napari_2dmamba.explain.display import format_value
from napari_2dmamba.explain.receptive_field import FieldSize
from napari_2dmamba.plugin.inspect_widget.inspected import PatchNumbers
from napari_2dmamba.plugin.overview import as_qimage
from napari_2dmamba.plugin.section import Section

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
        row = QHBoxLayout()
        row.addWidget(self.picture)
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

    def show_numbers(self, numbers: PatchNumbers, together: int = 1) -> None:
        """Say what is known of the patch, the last of ``together`` inspected ones."""
        row, col = numbers.cell
        percentile = 100 * (1 - (numbers.rank - 0.5) / numbers.count)
        lines = [
            f"<b>Attention {format_value(numbers.attention)}</b>",
            f"rank {numbers.rank} of {numbers.count} (percentile {percentile:.0f})",
            f"x {numbers.corner[0]}, y {numbers.corner[1]} (level 0)",
            f"row {row}, column {col} of the canvas",
        ]
        lines += [f"{name}: {format_value(value)}" for name, value in numbers.values.items()]
        self.numbers.setText("<br>".join(lines))
        self.set_summary(
            f"row {row}, column {col}" + (f" and {together - 1} more" if together > 1 else "")
        )
        words = []
        if numbers.source is not None and numbers.own_share is not None:
            words.append(provenance_words(numbers.own_share, numbers.source))
        if numbers.field is not None and together == 1:
            words.append(field_words(numbers.field))
        self.extent.setText("<br>".join(words))
        self.extent.setVisible(bool(words))


def provenance_words(own: float, source: FieldSize) -> str:
    """Say where a patch's state came from."""
    if math.isnan(own):
        return "<b>Provenance</b>: nothing enters this state."
    return (
        f"<b>Provenance</b>: {own:.0%} of the weight is the patch's own, "
        f"{source.left:.0%} lies further left, {source.above:.0%} further up (a patch may be "
        f"both); {_radii(source)}."
    )


def field_words(size: FieldSize) -> str:
    """Say how far a patch's output can see."""
    words = [f"<b>Receptive field</b>: {_radii(size)}"]
    if math.isinf(size.anisotropy):
        words.append(f"all on one line at {_angle(size.angle)}")
    elif not math.isnan(size.anisotropy):
        words.append(f"{size.anisotropy:.1f} times as long as wide, along {_angle(size.angle)}")
    words.append(f"{size.zero_share:.0%} of the patches cannot be seen from here at all")
    return "; ".join(words) + "."


def _radii(size: FieldSize) -> str:
    return ", ".join(f"{percent} % {_within(r, size.unit)}" for percent, r in size.radii.items())


def _within(radius: float, unit: str) -> str:
    if radius == 0:
        return "on the patch itself"
    if unit == "µm":
        return f"within {radius:,.0f} µm".replace(",", " ")
    return f"within {radius:.1f} {unit}"


def _angle(degrees: float) -> str:
    turned = degrees % 180
    if turned < 22.5 or turned >= 157.5:
        return "the rows"
    if 67.5 <= turned < 112.5:
        return "the columns"
    return "the diagonal to the lower right" if turned < 90 else "the diagonal to the lower left"
