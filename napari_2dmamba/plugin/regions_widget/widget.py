"""The widget *Regions*: tools to draw with, and the list of what is drawn."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QShortcut,
    QVBoxLayout,
)

from napari_2dmamba.errors import UserError
from napari_2dmamba.explain.map_regions import MapThreshold, regions_above
from napari_2dmamba.export.geojson import class_colour
from napari_2dmamba.plugin.layers.region_drawing import TOOLS, Drawing, Tool
from napari_2dmamba.plugin.layers.region_history import RegionHistory
from napari_2dmamba.plugin.layers.region_layers import (
    ROLES,
    Annotation,
    annotations,
    import_regions,
    replace_regions,
    show_regions,
)
from napari_2dmamba.plugin.layers.region_words import Colour
from napari_2dmamba.plugin.layers.weak_callback import weak_callback
from napari_2dmamba.plugin.parts.docked import DockedWidget
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.regions_widget.edit_form import CLASS_COLOURS, EditForm
from napari_2dmamba.plugin.regions_widget.region_table import ROLE_WORDS, RegionTable
from napari_2dmamba.plugin.regions_widget.threshold_section import ThresholdSection
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.slide import Regions, write_regions
from napari_2dmamba.slide.regions import Role

if TYPE_CHECKING:
    from napari.viewer import Viewer

_HINT = "Choose a tool, then draw on the slide."
_VIEW_SHARE = 0.6  # of the canvas, when the view goes to a region
_SMALLEST_VIEW = 64  # level-0 pixels, as a point has no size


class RegionsWidget(DockedWidget):
    """Draw, list, change and save the regions of the current slide.

    Parameters
    ----------
    napari_viewer
        The viewer whose current slide is drawn on.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        super().__init__()
        self.session = Session.of(napari_viewer)
        self.history = RegionHistory.of(self.session)
        self.drawing = Drawing(self.session, self)
        self._found: list[Annotation] = []
        self._shown: SlideState | None = None
        self.tools: dict[str, QPushButton] = {}
        self.role = QComboBox()
        for role in ROLES:
            self.role.addItem(ROLE_WORDS[role], role)
        self.role.setToolTip("What the next area that you draw does to a run")
        self.hint = QLabel(_HINT)
        self.hint.setWordWrap(True)
        self.table = RegionTable()
        self.form = EditForm()
        self.threshold = ThresholdSection()
        self.message = Message()
        self.undo, self.redo = QPushButton("Undo"), QPushButton("Redo")
        self.bring, self.export = QPushButton("Import…"), QPushButton("Export…")
        self._arrange()
        self._connect()
        self._follow_current(self.session.current)

    def let_go(self) -> None:
        """Disconnect from the viewer, and put the tool away."""
        self.drawing.cancel()
        super().let_go()

    def _arrange(self) -> None:
        first = QHBoxLayout()
        for tool in TOOLS:
            button = QPushButton(tool.name)
            button.setCheckable(True)
            button.setMinimumWidth(20)
            button.setToolTip(tool.how)
            button.clicked.connect(lambda _, one=tool: self._take(one))
            self.tools[tool.name] = button
            first.addWidget(button)
        second = QHBoxLayout()
        second.addWidget(QLabel("Draw as"))
        second.addWidget(self.role, 1)
        self.undo.setToolTip("Take the last change back (Ctrl+Z)")
        self.redo.setToolTip("Make it again (Ctrl+Shift+Z)")
        self.bring.setToolTip("Add the annotations of a GeoJSON file, as QuPath exports them")
        self.export.setToolTip("Save all as GeoJSON with names, classes and colours, for QuPath")
        for button in (self.undo, self.redo):
            second.addWidget(button)
        files = QHBoxLayout()
        for button in (self.bring, self.export):
            files.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 6)
        layout.addLayout(first)
        layout.addLayout(second)
        layout.addWidget(self.hint)
        layout.addWidget(self.message)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.form)
        layout.addLayout(files)
        layout.addWidget(self.threshold)

    def _connect(self) -> None:
        self.drawing.began.connect(self._say_how)
        self.drawing.ended.connect(self._put_away)
        self.drawing.drawn.connect(self._choose_drawn)
        self.table.zoom_wanted.connect(self.zoom_to)
        self.table.itemSelectionChanged.connect(self._show_chosen)
        self.form.changed.connect(self._change)
        self.form.delete_wanted.connect(self.delete)
        self.threshold.wanted.connect(self._make_regions)
        self.undo.clicked.connect(self.take_back)
        self.redo.clicked.connect(self.make_again)
        self.bring.clicked.connect(self._browse_import)
        self.export.clicked.connect(self._browse_export)
        delete = QShortcut(QKeySequence(Qt.Key.Key_Delete), self.table)
        delete.setContext(Qt.ShortcutContext.WidgetShortcut)
        delete.activated.connect(self.delete)
        rename = QShortcut(QKeySequence(Qt.Key.Key_F2), self.table)
        rename.setContext(Qt.ShortcutContext.WidgetShortcut)
        rename.activated.connect(self.form.name.setFocus)
        for keys, method in (
            ("Ctrl+Z", self.take_back),
            ("Ctrl+Shift+Z", self.make_again),
            ("Escape", self.drawing.cancel),
        ):
            shortcut = QShortcut(QKeySequence(keys), self)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(method)
        viewer = self.session.viewer
        viewer.bind_key("Control-Z", weak_callback(self._undo_key), overwrite=True)
        viewer.bind_key("Control-Shift-Z", weak_callback(self._redo_key), overwrite=True)
        events = self.session.events
        self.listen(events.current, self._follow_current)
        self.listen(events.regions, self._follow_regions)
        self.listen(events.mpp, self._follow_regions)
        self.listen(events.maps, self._follow_maps)

    # -- the widget follows the session -------------------------------------------------------

    def _follow_current(self, slide: SlideState | None) -> None:
        if slide is not self._shown:
            self.drawing.cancel()
            self.message.clear()
            self._shown = slide
        for part in (*self.tools.values(), self.bring, self.role):
            part.setEnabled(slide is not None)
        self._list()
        self._follow_maps(slide)

    def _follow_regions(self, slide: SlideState) -> None:
        if slide in self.session.slides:
            drawn = annotations(self.session, slide)
            self.history.note(slide, Regions(tuple(one.region for one in drawn)))
        if slide is self.session.current:
            self._list()

    def _follow_maps(self, slide: SlideState | None) -> None:
        if slide is self.session.current:
            self.threshold.set_maps(() if slide is None else self.session.runs.maps_of(slide))

    def _list(self) -> None:
        slide = self.session.current
        self._found = [] if slide is None else annotations(self.session, slide)
        self.table.show_annotations(self._found, None if slide is None else slide.slide.mpp)
        self._show_chosen()
        self.export.setEnabled(bool(self._found))
        self.undo.setEnabled(slide is not None and self.history.can_undo(slide))
        self.redo.setEnabled(slide is not None and self.history.can_redo(slide))

    def _show_chosen(self) -> None:
        chosen = self.table.chosen()
        self.form.show_regions([self._found[row].region for row in chosen])

    # -- drawing --------------------------------------------------------------------------------

    def _take(self, tool: Tool) -> None:
        slide = self.session.current
        button = self.tools[tool.name]
        if slide is None or not button.isChecked():
            self.drawing.cancel()
            return
        self.message.clear()
        self.drawing.start(slide, tool, self.role.currentData())
        button.setChecked(True)

    def _say_how(self, how: str) -> None:
        self.hint.setText(f"<b>{how}</b>")

    def _put_away(self) -> None:
        self.hint.setText(_HINT)
        for button in self.tools.values():
            button.setChecked(False)
        slide = self.session.current
        if slide is not None:
            self._follow_regions(slide)

    def _choose_drawn(self, layer: object) -> None:
        """Select what was drawn last, so that it can be named."""
        places = [row for row, one in enumerate(self._found) if one.layer is layer]
        self.table.choose(places[-1:])

    # -- changes --------------------------------------------------------------------------------

    def _change(self, fields: dict[str, Any]) -> None:
        """Give the selected regions another name, class, role or colour."""
        slide, chosen = self.session.current, self.table.chosen()
        if slide is None or not chosen:
            return
        if "classification" in fields:
            fields = {**fields, "colour": self._colour_of(fields["classification"])}
        regions = [one.region for one in self._found]
        for row in chosen:
            regions[row] = replace(regions[row], **fields)
        places = _order(regions)
        self._set(slide, [regions[row] for row in places])
        self.table.choose([places.index(row) for row in chosen])

    def delete(self) -> None:
        """Delete the selected regions."""
        slide, chosen = self.session.current, set(self.table.chosen())
        if slide is not None and chosen:
            left = [one.region for row, one in enumerate(self._found) if row not in chosen]
            self._set(slide, left)

    def _set(self, slide: SlideState, regions: list[Any]) -> None:
        self.drawing.cancel()
        with self.history.one_step():
            replace_regions(self.session, slide, Regions(tuple(regions)))
        self._follow_regions(slide)

    def _colour_of(self, class_name: str) -> Colour | None:
        """Return the colour that a class has here already, or in a new QuPath project."""
        for one in self._found:
            if one.region.classification == class_name and one.region.colour is not None:
                return one.region.colour
        return CLASS_COLOURS.get(class_name)

    def take_back(self) -> None:
        """Undo the last change on the current slide."""
        self.drawing.cancel()
        if self.session.current is not None:
            self.history.undo(self.session, self.session.current)

    def make_again(self) -> None:
        """Redo what was undone last."""
        self.drawing.cancel()
        if self.session.current is not None:
            self.history.redo(self.session, self.session.current)

    def _undo_key(self, viewer: object) -> None:
        self.take_back()

    def _redo_key(self, viewer: object) -> None:
        self.make_again()

    def zoom_to(self, row: int) -> None:
        """Show a region so that it fills most of the canvas."""
        slide = self.session.current
        if slide is None or row >= len(self._found):
            return
        left, top, right, bottom = self._found[row].region.geometry.bounds
        camera, canvas = self.session.viewer.scene.camera, self.session.viewer.canvas
        height, width = canvas.size
        room = min(
            width / max(right - left, _SMALLEST_VIEW), height / max(bottom - top, _SMALLEST_VIEW)
        )
        camera.zoom = _VIEW_SHARE * room / slide.unit
        middle = ((top + bottom) / 2 - 0.5) * slide.unit, ((left + right) / 2 - 0.5) * slide.unit
        camera.center = (*camera.center[:-2], *middle)

    # -- maps and files -----------------------------------------------------------------------

    def _make_regions(self) -> None:
        slide, layer = self.session.current, self.threshold.chosen_map
        if slide is None or layer is None:
            return
        role: Role = self.threshold.chosen_role
        class_name = self.threshold.class_name.text().strip() or layer.grid_map.name
        colour = self._colour_of(class_name) or class_colour(class_name)
        try:
            threshold = MapThreshold.parse(self.threshold.threshold.text())
        except ValueError:
            self.message.say(
                f"{self.threshold.threshold.text()!r} is neither a value nor a percentile; give "
                "one such as 0.9 or 90%", "error",
            )  # fmt: skip
            return
        try:
            found = regions_above(
                layer.grid_map, threshold, class_name=class_name, colour=colour,
                dimensions=slide.slide.dimensions, least_patches=self.threshold.least.value(),
            )  # fmt: skip
        except UserError as error:
            self.message.say(str(error), "error")
            return
        self.drawing.cancel()
        show_regions(self.session, slide, Regions(tuple(replace(one, role=role) for one in found)))
        count = len(found)
        self.message.say(
            f"{count} region{'s' if count != 1 else ''} above "
            f"{threshold.value_on(layer.grid_map):.6g} of {layer.grid_map.name}", "good",
        )  # fmt: skip

    def _browse_import(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Import regions", "", "GeoJSON (*.geojson *.json *.gz);;All files (*)"
        )
        if path:
            self.import_file(path)

    def import_file(self, path: str) -> None:
        """Add the regions of a GeoJSON file to the current slide, or say why that cannot be."""
        slide = self.session.current
        if slide is None:
            return
        self.drawing.cancel()
        try:
            found = import_regions(self.session, slide, path)
        except UserError as error:
            self.message.say(str(error), "error")
            return
        self.message.say(f"{len(found)} read", "good")

    def _browse_export(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Export regions", "regions.geojson", "GeoJSON (*.geojson)"
        )
        if path:
            self.export_file(path)

    def export_file(self, path: str) -> None:
        """Write what is drawn on the current slide, or say why that cannot be."""
        slide = self.session.current
        if slide is None:
            return
        regions = Regions(tuple(one.region for one in self._found))
        try:
            write_regions(regions, path, offset=slide.slide.bounds[:2])
        except (UserError, OSError) as error:
            self.message.say(str(error), "error")
            return
        self.message.say(f"Written: {path}", "good")


def _order(regions: list[Any]) -> list[int]:
    """Return the numbers of regions in the order in which `annotations` finds them again."""
    forms = {"Point": 1}
    return sorted(
        range(len(regions)),
        key=lambda row: (
            forms.get(regions[row].geometry.geom_type, 0), ROLES.index(regions[row].role), row,
        ),
    )  # fmt: skip
