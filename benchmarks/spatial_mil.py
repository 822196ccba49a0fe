"""Does seeing the canvas in two dimensions help? Bags whose label is the arrangement alone.

    python benchmarks/spatial_mil.py [--seeds 5] [--bags 200] [--epochs 4] [--processes 2]

Both classes hold the same kinds of patches in the same numbers, so a model that is blind to order
cannot do better than chance. Canvases have 5 to 7 rows and columns, drawn for each bag; of their
cells 85 % hold a patch.

``line``: patches are images of handwritten digits (scikit-learn's, 64 pixels as they are). Five
zeros among other digits stand in a column in positive bags, and in a row in negative ones.
``nest``: patches are features (embedded encoder) of windows of real slides; six patches of one
more slide lie together in positive bags, and scattered in negative ones. Slides that are trained
on are not tested on. Left out where the slides are not (see ``tests/material.py``).

Every model is trained by `napari_2dmamba.training.fit` on the same bags in the same order, one
settings for all, and tested on as many new bags. ``published start`` is the initialisation of the
2DMamba repository. Two of its faults are imitated while training, and tested with the right scan:
``path sum``, its path for CPUs (``h = a (up + left) + b x``), and ``lost gradients``, its racing
backward on GPUs: a channel's contribution to the gradient of B and C at a cell is kept with the
probability `KEPT`, which gives the relative errors that were measured (0.84 to 0.98).
"""

import argparse
import contextlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_2dmamba.evaluation.classification import auroc
from napari_2dmamba.features import read_features
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import Aggregator, CheckpointHeader, mamba2d_block
from napari_2dmamba.models.checkpoint import build_model
from napari_2dmamba.tasks import LabelledBag
from napari_2dmamba.training import FitSettings, fit
from napari_2dmamba.training.model import start_step_sizes

KEPT = 0.1
"""Errors of sqrt(1 - KEPT) = 0.95 relative to the true gradient, where contributions are alike."""
ATLAS = Path(__file__).resolve().parents[2] / "shared" / "atlas" / "features"
SIZES = {"d_model": 32, "d_state": 8}
IN_2D = {**SIZES, "canvas_mode": "slide", "attention_over": "tissue"}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "ABMIL (blind to order)": ("abmil", {"hidden": 32, "attention_hidden": 32}),
    "TransMIL": ("transmil", {"dim": 32, "heads": 2}),
    "MambaMIL (1D)": ("mambamil", {**SIZES, "n_layers": 1, "kind": "mamba"}),
    "2DMambaMIL, 1D scan": ("2dmamba", {**SIZES, "scan": "1d"}),
    "2DMambaMIL": ("2dmamba", IN_2D),
    "2DMambaMIL, four corners": ("2dmamba", {**IN_2D, "directions": 4}),
}
PUBLISHED, PATH_SUM, LOST = "published start", "path sum", "lost gradients"
VARIANTS = [
    *((model, "") for model in MODELS),
    ("2DMambaMIL", PUBLISHED),
    ("2DMambaMIL", PATH_SUM),
    ("2DMambaMIL", LOST),
]
Draw = Callable[[np.random.Generator, int, bool], LabelledBag]


def canvas_of(rng: np.random.Generator) -> tuple[int, int, np.ndarray]:
    """Return rows, columns and which cells hold a patch."""
    rows, cols = (int(n) for n in rng.integers(5, 8, 2))
    return rows, cols, rng.random((rows, cols)) < 0.85


def bag_of(features: np.ndarray, tissue: np.ndarray, label: int, name: str) -> LabelledBag:
    """Return the patches of the cells on tissue, row by row."""
    cells = np.argwhere(tissue)
    values = features[cells[:, 0], cells[:, 1]].astype(np.float32)
    return LabelledBag(FeatureBag(values, cells[:, ::-1] * 256, 256), label, name=name)


def places(rng: np.random.Generator, shape: tuple[int, int], fits: Callable[[np.ndarray], bool],
           count: int) -> np.ndarray:  # fmt: skip
    """Draw different cells until their arrangement fits."""
    while True:
        flat = rng.choice(shape[0] * shape[1], count, replace=False)
        cells = np.stack(np.unravel_index(flat, shape), 1)
        if fits(cells):
            return cells


