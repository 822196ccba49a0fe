"""Which CUDA kernels run over which part of a grid, with which buffers: one plan per shape.

docs/cuda.md explains the kernels. No bit of a result depends on the number of multiprocessors.
"""

import functools
import math
from dataclasses import replace

import torch

from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan.cuda_launch import (
    COLUMNS,
    EDGE_WARPS,
    FORWARD_WARPS,
    Launch,
    Layout,
    Plan,
    Shape,
    block_side,
    check_launches,
    pack_numbers,
    states_per_launch,
)

_MAX_GRID = 65535  # of the z axis
_KEPT_PLANS = 256  # per pass
_MOVERS = 2  # warps of a forward CTA that move row states between strips
_JOIN_WARPS = _ADD_WARPS = 8  # of a CTA of scan_join_edges, scan_add_parts
# What decides on the order of additions must not depend on the GPU: the multiprocessors of an H100.
_NOMINAL_MULTIPROCESSORS = 132

Strides = tuple[int, ...]


def kept_bytes(
    batch: int, height: int, width: int, d_inner: int, d_state: int, *, gated: bool
) -> int:
    """Return the bytes that `forward` keeps for `backward` besides its inputs.

    Row states after every fourth column, column states after every eighth row (fourth, for one
    or two states), and ``y`` before the gate where there is one; float32. Per element of ``x``
    that is at most ``1.5 * d_state + 4`` bytes (``2 * d_state + 4`` for one or two states).
    """
    return _kept(batch, height, width, d_inner, d_state, gated).size


