"""Settings as records hold them and as the command line takes them; tables and their splits."""

import dataclasses
import importlib
import json
import os
import shlex
from pathlib import Path
from typing import Any

from napari_2dmamba.errors import ExportError, UserError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.export.typed_json import WrongTypeError, read_typed
from napari_2dmamba.features import FeatureFileSettings, FeatureSettings
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.pipeline import RunSettings, prepare_grid
from napari_2dmamba.settings import validate
from napari_2dmamba.slide import GridSettings, TissueSettings, open_slide
from napari_2dmamba.tasks import SplitSettings, make_split, read_split, read_table
from napari_2dmamba.tasks.splits import check_split, write_split
from napari_2dmamba.training.settings import FitSettings
from tests.fuzz.mutate import Seed
from tests.tiny import write_checkpoint, write_slide

for _heavy in (
    "torch",
    "pandas",
    "imagecodecs",
    "skimage.morphology",
    "skimage.filters",
    "sklearn.model_selection",
    "scipy.stats",
    "rich.live",
    "torch._dynamo",
    "napari_2dmamba.cohort.run",
    "napari_2dmamba.compare.figure",
    "napari_2dmamba.export.exporting",
):  # once, not in each fork
    importlib.import_module(_heavy)


class Refused(Exception):
    """The command line's own sentence."""


ALLOWED = (UserError, Refused)
commands = importlib.import_module(
    "napari_2dmamba.cli.main"
)  # its package has a function so called
_STAGES: dict[str, Any] = {
    "tissue": TissueSettings, "grid": GridSettings, "features": FeatureSettings,
    "model": ModelSettings, "feature_file": FeatureFileSettings, "display": DisplaySettings,
    "fit": FitSettings, "split": SplitSettings,
}  # fmt: skip
_COMMANDS = (
    "extract s.tif --out out --patch-size 128 --target-mpp 1.0 --min-tissue 0.4 --batch-size 16 "
    "--mpp 0.5 --workers 1 --retries 0",
    "run s.tif --out out --checkpoint tiny.safetensors --patch-size 64 --target-mpp 0.5 "
    "--workers 1 --retries 0 --device cpu --precision float32",
    "split table.csv --folds 3 --split-seed 4 --out parts.csv",
    "rerun none --exact",
    "export none --formats png,csv --export-mpp 4 --regions-above 90% --colour c80000",
)
_ROWS = "slide,patient,label\n" + "".join(f"s{n},P{n // 2},{'ab'[n % 2]}\n" for n in range(24))


def seeds(folder: Path) -> list[Seed]:
    """Write settings of every stage, command lines, and a table with its split."""
    made = folder / "made"
    made.mkdir()
    write_slide(made / "s.tif")
    write_checkpoint(made / "tiny.safetensors")
    held = {name: dataclasses.asdict(kind()) for name, kind in _STAGES.items()}
    (made / "settings.json").write_text(json.dumps(held))
    (made / "table.csv").write_text(_ROWS)
    write_split(make_split(read_table(made / "table.csv"), SplitSettings()), made / "split.csv")
    inside = ["settings.json", "settings.json", "table.csv", "split.csv"]
    for number, line in enumerate(_COMMANDS):
        copy = folder / f"command-{number}"
        copy.mkdir()
        for file in made.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        (copy / "command.txt").write_text(line)
    listed = [Seed(made, text=True, inside=name) for name in inside]
    return listed + [
        Seed(folder / f"command-{number}", text=True, inside="command.txt")
        for number in range(len(_COMMANDS))
    ]


def drive(path: Path) -> None:
    """Read and use them; a command is given as a shell would give it."""
    if (path / "command.txt").exists():
        _command(path)
        return
    _split(path)
    _settings(path)


def _settings(path: Path) -> None:
    try:
        held = json.loads((path / "settings.json").read_bytes().decode("utf-8", "replace"))
    except ValueError as error:
        raise Refused(f"not JSON: {error}") from error
    stages: dict[str, Any] = {}
    try:
        for name, kind in _STAGES.items():
            if isinstance(held, dict) and held.get(name) is not None:
                stages[name] = read_typed(kind, held[name], name)
                validate(stages[name])
    except WrongTypeError as error:
        raise ExportError(f"damaged ({error})") from error
    run = RunSettings(tissue=stages.get("tissue", TissueSettings()))
    with open_slide(path / "s.tif") as slide:
        _tissue, grid = prepare_grid(slide, run, stages.get("grid", GridSettings()), None)
    assert grid.patch_size_level0 > 0
    assert len(grid) > 0


def _split(path: Path) -> None:
    table = read_table(path / "table.csv")
    check_split(table, read_split(path / "split.csv"))
    table.require_usable()
    make_split(table, SplitSettings())


def _command(path: Path) -> None:
    os.chdir(path)

    def unexpected(error: Exception, doing: str) -> str:
        raise error

    commands.sentence_for = unexpected
    text = (path / "command.txt").read_bytes().decode("utf-8", "surrogateescape")
    try:
        given = shlex.split(text)
    except ValueError as error:
        raise Refused(f"not a command line: {error}") from error
    if not given or given[0] in ("view", "demo") or given[0] not in commands.COMMANDS:
        raise Refused("opens the viewer")
    try:
        code = commands.main(given)
    except SystemExit as ended:
        code = ended.code
    if code not in (0, 1, 2):
        raise AssertionError(f"exit code {code}")
    if code:
        raise Refused(f"exit code {code}")
