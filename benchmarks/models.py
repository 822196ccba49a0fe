"""Time and memory of every aggregator, and of 2DMambaMIL on the published canvases.

    python benchmarks/models.py [--patches 1000 10000 50000] [--rounds 5] [--threads 2]

Features of 1024 numbers, random weights at each paper's default widths, float32, inference
only. Models that see positions get a canvas of which 30 % is tissue in the first table, 10 %
in the second. Every cell runs in a process of its own, cells of a row in turn over the rounds;
memory is the growth of its peak resident size over what it held with the model and the
features loaded. Named alternatives in the same run: ABMIL, the plainest aggregator, in the
first table; in the second, the scan's torch definition in place of the kernels.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

MODELS: dict[str, tuple[str, dict]] = {
    "ABMIL": ("abmil", {}),
    "CLAM-SB": ("clam", {}),
    "CLAM-MB": ("clam", {"branches": 2}),
    "DSMIL": ("dsmil", {}),
    "DTFD-MIL": ("dtfd", {}),
    "TransMIL": ("transmil", {}),
    "S4MIL": ("s4mil", {}),
    "MambaMIL": ("mambamil", {"kind": "mamba"}),
    "Bi-MambaMIL": ("mambamil", {"kind": "bimamba"}),
    "SR-MambaMIL": ("mambamil", {"kind": "srmamba"}),
    "2DMambaMIL": ("2dmamba", {}),
    "2DMambaMIL, 4 corners": ("2dmamba", {"directions": 4}),
}
CANVASES = {"DHMC": (24, 40), "PANDA": (93, 190), "BRACS": (173, 355), "BRCA": (489, 415)}


def one(job: dict) -> dict:
    """Run one cell of a table in this process."""
    import torch

    from napari_2dmamba.models.registry import architecture
    from napari_2dmamba.scan import backend_for, use_backend

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    kind = architecture(job["kind"])
    model = kind(kind.config_class(1024, 2, **job["options"])).eval()
    rows, cols = job["canvas"]
    flat = torch.randperm(rows * cols)[: job["patches"]].sort().values
    cells = torch.stack([flat // cols, flat % cols], dim=1)
    features = torch.randn(job["patches"], 1024)
    backend = job["backend"] or backend_for(features).name
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    with torch.inference_mode(), use_backend(backend):
        for _ in range(2):  # the first call also warms up
            started = time.perf_counter()
            model(features, cells, (rows, cols))
            seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds[-1], "growth": (peak - before) / 1024, "peak": peak / 1024}


def measure(job: dict) -> dict:
    """Run `one` in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(job)], capture_output=True, text=True
    )
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return json.loads(done.stdout)


def table(title: str, jobs: dict[str, dict[str, dict]], rounds: int, against: str) -> None:
    """Print medians of each row and column, and the ratio to the row or column ``against``."""
    results: dict[tuple[str, str], list[dict]] = {}
    for _ in range(rounds):
        for row, cells in jobs.items():
            for column, job in cells.items():
                results.setdefault((row, column), []).append(measure(job))
    columns = list(next(iter(jobs.values())))
    print(f"\n## {title}\n\n| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")

    def median(row: str, column: str, key: str) -> float:
        return statistics.median(r[key] for r in results[row, column])

    for row in jobs:
        shown = []
        for column in columns:
            failed = [r["failed"] for r in results[row, column] if "failed" in r]
            if failed:
                shown.append(failed[0])
                continue
            seconds = [r["seconds"] for r in results[row, column]]
            base = (against, column) if against in jobs else (row, against)
            ratio = statistics.median(seconds) / median(*base, "seconds")
            shown.append(
                f"{statistics.median(seconds):.3g} s [{min(seconds):.3g}-{max(seconds):.3g}], "
                f"x{ratio:.2g}, +{median(row, column, 'growth'):.0f} MB "
                f"({median(row, column, 'peak'):.0f})"
            )
        print(f"| {row} | {' | '.join(shown)} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, nargs="+", default=[1000, 10_000, 50_000])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--canvases", nargs="*", default=list(CANVASES)[:3], choices=list(CANVASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(json.loads(options.one))))
        return
    import torch

    from napari_2dmamba.scan import backend_for

    kernels = backend_for(torch.zeros(1))
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores{load}, "
        f"{options.threads} threads, torch {torch.__version__}, scan backend {kernels.name}, "
        f"{options.rounds} rounds; median seconds [min-max], ratio, peak memory growth (total)"
    )

    def job(kind: str, extra: dict, patches: int, canvas: tuple[int, int], backend: str) -> dict:
        return {
            "kind": kind, "options": extra, "patches": patches, "canvas": canvas,
            "backend": backend, "threads": options.threads,
        }  # fmt: skip

    def square(patches: int) -> tuple[int, int]:
        side = int((patches / 0.3) ** 0.5) + 1
        return side, side

    by_model = {
        name: {f"{n} patches": job(*MODELS[name], n, square(n), "") for n in options.patches}
        for name in dict.fromkeys(["ABMIL", *options.models])
    }
    table("Every aggregator, against ABMIL", by_model, options.rounds, "ABMIL")
    by_canvas = {
        f"{name}, {rows} x {cols}": {
            label: job("2dmamba", {}, rows * cols // 10, (rows, cols), backend)
            for label, backend in (("kernels", kernels.name), ("definition", "definition"))
        }
        for name, (rows, cols) in CANVASES.items()
        if name in options.canvases
    }
    if by_canvas:
        title = "2DMambaMIL on published canvases, 10 % tissue, against the definition"
        table(title, by_canvas, options.rounds, "definition")


if __name__ == "__main__":
    main()
