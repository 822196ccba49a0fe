"""Time the CUDA kernels of the scan: forward, backward, floors, and what they replace.

usage: python benchmarks/scan_cuda.py [--repeats 30] [--only HEIGHT]

Times are medians over CUDA events, after a warm-up, over inputs that together exceed the
cache of the GPU, so that each run reads from memory. Prints the setting with the numbers. The
floors are a copy of as many bytes, and as many exponentials in chains in registers, which touch
no memory: their number is known, and the hardware's is 16 per clock and multiprocessor.
"""

import argparse
import ctypes
import functools
import itertools
import math
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from napari_2dmamba.scan import cuda
from napari_2dmamba.scan.cuda_plans import kept_bytes
from napari_2dmamba.scan.definition import scan_2d
from napari_2dmamba.scan.inputs import ScanInputs

# (batch, H, W, d_inner, d_state, dtype): the target, half precision, the largest published canvas,
# PANDA's canvas, a layer of 2DVMamba for one image and for 16.
CASES = [
    (1, 200, 200, 256, 16, torch.float32),
    (1, 200, 200, 256, 16, torch.bfloat16),
    (1, 820, 410, 256, 16, torch.float32),
    (1, 93, 190, 256, 16, torch.float32),
    (1, 56, 56, 384, 1, torch.float32),
    (16, 56, 56, 384, 1, torch.float32),
]

CHAINS = """
extern "C" __global__ void exponentials(float* out, int turns) {
    float v[8];
    for (int e = 0; e < 8; ++e) v[e] = threadIdx.x * 0.001f + e;
    for (int turn = 0; turn < turns; ++turn)
#pragma unroll
        for (int e = 0; e < 8; ++e) asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(v[e]));
    float sum = 0.f;
    for (int e = 0; e < 8; ++e) sum += v[e];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
"""


def main() -> int:
    """Print the table, or say why there is none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--only", type=int, help="the cases of this height")
    options = parser.parse_args()
    repeats = options.repeats
    available, why = cuda.availability()
    if not available:
        print(
            f"Nothing measured: {why}; with a CUDA device this would print the median times of"
            " forward and backward, their ratios to the floors of exponentials and of bytes, to"
            " the float32 definition, and to mamba_ssm's 1D scan of as many tokens if installed."
        )
        return 0
    print(f"{why}; torch {torch.__version__}; medians of {repeats}, inputs beyond the cache")
    rate = exponentials_per_millisecond(repeats)
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    print(
        f"exponentials: {rate / 1e9:.2f} per ps, which 16 per clock on each of {processors}"
        f" multiprocessors are at {rate / 16e6 / processors:.2f} GHz"
    )
    for case in CASES:
        if options.only in (None, case[1]):
            measure(*case, repeats)
    return 0


def measure(
    batch: int,
    height: int,
    width: int,
    d_inner: int,
    d_state: int,
    dtype: torch.dtype,
    repeats: int,
) -> None:
    """Print the times of one case."""
    cells = batch * height * width
    one = inputs(batch, height, width, d_inner, d_state, dtype)
    bytes_read = sum(t.numel() * t.element_size() for t in one if t is not None)
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    copies = min(8, 1 + math.ceil(2 * cache / bytes_read))
    sets = [
        one,
        *(inputs(batch, height, width, d_inner, d_state, dtype) for _ in range(copies - 1)),
    ]
    x = one[0]
    assert x is not None
    grad = torch.randn_like(x)
    saved = [cuda.forward(ScanInputs(*s), True)[1] for s in sets]

    print(f"\n{batch} x {height} x {width} cells, d_inner {d_inner}, d_state {d_state}, {dtype}")
    forward = median(lambda s: cuda.forward(ScanInputs(*s), True, keep=False), sets, repeats)
    row("forward, inference", forward)
    kept = median(lambda s: cuda.forward(ScanInputs(*s), True), sets, repeats)
    row("forward, kept for backward", kept, forward)
    pairs = list(zip(sets, saved, strict=True))
    backward = median(lambda p: cuda.backward(grad, ScanInputs(*p[0]), True, p[1]), pairs, repeats)
    row("backward", backward, forward)

    moved = bytes_read + x.numel() * x.element_size()
    row("floor: its bytes, copied", copying(moved // 2, repeats), forward)
    in_registers = cells * d_inner * d_state / exponentials_per_millisecond(repeats)
    row("floor: its exponentials", in_registers, forward)
    in_bytes = kept_bytes(batch, height, width, d_inner, d_state, gated=True)
    print(f"  kept for backward {in_bytes / 1e6:.0f} MB")

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


@functools.cache
def exponentials_per_millisecond(repeats: int) -> float:
    """Return how many exponentials the GPU computes in chains in registers, of a known number."""
    from napari_2dmamba.scan import cuda_compiler, cuda_driver

    gpu = cuda_driver.gpu(torch.cuda.current_device())
    options = cuda_compiler._options({}, gpu.architecture)
    image = cuda_compiler._compile({"chains.cu": CHAINS}, "chains.cu", options)
    module = cuda_driver._call("load the chains", "cuModuleLoadData", image)
    function = int(cuda_driver._call("find them", "cuModuleGetFunction", module, b"exponentials"))
    launch, _ = cuda_driver.load_calls()
    blocks, threads, turns = 8 * gpu.multiprocessors, 256, 2048
    out = torch.empty(blocks * threads, device="cuda")
    values = ctypes.c_void_p(out.data_ptr()), ctypes.c_int(turns)
    places = (ctypes.c_void_p * 2)(*(ctypes.addressof(v) for v in values))

    def run(_: object) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        status = launch(function, blocks, 1, 1, threads, 1, 1, 0, stream, places, None)
        assert status == 0, f"cuLaunchKernel returned {status}"

    return blocks * threads * turns * 8 / median(run, [None], repeats)


def inputs(
    batch: int, height: int, width: int, d_inner: int, d_state: int, dtype: torch.dtype
) -> tuple[Tensor | None, ...]:
    """Return random inputs in the layouts of the model: B and C are slices of a projection."""
    cells = (batch, height, width)
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
