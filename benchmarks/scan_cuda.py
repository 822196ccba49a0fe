"""Time the CUDA kernels of the scan: forward, backward, floors, and what they replace.

usage: python benchmarks/scan_cuda.py [--repeats 30]

Times are medians over CUDA events, after a warm-up, over inputs that together exceed the
cache of the GPU, so that each run reads from memory. Prints the setting with the numbers.
"""

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from napari_2dmamba.scan import cuda
from napari_2dmamba.scan.definition import scan_2d

# (H, W, d_inner, d_state, dtype): the target, the largest published canvas, a layer of
# 2DVMamba, half precision, and PANDA's canvas.
CASES = [
    (200, 200, 256, 16, torch.float32),
    (200, 200, 256, 16, torch.bfloat16),
    (820, 410, 256, 16, torch.float32),
    (93, 190, 256, 16, torch.float32),
    (56, 56, 384, 1, torch.float32),
]


def main() -> int:
    """Print the table, or say why there is none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    available, why = cuda.availability()
    if not available:
        print(
            f"Nothing measured: {why}; with a CUDA device this would print the median times of"
            " forward and backward, their ratios to the floors of exponentials and of bytes, to"
            " the float32 definition, and to mamba_ssm's 1D scan of as many tokens if installed."
        )
        return 0
    print(f"{why}; torch {torch.__version__}; medians of {repeats}, inputs beyond the cache")
    for case in CASES:
        measure(*case, repeats)
    return 0


def measure(
    height: int, width: int, d_inner: int, d_state: int, dtype: torch.dtype, repeats: int
) -> None:
    """Print the times of one case."""
    cells = height * width
    one = inputs(height, width, d_inner, d_state, dtype)
    bytes_read = sum(t.numel() * t.element_size() for t in one if t is not None)
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    copies = min(8, 1 + math.ceil(2 * cache / bytes_read))
    sets = [one, *(inputs(height, width, d_inner, d_state, dtype) for _ in range(copies - 1))]
    x = one[0]
    assert x is not None
    grad = torch.randn_like(x)
    saved = [cuda.forward(*s, True)[1] for s in sets]

    print(f"\n{height} x {width} cells, d_inner {d_inner}, d_state {d_state}, {dtype}")
    forward = median(lambda s: cuda.forward(*s, True, keep=False), sets, repeats)
    row("forward, inference", forward)
    kept = median(lambda s: cuda.forward(*s, True), sets, repeats)
    row("forward, kept for backward", kept, forward)
    pairs = list(zip(sets, saved, strict=True))
    backward = median(lambda p: cuda.backward(grad, *p[0], True, p[1]), pairs, repeats)
    row("backward", backward, forward)

    moved = bytes_read + x.numel() * x.element_size()
    row("floor: its bytes, copied", copying(moved // 2, repeats), forward)
    some = torch.rand(min(cells * d_inner * d_state, 2**27), device="cuda")
    scale = cells * d_inner * d_state / some.numel()
    in_registers = exponentials(some, repeats) * scale
    row("floor: its exponentials", in_registers, forward)
    del some

    if cells * d_inner <= 200 * 200 * 256:
        slow = median(lambda s: scan_2d(*s, True), sets[:1], 3)
        row("definition, float32 state", slow, forward)
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        print("  mamba_ssm's 1D scan                 not installed")
        return
    flat = [one_dimensional(s) for s in sets]
    row(
        "mamba_ssm's 1D scan, same tokens",
        median(lambda s: selective_scan_fn(*s), flat, repeats),
        forward,
    )


def copying(size: int, repeats: int) -> float:
    """Return the time of reading and of writing ``size`` bytes."""
    source, target = (torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    return median(target.copy_, [source], repeats)


def exponentials(values: Tensor, repeats: int) -> float:
    """Return the time of one exponential per value, without the time of moving it.

    The chain of 16 exponentials of a fused kernel, less the same kernel with one of them,
    divided by 15.
    """

    def chain(length: int) -> Callable[[Tensor], Tensor]:
        def run(v: Tensor) -> Tensor:
            for _ in range(length):
                v = torch.exp2(-v)
            return v

        return torch.compile(run)

    long, short = chain(16), chain(1)
    return (median(long, [values], repeats) - median(short, [values], repeats)) / 15


def inputs(
    height: int, width: int, d_inner: int, d_state: int, dtype: torch.dtype
) -> tuple[Tensor | None, ...]:
    """Return random inputs in the layouts of the model: B and C are slices of a projection."""
    cells = (1, height, width)
    x, z = torch.randn(*cells, 2 * d_inner, device="cuda").to(dtype).chunk(2, 3)
    dt = torch.randn(*cells, d_inner, device="cuda").to(dtype)
    projected = torch.randn(*cells, 8 + 2 * d_state, device="cuda").to(dtype)
    B, C = (t.unsqueeze(3) for t in projected[..., 8:].split(d_state, 3))
    A = -torch.arange(1.0, d_state + 1, device="cuda").repeat(d_inner, 1)
    D, bias = torch.ones(d_inner, device="cuda"), torch.zeros(d_inner, device="cuda")
    return x, dt, A, B, C, D, z, bias


def one_dimensional(s: tuple[Tensor | None, ...]) -> tuple[object, ...]:
    """Return the arguments of mamba_ssm for the same tokens, in its layout."""
    x, dt, A, B, C, D, z, bias = s

    def channels_first(t: Tensor | None) -> Tensor:
        assert t is not None
        return t.flatten(1, 2).squeeze(2).mT.contiguous()

    return (
        *map(channels_first, (x, dt)),
        A,
        *map(channels_first, (B, C)),
        D,
        channels_first(z),
        bias,
        True,
    )


def median(run: Callable[[object], object], sets: list, repeats: int) -> float:
    """Return the median milliseconds of ``run`` on one after another of ``sets``."""
    following = itertools.cycle(sets)
    for _ in range(3):
        run(next(following))
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        # Work ahead of the start keeps the host's own time out of the measurement.
        torch.cuda._sleep(1_000_000)
        start.record()
        run(next(following))
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def row(name: str, milliseconds: float, reference: float | None = None) -> None:
    """Print a time, and how many times the forward pass it is."""
    ratio = "" if reference is None else f"{milliseconds / reference:8.2f} x forward"
    print(f"  {name:34} {1000 * milliseconds:10.1f} µs{ratio}")


if __name__ == "__main__":
    sys.exit(main())
