"""The CUDA kernels against the float64 definition: emulated, and on a GPU where one is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan import cuda
from napari_2dmamba.scan.cuda_compiler import source_folder
from napari_2dmamba.scan.cuda_launch import Launcher, Shape
from napari_2dmamba.scan.definition import scan_2d
from tests.material import shared
from tests.scan.emulation import Emulation, EmulationFault

NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")
GOLDEN = Path(__file__).parent / "golden"
HAS_GPU = torch.cuda.is_available()

gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(
    not HAS_GPU, reason="no CUDA device: torch.cuda.is_available() is False"
)
everywhere = pytest.mark.parametrize(
    "place", ["emulated", pytest.param("gpu", marks=[gpu, needs_gpu])]
)


@pytest.fixture(autouse=True)
def _unwritten_is_nan():
    """Let every buffer start as NaN, so that a cell no kernel writes shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def make(
    batch: int,
    height: int,
    width: int,
    d_inner: int,
    d_state: int,
    groups: int = 1,
    *,
    absent: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor | None, ...]:
    """Return random inputs of the scan, the same for the same arguments."""
    g = torch.Generator().manual_seed(height * 1000 + width * 100 + d_inner * 10 + d_state)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g)

    cells, shared_by = (batch, height, width), (groups, d_state)
    inputs = {
        "x": normal(*cells, d_inner).to(dtype),
        "dt": normal(*cells, d_inner).to(dtype),
        "A": -3 * torch.rand(d_inner, d_state, generator=g),
        "B": normal(*cells, *shared_by).to(dtype),
        "C": normal(*cells, *shared_by).to(dtype),
        "D": normal(d_inner),
        "z": normal(*cells, d_inner).to(dtype),
        "dt_bias": normal(d_inner),
    }
    return tuple(None if n in absent else v for n, v in inputs.items())


def scan(
    place: str | Emulation, inputs: tuple[Tensor | None, ...], softplus: bool = True
) -> tuple[Tensor, cuda.Gradients, Tensor]:
    """Return y, the gradients and the grad_y that they are of, all on the CPU."""
    launcher: Launcher | None = None
    if place == "gpu":
        inputs = tuple(None if t is None else t.cuda() for t in inputs)
    else:
        launcher = Emulation() if place == "emulated" else place
    y, kept = cuda.forward(*inputs, softplus, launcher=launcher)
    grad_y = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    grads = cuda.backward(grad_y, *inputs, softplus, kept, launcher=launcher)
    on_cpu = (None if g is None else g.cpu() for g in grads)
    return y.cpu(), cuda.Gradients(*on_cpu), grad_y.cpu()


def expected(
    inputs: tuple[Tensor | None, ...], grad_y: Tensor, softplus: bool = True
) -> tuple[Tensor, list[Tensor | None]]:
    """Return y and the gradients of the definition in float64."""
    wide = [None if t is None else t.double().requires_grad_() for t in inputs]
    y = scan_2d(*wide, softplus)
    present = [t for t in wide if t is not None]
    found = iter(torch.autograd.grad(y, present, grad_y.double(), materialize_grads=True))
    return y.detach(), [None if t is None else next(found) for t in wide]


def assert_close(name: str, got: Tensor | None, want: Tensor | None, tolerance: float) -> None:
    """Compare relative to the largest value, exactly where all of it is zero."""
    if got is None or want is None:
        assert got is want, f"{name} should {'not ' if want is None else ''}be there"
        return
    assert got.shape == want.shape, name
    assert torch.isfinite(got).all(), f"{name} has values that are not finite"
    error = (got.double() - want).abs().max()
    assert error <= tolerance * want.abs().max(), f"{name} is off by {error / want.abs().max():.1e}"


