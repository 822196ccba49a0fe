"""The CPU kernels: a small C library built with the package, called through ctypes.

ctypes lets go of the interpreter's lock for the length of a call. Sources: ``csrc/cpu``.
"""

import ctypes
import functools
import sys
from pathlib import Path

import torch
from torch import Tensor

from napari_2dmamba.errors import BackendError

_NAME = "_scan_cpu.dll" if sys.platform == "win32" else "_scan_cpu.so"
_VERSION = 2
_BEST_LEVEL = -1


class _Problem(ctypes.Structure):
    """``Scan2dProblem`` of ``csrc/cpu/problem.h``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "height", "width")),
        *((name, ctypes.c_int64) for name in ("channels", "groups", "states")),
        *((f"{name}_cell", ctypes.c_int64) for name in ("x", "dt", "B", "C", "z")),
        *((name, ctypes.c_void_p) for name in ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")),
        ("dt_softplus", ctypes.c_int64),
    ]


class _Gradients(ctypes.Structure):
    """``Scan2dGradients`` of ``csrc/cpu/problem.h``."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")]


class _Influence(ctypes.Structure):
    """``Scan2dInfluence`` of ``csrc/cpu/influence.h``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("lines", "steps", "channels", "states")),
        *(
            (f"{name}_{step}", ctypes.c_int64)
            for name in ("dt", "x", "varying", "out")
            for step in ("line", "step")
        ),
        *((name, ctypes.c_int64) for name in ("times_dt", "add_before", "magnitude")),
        *((name, ctypes.c_void_p) for name in ("dt", "start", "A", "fixed", "varying", "x")),
        *((name, ctypes.c_void_p) for name in ("weight", "total", "each")),
    ]


def _path() -> Path | None:
    """Where the library is: beside this file or, of an editable install, where that put it."""
    folders = sys.modules[__package__].__path__
    return next((p for p in (Path(folder, _NAME) for folder in folders) if p.exists()), None)


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_path()))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for name, arguments, result in (
        ("version", [], number),
        ("best_level", [], number),
        ("level_name", [number], ctypes.c_char_p),
        ("forward", [pointer, pointer, number, number], number),
        ("backward", [pointer, pointer, pointer, number, number], number),
        ("influence", [pointer, number, number], number),
        ("exponentials", [ctypes.c_int64, number, number], ctypes.c_float),
    ):
        function = getattr(library, f"scan2d_{name}")
        function.argtypes, function.restype = arguments, result
    return library


@functools.cache
def why_not() -> str | None:
    """Say why the CPU kernels cannot run here; None if they can."""
    if _path() is None:
        return (
            "the CPU kernels were not built, because no C++ compiler was found when the package "
            "was installed; install a wheel, or a compiler and then the package again"
        )
    try:
        found = _library().scan2d_version()
    except (OSError, AttributeError) as error:
        return f"{_NAME} cannot be loaded ({error}); install the package again"
    if found != _VERSION:
        return (
            f"{_NAME} is of version {found}, but this package needs {_VERSION}; "
            "install the package again"
        )
    return None


def instruction_sets() -> list[str]:
    """Name the instruction sets that can run here, the best last; their order is their level."""
    library = _library()
    return [library.scan2d_level_name(k).decode() for k in range(library.scan2d_best_level() + 1)]


def exponentials(count: int, threads: int, level: int = _BEST_LEVEL) -> None:
    """Compute ``count`` exponentials and nothing else: a floor for the benchmark."""
    _library().scan2d_exponentials(count, threads, level)


def forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    *,
    keep: bool = True,
    level: int = _BEST_LEVEL,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return the scan, and three empty tensors: the backward pass needs only the inputs.

    Arguments as in :func:`.operator.selective_scan_2d`, checked there. Computes in float32;
    the result has the dtype of ``x``. ``keep`` is there for the CUDA kernels.
    """
    problem, kept = _problem(x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    y = torch.empty(x.shape, dtype=torch.float32)
    _succeed(
        _library().scan2d_forward(
            ctypes.byref(problem), y.data_ptr(), torch.get_num_threads(), level
        ),
        x,
    )
    del kept
    return y.to(x.dtype), (torch.empty(0), torch.empty(0), torch.empty(0))


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
    level: int = _BEST_LEVEL,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of ``x, dt, A, B, C, D, z, dt_bias``, each in its input's dtype."""
    problem, kept = _problem(x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    grad_y = grad_y.to(torch.float32).contiguous()
    inputs = (x, dt, A, B, C, D, z, dt_bias)
    grads = [None if t is None else torch.empty(t.shape, dtype=torch.float32) for t in inputs]
    pointers = _Gradients(*(None if g is None else g.data_ptr() for g in grads))
    _succeed(
        _library().scan2d_backward(
            ctypes.byref(problem),
            grad_y.data_ptr(),
            ctypes.byref(pointers),
            torch.get_num_threads(),
            level,
        ),
        x,
    )
    del kept
    return tuple(
        None if g is None or t is None else g.to(t.dtype)
        for g, t in zip(grads, inputs, strict=True)
    )


def influence(
    dt: Tensor,
    start: Tensor,
    A: Tensor,
    fixed: Tensor,
    varying: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    out: Tensor,
    *,
    times_dt: bool,
    add_before: bool,
    magnitude: bool,
    reverse_steps: bool,
    level: int = _BEST_LEVEL,
) -> None:
    """Fill ``out`` with the influence along lines of cells; see ``csrc/cpu/influence.h``.

    All tensors are float32 with contiguous channels or states.

    Parameters
    ----------
    dt, x
        ``(lines, steps, d_inner)``, any strides.
    start
        ``(lines, d_inner)`` elapsed time at the first step of each line.
    A, fixed
        ``(d_inner, d_state)`` and ``(d_state,)``.
    varying
        ``(lines, steps, d_state)``.
    weight
        ``(d_inner,)`` of the sum over channels; None keeps the channels.
    out
        ``(lines, steps)``, or ``(lines, steps, d_inner)`` without ``weight``.
    times_dt, add_before, magnitude
        As in the header.
    reverse_steps
        Whether a line starts at its last step.
    """
    lines, steps, channels = dt.shape
    start, A, fixed = start.contiguous(), A.contiguous(), fixed.contiguous()

    def place(t: Tensor, unit: int = 1) -> tuple[int, int, int]:
        """Address of the first step, distance of lines and of steps in ``unit`` elements."""
        step = t.stride(1)
        first = t.data_ptr() + (steps - 1) * step * t.element_size() * reverse_steps
        return first, t.stride(0) // unit, (-step if reverse_steps else step) // unit

    dt_at, dt_line, dt_step = place(dt)
    varying_at, varying_line, varying_step = place(varying)
    x_at, x_line, x_step = (None, 0, 0) if x is None else place(x)
    out_at, out_line, out_step = place(out, 1 if weight is not None else channels)
    problem = _Influence(
        lines=lines, steps=steps, channels=channels, states=A.shape[1],
        dt_line=dt_line, dt_step=dt_step, x_line=x_line, x_step=x_step,
        varying_line=varying_line, varying_step=varying_step, out_line=out_line, out_step=out_step,
        times_dt=times_dt, add_before=add_before, magnitude=magnitude,
        dt=dt_at, start=start.data_ptr(), A=A.data_ptr(), fixed=fixed.data_ptr(),
        varying=varying_at, x=x_at, weight=None if weight is None else weight.data_ptr(),
        total=None if weight is None else out_at, each=out_at if weight is None else None,
    )  # fmt: skip
    status = _library().scan2d_influence(ctypes.byref(problem), torch.get_num_threads(), level)
    _succeed(status, dt[None])


def _succeed(status: int, x: Tensor) -> None:
    if status:
        raise BackendError(
            f"The scan of a grid of {x.shape[1]} x {x.shape[2]} cells with {x.shape[3]} channels "
            "ran out of memory; use a smaller canvas or close other programs."
        )


def _problem(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
) -> tuple[_Problem, list[Tensor]]:
    """Return the C structure, and the tensors it points into, to be kept until after the call."""
    batch, height, width, channels = x.shape
    kept = []

    def cells(t: Tensor | None) -> tuple[int, int | None]:
        """Distance between cells, and address."""
        if t is None:
            return 0, None
        t = _readable(t.detach().to(torch.float32))
        kept.append(t)
        return t.stride(2), t.data_ptr()

    def whole(t: Tensor | None) -> int | None:
        if t is None:
            return None
        t = t.detach().to(torch.float32).contiguous()
        kept.append(t)
        return t.data_ptr()

    of = {name: cells(t) for name, t in (("x", x), ("dt", dt), ("B", B), ("C", C), ("z", z))}
    problem = _Problem(
        batch=batch, height=height, width=width, channels=channels,
        groups=B.shape[3] if B.dim() == 5 else 1, states=B.shape[-1],
        A=whole(A), D=whole(D), dt_bias=whole(dt_bias), dt_softplus=int(dt_softplus),
        **{f"{name}_cell": distance for name, (distance, _) in of.items()},
        **{name: address for name, (_, address) in of.items()},
    )  # fmt: skip
    return problem, kept


def _readable(t: Tensor) -> Tensor:
    """Return ``t``, copied if its cells are not evenly spaced or a cell is not contiguous."""
    _, height, width, *inner = t.shape
    expected = 1
    strides: list[int] = []
    for size in reversed(inner):
        strides.insert(0, expected)
        expected *= size
    cell = t.stride(2)
    wanted = (height * width * cell, width * cell, cell, *strides)
    spaced = all(
        size == 1 or stride == want
        for size, stride, want in zip(t.shape, t.stride(), wanted, strict=True)
    )
    # A grid one column wide has no distance between columns to read; take the one between rows.
    return t if spaced and width > 1 and cell >= expected else t.contiguous()
