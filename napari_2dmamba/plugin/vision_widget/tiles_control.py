"""Classes of tiles: the job, the layers that follow, and their exports."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject

from napari_2dmamba.features import FeatureSettings
from napari_2dmamba.plugin.layers.region_layers import drawn_regions
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.plugin.session.preferences import features_folder, preference
from napari_2dmamba.plugin.vision_widget.area import ALL
from napari_2dmamba.plugin.vision_widget.layers import (
    look_at_tiles,
    show_tiles,
    tile_layers,
    tile_maps,
)
from napari_2dmamba.plugin.vision_widget.slide_jobs import SlideJobs
from napari_2dmamba.plugin.vision_widget.tiles_section import TilesSection
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.slide import Regions
from napari_2dmamba.vision.region import length

if TYPE_CHECKING:
    from napari_2dmamba.tiles.on_slide import TileMaps


class TilesControl(QObject):
    """Joins the section to session and jobs.

    Parameters
    ----------
    session, section, jobs
        What is joined.
    parent
        The widget.
    """

    def __init__(
        self, session: Session, section: TilesSection, jobs: SlideJobs, parent: QObject
    ) -> None:
        super().__init__(parent)
        self._session, self._section, self._jobs = session, section, jobs
        section.classify_wanted.connect(self.classify)
        section.class_chosen.connect(self._look_at)
        section.export_wanted.connect(self._export)

    def follow(self, slide: SlideState | None) -> None:
        """Show what the current slide has."""
        layers = tile_layers(self._session, slide)
        found = tile_maps(self._session, slide)
        seen = [name for name, layer in layers.items() if layer.visible]
        names = () if found is None else tuple(layers)[-1:] + tuple(layers)[:-1]
        self._section.show_maps(found, names, seen[-1] if seen else None)

    def classify(self) -> None:
        """Classify the patches of the chosen area."""
        slide, section = self._session.current, self._section
        if slide is None:
            return
        folder = section.folder.get()
        if folder is None or section.problem:
            self._jobs.complain(
                section.problem or "no classifier is chosen; browse for the folder of one"
            )
            return
        opened, grid_settings = slide.slide, section.form.settings()
        area = section.area.area(self._session, slide)
        regions = drawn_regions(self._session, slide)
        if area.polygons is not None:
            left_out = [p for one in regions or () if one.role == "exclude" for p in one.polygons]
            regions = Regions.of(area.polygons, left_out)
        tissue = slide.choices.tissue
        if area.kind == ALL:
            tissue, regions = replace(tissue, method="everything"), None
        features = FeatureSettings(device=preference("analysis", "device", "auto"))
        cache = features_folder(opened)

        def task(progress: ProgressCallback, stop: StopCallback) -> "TileMaps":
            progress(0, 0, "Loading the classifier…")
            from napari_2dmamba.tiles.classifier import TileClassifier
            from napari_2dmamba.tiles.on_slide import classify_slide, tile_grid

            classifier = TileClassifier.load(folder)
            progress(0, 0, "Finding the tiles…")
            grid = tile_grid(opened, grid_settings, tissue, regions)
            return classify_slide(
                opened, grid, classifier, features, cache=cache, on_progress=progress,
                should_stop=stop,
            )  # fmt: skip

        def show(found: "TileMaps") -> str:
            show_tiles(self._session, slide, found)
            side = found.maps[0].patch_size_level0
            size = f"{side} px" if opened.mpp is None else length(side * opened.mpp)
            return f"{len(found.coords)} tiles of {size} were classified"

        self._jobs.start(
            slide, task, show, "The classification",
            "Stopped; the tiles classified so far are kept for the next time.",
        )  # fmt: skip

    def _look_at(self, name: str) -> None:
        slide = self._session.current
        if slide is not None:
            look_at_tiles(self._session, slide, name)

    def _export(self, folder: str) -> None:
        slide = self._session.current
        found = tile_maps(self._session, slide)
        if slide is None or found is None:
            return
        opened = slide.slide

        def task(progress: ProgressCallback, stop: StopCallback) -> list[Path]:
            from napari_2dmamba.tile_exports import write_tile_maps

            progress(0, 0, "Writing…")
            return write_tile_maps(found, Path(folder), opened)

        self._jobs.start(
            slide, task, lambda files: f"{len(files)} files written to {Path(folder).name}",
            "The export", "Stopped; files that were finished stay.",
        )  # fmt: skip
