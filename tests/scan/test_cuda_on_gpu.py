"""What only a GPU can show of the CUDA kernels."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from napari_2dmamba.scan import cuda
from napari_2dmamba.scan.definition import scan_2d
from tests.scan.cuda_cases import assert_close, gpu, make, needs_gpu, on_gpu, scan

pytestmark = [gpu, needs_gpu, pytest.mark.usefixtures("unwritten_is_nan")]


@pytest.mark.parametrize(
    "size", [(1, 200, 200, 256, 16, 1), (2, 93, 190, 256, 16, 1), (4, 56, 56, 384, 1, 4)]
)
def test_two_runs_on_a_gpu_agree_bit_for_bit(size: tuple[int, ...]) -> None:
    inputs = make(*size)
    first, second = scan("gpu", inputs), scan("gpu", inputs)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_a_large_grid_on_a_gpu() -> None:
    """820 x 410 cells against the float32 definition on the GPU."""
    inputs = on_gpu(make(1, 820, 410, 256, 16))
    y, _ = cuda.forward(inputs, True)
    assert_close("y", y, scan_2d(*inputs, True).double(), 1e-4)


def test_cuda_graph_after_warm_up() -> None:
    inputs = on_gpu(make(1, 20, 30, 64, 16))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        want, _ = cuda.forward(inputs, True)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, _ = cuda.forward(inputs, True)
    inputs.x.neg_()
    graph.replay()
    torch.cuda.synchronize()
    negated, _ = cuda.forward(inputs, True)
    assert torch.equal(y, negated)
    assert not torch.equal(y, want)


def test_a_captured_training_step_replays() -> None:
    """Forward, backward and the step of the optimizer, replayed, are those of eager mode."""
    from napari_2dmamba.scan import selective_scan_2d

    given = on_gpu(make(1, 20, 90, 64, 16))
    names = dict(zip(given._fields, given, strict=True))
    x = names.pop("x")

    def leaves() -> list[Tensor]:
        return [t.clone().requires_grad_() for t in names.values()]

    def step(weights: list[Tensor]) -> None:
        loss = selective_scan_2d(x, *weights, True).square().mean()
        for weight, grad in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.data.sub_(grad, alpha=0.1)

    eager, captured = leaves(), leaves()
    for _ in range(5):
        step(eager)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # these load the kernels
            step(captured)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # captures a step, does not run it
        step(captured)
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    for name, a, b in zip(names, eager, captured, strict=True):
        assert torch.equal(a, b), name


def test_every_gpu_and_a_new_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor

    inputs = make(1, 9, 18, 33, 16)
    for index in range(torch.cuda.device_count()):
        moved = inputs._make(None if t is None else t.to(f"cuda:{index}") for t in inputs)
        here, _ = cuda.forward(moved, True)
        with ThreadPoolExecutor(1) as pool:
            there, _ = pool.submit(cuda.forward, moved, True).result()
        assert torch.equal(here, there)


def test_capture_before_warm_up_says_what_to_do() -> None:
    code = """
import torch
from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan import cuda
from napari_2dmamba.scan.inputs import ScanInputs
x = torch.ones(1, 2, 2, 2, device="cuda")
A, B = -torch.ones(2, 4, device="cuda"), torch.ones(1, 2, 2, 1, 4, device="cuda")
torch.cuda.synchronize()
try:
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        cuda.forward(ScanInputs(x, x, A, B, B), False)
except BackendError as error:
    assert "before the capture" in str(error)
else:
    raise SystemExit("captured")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
