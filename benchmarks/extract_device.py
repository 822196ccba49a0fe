"""How much of an encoder's speed an extraction keeps, on a GPU above all.

    python benchmarks/extract_device.py [--slide SLIDE] [--encoder vit_large_patch16_224]
        [--device cuda] [--precision bfloat16] [--patches 4000] [--threads 8 12] [--rounds 3]

The encoder alone is given patches that lie on the device already, and nothing is waited for before
the last batch. Extraction is measured as it is, and "one batch at a time", that is, without looking
ahead, in the same rounds. Reading is measured alone, by threads. Ratios are of the same round;
medians over rounds. The network has random weights (its speed is that of any); `stain-texture-v1`
is the embedded encoder. Without a slide one is written: noise at 0.25 um/px in JPEG tiles.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from extract import write_slide

from napari_2dmamba.features import encoder_speed, encoding
from napari_2dmamba.features.encoder import Encoder, choose_device, load_encoder
from napari_2dmamba.features.encoder_names import EMBEDDED_ENCODER
from napari_2dmamba.features.encoder_speed import name_of_device
from napari_2dmamba.features.extract import FeatureSettings, extract_features
from napari_2dmamba.features.model_encoder import ModelEncoder
from napari_2dmamba.features.patch_reader import PatchReader
from napari_2dmamba.features.timm_encoder import create
from napari_2dmamba.features.transform import Transform
from napari_2dmamba.slide import PatchGrid, Slide, open_slide


def encoder_of(name: str, device: torch.device, precision: str) -> Encoder:
    """Return the embedded encoder, or a network of timm with random weights."""
    if name == EMBEDDED_ENCODER:
        return load_encoder(name, device=device)
    return ModelEncoder(
        create(name), name=name, transform=Transform(), device=device, licence="none",
        weights_from="random", precision=precision, checksum="random",
    )  # fmt: skip


def grid_of(slide: Slide, patches: int) -> PatchGrid:
    """Patches of 256 px at 0.5 um/px, row by row, tissue or not."""
    mpp = slide.mpp or 0.25
    side = round(256 * 0.5 / mpp)
    columns, rows = (length // side for length in slide.dimensions)
    corners = np.array([(x * side, y * side) for y in range(rows) for x in range(columns)])
    corners = corners[:patches]
    weights = np.ones(len(corners), np.float32)
    return PatchGrid(256, side, mpp * side / 256, slide.mpp, (rows, columns), corners, weights)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--encoder", default="vit_large_patch16_224")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--patches", type=int, default=4000)
    parser.add_argument("--threads", type=int, nargs="+", default=[8, 12])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = choose_device(options.device)
    encoder = encoder_of(options.encoder, device, options.precision)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        encoder_speed.speeds_file = lambda: folder / "speeds.json"  # not those of this user
        path = options.slide
        if path is None:
            path = folder / "noise.tif"
            write_slide(path, 512 * int(np.ceil(options.patches**0.5)))
        slide = stack.enter_context(open_slide(path))
        grid = grid_of(slide, options.patches)
        print(
            f"{slide.name}, {len(grid)} patches of 256 px at {grid.mpp:.3f} um/px, "
            f"{options.batch_size} at a time; {encoder.name}, "
            f"{getattr(encoder, 'precision', 'float32')}"
        )
        print(
            f"{name_of_device(device)}; {platform.processor() or platform.machine()}, "
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; torch {torch.__version__}, "
            f"Python {platform.python_version()}; medians of {options.rounds}"
        )
        first = next(PatchReader(slide, grid).batches(options.batch_size)).pixels
        there = torch.from_numpy(first.copy()).to(device)

        def wait() -> None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        def alone() -> int:
            batches = max(2, len(grid) // len(there))
            for _ in range(batches):
                encoder.encode(there, grid.mpp)
            wait()
            return batches * len(there)

        def reading(threads: int) -> Callable[[], int]:
            def run() -> int:
                batches = PatchReader(slide, grid, threads=threads).batches(options.batch_size)
                return sum(len(batch.pixels) for batch in batches)

            return run

        def extraction(threads: int, ahead: int) -> Callable[[], int]:
            settings = FeatureSettings(threads=threads, batch_size=options.batch_size)

            def run() -> int:
                usual = encoding.batches_ahead
                encoding.batches_ahead = lambda _: ahead
                try:
                    return len(extract_features(slide, grid, settings, encoder=encoder))
                finally:
                    encoding.batches_ahead = usual

            return run

        runs: dict[str, Callable[[], int]] = {"encoder alone, patches on the device": alone}
        for threads in sorted({1, 4, *options.threads}):
            runs[f"reading alone, {threads} threads"] = reading(threads)
        for threads in options.threads:
            runs[f"extraction, {threads} threads"] = extraction(
                threads, encoding.batches_ahead(device)
            )
            if encoding.batches_ahead(device):
                runs[f"one batch at a time, {threads} threads"] = extraction(threads, 0)
        speeds: dict[str, list[float]] = {name: [] for name in runs}
        alone()  # what only the first call does
        for _ in range(options.rounds):
            for name, run in runs.items():
                wait()
                began = time.perf_counter()
                speeds[name].append(run() / (time.perf_counter() - began))
        base = next(iter(speeds.values()))
        for name, found in speeds.items():
            ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
            print(
                f"  {name:40s} {statistics.median(found):8.1f} patches/s "
                f"[{min(found):.1f}-{max(found):.1f}]   {ratio:5.2f} of the encoder alone"
            )


if __name__ == "__main__":
    main()