def _kept(batch: int, height: int, width: int, d_inner: int, d_state: int, gated: bool) -> Layout:
    """What the forward pass keeps; ``struct Scan`` says how each array is laid out."""
    block = block_side(states_per_launch(d_state))
    kept = Layout()
    if batch * height * width * d_inner:
        kept.add("left", batch, (width - 1) // COLUMNS, height, d_state, d_inner)
        kept.add("top", batch, (height - 1) // block, width, d_state, d_inner)
        kept.add("pregate", batch, height, width, d_inner if gated else 0)
    return kept


@functools.lru_cache(_KEPT_PLANS)
def forward_plan(
    io: torch.dtype,
    size: tuple[int, ...],
    shared_by: tuple[int, ...],
    strides: tuple[tuple[str, Strides], ...],
    aligned: bool,
    softplus: bool,
    keep: bool,
    multiprocessors: int,
    shared_bytes: int,
) -> Plan:
    """Return the launches of a forward pass, what it keeps and the memory it works in.

    Parameters
    ----------
    io
        Dtype of the inputs.
    size, shared_by
        ``(batch, H, W, d_inner)`` of x, and ``(groups, d_state)`` of B and C.
    strides
        Of every input that has cells, by name.
    aligned
        Whether B and C begin where four numbers can be read at once.
    softplus, keep
        As of `cuda.forward`.
    multiprocessors, shared_bytes
        Of the GPU.
    """
    batch, height, width, d_inner = size
    groups, d_state = shared_by
    check_offsets(width, d_inner, d_state)
    by_name = dict(strides)
    launches = math.ceil(d_state / states_per_launch(d_state))
    shape = replace(
        forward_shape(io, batch, width, d_inner, groups, d_state, keep),
        vector=4 if aligned and _in_fours(by_name, d_state) else 1,
        softplus=int(softplus),
        gated=int("z" in by_name),
        keep=int(keep),
        single=int(launches == 1),
    )
    chains = batch * groups * math.ceil(d_inner // groups / shape.forward_channels)
    needed = math.ceil(width / COLUMNS)
    warps = forward_warps(shape, needed, chains, multiprocessors)
    strips = math.ceil(needed / warps)
    work = Layout()
    if strips > 1:
        work.add("handed", strips - 1, chains, math.ceil(height / shape.rows), shape.handed_floats)
        work.add("progress", 8 * (1 + chains * strips))
    if launches > 1:
        work.add("sum1", *size)
    numbers = {
        **{"batches": batch, "height": height, "width": width, "groups": groups},
        **{"channels": d_inner // groups, "states": d_state, "warps": warps},
    }
    grid, block = (chains * strips, 1, 1), (32, warps + (_MOVERS if strips > 1 else 0), 1)
    zeroed = "progress" if strips > 1 else None
    every = tuple(
        Launch("scan_forward", grid, block, shape.forward_bytes(warps), packed, zeroed)
        for packed in _numbers_of_launches(numbers, shape, launches)
    )
    check_launches(every, shared_bytes)
    kept = _kept(batch, height, width, d_inner, d_state, "z" in by_name) if keep else Layout()
    by_name["y"] = _contiguous(size)
    return Plan("forward", shape, every, _with_groups(by_name, d_inner // groups), kept, work)


def forward_shape(
    io: torch.dtype, batch: int, width: int, d_inner: int, groups: int, d_state: int, keep: bool
) -> Shape:
    """Return the shape of the forward kernel, the same whatever the GPU.

    Measured on one H200 with 16 states and with 1 (docs/cuda.md). Four lanes share a channel,
    and with many states fetch as far ahead as registers allow. With one or two states four
    lanes have little to do, so that one lane per channel is better where these few warps
    fill a GPU; where they do not, two rows a step halve the number of steps.
    """
    shape = Shape.of(io, d_state)
    if shape.states > 2:
        return replace(shape, depth=2 if keep else 4)
    strips = math.ceil(math.ceil(width / COLUMNS) / (FORWARD_WARPS - _MOVERS))
    ctas = batch * groups * math.ceil(d_inner // groups / 32) * strips
    if ctas >= _NOMINAL_MULTIPROCESSORS:
        return replace(shape, forward_lanes=1, depth=1)
    return replace(shape, rows=2, depth=2)


def forward_warps(shape: Shape, needed: int, chains: int, multiprocessors: int) -> int:
    """Return how many warps with columns a forward CTA gets.

    ``needed`` of them cover the width. Few strips mean few handovers between CTAs, which is
    all that counts with one or two states; with more there should be about as many CTAs as
    multiprocessors, but of 4 warps at least.
    """
    strips = math.ceil(needed / (FORWARD_WARPS - _MOVERS))
    if shape.states > 2:
        strips = max(strips, min(multiprocessors // chains, math.ceil(needed / 4)))
    return math.ceil(needed / strips)


def _in_fours(strides: dict[str, Strides], d_state: int) -> bool:
    """Return whether the states of every cell can be read four at a time."""
    states = states_per_launch(d_state)
    if states % 4 or d_state % states:
        return False
    return all(s % 4 == 0 for n in ("B", "C") for s in strides[n][:-1])


@functools.lru_cache(_KEPT_PLANS)
def backward_plan(
    io: torch.dtype,
    size: tuple[int, ...],
    shared_by: tuple[int, ...],
    strides: tuple[tuple[str, Strides], ...],
    softplus: bool,
    with_D: bool,
    with_bias: bool,
    shared_bytes: int,
) -> Plan:
    """Return the launches of a backward pass and the memory it works in; see `forward_plan`.

    Parameters
    ----------
    with_D, with_bias
        Whether D and dt_bias are there.
    """
    batch, height, width, d_inner = size
    groups, d_state = shared_by
    check_offsets(width, d_inner, d_state)
    by_name = dict(strides)
    shape = backward_shape(io, d_state, shared_bytes)
    bands, blocks = math.ceil(height / shape.block), math.ceil(width / COLUMNS)
    tiles = math.ceil(d_inner // groups / shape.backward_channels)
    segment = segment_length(
        bands * groups * tiles * batch, blocks, _NOMINAL_MULTIPROCESSORS * shape.backward_ctas
    )
    segments = math.ceil(blocks / segment)
    launches = math.ceil(d_state / shape.states)

    work = Layout()
    work.add("below", batch, bands - 1, width, d_state, d_inner)
    work.add("right", batch, segments - 1, height, d_state, d_inner)
    work.add("steps", batch, segments - 1, height, d_inner)
    if launches > 1:
        work.add("sum1", *size)
        work.add("sum2", *size)
    pieces = batch * bands * segments
    work.add("part_A", pieces, d_state, d_inner)
    for name, there in (("D", with_D), ("dt_bias", with_bias)):
        work.add(f"part_{name}", pieces, d_inner)
        if not there:
            work.add(f"grad_{name}", d_inner)  # written all the same
    for name in ("part_B", "part_C"):
        work.add(name, tiles, batch, height, width, groups, d_state)

    numbers = {
        **{"batches": batch, "height": height, "width": width, "groups": groups},
        **{"channels": d_inner // groups, "states": d_state, "softplus": int(softplus)},
        **{"segment": segment, "segments": segments, "pieces": pieces, "tiles": tiles},
    }
    wide, items = groups * math.ceil(d_inner // groups / 32), min(batch, _MAX_GRID)
    every = []
    for packed in _numbers_of_launches(numbers, shape, launches):
        if bands > 1:
            grid, block = (width, wide, items), (32, EDGE_WARPS, 1)
            bytes_ = shape.gradient_bytes
            every.append(Launch("scan_gradient_edges", grid, block, bytes_, packed))
        if segments > 1:
            grid, block = (bands * (segments - 1), wide, items), (32, shape.sweep_warps, 1)
            every.append(Launch("scan_right_edges", grid, block, shape.sweep_bytes, packed))
        if segments > 2:
            grid, block = (height, wide, items), (32, _JOIN_WARPS, 1)
            every.append(Launch("scan_join_edges", grid, block, 0, packed))
        grid, block = (bands * segments, groups * tiles, items), (32, shape.backward_warps, 1)
        every.append(Launch("scan_backward", grid, block, shape.backward_bytes, packed))
    values = batch * height * width * groups * d_state  # of B, and of C
    tall = math.ceil(d_inner * d_state / 32) + 2 * math.ceil(d_inner / 32)
    grid, block = (tall + math.ceil(2 * values / (32 * _ADD_WARPS)), 1, 1), (32, _ADD_WARPS, 1)
    every.append(Launch("scan_add_parts", grid, block, 4 * 32 * _ADD_WARPS, packed))
    check_launches(tuple(every), shared_bytes)
    kept = _kept(batch, height, width, d_inner, d_state, "z" in by_name)
    for name in ("grad_x", "grad_dt", "grad_z"):
        by_name[name] = _contiguous(size)
    strided = _with_groups(by_name, d_inner // groups)
    return Plan("backward", shape, tuple(every), strided, kept, work)


def backward_shape(io: torch.dtype, d_state: int, shared_bytes: int) -> Shape:
    """Return the shape of the backward kernels: fewer warps where shared memory is small."""
    shape = Shape.of(io, d_state)
    if shape.states <= 2:
        return replace(shape, state_lanes=1, backward_warps=1, sweep_warps=1)
    shape = replace(shape, sweep_warps=8 if shape.states > 8 else 4)
    by_warps = [replace(shape, backward_warps=warps) for warps in (4, 2, 1)]
    return next((s for s in by_warps if s.backward_bytes <= shared_bytes), by_warps[-1])


def segment_length(whole: int, blocks: int, slots: int) -> int:
    """Return how many blocks of each band a backward CTA takes so that the GPU is busy to the end.

    ``whole`` CTAs if each takes all; ``slots`` of them run at once. A CTA costs its blocks and
    about half a block to start and to end.
    """

    def turns(length: int) -> float:
        return math.ceil(whole * math.ceil(blocks / length) / slots) * (length + 0.5)

    lengths = {math.ceil(blocks / segments) for segments in range(1, min(blocks, 32) + 1)}
    return min(sorted(lengths, reverse=True), key=turns)


def _numbers_of_launches(numbers: dict[str, int], shape: Shape, launches: int) -> list[bytes]:
    """Return the packed numbers of each launch over the states."""
    return [
        pack_numbers(
            numbers | {"first_state": n * shape.states, "first": n == 0, "last": n == launches - 1}
        )
        for n in range(launches)
    ]


def _contiguous(size: tuple[int, ...]) -> Strides:
    _, height, width, d_inner = size
    return height * width * d_inner, width * d_inner, d_inner, 1


def _with_groups(
    strides: dict[str, Strides], channels: int
) -> dict[str, tuple[int, int, int, int]]:
    """Return the strides of batch, row, column and group."""
    return {n: (s[0], s[1], s[2], s[3] if len(s) == 5 else channels) for n, s in strides.items()}


def check_offsets(width: int, d_inner: int, d_state: int) -> None:
    """Raise where an offset that the kernels keep in 32 bits does not fit."""
    if width * d_inner >= 2**31 or d_state * d_inner >= 2**31:
        raise BackendError(
            f"A row of {width} cells of {d_inner} channels and {d_state} states is too long for"
            " the CUDA kernels, which count to 2**31; split d_inner."
        )
