"""The widget *Image networks*: pixel-level receptive fields, classes of tiles, segmentation."""

from typing import TYPE_CHECKING

from qtpy.QtCore import QSize
from qtpy.QtWidgets import QVBoxLayout

from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.parts.docked import DockedWidget
from napari_2dmamba.plugin.parts.progress_footer import ProgressFooter
from napari_2dmamba.plugin.parts.section import scrolling_column
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.plugin.vision_widget.area import drawn_areas
from napari_2dmamba.plugin.vision_widget.field_section import FieldSection
from napari_2dmamba.plugin.vision_widget.fields_control import FieldsControl
from napari_2dmamba.plugin.vision_widget.segment_section import SegmentSection
from napari_2dmamba.plugin.vision_widget.segments_control import SegmentsControl
from napari_2dmamba.plugin.vision_widget.slide_jobs import SlideJobs
from napari_2dmamba.plugin.vision_widget.tiles_control import TilesControl
from napari_2dmamba.plugin.vision_widget.tiles_section import TilesSection

if TYPE_CHECKING:
    from napari.viewer import Viewer


class VisionWidget(DockedWidget):
    """What image networks say of the current slide.

    One job runs at a time. Its result goes to the slide it was started on.

    Parameters
    ----------
    napari_viewer
        The viewer whose slides are asked about and that gets the layers.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        super().__init__()
        self.session = Session.of(napari_viewer)
        self.field_section = FieldSection()
        self.tiles_section = TilesSection()
        self.segment_section = SegmentSection()
        self.footer = ProgressFooter()
        self.footer.run.hide()  # each section has a button of its own
        self.jobs = SlideJobs(self.session, self.footer, self)
        self.fields = FieldsControl(self.session, self.field_section, self.jobs, self)
        self.tiles = TilesControl(self.session, self.tiles_section, self.jobs, self)
        self.segments = SegmentsControl(self.session, self.segment_section, self.jobs, self)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        sections = (self.field_section, self.tiles_section, self.segment_section)
        self.scroll_area = scrolling_column(*sections)
        layout.addWidget(self.scroll_area, 1)
        layout.addWidget(self.footer)
        self.setMinimumWidth(380)
        self._connect()
        self._follow_current(self.session.current)

    def sizeHint(self) -> QSize:
        """Return a width at which all texts fit."""
        return QSize(400, 800)

    def let_go(self) -> None:
        """Disconnect from the viewer and stop what runs."""
        super().let_go()
        self.fields.put_away()
        self.jobs.one.cancel()

    def _connect(self) -> None:
        self.jobs.one.started.connect(self._allow)
        self.jobs.one.finished.connect(self._allow)
        for section in (self.tiles_section, self.segment_section):
            section.area.drawing_wanted.connect(self._draw)
        events = self.session.events
        self.listen(events.current, self._follow_current)
        self.listen(events.regions, self._follow_regions)
        self.listen(events.layers, self._follow_layers)

    def _follow_current(self, slide: SlideState | None) -> None:
        self.fields.put_away()
        if not self.jobs.one.is_busy:
            self.footer.message.clear()
        self._follow_regions(slide)
        self._follow_layers(slide)

    def _follow_regions(self, slide: SlideState | None) -> None:
        if slide is not self.session.current:
            return
        drawn = {} if slide is None else drawn_areas(self.session, slide)
        for section in (self.tiles_section, self.segment_section):
            section.area.offer(drawn)

    def _follow_layers(self, slide: SlideState | None) -> None:
        if slide is not self.session.current:
            return
        for control in (self.fields, self.tiles, self.segments):
            control.follow(slide)
        self._allow()

    def _allow(self) -> None:
        """Grey what would be refused."""
        busy, has_slide = self.jobs.one.is_busy, self.session.current is not None
        self.field_section.set_busy(busy, has_slide=has_slide, has_place=self.fields.has_place)
        self.tiles_section.set_busy(busy, has_slide=has_slide)
        self.segment_section.set_busy(busy, has_slide=has_slide)

    def _draw(self) -> None:
        docks.show(self.session.viewer, docks.REGIONS)
