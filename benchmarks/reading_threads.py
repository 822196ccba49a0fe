"""How far reading can grow with threads: the share of its work that only one can do at a time.

    python benchmarks/reading_threads.py SLIDE [--other CHECKOUT] [--rounds 7]

Decoding and resampling run on as many cores as there are; everything else holds the interpreter's
lock. All times are CPU times of one thread, which a busy machine disturbs little: of decoding and
resampling, and of everything else, measured with a decoder and a resampler that return at once.
Their sum over the latter is the number of threads beyond which more bring nothing. With a checkout
of another version, its libraries built in it, both are measured in turn, each round in processes
of their own. For JPEG slides in TIFF; patches of 256 px.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def measure(path: str) -> dict[str, tuple[float, float]]:
    """Return ms a patch under the lock and beside it, by resolution, of the version imported."""
    import imagecodecs

    from napari_2dmamba.features import resample
    from napari_2dmamba.features.patch_reader import PatchReader
    from napari_2dmamba.slide import (
        GridSettings,
        detect_tissue,
        make_grid,
        open_slide,
        tifffile_backend,
    )

    library = resample._library()
    if library is None:
        raise SystemExit("the area library is not built here")
    beside = [0.0]

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*args, **options)
            finally:
                beside.append(time.thread_time() - began)

        return run

    def nothing(*_: Any, out: Any = None, **__: Any) -> int:
        if out is not None:
            out[-1, -1, 0] = 1  # no grey that the reader would look at more closely
        return 0

    def put(decode: Callable[..., Any], area: Callable[..., Any]) -> None:
        tifffile_backend.imagecodecs = SimpleNamespace(jpeg8_decode=decode)
        stand_in = SimpleNamespace(area_resample=area)
        resample._library = lambda: stand_in

    found = {}
    with open_slide(path) as slide:
        tissue = detect_tissue(slide)
        mpp = slide.mpp or 0.25
        for what, wanted in (("as stored", mpp), ("between levels", 1.978 * mpp)):
            grid = make_grid(slide, tissue, GridSettings(patch_size=256, target_mpp=wanted))

            def read(grid: Any = grid) -> float:
                began = time.process_time()
                for _ in PatchReader(slide, grid, threads=1).batches(64):
                    pass
                return time.process_time() - began

            put(timed(imagecodecs.jpeg8_decode), timed(library.area_resample))
            read()  # tables of weights
            beside[:] = [0.0]
            read()
            released = sum(beside)
            put(nothing, nothing)
            held = min(read() for _ in range(5))
            name = f"{what}, {wanted:.3f} um/px, {len(grid)} patches"
            found[name] = 1e3 * held / len(grid), 1e3 * released / len(grid)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        if "PYTHONPATH" in os.environ:  # an editable installation would be found before it
            sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in type(f).__module__]
        print(json.dumps(measure(str(options.slide))))
        return
    versions: dict[str, dict[str, str]] = {"this version": {}}
    if options.other:
        versions["the other"] = {"PYTHONPATH": str(options.other.resolve())}
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, Python {platform.python_version()}; medians of "
        f"{options.rounds} rounds"
    )
    rounds: dict[str, list[dict[str, list[float]]]] = {name: [] for name in versions}
    for _ in range(options.rounds):
        for name, place in versions.items():
            done = subprocess.run(
                [sys.executable, __file__, str(options.slide.resolve()), "--child"],
                env=os.environ | place, capture_output=True, text=True, check=True,
            )  # fmt: skip
            rounds[name].append(json.loads(done.stdout))
    for what in rounds["this version"][0]:
        print(f"\n{what}")
        for name, found in rounds.items():
            held, released = (statistics.median(one[what][i] for one in found) for i in (0, 1))
            print(
                f"  {name:13s} {held:.3f} ms a patch under the lock, {released:.3f} beside it: at "
                f"most {1e3 / held:.0f} patches/s, reached with {(held + released) / held:.1f} "
                "threads"
            )
        if options.other:
            pairs = zip(rounds["this version"], rounds["the other"], strict=True)
            ratio = statistics.median(theirs[what][0] / ours[what][0] for ours, theirs in pairs)
            print(f"  the other holds the lock {ratio:.2f} times as long")


if __name__ == "__main__":
    main()
