import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_2dmamba.training.losses import ce_survival, classification, cox, nll_survival
from tests.material import shared


@pytest.mark.parametrize("sub", range(6))
@pytest.mark.parametrize("alpha", [0.0, 0.15, 0.4])
def test_published_losses_and_gradient(sub: int, alpha: float) -> None:
    z = np.load(shared("golden/survival/losses.npz"))
    logits = torch.from_numpy(z[f"c{sub}_logits"]).requires_grad_()
    label, censored = torch.from_numpy(z[f"c{sub}_Y"]), torch.from_numpy(z[f"c{sub}_c"])
    loss = nll_survival(logits, label, censored, alpha)
    loss.backward()
    np.testing.assert_allclose(loss.item(), z[f"c{sub}_nll_a{alpha}"], rtol=0, atol=1e-10)
    expected = z[f"c{sub}_nll_a{alpha}_dlogits"]
    np.testing.assert_allclose(logits.grad, expected, rtol=1e-9, atol=1e-15)
    other = ce_survival(logits, label, censored, alpha)
    np.testing.assert_allclose(other.item(), z[f"c{sub}_ce_a{alpha}"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("sub", range(6))
def test_published_losses_in_float32_also_where_logits_are_saturated(sub: int) -> None:
    z = np.load(shared("golden/survival/losses.npz"))
    logits = torch.from_numpy(z[f"c{sub}_logits"]).float().requires_grad_()
    label, censored = torch.from_numpy(z[f"c{sub}_Y"]), torch.from_numpy(z[f"c{sub}_c"])
    loss = nll_survival(logits, label, censored)
    loss.backward()
    np.testing.assert_allclose(loss.item(), z[f"c{sub}_nll_a0.0"], rtol=0, atol=2e-6)
    truth = z[f"c{sub}_nll_a0.0_dlogits"]
    np.testing.assert_allclose(logits.grad, truth, rtol=0, atol=1e-7)
    other = ce_survival(logits, label, censored)
    np.testing.assert_allclose(other.item(), z[f"c{sub}_ce_a0.0"], rtol=0, atol=2e-6)


def test_by_hand() -> None:
    # Hazards 1/2 each: the event in bin 1 has probability 1/2 * 1/2, surviving it too 1/4.
    logits = torch.zeros(2, 3, dtype=torch.float64)
    loss = nll_survival(logits, torch.tensor([1, 1]), torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx(np.log(4))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([nll_survival, ce_survival]),
)
def test_any_logits_give_numbers(values: list[float], label: int, censored: bool, loss) -> None:
    logits = torch.tensor([values], dtype=torch.float32, requires_grad=True)
    found = loss(logits, torch.tensor([label]), torch.tensor([float(censored)]), 0.2)
    found.backward()
    assert torch.isfinite(found)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_cox_is_the_partial_likelihood() -> None:
    risk = torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)
    time, event = torch.tensor([2.0, 1.0, 2.0, 5.0]), torch.tensor([True, True, False, True])
    # At 1 all four are at risk, at 2 the first, third and fourth, at 5 the last alone.
    e = np.exp(risk.detach().numpy())
    expected = -np.log([e[1] / e.sum(), e[0] / (e.sum() - e[1]), 1.0]).mean()
    assert cox(risk, time, event).item() == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda r: cox(r, time, event), risk)
    none = cox(risk, time, torch.zeros(4, dtype=torch.bool))
    none.backward()
    assert none.item() == 0
    assert torch.equal(risk.grad, torch.zeros(4, dtype=torch.float64))


def test_one_logit_is_binary() -> None:
    logits, label = torch.tensor([[0.7], [-0.2]]), torch.tensor([1, 0])
    two = torch.cat([torch.zeros(2, 1), logits], 1)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], label.float())
    torch.testing.assert_close(classification(logits, label), expected)
    weights = torch.tensor([0.5, 2.0])
    torch.testing.assert_close(
        classification(logits, label, weights), classification(two, label, weights)
    )
