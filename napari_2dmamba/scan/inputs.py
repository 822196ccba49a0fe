"""The tensors of a scan and their gradients, as they travel from the public function to kernels."""

from typing import NamedTuple

import torch
from torch import Tensor

from napari_2dmamba.errors import BackendError

MAX_STATES = 256
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class ScanInputs(NamedTuple):
    """What is scanned; :func:`.operator.selective_scan_2d` says what each one means.

    Attributes
    ----------
    x, dt, z
        ``(batch, H, W, d_inner)``
    A
        ``(d_inner, d_state)``
    B, C
        ``(batch, H, W, d_state)`` or ``(batch, H, W, groups, d_state)``
    D, dt_bias
        ``(d_inner,)``
    """

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    z: Tensor | None = None
    dt_bias: Tensor | None = None

    @property
    def groups(self) -> int:
        """How many B and C there are per cell, each for as many neighbouring channels."""
        return self.B.shape[3] if self.B.dim() == 5 else 1

    @property
    def are_plain(self) -> bool:
        """Whether all tensors hold numbers, unlike those of tracers and transforms."""
        return all(t is None or type(t) in (Tensor, torch.nn.Parameter) for t in self)

    @property
    def need_gradients(self) -> bool:
        """Whether autograd asks for the gradient of any."""
        return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in self)

    def grouped(self) -> "ScanInputs":
        """Give B and C their axis of groups."""
        if self.B.dim() == 5:
            return self
        return self._replace(B=self.B.unsqueeze(3), C=self.C.unsqueeze(3))

    def leaves(self) -> "ScanInputs":
        """Return the same numbers, each tensor to be differentiated by."""
        return ScanInputs._make(None if t is None else t.detach().requires_grad_() for t in self)

    def check(self) -> None:
        """Raise unless shapes, dtypes and devices fit.

        Raises
        ------
        ValueError, TypeError
            Where shapes or dtypes do not fit.
        BackendError
            Where tensors are on several devices.
        """
        x, A, B = self.x, self.A, self.B
        if x.dim() != 4:
            raise ValueError(f"x is {tuple(x.shape)}, but must be (batch, H, W, d_inner)")
        batch, height, width, d_inner = x.shape
        if A.dim() != 2 or A.shape[0] != d_inner or not 1 <= A.shape[1] <= MAX_STATES:
            raise ValueError(
                f"A is {tuple(A.shape)}, but must be (d_inner, d_state) with d_inner {d_inner} as "
                f"of x and d_state from 1 to {MAX_STATES}"
            )
        d_state, groups = A.shape[1], self.groups
        if groups < 1 or d_inner % groups:
            raise ValueError(f"d_inner {d_inner} cannot be split into the {groups} groups of B")
        cells, channels = (batch, height, width, d_inner), (d_inner,)
        shared = (batch, height, width, groups, d_state) if B.dim() == 5 else (*cells[:3], d_state)
        wanted = (cells, cells, (d_inner, d_state), shared, shared, channels, cells, channels)
        for name, t, shape in zip(self._fields, self, wanted, strict=True):
            if t is None:
                continue
            if t.shape != shape:
                raise ValueError(f"{name} is {tuple(t.shape)}, but must be {shape} to fit x and A")
            if t.dtype not in DTYPES:
                raise TypeError(
                    f"{name} is {t.dtype}, but must be float32, float16, bfloat16 or float64"
                )
            if (t.dtype == torch.float64) != (x.dtype == torch.float64):
                raise TypeError(
                    f"{name} is {t.dtype} but x is {x.dtype}; give all tensors in float64, or none"
                )
            if t.device != x.device:
                raise BackendError(
                    f"{name} is on {t.device} but x is on {x.device}; move all tensors to one "
                    "device."
                )


class Gradients(NamedTuple):
    """Gradients of `ScanInputs`, each of the dtype and shape of its input; None if absent."""

    x: Tensor | None
    dt: Tensor | None
    A: Tensor | None
    B: Tensor | None
    C: Tensor | None
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
