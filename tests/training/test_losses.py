import numpy as np
import pytest
import torch

from napari_2dmamba.training.losses import nll_survival
from tests.material import shared


@pytest.mark.parametrize("sub", range(6))
@pytest.mark.parametrize("alpha", [0.0, 0.15, 0.4])
def test_published_loss_and_gradient(sub: int, alpha: float) -> None:
    z = np.load(shared("golden/survival/losses.npz"))
    logits = torch.from_numpy(z[f"c{sub}_logits"]).requires_grad_()
    loss = nll_survival(
        logits, torch.from_numpy(z[f"c{sub}_Y"]), torch.from_numpy(z[f"c{sub}_c"]), alpha
    )
    loss.backward()
    np.testing.assert_allclose(loss.item(), z[f"c{sub}_nll_a{alpha}"], rtol=1e-12)
    np.testing.assert_allclose(
        logits.grad, z[f"c{sub}_nll_a{alpha}_dlogits"], rtol=1e-9, atol=1e-15
    )


def test_by_hand() -> None:
    # Hazards 1/2 each: the event in bin 1 has probability 1/2 * 1/2, surviving it too 1/4.
    logits = torch.zeros(2, 3, dtype=torch.float64)
    loss = nll_survival(logits, torch.tensor([1, 1]), torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx(np.log(4))
