"""What can be written of the run on display, each by its writer in ``export``."""

from dataclasses import dataclass, replace
from pathlib import Path

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.plugin.shown_run import ShownRun
from napari_2dmamba.settings import ProgressCallback, StopCallback


@dataclass(frozen=True)
class Kind:
    """Something that can be exported."""

    title: str
    suffix: str
    hint: str
    has_mpp: bool = False


KINDS = {
    "view": Kind(
        "Picture of the view", ".png",
        "What the window shows of the slide, with the map, a colour bar and a scale bar.",
    ),
    "slide": Kind(
        "Picture of the whole slide", ".png",
        "The slide with the map, a colour bar and a scale bar.", has_mpp=True,
    ),
    "overlay": Kind(
        "Overlay as image pyramid", ".ome.tif",
        "Slide and map in one OME-TIFF, aligned to the slide.", has_mpp=True,
    ),
    "map": Kind(
        "Raw map as image pyramid", ".ome.tif",
        "The values as float32 in an OME-TIFF, aligned to the slide.", has_mpp=True,
    ),
    "geojson": Kind(
        "Patches for QuPath", ".geojson", "One tile per patch with its measurements."
    ),
    "csv": Kind("Scores as CSV table", ".csv", "One row per patch."),
    "parquet": Kind("Scores as Parquet table", ".parquet", "One row per patch, typed and small."),
    "record": Kind("Record of the run", ".json", "Settings, versions and checksums."),
}  # fmt: skip


@dataclass(frozen=True)
class Export:
    """One file to write.

    Attributes
    ----------
    kind
        Key in `KINDS`.
    path
        The file.
    run, grid_map, display
        What is shown and how.
    view
        ``(x, y, width, height)`` of the window in level-0 pixels.
    mpp
        µm per pixel of pictures; None for one that suits.
    """

    kind: str
    path: Path
    run: ShownRun
    grid_map: GridMap
    display: DisplaySettings
    view: tuple[int, int, int, int]
    mpp: float | None = None

    def write(self, on_progress: ProgressCallback, should_stop: StopCallback) -> Path:
        """Write the file, off the GUI thread.

        Raises
        ------
        ExportError
            When it cannot be written.
        Cancelled
            When ``should_stop`` says so; no file is left.
        """
        if self.kind in ("view", "slide"):
            return self._picture(on_progress, should_stop)
        if self.kind in ("overlay", "map"):
            return self._pyramid(on_progress, should_stop)
        return self._table()

    def _picture(self, on_progress: ProgressCallback, should_stop: StopCallback) -> Path:
        from napari_2dmamba.export.frame import describe
        from napari_2dmamba.export.picture import PictureSettings, write_picture

        slide, use = self.run.slide, self.run.intended_use
        region = seen_part(self.view, slide.dimensions) if self.kind == "view" else None
        return write_picture(
            slide,
            self.grid_map,
            self.path,
            replace(PictureSettings(), mpp=self.mpp),
            display=self.display,
            region=region,
            title=f"{slide.name}\n{describe(self.run.prediction)}",
            notes=[use] if use else [],
            on_progress=on_progress,
            should_stop=should_stop,
        )

    def _pyramid(self, on_progress: ProgressCallback, should_stop: StopCallback) -> Path:
        from napari_2dmamba.export.ome_tiff import (
            PyramidSettings,
            write_map_tiff,
            write_overlay_tiff,
        )

        settings = replace(PyramidSettings(), mpp=self.mpp)
        if self.kind == "map":
            return write_map_tiff(
                self.grid_map, self.path, settings, slide=self.run.slide,
                on_progress=on_progress, should_stop=should_stop,
            )  # fmt: skip
        return write_overlay_tiff(
            self.run.slide, self.grid_map, self.path, settings, display=self.display,
            on_progress=on_progress, should_stop=should_stop,
        )  # fmt: skip

    def _table(self) -> Path:
        from napari_2dmamba.export.geojson import write_geojson
        from napari_2dmamba.export.patches import patch_scores
        from napari_2dmamba.export.record import write_record
        from napari_2dmamba.export.tables import write_table

        run = self.run
        if self.kind == "record":
            return write_record(run.record, self.path)
        scores = patch_scores(
            run.grid.coords,
            run.grid.patch_size_level0,
            run.prediction,
            tissue_fraction=run.grid.tissue_fraction,
            mpp=run.slide.mpp,
            maps=[one for one in run.maps if one.name != "attention"],
        )
        if self.kind == "geojson":
            return write_geojson(
                scores, self.path, bounds=run.slide.bounds, slide_id=run.slide.fingerprint
            )
        return write_table(scores, self.path)


def seen_part(
    view: tuple[int, int, int, int], dimensions: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the part of a view that lies on the slide.

    Raises
    ------
    ExportError
        When it shows nothing of the slide.
    """
    x, y, width, height = view
    left, top = max(0, x), max(0, y)
    right, bottom = min(dimensions[0], x + width), min(dimensions[1], y + height)
    if right <= left or bottom <= top:
        raise ExportError("the view shows nothing of the slide; move the view over it")
    return left, top, right - left, bottom - top
