"""Time what the host does for a call of the CUDA scan; needs no GPU.

usage: python benchmarks/scan_host.py [--other CHECKOUT] [--calls 300]

The tensors are on the CPU, and the two functions of the driver that a call needs are replaced by
C functions that return at once, so that what is timed is Python: checks, allocations, the
argument, the way through ctypes; the driver itself, and CUDA's allocator, are not. With --other
the same calls are timed in another checkout of this project, in turns with this one, and the
ratio is printed. There launches through cuda-bindings, as the project had until its plans,
are left out altogether, which favours the older one. Needs a C compiler.
"""

import argparse
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROUNDS = 5
SIZES = [(14, 14, 384, 1), (56, 56, 384, 1), (14, 14, 256, 16)]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, help="another checkout of this project")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.calls)))
        return 0
    here = Path(__file__).resolve().parents[1]
    folders = [here] if options.other is None else [here, options.other.resolve()]
    found: dict[Path, list[dict[str, float]]] = {folder: [] for folder in folders}
    for _ in range(ROUNDS):
        for folder in folders:
            found[folder].append(in_checkout(folder, options.calls))
    print(
        f"torch {torch.__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} processors"
    )
    print(f"medians of {ROUNDS} runs of {options.calls} calls, µs; driver replaced by a no-op")
    for name in found[here][0]:
        times = [statistics.median(run[name] for run in found[folder]) for folder in folders]
        other = "" if len(times) == 1 else f"   other {times[1]:7.1f}, {times[1] / times[0]:.1f} x"
        print(f"  {name:42} {times[0]:7.1f}{other}")
    return 0


def in_checkout(folder: Path, calls: int) -> dict[str, float]:
    """Return the times of a checkout, measured in a process of its own."""
    command = [sys.executable, __file__, "--worker", "--calls", str(calls)]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measure(calls: int) -> dict[str, float]:
    """Return the median microseconds of each kind of call."""
    # An editable installation would be found before PYTHONPATH.
    sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in type(f).__module__]
    from napari_2dmamba.scan import cuda, operator

    folder = os.environ["PYTHONPATH"]
    if not cuda.__file__.startswith(folder):
        raise SystemExit(f"{cuda.__file__} was imported, which is not in {folder}")
    launcher = prepared_launcher()
    for name in ("_gpu_of", "_launcher_of"):  # now, and until the plans
        if hasattr(cuda, name):
            setattr(cuda, name, lambda x: launcher)
    operator._backend_name = lambda *_: "cuda"  # type: ignore[assignment]
    times = {}
    for height, width, d_inner, d_state in SIZES:
        inputs = make(height, width, d_inner, d_state)
        given = arguments(inputs)
        kept = cuda.forward(*given, True)[1]
        grad_y = torch.randn_like(inputs[0])
        leaves = [t.detach().requires_grad_() for t in inputs]

        def step(leaves: list[Tensor] = leaves, grad_y: Tensor = grad_y) -> None:
            torch.autograd.grad(operator.selective_scan_2d(*leaves, True), leaves, grad_y)

        what = f"{height} x {width}, d_inner {d_inner}, d_state {d_state}"
        for name, run in {
            "forward": lambda i=given: cuda.forward(*i, True, keep=False),
            "backward": lambda i=given, g=grad_y, k=kept: cuda.backward(g, *i, True, k),
            "public, autograd": step,
        }.items():
            times[f"{name}, {what}"] = median(run, calls)
    return times


def arguments(tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """Return what the checkout's kernels take in front: one tuple, or each tensor (until it)."""
    try:
        from napari_2dmamba.scan.inputs import ScanInputs
    except ImportError:
        return tensors
    return (ScanInputs(*tensors),)


def make(height: int, width: int, d_inner: int, d_state: int) -> tuple[Tensor, ...]:
    """Return inputs in the layout of a layer; their values do not matter."""
    cells = (1, height, width)
    x, z, dt = (torch.randn(*cells, d_inner) for _ in range(3))
    B, C = (torch.randn(*cells, 1, d_state) for _ in range(2))
    A = -torch.ones(d_inner, d_state)
    return x, dt, A, B, C, torch.ones(d_inner), z, torch.zeros(d_inner)


def median(run: Callable[[], object], calls: int) -> float:
    """Return the median microseconds of a call."""
    for _ in range(20):
        run()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def prepared_launcher() -> Any:
    """Return a launcher whose driver does nothing."""
    from napari_2dmamba.scan import cuda_driver

    class Older:
        """Until the plans: the argument is made by ``cuda``; the launch is left out."""

        multiprocessors, shared_bytes = 132, 227 * 1024

        def launch(self, *arguments: Any) -> None:
            (ctypes.c_void_p * 1)(ctypes.addressof(arguments[-1].struct))

    if not hasattr(cuda_driver, "run_plan"):
        return Older()
    calls = cuda_driver.prepare_calls(*no_ops())

    class Now:
        multiprocessors, shared_bytes = 132, 227 * 1024

        def run(self, plan: Any, *memory: Any) -> None:
            cuda_driver.run_plan(calls, [0] * len(plan.launches), plan, 0, *memory)

    return Now()


def no_ops() -> tuple[Any, Any]:
    """Return two C functions that return 0."""
    compiler = next((c for c in ("cc", "gcc", "clang", "c++") if shutil.which(c)), None)
    if compiler is None:
        raise SystemExit("no C compiler: cc, gcc, clang and c++ were looked for")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "noop.so"
        command = [compiler, "-x", "c", "-shared", "-fPIC", "-o", str(library), "-"]
        source = "int launch(void) { return 0; } int fill(void) { return 0; }"
        subprocess.run(command, input=source, text=True, check=True)
        loaded = ctypes.CDLL(str(library))
    return loaded.launch, loaded.fill


if __name__ == "__main__":
    sys.exit(main())
