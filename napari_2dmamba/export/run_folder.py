"""A run as a folder that opens again with its maps, prediction, regions and settings.

run.json              the record (see `record`), and checksums of the other files
arrays.safetensors    coordinates, prediction and maps, exact
scores.parquet        the same per patch, as a table for other programs
regions.geojson       what the run was restricted to, in level-0 pixels; only if it was
"""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import ExportError, GridError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.content_hash import file_hash
from napari_2dmamba.export.finite import refuse_not_finite
from napari_2dmamba.export.json_file import as_json, write_json
from napari_2dmamba.export.patches import patch_scores
from napari_2dmamba.export.record import RunRecord, read_json, record_in
from napari_2dmamba.export.record_of_run import regions_record
from napari_2dmamba.export.saved_run import AGAIN, SavedRun
from napari_2dmamba.export.tables import write_table
from napari_2dmamba.export.typed_json import WrongTypeError, read_fields
from napari_2dmamba.models.prediction import SlidePrediction, is_cox
from napari_2dmamba.slide.grid import PatchGrid
from napari_2dmamba.slide.region_files import read_regions, write_regions
from napari_2dmamba.slide.regions import Regions

if TYPE_CHECKING:
    pass

RECORD_FILE = "run.json"
_ARRAYS_FILE = "arrays.safetensors"
_TABLE_FILE = "scores.parquet"
REGIONS_FILE = "regions.geojson"
RUN_FILES = (RECORD_FILE, _ARRAYS_FILE, _TABLE_FILE, REGIONS_FILE)

_GRID_ARRAYS = ("coords", "tissue_fraction")
_PREDICTION_ARRAYS = ("logits", "attention", "cells")
_FARTHEST = 2**40
"""Level-0 pixels; sums and products of places stay within 64 bits."""


