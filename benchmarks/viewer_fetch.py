"""Time the fetch of a viewport from every level of a slide, beside tifffile and OpenSlide.

    python benchmarks/viewer_fetch.py SLIDE... [--windows 16] [--width 1200] [--height 900]

The sources fetch the same random windows in turn. "cold" empties our tile cache before every
fetch, "warm" keeps it as a viewer does while the windows jump about. tifffile's own path is
``aszarr`` opened by zarr (optional: ``pip install zarr``), which keeps no decoded tiles.
OpenSlide reads with its default cache and converts to RGB. napari-wsi, where it is installed, gives
its layer's dask arrays with OpenSlide behind them, colours taken to sRGB. Levels that no other
source has are our area means. Medians in milliseconds; the ratio is ours, cold, over tifffile's.
"""

import argparse
import importlib.util
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import tifffile

from napari_2dmamba.slide import open_slide
from napari_2dmamba.slide.tile_cache import shared_cache

Fetch = Callable[[int, int, int, int], np.ndarray]


def zarr_levels(path: Path) -> list[Fetch]:
    """Return one fetch per level of tifffile's zarr store; none without zarr."""
    try:
        import zarr
    except ImportError:
        return []
    try:
        opened = zarr.open(tifffile.imread(path, aszarr=True), mode="r")
    except tifffile.TiffFileError:
        return []
    names = sorted(opened.array_keys(), key=int) if hasattr(opened, "array_keys") else [None]
    arrays = [opened if name is None else opened[name] for name in names]
    return [lambda x, y, w, h, a=a: np.asarray(a[y : y + h, x : x + w]) for a in arrays]


def openslide_levels(path: Path) -> list[Fetch]:
    """Return one fetch per level of OpenSlide; none where it cannot open the file."""
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError:
        return []

    def fetch(x: int, y: int, w: int, h: int, level: int) -> np.ndarray:
        factor = slide.level_downsamples[level]
        corner = round(x * factor), round(y * factor)
        return np.asarray(slide.read_region(corner, level, (w, h)).convert("RGB"))

    return [
        lambda x, y, w, h, level=level: fetch(x, y, w, h, level)
        for level in range(slide.level_count)
    ]


def napari_wsi_levels(path: Path) -> list[Fetch]:
    """Return one fetch per level of napari-wsi's layer; none where it is not installed."""
    if importlib.util.find_spec("napari_wsi") is None:
        return []
    from napari_wsi.backends.common import WSIReaderBackend
    from napari_wsi.color_transform import ColorSpace
    from napari_wsi.common import open_store

    store = open_store(str(path), backend=WSIReaderBackend.OPENSLIDE, color_space=ColorSpace.sRGB)
    ((arrays, *_),) = store.to_layer_data_tuples()
    return [lambda x, y, w, h, a=a: np.asarray(a[y : y + h, x : x + w]) for a in arrays]


def milliseconds(fetch: Fetch, window: tuple[int, int, int, int]) -> float:
    """Time one fetch."""
    start = time.perf_counter()
    fetch(*window)
    return (time.perf_counter() - start) * 1e3


def measure(path: Path, windows: int, width: int, height: int) -> None:
    """Print one table."""
    opening = []
    for _ in range(5):
        start = time.perf_counter()
        open_slide(path).close()
        opening.append((time.perf_counter() - start) * 1e3)
    slide = open_slide(path)
    print(f"\n{slide!r}\nopen: {statistics.median(opening):.1f} ms (median of 5)")
    print(
        f"{'level':>6} {'size':>14} {'ours cold':>10} {'ours warm':>10} "
        f"{'tifffile':>9} {'OpenSlide':>10} {'napari-wsi':>11} {'ratio':>6}"
    )
    random = np.random.default_rng(0)
    others = {
        "tifffile": zarr_levels(path),
        "OpenSlide": openslide_levels(path),
        "napari-wsi": napari_wsi_levels(path),
    }
    stored = -1
    for index, level in enumerate(slide.pyramid()):
        stored += level.stored
        rows, columns = level.shape[:2]
        w, h = min(width, columns), min(height, rows)
        corners = [
            (int(random.integers(0, columns - w + 1)), int(random.integers(0, rows - h + 1)))
            for _ in range(windows)
        ]
        sources: dict[str, Fetch] = {
            "cold": lambda x, y, w, h, level=level: level[y : y + h, x : x + w]
        }
        for name, levels in others.items():
            if level.stored and stored < len(levels):
                sources[name] = levels[stored]
        times: dict[str, list[float]] = {name: [] for name in (*sources, "warm")}
        for x, y in corners:
            for name, fetch in sources.items():
                if name == "cold":
                    shared_cache.forget(lambda key: True)
                times[name].append(milliseconds(fetch, (x, y, w, h)))
        for x, y in corners:
            times["warm"].append(milliseconds(sources["cold"], (x, y, w, h)))
        median = {name: statistics.median(values) for name, values in times.items()}
        shown = {n: f"{median[n]:.1f}" if n in median else "-" for n in (*median, *others)}
        ratio = f"{median['cold'] / median['tifffile']:.2f}" if "tifffile" in median else "-"
        size = f"{columns}x{rows}" + ("" if level.stored else "*")
        print(
            f"{index:>6} {size:>14} {shown['cold']:>10} {shown['warm']:>10} "
            f"{shown['tifffile']:>9} {shown['OpenSlide']:>10} {shown['napari-wsi']:>11} {ratio:>6}"
        )
    print(f"* made by area means; tile cache {shared_cache.nbytes / 2**20:.0f} MB")


def main() -> None:
    """Measure every slide given."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=900)
    given = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; Python {platform.python_version()}, tifffile "
        f"{tifffile.__version__}, OpenSlide {openslide.__library_version__}; windows of "
        f"{given.width} x {given.height}, {given.windows} per level"
    )
    for path in given.slides:
        measure(path, given.windows, given.width, given.height)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak resident memory of the whole run: {peak:.0f} MB")


if __name__ == "__main__":
    main()
