"""Which kernels run over which part of a grid, with which buffers."""

import pytest
import torch

from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan import cuda
from napari_2dmamba.scan.cuda_launch import Plan
from napari_2dmamba.scan.cuda_plans import (
    backward_plan,
    check_offsets,
    forward_shape,
    forward_warps,
    kept_bytes,
    segment_length,
)
from napari_2dmamba.scan.inputs import ScanInputs
from tests.scan.cuda_cases import check, make
from tests.scan.emulation import Emulation

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")


def test_fewer_backward_warps_where_shared_memory_is_small() -> None:
    small = Emulation(shared_bytes=48 * 1024)
    plan = _plan(small.shared_bytes)
    assert plan.shape.backward_warps == 2
    check(small, 1, 9, 10, 33, 16)


def _plan(shared_bytes: int) -> Plan:
    size = (1, 9, 10, 33)
    strides = tuple((n, (1, 1, 1, 1, 1)) for n in ("x", "dt", "B", "C", "z", "grad_y"))
    return backward_plan(torch.float32, size, (1, 16), strides, True, True, True, shared_bytes)


def test_too_little_shared_memory_is_told() -> None:
    with pytest.raises(BackendError, match=r"bytes of shared memory per block; this GPU has 8192"):
        cuda.forward(make(1, 9, 10, 33, 16), True, launcher=Emulation(shared_bytes=8192))


def test_long_strides_are_copied_and_long_rows_refused() -> None:
    x, dt, A, B, C, D, z, bias = make(1, 1, 2, 3, 2)
    far = torch.as_strided(x, x.shape, (2**32, 2**31, 3, 1))
    assert cuda._prepare(ScanInputs(far, dt, A, B, C, D, z, bias))["x"] is not None
    storage = torch.zeros(1).expand(2, 3, 4, 5)
    inputs = ScanInputs(storage, storage, A, B, C, D, None, bias)
    assert cuda._prepare(inputs)["x"].stride()[1] == 20
    meta = torch.empty(1, 1, 2**28, 8, device="meta")
    with pytest.raises(BackendError, match=r"count to 2\*\*31; split d_inner"):
        check_offsets(meta.shape[2], meta.shape[3], 1)


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
    found = forward_shape(torch.float32, batch, width, d_inner, 1, d_state, keep)
    chains = batch * -(-d_inner // found.forward_channels)
    needed = -(-width // 4)
    warps = forward_warps(found, needed, chains, multiprocessors)
    chosen = (found.forward_lanes, found.rows, found.depth, warps, -(-needed // warps))
    assert chosen == shape


@pytest.mark.parametrize(
    ("whole", "blocks", "segments"), [(200, 50, 5), (96, 48, 4), (168, 14, 7), (10**6, 50, 1)]
)
def test_into_how_many_segments_a_band_is_cut(whole: int, blocks: int, segments: int) -> None:
    per_multiprocessor = 12 if whole == 168 else 3
    segment = segment_length(whole, blocks, 132 * per_multiprocessor)
    assert 1 <= segment <= blocks
    assert -(-blocks // segment) == segments


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("d_state", [1, 2, 3, 16, 17, 256])
def test_what_is_kept_is_known_beforehand_and_bounded(d_state: int, gated: bool) -> None:
    class Nothing(Emulation):
        def run(self, plan: Plan, *_: object) -> None:
            assert plan.work.size < 2**40

    for size in [(1, 1, 1, 1), (2, 93, 190, 256), (1, 1, 300, 7), (1, 300, 1, 7)]:
        inputs = make(*size, d_state, absent=() if gated else ("z",))
        _, kept = cuda.forward(inputs, True, launcher=Nothing())
        size_in_bytes = kept_bytes(*size, d_state, gated=gated)
        assert kept.numel() * 4 == size_in_bytes
        most = (2 if d_state <= 2 else 1.5) * d_state + 4 * gated
        assert size_in_bytes <= most * inputs.x.numel() + 3 * 256
