"""Time explanations on a canvas of a biopsy data set (93 x 190 cells) beside slower ways.

    python benchmarks/explain.py [--canvas 93 190] [--tissue 0.3] [--rounds 5] [--threads 2]

A 2DMambaMIL with random weights (d_model 128, d_inner 256, d_state 16) on random features. The
provenance query is the dearest there is, the last cell of the canvas; it is compared, in the
same run, with the torch definition of the closed form, and with the backward pass of the scan
for one unit impulse at the query. `wall` is what a user waits; `cpu` is the time of all threads
of this process: on a busy machine, cpu / threads is nearer to the wall time of an idle one.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from napari_2dmamba.explain import contribution, receptive_field, rollout
from napari_2dmamba.explain.counterfactual import Counterfactuals
from napari_2dmamba.explain.provenance import Provenance
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import Aggregator, CheckpointHeader
from napari_2dmamba.models.architecture import Architecture
from napari_2dmamba.models.mamba2d import Mamba2DConfig, Mamba2DMIL
from napari_2dmamba.scan import backend_for, selective_scan_2d, use_backend


def subject(canvas: tuple[int, int], tissue: float, layers: int) -> Subject:
    """Return a random model on a random canvas whose corners are tissue."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = Mamba2DConfig(1024, 2, n_layers=layers, canvas_mode="slide")
    here = rng.random(canvas) < tissue
    here[0, 0] = here[-1, -1] = True
    cells = np.argwhere(here)
    bag = FeatureBag(
        rng.normal(size=(len(cells), 1024)).astype(np.float32), cells[:, ::-1] * 512, 512,
        slide_mpp=0.5,
    )  # fmt: skip
    header = CheckpointHeader("2dmamba", dataclasses.asdict(config), "classification", ("a", "b"))
    return Subject.of(Aggregator(Mamba2DMIL(config), header), bag)


def measure(
    name: str, call: Callable[[], Any], rounds: int, setup: Callable | None = None
) -> float:
    """Print the median wall and cpu time of a call, in ms; return that of the cpu."""
    wall, busy = [], []
    for number in range(rounds + (rounds > 2)):  # the first of many is not counted
        if setup is not None:
            setup()
        start, start_busy = time.perf_counter(), time.process_time()
        call()
        if number or rounds <= 2:
            wall.append(1000 * (time.perf_counter() - start))
            busy.append(1000 * (time.process_time() - start_busy))
    cpu = statistics.median(busy)
    print(f"  {name:46} wall {statistics.median(wall):9.1f} [{min(wall):.1f}-{max(wall):.1f}]"
          f"  cpu {cpu:9.1f}", flush=True)  # fmt: skip
    return cpu


class WholeCanvas(Mamba2DMIL):
    """The same network, which does not say from which cells a patch's vector comes."""

    entrance = None
    states_of = Architecture.states_of


def fields_in_turn(of: Subject, rounds: int) -> None:
    """Time fields of patches near the first corner, in the middle, and near the last, in turn."""
    whole = dataclasses.replace(of, model=WholeCanvas(of.model.config).eval())
    whole.model.load_state_dict(of.model.state_dict())
    cells = of.cells_of_patches
    field = receptive_field.field_of_patches
    ratios = []
    for share in (0.1, 0.3, 0.5, 0.7, 1.0):
        wanted = share * (np.array(of.canvas) - 1)
        patch = np.array([np.abs(cells - wanted).sum(axis=1).argmin()])
        taken: dict[str, list[float]] = {"part": [], "whole": []}
        busy: dict[str, list[float]] = {"part": [], "whole": []}
        found = {}
        for number in range(rounds + 1):  # the first is not counted
            for name, asked in (("part", of), ("whole", whole)):
                start, start_busy = time.perf_counter(), time.process_time()
                found[name] = field(asked, patch)
                if number:
                    taken[name].append(1000 * (time.perf_counter() - start))
                    busy[name].append(1000 * (time.process_time() - start_busy))
        differs = np.abs(found["part"] - found["whole"]).max() / found["whole"].max()
        part, all_cells = (statistics.median(busy[name]) for name in ("part", "whole"))
        ratios.append(all_cells / part)
        row, col = cells[patch[0]]
        print(f"  cell {row:3}, {col:3}   wall {statistics.median(taken['part']):8.1f} "
              f"[{min(taken['part']):.1f}-{max(taken['part']):.1f}] of "
              f"{statistics.median(taken['whole']):8.1f} "
              f"[{min(taken['whole']):.1f}-{max(taken['whole']):.1f}]   cpu {part:8.1f} of "
              f"{all_cells:8.1f}: {all_cells / part:5.1f} times less, "
              f"largest difference {differs:.1g}", flush=True)  # fmt: skip
    print(f"  median of the ratios of cpu {statistics.median(ratios):.1f}")


