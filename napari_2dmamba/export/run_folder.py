"""A run as a folder that opens again with its maps, prediction and settings.

run.json              the record (see `record`), how the maps are shown, and checksums
arrays.safetensors    coordinates, prediction and maps, exact
scores.parquet        the same per patch, as a table for other programs
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.patches import patch_scores
from napari_2dmamba.export.record import file_hash, read_record, write_record
from napari_2dmamba.export.tables import write_table
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.slide.grid import PatchGrid
from napari_2dmamba.whole_files import written_whole

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

RECORD_FILE = "run.json"
_ARRAYS_FILE = "arrays.safetensors"
_TABLE_FILE = "scores.parquet"


@dataclass(frozen=True)
class SavedRun:
    """A run as it was saved.

    Attributes
    ----------
    folder
        Where it lies.
    record
        See `make_record`.
    grid
        The patches, in the order of ``prediction.attention``.
    prediction, maps, display
        As they were saved.
    """

    folder: Path
    record: dict[str, Any]
    grid: PatchGrid
    prediction: SlidePrediction
    maps: tuple[GridMap, ...]
    display: DisplaySettings

    def find_slide(self) -> Path:
        """Return the path of the slide, which may have moved together with the run.

        Raises
        ------
        ExportError
            When it is in none of the places where it is looked for; ask the user for it.
        """
        found = self._find(self.record["slide"].get("path"), "slide")
        if found is None:
            raise ExportError(
                f"the slide {self.record['slide']['name']} of the run {self.folder.name} is "
                f"neither at {self.record['slide']['path']} nor beside the run; choose where it "
                "is now"
            )
        return found

    def find_features(self) -> Path | None:
        """Return the file of the features, or None when it was not kept or is gone."""
        return self._find(self.record["features"].get("path"), "features")

    def _find(self, path: str | None, what: str) -> Path | None:
        if path is None:
            return None
        absolute = Path(path)
        relative = self.record.get("relative_paths", {}).get(what)
        places = [self.folder / absolute.name, self.folder.parent / absolute.name, absolute]
        if relative is not None:
            places.insert(0, self.folder / relative)
        return next((place.resolve() for place in places if place.exists()), None)

    def check_slide(self, slide: "Slide") -> None:
        """Refuse to show the run on another slide.

        Raises
        ------
        ExportError
            When the fingerprint differs.
        """
        if slide.fingerprint != self.record["slide"]["fingerprint"]:
            raise ExportError(
                f"{slide.path.name} is not the slide of the run {self.folder.name}, which was "
                f"made on {self.record['slide']['name']}; choose that file"
            )


def save_run(
    folder: str | os.PathLike[str],
    record: Mapping[str, Any],
    *,
    grid: PatchGrid,
    prediction: SlidePrediction,
    maps: Sequence[GridMap],
    display: DisplaySettings | None = None,
) -> Path:
    """Save a run; an older run in the same folder is replaced, other files stay.

    All files are complete before the first of them takes its place, and ``run.json`` comes
    last with the checksums of the others.

    Parameters
    ----------
    folder
        Made when it does not exist.
    record
        From `make_record`.
    grid
        The patches in the order of ``prediction.attention``.
    prediction, maps
        What is shown.
    display
        How it is shown; the defaults when absent.

    Raises
    ------
    ExportError
        When the folder cannot be written, or the parts do not belong together.
    """
    import safetensors.numpy

    folder = Path(folder)
    arrays: dict[str, NDArray[Any]] = {
        "grid.coords": grid.coords,
        "grid.tissue_fraction": grid.tissue_fraction,
    }
    plain: dict[str, Any] = {
        "grid": {
            field.name: getattr(grid, field.name)
            for field in dataclasses.fields(grid)
            if f"grid.{field.name}" not in arrays
        },
        "prediction": {},
        "maps": [],
    }
    for field in dataclasses.fields(prediction):
        value = getattr(prediction, field.name)
        if isinstance(value, np.ndarray):
            arrays[f"prediction.{field.name}"] = value
        else:
            plain["prediction"][field.name] = value
    for index, one in enumerate(maps):
        arrays[f"map.{index}"] = one.values
        names = [field.name for field in dataclasses.fields(one) if field.name != "values"]
        plain["maps"].append({name: getattr(one, name) for name in names})
    scores = patch_scores(
        grid.coords,
        grid.patch_size_level0,
        prediction,
        tissue_fraction=grid.tissue_fraction,
        mpp=grid.slide_mpp,
        maps=maps,
    )
    contents = {
        **record,
        "relative_paths": {
            "slide": _relative(record["slide"].get("path"), folder),
            "features": _relative(record["features"].get("path"), folder),
        },
        "saved": {**plain, "display": display or DisplaySettings()},
    }
    with (
        written_whole(folder / RECORD_FILE) as record_part,
        written_whole(folder / _TABLE_FILE) as table_part,
        written_whole(folder / _ARRAYS_FILE) as arrays_part,
    ):  # left from last to first: the record is the last to take its place
        write_table(scores, table_part)
        # bytes first: safetensors' own writer hides the reason when a disk is full
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        arrays_part.write_bytes(safetensors.numpy.save(whole))
        contents["checksums"] = {
            _ARRAYS_FILE: file_hash(arrays_part),
            _TABLE_FILE: file_hash(table_part),
        }
        write_record(contents, record_part)
    return folder


def _relative(path: str | None, folder: Path) -> str | None:
    if path is None:
        return None
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:  # another drive of Windows
        return None


def open_run(folder: str | os.PathLike[str]) -> SavedRun:
    """Open a saved run: its folder, or the ``run.json`` in it.

    Raises
    ------
    ExportError
        When it is no saved run, or damaged: says which file.
    """
    import safetensors
    import safetensors.numpy

    folder = Path(folder)
    if folder.name == RECORD_FILE:
        folder = folder.parent
    record = read_record(folder / RECORD_FILE)
    arrays_path = folder / _ARRAYS_FILE
    again = "restore it from a copy, or run the slide again"
    if not arrays_path.is_file():
        raise ExportError(f"{arrays_path} is missing from the saved run; {again}")
    try:
        if file_hash(arrays_path) != record["checksums"][_ARRAYS_FILE]:
            raise ExportError(
                f"{arrays_path} was changed or cut short since the run was saved (its checksum "
                f"differs from the one in {RECORD_FILE}); {again}"
            )
        arrays = safetensors.numpy.load_file(arrays_path)
        saved = record.pop("saved")
        record = {k: v for k, v in record.items() if k != "checksums"}
        grid = PatchGrid(
            **_with_tuples(saved["grid"], "canvas"),
            coords=arrays["grid.coords"],
            tissue_fraction=arrays["grid.tissue_fraction"],
        )
        predicted = _with_tuples(saved["prediction"], "canvas", "class_names")
        for name, array in arrays.items():
            if name.startswith("prediction."):
                predicted[name.removeprefix("prediction.")] = array
        prediction = SlidePrediction(**predicted)
        maps = tuple(
            GridMap(values=arrays[f"map.{index}"], **_map_fields(one))
            for index, one in enumerate(saved["maps"])
        )
        display = DisplaySettings(**saved["display"])
    except (
        KeyError, TypeError, AttributeError, ValueError, safetensors.SafetensorError,
    ) as error:  # fmt: skip
        raise ExportError(
            f"the run in {folder} is damaged ({type(error).__name__}: {error}); {again}"
        ) from error
    return SavedRun(folder, record, grid, prediction, maps, display)


def _map_fields(saved: dict[str, Any]) -> dict[str, Any]:
    fields = _with_tuples(saved, "origin", "display_range")
    return fields | {"queries": tuple((int(x), int(y)) for x, y in saved.get("queries", ()))}


def _with_tuples(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return fields with the lists of JSON turned back into the tuples they were."""
    return {
        name: tuple(value) if name in names and value is not None else value
        for name, value in fields.items()
    }
