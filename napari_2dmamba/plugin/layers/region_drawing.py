"""Drawing one region or note with the mouse; then the mouse moves the slide again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref

from napari.layers import Points, Shapes
from napari.layers.base import ActionType
from qtpy.QtCore import QObject, QTimer, Signal

from napari_2dmamba.plugin.layers.region_layers import (
    ROLE_COLOURS,
    ensure_points_layer,
    ensure_region_layer,
)
from napari_2dmamba.plugin.layers.region_words import Colour, hex_of
from napari_2dmamba.slide.regions import Role

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState


@dataclass(frozen=True)
class Tool:
    """A way to draw.

    Attributes
    ----------
    name, mode
        For the user, and for napari.
    how
        How it is used.
    """

    name: str
    mode: str
    how: str


POLYGON = Tool(
    "Polygon", "add_polygon", "Click the corners; a double click or Enter ends it, Esc cancels."
)
RECTANGLE = Tool("Rectangle", "add_rectangle", "Drag from one corner to the other; Esc cancels.")
BRUSH = Tool(
    "Brush",
    "add_polygon_lasso",
    "Drag around the area with the button held; it closes when you let go. Esc cancels.",
)
POINT = Tool("Point", "add", "Click the place; Esc cancels.")
RULER = Tool("Measure", "add_line", "Drag from one end to the other; Esc cancels.")
TOOLS = (POLYGON, RECTANGLE, BRUSH, POINT, RULER)


class Drawing(QObject):
    """Draws one shape at a time on the current slide.

    Signals
    -------
    began(how)
        A tool is in hand.
    drawn(layer)
        The last shape or point of a layer was drawn.
    ended()
        The tool was used, or put away.
    """

    began = Signal(str)
    drawn = Signal(object)
    ended = Signal()

    def __init__(self, session: "Session", parent: QObject) -> None:
        super().__init__(parent)
        self._session = session
        self._layer: Any = lambda: None
        self._count = 0

    def start(
        self,
        slide: "SlideState",
        tool: Tool,
        role: Role,
        classification: str = "",
        colour: Colour | None = None,
    ) -> None:
        """Take a tool; points and lines are always notes."""
        self.cancel()
        layer: Shapes | Points
        if tool is POINT:
            layer = ensure_points_layer(self._session, slide)
        else:
            layer = ensure_region_layer(self._session, slide, "note" if tool is RULER else role)
        ink = hex_of(colour) or ROLE_COLOURS["note" if tool in (POINT, RULER) else role]
        count = len(layer.data)
        layer.selected_data = set()
        if len(layer.features) > count:  # a shape that was given up leaves its row
            layer.features = layer.features.iloc[:count]
        layer.feature_defaults = {
            "name": "", "classification": classification, "colour": hex_of(colour),
            "group": "", "label": "",
        }  # fmt: skip
        if isinstance(layer, Points):
            layer.current_face_color = ink
        else:
            layer.current_edge_color = ink
        for other in self._session.layers_of(slide):  # one pen at a time
            if isinstance(other, Shapes | Points) and other is not layer:
                other.mode = "pan_zoom"
        layer.visible = True
        self._session.viewer.layers.selection.active = layer
        layer.mode = tool.mode
        layer.bind_key("Escape", lambda _: self.cancel(), overwrite=True)
        layer.events.data.connect(self._on_data)
        layer.events.mode.connect(self._on_mode)
        self._layer, self._count = ref(layer), count
        self.began.emit(tool.how)

    @property
    def is_on(self) -> bool:
        """Whether a tool is in hand."""
        return self._layer() is not None

    def cancel(self) -> None:
        """Put the tool away, and give up what is half drawn."""
        layer, count = self._layer(), self._count
        if layer is None:
            return
        self._let_go(layer)
        with layer.events.data.blocker():  # a shape that is given up was never there
            layer.mode = "pan_zoom"
            extra = range(count, len(layer.data))
            if len(extra) and isinstance(layer, Shapes):
                layer.remove(list(extra))
        self.ended.emit()

    def _on_data(self, event: Any) -> None:
        if event.action == ActionType.ADDED:
            QTimer.singleShot(0, self._finish)  # napari has not put its pen away yet

    def _on_mode(self, event: Any) -> None:
        layer = self._layer()
        if layer is not None and layer.mode in ("pan_zoom", "select", "direct", "transform"):
            self._let_go(layer)
            self.ended.emit()

    def _finish(self) -> None:
        layer = self._layer()
        if layer is None:
            return
        self._let_go(layer)
        layer.mode = "pan_zoom"
        layer.selected_data = set()
        self.ended.emit()
        if len(layer.data) > self._count:
            self.drawn.emit(layer)

    def _let_go(self, layer: Shapes | Points) -> None:
        self._layer = lambda: None
        layer.events.data.disconnect(self._on_data)
        layer.events.mode.disconnect(self._on_mode)
        layer.bind_key("Escape", None, overwrite=True)