def check(place: str | Emulation, *size: int, **options: object) -> None:
    """Compare forward and backward with the definition."""
    softplus = bool(options.pop("softplus", True))
    inputs = make(*size, **options)  # type: ignore[arg-type]
    y, grads, grad_y = scan(place, inputs, softplus)
    y64, grads64 = expected(inputs, grad_y, softplus)
    assert_close("y", y, y64, 2e-6)
    for name, got, want in zip(NAMES, grads, grads64, strict=True):
        assert_close(f"grad {name}", got, want, 5e-6)


# (batch, H, W, d_inner, d_state, groups): one, two, odd, prime, beyond a strip and a band.
SIZES = [
    (1, 1, 1, 1, 1, 1),
    (2, 1, 2, 31, 1, 1),
    (1, 13, 35, 33, 1, 1),
    (1, 5, 9, 64, 1, 2),
    (1, 2, 1, 1, 4, 1),
    (1, 19, 11, 31, 4, 1),
    (2, 8, 16, 6, 4, 3),
    (1, 1, 37, 1, 16, 1),
    (1, 17, 1, 31, 16, 1),
    (1, 9, 18, 33, 16, 1),
    (1, 17, 7, 64, 16, 2),
    (1, 11, 10, 31, 17, 1),
    (1, 2, 17, 33, 17, 1),
]


@everywhere
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_forward_and_backward_agree_with_the_definition(size: tuple[int, ...], place: str) -> None:
    check(place, *size)


@everywhere
@pytest.mark.parametrize("absent", [("D",), ("z",), ("dt_bias",), ("D", "z", "dt_bias")], ids=str)
def test_optional_inputs_may_be_absent(absent: tuple[str, ...], place: str) -> None:
    check(place, 1, 5, 10, 3, 4, absent=absent, softplus="dt_bias" not in absent)


@pytest.mark.parametrize("seed", [0, 2, 3, 4])
def test_any_order_of_threads_and_blocks_gives_the_same_bits(seed: int) -> None:
    inputs = make(1, 9, 18, 33, 16)
    y, grads, _ = scan(Emulation(seed=seed, resident=4), inputs)
    y1, grads1, _ = scan(Emulation(seed=1), inputs)
    assert torch.equal(y, y1)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads1, strict=True))


@pytest.mark.parametrize("multiprocessors", [1, 3, 132])
def test_the_result_does_not_depend_on_the_size_of_the_gpu(multiprocessors: int) -> None:
    inputs = make(2, 9, 35, 33, 4)
    y, grads, _ = scan(Emulation(multiprocessors=multiprocessors), inputs)
    y1, grads1, _ = scan(Emulation(), inputs)
    assert torch.equal(y, y1)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads1, strict=True))


def test_fewer_backward_warps_where_shared_memory_is_small() -> None:
    small = Emulation(shared_bytes=64 * 1024)  # as on a GPU of compute capability 7.5
    assert Shape.of(torch.float32, 16, small.shared_bytes).backward_warps == 2
    check(small, 1, 9, 10, 33, 16)


@everywhere
def test_without_keeping_the_forward_is_the_same(place: str) -> None:
    inputs = make(1, 9, 35, 33, 4)
    launcher = Emulation() if place == "emulated" else None
    if place == "gpu":
        inputs = tuple(None if t is None else t.cuda() for t in inputs)
    kept, _ = cuda.forward(*inputs, True, launcher=launcher)
    y, kept = cuda.forward(*inputs, True, keep=False, launcher=launcher)
    assert torch.equal(y, kept)
    assert [t.numel() for t in saved] == [0, 0, 0]


def test_the_sizes_of_what_is_kept_are_known_beforehand() -> None:
    for size in SIZES:
        inputs = make(*size)
        _, saved = cuda.forward(*inputs, True, launcher=Emulation())
        assert tuple(t.shape for t in saved) == cuda.saved_sizes(inputs[0], inputs[3], inputs[6])


