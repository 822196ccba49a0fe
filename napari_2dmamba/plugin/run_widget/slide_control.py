"""Joins the section *Slide and tissue* to the session: slides, µm per pixel, regions, patches."""

from collections.abc import Callable

from qtpy.QtCore import QObject

from napari_2dmamba.errors import UserError
from napari_2dmamba.pipeline import prepare_grid
from napari_2dmamba.plugin.layers.preview import show_patches, show_tissue
from napari_2dmamba.plugin.layers.region_drawing import POLYGON, Drawing
from napari_2dmamba.plugin.layers.region_layers import drawn_regions, import_regions
from napari_2dmamba.plugin.parts.closing import close_slide
from napari_2dmamba.plugin.parts.docked import DockedWidget
from napari_2dmamba.plugin.parts.jobs import LatestJob
from napari_2dmamba.plugin.run_widget.slide_section import SlideSection
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.slide import PatchGrid, TissueMask
from napari_2dmamba.slide.regions import Role

Found = tuple[SlideState, TissueMask | None, PatchGrid | None, str]


class SlideControl(QObject):
    """Lets the section follow the current slide, and the session what is set in the section.

    Parameters
    ----------
    session, section
        What is joined.
    parent
        The docked widget; connections end with its dock.
    complain
        Says a sentence where the user looks.
    """

    def __init__(
        self,
        session: Session,
        section: SlideSection,
        parent: DockedWidget,
        complain: Callable[[str], None],
    ) -> None:
        super().__init__(parent)
        self._session, self._section, self._complain = session, section, complain
        self._drawing = Drawing(session, self)
        self._drawing.began.connect(section.say_how_to_draw)
        self._drawing.ended.connect(self._end_drawing)
        self._counting = LatestJob(self, delay_ms=300)
        self._counting.started.connect(section.show_counting)
        self._counting.succeeded.connect(self._take_patches)
        section.slide_chosen.connect(session.show)
        section.close_wanted.connect(self._close)
        section.settings_changed.connect(self._choose)
        section.previews_changed.connect(self._draw_patches)
        section.region_wanted.connect(self._draw_region)
        section.regions_file_chosen.connect(self._import_regions)
        section.mpp_row.given.connect(self._set_mpp)
        section.mpp_row.taken_back.connect(lambda: self._set_mpp(None))
        section.mpp_row.pixels_wanted.connect(self._work_in_pixels)
        events = session.events
        parent.listen(events.slides, self._list_slides)
        parent.listen(events.current, self._follow)
        parent.listen(events.mpp, self._follow)
        parent.listen(events.choices, self._follow_choices)
        parent.listen(events.regions, self._follow_regions)
        parent.listen(events.patches, self._follow_patches)
        self._follow(session.current)

    def cancel(self) -> None:
        """Stop counting, and put the pen away."""
        self._counting.cancel()
        self._drawing.cancel()

    # -- the section follows the session ----------------------------------------------------

    def _list_slides(self) -> None:
        self._section.show_slides(self._session.slides, self._session.current)

    def _follow(self, slide: SlideState | None) -> None:
        if slide is not self._session.current:
            return
        self._list_slides()
        self._section.show_slide(slide)
        self._follow_choices(slide)
        self._section.show_regions(None if slide is None else drawn_regions(self._session, slide))
        self._follow_patches(slide)

    def _follow_choices(self, slide: SlideState | None) -> None:
        choices = self._session.choices
        self._section.show_choices(self._session.current, choices.grid, choices.tissue)

    def _follow_regions(self, slide: SlideState) -> None:
        if slide is self._session.current:
            self._section.show_regions(drawn_regions(self._session, slide))

    def _follow_patches(self, slide: SlideState | None) -> None:
        if slide is not None and slide in self._session.slides:
            show_tissue(self._session, slide)
            show_patches(self._session, slide)
        if slide is self._session.current:
            self._section.show_patches_of(slide)
            self._count_patches()

    def _count_patches(self) -> None:
        """Find tissue and patches of the current slide, unless they are known."""
        slide = self._session.current
        self._counting.cancel()
        if slide is None or not slide.can_be_cut or slide.grid is not None or slide.problem:
            return
        opened, settings = slide.slide, slide.choices.run_settings
        regions = drawn_regions(self._session, slide)

        def task(progress: ProgressCallback, stop: StopCallback) -> Found:
            assert settings.grid is not None
            try:
                tissue, grid = prepare_grid(opened, settings, settings.grid, regions)
            except UserError as error:
                return slide, None, None, str(error)
            return slide, tissue, grid, ""

        self._counting.request(task)

    def _take_patches(self, found: Found) -> None:
        slide, tissue, grid, problem = found
        if slide is self._session.current:  # another one's are found when it is shown again
            self._session.set_patches(slide, tissue, grid, problem)

    # -- the session follows the section ----------------------------------------------------

    def _close(self) -> None:
        if self._session.current is not None:
            close_slide(self._session, self._session.current, self._section)

    def _choose(self) -> None:
        section = self._section
        self._session.choose(
            grid=section.grid_form.settings(), tissue=section.tissue_form.settings()
        )

    def _work_in_pixels(self, is_wanted: bool) -> None:
        self._session.choose(in_pixels=is_wanted)

    def _set_mpp(self, mpp: float | None) -> None:
        slide = self._session.current
        if slide is None:
            return
        try:
            self._session.set_mpp(slide, mpp)
        except UserError as error:
            self._complain(str(error))

    def _draw_patches(self) -> None:
        slide, section = self._session.current, self._section
        if slide is not None:
            self._session.draw_patches(
                slide,
                tissue=section.show_tissue.isChecked(),
                patches=section.show_patches.isChecked(),
            )

    def _draw_region(self, role: Role) -> None:
        slide = self._session.current
        if slide is not None:
            self._drawing.start(slide, POLYGON, role)

    def _end_drawing(self) -> None:
        slide = self._session.current
        self._section.show_regions(None if slide is None else drawn_regions(self._session, slide))

    def _import_regions(self, path: str) -> None:
        slide = self._session.current
        if slide is None:
            return
        try:
            import_regions(self._session, slide, path)
        except UserError as error:
            self._complain(str(error))
