"""Saved runs, opened by what the viewer, *export*, *compare* and *rerun* open them with."""

import importlib
import json
import shutil
from pathlib import Path

from shapely import box

from napari_2dmamba.compare.saved_runs import compare_runs
from napari_2dmamba.errors import UserError
from napari_2dmamba.explain_slide import explain_run
from napari_2dmamba.export.content_hash import file_hash
from napari_2dmamba.export.exporting import export_run
from napari_2dmamba.export.run_folder import open_run
from napari_2dmamba.export.run_library import list_runs, rename_run, set_notes
from napari_2dmamba.pipeline import RunSettings, settings_of
from napari_2dmamba.plugin.session.shown_run import open_shown_run
from napari_2dmamba.rerun import rerun
from napari_2dmamba.slide import GridSettings, Regions
from tests.fuzz.mutate import Seed
from tests.tiny import write_checkpoint, write_slide

for _heavy in (
    "torch",
    "torch._dynamo",
    "pandas",
    "pyarrow.parquet",
    "safetensors.torch",
    "scipy.stats",
    "imagecodecs",
):  # once, and not in the fork of each mutant
    importlib.import_module(_heavy)

ALLOWED = UserError
_RESEALED = "resealed"
"""A folder whose damaged files get their checksums again, which would shield what reads them."""


def seeds(folder: Path) -> list[Seed]:
    """Save a run with regions and a map beside its slide, checkpoint and features."""
    listed = []
    made = folder / "made"
    made.mkdir()
    slide = write_slide(made / "s.tif")
    checkpoint = write_checkpoint(made / "tiny.safetensors")
    settings = RunSettings(grid=GridSettings(64, 0.5))
    regions = Regions.of([box(300, 250, 800, 800)], [box(500, 500, 600, 600)])
    for name in ("run", "good"):
        explain_run(slide, checkpoint, ("gradient-x-input",), settings=settings, regions=regions,
                    out=made / name, cache=made / "features")  # fmt: skip
    for inside in ("run.json", "arrays.safetensors", "regions.geojson", "scores.parquet"):
        text = inside.endswith("json")
        listed += [Seed(made, text=text, inside=f"run/{inside}")] * (4 if text else 1)
    made_again = Path(shutil.copytree(made, folder / _RESEALED))
    hot = ((0, 1200),)
    listed += [Seed(made_again, hot, inside="run/arrays.safetensors")] * 4
    listed += [Seed(made_again, text=True, inside="run/regions.geojson")] * 2
    features = next((made / "features").glob("*.h5"))
    listed += [
        Seed(made, ((0, 2048),), inside=f"features/{features.name}"),
        Seed(made, inside="tiny.safetensors"),
    ]
    return listed


def drive(path: Path) -> None:
    """List, open, compare, name, export and rerun; each may refuse, and the next is tried."""
    run = path / "run"
    if path.name == _RESEALED:
        record = json.loads((run / "run.json").read_text())
        for name in record["checksums"]:
            record["checksums"][name] = file_hash(run / name)
        (run / "run.json").write_text(json.dumps(record))
    refused = None
    for act in (_listed, _opened, _compared, _named, _exported, _rerun):
        try:
            act(run)
        except UserError as error:
            refused = refused or error
    if refused is not None:
        raise refused


def _listed(run: Path) -> None:
    assert {one.folder.name for one in list_runs(run.parent)} >= {"good"}


def _opened(run: Path) -> None:
    shown, _display = open_shown_run(run)
    assert len(shown.regions_in_words) > 0
    for one in shown.maps:
        shown.patches(one)
    settings_of(shown.record)
    repr(shown.record.without_paths())


def _compared(run: Path) -> None:
    pair = compare_runs(open_run(run.with_name("good")), open_run(run))
    assert pair.in_words


def _named(run: Path) -> None:
    rename_run(run, "a title")
    set_notes(run, "a note")


def _exported(run: Path) -> None:
    export_run(run, formats=("geojson", "csv", "parquet", "record"))


def _rerun(run: Path) -> None:
    made = rerun(run, kept_features=True)
    assert made.compared
