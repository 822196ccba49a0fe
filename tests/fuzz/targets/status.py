"""The status files of a cohort, of which a damaged one stops nobody."""

import dataclasses
import importlib
from pathlib import Path

from napari_2dmamba.cohort.display import print_table
from napari_2dmamba.cohort.folders import claim
from napari_2dmamba.cohort.status import SlideStatus, read_cohort, write_status, write_summary
from napari_2dmamba.errors import UserError
from tests.fuzz.mutate import Seed

for _heavy in ("napari_2dmamba.export.run_folder", "psutil", "rich.live"):
    importlib.import_module(_heavy)  # once, and not in the fork of each mutant

ALLOWED = UserError


def seeds(folder: Path) -> list[Seed]:
    listed = []
    for state, result in (
        ("done", {"prediction": "a", "probabilities": {"a": 0.7, "b": 0.3}, "patches": 9}),
        ("done", {"risk": -1.5, "patches": 9, "folder": "x"}),
        ("running", {}),
        ("superseded", {"feature_size": 5, "file": "features.h5"}),
    ):
        out = folder / f"out-{len(listed)}"
        for name in ("x", "y"):
            (out / name).mkdir(parents=True)
            row = SlideStatus(
                str(folder / f"{name}.tif"), state, "l", {"n": "1"}, 0.5, str(out / name),
                "a reason", result, 1, 2.0, "", "2026-01-01", "", "0" * 32, "key", "cohort",
            )  # fmt: skip
            write_status(row)
        listed.append(Seed(out, inside="x/status.json", text=True))
    return listed


def drive(path: Path) -> None:
    summary = read_cohort(path, superseded=True)
    assert any(Path(row.folder).name == "y" for row in summary.rows)
    print_table(summary)
    write_summary(path, summary.rows)
    row = SlideStatus(str(path.parent / "x.tif"), fingerprint="1" * 32)
    folder = claim(path, row, "1" * 32, alone=True)
    write_status(dataclasses.replace(row, folder=str(folder), state="done"))
    write_summary(path, read_cohort(path).rows)
