"""Time and peak memory of the 2D selective scan on the CPU.

Run ``python benchmarks/scan.py``; ``--quick`` leaves the growth with the grid out. Every number
is a median over interleaved repetitions in one process, so that ratios hold on a noisy machine.
The floors are the time of the exponentials alone (with the kernels' own polynomial) and of
reading and writing the bytes of inputs and outputs once.
"""

import argparse
import datetime
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from napari_2dmamba.scan import backend_for, cpu, selective_scan_2d, use_backend
from napari_2dmamba.scan.inputs import ScanInputs

HEIGHT = WIDTH = 100
D_INNER = 256


def draw(height: int, width: int, d_inner: int, d_state: int) -> list[Tensor]:
    """x, dt, A, B, C, D, z, dt_bias as a model makes them; dt before softplus."""
    torch.manual_seed(0)
    grid = (1, height, width)
    return [
        torch.randn(*grid, d_inner), torch.randn(*grid, d_inner),
        -torch.arange(1.0, d_state + 1).expand(d_inner, -1).contiguous(),
        torch.randn(*grid, d_state), torch.randn(*grid, d_state),
        torch.ones(d_inner), torch.randn(*grid, d_inner), torch.zeros(d_inner),
    ]  # fmt: skip


def whole_grid(*inputs: Tensor) -> Tensor:
    """Scan with decay and inflow of the whole grid in memory: the usual torch code."""
    x, dt, A, B, C, D, z, bias = inputs
    dt = torch.nn.functional.softplus(dt + bias)
    decay = torch.exp(dt.unsqueeze(-1) * A)
    state = (dt * x).unsqueeze(-1) * B.unsqueeze(3)
    for j in range(1, x.shape[2]):
        state[:, :, j].addcmul_(decay[:, :, j], state[:, :, j - 1])
    for i in range(1, x.shape[1]):
        state[:, i].addcmul_(decay[:, i], state[:, i - 1])
    y = torch.einsum("bhwdn,bhwn->bhwd", state, C) + D * x
    return y * torch.nn.functional.silu(z)


