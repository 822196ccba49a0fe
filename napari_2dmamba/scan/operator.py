"""The public 2D selective scan: checks, torch operators, autograd.

Two torch.library operators, forward and backward, hold the kernels, so that torch.compile sees
one node each. The definition needs none in eager mode: it is torch, and autograd reads it.
"""

from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from napari_2dmamba.scan import backend, cpu, definition

MAX_STATES = 256
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")

# x, dt, A, B, C, D, z, dt_bias; and the same of gradients.
_Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
_Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def selective_scan_2d(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """Return the 2D selective scan of a grid of cells: along rows, then down columns.

    With ``dt`` after bias and softplus and ``a = exp(dt * A)``, for every channel and state::

        across[i, j] = a[i, j] * across[i, j - 1] + dt[i, j] * B[i, j] * x[i, j]
        h[i, j]      = a[i, j] * h[i - 1, j] + across[i, j]
        y[i, j]      = (sum over states of C[i, j] * h[i, j] + D * x[i, j]) * silu(z[i, j])

    Parameters
    ----------
    x, dt
        ``(batch, H, W, d_inner)``, any H and W, also 0; any strides. float32, float16,
        bfloat16 (the state is float32), or float64 (on the definition). Dtypes may be mixed,
        as autocast leaves them; float64 only with float64.
    A
        ``(d_inner, d_state)``, negative where the state shall decay; d_state from 1 to 256.
    B, C
        ``(batch, H, W, d_state)``, or ``(batch, H, W, groups, d_state)`` where neighbouring
        channels, ``d_inner / groups`` of them, share one of the groups.
    D
        ``(d_inner,)``: the part of ``x`` that goes past the state.
    z
        ``(batch, H, W, d_inner)``: gate.
    dt_bias
        ``(d_inner,)``: added to ``dt``.
    dt_softplus
        Whether ``softplus`` (the identity above 20) is applied to ``dt + dt_bias``.

    Returns
    -------
    Tensor
        ``(batch, H, W, d_inner)``, contiguous, of the dtype of ``x``. May be differentiated,
        twice too (the second time by the definition, slowly).

    Raises
    ------
    ValueError, TypeError
        Where shapes or dtypes do not fit.
    BackendError
        Where tensors are on several devices, a forced backend cannot run, or memory runs out.

    Notes
    -----
    The operator of 2DMamba (Zhang et al., CVPR 2025, arXiv 2412.00678). `backend_for` tells
    which implementation runs.
    """
    inputs = (x, dt, A, B, C, D, z, dt_bias)
    _check(inputs)
    name = _backend_name(x.device.type, x.dtype)
    if name == "definition" and not torch.compiler.is_compiling():
        return definition.scan_2d(*inputs, dt_softplus)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    return _forward(*inputs, dt_softplus, name, keep)[0]


@torch.compiler.assume_constant_result
def _backend_name(device: str, dtype: torch.dtype) -> str:
    """Name the backend; when compiling, that of the moment of compilation."""
    return backend.choose(device, dtype).name


def _kernels(name: str) -> ModuleType:
    if name == "cpu":
        return cpu
    from napari_2dmamba.scan import cuda

    return cuda


@torch.library.custom_op("napari_2dmamba::scan_forward", mutates_args=())
def _forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None,
    dt_softplus: bool, name: str, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return y and, if told to keep it, what the backward pass needs besides the inputs."""
    inputs = (x, dt, A, B, C, D, z, dt_bias)
    if name == "definition" or x.numel() == 0:
        nothing = [x.new_empty(0, dtype=torch.float32) for _ in range(3)]
        y, (left, top, pregate) = definition.scan_2d(*inputs, dt_softplus).contiguous(), nothing
    else:
        kernels = _kernels(name)
        y, (left, top, pregate) = kernels.forward(*_grouped(inputs), dt_softplus, keep=keep)
    return y, left, top, pregate


@_forward.register_fake
def _(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None,
    dt_softplus: bool, name: str, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    sizes = _saved_sizes(x, B, z, name, keep and x.numel() > 0)
    left, top, pregate = (x.new_empty(size, dtype=torch.float32) for size in sizes)
    return x.new_empty(x.shape), left, top, pregate


def _saved_sizes(
    x: Tensor, B: Tensor, z: Tensor | None, name: str, keep: bool
) -> tuple[tuple[int, ...], ...]:
    if name != "cuda" or not keep:
        return (0,), (0,), (0,)
    from napari_2dmamba.scan import cuda

    return cuda.saved_sizes(x, B, z)


@torch.library.custom_op("napari_2dmamba::scan_backward", mutates_args=())
def _backward(
    grad_y: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None,
    left: Tensor, top: Tensor, pregate: Tensor, dt_softplus: bool, name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of all inputs; an empty tensor for an input that is absent."""
    inputs = (x, dt, A, B, C, D, z, dt_bias)
    grads: tuple[Tensor | None, ...]
    if x.numel() == 0:
        grads = tuple(None if t is None else torch.zeros_like(t) for t in inputs)
    elif name == "definition":
        # Inside an operator autograd is switched off for the thread, so another thread asks it.
        with ThreadPoolExecutor(1) as thread:
            grads = thread.submit(_differentiate, grad_y, inputs, dt_softplus).result()
    else:
        grads = tuple(
            _kernels(name).backward(grad_y, *_grouped(inputs), dt_softplus, (left, top, pregate))
        )
        grads = tuple(
            None if g is None or t is None else g.reshape(t.shape)
            for g, t in zip(grads, inputs, strict=True)
        )
    return cast(_Gradients, tuple(x.new_empty(0) if g is None else g.contiguous() for g in grads))


@_backward.register_fake
def _(
    grad_y: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None,
    left: Tensor, top: Tensor, pregate: Tensor, dt_softplus: bool, name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    inputs = (x, dt, A, B, C, D, z, dt_bias)
    return cast(
        _Gradients, tuple(x.new_empty(0) if t is None else t.new_empty(t.shape) for t in inputs)
    )


def _grouped(inputs: _Inputs) -> tuple[Tensor | None, ...]:
    """Give B and C their axis of groups."""
    return tuple(
        t.unsqueeze(3) if t is not None and i in (3, 4) and t.dim() == 4 else t
        for i, t in enumerate(inputs)
    )


def _differentiate(
    grad_y: Tensor, inputs: _Inputs, dt_softplus: bool, twice: bool = False
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the definition; differentiable themselves if asked."""
    with torch.enable_grad():
        if not twice:
            inputs = _leaves(inputs)
        y = definition.scan_2d(*inputs, dt_softplus)
        present = [t for t in inputs if t is not None]
        found = iter(
            torch.autograd.grad(
                y, present, grad_y, create_graph=twice, allow_unused=True, materialize_grads=True
            )
        )
        return tuple(None if t is None else next(found) for t in inputs)


def _leaves(inputs: _Inputs) -> _Inputs:
    """The inputs again, each to be differentiated by."""
    return cast(_Inputs, tuple(None if t is None else t.detach().requires_grad_() for t in inputs))


def _keep_forward(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.dt_softplus, ctx.name, _ = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.set_materialize_grads(False)


def _forward_backward(ctx: Any, grad_y: Tensor | None, *_: Tensor | None) -> tuple:
    if grad_y is None:
        return (None,) * 11
    *inputs, left, top, pregate = ctx.saved_tensors
    grads = _backward(grad_y, *inputs, left, top, pregate, ctx.dt_softplus, ctx.name)
    return *(None if t is None else g for g, t in zip(grads, inputs, strict=True)), None, None, None


_forward.register_autograd(_forward_backward, setup_context=_keep_forward)


def _keep_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, _, _, _, ctx.dt_softplus, _ = inputs
    ctx.save_for_backward(*tensors)


def _backward_backward(ctx: Any, *grads: Tensor) -> tuple:
    """Second derivatives, which no kernel has: those of the definition."""
    grad_y = ctx.saved_tensors[0].detach().requires_grad_()
    inputs = _leaves(ctx.saved_tensors[1:])
    tensors = (grad_y, *inputs)
    first = _differentiate(grad_y, inputs, ctx.dt_softplus, twice=True)
    pairs = [(f, g) for f, g in zip(first, grads, strict=True) if f is not None]
    present = [t for t in tensors if t is not None]
    found = iter(
        torch.autograd.grad(
            [f for f, _ in pairs], present, [g for _, g in pairs],
            allow_unused=True, materialize_grads=True,
        )
    )  # fmt: skip
    return *(None if t is None else next(found) for t in tensors), None, None, None, None, None


_backward.register_autograd(_backward_backward, setup_context=_keep_backward)


def _check(inputs: _Inputs) -> None:
    """Raise unless shapes, dtypes and devices fit."""
    x, _, A, B, *_ = inputs
    if x.dim() != 4:
        raise ValueError(f"x is {tuple(x.shape)}, but must be (batch, H, W, d_inner)")
    batch, height, width, d_inner = x.shape
    if A.dim() != 2 or A.shape[0] != d_inner or not 1 <= A.shape[1] <= MAX_STATES:
        raise ValueError(
            f"A is {tuple(A.shape)}, but must be (d_inner, d_state) with d_inner {d_inner} as of x "
            f"and d_state from 1 to {MAX_STATES}"
        )
    d_state = A.shape[1]
    groups = B.shape[3] if B.dim() == 5 else 1
    if groups < 1 or d_inner % groups:
        raise ValueError(f"d_inner {d_inner} cannot be split into the {groups} groups of B")
    cells, channels = (batch, height, width, d_inner), (d_inner,)
    shared = (batch, height, width, groups, d_state) if B.dim() == 5 else (*cells[:3], d_state)
    wanted = (cells, cells, (d_inner, d_state), shared, shared, channels, cells, channels)
    for name, t, shape in zip(_NAMES, inputs, wanted, strict=True):
        if t is None:
            continue
        if t.shape != shape:
            raise ValueError(f"{name} is {tuple(t.shape)}, but must be {shape} to fit x and A")
        if t.dtype not in _DTYPES:
            raise TypeError(
                f"{name} is {t.dtype}, but must be float32, float16, bfloat16 or float64"
            )
        if (t.dtype == torch.float64) != (x.dtype == torch.float64):
            raise TypeError(
                f"{name} is {t.dtype} but x is {x.dtype}; give all tensors in float64, or none"
            )
        if t.device != x.device:
            raise backend.BackendError(
                f"{name} is on {t.device} but x is on {x.device}; move all tensors to one device."
            )
