import pytest
import torch
from torch import Tensor, nn

from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan import cpu, selective_scan_2d, use_backend
from napari_2dmamba.scan import operator as operator_module
from napari_2dmamba.scan.definition import scan_2d
from tests import warm
from tests.scan.cases import draw, relative_error

BACKENDS = ["definition"] + ([] if cpu.why_not() else ["cpu"])


def gradients(inputs: list[Tensor]) -> list[Tensor]:
    inputs = [t.clone().requires_grad_() for t in inputs]
    selective_scan_2d(*inputs, True).square().sum().backward()
    return [t.grad for t in inputs]


@pytest.mark.parametrize("groups", [None, 3])
def test_backends_agree_forward_and_backward(groups: int | None) -> None:
    inputs = draw(12, 17, 24, 16, batch=2, groups=groups)
    exact = gradients([t.double() for t in inputs])
    for name in BACKENDS:
        with use_backend(name):
            for found, expected in zip(gradients(inputs), exact, strict=True):
                assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_grids_are_empty_and_differentiable(shape: tuple[int, int], name: str) -> None:
    inputs = [t.requires_grad_() for t in draw(*shape, 4, 2)]
    with use_backend(name):
        y = selective_scan_2d(*inputs, True)
    assert y.shape == (1, *shape, 4)
    y.sum().backward()
    assert inputs[0].grad.shape == y.shape


@pytest.mark.parametrize("name", BACKENDS)
def test_one_cell(name: str) -> None:
    x, dt, A, B, C, D, z, _ = draw(1, 1, 3, 2)
    with use_backend(name):
        y = selective_scan_2d(x, dt.abs(), A, B, C, D, z)
    expected = ((dt.abs() * x).unsqueeze(-1) * (B * C).unsqueeze(3)).sum(-1) + D * x
    torch.testing.assert_close(y, expected * nn.functional.silu(z))


@pytest.mark.parametrize("name", BACKENDS)
def test_second_derivatives(name: str) -> None:
    def second(inputs: list[Tensor]) -> tuple[Tensor, ...]:
        inputs = [t.clone().requires_grad_() for t in inputs]
        y = selective_scan_2d(*inputs, True)
        first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    inputs = draw(3, 4, 5, 3)
    exact = second([t.double() for t in inputs])
    with use_backend(name):
        for found, expected in zip(second(inputs), exact, strict=True):
            assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("options", [True, False])
def test_opcheck(options: bool) -> None:
    inputs = draw(2, 3, 4, 2)
    if not options:
        inputs[5:] = [None, None, None]
    needing_gradients = [t if t is None else t.clone().requires_grad_() for t in inputs]
    torch.library.opcheck(
        operator_module._forward, (*needing_gradients, options, BACKENDS[-1], True)
    )
    torch.library.opcheck(
        operator_module._backward,
        (torch.ones(1, 2, 3, 4), *inputs, torch.empty(0), options, BACKENDS[-1]),
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_compiles_as_one_graph(name: str) -> None:
    def loss(*inputs: Tensor) -> Tensor:
        return (selective_scan_2d(*inputs, dt_softplus=True) * 2).square().sum()

    torch.compiler.reset()  # graphs are kept by source line, with the backend of their compilation
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for height in (3, 5, 6):  # the second shape makes the graph dynamic
        inputs = [t.requires_grad_() for t in draw(height, 4, 5, 2)]
        with use_backend(name):
            expected = torch.autograd.grad(loss(*inputs), inputs)
            found = torch.autograd.grad(compiled(*inputs), inputs)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


def test_autocast_leaves_the_state_in_float32() -> None:
    """Under autocast a projection gives bfloat16; parameters stay float32; nothing is cast."""
    x, dt, A, B, C, D, z, bias = draw(20, 20, 8, 4)
    project = nn.Linear(8, 8, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        u = project(x)
        assert u.dtype == torch.bfloat16
        y = selective_scan_2d(u, dt, A, B, C, D, z, bias, True)
    assert y.dtype == torch.bfloat16
    exact = scan_2d(*(t.double() for t in (u, dt, A, B, C, D, z, bias)), True)
    assert relative_error(y, exact) <= torch.finfo(torch.bfloat16).eps
    y.float().sum().backward()
    assert project.weight.grad.dtype == torch.float32


def change(inputs: list[Tensor], **changes: Tensor) -> dict[str, Tensor]:
    return dict(zip(("x", "dt", "A", "B", "C", "D", "z", "dt_bias"), inputs, strict=True)) | changes


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"x": torch.zeros(3, 4, 6)}, ValueError, r"x is \(3, 4, 6\), but must be \(batch, H, W"),
        ({"dt": torch.zeros(1, 3, 4, 5)}, ValueError, r"dt is \(1, 3, 4, 5\), but must be \(1, 3"),
        ({"A": torch.zeros(2, 6)}, ValueError, r"A is \(2, 6\), but must be \(d_inner, d_state\)"),
        ({"A": torch.zeros(6, 257)}, ValueError, "d_state from 1 to 256"),
        ({"B": torch.zeros(1, 3, 4, 3)}, ValueError, r"B is \(1, 3, 4, 3\)"),
        ({"B": torch.zeros(1, 3, 4, 4, 2)}, ValueError, "cannot be split into the 4 groups"),
        ({"C": torch.zeros(1, 3, 4, 2, 2)}, ValueError, r"C is \(1, 3, 4, 2, 2\)"),
        ({"D": torch.zeros(5)}, ValueError, r"D is \(5,\), but must be \(6,\)"),
        ({"D": torch.zeros(6).long()}, TypeError, "D is torch.int64, but must be float32"),
        ({"z": torch.zeros(1, 3, 4, 6).double()}, TypeError, "z is torch.float64 but x is"),
        ({"D": torch.zeros(6, device="meta")}, BackendError, "D is on meta but x is on cpu"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(changes: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        selective_scan_2d(**change(draw(3, 4, 6, 2), **changes))


def test_inference_does_not_import_the_compiler() -> None:
    code = """
import sys, torch
from napari_2dmamba.scan import selective_scan_2d
x = torch.ones(1, 3, 4, 8)
with torch.inference_mode():
    y = selective_scan_2d(x, x, -torch.ones(8, 2), x[..., :2], x[..., :2])
print(tuple(y.shape), "torch._dynamo" in sys.modules)
"""
    done = warm.python("-c", code)
    assert done.stdout.strip() == "(1, 3, 4, 8) False", done.stderr
