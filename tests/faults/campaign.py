"""Do one thing with a fault at every call that changes a file or asks for memory, and do it again.

Run by `test_faults` in a process of its own into which `shim.c` is loaded, for all actions. Every
trial is a fork, so that the imports are paid for once.
"""

import ctypes
import dataclasses
import hashlib
import importlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import tifffile

from napari_2dmamba.cohort import CohortSettings, extract_cohort, run_cohort
from napari_2dmamba.errors import UserError
from napari_2dmamba.evaluation import EvaluationSettings
from napari_2dmamba.export.exporting import export_run
from napari_2dmamba.features import FeatureSettings, extract_features, read_features
from napari_2dmamba.models import load_checkpoint
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.pipeline import run as run_slide
from napari_2dmamba.slide import GridSettings, detect_tissue, make_grid, open_slide
from napari_2dmamba.tasks import SplitSettings, make_split, read_table
from napari_2dmamba.training import Preset, train
from tests.tiny import write_checkpoint, write_slide

for _heavy in (
    "torch",
    "torch._dynamo",
    "pandas",
    "pyarrow.parquet",
    "matplotlib.figure",
    "lightning_fabric",
    "scipy.stats",
    "skimage.filters",
    "sklearn.metrics",
    "imagecodecs",
):  # once, and not in each fork
    importlib.import_module(_heavy)

_KILL, _FULL, _NO_MEMORY = 1, 2, 3
_MODES = {_KILL: "killed", _FULL: "disk full", _NO_MEMORY: "no memory free"}
_MOST_CALLS = 10_000
_SETTINGS = RunSettings(
    grid=GridSettings(patch_size=64, target_mpp=0.5), features=FeatureSettings(batch_size=50)
)
_ALONE = CohortSettings(workers=1, retries=0)

shim = ctypes.CDLL(None)
shim.fault_calls.restype = ctypes.c_long


def extraction(slide: Path, out: Path) -> str:
    with open_slide(slide) as opened:
        grid = make_grid(opened, detect_tissue(opened), _SETTINGS.grid)
        bag = extract_features(opened, grid, _SETTINGS.features, cache=out)
    assert bag.path is not None
    return digest(read_features(bag.path).features)


def cohort_extraction(slide: Path, out: Path) -> str:
    row = extract_cohort([slide], _SETTINGS, out=out, cohort=_ALONE).rows[0]
    if row.state != "done" and row.state != "reused":
        raise Refused(row.reason)
    return digest(read_features(row.result["file"]).features)


def run(slide: Path, out: Path) -> str:
    checkpoint = slide.with_name("tiny.safetensors")
    row = run_cohort([slide], checkpoint, _SETTINGS, out=out, cohort=_ALONE).rows[0]
    if row.state != "done" and row.state != "reused":
        raise Refused(row.reason)
    stored = next((out / slide.stem).glob("features-*.h5"))
    return digest(read_features(stored).features) + json.dumps(row.result["probabilities"])


def export(slide: Path, out: Path) -> str:
    written = export_run(slide.with_name("made"), out=out)
    export_run(slide.with_name("made"), out=out)  # over what lies there
    return json.dumps({one.name: content(one) for one in written})


def content(path: Path) -> str:
    """Return the digest of a file; of an OME-TIFF, whose number is another each time, of pixels."""
    if path.suffix != ".tif":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    with tifffile.TiffFile(path) as file:
        return " ".join(digest(level.asarray()) for level in file.series[0].levels)


def training(slide: Path, out: Path) -> str:
    from tests.training.test_run import FIT, TINY

    table = read_table(slide.with_name("features") / "t.csv")
    fit = dataclasses.replace(FIT, epochs=3)
    done = train(
        table, make_split(table, SplitSettings(method="held-out")), out=out, architecture="abmil",
        use=Preset(fit), config=TINY, final=False, scoring=EvaluationSettings(resamples=10),
    )  # fmt: skip
    weights = load_checkpoint(done.checkpoints[0]).model.state_dict()
    scores = json.loads((out / "scores.json").read_text())["scores"]
    assert (out / "report.html").stat().st_size > 10_000
    return json.dumps([digest(one.numpy()) for one in weights.values()]) + json.dumps(scores)


