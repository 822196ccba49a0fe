"""The CPU kernels of every instruction set against the float64 definition and golden numbers."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from napari_2dmamba.scan import cpu
from napari_2dmamba.scan.definition import scan_2d
from napari_2dmamba.scan.inputs import ScanInputs
from tests.scan.cases import GOLDEN, IN_FILES, NAMES, draw, golden, relative_error

pytestmark = pytest.mark.skipif(cpu.why_not() is not None, reason=str(cpu.why_not()))
LEVELS = [] if cpu.why_not() else list(range(len(cpu.instruction_sets())))
NOTHING = torch.empty(0)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def truth(inputs: list[Tensor | None], softplus: bool, grad_y: Tensor) -> tuple[Tensor, list]:
    """Result and gradients of the definition in float64."""
    double = [None if t is None else t.double().requires_grad_() for t in inputs]
    y = scan_2d(*double, softplus)
    y.backward(grad_y.double())
    return y.detach(), [None if t is None else t.grad for t in double]


def compare(inputs: list[Tensor | None], softplus: bool, level: int, tolerance: float) -> None:
    grad_y = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(9))
    y_true, grads_true = truth(inputs, softplus, grad_y)
    y, _ = cpu.forward(ScanInputs(*inputs), softplus, level=level)
    assert relative_error(y, y_true) < tolerance
    grads = cpu.backward(grad_y, ScanInputs(*inputs), softplus, NOTHING, level=level)
    for name, found, expected in zip(NAMES, grads, grads_true, strict=True):
        if expected is None:
            assert found is None
            continue
        assert found.shape == expected.shape
        # Sums over all cells may cancel, so that their terms' rounding shows more.
        allowed = 10 * tolerance if name in ("A", "D", "dt_bias") else tolerance
        assert relative_error(found, expected) < allowed, f"gradient of {name}"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str, level: int) -> None:
    case = golden(name)
    inputs = [case[k].float() for k in IN_FILES]
    y, _ = cpu.forward(ScanInputs(*inputs), True, level=level)
    assert relative_error(y, case["y_z"]) < 2e-6
    grads = cpu.backward(case["dy_z"].float(), ScanInputs(*inputs), True, NOTHING, level=level)
    for k, found in zip(IN_FILES, grads, strict=True):
        assert relative_error(found, case[f"grad_{k}"]) < 5e-6, k


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 20), width=st.integers(1, 20), per_group=st.integers(1, 35),
    groups=st.sampled_from([None, 1, 2, 3]), batch=st.integers(1, 2),
    d_state=st.sampled_from([1, 2, 3, 7, 8, 15, 16, 17, 33]), softplus=st.booleans(),
    absent=st.sets(st.sampled_from([5, 6, 7])), level=st.sampled_from(LEVELS or [0]),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_any_shape_is_the_definition(
    height: int, width: int, per_group: int, groups: int | None, batch: int, d_state: int,
    softplus: bool, absent: set[int], level: int, seed: int,
) -> None:  # fmt: skip
    inputs: list[Tensor | None] = list(
        draw(height, width, per_group * (groups or 1), d_state, batch=batch, groups=groups,
             seed=seed)
    )  # fmt: skip
    if not softplus:
        inputs[1] = inputs[1].abs()
        inputs[7] = None
    for i in absent:
        inputs[i] = None
    compare(inputs, softplus, level, 1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_256_states(level: int) -> None:
    compare(draw(9, 10, 5, 256), True, level, 1e-5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("log_decay", [-200.0, -104.0, -88.0, -87.3, -80.0, -30.0, -1e-4, 0.0])
def test_extreme_decay(log_decay: float, level: int) -> None:
    """From no decay at all to decay that underflows, alone and mixed over the channels."""
    x, _, _, B, C, D, z, _ = draw(13, 11, 18, 16, seed=3)
    A = torch.full((18, 16), log_decay)
    A[::3] *= torch.rand(6, 16, generator=torch.Generator().manual_seed(1))
    compare([x, torch.ones_like(x), A, B, C, D, z, None], False, level, 3e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_slow_decay_is_not_biased(level: int) -> None:
    """Over 400 cells an exponential that is one rounding off at 0 would show."""
    x = torch.ones(1, 1, 400, 16)
    A = torch.full((16, 1), -(2.0**-20))  # whose exponential float32 can hold
    B = torch.ones(1, 1, 400, 1)
    y, _ = cpu.forward(ScanInputs(x, x, A, B, B), False, level=level)
    exact = scan_2d(x.double(), x.double(), A.double(), B.double(), B.double())
    assert relative_error(y, exact) < 2e-6


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", range(8))
def test_nan_and_inf_spread_as_in_the_definition(which: int, value: float, level: int) -> None:
    inputs = draw(5, 6, 19, 3, seed=1)
    spot = (0, 2, 3, 1) if inputs[which].dim() == 4 else (1,) * inputs[which].dim()
    inputs[which][spot] = value
    expected = scan_2d(*inputs, True)
    y, _ = cpu.forward(ScanInputs(*inputs), True, level=level)
    for kind in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(kind(y), kind(expected)), kind
    finite = torch.isfinite(expected)
    torch.testing.assert_close(y[finite], expected[finite], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_softplus_is_torchs(level: int) -> None:
    """With A = 0, B = C = x = 1 on one cell, y is softplus(dt)."""
    dt = torch.cat([torch.linspace(-100, 100, 4001), torch.tensor([19.999, 20.0, 20.001])])
    dt = dt.reshape(1, 1, 1, -1)
    one, A = torch.ones_like(dt), torch.zeros(dt.numel(), 1)
    B = torch.ones(1, 1, 1, 1)
    y, _ = cpu.forward(ScanInputs(one, dt, A, B, B), True, level=level)
    exact = torch.nn.functional.softplus(dt.double(), threshold=20.0)
    sure = dt > -86  # below, float32 runs out of exponents
    torch.testing.assert_close(y[sure].double(), exact[sure], rtol=5e-6, atol=0)
    assert (y[~sure] < 1e-37).all()


@pytest.mark.parametrize("level", LEVELS)
def test_slices_and_strides_are_read_in_place_or_copied(level: int) -> None:
    torch.manual_seed(0)
    projected = torch.randn(2, 6, 5, 3 + 2 * 4)
    both = torch.randn(2, 6, 5, 2 * 12)
    x, z = both.chunk(2, dim=-1)
    _, B, C = projected.split([3, 4, 4], dim=-1)
    dt = torch.rand(2, 12, 5, 6).permute(0, 3, 2, 1)  # channels first
    A = -torch.rand(4, 12).T
    D = torch.randn(24)[::2]
    given = (x, dt, A, B, C, D, z, None)
    contiguous = [None if t is None else t.contiguous() for t in given]
    y, _ = cpu.forward(ScanInputs(*given), True, level=level)
    assert torch.equal(y, cpu.forward(ScanInputs(*contiguous), True, level=level)[0])
    assert relative_error(y, scan_2d(*(t if t is None else t.double() for t in given), True)) < 1e-6
    grads = cpu.backward(torch.ones_like(x), ScanInputs(*given), True, NOTHING, level=level)
    again = cpu.backward(torch.ones_like(x), ScanInputs(*contiguous), True, NOTHING, level=level)
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True) if a is not None)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_broadcast_and_reversed_grids(shape: tuple[int, int]) -> None:
    x, dt, A, B, C, D, z, bias = draw(*shape, 7, 2)
    x = x[:, :1, :1].expand(1, *shape, 7)  # no distance between cells at all
    B = B.flip(1)[:, :, :, :]
    compare([x.contiguous(), dt, A, B, C, D, z, bias], True, -1, 1e-5)
    y, _ = cpu.forward(ScanInputs(x, dt, A, B, C, D, z, bias), True)
    assert torch.equal(y, cpu.forward(ScanInputs(x.contiguous(), dt, A, B, C, D, z, bias), True)[0])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("groups", [None, 2])
def test_results_do_not_depend_on_threads_or_run(
    groups: int | None, level: int, threads: None
) -> None:
    inputs = draw(19, 21, 200, 16, batch=2, groups=groups)
    grad_y = torch.ones_like(inputs[0])
    results = []
    for count in (1, 2, 2, 5):
        torch.set_num_threads(count)
        results.append(
            (cpu.forward(ScanInputs(*inputs), True, level=level)[0],
             *cpu.backward(grad_y, ScanInputs(*inputs), True, NOTHING, level=level))
        )  # fmt: skip
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("d_state", [1, 3, 16, 17])
def test_empty_cells_have_the_bits_they_would_have_alone(d_state: int, level: int) -> None:
    """Exponentials are taken again where neighbours have one dt, in all channels of a vector.

    A channel whose dt differs everywhere, in the same vector, has all of them computed.
    """
    height, width, channels = 27, 38, 4
    inputs = draw(height, width, channels, d_state)
    dt = inputs[1]
    empty = torch.ones(height, width, dtype=torch.bool)
    empty[5:14, 9:17] = empty[20, ::3] = False
    dt[0, empty] = dt[0, 0, 0].clone()
    fresh = [t.clone() for t in inputs]
    fresh[1][..., -1] = torch.linspace(-1, 1, height * width).view(height, width)
    grad_y = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(2))
    found, expected = (
        (
            cpu.forward(ScanInputs(*given), True, level=level)[0],
            *cpu.backward(grad_y, ScanInputs(*given), True, NOTHING, level=level),
        )
        for given in (inputs, fresh)
    )
    for name, a, b in zip(("y", *NAMES), found, expected, strict=True):
        if name in ("B", "C"):  # sums over the channels
            continue
        own = (slice(-1),) if name in ("A", "D", "dt_bias") else (..., slice(-1))
        assert torch.equal(a[own], b[own]), name
    assert not torch.equal(found[0][..., -1], expected[0][..., -1])


def test_many_python_threads_at_once() -> None:
    inputs = draw(9, 9, 40, 16)
    expected = cpu.forward(ScanInputs(*inputs), True)[0]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cpu.forward(ScanInputs(*inputs), True)[0], range(16)))
    assert all(torch.equal(y, expected) for y in found)


def _sum_in_child(queue: multiprocessing.Queue) -> None:
    queue.put(float(cpu.forward(ScanInputs(*draw(9, 9, 40, 16)), True)[0].sum()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_after_a_fork() -> None:
    here = float(cpu.forward(ScanInputs(*draw(9, 9, 40, 16)), True)[0].sum())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_sum_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == here
    child.join()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_a_float32_state(dtype: torch.dtype) -> None:
    inputs = [t.to(dtype) for t in draw(30, 30, 8, 16)]
    y, _ = cpu.forward(ScanInputs(*inputs), True)
    assert y.dtype == dtype
    exact = scan_2d(*(t.double() for t in inputs), True)
    assert relative_error(y, exact) <= torch.finfo(dtype).eps
    grads = cpu.backward(torch.ones_like(inputs[0]), ScanInputs(*inputs), True, NOTHING)
    assert [g.dtype for g in grads] == [dtype] * 8


def test_the_processor_keeps_its_denormals() -> None:
    """No fast-math start-up code: 1e-40 must survive loading and running the library."""
    cpu.forward(ScanInputs(*draw(3, 3, 16, 16)), True)
    assert float(torch.tensor([1e-40]) * torch.tensor([0.5])) > 0
