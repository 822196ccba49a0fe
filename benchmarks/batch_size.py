"""Time feature extraction with the fixed and with the measured batch size, in turn.

    python benchmarks/batch_size.py slide.svs [--patches 128] [--rounds 3] [--threads 2]

The embedded encoder and ResNet-50 as CLAM uses it, with random weights. The sizes are measured
first, as an extraction does once per machine; that time is printed and not part of the others.
CPU time is that of all threads of this process. Nothing is kept in the user's settings.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from napari_2dmamba.features import Encoder, FeatureSettings, extract_features, load_encoder
from napari_2dmamba.features.batch_size import SAMPLE, default_batch_size, measure_batch_size
from napari_2dmamba.features.encoder_speed import name_of_device
from napari_2dmamba.features.patch_reader import PatchReader
from napari_2dmamba.features.timm_encoder import require_timm
from napari_2dmamba.slide import (
    GridSettings,
    PatchGrid,
    Slide,
    detect_tissue,
    make_grid,
    open_slide,
)


def first_patches(slide: Slide, count: int, size: int) -> PatchGrid:
    """Return a grid of the first patches on tissue."""
    whole = make_grid(slide, detect_tissue(slide), GridSettings(patch_size=size))
    return PatchGrid(
        whole.patch_size, whole.patch_size_level0, whole.mpp, whole.slide_mpp, whole.canvas,
        whole.coords[:count], whole.tissue_fraction[:count],
    )  # fmt: skip


def resnet(folder: Path, device: str) -> Encoder:
    """Return ResNet-50 with random weights."""
    timm = require_timm()
    torch.manual_seed(0)
    weights = folder / "random.safetensors"
    save_file(timm.create_model("resnet50").state_dict(), weights)
    return load_encoder("resnet50-clam", weights, device=device, offline=True)


def compare(slide: Slide, grid: PatchGrid, encoder: Encoder, rounds: int, threads: int) -> None:
    """Measure the size, then extract with both in turn."""
    reader = PatchReader(slide, grid, threads=threads)
    sample = torch.from_numpy(next(reader.batches(SAMPLE)).pixels.copy())
    began, began_busy = time.perf_counter(), time.process_time()
    found = measure_batch_size(encoder, sample, grid.mpp)
    wall, busy = time.perf_counter() - began, time.process_time() - began_busy
    speeds = ", ".join(f"{size}: {speed:.3g}" for size, speed in found.tried.items())
    print(
        f"{encoder.name}: measured in {wall:.1f} s ({busy:.1f} s of CPU), "
        f"patches/s by size {speeds}"
    )
    sizes = {"fixed": default_batch_size(encoder.device), "automatic": found.batch_size}
    walls: dict[str, list[float]] = {name: [] for name in sizes}
    busies: dict[str, list[float]] = {name: [] for name in sizes}
    bags = {}
    for _ in range(rounds):
        for name, size in sizes.items():
            settings = FeatureSettings(batch_size=size, threads=threads)
            began, began_busy = time.perf_counter(), time.process_time()
            bags[name] = extract_features(slide, grid, settings, encoder=encoder)
            walls[name].append(time.perf_counter() - began)
            busies[name].append(time.process_time() - began_busy)
    for name, size in sizes.items():
        each = sorted(len(grid) / taken for taken in walls[name])
        cpu = 1e3 * statistics.median(busies[name]) / len(grid)
        print(f"  {name:9} {size:3} at a time: {statistics.median(each):7.1f} patches/s "
              f"[{each[0]:.1f}-{each[-1]:.1f}], {cpu:6.1f} ms of CPU a patch")  # fmt: skip
    gains = [fixed / automatic for fixed, automatic in zip(*walls.values(), strict=True)]
    by_cpu = [fixed / automatic for fixed, automatic in zip(*busies.values(), strict=True)]
    same = (bags["fixed"].features == bags["automatic"].features).all()
    print(f"  automatic is {statistics.median(gains):.2f} times as fast "
          f"({statistics.median(by_cpu):.2f} by CPU); "
          f"{'the same bits' if same else 'other bits'}", flush=True)  # fmt: skip


def main() -> None:
    """Print the comparison for both encoders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--patches", type=int, default=128)
    parser.add_argument("--patch-size", type=int, default=256)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder, open_slide(options.slide) as slide:
        os.environ["XDG_CONFIG_HOME"] = folder  # speeds of a benchmark are not the user's
        grid = first_patches(slide, options.patches, options.patch_size)
        embedded = load_encoder(device=options.device)
        print(
            f"{slide.name}, {len(grid)} patches of {grid.patch_size} px; "
            f"{name_of_device(embedded.device)}, {os.cpu_count()} CPUs, load "
            f"{os.getloadavg()[0]:.1f}, torch {torch.__version__}, Python "
            f"{platform.python_version()}; medians of {options.rounds} [min-max]"
        )
        for encoder in (embedded, resnet(Path(folder), options.device)):
            compare(slide, grid, encoder, options.rounds, options.threads)


if __name__ == "__main__":
    main()
