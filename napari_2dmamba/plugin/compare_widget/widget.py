"""The widget *Compare 2DMamba*: joins its sections, the grid window and the jobs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error
from qtpy.QtCore import QSize
from qtpy.QtWidgets import QPushButton, QVBoxLayout

from napari_2dmamba.compare import Comparison, compare
from napari_2dmamba.compare.figure import write_figure
from napari_2dmamba.compare.folder import write_comparison
from napari_2dmamba.errors import UserError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.features.encoder_names import is_known
from napari_2dmamba.models.fit import misfit
from napari_2dmamba.models.header import CheckpointHeader, read_header
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.plugin.compare_widget.contender_list import (
    ContenderList,
    contenders_of_rows,
)
from napari_2dmamba.plugin.compare_widget.export_section import ExportSection
from napari_2dmamba.plugin.compare_widget.grid_window import GridWindow
from napari_2dmamba.plugin.compare_widget.numbers_sections import (
    AgreementSection,
    PredictionsSection,
)
from napari_2dmamba.plugin.compare_widget.panel import Panel
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.layers.region_layers import drawn_regions
from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.parts.checkpoint_model import shared_checkpoints
from napari_2dmamba.plugin.parts.docked import DockedWidget
from napari_2dmamba.plugin.parts.one_job import OneJob
from napari_2dmamba.plugin.parts.progress_footer import ProgressFooter
from napari_2dmamba.plugin.parts.section import ElidedLabel, Section, scrolling_column
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.plugin.session.preferences import features_folder
from napari_2dmamba.sample import demo_checkpoints, demo_rivals
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.models import Aggregator
    from napari_2dmamba.slide import Slide

_LAYER_KEY = "2dmamba compared"


class CompareWidget(DockedWidget):
    """Run several models on one slide, and look at their maps side by side.

    Slide, patches and device are those of the session.

    Parameters
    ----------
    napari_viewer
        The viewer whose current slide is compared on.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        super().__init__()
        self.session = Session.of(napari_viewer)
        self._viewer = self.session.viewer
        self._slide: SlideState | None = None  # that of the window
        self.window_: GridWindow | None = None
        self.slide_name = ElidedLabel()
        self.contenders = ContenderList(shared_checkpoints())
        self.show_grid = QPushButton("Show the grid")
        self.show_grid.setToolTip("Opens its window again")
        self.predictions = PredictionsSection()
        self.agreement = AgreementSection()
        self.export_section = ExportSection()
        self.footer = ProgressFooter("Compare")
        self._jobs = OneJob(self.footer, self)
        self._lay_out()
        self._connect()
        self._offer_first()
        self._follow_current(self.session.current)

    def sizeHint(self) -> QSize:
        """Return a width at which all texts fit."""
        return QSize(400, 800)

    # -- what it is made of ---------------------------------------------------------------

    def _lay_out(self) -> None:
        self.models_section = Section("Models")
        self.models_section.body.addWidget(self.slide_name)
        self.models_section.body.addWidget(self.contenders)
        self.predictions.body.addWidget(self.show_grid)
        column = scrolling_column(
            self.models_section, self.predictions, self.agreement, self.export_section
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(column, 1)
        layout.addWidget(self.footer)
        self.setMinimumWidth(380)

    def _connect(self) -> None:
        self.contenders.changed.connect(self._follow_rows)
        self.contenders.table_wanted.connect(lambda: docks.show(self._viewer, docks.CHECKPOINTS))
        self.export_section.figure_wanted.connect(self.write_figure)
        self.export_section.files_wanted.connect(self.write_files)
        self.show_grid.clicked.connect(self.open_window)
        self.footer.run_clicked.connect(self.start)
        self._jobs.failed.connect(self._complain)
        events = self.session.events
        self.listen(events.current, self._follow_current)
        self.listen(events.comparison, self._follow_comparison)
        self.listen(events.mpp, self._follow_mpp)
        self.listen(events.slides, self._follow_slides)

    def let_go(self) -> None:
        """Disconnect from the viewer, stop what runs and close the grid."""
        super().let_go()
        self._jobs.cancel()
        if self.window_ is not None:
            self.window_.close()

    # -- slide and models -----------------------------------------------------------------

    def _follow_current(self, slide: SlideState | None) -> None:
        self.slide_name.set_text("No slide is open" if slide is None else f"On {slide.name}")
        self.footer.message.clear()
        self._show_comparison()

    def _follow_comparison(self, slide: SlideState) -> None:
        if slide is self.session.current:
            self._show_comparison()

    def _follow_mpp(self, slide: SlideState) -> None:
        """Close the grid of a slide that is shown in other units now: it moves with the window."""
        if slide is self._slide:
            self._close_window()
        self._follow_comparison(slide)

    def _follow_slides(self) -> None:
        """Close the grid of a slide that was closed."""
        if self._slide is not None and self._slide not in self.session.slides:
            self._close_window()

    def _close_window(self) -> None:
        if self.window_ is not None:
            self.window_.close()
        self._slide = None

    def _show_comparison(self) -> None:
        """Show the numbers of the current slide's comparison, or none."""
        comparison = self.comparison
        self._show_parts(comparison is not None)
        if comparison is not None:
            self.predictions.show_comparison(comparison)
            self.agreement.show_comparison(comparison)
            self._say_other_mpp()

    def _say_other_mpp(self) -> None:
        slide = self.session.current
        if slide is None or slide.compared_on is None or slide.compared_on.mpp == slide.slide.mpp:
            return
        made, now = (
            "in pixels" if mpp is None else f"with {mpp:.4g} µm per pixel"
            for mpp in (slide.compared_on.mpp, slide.slide.mpp)
        )
        self.footer.message.say(
            f"this comparison was made {made}, and its grid, figure and files count so; the slide "
            f"is shown {now} now: compare again for patches of that size",
            "warning",
        )

    def _show_parts(self, visible: bool) -> None:
        for part in (self.predictions, self.agreement, self.export_section):
            part.setVisible(visible)

    def _offer_first(self) -> None:
        """Start with the demo models; the model chosen in this session comes before them."""
        try:
            rows = demo_rivals()
        except UserError as error:
            self.contenders.message.say(str(error), "error")
            return
        chosen = self.session.choices.checkpoint
        if chosen.path is not None and chosen.header is not None:
            mine, header = chosen.path, chosen.header
            if mine not in demo_checkpoints():
                rows = [mine, *(one for one in rows if misfit(read_header(one), header) is None)]
        self.contenders.show_rows(rows)

    def _loaded(self) -> dict[str, "Aggregator"]:
        """Return the session's model where it was loaded, by its location."""
        chosen = self.session.choices.checkpoint
        return {} if chosen.loaded is None else {chosen.location: chosen.loaded}

    def _follow_rows(self) -> None:
        count = sum(len(row.maps) for row in self.contenders.chosen)
        self.models_section.set_summary(f"{count} {'map' if count == 1 else 'maps'}")

    # -- running --------------------------------------------------------------------------

    def start(self) -> None:
        """Run the chosen models on the slide."""
        slide, choices = self.session.current, self.session.choices
        if slide is None:
            self._complain("no slide is open; open one with File > Open, or drop it here")
            return
        if choices.lacks_features:
            self._complain("no feature file is chosen; choose one under Features in Run 2DMamba")
            return
        rows, opened = self.contenders.chosen, slide.slide
        settings, features = choices.run_settings, choices.features_to_read
        loaded = self._loaded()
        regions = drawn_regions(self.session, slide)

        def task(progress: ProgressCallback, stop: StopCallback) -> Comparison:
            progress(0, 0, "loading the checkpoints")
            contenders = contenders_of_rows(rows, loaded, progress, stop)
            first = contenders[0].load().header if contenders else None
            return compare(
                opened,
                contenders,
                as_trained(settings, first, choices.checkpoint.header),
                features=features,
                regions=regions,
                cache=features_folder(opened),
                on_progress=progress,
                should_stop=stop,
            )

        def show(comparison: Comparison) -> None:
            self.show_comparison(slide, comparison, opened)

        kept = "Stopped; finished features are kept for the next run."
        job = self._jobs.start(task, show, kept)
        if job is not None:
            self.session.begin(slide, job)
            job.finished.connect(lambda: self.session.end(slide, job))

    @property
    def is_running(self) -> bool:
        """Whether models run or something is written."""
        return self._jobs.is_busy

    def _complain(self, sentence: str) -> None:
        self.footer.message.say(sentence, "error")
        show_error(sentence)

    # -- the result -----------------------------------------------------------------------

    def show_comparison(
        self, slide: SlideState, comparison: Comparison, made_on: "Slide | None" = None
    ) -> None:
        """Show a comparison: numbers in the panel, maps in the grid window.

        That of a slide which is not looked at waits until it is. ``made_on`` is the slide as it
        was when the models ran; None where it is so still.
        """
        if slide not in self.session.slides:
            return  # closed while the models ran
        was_on = slide.compared_on
        self.session.runs.set_comparison(slide, comparison, made_on)
        if self._slide is slide and self.window_ is not None:
            if was_on is slide.compared_on:
                self.window_.show_comparison(comparison)
            else:
                self._close_window()
        if slide is not self.session.current:
            self.footer.message.say(
                f"The comparison on {slide.name} has ended; choose that slide to see it", "good"
            )
            return
        self.predictions.set_open(True)
        self.agreement.set_open(True)
        self.models_section.set_open(False)
        self.open_window()

    @property
    def comparison(self) -> Comparison | None:
        """The comparison on display."""
        slide = self.session.current
        return None if slide is None else slide.comparison

    def write_figure(self, paths: Sequence[Path]) -> None:
        """Write the panels on display as a figure, one file per format."""
        slide, comparison = self.session.current, self.comparison
        if slide is None or comparison is None:
            return
        opened = slide.compared_on or slide.slide
        self.open_window()
        assert self.window_ is not None
        shown, display = self.window_.ticked, self.window_.display
        entries = tuple(comparison.entries[one.entry] for one in shown if one.entry is not None)
        if not entries:
            self._complain("no model's map is on display; tick one in the list of panels")
            return
        settings = dataclasses.replace(
            self.export_section.form.settings(),
            shared_range=self.window_.shares_range or display.transform == "percentile",
        )
        zooms = list(self.window_.zooms)
        made = [
            dataclasses.replace(one.grid_map, name=one.title) for one in shown if one.entry is None
        ]

        def task(progress: ProgressCallback, stop: StopCallback) -> list[Path]:
            progress(0, 0, "drawing the figure")
            return write_figure(
                dataclasses.replace(comparison, entries=entries),
                opened,
                paths,
                settings,
                display=display,
                zooms=zooms,
                more=made,
            )

        def tell(written: list[Path]) -> None:
            names = ", ".join(path.name for path in written)
            self.footer.message.say(f"Written in {written[0].parent}: {names}", "good")

        self._jobs.start(task, tell, "The figure was written before it could be stopped.")

    def write_files(self, folder: Path) -> None:
        """Write tables, maps and record of the comparison into a folder."""
        slide, comparison = self.session.current, self.comparison
        if slide is None or comparison is None:
            return
        opened = slide.compared_on or slide.slide
        display = None if self.window_ is None else self.window_.display

        def task(progress: ProgressCallback, stop: StopCallback) -> list[Path]:
            return write_comparison(
                comparison, opened, folder, display=display, on_progress=progress, should_stop=stop
            )

        def tell(written: list[Path]) -> None:
            self.footer.message.say(f"{len(written)} files were written in {folder}", "good")

        self._jobs.start(task, tell, "Stopped; files written so far are kept.")

    def open_window(self) -> None:
        """Bring the grid of the current slide to the front, opening it where it was closed."""
        slide, comparison = self.session.current, self.comparison
        if slide is None or comparison is None:
            return
        if self._slide is not slide:
            self._close_window()
        if self.window_ is None:
            opened = slide.compared_on or slide.slide
            window = GridWindow(opened, self._viewer, self)
            window.follow.setEnabled(opened.mpp == slide.slide.mpp)  # else in other units
            window.layers_wanted.connect(self._add_layers)
            window.closed.connect(self._forget_window)
            self.window_, self._slide = window, slide
            window.show()
            window.show_comparison(comparison)
        self.window_.show()
        self.window_.raise_()

    def _forget_window(self) -> None:
        self.window_ = None

    def _add_layers(self, panels: Sequence[Panel]) -> None:
        """Show panels as layers of the main window, the last one on top and alone."""
        slide = self._slide
        assert slide is not None
        assert self.window_ is not None
        last = None
        for panel in panels:
            last = add_layer(self.session, slide, panel, panel.display(self.window_.display))
        for layer in compared_layers(self.session, slide):
            self.session.set_visible(layer, layer is last)


def add_layer(
    session: Session, slide: SlideState, panel: Panel, display: DisplaySettings
) -> HeatmapLayer:
    """Show a panel as a layer; one of the same slide and heading takes it."""
    grid_map = dataclasses.replace(panel.grid_map, mpp=slide.slide.mpp)
    for layer in compared_layers(session, slide):
        if layer.metadata[_LAYER_KEY] == panel.title:
            layer.grid_map, layer.display = grid_map, display
            return layer
    layer = HeatmapLayer(
        grid_map, display, name=panel.title, metadata={_LAYER_KEY: panel.title}, visible=False
    )
    session.add_layer(slide, layer)
    return layer


def compared_layers(session: Session, slide: SlideState) -> list[HeatmapLayer]:
    """Return the layers that show panels of a slide's comparisons, the lowest first."""
    return [
        layer
        for layer in session.layers_of(slide)
        if isinstance(layer, HeatmapLayer) and _LAYER_KEY in layer.metadata
    ]


def as_trained(
    settings: RunSettings, header: CheckpointHeader | None, chosen: CheckpointHeader | None
) -> RunSettings:
    """Return settings with patches and encoder of a checkpoint, where it states them.

    ``chosen`` is the model that the settings were made for: where both were trained on the same
    patches, what the user changed since counts, as it does in a run.
    """
    if header is None:
        return settings
    grid = settings.grid
    same = chosen is not None and (chosen.patch_size, chosen.mpp) == (header.patch_size, header.mpp)
    if grid is not None and not same:
        grid = grid.trained_for(header, before=chosen)
    features = settings.features
    if header.encoder is not None and is_known(header.encoder):
        features = dataclasses.replace(features, encoder=header.encoder)
    return dataclasses.replace(settings, grid=grid, features=features)
