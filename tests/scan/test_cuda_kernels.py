"""The CUDA kernels against the float64 definition: emulated, and on a GPU where one is."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan import cuda
from napari_2dmamba.scan.cuda_compiler import source_folder
from napari_2dmamba.scan.cuda_launch import Launcher, Plan
from napari_2dmamba.scan.definition import scan_2d
from tests.scan.cases import GOLDEN, golden
from tests.scan.emulation import Emulation, EmulationFault

NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")
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


def test_fewer_backward_warps_where_shared_memory_is_small() -> None:
    small = Emulation(shared_bytes=48 * 1024)
    plan = _backward_plan(small.shared_bytes)
    assert plan.shape.backward_warps == 2
    check(small, 1, 9, 10, 33, 16)


def _backward_plan(shared_bytes: int) -> Plan:
    size = (1, 9, 10, 33)
    strides = tuple((n, (1, 1, 1, 1, 1)) for n in ("x", "dt", "B", "C", "z", "grad_y"))
    return cuda._backward_plan(
        torch.float32, size, (1, 16), strides, True, True, True, shared_bytes
    )


def test_too_little_shared_memory_is_told() -> None:
    with pytest.raises(BackendError, match=r"bytes of shared memory per block; this GPU has 8192"):
        cuda.forward(*make(1, 9, 10, 33, 16), True, launcher=Emulation(shared_bytes=8192))


def test_long_strides_are_copied_and_long_rows_refused() -> None:
    x, dt, A, B, C, D, z, bias = make(1, 1, 2, 3, 2)
    far = torch.as_strided(x, x.shape, (2**32, 2**31, 3, 1))
    assert cuda._prepare(far, dt, A, B, C, D, z, bias)["x"] is not None
    storage = torch.zeros(1).expand(2, 3, 4, 5)
    assert cuda._prepare(storage, storage, A, B, C, D, None, bias)["x"].stride()[1] == 20
    meta = torch.empty(1, 1, 2**28, 8, device="meta")
    with pytest.raises(BackendError, match=r"count to 2\*\*31; split d_inner"):
        cuda._check_offsets(meta.shape[2], meta.shape[3], 1)


@pytest.mark.parametrize(
    ("size", "d_state", "keep", "multiprocessors", "shape"),
    [
        # (batch, W, d_inner): lanes of a channel, rows of a step, depth; warps with columns, strips
        ((1, 200, 256), 16, False, 132, (4, 1, 4, 13, 4)),
        ((1, 200, 256), 16, True, 132, (4, 1, 2, 13, 4)),
        ((1, 190, 256), 16, True, 132, (4, 1, 2, 12, 4)),
        ((1, 410, 256), 16, True, 132, (4, 1, 2, 13, 8)),
        ((64, 56, 256), 16, True, 132, (4, 1, 2, 14, 1)),
        ((1, 56, 384), 1, False, 132, (4, 2, 2, 14, 1)),
        ((16, 56, 384), 1, False, 132, (1, 1, 1, 14, 1)),
        ((16, 56, 384), 1, False, 8, (1, 1, 1, 14, 1)),
    ],
    ids=str,
)
def test_what_the_forward_pass_chooses(
    size: tuple[int, int, int], d_state: int, keep: bool, multiprocessors: int, shape: tuple
) -> None:
    batch, width, d_inner = size
    found = cuda._forward_shape(torch.float32, batch, width, d_inner, 1, d_state, keep)
    chains = batch * -(-d_inner // found.forward_channels)
    needed = -(-width // 4)
    warps = cuda._forward_warps(found, needed, chains, multiprocessors)
    chosen = (found.forward_lanes, found.rows, found.depth, warps, -(-needed // warps))
    assert chosen == shape


@pytest.mark.parametrize(
    ("whole", "blocks", "segments"), [(200, 50, 5), (96, 48, 4), (168, 14, 7), (10**6, 50, 1)]
)
def test_into_how_many_segments_a_band_is_cut(whole: int, blocks: int, segments: int) -> None:
    per_multiprocessor = 12 if whole == 168 else 3
    segment = cuda._segment(whole, blocks, 132 * per_multiprocessor)
    assert 1 <= segment <= blocks
    assert -(-blocks // segment) == segments


@everywhere
def test_without_keeping_the_forward_is_the_same(place: str) -> None:
    inputs = make(1, 9, 35, 33, 4)
    launcher = Emulation() if place == "emulated" else None
    if place == "gpu":
        inputs = tuple(None if t is None else t.cuda() for t in inputs)
    with_keeping, _ = cuda.forward(*inputs, True, launcher=launcher)
    y, kept = cuda.forward(*inputs, True, keep=False, launcher=launcher)
    assert torch.equal(y, with_keeping)
    assert kept.numel() == 0


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("d_state", [1, 2, 3, 16, 17, 256])
def test_what_is_kept_is_known_beforehand_and_bounded(d_state: int, gated: bool) -> None:
    class Nothing(Emulation):
        def run(self, plan: Plan, *_: object) -> None:
            assert plan.work.size < 2**40

    for size in [(1, 1, 1, 1), (2, 93, 190, 256), (1, 1, 300, 7), (1, 300, 1, 7)]:
        inputs = make(*size, d_state, absent=() if gated else ("z",))
        _, kept = cuda.forward(*inputs, True, launcher=Nothing())
        size_in_bytes = cuda.kept_bytes(*size, d_state, gated=gated)
        assert kept.numel() * 4 == size_in_bytes
        most = (2 if d_state <= 2 else 1.5) * d_state + 4 * gated
        assert size_in_bytes <= most * inputs[0].numel() + 3 * 256


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
@pytest.mark.parametrize("case", GOLDEN)
def test_golden_numbers(case: str, place: str) -> None:
    numbers = golden(case)
    B, C = (numbers[n].unsqueeze(3) for n in "BC")
    inputs = (numbers["u"], numbers["delta_raw"], numbers["A"], B, C, numbers["D"], numbers["z"])
    inputs = (*inputs, numbers["delta_bias"])
    launcher: Launcher | None = Emulation()
    grad_y = numbers["dy_z"]
    if place == "gpu":
        inputs, grad_y, launcher = tuple(t.cuda() for t in inputs), grad_y.cuda(), None
    y, kept = cuda.forward(*inputs, True, launcher=launcher)
    assert_close("y", y.cpu(), numbers["y_z"], 2e-5)
    grads = cuda.backward(grad_y, *inputs, True, kept, launcher=launcher)
    names = ("u", "delta_raw", "A", "B", "C", "D", "z", "delta_bias")
    for name, got in zip(names, grads, strict=True):
        want = numbers[f"grad_{name}"]
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
@pytest.mark.parametrize("d_state", [1, 4, 5])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_spreads_as_in_the_definition(
    value: float, d_state: int, place: str
) -> None:
    """Infinity stays infinity, also with five states in lanes for eight."""
    inputs = make(1, 5, 20, 3, d_state)
    inputs[0][0, 2, 5, 1] = value
    launcher = Emulation() if place == "emulated" else None
    if place == "gpu":
        inputs = tuple(None if t is None else t.cuda() for t in inputs)
    y, _ = cuda.forward(*inputs, True, launcher=launcher)
    want = scan_2d(*(None if t is None else t.double() for t in inputs), True)
    assert torch.equal(torch.isfinite(y), torch.isfinite(want))
    assert torch.equal(torch.isnan(y), torch.isnan(want))
    assert not torch.isfinite(want).all()


@everywhere
def test_an_infinite_gradient_spreads_as_in_the_definition(place: str) -> None:
    inputs = make(1, 5, 20, 3, 4)
    launcher: Launcher | None = Emulation() if place == "emulated" else None
    if place == "gpu":
        inputs = tuple(None if t is None else t.cuda() for t in inputs)
    y, kept = cuda.forward(*inputs, True, launcher=launcher)
    grad_y = torch.ones_like(y)
    grad_y[0, 2, 11, 1] = torch.inf
    grads = cuda.backward(grad_y, *inputs, True, kept, launcher=launcher)
    _, want = expected(inputs, grad_y)
    for name, got, exact in zip(NAMES, grads, want, strict=True):
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

# 5 states: several strips of several warps, segments, bands. 1 state: two rows a step, two
# strips; then a channel a lane.
SANITIZED = [(1, 10, 36, 9, 5, 1), (1, 9, 60, 9, 1, 1), (2, 6, 37, 3, 1, 1)]


@pytest.mark.parametrize("size", SANITIZED, ids=str)
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_sanitizers_find_nothing(
    sanitizer: str, size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if size[0] > 1:  # a channel a lane, without the many blocks that choose it
        monkeypatch.setattr(cuda, "_NOMINAL_MULTIPROCESSORS", 1)
        assert cuda._forward_shape(torch.float32, 2, 37, 3, 1, 1, True).forward_lanes == 1
    place = Emulation(sanitizer=sanitizer, multiprocessors=132, resident=4, seed=7)
    check(place, *size)


RELAXED = "__atomic_load_n(counter, __ATOMIC_RELAXED)"
RELAXED_STORE = "[](int* p, int v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }"
FAULTS = {  # file, what is there, what is there instead: FAULT is true in the run that has it
    "a warp does not acquire what its neighbour wrote": (
        "forward.cu",
        "if (polls) poll_again(polls);\n        known = load_acquire_cta(counter);",
        "if (polls) poll_again(polls);\n        known = FAULT ? "
        + RELAXED
        + " : load_acquire_cta(counter);",
    ),
    "a warp does not release what it wrote": (
        "forward.cu",
        "store_release_cta(done_by_me, s + 1);",
        f"FAULT ? {RELAXED_STORE}(done_by_me, s + 1) : store_release_cta(done_by_me, s + 1);",
    ),
    "a CTA does not acquire what another one wrote": (
        "forward.cu",
        "known = load_acquire_gpu(counter);",
        "known = FAULT ? " + RELAXED + " : load_acquire_gpu(counter);",
    ),
    "a CTA does not release what it wrote": (
        "forward.cu",
        "store_release_gpu(counter, s + 1);",
        f"FAULT ? {RELAXED_STORE}(counter, s + 1) : store_release_gpu(counter, s + 1);",
    ),
    "a warp does not wait for its left neighbour": (
        "forward.cu",
        "wait_in_cta(done_by_me - 1, s + 1, known_in);",
        "if (!FAULT) wait_in_cta(done_by_me - 1, s + 1, known_in);",
    ),
    "a warp does not wait for room in the ring": (
        "forward.cu",
        "over();\n            wait_in_cta(done_by_me + 1, s - RING + 1, known_out);",
        "over();\n            if (!FAULT) wait_in_cta(done_by_me + 1, s - RING + 1, known_out);",
    ),
    "a warp thinks the ring has one more slot": (
        "forward.cu",
        "s - RING + 1, known_out);  // there is room\n            prepare",
        "s - RING + 1 - FAULT, known_out);\n            prepare",
    ),
    "the rows brought in overwrite some that nobody took": (
        "forward.cu",
        "s + count - RING, taken);",
        "s + count - RING - FAULT, taken);",
    ),
    "no warp barrier before a row is handed over": (
        "forward.cu",
        "__syncwarp();  // all lanes have written",
        "if (!FAULT) __syncwarp();  // all lanes have written",
    ),
    "no barrier before the strip is known": (
        "forward.cu",
        "    __syncthreads();\n    const int item",
        "    if (!FAULT) __syncthreads();\n    const int item",
    ),
    "no barrier between bands and their chain": (
        "backward.cu",
        "__syncthreads();  // the two halves alternate, so that one barrier a turn",
        "if (!FAULT) __syncthreads();  // the two halves alternate, so that one barrier a turn",
    ),
    "no barrier between panels": (
        "backward.cu",
        "__syncthreads();  // the two halves alternate, so that one barrier a panel",
        "if (!FAULT) __syncthreads();  // the two halves alternate, so that one barrier a panel",
    ),
    "no barrier before step sizes are overwritten": (
        "backward.cu",
        "__syncthreads();  // everything shared is read",
        "if (!FAULT) __syncthreads();  // everything shared is read",
    ),
    "no barrier before the sums of other warps are read": (
        "backward.cu",
        "__syncthreads();  // P, Q",
        "if (!FAULT) __syncthreads();  // P, Q",
    ),
    "blocks of different channels write the same sum of grad B": (
        "backward.cu",
        "static_cast<index_t>(tile) * p.batches",
        "static_cast<index_t>(FAULT ? 0 : tile) * p.batches",
    ),
    "neighbouring bands write the same partial gradient of A": (
        "backward.cu",
        "static_cast<index_t>(b) * gridDim.x + blockIdx.x;",
        "static_cast<index_t>(b) * gridDim.x + (FAULT ? 0 : blockIdx.x);",
    ),
}


def broken(folder: Path, faults: dict[str, tuple[str, str, str]]) -> Path:
    """Return a copy of the kernels with faults that a run may choose from, by their number."""
    texts = {source.name: source.read_text() for source in source_folder().iterdir()}
    for number, (file, before, after) in enumerate(faults.values(), 1):
        assert texts[file].count(before) == 1, f"{file} has changed: not once there: {before!r}"
        texts[file] = texts[file].replace(before, after.replace("FAULT", f"emu::faulty({number})"))
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_thread_sanitizer_catches_a_race(fault: str, tmp_path: Path) -> None:
    number = [*FAULTS].index(fault) + 1
    place = Emulation(
        sanitizer="thread",
        multiprocessors=132,
        kernels=broken(tmp_path, FAULTS),
        fault=number,
    )
    # A strip whose number is not there yet is somewhere else in memory.
    says = "SEGV|data race" if "strip is known" in fault else "data race"
    if FAULTS[fault][0] == "forward.cu":
        with pytest.raises(EmulationFault, match=says):
            cuda.forward(*make(1, 10, 36, 9, 5), True, launcher=place)
        return
    inputs = make(1, 10, 12, 33 if "channels" in fault else 9, 5)
    y, kept = cuda.forward(*inputs, True, launcher=Emulation())
    with pytest.raises(EmulationFault, match=says):
        cuda.backward(torch.ones_like(y), *inputs, True, kept, launcher=place)


def test_random_order_shows_what_is_not_waited_for_in_the_numbers(tmp_path: Path) -> None:
    fault = "a warp does not wait for its left neighbour"
    kernels = broken(tmp_path, {fault: FAULTS[fault]})
    inputs = make(1, 9, 17, 18, 5)
    want = scan_2d(*(None if t is None else t.double() for t in inputs), True)
    y, _ = cuda.forward(*inputs, True, launcher=Emulation(kernels=kernels, fault=1))
    error = (y.double() - want).abs().max() / want.abs().max()
    assert not error < 1e-3


STUCK = {
    "strips that wait for one that is not running": (
        "forward.cu",
        "p.progress ? atomicAdd(p.progress, 1) : static_cast<int>(blockIdx.x)",
        "p.progress && !FAULT ? atomicAdd(p.progress, 1) : static_cast<int>(blockIdx.x)",
    ),
    "a strip that is never done": (
        "forward.cu",
        "if (known <= s + 1) store_release_gpu",
        "if (known <= s + 1 && !FAULT) store_release_gpu",
    ),
    "a barrier that some threads do not reach": (
        "forward.cu",
        "    __syncthreads();\n    const int item",
        "    if (!FAULT || threadIdx.x) __syncthreads();\n    const int item",
    ),
}


@pytest.mark.parametrize("fault", STUCK)
def test_what_never_ends_is_reported(fault: str, tmp_path: Path) -> None:
    # A thread that goes on alone may also read what nobody wrote yet, and fall over that
    says = "without reaching the __syncthreads|exit -11" if "barrier" in fault else "deadlock: "
    place = Emulation(
        multiprocessors=132,
        resident=1,
        kernels=broken(tmp_path, STUCK),
        fault=[*STUCK].index(fault) + 1,
    )
    with pytest.raises(EmulationFault, match=says):
        cuda.forward(*make(1, 6, 36, 3, 5), True, launcher=place)


def test_address_sanitizer_catches_a_ring_too_small(tmp_path: Path) -> None:
    """The kernel's ring is longer than the host has shared memory for."""
    kernels = broken(
        tmp_path, {"ring": ("forward.cu", "constexpr int RING = 4;", "constexpr int RING = 8;")}
    )
    with pytest.raises(EmulationFault, match="AddressSanitizer"):
        cuda.forward(
            *make(1, 10, 36, 3, 5),
            True,
            launcher=Emulation(sanitizer="address", kernels=kernels, multiprocessors=132),
        )


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
def test_a_captured_training_step_replays() -> None:
    """Forward, backward and the step of the optimizer, replayed, are those of eager mode."""
    from napari_2dmamba.scan import selective_scan_2d

    given = [t.cuda() for t in make(1, 20, 90, 64, 16)]
    names = dict(zip(NAMES, given, strict=True))
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
