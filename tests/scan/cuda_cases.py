"""Inputs of the CUDA kernels, emulated or on a GPU, and what must come out."""

import pytest
import torch
from torch import Tensor

from napari_2dmamba.scan import cuda
from napari_2dmamba.scan.cuda_launch import Launcher
from napari_2dmamba.scan.definition import scan_2d
from napari_2dmamba.scan.inputs import Gradients, ScanInputs
from tests.scan.emulation import Emulation

HAS_GPU = torch.cuda.is_available()

gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(
    not HAS_GPU, reason="no CUDA device: torch.cuda.is_available() is False"
)
everywhere = pytest.mark.parametrize(
    "place", ["emulated", pytest.param("gpu", marks=[gpu, needs_gpu])]
)


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
) -> ScanInputs:
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
    return ScanInputs(**{n: None if n in absent else v for n, v in inputs.items()})


def on_gpu(inputs: ScanInputs) -> ScanInputs:
    """Return the inputs on the first GPU."""
    return inputs._make(None if t is None else t.cuda() for t in inputs)


def scan(
    place: str | Emulation, inputs: ScanInputs, softplus: bool = True
) -> tuple[Tensor, Gradients, Tensor]:
    """Return y, the gradients and the grad_y that they are of, all on the CPU."""
    launcher: Launcher | None = None
    if place == "gpu":
        inputs = on_gpu(inputs)
    else:
        launcher = Emulation() if place == "emulated" else place
    y, kept = cuda.forward(inputs, softplus, launcher=launcher)
    grad_y = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    grads = cuda.backward(grad_y, inputs, softplus, kept, launcher=launcher)
    on_cpu = (None if g is None else g.cpu() for g in grads)
    return y.cpu(), Gradients(*on_cpu), grad_y.cpu()


def expected(
    inputs: ScanInputs, grad_y: Tensor, softplus: bool = True
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
    for name, got, want in zip(grads._fields, grads, grads64, strict=True):
        assert_close(f"grad {name}", got, want, 5e-6)
