"""The CUDA kernels against the float64 definition: emulated, and on a GPU where one is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan import cuda
from napari_2dmamba.scan.cuda_launch import Launcher
from napari_2dmamba.scan.definition import scan_2d
from napari_2dmamba.scan.inputs import ScanInputs
from tests.scan.cases import GOLDEN, golden
from tests.scan.cuda_cases import (
    HAS_GPU,
    assert_close,
    check,
    everywhere,
    expected,
    make,
    on_gpu,
    scan,
)
from tests.scan.emulation import Emulation

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")

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
    # Two states; five, in lanes for eight; more bands than a CTA of the edges takes at a time.
    (1, 7, 10, 6, 2, 1),
    (2, 6, 13, 9, 5, 1),
    (1, 75, 5, 3, 5, 1),
    # Long lines: segments of several blocks, and many strips.
    (1, 1, 300, 3, 1, 1),
    (1, 300, 1, 3, 1, 1),
    # So many channels and items that a lane of the forward pass has a channel alone.
    (133, 3, 5, 2, 1, 1),
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


@everywhere
def test_without_keeping_the_forward_is_the_same(place: str) -> None:
    inputs = make(1, 9, 35, 33, 4)
    launcher = Emulation() if place == "emulated" else None
    if place == "gpu":
        inputs = on_gpu(inputs)
    with_keeping, _ = cuda.forward(inputs, True, launcher=launcher)
    y, kept = cuda.forward(inputs, True, keep=False, launcher=launcher)
    assert torch.equal(y, with_keeping)
    assert kept.numel() == 0


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
    for name, got, given_, want in zip(ScanInputs._fields, grads, inputs, grads64, strict=True):
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
    views = ScanInputs(x_, dt_, A, B_.unsqueeze(3), C_.unsqueeze(3), D, z_, bias)
    assert not any(t.is_contiguous() for t in (x_, dt_, B_, C_, z_))
    y, grads, _ = scan(place, views)
    y1, grads1, _ = scan(place, ScanInputs(x, dt, A, B, C, D, z, bias))
    assert torch.equal(y, y1)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads1, strict=True))


@everywhere
@pytest.mark.parametrize("case", GOLDEN)
def test_golden_numbers(case: str, place: str) -> None:
    numbers = golden(case)
    B, C = (numbers[n].unsqueeze(3) for n in "BC")
    others = (numbers[n] for n in ("D", "z", "delta_bias"))
    inputs = ScanInputs(numbers["u"], numbers["delta_raw"], numbers["A"], B, C, *others)
    launcher: Launcher | None = Emulation()
    grad_y = numbers["dy_z"]
    if place == "gpu":
        inputs, grad_y, launcher = on_gpu(inputs), grad_y.cuda(), None
    y, kept = cuda.forward(inputs, True, launcher=launcher)
    assert_close("y", y.cpu(), numbers["y_z"], 2e-5)
    grads = cuda.backward(grad_y, inputs, True, kept, launcher=launcher)
    names = ("u", "delta_raw", "A", "B", "C", "D", "z", "delta_bias")
    for name, got in zip(names, grads, strict=True):
        want = numbers[f"grad_{name}"]
        assert_close(f"grad {name}", got.cpu().reshape(want.shape), want, 1e-4)


@everywhere
def test_softplus_and_its_slope_are_exact_over_their_range(place: str) -> None:
    """One cell with B = C = x = 1 shows the step size itself, and its slope."""
    dt = torch.linspace(-30, 30, 121).reshape(1, 1, 1, 121)
    one, A = torch.ones(1, 1, 1, 1, 1), -torch.ones(121, 1)
    y, grads, grad_y = scan(place, ScanInputs(torch.ones_like(dt), dt, A, one, one))
    want = torch.nn.functional.softplus(dt.double())
    assert ((y - want) / want).abs().max() < 4e-6
    slope = torch.sigmoid(dt.double()) * grad_y
    assert ((grads.dt - slope) / slope).abs().max() < 4e-6


@everywhere
def test_extreme_decay(place: str) -> None:
    x, _, A, B, C, *_ = make(1, 6, 10, 5, 4)
    dt = torch.linspace(0, 80, 6 * 10 * 5).reshape(1, 6, 10, 5)
    inputs = ScanInputs(x, dt, -torch.ones_like(A), B, C)
    y, grads, grad_y = scan(place, inputs, softplus=False)
    y64, grads64 = expected(inputs, grad_y, softplus=False)
    assert_close("y", y, y64, 1e-6)
    for name, got, want in zip(ScanInputs._fields, grads, grads64, strict=True):
        assert_close(f"grad {name}", got, want, 1e-5)


@everywhere
@pytest.mark.parametrize("d_state", [1, 4, 5])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_spreads_as_in_the_definition(
    value: float, d_state: int, place: str
) -> None:
    """Infinity stays infinity, also with five states in lanes for eight."""
    inputs = make(1, 5, 20, 3, d_state)
    inputs.x[0, 2, 5, 1] = value
    launcher = Emulation() if place == "emulated" else None
    if place == "gpu":
        inputs = on_gpu(inputs)
    y, _ = cuda.forward(inputs, True, launcher=launcher)
    want = scan_2d(*(None if t is None else t.double() for t in inputs), True)
    assert torch.equal(torch.isfinite(y), torch.isfinite(want))
    assert torch.equal(torch.isnan(y), torch.isnan(want))
    assert not torch.isfinite(want).all()


@everywhere
def test_an_infinite_gradient_spreads_as_in_the_definition(place: str) -> None:
    inputs = make(1, 5, 20, 3, 4)
    launcher: Launcher | None = Emulation() if place == "emulated" else None
    if place == "gpu":
        inputs = on_gpu(inputs)
    y, kept = cuda.forward(inputs, True, launcher=launcher)
    grad_y = torch.ones_like(y)
    grad_y[0, 2, 11, 1] = torch.inf
    grads = cuda.backward(grad_y, inputs, True, kept, launcher=launcher)
    _, want = expected(inputs, grad_y)
    for name, got, exact in zip(ScanInputs._fields, grads, want, strict=True):
        assert not torch.isfinite(exact).all()
        assert torch.equal(torch.isfinite(got), torch.isfinite(exact)), name


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
    y, kept = cuda.forward(inputs, True, launcher=Emulation())
    assert y.shape == inputs.x.shape
    grads = cuda.backward(y, inputs, True, kept, launcher=Emulation())
    for got, given_ in zip(grads, inputs, strict=True):
        assert torch.equal(got, torch.zeros_like(given_))


def test_float64_is_refused() -> None:
    inputs = ScanInputs(*(t.double() for t in make(1, 2, 2, 2, 2)))
    with pytest.raises(BackendError, match=r"not torch\.float64; use the definition"):
        cuda.forward(inputs, True, launcher=Emulation())