class Refused(Exception):
    """A slide failed, with the reason."""


def digest(array: Any) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


ACTIONS: dict[str, Callable[[Path, Path], str]] = {
    "extraction": extraction,
    "cohort_extraction": cohort_extraction,
    "run": run,
    "export": export,
    "training": training,
}


def prepare(name: str, slide: Path, checkpoint: Path) -> str:
    """Make what an action starts from: a saved run to export, a table to train on."""
    if name == "export":
        run_slide(slide, checkpoint, _SETTINGS, out=slide.with_name("made"))
    if name == "training":
        from tests.training.test_run import cohort

        cohort(slide.with_name("features"), patients=8)
    return ""


def watch_memory(at: int) -> list[int]:
    """Let free memory be none from the ``at``-th time on that it is asked for.

    Returns
    -------
    list of int
        Grows by one each time.
    """
    asked: list[int] = []
    real = psutil.virtual_memory

    def told() -> Any:
        asked.append(1)
        memory = real()
        return memory if len(asked) < at else memory._replace(available=0, free=0)

    psutil.virtual_memory = told
    return asked


def forked(act: Callable[[], str]) -> tuple[int, str]:
    """Return exit code and answer of an action in a fork: 0, 1 for a sentence, 2 for a fault."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code, answer = 2, ""
        try:
            code, answer = 0, act()
        except (UserError, Refused) as error:
            code, answer = 1, str(error)
            if "\n" in answer or "unexpected" in answer:
                code = 2
        except BaseException:  # noqa: BLE001 - this is what a campaign looks for
            answer = traceback.format_exc()
        finally:
            shim.fault_arm(b"", 0, 0)
            os.write(write, answer.encode()[-60_000:])
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), answer


def campaign(name: str, folder: Path, every: int) -> dict[str, Any]:
    """Do an action with faults at every so many calls; return how many, and what went wrong."""
    action = ACTIONS[name]
    folder.mkdir()
    slide = write_slide(folder / "s.tif")
    checkpoint = write_checkpoint(folder / "tiny.safetensors")
    code, answer = forked(lambda: prepare(name, slide, checkpoint))
    if code:
        sys.exit(f"what is needed before {name}: {answer}")

    def counted() -> str:
        asked = watch_memory(_MOST_CALLS)
        shim.fault_arm(str(folder / "count").encode(), _MOST_CALLS, _KILL)
        answer = action(slide, folder / "count")
        return f"{shim.fault_calls()} {len(asked)} {answer}"

    code, answer = forked(counted)
    if code:
        sys.exit(f"{name} without any fault: {answer}")
    calls, asked, expected = answer.split(" ", 2)
    wrong = []
    sentences = set()
    trials = [(mode, call) for mode in (_KILL, _FULL) for call in range(1, int(calls) + 1, every)]
    trials += [(_NO_MEMORY, call) for call in range(1, int(asked) + 1, every)]
    for mode, call in trials:
        out = folder / f"out-{mode}-{call}"

        def armed(out: Path = out, call: int = call, mode: int = mode) -> str:
            if mode == _NO_MEMORY:
                watch_memory(call)
            else:
                shim.fault_arm(str(out).encode(), call, mode)
            return action(slide, out)

        code, first = forked(armed)
        what = f"{_MODES[mode]} at call {call}"
        if code == 1 and mode != _KILL:
            sentences.add(first.replace(str(out), "OUT"))
        elif not (code == 0 and first == expected) and not (code == 137 and mode == _KILL):
            wrong.append(f"{what}: {code} {first}")
        code, again = forked(lambda out=out: action(slide, out))
        if code or again != expected:
            wrong.append(f"after {what}: {code} {again}")
        shutil.rmtree(out, ignore_errors=True)
    told = {"calls": int(calls), "memory": int(asked), "trials": len(trials)}
    return {**told, "wrong": wrong, "sentences": sorted(sentences)}


if __name__ == "__main__":
    for name, every in json.loads(sys.argv[2]).items():
        found = campaign(name, Path(sys.argv[1], name), every)
        print(json.dumps({"action": name, **found}), flush=True)
