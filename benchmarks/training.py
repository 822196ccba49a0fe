"""Slides per second and peak memory of training: the loader alone, the step alone, both.

    python benchmarks/training.py [--slides 1000] [--patches 1000] [--size 1024] [--step-slides 60]

Synthetic bags of float32 features are written to a folder of their own first (``--folder`` keeps
and reuses it): with the defaults 4 GB. Every measurement runs in a process of its own; memory is
the growth of its peak resident size over what it held with everything imported. The named
alternative in the same run is the plain torch definition of the scan in place of the kernels.
``loader``: every bag read once, in memory bounded by ``--memory-mb``, as an epoch reads them.
``step``: forward, backward and optimiser on bags that lie in memory, over ``--step-slides`` bags.
``both``: one epoch of `napari_2dmamba.training.fit` from the disk, over as many.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARTS = (
    ("loader", "kernels"),
    ("step", "kernels"),
    ("step", "definition"),
    ("both", "kernels"),
)


def write_bags(folder: Path, slides: int, patches: int, size: int) -> None:
    """Write the bags that are not there yet, patches in a block of cells."""
    import numpy as np

    from napari_2dmamba.features import write_features
    from napari_2dmamba.features.bag import FeatureBag

    folder.mkdir(parents=True, exist_ok=True)
    side = int(np.ceil(np.sqrt(patches)))
    cells = np.stack(np.unravel_index(np.arange(patches), (side, side)), 1)
    for number in range(slides):
        path = folder / f"s{number}.h5"
        if path.is_file():
            continue
        values = np.random.default_rng(number).standard_normal((patches, size), np.float32)
        bag = FeatureBag(values, cells[:, ::-1] * 256, 256, 256, 0.5, encoder="synthetic")
        write_features(bag, path)


def one(job: dict) -> dict:
    """Measure one part in this process."""
    import torch

    from napari_2dmamba.models import Aggregator, CheckpointHeader
    from napari_2dmamba.models.checkpoint import build_model
    from napari_2dmamba.scan import backend_for, use_backend
    from napari_2dmamba.tasks import LabelledSlide, Table, TableBags
    from napari_2dmamba.tasks.bags import prefetched
    from napari_2dmamba.training import FitSettings, fit

    torch.set_num_threads(job["threads"])
    folder = Path(job["folder"])
    count = job["slides"] if job["part"] == "loader" else min(job["slides"], job["step_slides"])
    slides = tuple(
        LabelledSlide(f"s{n}", f"p{n}", "ab"[n % 2], features=folder / f"s{n}.h5")
        for n in range(count)
    )
    table = Table("classification", ("a", "b"), slides)
    bags = TableBags(table, [s.name for s in slides], memory_mb=job["memory_mb"])
    header = CheckpointHeader(
        "2dmamba", {"feature_size": job["size"], "n_outputs": 2, "canvas_mode": "slide"},
        "classification", ("a", "b"),
    )  # fmt: skip
    torch.manual_seed(0)
    aggregator = Aggregator(build_model(header), header)
    settings = FitSettings(epochs=1, patience=0, device="cpu")
    # Of their own: what `bags` has read already it would not read again
    few = TableBags(table, [s.name for s in slides[:8]], memory_mb=0)[:8]
    held = [few[n % len(few)] for n in range(count)]
    kernels = backend_for(torch.zeros(1, 1, 1, 1)).name
    backend = "definition" if job["scan"] == "definition" else kernels
    with use_backend(backend):
        if job["part"] != "loader":
            fit(aggregator, few[:2], settings=settings)  # imports and first calls
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        if job["part"] == "loader":
            for bag in prefetched(bags, range(count), settings.prefetch):
                del bag
        else:
            fit(aggregator, held if job["part"] == "step" else bags, settings=settings)
        seconds = time.perf_counter() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {**job, "slides_per_second": count / seconds, "mib": grown / 1024, "count": count}


def main() -> None:
    """Write the bags, measure every part in turn over the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--patches", type=int, default=1000)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--step-slides", type=int, default=60)
    parser.add_argument("--memory-mb", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(json.loads(options.one))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        write_bags(folder, options.slides, options.patches, options.size)
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads; "
            f"{options.slides} bags of {options.patches} x {options.size}, memory for bags "
            f"{options.memory_mb} MiB, medians of {options.rounds}"
        )
        found: dict[tuple[str, str], list[dict]] = {part: [] for part in PARTS}
        names = ("slides", "size", "step_slides", "memory_mb", "threads")
        told = {name: getattr(options, name) for name in names}
        for _ in range(options.rounds):
            for part, scan in PARTS:
                job = {"part": part, "scan": scan, "folder": str(folder), **told}
                command = [sys.executable, __file__, "--one", json.dumps(job)]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found[part, scan].append(json.loads(out.splitlines()[-1]))
    print("\n| | scan | slides | slides/s | peak memory, MiB |\n|---|---|---|---|---|")
    for (part, scan), rows in found.items():
        speed, memory = (
            sorted(row[name] for row in rows)[len(rows) // 2]
            for name in ("slides_per_second", "mib")
        )
        print(f"| {part} | {scan} | {rows[0]['count']} | {speed:.1f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
