"""What a launch of the CUDA kernels consists of: shape constants, sizes, and the one argument."""

import ctypes
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from napari_2dmamba.errors import BackendError

MAX_STATES = 16
"""States of one launch; more of them run as several launches."""

LINES = 2
"""Lines of cells, hence warps, of a CTA of the edge kernels."""

IO = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""What x, dt, B, C, z, y may be, and the number the kernels know it by."""

_PANEL = 4  # cells that the edge kernels fetch at a time


def states_per_launch(d_state: int) -> int:
    """Return the states of one launch: as few launches as possible, all about alike."""
    return math.ceil(d_state / math.ceil(d_state / MAX_STATES))


def block_side(states: int) -> int:
    """Return the rows and columns of a block of cells in the backward kernel."""
    return 4 if states <= 2 else 8


@dataclass(frozen=True)
class Shape:
    """The shape constants that the kernels are compiled for.

    Attributes
    ----------
    io
        0 float32, 1 float16, 2 bfloat16.
    states
        States of one launch.
    whole
        1 where every launch has as many, 0 where the last one has fewer.
    columns
        Columns that a warp of the forward kernel owns.
    block
        Rows and columns of a block of cells in the backward kernel.
    state_lanes
        Lanes of a backward warp that share a channel.
    backward_warps
        Warps of a backward CTA.
    """

    io: int
    states: int
    whole: int
    columns: int
    block: int
    state_lanes: int
    backward_warps: int

    @classmethod
    def of(cls, dtype: torch.dtype, d_state: int, shared_bytes: int) -> "Shape":
        """Return what suits ``d_state`` states on a GPU with so much shared memory."""
        states = states_per_launch(d_state)
        lanes = states if states <= 2 else 4
        block = block_side(states)
        columns = 4 if states <= 4 else 2
        whole = int(d_state % states == 0)
        shapes = [
            cls(IO[dtype], states, whole, columns, block, lanes, warps)
            for warps in (4, 2, 1)
            if warps <= lanes
        ]
        for shape in shapes:
            if shape.backward_bytes <= shared_bytes:
                return shape
        raise BackendError(
            f"The scan needs {shapes[-1].backward_bytes} bytes of shared memory per block; this"
            f" GPU has {shared_bytes}. Use the CPU."
        )

    def constants(self, file: str) -> dict[str, int]:
        """Return the constants that ``csrc/cuda/<file>.cu`` is compiled with."""
        common = {"SCAN_IO": self.io, "STATES": self.states, "WHOLE": self.whole}
        common["BLOCK"] = self.block
        if file == "forward":
            return common | {"COLUMNS": self.columns}
        return common | {"STATE_LANES": self.state_lanes, "BACKWARD_WARPS": self.backward_warps}

    @property
    def edge_bytes(self) -> int:
        """Shared memory of the kernels that write edges."""
        return 4 * LINES * 2 * _PANEL * self.states

    def forward_bytes(self, warps: int) -> int:
        """Shared memory of the forward kernel."""
        return 4 * warps * (2 * self.states * 32 + 2 * self.columns * 2 * self.states)

    @property
    def backward_channels(self) -> int:
        """Channels of a backward CTA."""
        return 32 // self.state_lanes * self.backward_warps

    @property
    def backward_bytes(self) -> int:
        """Shared memory of the backward kernel; WARP_FLOATS in backward.cu."""
        cells, rounds = self.block**2, math.ceil(self.states / self.state_lanes)
        floats = 5 * cells * (32 // self.state_lanes)
        floats += 2 * rounds * self.state_lanes * (cells + 4)
        floats += 32 * (rounds * self.block + 2 * self.block // 4 * self.block + rounds)
        return 4 * floats * self.backward_warps


class _Strided(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_longlong),
        ("row", ctypes.c_longlong),
        ("column", ctypes.c_longlong),
        ("group", ctypes.c_longlong),
    )


_STRIDED = ("x", "dt", "B", "C", "z", "y", "grad_y", "grad_x", "grad_dt", "grad_z")
_POINTERS = (
    *("A", "D", "dt_bias", "pregate", "left", "top", "below", "sum1", "sum2"),
    *("part_A", "part_D", "part_dt_bias", "part_B", "part_C"),
)
_NUMBERS = (
    *("batches", "height", "width", "groups", "channels", "states", "first_state"),
    *("spacing", "strip", "softplus", "write_left", "first", "last"),
)


class ScanArgument(ctypes.Structure):
    """The one argument of every kernel: ``struct Scan`` of csrc/cuda/scan.cuh."""

    _fields_ = (
        *((name, _Strided) for name in _STRIDED),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int) for name in _NUMBERS),
    )


Values = dict[str, "Tensor | int | None"]
"""The fields of `ScanArgument` as tensors and numbers; what is absent is null or 0."""


def pack(values: Values) -> ScanArgument:
    """Return the kernels' argument for tensors that stay alive until the launch has run."""
    argument = ScanArgument()
    groups = values["groups"]
    assert isinstance(groups, int)
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, int):
            setattr(argument, name, value)
        elif name in _STRIDED:
            setattr(argument, name, _strides(value, groups))
        else:
            setattr(argument, name, value.data_ptr())
    return argument


def _strides(t: Tensor, groups: int) -> _Strided:
    """Describe ``(batch, H, W, channels)`` or ``(batch, H, W, groups, states)``."""
    group = t.stride(3) if t.dim() == 5 else t.shape[3] // groups
    return _Strided(t.data_ptr(), t.stride(0), t.stride(1), t.stride(2), group)


class Launcher(Protocol):
    """What runs a kernel: a GPU, or its emulation in the tests."""

    @property
    def multiprocessors(self) -> int:
        """Blocks that should at least be in flight."""

    @property
    def shared_bytes(self) -> int:
        """The most shared memory of a block."""

    def launch(
        self,
        shape: Shape,
        file: str,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared_bytes: int,
        values: Values,
    ) -> None:
        """Run one kernel of ``csrc/cuda/<file>.cu``."""
