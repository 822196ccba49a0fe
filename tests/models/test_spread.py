"""Rows spread over cells: the values, and gradients that are the same in every run."""

import pytest
import torch
from torch import nn

from napari_2dmamba.models.mamba2d import Mamba2DConfig, Mamba2DMIL
from napari_2dmamba.models.spread import add_in_order, spread


def test_the_values_and_the_gradient_are_those_of_index_select() -> None:
    g = torch.Generator().manual_seed(0)
    index = torch.randint(7, (50,), generator=g)
    ours = torch.randn(7, 3, generator=g).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    weight = torch.randn(50, 3, generator=g)
    found, expected = spread(ours, index), theirs.index_select(0, index)
    assert torch.equal(found, expected)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)
    rows = torch.randn(7, 3, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda r: spread(r, index).sin(), (rows,))


@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("at_once", [1, 5, 1000])
def test_addition_in_order_is_the_sum_over_the_places_of_a_row(
    rows: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_2dmamba.models.spread._AT_ONCE", at_once)
    g = torch.Generator().manual_seed(rows)
    values = torch.randn(60, 4, generator=g, dtype=torch.float64)
    for index in (
        torch.randint(rows, (60,), generator=g),
        torch.full((60,), rows - 1),
        torch.zeros(60, dtype=torch.long),
    ):
        expected = torch.stack([values[index == row].sum(0) for row in range(rows)])
        torch.testing.assert_close(add_in_order(values, index, rows), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_two_training_runs_on_a_gpu_end_with_the_same_weights() -> None:
    """Three steps of 2DMambaMIL; no bit may depend on the order of the GPU's threads."""
    g = torch.Generator().manual_seed(0)
    features = torch.randn(400, 32, generator=g).cuda()
    cells = (torch.cartesian_prod(torch.arange(20), torch.arange(20)) * 3).cuda()
    target = torch.ones(1, dtype=torch.long).cuda()

    def train() -> list[torch.Tensor]:
        torch.manual_seed(1)
        model = Mamba2DMIL(Mamba2DConfig(32, 2, d_model=32)).cuda()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            output = model(features, cells, (64, 64))
            nn.functional.cross_entropy(output.logits.view(1, -1), target).backward()
            optimizer.step()
        return [p.detach().cpu() for p in model.parameters()]

    first, second = train(), train()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
