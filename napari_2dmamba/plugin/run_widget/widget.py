"""The widget *Run 2DMamba*: joins its sections, the viewer and the jobs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Shapes
from napari.utils.notifications import show_error
from qtpy.QtCore import QSize, Signal
from qtpy.QtWidgets import QVBoxLayout

from napari_2dmamba.errors import UserError
from napari_2dmamba.explain.display import DisplaySettings, display_for
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.record import Explanations
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.pipeline import RunResult, RunSettings, prepare_grid, run
from napari_2dmamba.plugin import commands
from napari_2dmamba.plugin.docked import DockedWidget, weak_callback
from napari_2dmamba.plugin.exports import Export
from napari_2dmamba.plugin.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.jobs import LatestJob
from napari_2dmamba.plugin.map_layers import caption_map, cell_at, go_to_patch, map_layers, show_map
from napari_2dmamba.plugin.one_job import OneJob
from napari_2dmamba.plugin.preferences import folder_of
from napari_2dmamba.plugin.preview import show_patches, show_tissue
from napari_2dmamba.plugin.region_layers import (
    ROLES,
    Role,
    drawn_regions,
    ensure_region_layer,
    place_region_layers,
    region_layer,
    show_regions,
)
from napari_2dmamba.plugin.run_widget.arriving_features import ArrivingFeatures, remove_arriving
from napari_2dmamba.plugin.run_widget.export_section import ExportSection
from napari_2dmamba.plugin.run_widget.features_section import FeaturesSection
from napari_2dmamba.plugin.run_widget.model_section import ModelSection, grid_of_training
from napari_2dmamba.plugin.run_widget.progress_footer import ProgressFooter
from napari_2dmamba.plugin.run_widget.result_section import ResultSection
from napari_2dmamba.plugin.run_widget.slide_section import SlideSection
from napari_2dmamba.plugin.section import scrolling_column
from napari_2dmamba.plugin.shown_run import ShownRun, open_shown_run
from napari_2dmamba.plugin.slide_layer import (
    add_slide,
    layers_of,
    open_slides,
    set_slide,
    show_scale_bar,
    slide_of,
    view_region,
    watch_reading,
)
from napari_2dmamba.plugin.trust_question import may_run
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.slide import PatchGrid, Slide, TissueMask, open_slide, read_regions

if TYPE_CHECKING:
    from napari.viewer import Viewer


class RunWidget(DockedWidget):
    """Choose slide, features and model; run; look at the result; export it.

    Parameters
    ----------
    napari_viewer
        The viewer whose slides are analysed and that gets the layers.

    Signals
    -------
    run_shown(shown)
        A run was made or opened.
    """

    run_shown = Signal(object)

    def __init__(self, napari_viewer: "Viewer") -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._shown: ShownRun | None = None
        self._own_maps: tuple[GridMap, ...] = ()
        self._tissue: TissueMask | None = None
        self._grid: PatchGrid | None = None
        self.slide_section = SlideSection()
        self.features_section = FeaturesSection()
        self.model_section = ModelSection()
        self.result_section = ResultSection()
        self.export_section = ExportSection()
        self.footer = ProgressFooter()
        self.jobs = OneJob(self.footer, self)
        self._counting = LatestJob(self, delay_ms=300)
        self._lay_out()
        self._connect_sections()
        self._connect_viewer()
        self._follow_checkpoint(self.model_section.header)
        self._follow_layers()

    def sizeHint(self) -> QSize:
        """Return a width at which all texts fit."""
        return QSize(400, 800)

    # -- what it is made of ---------------------------------------------------------------

    def _lay_out(self) -> None:
        scroll = scrolling_column(
            self.slide_section,
            self.features_section,
            self.model_section,
            self.result_section,
            self.export_section,
        )
        self.scroll_area = scroll
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(scroll, 1)
        layout.addWidget(self.footer)
        self.setMinimumWidth(380)

    def _connect_sections(self) -> None:
        slide, result, export = self.slide_section, self.result_section, self.export_section
        slide.slide_chosen.connect(self._follow_slide)
        slide.mpp_given.connect(self._use_mpp)
        slide.settings_changed.connect(self._count_patches)
        slide.previews_changed.connect(self._show_previews)
        slide.region_wanted.connect(self._draw_region)
        slide.regions_file_chosen.connect(self._import_regions)
        slide.slides_wanted.connect(self.open_slides)
        slide.cohort_wanted.connect(self._show_cohort)
        self.model_section.checkpoint_changed.connect(self._follow_checkpoint)
        self.model_section.table_wanted.connect(self._show_checkpoints)
        result.display_changed.connect(self._set_display)
        result.map_chosen.connect(self._choose_map)
        result.map_shown.connect(self._show_map)
        result.patch_chosen.connect(self._go_to_patch)
        export.export_wanted.connect(self._export)
        export.open_wanted.connect(self.open_saved_run)
        self.footer.run_clicked.connect(self.start_run)
        self.jobs.failed.connect(self._complain)
        self.jobs.finished.connect(self._on_finished)
        self._counting.started.connect(slide.show_counting)
        self._counting.succeeded.connect(self._take_patches)
        self._counting.failed.connect(self._no_patches)

    def _connect_viewer(self) -> None:
        layers = self._viewer.layers
        for event in (layers.events.inserted, layers.events.removed, layers.events.reordered):
            self.listen(event, self._follow_layers)
        self.listen(layers.selection.events.active, self._follow_active_layer)
        self._on_mouse_move_weakly = weak_callback(self._on_mouse_move)
        self._viewer.mouse_move_callbacks.append(self._on_mouse_move_weakly)

    def let_go(self) -> None:
        """Disconnect from the viewer and stop what runs."""
        super().let_go()
        if self._on_mouse_move_weakly in self._viewer.mouse_move_callbacks:
            self._viewer.mouse_move_callbacks.remove(self._on_mouse_move_weakly)
        self._counting.cancel()
        self.model_section.cancel()
        self.result_section.gallery.cancel()
        for arriving in self.findChildren(ArrivingFeatures):
            arriving.let_go()
        self.jobs.cancel()

    # -- slide, tissue, patches -----------------------------------------------------------

    def _follow_layers(self, event: Any = None) -> None:
        slides = open_slides(self._viewer)
        if slides:
            show_scale_bar(self._viewer)
        for layer in self._viewer.layers:
            if slide_of(layer) is not None:
                watch_reading(layer)
        self.slide_section.set_slides(slides)
        for role in ROLES:
            layer = region_layer(self._viewer, role)
            if layer is not None:
                layer.events.data.disconnect(self._follow_regions)
                layer.events.data.connect(self._follow_regions)
        if event is not None and event.type == "removed" and isinstance(event.value, Shapes):
            self._follow_regions()
        self._offer_maps()

    def open_slides(self, paths: list[str] | list[Path]) -> tuple[str, ...]:
        """Show slide files; returns, and shows, one sentence for each that cannot be opened."""
        problems = []
        for path in paths:
            try:
                add_slide(self._viewer, open_slide(path))
            except UserError as error:
                problems.append(str(error))
                self._complain(str(error))
        return tuple(problems)

    def _show_cohort(self) -> None:
        commands.show_cohort(self._viewer)

    def _follow_slide(self, slide: Slide | None) -> None:
        self._tissue = self._grid = None
        self._count_patches()

    def _use_mpp(self, mpp: float) -> None:
        slide = self.slide_section.slide
        if slide is None:
            return
        try:
            again = open_slide(slide.path, mpp=mpp)
        except UserError as error:
            self.slide_section.show_problem(str(error))
            return
        # Layers placed in pixels cannot stay where they are when the world turns to µm.
        show_tissue(self._viewer, slide, None)
        show_patches(self._viewer, slide, None)
        for layer in map_layers(self._viewer, slide):
            self._viewer.layers.remove(layer)
        layers = layers_of(self._viewer, slide)
        set_slide(layers, again)
        place_region_layers(self._viewer, again)
        self.slide_section.set_slides(open_slides(self._viewer))
        self._viewer.fit_to_view(layers=layers)

    @property
    def run_settings(self) -> RunSettings:
        """What slide, features and model sections say."""
        return RunSettings(
            tissue=self.slide_section.tissue_form.settings(),
            grid=self.slide_section.grid_form.settings(),
            features=self.features_section.settings,
            model=self.model_section.settings,
            in_pixels=self.slide_section.in_pixels,
        )

    def _count_patches(self) -> None:
        slide = self.slide_section.slide
        self._counting.cancel()
        if slide is None or (slide.mpp is None and not self.slide_section.in_pixels):
            return
        settings = self.run_settings
        regions = drawn_regions(self._viewer)

        def task(progress: ProgressCallback, stop: StopCallback) -> tuple[TissueMask, PatchGrid]:
            assert settings.grid is not None
            return prepare_grid(slide, settings, settings.grid, regions)

        self._counting.request(task)

    def _take_patches(self, found: tuple[TissueMask, PatchGrid]) -> None:
        self._tissue, self._grid = found
        if self.slide_section.message.kind == "error":
            self.slide_section.message.clear()
        self.slide_section.show_grid(self._grid)
        self._show_previews()

    def _no_patches(self, sentence: str) -> None:
        self._tissue = self._grid = None
        self.slide_section.show_problem(sentence)
        self._show_previews()

    def _show_previews(self) -> None:
        slide = self.slide_section.slide
        if slide is None:
            return
        section = self.slide_section
        show_tissue(self._viewer, slide, self._tissue if section.show_tissue.isChecked() else None)
        show_patches(self._viewer, slide, self._grid if section.show_patches.isChecked() else None)

    def _draw_region(self, role: Role) -> None:
        slide = self.slide_section.slide
        if slide is None:
            return
        layer = ensure_region_layer(self._viewer, slide, role)
        self._viewer.layers.selection.active = layer
        layer.mode = "add_polygon"

    def _import_regions(self, path: str) -> None:
        slide = self.slide_section.slide
        if slide is None:
            return
        try:
            regions = read_regions(path, offset=slide.bounds[:2])
        except UserError as error:
            self._complain(str(error))
            return
        show_regions(self._viewer, slide, regions)
        self._follow_regions()

    def _follow_regions(self, event: Any = None) -> None:
        self.slide_section.show_regions(drawn_regions(self._viewer))
        self._count_patches()

    # -- model ----------------------------------------------------------------------------

    def _follow_checkpoint(self, header: CheckpointHeader | None) -> None:
        self.footer.run.setEnabled(header is not None and not self.is_running)
        if header is None:
            return
        form = self.slide_section.grid_form
        form.set_settings(grid_of_training(header, form.settings()))
        self.features_section.follow_checkpoint(header.encoder)

    def _show_checkpoints(self) -> None:
        commands.show_checkpoints(self._viewer)

    # -- running --------------------------------------------------------------------------

    def start_run(self) -> None:
        """Run the chosen model on the chosen slide."""
        slide, checkpoint = self.slide_section.slide, self.model_section.checkpoint
        if self.is_running:
            return
        if slide is None:
            self._complain("no slide is open; open one with File > Open, or drop it here")
            return
        if checkpoint is None:
            self._complain("no checkpoint can be used; choose one under Model and checkpoint")
            return
        if slide.mpp is None and not self.slide_section.in_pixels:
            self.slide_section.set_open(True)
            self._complain(
                f"{slide.name} states no µm per pixel; give it under Slide and tissue, or "
                "choose to work in pixels"
            )
            return
        settings = self.run_settings
        features = self.features_section.feature_file
        if features is None and self.features_section.from_file.isChecked():
            self._complain("no feature file is chosen; choose one under Features")
            return
        if features is None and not self._may_run(settings.features.encoder):
            return
        regions = drawn_regions(self._viewer)
        out = folder_of(slide)
        arriving = ArrivingFeatures(self._viewer, slide, self)

        def task(progress: ProgressCallback, stop: StopCallback) -> RunResult:
            return run(
                slide,
                checkpoint,
                settings,
                features=features,
                regions=regions,
                out=out,
                on_progress=progress,
                on_batch=arriving.on_batch,
                should_stop=stop,
            )

        def show(result: RunResult) -> None:
            arriving.end()
            remove_arriving(self._viewer, slide)
            self._show_result(slide, result)

        kept = "Stopped; the features finished so far are kept for the next run."
        job = self.jobs.start(task, show, kept, can_pause=True)
        assert job is not None  # nothing else runs
        job.held.connect(arriving.show)
        job.failed.connect(arriving.end)
        job.cancelled.connect(arriving.end)

    def _may_run(self, encoder: str) -> bool:
        try:
            return may_run(self, encoder)
        except UserError as error:
            self._complain(str(error))
            return False

    def cancel(self) -> None:
        """Ask the running job to stop."""
        self.jobs.cancel()

    @property
    def is_running(self) -> bool:
        """Whether a run, an export or the opening of a run goes on."""
        return self.jobs.is_busy

    def _on_finished(self) -> None:
        self.footer.run.setEnabled(self.model_section.header is not None)

    def _complain(self, sentence: str) -> None:
        self.footer.message.say(sentence, "error")
        show_error(sentence)

    # -- the result -----------------------------------------------------------------------

    def _show_result(self, slide: Slide, result: RunResult) -> None:
        self.show_run(
            ShownRun(
                slide,
                result.grid,
                result.prediction,
                (result.attention_map,),
                result.record,
                result.folder,
                result.bag,
                result.regions,
            )
        )

    def show_run(self, shown: ShownRun, display: DisplaySettings | None = None) -> None:
        """Show a result: its maps as layers, its numbers in the panel."""
        self._shown, self._own_maps = shown, shown.maps
        for box in (self.slide_section.show_tissue, self.slide_section.show_patches):
            box.setChecked(False)  # they would hide what the map shows
        if display is not None:
            self.result_section.set_display(display)
        layers = [
            show_map(
                self._viewer,
                shown.slide,
                grid_map,
                display_for(grid_map, self.result_section.display),
            )
            for grid_map in shown.maps
        ]
        for layer in layers:
            if display is not None:
                layer.display = display_for(layer.grid_map, display)
            events = layer.events
            for event in (events.gamma, events.opacity, events.colormap, events.contrast_limits):
                event.disconnect(self._follow_layer_display)
                event.connect(self._follow_layer_display)
        prediction = shown.prediction
        self.model_section.show_device(
            prediction.device, str(prediction.extra.get("device_reason", "")), prediction.backend
        )
        self.result_section.show_prediction(prediction, shown.intended_use)
        self.export_section.set_run(shown)
        self._offer_maps()
        if layers:
            self._choose_map(layers[0].name)
        for section in (self.slide_section, self.features_section, self.model_section):
            section.set_open(False)
        self.result_section.set_open(True)
        self.scroll_area.ensureVisible(0, 0)
        self.run_shown.emit(shown)

    def set_more_maps(self, maps: Sequence[GridMap], explanations: Explanations) -> None:
        """Let exports and the record hold maps besides those of the run, in place of others.

        A map replaces that of the run with the same name.
        """
        if self._shown is None:
            return
        names = {one.name for one in maps}
        own = [one for one in self._own_maps if one.name not in names]
        record = dataclasses.replace(self._shown.record, explanations=explanations)
        self._shown = dataclasses.replace(self._shown, maps=(*own, *maps), record=record)
        self.export_section.set_run(self._shown)
        if self.map_layer is not None and self.map_layer.grid_map.name in names:
            self._show_values(self.map_layer)

    @property
    def shown(self) -> ShownRun | None:
        """The run on display."""
        return self._shown

    @property
    def map_layer(self) -> HeatmapLayer | None:
        """The map whose values the panel shows."""
        for layer in self._map_layers():
            if layer.name == self.result_section.maps.currentText():
                return layer
        return None

    def _map_layers(self) -> list[HeatmapLayer]:
        return [] if self._shown is None else map_layers(self._viewer, self._shown.slide)

    def _offer_maps(self) -> None:
        layers = self._map_layers()
        for layer in layers:  # of whichever widget
            layer.events.visible.disconnect(self._caption)
            layer.events.visible.connect(self._caption)
        names = [layer.name for layer in layers]
        current = self.result_section.maps.currentText()
        self.result_section.set_maps(names, current if current in names else "")
        if self._shown is not None:
            self._caption()

    def _choose_map(self, name: str) -> None:
        shown = self._shown
        for layer in self._map_layers():
            if layer.name == name and shown is not None:
                self.result_section.set_maps([one.name for one in self._map_layers()], name)
                self._show_values(layer)
                self._viewer.layers.selection.active = layer
                self._caption()

    def _show_values(self, layer: HeatmapLayer) -> None:
        assert self._shown is not None
        self.result_section.set_display(layer.display)
        self.result_section.show_map(
            self._shown.slide, layer.grid_map, self._shown.patches(layer.grid_map)
        )

    def _follow_active_layer(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        if active in self._map_layers() and active is not self.map_layer:
            self._choose_map(active.name)

    def _set_display(self, display: DisplaySettings) -> None:
        layer = self.map_layer
        if layer is not None:
            layer.display = display
            self._caption()

    def _show_map(self, is_shown: bool) -> None:
        if self.map_layer is not None:
            self.map_layer.visible = is_shown

    def _caption(self, event: Any = None) -> None:
        layer = self.map_layer
        caption_map(self._viewer, layer)
        self.result_section.show_layer.setChecked(layer is not None and layer.visible)

    def _follow_layer_display(self, event: Any) -> None:
        layer = self.map_layer
        if layer is not None and event.source is layer:
            self.result_section.set_display(layer.display)

    def _on_mouse_move(self, viewer: "Viewer", event: Any) -> None:
        layer = self.map_layer
        if layer is not None:
            self.result_section.show_cursor(*cell_at(layer, event.position))

    def _go_to_patch(self, x: int, y: int) -> None:
        if self._shown is not None:
            size = self._shown.grid.patch_size_level0
            go_to_patch(self._viewer, self._shown.slide, x, y, size)

    # -- saving and opening ---------------------------------------------------------------

    def _export(self, kind: str, path: str, mpp: float | None) -> None:
        shown, layer = self._shown, self.map_layer
        if shown is None or self.is_running:
            return
        display = self.result_section.display if layer is None else layer.display
        grid_map = shown.maps[0] if layer is None else layer.grid_map
        export = Export(
            kind, Path(path), shown, grid_map, display, view_region(self._viewer, shown.slide), mpp
        )

        def tell(written: Path) -> None:
            self.footer.message.say(f"Written: {written}", "good")

        self.jobs.start(export.write, tell, "Stopped; nothing was written.")

    def open_saved_run(self, folder: str | Path) -> None:
        """Open a saved run with its slide, maps and settings."""
        if self.is_running:
            return
        already_open = open_slides(self._viewer)

        def task(
            progress: ProgressCallback, stop: StopCallback
        ) -> tuple[ShownRun, DisplaySettings]:
            return open_shown_run(folder, already_open)

        def show(opened: tuple[ShownRun, DisplaySettings]) -> None:
            shown, display = opened
            if shown.slide not in open_slides(self._viewer):
                add_slide(self._viewer, shown.slide)
            self.slide_section.choose(shown.slide)
            self.show_run(shown, display)

        self.jobs.start(task, show, "Stopped; nothing was opened.")