def save_run(
    folder: str | os.PathLike[str],
    record: RunRecord,
    *,
    grid: PatchGrid,
    prediction: SlidePrediction,
    maps: Sequence[GridMap],
    regions: Regions | None = None,
    display: DisplaySettings | None = None,
) -> Path:
    """Save a run; an older run in the same folder is replaced, other files stay.

    All files are complete before the first of them takes its place, and ``run.json`` comes
    last with the checksums of the others.

    Parameters
    ----------
    folder
        Made when it does not exist; see `run_library.new_run_folder`.
    record
        From `make_record`.
    grid
        The patches in the order of ``prediction.attention``.
    prediction, maps
        What is shown.
    regions
        What the run was restricted to.
    display
        How it is shown; that of the record when absent.

    Raises
    ------
    ExportError
        When the folder cannot be written, or the parts do not belong together.
    """
    import safetensors.numpy

    folder = Path(folder)
    refuse_not_finite(prediction)
    record = dataclasses.replace(
        record, display=display or record.display, regions=regions_record(regions)
    )
    arrays: dict[str, NDArray[Any]] = {f"grid.{name}": getattr(grid, name) for name in _GRID_ARRAYS}
    plain: dict[str, Any] = {
        "grid": {
            field.name: getattr(grid, field.name)
            for field in dataclasses.fields(grid)
            if field.name not in _GRID_ARRAYS
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
    with contextlib.ExitStack() as files:  # left from last to first: the record comes last
        record_part = files.enter_context(atomic_write(folder / RECORD_FILE))
        table_part = files.enter_context(atomic_write(folder / _TABLE_FILE))
        arrays_part = files.enter_context(atomic_write(folder / _ARRAYS_FILE))
        write_table(scores, table_part)
        # bytes first: safetensors' own writer hides the reason when a disk is full
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        arrays_part.write_bytes(safetensors.numpy.save(whole))
        checksums = {_ARRAYS_FILE: file_hash(arrays_part), _TABLE_FILE: file_hash(table_part)}
        if regions:
            regions_part = files.enter_context(atomic_write(folder / REGIONS_FILE))
            write_regions(regions, regions_part, offset=None)
            checksums[REGIONS_FILE] = file_hash(regions_part)
        contents = {
            **record.relative_to(folder).to_json(),
            "saved": plain,
            "checksums": checksums,
        }
        write_json(contents, record_part)
    if not regions:
        (folder / REGIONS_FILE).unlink(missing_ok=True)
    return folder


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
    data = read_json(folder / RECORD_FILE)
    record = record_in(data, folder / RECORD_FILE)
    arrays_path = folder / _ARRAYS_FILE
    if not arrays_path.is_file():
        raise ExportError(f"{arrays_path} is missing from the saved run; {AGAIN}")
    try:
        _check_sum(data, arrays_path)
        regions = _regions_in(folder, data, record)
        arrays = safetensors.numpy.load_file(arrays_path)
        grid, prediction, maps = _parts_of(data["saved"], arrays)
        _check_together(record, grid, prediction, maps)
        if is_cox(prediction.task, len(prediction.class_names)):
            # An earlier version took the sigmoid of its logit for a hazard, as `ResultRecord` knows
            prediction = dataclasses.replace(
                prediction, hazards=None, survival=None, risk=float(prediction.logits[0])
            )
    except (
        KeyError, TypeError, AttributeError, ValueError, OverflowError, GridError,
        safetensors.SafetensorError,
    ) as error:  # fmt: skip
        raise ExportError(
            f"the run in {folder} is damaged ({type(error).__name__}: {error}); {AGAIN}"
        ) from error
    return SavedRun(folder, record, grid, prediction, maps, regions)


def _parts_of(
    saved: Any, arrays: dict[str, NDArray[Any]]
) -> tuple[PatchGrid, SlidePrediction, tuple[GridMap, ...]]:
    """Return what ``run.json`` and the arrays hold together, each value of its type."""
    if not isinstance(saved, dict) or not isinstance(saved["maps"], list):
        raise WrongTypeError("saved is no object with maps")
    grid_fields = read_fields(PatchGrid, saved["grid"], "saved.grid", leave_out=_GRID_ARRAYS)
    grid_fields |= {name: arrays[f"grid.{name}"] for name in _GRID_ARRAYS}
    held = {
        name.removeprefix("prediction."): array
        for name, array in arrays.items()
        if name.startswith("prediction.")
    }
    predicted = read_fields(
        SlidePrediction, saved["prediction"], "saved.prediction",
        leave_out=(*_PREDICTION_ARRAYS, *held),
    )  # fmt: skip
    grid, prediction = PatchGrid(**grid_fields), SlidePrediction(**(predicted | held))
    maps = tuple(
        GridMap(
            values=arrays[f"map.{index}"],
            **read_fields(GridMap, one, f"saved.maps[{index}]", leave_out=("values",)),
        )
        for index, one in enumerate(saved["maps"])
    )
    return grid, prediction, maps


def _check_together(
    record: RunRecord, grid: PatchGrid, prediction: SlidePrediction, maps: Sequence[GridMap]
) -> None:
    """Refuse arrays that do not fit one another, or a record that says something else.

    Raises
    ------
    WrongTypeError
        Naming what does not fit.
    """
    count, classes = len(grid.coords), len(prediction.class_names)
    shapes: dict[str, tuple[NDArray[Any], tuple[int, ...], str]] = {
        "grid.coords": (grid.coords, (count, 2), "i"),
        "grid.tissue_fraction": (grid.tissue_fraction, (count,), "f"),
        "prediction.attention": (prediction.attention, (count,), "f"),
        "prediction.cells": (prediction.cells, (count, 2), "i"),
        "prediction.logits": (prediction.logits, (classes,), "f"),
    }
    for name in ("probabilities", "hazards", "survival"):
        value = getattr(prediction, name)
        if value is not None:
            shapes[f"prediction.{name}"] = (value, (classes,), "f")
    for name, (array, shape, kind) in shapes.items():
        if array.shape != shape or array.dtype.kind != kind:
            raise WrongTypeError(f"{name} is {array.dtype} of shape {array.shape}, not {shape}")
    if count and not (np.abs(grid.coords.astype(np.float64)) <= _FARTHEST).all():
        raise WrongTypeError("grid.coords lie beyond any slide")
    if count == 0 or grid.patch_size_level0 < 1 or grid.patch_size < 1 or min(grid.canvas) < 1:
        raise WrongTypeError("saved.grid has no patch, or patches without a size")
    for what, mpp in (("saved.grid", grid.mpp), ("saved.grid", grid.slide_mpp)):
        if mpp is not None and mpp <= 0:
            raise WrongTypeError(f"{what} states {mpp} µm per pixel")
    for one in maps:
        if one.values.ndim != 2 or one.values.dtype.kind != "f" or not one.values.size:
            raise WrongTypeError(f"the map {one.name[:80]!r} is {one.values.dtype} of shape "
                                 f"{one.values.shape}")  # fmt: skip
        if one.patch_size_level0 < 1 or (one.mpp is not None and one.mpp <= 0):
            raise WrongTypeError(f"the map {one.name[:80]!r} has patches without a size")
        if one.display_range is not None and not one.display_range[0] <= one.display_range[1]:
            raise WrongTypeError(f"the map {one.name[:80]!r} has an empty display range")
    try:
        refuse_not_finite(prediction)
    except ExportError as error:
        raise WrongTypeError(str(error)) from error
    said = record.result
    same = prediction.class_names == said.class_names and all(
        np.array_equal(getattr(prediction, name), getattr(said, name))
        for name in ("logits", "probabilities", "hazards", "survival")
        if getattr(prediction, name) is not None and getattr(said, name) is not None
    )
    if said.logits and not same:
        raise WrongTypeError(f"the result in {RECORD_FILE} is another than that in {_ARRAYS_FILE}")


def _regions_in(folder: Path, data: dict[str, Any], record: RunRecord) -> Regions | None:
    path = folder / REGIONS_FILE
    if record.regions is None and REGIONS_FILE not in data.get("checksums", {}):
        return None  # else there are notes, which restrict nothing
    if not path.is_file():
        raise ExportError(f"{path} is missing from the saved run; {AGAIN}")
    _check_sum(data, path)
    return read_regions(path, notes_suffice=True)


def _check_sum(data: dict[str, Any], path: Path) -> None:
    """Refuse a file that is not the one the record was saved with.

    Raises
    ------
    ExportError
        When its checksum differs.
    """
    if file_hash(path) != data["checksums"][path.name]:
        raise ExportError(
            f"{path} was changed or cut short since the run was saved (its checksum "
            f"differs from the one in {RECORD_FILE}); {AGAIN}"
        )


def change_record(folder: str | os.PathLike[str], **texts: str) -> RunRecord:
    """Change title or notes of a saved run; all else stays as it is, unknown fields too.

    Raises
    ------
    ExportError
        When the run is damaged, a text is too long, or the record cannot be written.
    """
    path = Path(folder) / RECORD_FILE
    data = {**read_json(path), **texts}
    changed = record_in(data, path)
    write_json(data, path)
    return changed


def saved_display(folder: str | os.PathLike[str], display: DisplaySettings) -> RunRecord:
    """Change how the maps of a saved run are shown when it is opened next.

    Raises
    ------
    ExportError
        As `change_record`.
    """
    path = Path(folder) / RECORD_FILE
    data = read_json(path)
    held = data.get("saved")
    if data.get("schema_version") == 1 and isinstance(held, dict):
        data["saved"] = {**held, "display": as_json(display)}
    else:
        data["display"] = as_json(display)
    changed = record_in(data, path)
    write_json(data, path)
    return changed