def medians(candidates: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Seconds of each candidate, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    for _ in range(repeat):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(d_state: int, repeat: int) -> None:
    """One grid: floors, every instruction set, the best torch, backward."""
    inputs = draw(HEIGHT, WIDTH, D_INNER, d_state)
    grad_y, nothing = torch.ones_like(inputs[0]), torch.empty(0)
    cells, threads = HEIGHT * WIDTH, torch.get_num_threads()
    source = torch.empty(cells * (3 * D_INNER + 2 * d_state) // 2)
    target = torch.empty_like(source)
    levels = cpu.instruction_sets()

    def definition() -> Tensor:
        with use_backend("definition"), torch.inference_mode():
            return selective_scan_2d(*inputs, dt_softplus=True)

    torchs: dict[str, Callable[[], object]] = {
        "definition, torch, a row at a time": definition,
        "torch, whole grid": lambda: whole_grid(*inputs),
    }
    candidates: dict[str, Callable[[], object]] = {"bytes alone": lambda: target.copy_(source)}
    for level, name in enumerate(levels):
        candidates |= {
            f"{name}: exponentials alone": lambda k=level: cpu.exponentials(
                cells * D_INNER * d_state, threads, k
            ),
            f"{name}: forward, no softplus, no gate": lambda k=level: cpu.forward(
                ScanInputs(*inputs[:6]), False, level=k
            ),
            f"{name}: forward": lambda k=level: cpu.forward(ScanInputs(*inputs), True, level=k),
            f"{name}: backward": lambda k=level: cpu.backward(
                grad_y, ScanInputs(*inputs), True, nothing, level=k
            ),
        }
    # Apart: the whole grid gives gigabytes back to the system, which others then wait for.
    found = medians(torchs, repeat) | medians(candidates, repeat)
    torch_best = min(v for k, v in found.items() if "torch" in k)
    print(f"\n{HEIGHT} x {WIDTH} cells, d_inner {D_INNER}, d_state {d_state}, float32")
    for name, seconds in found.items():
        print(f"  {name:42s} {1e3 * seconds:9.2f} ms")
    for name in levels:
        forward, floor = found[f"{name}: forward"], found[f"{name}: exponentials alone"]
        plain = found[f"{name}: forward, no softplus, no gate"]
        print(
            f"  {name}: forward {forward / floor:.2f} x its exponentials"
            f" ({plain / floor:.2f} without softplus and gate),"
            f" {torch_best / forward:.1f} x faster than the best torch,"
            f" backward {found[f'{name}: backward'] / forward:.2f} x forward"
        )


def compare_tissue(repeat: int) -> None:
    """The canvas of a slide, of whose cells some are tissue and all others are alike."""
    height, width = 93, 190
    print(f"\n{height} x {width} cells, d_inner {D_INNER}, d_state 16, by the share of tissue")
    nothing = torch.empty(0)
    smooth = torch.nn.functional.avg_pool2d(torch.rand(1, 1, height, width), 15, 1, 7)[0, 0]
    for level, name in enumerate(cpu.instruction_sets()):
        candidates: dict[str, Callable[[], object]] = {}
        for share in (1.0, 0.3, 0.1):
            inputs = draw(height, width, D_INNER, 16)
            empty = smooth < smooth.quantile(1 - share)
            inputs[1][0, empty] = inputs[1][0, 0, 0].clone()
            candidates[f"{share:4.0%} forward"] = lambda i=inputs, k=level: cpu.forward(
                ScanInputs(*i), True, level=k
            )
            candidates[f"{share:4.0%} backward"] = lambda i=inputs, k=level: cpu.backward(
                i[0], ScanInputs(*i), True, nothing, level=k
            )
        times = ", ".join(f"{k} {1e3 * v:.1f} ms" for k, v in medians(candidates, repeat).items())
        print(f"  {name:9s} {times}")


def growth_of_one(side: str, backward: bool) -> None:
    """Print time and peak memory of one grid; runs in a process of its own."""
    height, width = (int(n) for n in side.split("x"))
    inputs = draw(height, width, D_INNER, 16)
    for t in inputs:
        t.requires_grad_(backward)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(9):
        y = None
        for t in inputs:
            t.grad = None
        start = time.perf_counter()
        y = selective_scan_2d(*inputs, dt_softplus=True)
        if backward:
            y.backward(torch.ones_like(y))
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cells = height * width
    print(
        f"  {side:>9s} {'forward and backward' if backward else 'forward':21s}"
        f" {1e3 * seconds:9.1f} ms {1e9 * seconds / cells:8.0f} ns per cell,"
        f" peak {peak / 1024:6.0f} MiB, of which {(peak - base) / 1024:6.0f} by the scan"
    )


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave the growth out")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--backward", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        growth_of_one(options.one, options.backward)
        return
    obstacle = cpu.why_not()
    if obstacle is not None:
        sys.exit(f"Nothing to measure: {obstacle}.")
    print(f"{datetime.date.today()}  {processor()}, {options.threads} threads,")
    print(f"torch {torch.__version__}, load average {os.getloadavg()[0]:.1f}")
    print(f"backend: {backend_for(torch.zeros(1, 1, 1, 1))}")
    for d_state in (16, 1):
        compare(d_state, options.repeat)
    compare_tissue(options.repeat)
    if options.quick:
        return
    print(f"\nGrowth with the grid, d_inner {D_INNER}, d_state 16")
    for side in ("16x16", "32x32", "64x64", "128x128", "250x250", "489x415", "500x500"):
        for more in ([], ["--backward"]):
            command = [sys.executable, __file__, "--one", side, "--threads", str(options.threads)]
            subprocess.run([*command, *more], check=True)


def processor() -> str:
    """Name the processor, as the system does."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
