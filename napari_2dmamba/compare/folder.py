"""A comparison as files: tables, maps, and the record of what made them.

comparison.json     settings, versions, checksums, answers, agreement, time and memory
predictions.csv     one row per model
comparison-regions.geojson
                    what all models were restricted to, for QuPath; only if they were
agreement.csv       one row per pair of maps
patches.csv         one row per patch, with value and percentile rank in every map
maps/               every map as picture and as float32 OME-TIFF
"""

import csv
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.compare.comparison import FRACTIONS, Comparison
from napari_2dmamba.errors import Cancelled
from napari_2dmamba.explain.display import DisplaySettings, display_for, percentiles
from napari_2dmamba.export.file_names import file_names
from napari_2dmamba.export.frame import describe
from napari_2dmamba.export.json_file import as_json, write_json
from napari_2dmamba.export.ome_tiff import write_map_tiff
from napari_2dmamba.export.picture import write_picture
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.slide import write_regions
from napari_2dmamba.slide.grid import cells_of

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

REGIONS_FILE = "comparison-regions.geojson"

SCHEMA = "napari-2dmamba comparison"
SCHEMA_VERSION = 1

TIME_MEANING = (
    "wall time of the forward pass in seconds, after a pass that warmed up; of up to five short "
    "passes the fastest"
)


def write_comparison(
    comparison: Comparison,
    slide: "Slide",
    folder: str | os.PathLike[str],
    *,
    display: DisplaySettings | None = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> list[Path]:
    """Write tables, maps and record of a comparison into a folder, and return the files.

    The record is written last: where it is, the other files are complete.

    Raises
    ------
    ExportError
        When something cannot be written.
    Cancelled
        When ``should_stop`` says so; files written before stay.
    """
    folder = Path(folder)
    written = [
        _write_csv(folder / "predictions.csv", _predictions(comparison)),
        _write_csv(folder / "agreement.csv", agreement_table(comparison)),
        _write_patches(comparison, folder / "patches.csv"),
    ]
    if comparison.regions:
        write_regions(comparison.regions, folder / REGIONS_FILE, offset=slide.bounds[:2])
        written.append(folder / REGIONS_FILE)
    else:  # of an older comparison in the same folder
        (folder / REGIONS_FILE).unlink(missing_ok=True)
    by_map = {id(entry.grid_map): entry for entry in comparison.entries}
    maps = [entry.grid_map for entry in comparison.entries]
    for number, (name, grid_map) in enumerate(file_names(maps)):
        if should_stop is not None and should_stop():
            raise Cancelled("stopped; files written so far are kept")
        if on_progress is not None:
            on_progress(number, len(maps), f"writing {name}")
        entry = by_map[id(grid_map)]
        use = entry.header.intended_use
        written.append(
            write_picture(
                slide,
                grid_map,
                folder / "maps" / f"{name}.png",
                display=display_for(grid_map, display or DisplaySettings()),
                title=f"{slide.name}\n{entry.title}\n{describe(entry.prediction)}",
                notes=[use] if use else [],
                should_stop=should_stop,
            )
        )
        written.append(write_map_tiff(grid_map, folder / "maps" / f"{name}.ome.tif", slide=slide))
    record = make_comparison_record(comparison, display)
    written.append(write_json(record, folder / "comparison.json"))
    return written


def make_comparison_record(
    comparison: Comparison, display: DisplaySettings | None = None
) -> dict[str, Any]:
    """Return all that made a comparison, from the records of its runs; every value is JSON."""
    runs = [replace(run, record=run.record.without_paths()) for run in comparison.runs]
    first, last = runs[0].record, runs[-1].record
    models = []
    for run in runs:
        entries = [entry for entry in comparison.entries if entry.label == run.label]
        models.append(
            {
                "label": run.label,
                "model": run.record.model,
                "model_settings": run.record.settings["model"],
                "result": run.record.result,
                "warnings": run.record.warnings,
                "seconds": run.seconds,
                "peak_bytes": run.peak_bytes,
                "maps": [
                    {"name": e.map_name, "title": e.title, "meaning": e.score_meaning}
                    for e in entries
                ],
            }
        )
    query = None
    if comparison.query is not None:
        x, y = comparison.bag.coords[comparison.query]
        query = {"patch": comparison.query, "x": x, "y": y}
    shared = {name: value for name, value in first.settings.items() if name != "model"}
    record = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "started": first.started,
        "finished": last.finished,
        "software": first.software,
        "slide": first.slide,
        "grid": first.grid,
        "features": first.features,
        "regions": first.regions,
        "settings": {**shared, "display": display or DisplaySettings()},
        "models": models,
        "seconds_meaning": TIME_MEANING,
        "peak_bytes_meaning": comparison.memory_meaning,
        "agreement": agreement_table(comparison),
        "query": query,
        "not_compared": comparison.unchecked,
    }
    return dict(as_json(record))


def agreement_table(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one row per pair: Spearman's correlation, and the shared part of the highest."""
    titles = comparison.titles
    spearman = comparison.rank_correlation()
    overlaps = {fraction: comparison.overlap(fraction) for fraction in FRACTIONS}
    return [
        {
            "first": titles[i],
            "second": titles[j],
            "spearman": float(spearman[i, j]),
            **{
                f"shared_of_top_{fraction:.0%}".replace("%", "_percent"): float(found[i, j])
                for fraction, found in overlaps.items()
            },
        }
        for i, j in itertools.combinations(range(len(titles)), 2)
    ]


def _predictions(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the table of predictions with one column per class and per survival bin."""
    rows = []
    for row in comparison.predictions_table():
        flat = {k: v for k, v in row.items() if not isinstance(v, list)}
        for name, part in (("probabilities", "P"), ("survival", "S to end of")):
            if row[name] is not None:
                for kind, value in zip(row["class_names"], row[name], strict=True):
                    flat[f"{part} {kind}"] = value
        rows.append(flat)
    return rows


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows; what a row lacks, and NaN, is an empty field."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names, lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({name: "" if v != v else v for name, v in row.items()})
    return path


def _write_patches(comparison: Comparison, path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.csv

    bag = comparison.bag
    cells = cells_of(bag.coords, bag.patch_size_level0)  # as in the table of a run
    columns: dict[str, Any] = {
        "row": cells[:, 0],
        "col": cells[:, 1],
        "x_level0_px": bag.coords[:, 0],
        "y_level0_px": bag.coords[:, 1],
        "size_level0_px": np.full(len(bag), bag.patch_size_level0),
    }
    for entry in comparison.entries:
        columns[entry.title] = entry.scores
        columns[f"{entry.title} (percentile)"] = percentiles(entry.scores)
    table = pa.table({name: pa.array(v, from_pandas=True) for name, v in columns.items()})
    with atomic_write(path) as part:
        pyarrow.csv.write_csv(table, part)
    return path
