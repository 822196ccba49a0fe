"""Everything a run can be exported to: one table, for the command line and for the viewer."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import DisplaySettings, display_for
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.anndata_file import write_anndata
from napari_2dmamba.export.dicom_results import write_dicom_map
from napari_2dmamba.export.frame import describe
from napari_2dmamba.export.geojson import write_geojson
from napari_2dmamba.export.ome_tiff import PyramidSettings, write_map_tiff, write_overlay_tiff
from napari_2dmamba.export.ome_zarr import write_map_zarr, write_overlay_zarr
from napari_2dmamba.export.patches import PatchScores, patch_scores
from napari_2dmamba.export.picture import PictureSettings, write_picture
from napari_2dmamba.export.record import write_record
from napari_2dmamba.export.run_report import write_run_report
from napari_2dmamba.export.saved_run import SavedRun
from napari_2dmamba.export.spatialdata_store import write_spatialdata
from napari_2dmamba.export.tables import write_table
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.slide.dicom_headers import is_dicom_slide

if TYPE_CHECKING:
    from napari_2dmamba.features.bag import FeatureBag
    from napari_2dmamba.slide import Slide


@dataclass(frozen=True)
class Exported:
    """What is written.

    Attributes
    ----------
    saved
        The run, with the maps and the look it has now.
    slide
        Its slide, opened with the run's µm per pixel; None where none is needed.
    grid_map, display
        The map, for what shows one, and how it is shown; None for its usual way.
    region
        ``(x, y, width, height)`` in level-0 pixels that a picture shows; None for all.
    mpp
        µm per pixel of pictures and pyramids; None for their own defaults.
    full_paths
        Let the record say where slide, features and checkpoint lie on this machine.
    with_patient
        Let DICOM results say whose slide it is.
    features
        The features of the run, where they are in memory; else they are read from their file.
    on_progress, should_stop
        As everywhere.
    """

    saved: SavedRun
    slide: "Slide | None" = None
    grid_map: GridMap | None = None
    display: DisplaySettings | None = None
    region: tuple[int, int, int, int] | None = None
    mpp: float | None = None
    full_paths: bool = False
    with_patient: bool = False
    features: "FeatureBag | None" = None
    on_progress: ProgressCallback | None = None
    should_stop: StopCallback | None = None

    @property
    def the_slide(self) -> "Slide":
        """The slide, of which it was made sure that it is that of the run."""
        if self.slide is None:
            raise ExportError(f"{self.saved.record.slide.name} is needed for this; open the slide")
        return self.slide

    @property
    def the_map(self) -> GridMap:
        """The map to show."""
        if self.grid_map is not None:
            return self.grid_map
        if not self.saved.maps:
            raise ExportError(f"the run {self.saved.folder.name} has no map; export its tables")
        return self.saved.maps[0]

    @property
    def the_display(self) -> DisplaySettings:
        """How the map is shown."""
        return self.display or display_for(self.the_map, self.saved.display)

    @property
    def watched(self) -> dict[str, Any]:
        """How writers tell of their progress and are stopped."""
        return {"on_progress": self.on_progress, "should_stop": self.should_stop}

    def scores(self) -> PatchScores:
        """Return the patches with attention and all maps."""
        saved = self.saved
        return patch_scores(
            saved.grid.coords,
            saved.grid.patch_size_level0,
            saved.prediction,
            tissue_fraction=saved.grid.tissue_fraction,
            mpp=saved.record.slide.mpp,
            maps=saved.maps,
        )


@dataclass(frozen=True)
class Format:
    """A kind of file (or folder) that a run can be written as.

    Attributes
    ----------
    title, hint
        For menus.
    suffix
        How its name ends.
    write
        Writes it, whole or not at all.
    ending
        What follows the names of slide and map in the file's name.
    of_map
        Whether there is one for each map.
    needs_slide
        Whether the slide must be there.
    has_mpp
        Whether a resolution can be chosen.
    of_view
        Whether it shows what the window shows, so that only the viewer can write it.
    is_usual
        Whether it is written where nobody chooses.
    of_dicom
        Whether it is for DICOM slides only; it can then say whose slide it is.
    module
        The optional library it needs.
    extra
        The extra of this package that brings the library.
    """

    title: str
    suffix: str
    hint: str
    write: Callable[[Exported, Path], Path]
    ending: str = ""
    of_map: bool = False
    needs_slide: bool = False
    has_mpp: bool = False
    of_view: bool = False
    is_usual: bool = True
    of_dicom: bool = False
    module: str = ""
    extra: str = ""

    def is_for(self, slide: "Slide") -> bool:
        """Whether it can be written of a run on such a slide."""
        return not self.of_dicom or is_dicom_slide(slide)

    def require_library(self) -> None:
        """Refuse where the optional library is absent.

        Raises
        ------
        ExportError
            Saying what to install.
        """
        if self.module and importlib.util.find_spec(self.module) is None:
            raise ExportError(
                f"{self.title} needs the library {self.module}, which is not installed; run pip "
                f'install "napari-2dmamba[{self.extra}]"'
            )


def _picture(exported: Exported, path: Path) -> Path:
    record = exported.saved.record
    use = record.model.intended_use
    return write_picture(
        exported.the_slide,
        exported.the_map,
        path,
        PictureSettings(mpp=exported.mpp),
        display=exported.the_display,
        region=exported.region,
        title=f"{record.slide.name}\n{describe(exported.saved.prediction)}",
        notes=[use] if use else [],
        **exported.watched,
    )


def _overlay(write: Callable[..., Path]) -> Callable[[Exported, Path], Path]:
    def written(exported: Exported, path: Path) -> Path:
        return write(
            exported.the_slide,
            exported.the_map,
            path,
            PyramidSettings(mpp=exported.mpp),
            display=exported.the_display,
            **exported.watched,
        )

    return written


def _values(write: Callable[..., Path]) -> Callable[[Exported, Path], Path]:
    def written(exported: Exported, path: Path) -> Path:
        settings = PyramidSettings(mpp=exported.mpp)
        return write(exported.the_map, path, settings, slide=exported.the_slide, **exported.watched)

    return written


def _geojson(exported: Exported, path: Path) -> Path:
    about = exported.saved.record.slide
    return write_geojson(
        exported.scores(), path, bounds=about.bounds_level0_px, slide_id=about.fingerprint
    )


def _table(exported: Exported, path: Path) -> Path:
    return write_table(exported.scores(), path)


def _report(exported: Exported, path: Path) -> Path:
    return write_run_report(exported.saved, exported.the_slide, path, **exported.watched)


def _store(write: Callable[..., Path]) -> Callable[[Exported, Path], Path]:
    def written(exported: Exported, path: Path) -> Path:
        return write(
            exported.saved,
            exported.scores(),
            path,
            slide=exported.the_slide,
            features=exported.features,
        )

    return written


def _dicom_map(exported: Exported, path: Path) -> Path:
    return write_dicom_map(
        exported.the_slide,
        exported.the_map,
        path,
        record=exported.saved.record,
        with_patient=exported.with_patient,
    )


def _record(exported: Exported, path: Path) -> Path:
    return write_record(exported.saved.record, path, full_paths=exported.full_paths)


FORMATS: Mapping[str, Format] = {
    "view": Format(
        "Picture of the view", ".png",
        "What the window shows of the slide, with the map, a colour bar and a scale bar.",
        _picture, of_map=True, needs_slide=True, of_view=True,
    ),
    "png": Format(
        "Picture of the whole slide", ".png",
        "The slide with the map, a colour bar and a scale bar.",
        _picture, of_map=True, needs_slide=True, has_mpp=True,
    ),
    "report": Format(
        "Report on one page", ".html",
        "Slide, map, answer, top patches, numbers, what made them and what to mistrust, in one "
        "file for a browser; it prints well.",
        _report, "-report", needs_slide=True, is_usual=False,
    ),
    "overlay": Format(
        "Overlay as image pyramid", ".ome.tif",
        "Slide and map in one OME-TIFF, aligned to the slide; opens as a pyramid in QuPath, "
        "OpenSlide and others.",
        _overlay(write_overlay_tiff), "-overlay", of_map=True, needs_slide=True, has_mpp=True,
    ),
    "map": Format(
        "Raw map as image pyramid", ".ome.tif",
        "The values as float32 in an OME-TIFF, aligned to the slide.",
        _values(write_map_tiff), of_map=True, needs_slide=True, has_mpp=True,
    ),
    "overlay-zarr": Format(
        "Overlay as OME-Zarr", ".ome.zarr",
        "Slide and map in one OME-Zarr 0.4 folder, aligned to the slide.",
        _overlay(write_overlay_zarr), "-overlay", of_map=True, needs_slide=True, has_mpp=True,
        is_usual=False, module="zarr", extra="zarr",
    ),
    "map-zarr": Format(
        "Raw map as OME-Zarr", ".ome.zarr",
        "The values as float32 in an OME-Zarr 0.4 folder, aligned to the slide.",
        _values(write_map_zarr), of_map=True, needs_slide=True, has_mpp=True,
        is_usual=False, module="zarr", extra="zarr",
    ),
    "dicom-map": Format(
        "Map as DICOM Parametric Map", ".dcm",
        "A float32 per patch, placed on the glass of this DICOM slide, to whose images it refers. "
        "With the patient's data, name, ID, birth date, sex, accession number, dates, physician, "
        "institution and specimen leave with the file; else they stay empty.",
        _dicom_map, "-map", of_map=True, needs_slide=True, is_usual=False, of_dicom=True,
        module="highdicom", extra="dicom-results",
    ),
    "geojson": Format(
        "Patches for QuPath", ".geojson", "One tile per patch with its measurements.",
        _geojson, "-patches",
    ),
    "csv": Format("Scores as CSV table", ".csv", "One row per patch.", _table, "-patches"),
    "parquet": Format(
        "Scores as Parquet table", ".parquet", "One row per patch, typed and small.",
        _table, "-patches",
    ),
    "h5ad": Format(
        "Patches as AnnData", ".h5ad",
        "Features, scores and places of the patches for scanpy and squidpy, in one file.",
        _store(write_anndata), "-patches", needs_slide=True, is_usual=False,
        module="anndata", extra="anndata",
    ),
    "spatialdata": Format(
        "Run as SpatialData", ".zarr",
        "Patches, features, scores, maps, regions and a thumbnail for spatialdata, squidpy and "
        "napari-spatialdata, in one folder.",
        _store(write_spatialdata), "-spatialdata", needs_slide=True, is_usual=False,
        module="spatialdata", extra="spatialdata",
    ),
    "record": Format(
        "Record of the run", ".json", "Settings, versions and checksums.", _record, "-record"
    ),
}  # fmt: skip
"""By the name that the command line takes."""

ON_COMMAND_LINE = tuple(name for name, one in FORMATS.items() if not one.of_view)
TOGETHER = {"ome-tiff": ("overlay", "map")}
"""Names for several formats at once."""
USUAL = tuple(name for name in ON_COMMAND_LINE if FORMATS[name].is_usual)