@everywhere
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_half_precision_inputs_with_float32_state(
    dtype: torch.dtype, tolerance: float, place: str
) -> None:
    inputs = make(1, 9, 18, 33, 4, dtype=dtype)
    y, grads, grad_y = scan(place, inputs)
    assert y.dtype == dtype
    y64, grads64 = expected(inputs, grad_y)
    assert_close("y", y, y64, tolerance)
    for name, got, given_, want in zip(NAMES, grads, inputs, grads64, strict=True):
        assert got.dtype == given_.dtype
        assert_close(f"grad {name}", got, want, tolerance)
    # What is summed in float32 and returned in float32 has no excuse to be so far off.
    assert_close("grad A", grads.A, grads64[2], 1e-2 if place == "gpu" else 1e-5)


@everywhere
def test_strided_inputs_are_read_in_place(place: str) -> None:
    """B, C and dt as slices of one projection, x and z as halves of another, transposed grid."""
    batch, height, width, d_inner, d_state = 1, 9, 10, 33, 4
    x, dt, A, B, C, D, z, bias = make(batch, height, width, d_inner, d_state)
    narrow = torch.cat([dt, B.flatten(3), C.flatten(3)], 3).transpose(1, 2).contiguous()
    wide = torch.cat([x, z], 3)
    if place == "gpu":
        narrow, wide = narrow.cuda(), wide.cuda()
    dt_, B_, C_ = narrow.transpose(1, 2).split([d_inner, d_state, d_state], 3)
    x_, z_ = wide.chunk(2, 3)
    views = (x_, dt_, A, B_.unsqueeze(3), C_.unsqueeze(3), D, z_, bias)
    assert not any(t.is_contiguous() for t in (x_, dt_, B_, C_, z_))
    y, grads, _ = scan(place, views)
    y1, grads1, _ = scan(place, (x, dt, A, B, C, D, z, bias))
    assert torch.equal(y, y1)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads1, strict=True))


@everywhere
@pytest.mark.parametrize("case", ["1x7", "5x3", "9x1", "3x5", "6x7_extreme", "17x33"])
def test_golden_numbers(case: str, place: str) -> None:
    path = GOLDEN / f"{case}.npz"
    path = path if path.exists() else shared(f"golden/op2d/{case}.npz")
    golden = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(path).items()}
    B, C = (golden[n].unsqueeze(3) for n in "BC")
    inputs = (golden["u"], golden["delta_raw"], golden["A"], B, C, golden["D"], golden["z"])
    inputs = (*inputs, golden["delta_bias"])
    launcher: Launcher | None = Emulation()
    grad_y = golden["dy_z"]
    if place == "gpu":
        inputs, grad_y, launcher = tuple(t.cuda() for t in inputs), grad_y.cuda(), None
    y, kept = cuda.forward(*inputs, True, launcher=launcher)
    assert_close("y", y.cpu(), golden["y_z"], 2e-5)
    grads = cuda.backward(grad_y, *inputs, True, kept, launcher=launcher)
    names = ("u", "delta_raw", "A", "B", "C", "D", "z", "delta_bias")
    for name, got in zip(names, grads, strict=True):
        want = golden[f"grad_{name}"]
        assert_close(f"grad {name}", got.cpu().reshape(want.shape), want, 1e-4)


@everywhere
def test_softplus_and_its_slope_are_exact_over_their_range(place: str) -> None:
    """One cell with B = C = x = 1 shows the step size itself, and its slope."""
    dt = torch.linspace(-30, 30, 121).reshape(1, 1, 1, 121)
    one, A = torch.ones(1, 1, 1, 1, 1), -torch.ones(121, 1)
    y, grads, grad_y = scan(place, (torch.ones_like(dt), dt, A, one, one, None, None, None))
    want = torch.nn.functional.softplus(dt.double())
    assert ((y - want) / want).abs().max() < 4e-6
    slope = torch.sigmoid(dt.double()) * grad_y
    assert ((grads.dt - slope) / slope).abs().max() < 4e-6


