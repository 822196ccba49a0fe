"""Do one thing with a fault at every single call that changes a file, and then do it again.

Run by `test_faults` in a process of its own into which `shim.c` is loaded. Every trial is a fork,
so that the imports are paid for once.
"""

import ctypes
import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari_2dmamba.cohort import CohortSettings, extract_cohort, run_cohort
from napari_2dmamba.errors import UserError
from napari_2dmamba.features import FeatureSettings, extract_features, read_features
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.slide import GridSettings, detect_tissue, make_grid, open_slide
from tests.tiny import write_checkpoint, write_slide

_KILL, _FULL = 1, 2
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


class Refused(Exception):
    """A slide failed, with the reason."""


def digest(array: Any) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


ACTIONS: dict[str, Callable[[Path, Path], str]] = {
    "extraction": extraction,
    "cohort_extraction": cohort_extraction,
    "run": run,
}


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


def main(name: str, folder: Path, every: int) -> None:
    action = ACTIONS[name]
    slide = write_slide(folder / "s.tif")
    write_checkpoint(folder / "tiny.safetensors")

    def counted() -> str:
        shim.fault_arm(str(folder / "count").encode(), _MOST_CALLS, _KILL)
        answer = action(slide, folder / "count")
        return f"{shim.fault_calls()} {answer}"

    code, answer = forked(counted)
    if code:
        sys.exit(f"without any fault: {answer}")
    count, expected = answer.split(" ", 1)
    wrong = []
    sentences = set()
    for mode in (_KILL, _FULL):
        for call in range(1, int(count) + 1, every):
            out = folder / f"out-{mode}-{call}"

            def armed(out: Path = out, call: int = call, mode: int = mode) -> str:
                shim.fault_arm(str(out).encode(), call, mode)
                return action(slide, out)

            code, first = forked(armed)
            what = f"{'killed' if mode == _KILL else 'disk full'} at call {call}"
            if code == 1 and mode == _FULL:
                sentences.add(first.replace(str(out), "OUT"))
            elif not (code == 0 and first == expected) and not (code == 137 and mode == _KILL):
                wrong.append(f"{what}: {code} {first}")
            code, again = forked(lambda out=out: action(slide, out))
            if code or again != expected:
                wrong.append(f"after {what}: {code} {again}")
    print(json.dumps({"calls": int(count), "wrong": wrong, "sentences": sorted(sentences)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
