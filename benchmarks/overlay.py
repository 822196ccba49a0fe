"""Draw a map of many patches, and a PNG of it over the slide, beside a loop over the patches.

    python benchmarks/overlay.py [--patches 1000 10000 100000] [--rounds 5]

The loop is written here in the manner of common heatmap scripts: a full canvas at 1/16 of
level 0 that every patch adds its score to, then a second loop that colours and blends every
patch. Every cell of the table runs in a process of its own; memory is the growth of its peak
resident size over what it held with everything loaded. The slide is a synthetic pyramid of
256-px patches whose 1/16 level holds pixels and whose finer levels are white.
"""

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PATCH, DOWN, TILE = 256, 16, 256
WAYS = ("map", "map x16", "loop x16", "png", "loop png", "geojson", "parquet")


def patches(count: int) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
    """Return coordinates of a full square grid of at least ``count`` patches, and scores."""
    side = math.ceil(math.sqrt(count))
    row, col = np.divmod(np.arange(side * side), side)
    coords = np.stack([col, row], axis=1).astype(np.int64) * PATCH
    scores = np.random.default_rng(0).lognormal(-10, 2, len(coords)).astype(np.float32)
    return coords, scores, side


def write_slide(path: Path, side: int) -> None:
    """Write a pyramid of 1, 1/4 and 1/16 whose fine levels are one white tile again and again."""
    import tifffile

    rng = np.random.default_rng(1)
    tissue = rng.normal((225, 190, 215), 12, (TILE, TILE, 3)).clip(0, 255).astype(np.uint8)
    white = np.full((TILE, TILE, 3), 255, np.uint8)

    def tiles(size: int, tile: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        for _ in range((-(-size // TILE)) ** 2):
            yield tile

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, tile in ((1, white), (4, white), (16, tissue)):
            size = side * PATCH // level
            writer.write(
                tiles(size, tile), shape=(size, size, 3), dtype="uint8", tile=(TILE, TILE),
                photometric="rgb", compression="jpeg", subfiletype=0 if level == 1 else 1,
                resolution=(20000 / level, 20000 / level), resolutionunit="CENTIMETER",
            )  # fmt: skip


def prepare(way: str, count: int, folder: Path) -> Callable[[], Any]:
    """Load everything and return the call that is timed."""
    import matplotlib
    from PIL import Image

    from napari_2dmamba.explain.display import DisplaySettings, to_rgba
    from napari_2dmamba.explain.grid_map import scatter
    from napari_2dmamba.export import (
        PatchScores,
        PictureSettings,
        write_geojson,
        write_picture,
        write_table,
    )  # fmt: skip
    from napari_2dmamba.slide import open_slide

    coords, scores, side = patches(count)
    colours = matplotlib.colormaps["viridis"]
    colours(0.5)
    mpp = 0.5
    size, small = side * PATCH // DOWN, PATCH // DOWN
    display = DisplaySettings()

    def the_map() -> Any:
        return scatter(scores, coords, PATCH, name="attention", meaning="share", mpp=mpp)

    def layer() -> NDArray[np.uint8]:
        return to_rgba(the_map(), display)

    def layer_x16() -> NDArray[np.uint8]:
        return layer().repeat(small, axis=0).repeat(small, axis=1)

    def loop(background: NDArray[np.uint8]) -> NDArray[np.uint8]:
        order = np.argsort(np.argsort(scores)) / len(scores)
        canvas, hits = np.zeros((size, size)), np.zeros((size, size))
        for (x, y), rank in zip(coords // DOWN, order, strict=True):
            canvas[y : y + small, x : x + small] += rank
            hits[y : y + small, x : x + small] += 1
        canvas[hits > 0] /= hits[hits > 0]
        picture = background.copy()
        for x, y in coords // DOWN:
            block = colours(canvas[y : y + small, x : x + small])[..., :3] * 255
            under = picture[y : y + small, x : x + small]
            picture[y : y + small, x : x + small] = (0.5 * under + 0.5 * block).astype(np.uint8)
        return picture

    if way == "map":
        return layer
    if way == "map x16":
        return layer_x16
    if way == "loop x16":
        white = np.full((size, size, 3), 255, np.uint8)
        return lambda: loop(white)
    if way in ("geojson", "parquet"):
        table = PatchScores(coords, PATCH, coords[:, ::-1] // PATCH, scores, mpp=mpp)
        if way == "geojson":
            return lambda: write_geojson(table, folder / "a.geojson")
        return lambda: write_table(table, folder / "a.parquet")
    slide = open_slide(folder / f"slide-{side}.tif", mpp=mpp)
    if way == "png":
        settings = PictureSettings(mpp=mpp * DOWN)
        return lambda: write_picture(slide, the_map(), folder / "a.png", settings)

    def loop_png() -> None:
        background = slide.read_region(0, 0, len(slide.level_dimensions) - 1, size, size)
        Image.fromarray(loop(background)).save(folder / "b.png")

    return loop_png


def measure(way: str, count: int, rounds: int, folder: Path) -> dict[str, float]:
    """Time one way in this process."""
    call = prepare(way, count, folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times, busy = [], []
    for _ in range(rounds):
        start, start_busy = time.perf_counter(), time.process_time()
        call()
        times.append(time.perf_counter() - start)
        busy.append(time.process_time() - start_busy)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "median": statistics.median(times),
        "min": min(times),
        "max": max(times),
        "cpu": statistics.median(busy),
        "grown_mb": grown / 1024,
    }


def main() -> None:
    """Run every way at every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # way, count, folder
    options = parser.parse_args()
    if options.one:
        way, count, folder = options.one
        print(json.dumps(measure(way, int(count), options.rounds, Path(folder))))
        return
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
          f"Python {platform.python_version()}, numpy {np.__version__}")  # fmt: skip
    print(f"median of {options.rounds} [min-max]; cpu is the process's own time, all threads")
    print(f"{PATCH}-px patches on a full grid; x16 and PNG are 1/{DOWN} of level 0\n")
    with tempfile.TemporaryDirectory() as folder:
        for count in options.patches:
            side = patches(count)[2]
            write_slide(Path(folder, f"slide-{side}.tif"), side)
            print(f"{side * side} patches, slide of {side * PATCH} x {side * PATCH} px")
            found = {}
            for way in WAYS:
                done = subprocess.run(
                    [sys.executable, __file__, "--rounds", str(options.rounds),
                     "--one", way, str(count), folder],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                result = json.loads(done.stdout)
                found[way] = result["median"]
                times = [1000 * result[k] for k in ("median", "min", "max", "cpu")]
                words = "  {:9} {:10.2f} ms [{:.2f}-{:.2f}], cpu {:.2f} ms".format(way, *times)
                print(f"{words}, memory +{result['grown_mb']:.0f} MB", flush=True)
            drawing = found["loop x16"] / found["map x16"]
            whole = found["loop png"] / found["png"]
            print(f"  loop / map at the same picture size: {drawing:.1f}; as PNG: {whole:.1f}\n")


if __name__ == "__main__":
    main()
