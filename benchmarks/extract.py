"""Patches per second: reading, encoding, both; beside a bare decode and other readers.

    python benchmarks/extract.py SLIDE [--encoder NAME --weights FILE] [--threads 2] [--rounds 5]

Reading is compared, in the same rounds, with the floor: the stored tiles under the same
patches, their bytes already in memory, decoded once each on as many threads by the codec
itself. Other readers run where they are installed. Every row is a median over rounds, with its
share of the floor of the same round.
"""

import argparse
import importlib.util
import math
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from napari_2dmamba.features.encoder import load_encoder
from napari_2dmamba.features.extract import FeatureSettings, extract_features
from napari_2dmamba.features.patch_reader import PatchReader
from napari_2dmamba.features.resample import LIBRARY
from napari_2dmamba.slide import (
    GridSettings,
    PatchGrid,
    Slide,
    detect_tissue,
    make_grid,
    open_slide,
)


def bare_decode(slide: Slide, grid: PatchGrid, threads: int) -> Callable[[], None] | None:
    """Decode each tile under the grid once, from memory, with nothing around it."""
    import tifffile

    try:
        tiff = tifffile.TiffFile(slide.path)
    except tifffile.TiffFileError:
        return None
    reader = PatchReader(slide, grid)
    page = tiff.series[0].levels[reader.level].pages[0]
    if not page.is_tiled:
        return None
    columns = -(-page.imagewidth // page.tilewidth)
    rows = -(-page.imagelength // page.tilelength)
    wanted = sorted(
        {
            row * columns + column
            for index in range(len(grid))
            for row, column in reader.tiles_of(index)
            if row < rows and column < columns
        }
    )
    tables, header = page.jpegtables, page.jpegheader
    data = []
    for index in wanted:
        tiff.filehandle.seek(page.dataoffsets[index])
        data.append((index, tiff.filehandle.read(page.databytecounts[index])))
    if page.compression == 7:
        import imagecodecs

        color = None if page.photometric == 6 else 2

        def decode(job: tuple[int, bytes]) -> None:
            if header:
                page.decode(job[1], job[0], jpegtables=tables, jpegheader=header)
            else:
                imagecodecs.jpeg8_decode(
                    job[1], tables=tables, colorspace=color, outcolorspace=color
                )
    else:

        def decode(job: tuple[int, bytes]) -> None:
            page.decode(job[1], job[0])

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(decode, data):
                pass

    run.tiles = len(data)  # type: ignore[attr-defined]
    return run


def openslide_reader(slide: Slide, grid: PatchGrid, threads: int) -> Callable[[], None] | None:
    """OpenSlide per patch at the same level, resized with Pillow, as most tools do."""
    import openslide
    from PIL import Image

    try:
        other = openslide.OpenSlide(slide.path)
    except openslide.OpenSlideError:
        return None
    reader = PatchReader(slide, grid)
    side = round(grid.patch_size_level0 / slide.level_downsamples[reader.level])

    def read(corner: np.ndarray) -> None:
        patch = other.read_region((int(corner[0]), int(corner[1])), reader.level, (side, side))
        rgb = patch.convert("RGB")
        if side != grid.patch_size:
            rgb = rgb.resize((grid.patch_size, grid.patch_size), Image.Resampling.BOX)
        np.asarray(rgb)

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(read, grid.coords):
                pass

    return run


def zarr_reader(slide: Slide, grid: PatchGrid, threads: int) -> Callable[[], None] | None:
    """Tifffile's zarr store, cut per patch; of patches between levels, the pixels under them."""
    if importlib.util.find_spec("zarr") is None:
        return None
    import tifffile
    import zarr

    reader = PatchReader(slide, grid)
    try:
        store = tifffile.imread(slide.path, aszarr=True, series=0, level=reader.level)
    except tifffile.TiffFileError:
        return None
    array = zarr.open(store, mode="r")
    side = round(grid.patch_size_level0 / slide.level_downsamples[reader.level])
    corners = np.rint(grid.coords / slide.level_downsamples[reader.level]).astype(int)

    def read(corner: np.ndarray) -> None:
        x, y = corner
        np.asarray(array[y : y + side, x : x + side])

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(read, corners):
                pass

    return run


class _Bags:
    """What CLAM's own loader does per patch: OpenSlide, RGB, resize, to float, normalise."""

    def __init__(self, path: Path, corners: np.ndarray, level: int, side: int) -> None:
        self.path, self.corners, self.level, self.side = path, corners, level, side
        self.slide = None

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> object:
        import openslide
        import torch

        if self.slide is None:  # one handle per worker
            self.slide = openslide.OpenSlide(self.path)
        x, y = (int(v) for v in self.corners[index])
        patch = self.slide.read_region((x, y), self.level, (self.side, self.side))
        pixels = np.asarray(patch.convert("RGB").resize((224, 224)), np.float32) / 255
        mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
        return torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)


def clam_style_reader(slide: Slide, grid: PatchGrid, threads: int) -> Callable[[], None] | None:
    """A torch DataLoader with a worker per thread, which starts them anew for every slide."""
    import openslide
    from torch.utils.data import DataLoader

    if openslide.OpenSlide.detect_format(slide.path) is None:
        return None
    level = PatchReader(slide, grid).level
    side = round(grid.patch_size_level0 / slide.level_downsamples[level])
    bags = _Bags(slide.path, grid.coords, level, side)

    def run() -> None:
        for _ in DataLoader(bags, batch_size=16, num_workers=threads):
            pass

    return run


def wsidata_reader(slide: Slide, grid: PatchGrid, threads: int) -> Callable[[], None] | None:
    """The reader of wsidata, where it is installed."""
    if importlib.util.find_spec("wsidata") is None:
        return None
    import wsidata

    other = wsidata.open_wsi(str(slide.path))
    level = PatchReader(slide, grid).level
    side = round(grid.patch_size_level0 / slide.level_downsamples[level])

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            jobs = [
                pool.submit(other.reader.get_region, int(x), int(y), side, side, level=level)
                for x, y in grid.coords
            ]
            for job in jobs:
                job.result()

    return run


def tiatoolbox_reader(slide: Slide, grid: PatchGrid, threads: int) -> Callable[[], None] | None:
    """The reader of TIAToolbox, where it is installed."""
    if importlib.util.find_spec("tiatoolbox") is None:
        return None
    from tiatoolbox.wsicore.wsireader import WSIReader

    other = WSIReader.open(slide.path)
    side = grid.patch_size

    def read(corner: np.ndarray) -> None:
        other.read_rect(
            tuple(int(v) for v in corner), (side, side), resolution=grid.mpp, units="mpp"
        )

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(read, grid.coords):
                pass

    return run


def _cpu_seconds() -> float:
    """CPU time of this process and of the worker processes that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def measure(runs: dict[str, Callable[[], None]], patches: int, rounds: int) -> None:
    """Time every run once per round, in turn, and print medians and shares of the first."""
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    times = {}  # so that clocks are read no more often than every half second
    for name, run in runs.items():
        began = time.perf_counter()
        run()
        times[name] = min(20, math.ceil(0.5 / (time.perf_counter() - began)))
    for _ in range(rounds):
        for name, run in runs.items():
            began, began_cpu = time.perf_counter(), _cpu_seconds()
            for _ in range(times[name]):
                run()
            wall[name].append((time.perf_counter() - began) / times[name])
            cpu[name].append((_cpu_seconds() - began_cpu) / times[name])
    first = next(iter(runs))
    for name, taken in wall.items():
        shares = [a / b for a, b in zip(wall[first], taken, strict=True)]
        cpu_shares = [a / b for a, b in zip(cpu[first], cpu[name], strict=True)]
        print(
            f"  {name:20s} {patches / statistics.median(taken):8.1f} patches/s "
            f"[{patches / max(taken):.1f}-{patches / min(taken):.1f}]  "
            f"{1e3 * statistics.median(cpu[name]) / patches:7.2f} ms of CPU a patch   "
            f"{statistics.median(shares):5.2f} of {first} "
            f"({statistics.median(cpu_shares):.2f} by CPU)"
        )


def write_slide(path: Path, side: int) -> None:
    """Write a square slide of noise at 0.25 um/px in JPEG tiles, all of them alike."""
    import imagecodecs
    import tifffile

    noise = np.random.default_rng(0).integers(100, 256, (32, 32, 3), np.uint8)
    tile = imagecodecs.jpeg8_encode(noise.repeat(8, 0).repeat(8, 1), level=80)
    across = side // 256
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            (tile for _ in range(across**2)),
            shape=(side, side, 3),
            dtype=np.uint8,
            tile=(256, 256),
            photometric="ycbcr",
            compression="jpeg",
            resolution=(40000, 40000),
            resolutionunit="CENTIMETER",
        )


def read_whole(path: str) -> tuple[int, float, float]:
    """Read every patch at 0.5 um/px; return patches, MB before and MB at the peak."""
    with open_slide(path) as slide:
        side = slide.dimensions[0] // 1024
        corners = np.array([(x * 1024, y * 1024) for y in range(side) for x in range(side)])
        weights = np.ones(len(corners), np.float32)
        grid = PatchGrid(512, 1024, 0.5, 0.25, (side, side), corners, weights)
        before = _peak()
        for _ in PatchReader(slide, grid).batches(16):
            pass
    return len(grid), before, _peak()


def _peak() -> float:
    """Peak of this process's memory in MB, on Linux; `resource` counts the parent's as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def memory() -> None:
    """Print the peak memory of reading slides of growing size, each in a process of its own."""
    print("\nmemory of reading in batches of 16, by the size of the slide")
    context = multiprocessing.get_context("spawn")
    for side in (5120, 10240, 20480, 40960):
        with tempfile.TemporaryDirectory() as folder, context.Pool(1) as pool:
            path = Path(folder, "slide.tif")
            write_slide(path, side)
            patches, before, peak = pool.apply(read_whole, (str(path),))
        print(
            f"  {side} x {side} px, {patches:5d} patches: {before:.0f} MB before, "
            f"{peak:.0f} MB at the peak"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--encoder", default="stain-texture-v1")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patches", type=int, default=0, help="at most so many")
    parser.add_argument("--skip-others", action="store_true")
    parser.add_argument("--skip-encoding", action="store_true")
    options = parser.parse_args()
    with open_slide(options.slide) as slide:
        print(f"{slide.name}: {slide.dimensions}, {slide.mpp} um/px, {slide.backend}")
        print(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
            f"{os.getloadavg()[0]:.1f}; {options.threads} threads, {options.rounds} rounds; area "
            f"library {'built' if LIBRARY else 'absent'}"
        )
        tissue = detect_tissue(slide)
        mpp = slide.mpp or 0.5
        wanted = {
            "level 0 as stored": mpp,
            "between levels 0 and 1": mpp * 1.978,
        }
        if len(slide.level_downsamples) > 1:
            step = slide.level_downsamples[1]
            wanted["level 1 as stored"] = mpp * step
            wanted["beyond level 1"] = mpp * step * 1.4
        for what, target in wanted.items():
            grid = make_grid(slide, tissue, GridSettings(patch_size=512, target_mpp=target))
            if options.patches and len(grid) > options.patches:
                keep = slice(0, options.patches)
                grid = PatchGrid(
                    grid.patch_size,
                    grid.patch_size_level0,
                    grid.mpp,
                    grid.slide_mpp,
                    grid.canvas,
                    grid.coords[keep],
                    grid.tissue_fraction[keep],
                )
            reader = PatchReader(slide, grid, threads=options.threads)

            def read_all(reader: PatchReader = reader) -> None:
                for _ in reader.batches(16):
                    pass

            print(f"\n{what}: {len(grid)} patches of 512 px at {target:.4f} um/px")
            runs: dict[str, Callable[[], None]] = {}
            floor = bare_decode(slide, grid, options.threads)
            if floor is not None:
                runs["bare decode"] = floor
            runs["PatchReader"] = read_all
            if not options.skip_others:
                for name, make in (
                    ("OpenSlide + Pillow", openslide_reader),
                    ("tifffile + zarr", zarr_reader),
                    ("like CLAM, to 224 px", clam_style_reader),
                    ("wsidata", wsidata_reader),
                    ("TIAToolbox", tiatoolbox_reader),
                ):
                    other = make(slide, grid, options.threads)
                    if other is not None:
                        runs[name] = other
            measure(runs, len(grid), options.rounds)
        if options.skip_encoding:
            memory()
            return

        encoder = load_encoder(
            options.encoder, options.weights, device=options.device, precision=options.precision
        )
        grid = make_grid(slide, tissue, GridSettings())
        reader = PatchReader(slide, grid, threads=options.threads)
        import torch

        batches = [torch.from_numpy(b.pixels) for b in reader.batches(16)][:4]
        settings = FeatureSettings(threads=options.threads)

        def encode() -> None:
            for batch in batches:
                encoder.encode(batch, grid.mpp)

        def both() -> None:
            extract_features(slide, grid, settings, encoder=encoder)

        def read() -> None:
            for _ in reader.batches(16):
                pass

        print(f"\n{encoder.name} on {encoder.device}, {len(grid)} patches of 512 px at 0.5 um/px")
        for name, run, count in (
            ("reading alone", read, len(grid)),
            ("encoding alone", encode, sum(map(len, batches))),
            ("both, overlapped", both, len(grid)),
        ):
            measure({name: run}, count, options.rounds)
    memory()


if __name__ == "__main__":
    main()
