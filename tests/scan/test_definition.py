"""The definition against golden numbers, against a loop by hand, and against gradcheck."""

import pytest
import torch

from napari_2dmamba.scan.definition import scan_2d
from tests.scan.cases import GOLDEN, IN_FILES, NAMES, SMALL, golden, relative_error


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_forward_and_gradients(name: str, dtype: torch.dtype, tolerance: float) -> None:
    case = golden(name)
    names = dict(zip(NAMES, IN_FILES, strict=True))
    inputs = {k: case[v].to(dtype).requires_grad_() for k, v in names.items()}
    y = scan_2d(**inputs, dt_softplus=True)
    assert relative_error(y, case["y_z"]) < tolerance
    y.backward(case["dy_z"].to(dtype))
    for ours, theirs in names.items():
        error = relative_error(inputs[ours].grad, case[f"grad_{theirs}"])
        assert error < tolerance, f"gradient of {ours}: {error}"


@pytest.mark.parametrize("name", SMALL)
def test_golden_without_gate_and_softplus(name: str) -> None:
    case = golden(name)
    y = scan_2d(case["u"].double(), case["delta_post"], *(case[k].double() for k in "ABCD"))
    assert relative_error(y, case["y"]) < 1e-9


def test_by_hand() -> None:
    """One channel, one state, no decay: every cell sums what lies above and to the left."""
    x = torch.arange(6, dtype=torch.float64).reshape(1, 2, 3, 1)
    one = torch.ones_like(x)
    y = scan_2d(x, one, torch.zeros(1, 1, dtype=torch.float64), one, one)
    assert torch.equal(y, x.cumsum(1).cumsum(2))


@pytest.mark.parametrize("groups", [1, 2])
def test_gradcheck(groups: int) -> None:
    torch.manual_seed(groups)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    bc = (1, 4, 2, 2) if groups == 1 else (1, 4, 2, groups, 2)
    grid = (1, 4, 2, 2)
    args = (
        draw(*grid),
        draw(*grid),
        draw(2, 2),
        draw(*bc),
        draw(*bc),
        draw(2),
        draw(*grid),
        draw(2),
    )

    def scan(*tensors: torch.Tensor) -> torch.Tensor:
        return scan_2d(*tensors, dt_softplus=True)

    assert torch.autograd.gradcheck(scan, args)
    assert torch.autograd.gradgradcheck(scan, args, fast_mode=True)


def test_groups_are_independent_scans() -> None:
    torch.manual_seed(0)
    x, dt = torch.randn(2, 3, 4, 6), torch.rand(2, 3, 4, 6)
    A, B, C = -torch.rand(6, 2), torch.randn(2, 3, 4, 3, 2), torch.randn(2, 3, 4, 3, 2)
    parts = [
        scan_2d(x[..., s], dt[..., s], A[s], B[:, :, :, g], C[:, :, :, g])
        for g, s in enumerate((slice(0, 2), slice(2, 4), slice(4, 6)))
    ]
    torch.testing.assert_close(scan_2d(x, dt, A, B, C), torch.cat(parts, dim=-1))