@everywhere
def test_extreme_decay(place: str) -> None:
    x, _, A, B, C, *_ = make(1, 6, 10, 5, 4)
    dt = torch.linspace(0, 80, 6 * 10 * 5).reshape(1, 6, 10, 5)
    inputs = (x, dt, -torch.ones_like(A), B, C, None, None, None)
    y, grads, grad_y = scan(place, inputs, softplus=False)
    y64, grads64 = expected(inputs, grad_y, softplus=False)
    assert_close("y", y, y64, 1e-6)
    for name, got, want in zip(NAMES, grads, grads64, strict=True):
        assert_close(f"grad {name}", got, want, 1e-5)


@everywhere
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_spreads_as_in_the_definition(value: float, place: str) -> None:
    inputs = make(1, 5, 20, 3, 4)
    inputs[0][0, 2, 5, 1] = value
    y, _, _ = scan(place, inputs)
    want = scan_2d(*(None if t is None else t.double() for t in inputs), True)
    assert torch.equal(torch.isfinite(y), torch.isfinite(want))
    assert not torch.isfinite(want).all()


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    d_inner=st.integers(1, 40),
    launches=st.integers(1, 3),
)
def test_any_shape(height: int, width: int, d_inner: int, launches: int) -> None:
    place = "gpu" if HAS_GPU else "emulated"
    check(place, 1, height, width, d_inner, 17 if launches == 3 else launches)


@pytest.mark.parametrize("size", [(0, 2, 2, 3, 4), (1, 0, 2, 3, 4), (1, 2, 0, 3, 4)], ids=str)
def test_no_cells(size: tuple[int, ...]) -> None:
    inputs = make(*size)
    y, kept = cuda.forward(*inputs, True, launcher=Emulation())
    assert y.shape == inputs[0].shape
    grads = cuda.backward(y, *inputs, True, kept, launcher=Emulation())
    for got, given_ in zip(grads, inputs, strict=True):
        assert torch.equal(got, torch.zeros_like(given_))


def test_float64_is_refused() -> None:
    inputs = tuple(t.double() for t in make(1, 2, 2, 2, 2))
    with pytest.raises(BackendError, match=r"not torch\.float64; use the definition"):
        cuda.forward(*inputs, True, launcher=Emulation())


# The sanitizers, and what they and the emulation must catch.


@pytest.mark.parametrize("sanitizer", ["thread", "address"])
@pytest.mark.parametrize("multiprocessors", [1, 132], ids=["one pass", "two passes"])
def test_sanitizers_find_nothing(sanitizer: str, multiprocessors: int) -> None:
    place = Emulation(sanitizer=sanitizer, multiprocessors=multiprocessors, resident=4, seed=7)
    check(place, 1, 9, 17, 18, 5)


def broken(tmp_path: Path, file: str, before: str, after: str) -> Path:
    """Return a copy of the kernels with one thing wrong."""
    for source in source_folder().iterdir():
        (tmp_path / source.name).write_text(source.read_text())
    text = (tmp_path / file).read_text()
    assert before in text, f"{file} has changed: {before!r} is not in it"
    (tmp_path / file).write_text(text.replace(before, after))
    return tmp_path