def main() -> None:
    """Run everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--canvas", type=int, nargs=2, default=(93, 190))
    parser.add_argument("--tissue", type=float, default=0.3)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fields", action="store_true", help="receptive fields alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    canvas, rounds = tuple(options.canvas), options.rounds
    of = subject(canvas, options.tissue, options.layers)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}")
    print(f"threads: {options.threads}")
    print(f"scan: {backend_for(of.features)}")
    print(f"canvas {canvas[0]} x {canvas[1]}, {len(of)} patches, d_inner 256, d_state 16, "
          f"{options.layers} layer(s); milliseconds, median of {rounds} [min-max]\n")  # fmt: skip

    if options.fields:
        fields_in_turn(of, rounds)
        return
    print("provenance of the last cell of the canvas")
    provenance = Provenance(of)
    query, first = (canvas[0] - 1, canvas[1] - 1), (0, 0)
    kernel = measure("state", lambda: provenance.on(query), rounds)
    for through in ("gate", "projection"):
        measure(through, lambda t=through: provenance.on(query, through=t), rounds)
    measure("feeds, from the first cell", lambda: provenance.feeds(first), rounds)
    measure("feeds, through the gate", lambda: provenance.feeds(first, through="gate"), rounds)
    layer = provenance._layers[-1]
    scan = layer.directions[0]
    x = torch.zeros_like(layer.x)[None].requires_grad_()
    impulse = torch.zeros_like(layer.x)[None]
    impulse[0, query[0], query[1]] = 1

    def backward() -> None:
        y = selective_scan_2d(x, scan.dt[None], scan.A, scan.B[None], scan.C[None])
        torch.autograd.grad(y, x, impulse)

    by_backward = measure("the same by forward and backward pass", backward, min(rounds, 3))
    with use_backend("definition"):
        by_torch = measure(
            "the same by the torch definition", lambda: provenance.on(query), min(rounds, 2)
        )
    print(f"  cpu of backward / kernel {by_backward / kernel:.1f}, torch / kernel "
          f"{by_torch / kernel:.1f}\n")  # fmt: skip

    print("counterfactual: a region of a sixth of the patches")
    edits = Counterfactuals(of)
    region = np.arange(len(of) // 3, len(of) // 2)
    for action in ("remove", "keep", "similar"):
        measure(
            action, lambda a=action: edits.apply(region, a), rounds, setup=edits.forget,
        )  # fmt: skip

    print("\nthrough the whole network")
    last = len(of) - 1
    few = min(rounds, 2)
    field = receptive_field.receptive_field
    measure("receptive field, sum", lambda: field(of, last, measure="sum"), few)
    measure("rollout, 4 probes", lambda: rollout.rollout(of, last), few)
    measure("gradient x input", lambda: contribution.gradient_times_input(of), few)

    print("\nreceptive field (Jacobian, 4 probes): from the cells that can reach, or from all")
    fields_in_turn(of, rounds)


if __name__ == "__main__":
    main()
