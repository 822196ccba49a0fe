"""Where on a slide something is done: all of it, what the window shows, or what is drawn."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QPushButton, QWidget
from shapely import Polygon

from napari_2dmamba.plugin.layers.region_layers import annotations
from napari_2dmamba.plugin.layers.region_words import region_names
from napari_2dmamba.plugin.layers.slide_layer import view_region

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState

TISSUE, ALL, VIEW = "tissue", "all", "view"
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Area:
    """A part of a slide.

    Attributes
    ----------
    kind
        `TISSUE`, `ALL`, `VIEW`, or ``"region"``.
    name
        For the user.
    polygons
        What it covers, in level-0 pixels; None for the whole slide.
    """

    kind: str
    name: str
    polygons: tuple[Polygon, ...] | None = None

    def box(self, dimensions: tuple[int, int]) -> Box | None:
        """Return level-0 ``(x, y, width, height)`` around it, on the slide; None for all."""
        if self.polygons is None:
            return None
        left, top, right, bottom = shapely.union_all(self.polygons).bounds
        x, y = max(0, int(np.floor(left))), max(0, int(np.floor(top)))
        end_x = min(dimensions[0], int(np.ceil(right)))
        end_y = min(dimensions[1], int(np.ceil(bottom)))
        return x, y, max(0, end_x - x), max(0, end_y - y)


class AreaRow(QWidget):
    """Chooses an area, with a button that leads to drawing one.

    Parameters
    ----------
    fixed
        Kinds and names of what is always offered.
    around
        Words before the name of a region, such as ``"Rectangle around "``.

    Signals
    -------
    changed(), drawing_wanted()
    """

    changed = Signal()
    drawing_wanted = Signal()

    def __init__(self, fixed: dict[str, str], around: str = "") -> None:
        super().__init__()
        self._fixed, self._around = fixed, around
        self._drawn: dict[str, tuple[Polygon, ...]] = {}
        self.box = QComboBox()
        self.box.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.box.setMinimumContentsLength(12)
        self.box.currentIndexChanged.connect(lambda _: self.changed.emit())
        self.draw = QPushButton("Draw…")
        self.draw.setToolTip("Draw regions in the widget Regions; they are offered here then")
        self.draw.clicked.connect(self.drawing_wanted)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.box, 1)
        row.addWidget(self.draw)
        self.offer({})

    def offer(self, drawn: dict[str, tuple[Polygon, ...]]) -> None:
        """Offer what is drawn; the choice stays where it still can."""
        kind, name = self.box.currentData() or (None, None)
        self._drawn = drawn
        self.box.blockSignals(True)
        self.box.clear()
        for fixed, title in self._fixed.items():
            self.box.addItem(title, (fixed, title))
        for one in drawn:
            self.box.addItem(f"{self._around}{one}", ("region", one))
        places = [self.box.itemData(i) for i in range(self.box.count())]
        self.box.setCurrentIndex(places.index((kind, name)) if (kind, name) in places else 0)
        self.box.blockSignals(False)
        self.changed.emit()

    def area(self, session: "Session", slide: "SlideState") -> Area:
        """Return what is chosen, on the current slide."""
        kind, name = self.box.currentData()
        if kind == "region":
            return Area(kind, name, self._drawn[name])
        if kind == VIEW:
            x, y, width, height = view_region(session.viewer, slide.unit)
            return Area(kind, name, (shapely.box(x, y, x + width, y + height),))
        return Area(kind, name)


def drawn_areas(session: "Session", slide: "SlideState") -> dict[str, tuple[Polygon, ...]]:
    """Return the areas that are drawn on a slide, by name."""
    regions = [one.region for one in annotations(session, slide)]
    names = region_names(regions)
    return {
        name: region.polygons
        for name, region in zip(names, regions, strict=True)
        if region.polygons
    }