HANDOVER = "                __syncthreads();  // hands the ring"
FAULTS = {
    "no barrier between the warps of a CTA": ("forward.cu", HANDOVER, "//"),
    "no warp barrier before the staged weights are read": (
        "scan.cuh",
        "            __syncwarp();  // the two halves",
        "//",
    ),
    "blocks of different channels write the same sum of grad B": (
        "backward.cu",
        "static_cast<index_t>(tile) * p.batches",
        "static_cast<index_t>(0) * p.batches",
    ),
    "neighbouring bands write the same partial gradient of A": (
        "backward.cu",
        "static_cast<index_t>(b) * bands + band;",
        "static_cast<index_t>(b) * bands;",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_thread_sanitizer_catches_a_race(fault: str, tmp_path: Path) -> None:
    place = Emulation(sanitizer="thread", kernels=broken(tmp_path, *FAULTS[fault]))
    with pytest.raises(EmulationFault, match="data race"):
        scan(place, make(1, 9, 17, 18, 5) if "channels" not in fault else make(1, 2, 2, 33, 5))


def test_random_order_shows_a_missing_barrier_in_the_numbers(tmp_path: Path) -> None:
    kernels = broken(tmp_path, "forward.cu", HANDOVER, "//")
    inputs = make(1, 9, 17, 18, 5)
    want = scan_2d(*(None if t is None else t.double() for t in inputs), True)
    y, _ = cuda.forward(*inputs, True, launcher=Emulation(kernels=kernels))
    error = (y.double() - want).abs().max() / want.abs().max()
    assert not error < 1e-3


def test_address_sanitizer_catches_a_write_past_shared_memory(tmp_path: Path) -> None:
    kernels = broken(tmp_path, "forward.cu", "if (e < WEIGHTS)", "if (e <= WEIGHTS)")
    with pytest.raises(EmulationFault, match="AddressSanitizer"):
        scan(Emulation(sanitizer="address", kernels=kernels), make(1, 9, 17, 18, 5))


def test_a_barrier_that_some_threads_do_not_reach_is_reported(tmp_path: Path) -> None:
    kernels = broken(tmp_path, "forward.cu", HANDOVER, "if (threadIdx.x) __syncthreads();  //")
    with pytest.raises(EmulationFault, match="without reaching the __syncthreads"):
        scan(Emulation(kernels=kernels), make(1, 9, 17, 18, 5))


# What only a GPU can show.


@gpu
@needs_gpu
@pytest.mark.parametrize(
    "size", [(1, 200, 200, 256, 16, 1), (2, 93, 190, 256, 16, 1), (4, 56, 56, 384, 1, 4)]
)
def test_two_runs_on_a_gpu_agree_bit_for_bit(size: tuple[int, ...]) -> None:
    inputs = make(*size)
    first, second = scan("gpu", inputs), scan("gpu", inputs)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


@gpu
@needs_gpu
def test_a_large_grid_on_a_gpu() -> None:
    """820 x 410 cells against the float32 definition on the GPU."""
    inputs = tuple(None if t is None else t.cuda() for t in make(1, 820, 410, 256, 16))
    y, _ = cuda.forward(*inputs, True)
    assert_close("y", y, scan_2d(*inputs, True).double(), 1e-4)


@gpu
@needs_gpu
def test_cuda_graph_after_warm_up() -> None:
    inputs = tuple(None if t is None else t.cuda() for t in make(1, 20, 30, 64, 16))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        want, _ = cuda.forward(*inputs, True)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, _ = cuda.forward(*inputs, True)
    inputs[0].neg_()
    graph.replay()
    torch.cuda.synchronize()
    negated, _ = cuda.forward(*inputs, True)
    assert torch.equal(y, negated)
    assert not torch.equal(y, want)


@gpu
@needs_gpu
def test_every_gpu_and_a_new_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor

    inputs = make(1, 9, 18, 33, 16)
    for index in range(torch.cuda.device_count()):
        moved = tuple(None if t is None else t.to(f"cuda:{index}") for t in inputs)
        here, _ = cuda.forward(*moved, True)
        with ThreadPoolExecutor(1) as pool:
            there, _ = pool.submit(cuda.forward, *moved, True).result()
        assert torch.equal(here, there)


@gpu
@needs_gpu
def test_capture_before_warm_up_says_what_to_do() -> None:
    code = """
import torch
from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan import cuda
x = torch.ones(1, 2, 2, 2, device="cuda")
A, B = -torch.ones(2, 4, device="cuda"), torch.ones(1, 2, 2, 1, 4, device="cuda")
torch.cuda.synchronize()
try:
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        cuda.forward(x, x, A, B, B)
except BackendError as error:
    assert "before the capture" in str(error)
else:
    raise SystemExit("captured")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