def digits() -> Draw:
    """Return what draws bags of the task ``line``; half of the images are for testing."""
    from sklearn.datasets import load_digits

    held = load_digits()
    pixels, kind = held.data.astype(np.float32) / 16, held.target

    def draw(rng: np.random.Generator, label: int, tested: bool) -> LabelledBag:
        def images(which: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
            return pixels[rng.choice(np.flatnonzero(which)[int(tested) :: 2], shape)]

        rows, cols, tissue = canvas_of(rng)
        features = images(kind != 0, (rows, cols))
        along, across = (rows, cols) if label else (cols, rows)
        cells = np.stack([np.arange(5) + rng.integers(along - 4), np.full(5, rng.integers(across))])
        row, col = cells if label else cells[::-1]
        tissue[row, col] = True
        features[row, col] = images(kind == 0, (5,))
        return bag_of(features, tissue, label, "")

    return draw


def nests() -> Draw:
    """Return what draws bags of the task ``nest`` from real slides."""
    files = sorted(ATLAS.glob("*.h5"), key=lambda file: (file.stat().st_size, file.name))
    planted = read_features(files[-1]).features.astype(np.float32)
    slides = []
    for file in files[:-1]:
        bag = read_features(file)
        cells = bag.coords[:, ::-1] // bag.patch_size_level0
        whole = np.full((*(cells.max(0) + 1), bag.features.shape[1]), np.nan, np.float32)
        whole[cells[:, 0], cells[:, 1]] = bag.features
        if min(whole.shape[:2]) >= 8:
            slides.append(whole)

    def draw(rng: np.random.Generator, label: int, tested: bool) -> LabelledBag:
        rows, cols, tissue = canvas_of(rng)
        while True:
            slide = slides[int(rng.integers(len(slides) // 2)) * 2 + tested]
            y, x = (
                int(rng.integers(n - m + 1))
                for n, m in zip(slide.shape, (rows, cols), strict=False)
            )
            features = slide[y : y + rows, x : x + cols].copy()
            there = np.isfinite(features[..., 0])
            if there.mean() > 0.7:
                break
        tissue &= there
        if label:
            y, x = rng.integers(rows - 1), rng.integers(cols - 2)
            cells = np.stack(np.mgrid[y : y + 2, x : x + 3], -1).reshape(-1, 2)
        else:

            def scattered(cells: np.ndarray) -> bool:
                apart = np.abs(cells[:, None] - cells[None]).max(-1)
                return int((apart == 1).sum()) <= 2  # at most one pair touches

            cells = places(rng, (rows, cols), scattered, 6)
        tissue[cells[:, 0], cells[:, 1]] = True
        some = np.arange(int(tested), len(planted), 2)
        features[cells[:, 0], cells[:, 1]] = planted[rng.choice(some, 6)]
        return bag_of(features, tissue, label, "")

    return draw


TASKS = {"line": digits, "nest": nests}


class _Kept(torch.autograd.Function):
    """``(H, W, N)`` for every channel; of its gradient, only some contributions come back."""

    @staticmethod
    def forward(ctx: Any, shared: Tensor, channels: int) -> Tensor:
        return shared[:, :, None].expand(-1, -1, channels, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        kept = torch.rand(gradient.shape[:3]) < KEPT
        return (gradient * kept[..., None]).sum(2), None


def faulty_scan(fault: str) -> Callable[..., Tensor]:
    """Return the selective scan in torch with a fault (or none, for ``""``)."""

    def scan(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
        z: Tensor | None = None, dt_bias: Tensor | None = None, dt_softplus: bool = False,
    ) -> Tensor:  # fmt: skip
        x_, dt_, B_, C_ = x[0], dt[0], B[0], C[0]
        if dt_bias is not None:
            dt_ = dt_ + dt_bias
        if dt_softplus:
            dt_ = torch.nn.functional.softplus(dt_)
        rows, cols, channels = x_.shape
        if fault == LOST:
            of_b, of_c = _Kept.apply(B_, channels), _Kept.apply(C_, channels)
        else:
            of_b, of_c = B_[:, :, None], C_[:, :, None]
        a = torch.exp(dt_[..., None] * A)
        enters = (dt_ * x_)[..., None] * of_b
        if fault == PATH_SUM:
            line = [torch.zeros_like(enters[0, 0])] * cols
            lines = []
            for row in range(rows):
                left = torch.zeros_like(line[0])
                new = []
                for col in range(cols):
                    left = a[row, col] * (line[col] + left) + enters[row, col]
                    new.append(left)
                line = new
                lines.append(torch.stack(new))
            h = torch.stack(lines)
        else:
            across = [enters[:, 0]]
            for col in range(1, cols):
                across.append(a[:, col] * across[-1] + enters[:, col])
            along = torch.stack(across, 1)
            down = [along[0]]
            for row in range(1, rows):
                down.append(a[row] * down[-1] + along[row])
            h = torch.stack(down)
        y = (h * of_c).sum(-1)
        if D is not None:
            y = y + D * x_
        if z is not None:
            y = y * torch.nn.functional.silu(z[0])
        return y[None]

    return scan


@contextlib.contextmanager
def trained_with(fault: str) -> Iterator[None]:
    """Replace the scan of 2DMambaMIL."""
    right = mamba2d_block.selective_scan_2d
    if fault in (PATH_SUM, LOST):
        mamba2d_block.selective_scan_2d = faulty_scan(fault)  # type: ignore[assignment]
    try:
        yield
    finally:
        mamba2d_block.selective_scan_2d = right


def settings_of(job: dict[str, Any]) -> FitSettings:
    """Return the settings of every model."""
    return FitSettings(
        epochs=job["epochs"], learning_rate=3e-3, accumulate=4, patience=0, class_weights=False,
        device="cpu", seed=job["seed"], prefetch=0,
    )  # fmt: skip


def one(job: dict[str, Any]) -> dict[str, Any]:
    """Train and test one model."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    draw = TASKS[job["task"]]()
    rng = np.random.default_rng(job["seed"])
    parts = [
        [draw(rng, number % 2, tested) for number in range(job["bags"])] for tested in (False, True)
    ]
    name, config = MODELS[job["model"]]
    size = parts[0][0].bag.features.shape[1]
    header = CheckpointHeader(
        name, {"feature_size": size, "n_outputs": 2, "dropout": 0.1, **config}, "classification",
        ("0", "1"),
    )  # fmt: skip
    torch.manual_seed(job["seed"])
    model = build_model(header)
    if job["variant"] != PUBLISHED:
        start_step_sizes(model)
    with trained_with(job["variant"]):
        result = fit(Aggregator(model, header), parts[0], (), settings_of(job))
    said = np.array([result.aggregator.predict(b.bag).probabilities for b in parts[1]])
    labels = np.array([b.label for b in parts[1]])
    found = auroc(labels, said)
    accuracy = float((said.argmax(1) == labels).mean())
    loss = result.history[-1].training_loss
    seconds = time.perf_counter() - started
    return {**job, "auroc": found, "accuracy": accuracy, "loss": loss, "seconds": seconds}


def check_the_imitation() -> None:
    """Without a fault, the scan that is written here is the product's, gradients included."""
    torch.manual_seed(0)
    sizes = {"x": 6, "dt": 6, "B": 3, "C": 3}
    given = [torch.randn(1, 4, 5, n, dtype=torch.float64) for n in sizes.values()]
    A = -torch.rand(6, 3, dtype=torch.float64)
    results = []
    for scan in (faulty_scan(""), mamba2d_block.selective_scan_2d):
        x, dt, B, C = (value.clone().requires_grad_() for value in given)
        y = scan(x, dt, A, B, C, dt_softplus=True)
        results.append([y, *torch.autograd.grad(y.square().sum(), (x, dt, B, C))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def main() -> None:
    """Run every model on every task and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--bags", type=int, default=200, help="to train on, and as many to test on")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options = parser.parse_args()
    check_the_imitation()
    tasks = list(options.tasks)
    if "nest" in tasks and not ATLAS.is_dir():
        print(f"nest is left out: there are no features of real slides in {ATLAS.parent.name}")
        tasks.remove("nest")
    jobs = [
        {"task": task, "model": model, "variant": variant, "seed": seed, "bags": options.bags,
         "epochs": options.epochs}
        for seed in range(options.seeds)
        for task in tasks
        for model, variant in VARIANTS
    ]  # fmt: skip
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"torch {torch.__version__}, one thread a model")  # fmt: skip
    print(f"{options.bags} bags to train on and {options.bags} to test on, {options.seeds} seeds; "
          f"{asdict(settings_of(jobs[0]))}")  # fmt: skip
    found = []
    with ProcessPoolExecutor(options.processes) as pool:
        for future in as_completed([pool.submit(one, job) for job in jobs]):
            told = future.result()
            found.append(told)
            print(f"{told['task']:6} {told['model']}, {told['variant'] or 'our start'}, seed "
                  f"{told['seed']}: AUROC {told['auroc']:.3f}, loss {told['loss']:.3f}, "
                  f"{told['seconds']:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    print(f"\n| model | {' | '.join(f'{task}: AUROC' for task in tasks)} |")
    print("|---|" + "---|" * len(tasks))
    for model, variant in VARIANTS:
        cells = []
        for task in tasks:
            these = [
                row["auroc"] for row in found
                if (row["task"], row["model"], row["variant"]) == (task, model, variant)
            ]  # fmt: skip
            cells.append(f"{statistics.median(these):.2f} ({min(these):.2f} to {max(these):.2f})")
        print(f"| {model}{', ' + variant if variant else ''} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
