"""The 2D selective scan on an NVIDIA GPU: which kernels run, over which part of the grid.

The kernels are in ``csrc/cuda``; docs/cuda.md explains them. `forward` and `backward` do what
:func:`napari_2dmamba.scan.definition.scan_2d` and its gradient do, in the same order of
additions along rows and columns whatever the GPU and the shape: no atomics, two runs agree
bit for bit.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan.cuda_launch import (
    IO,
    LINES,
    Launcher,
    Shape,
    Values,
    block_side,
    pack,
    states_per_launch,
)

_MAX_WARPS = 8  # of a forward CTA, so that a lane may have 255 registers
_MAX_GRID = 65535  # of the y and z axes


class _GpuLauncher:
    def __init__(self, index: int) -> None:
        from napari_2dmamba.scan.cuda_driver import gpu

        self._gpu = gpu(index)
        self.multiprocessors = self._gpu.multiprocessors
        self.shared_bytes = self._gpu.shared_bytes

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
        constants = shape.constants(file)
        self._gpu.launch(file, kernel, constants, grid, block, shared_bytes, pack(values))


class Saved(NamedTuple):
    """What the backward pass needs besides the inputs; all float32, perhaps empty.

    Attributes
    ----------
    left
        ``(batch, edges, H, d_state, d_inner)``: row states after every block of columns.
    top
        ``(batch, edges, W, d_state, d_inner)``: column states after every block of rows.
    pregate
        ``(batch, H, W, d_inner)``: y before the gate, where there is a ``z``.
    """

    left: Tensor
    top: Tensor
    pregate: Tensor


def saved_sizes(
    x: Tensor, B: Tensor, z: Tensor | None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the sizes of what `forward` keeps, for at least one cell."""
    batch, height, width, d_inner = x.shape
    d_state = B.shape[-1]
    block = block_side(states_per_launch(d_state))
    left = (batch, (width - 1) // block, height, d_state, d_inner)
    top = (batch, (height - 1) // block, width, d_state, d_inner)
    return left, top, (0,) if z is None else (batch, height, width, d_inner)


def availability() -> tuple[bool, str]:
    """Return whether the kernels can run here, and why or why not; compiles nothing."""
    if torch.version.cuda is None:
        return False, f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return False, f"torch {torch.__version__} finds no CUDA device"
    from napari_2dmamba.scan import cuda_compiler, cuda_driver

    try:
        major, minor = cuda_compiler.nvrtc_version()
        gpu = cuda_driver.gpu(torch.cuda.current_device())
    except BackendError as error:
        return False, str(error)
    name = torch.cuda.get_device_name()
    capability = f"{gpu.architecture // 10}.{gpu.architecture % 10}"
    if gpu.architecture < cuda_compiler.OLDEST_ARCHITECTURE:
        return False, f"{name} has compute capability {capability}; the kernels need 7.5"
    return True, f"{name}, compute capability {capability}, NVRTC {major}.{minor}"


def forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    *,
    keep: bool = True,
    launcher: Launcher | None = None,
) -> tuple[Tensor, Saved]:
    """Return ``y`` and what `backward` needs.

    Parameters
    ----------
    x, dt, z
        ``(batch, H, W, d_inner)``; the channel axis should be contiguous, the others may have
        any strides. float32, float16 or bfloat16; of several, the widest is computed with.
    A
        ``(d_inner, d_state)``.
    B, C
        ``(batch, H, W, groups, d_state)``, such as slices of one projection.
    D, dt_bias
        ``(d_inner,)``
    dt_softplus
        Whether ``softplus`` is applied to ``dt + dt_bias``.
    keep
        Whether to keep what `backward` needs; without it, `Saved` is empty.
    launcher
        What runs the kernels; by default the GPU that holds ``x``.

    Returns
    -------
    y
        ``(batch, H, W, d_inner)``, of the dtype of ``x``.
    saved
        For `backward`.

    Raises
    ------
    BackendError
        Where the kernels cannot be compiled, loaded or launched.
    """
    launcher = _launcher_of(x) if launcher is None else launcher
    shape, values = _prepare(launcher, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    batch, height, width, d_inner = x.shape
    groups, d_state = B.shape[3:]
    inputs = values["x"]
    assert isinstance(inputs, Tensor)
    y = torch.empty(x.shape, dtype=inputs.dtype, device=x.device)

    def floats(*size: int) -> Tensor:
        return torch.empty(size, dtype=torch.float32, device=x.device)

    if x.numel() == 0:
        return y.to(x.dtype), Saved(floats(0), floats(0), floats(0))
    tiles = groups * math.ceil(d_inner // groups / 32)
    _check_grid(tiles)
    batches = min(batch, _MAX_GRID)
    unit = shape.block // shape.columns if keep else 1
    together = tiles * batches >= launcher.multiprocessors
    warps = _forward_warps(
        math.ceil(width / shape.columns),
        1 if together else tiles * batches,
        1 if together else launcher.multiprocessors,
        unit,
    )
    strip = warps * shape.columns
    strips = math.ceil(width / strip)
    spacing = shape.block if keep else strip
    if keep:
        left, top, pregate = (floats(*size) for size in saved_sizes(x, B, z))
    else:
        left = floats(batch, (width - 1) // strip, height, d_state, d_inner)
        top, pregate = floats(0), floats(0)
    one_pass = together or strips == 1
    launches = math.ceil(d_state / shape.states)
    values |= {
        "y": y,
        "left": left if left.numel() else None,
        "top": top if top.numel() else None,
        "pregate": pregate if pregate.numel() else None,
        "sum1": floats(*x.shape) if launches > 1 else None,
        "spacing": spacing,
        "strip": strip,
        "write_left": int(one_pass and left.numel() > 0),
    }
    for launch in range(launches):
        values |= _launch_values(launch, launches, shape)
        if not one_pass:
            grid = (math.ceil(height / LINES), tiles, batches)
            block, shared = (32, LINES, 1), shape.edge_bytes
            launcher.launch(shape, "forward", "scan_left_edges", grid, block, shared, values)
        grid = (1 if one_pass else strips, tiles, batches)
        block, shared = (32, warps, 1), shape.forward_bytes(warps)
        launcher.launch(shape, "forward", "scan_forward", grid, block, shared, values)
    return y.to(x.dtype), Saved(left if keep else floats(0), top, pregate)


class Gradients(NamedTuple):
    """Gradients of the inputs of `forward`, each of the dtype of its input."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None


def backward(
    grad_y: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    saved: tuple[Tensor, Tensor, Tensor],
    *,
    launcher: Launcher | None = None,
) -> Gradients:
    """Return the gradients of the sum of ``y * grad_y``.

    Parameters
    ----------
    grad_y
        ``(batch, H, W, d_inner)``
    x, dt, A, B, C, D, z, dt_bias, dt_softplus
        As given to `forward`.
    saved
        `Saved`, from `forward` with ``keep=True``.
    launcher
        As for `forward`.

    Raises
    ------
    BackendError
        Where the kernels cannot be compiled, loaded or launched.
    """
    launcher = _launcher_of(x) if launcher is None else launcher
    shape, values = _prepare(launcher, x, dt, A, B, C, D, z, dt_bias, dt_softplus, grad_y)
    batch, height, width, d_inner = x.shape
    groups, d_state = B.shape[3:]
    inputs = values["x"]
    assert isinstance(inputs, Tensor)
    if x.numel() == 0:
        some = [torch.zeros_like(t) for t in (x, dt, A, B, C)]
        return Gradients(
            *some, *(None if t is None else torch.zeros_like(t) for t in (D, z, dt_bias))
        )

    def floats(*size: int) -> Tensor:
        return torch.empty(size, dtype=torch.float32, device=x.device)

    def like_x() -> Tensor:
        return torch.empty(x.shape, dtype=inputs.dtype, device=x.device)

    bands = math.ceil(height / shape.block)
    tiles = math.ceil(d_inner // groups / shape.backward_channels)
    _check_grid(groups * math.ceil(d_inner // groups / 32))
    _check_grid(groups * tiles)
    batches = min(batch, _MAX_GRID)
    launches = math.ceil(d_state / shape.states)
    left, top, pregate = saved
    below = floats(batch, bands - 1, width, d_state, d_inner)
    grad_x, grad_dt, grad_z = like_x(), like_x(), like_x() if z is not None else None
    part_A = floats(batch, bands, d_state, d_inner)
    part_D, part_dt_bias = floats(batch, bands, d_inner), floats(batch, bands, d_inner)
    part_B, part_C = floats(tiles, *B.shape), floats(tiles, *C.shape)
    values |= {
        "grad_x": grad_x,
        "grad_dt": grad_dt,
        "grad_z": grad_z,
        "pregate": pregate if pregate.numel() else None,
        "left": left if left.numel() else None,
        "top": top if top.numel() else None,
        "below": below if below.numel() else None,
        "sum1": floats(*x.shape) if launches > 1 else None,
        "sum2": floats(*x.shape) if launches > 1 else None,
        "part_A": part_A,
        "part_D": part_D,
        "part_dt_bias": part_dt_bias,
        "part_B": part_B,
        "part_C": part_C,
        "spacing": shape.block,
    }
    for launch in range(launches):
        values |= _launch_values(launch, launches, shape)
        if bands > 1:
            grid = (math.ceil(width / LINES), groups * math.ceil(d_inner // groups / 32), batches)
            block, shared = (32, LINES, 1), shape.edge_bytes
            launcher.launch(shape, "backward", "scan_gradient_edges", grid, block, shared, values)
        grid, block = (bands, groups * tiles, batches), (32, shape.backward_warps, 1)
        shared = shape.backward_bytes
        launcher.launch(shape, "backward", "scan_backward", grid, block, shared, values)

    # torch adds up in a fixed order, so these sums are reproducible as well.
    return Gradients(
        grad_x.to(x.dtype),
        grad_dt.to(dt.dtype),
        part_A.sum((0, 1)).T.to(A.dtype),
        part_B.sum(0).to(B.dtype),
        part_C.sum(0).to(C.dtype),
        None if D is None else part_D.sum((0, 1)).to(D.dtype),
        None if z is None or grad_z is None else grad_z.to(z.dtype),
        None if dt_bias is None else part_dt_bias.sum((0, 1)).to(dt_bias.dtype),
    )


def _launcher_of(x: Tensor) -> Launcher:
    if x.device.type != "cuda" or x.device.index is None:
        raise BackendError(f"The CUDA kernels were called with tensors on {x.device}.")
    return _GpuLauncher(x.device.index)


def _prepare(
    launcher: Launcher,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    grad_y: Tensor | None = None,
) -> tuple[Shape, Values]:
    """Bring the inputs to one dtype and contiguous channels, without copying where they are."""
    io = x.dtype
    for t in (dt, B, C, z):
        io = io if t is None else torch.promote_types(io, t.dtype)
    if io not in IO:
        raise BackendError(
            f"The CUDA kernels take float32, float16 and bfloat16, not {io}; use the definition."
        )

    def cells(t: Tensor | None) -> Tensor | None:
        if t is None:
            return None
        t = t.to(io)
        return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()

    def channels(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.to(torch.float32).contiguous()

    values: Values = {
        "x": cells(x),
        "dt": cells(dt),
        "z": cells(z),
        "B": cells(B),
        "C": cells(C),
        "grad_y": cells(grad_y),
        "A": channels(A),
        "D": channels(D),
        "dt_bias": channels(dt_bias),
        "batches": x.shape[0],
        "height": x.shape[1],
        "width": x.shape[2],
        "groups": B.shape[3],
        "channels": x.shape[3] // B.shape[3],
        "states": B.shape[4],
        "softplus": int(dt_softplus),
    }
    return Shape.of(io, B.shape[4], launcher.shared_bytes), values


def _launch_values(launch: int, launches: int, shape: Shape) -> Values:
    return {
        "first_state": launch * shape.states,
        "first": int(launch == 0),
        "last": int(launch == launches - 1),
    }


def _forward_warps(pairs: int, tiles: int, multiprocessors: int, unit: int) -> int:
    """Return how many warps a forward CTA gets so that the busiest multiprocessor has least.

    ``pairs`` is the number of warps that cover the width; more warps per CTA mean fewer left
    edges to write and read, which decides between equals.
    """
    most = min(_MAX_WARPS, math.ceil(pairs / unit) * unit)
    choices = range(most, 0, -unit)

    def busiest(warps: int) -> int:
        return math.ceil(tiles * math.ceil(pairs / warps) / multiprocessors) * warps

    return min(choices, key=busiest)


def _check_grid(tiles: int) -> None:
    if tiles > _MAX_GRID:
        raise BackendError(
            f"The scan would need {tiles} blocks of channels; a GPU takes {_MAX_GRID} at most."
            " Split d_inner or the groups."
        )
