"""The whole path on one slide: time of each stage, patches per second, peak memory.

    python benchmarks/pipeline.py SLIDE [--checkpoint FILE] [--rounds 3]

The alternative in the same run is the reading alone, done by OpenSlide one patch after the
other with Pillow's area filter, as most extraction scripts do. `extract.py` compares readers with
a bare decode of the same tiles. Every round is a process of its own, without any cache but the
operating system's; medians.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Run the rounds and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=("ours", "openslide"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        stages = ours(options) if options.one == "ours" else openslide_reading(options)
        stages["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(stages))
        return
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, load {os.getloadavg()[0]:.1f}, {options.slide.name}, "
          f"{options.rounds} rounds")  # fmt: skip
    for way in ("ours", "openslide"):
        command = [sys.executable, __file__, str(options.slide), "--one", way]
        if options.checkpoint:
            command += ["--checkpoint", str(options.checkpoint)]
        rounds = [
            json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            for _ in range(options.rounds)
        ]
        middle = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
        print(f"{way}: " + ", ".join(f"{name} {value:.2f}" for name, value in middle.items()))


def ours(options: argparse.Namespace) -> dict[str, float]:
    """Open, find tissue, extract, predict, save; seconds of each."""
    from napari_2dmamba.features import FeatureSettings, extract_features
    from napari_2dmamba.models import load_checkpoint
    from napari_2dmamba.pipeline import RunSettings, prepare_grid, run
    from napari_2dmamba.sample import demo_checkpoint
    from napari_2dmamba.slide import GridSettings, open_slide

    stages: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        stages[name], clock = now - clock, now

    aggregator = load_checkpoint(options.checkpoint or demo_checkpoint())
    lap("load s")
    with open_slide(options.slide) as slide, tempfile.TemporaryDirectory() as folder:
        lap("open s")
        trained = GridSettings().trained_for(aggregator.header)
        _, grid = prepare_grid(slide, RunSettings(), trained, None)
        lap("tissue s")
        bag = extract_features(slide, grid, FeatureSettings())
        lap("extract s")
        aggregator.predict(bag)
        lap("predict s")
        run(slide, aggregator, features=bag, out=folder)
        lap("predict and save s")
    stages["patches/s"] = len(bag) / stages["extract s"]
    return stages


def openslide_reading(options: argparse.Namespace) -> dict[str, float]:
    """Read the same patches one by one through OpenSlide; nothing is encoded."""
    import openslide
    from PIL import Image

    from napari_2dmamba.models import load_checkpoint
    from napari_2dmamba.pipeline import RunSettings, prepare_grid
    from napari_2dmamba.sample import demo_checkpoint
    from napari_2dmamba.slide import GridSettings, open_slide

    aggregator = load_checkpoint(options.checkpoint or demo_checkpoint())
    with open_slide(options.slide) as slide:
        trained = GridSettings().trained_for(aggregator.header)
        _, grid = prepare_grid(slide, RunSettings(), trained, None)
    source = openslide.OpenSlide(options.slide)
    size, target = grid.patch_size_level0, (grid.patch_size, grid.patch_size)
    began = time.perf_counter()
    for x, y in grid.coords.tolist():
        patch = source.read_region((x, y), 0, (size, size)).convert("RGB")
        patch.resize(target, Image.Resampling.BOX)
    seconds = time.perf_counter() - began
    return {"read s": seconds, "patches/s": len(grid) / seconds}


if __name__ == "__main__":
    main()
