"""A saved run in several formats at once: what the command line and *Export everything* do."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.map_regions import MapThreshold, regions_above
from napari_2dmamba.export.dicom_results import write_dicom_regions
from napari_2dmamba.export.file_names import file_names, file_stem
from napari_2dmamba.export.formats import (
    FORMATS,
    ON_COMMAND_LINE,
    TOGETHER,
    USUAL,
    Exported,
    Format,
)
from napari_2dmamba.export.geojson import class_colour
from napari_2dmamba.export.run_folder import open_run
from napari_2dmamba.export.saved_run import SavedRun
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.slide import write_regions


@dataclass(frozen=True)
class RegionsAbove:
    """Which map to cut into regions, and where; see `map_regions.regions_above`.

    Attributes
    ----------
    threshold
        A value, or a percentile of the patches.
    map_name
        The map; None for the first, which is the attention.
    class_name, colour, least_patches
        Of the regions.
    """

    threshold: MapThreshold
    map_name: str | None = None
    class_name: str = ""
    colour: tuple[int, int, int] | None = None
    least_patches: int = 1


def export_run(
    run: SavedRun | str | Path,
    *,
    formats: Sequence[str] = USUAL,
    out: str | Path | None = None,
    slide_path: str | Path | None = None,
    mpp: float | None = None,
    full_paths: bool = False,
    with_patient: bool = False,
    above: "RegionsAbove | None" = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> list[Path]:
    """Write a saved run in the formats asked for, and return the files.

    Parameters
    ----------
    run
        A saved run, or its folder.
    formats
        Names from `ON_COMMAND_LINE`, or of several from `TOGETHER`.
    out
        Folder for the files; None for ``exports`` in the folder of the run. Where one format is
        asked for that makes one file, and this ends as it does, the file itself.
    slide_path
        The slide, where it has moved.
    mpp
        µm per pixel of pictures and pyramids; None for their own defaults.
    full_paths
        Let the record say where slide, features and checkpoint lie on this machine.
    with_patient
        Let DICOM results say whose slide it is.
    above
        Write what of a map lies above a threshold as regions, too; as a DICOM Segmentation as
        well where a DICOM map is asked for.

    Raises
    ------
    ExportError
        When run or slide cannot be found or do not belong together, a library is missing, or
        nothing can be written.
    Cancelled
        When ``should_stop`` says so; files written before stay.
    """
    formats = [one for name in formats for one in TOGETHER.get(name, (name,))]
    unknown = [name for name in formats if name not in ON_COMMAND_LINE]
    if unknown:
        raise ExportError(
            f"there is no format {unknown[0]!r}; choose from {', '.join(ON_COMMAND_LINE)}"
        )
    wanted = [(name, one) for name, one in FORMATS.items() if name in formats]
    for _, one in wanted:
        one.require_library()
    saved = run if isinstance(run, SavedRun) else open_run(run)
    exported = Exported(
        saved,
        mpp=mpp,
        full_paths=full_paths,
        with_patient=with_patient,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    files = _Names(saved, out, [one for _, one in wanted])
    if not any(one.needs_slide for _, one in wanted):
        return _written(exported, wanted, files, above)
    with saved.open_slide(slide_path) as slide:
        return _written(dataclasses.replace(exported, slide=slide), wanted, files, above)


def _written(
    exported: Exported,
    wanted: Sequence[tuple[str, Format]],
    files: "_Names",
    above: RegionsAbove | None,
) -> list[Path]:
    saved = exported.saved
    written: list[Path] = []
    named = list(file_names(saved.maps))
    for part, grid_map in named:
        of_map = dataclasses.replace(exported, grid_map=grid_map)
        written += [one.write(of_map, files.path(one, part)) for _, one in wanted if one.of_map]
    for name, one in wanted:
        if one.of_map:
            continue
        written.append(one.write(exported, files.path(one)))
        if name == "record" and saved.regions:
            corner = (saved.record.slide.bounds_level0_px or (0, 0))[:2]
            file = files.folder / f"{files.stem}-regions.geojson"
            write_regions(saved.regions, file, offset=corner)
            written.append(file)
    if above is not None:
        written += _write_regions_above(exported, files, above, "dicom-map" in dict(wanted))
    return written


class _Names:
    """Where files go, and what they are called.

    Attributes
    ----------
    folder, stem
        The folder, and what the names of all files begin with: the slide's name.
    """

    def __init__(self, saved: SavedRun, out: str | Path | None, wanted: Sequence[Format]) -> None:
        self.stem = file_stem(saved)
        self.folder = saved.folder / "exports" if out is None else Path(out)
        self._file: Path | None = None
        single = len(wanted) == 1 and (not wanted[0].of_map or len(saved.maps) == 1)
        is_file = single and self.folder.name.casefold().endswith(wanted[0].suffix)
        if out is not None and is_file:
            self._file, self.folder = self.folder, self.folder.parent

    def path(self, one: Format, part: str = "") -> Path:
        """Return the file of a format, for the map that ``part`` stands for."""
        middle = f"-{part}" if part else ""
        return self._file or self.folder / f"{self.stem}{middle}{one.ending}{one.suffix}"


def _write_regions_above(
    exported: Exported, files: _Names, above: RegionsAbove, as_dicom: bool
) -> list[Path]:
    saved = exported.saved
    named = list(file_names(saved.maps))
    wanted = above.map_name
    found = [(part, one) for part, one in named if wanted in (None, part, one.name)]
    if not found:
        raise ExportError(
            f"the run {saved.folder.name} has no map {wanted!r}; it has "
            f"{', '.join(one.name for _, one in named)}"
        )
    part, grid_map = found[0]
    colour = above.colour or class_colour(above.class_name or grid_map.name)
    regions = regions_above(
        grid_map,
        above.threshold,
        class_name=above.class_name,
        colour=colour,
        dimensions=saved.record.slide.dimensions_level0_px,
        least_patches=above.least_patches,
    )
    path = files.folder / f"{files.stem}-{part}-above.geojson"
    write_regions(regions, path, offset=(saved.record.slide.bounds_level0_px or (0, 0))[:2])
    if not as_dicom:
        return [path]
    segmentation = write_dicom_regions(
        exported.the_slide,
        grid_map,
        above.threshold,
        path.with_suffix(".dcm"),
        record=saved.record,
        class_name=above.class_name,
        colour=colour,
        least_patches=above.least_patches,
        with_patient=exported.with_patient,
    )
    return [path, segmentation]
