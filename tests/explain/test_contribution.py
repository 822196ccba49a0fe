import numpy as np
import pytest
import torch

from napari_2dmamba.errors import Cancelled
from napari_2dmamba.explain.contribution import gradient_times_input, integrated_gradients
from tests.explain.subjects import subject

pytest.importorskip("captum")


def test_gradient_times_input_is_the_derivative_along_the_input() -> None:
    of = subject()
    found = gradient_times_input(of, "b")
    step = 1e-6
    with torch.no_grad():
        bigger = of.run(of.features * (1 + step)).logits[1]
        along = float((bigger - of.run().logits[1]) / step)
    assert found.total == pytest.approx(along, rel=1e-4)
    # of one patch
    moved = of.features.clone()
    moved[5] *= 1 + step
    with torch.no_grad():
        one = float((of.run(moved).logits[1] - of.run().logits[1]) / step)
    assert of.scores_of_map(found.map)[5] == pytest.approx(one, rel=1e-3, abs=1e-6)
    assert found.map.signed


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_integrated_gradients_add_up(baseline: str) -> None:
    of = subject()
    found = integrated_gradients(of, 2, baseline=baseline, steps=24)
    zero = torch.zeros_like(of.features) if baseline == "zero" else of.features.mean(0)
    with torch.no_grad():
        start = of.run(zero.expand_as(of.features)).logits[2]
        expected = float(of.run().logits[2] - start)
    assert found.expected == pytest.approx(expected, rel=1e-9)
    assert abs(found.total - expected) < 1e-3 * np.nansum(np.abs(found.map.values))
    assert ("may be read as parts" in found.verdict) == (found.error <= 0.05)
    # against the integral by the midpoint rule
    total = torch.zeros(len(of), dtype=torch.float64)
    with torch.no_grad():
        base = zero.expand_as(of.features)
    points = 60
    for k in range(points):
        features = (base + (k + 0.5) / points * (of.features - base)).requires_grad_()
        (gradient,) = torch.autograd.grad(of.run(features).logits[2], features)
        total += ((of.features - base) * gradient).sum(1) / points
    np.testing.assert_allclose(of.scores_of_map(found.map), total, rtol=1e-2, atol=1e-4)


def test_per_hazard_and_for_the_risk() -> None:
    of = subject(task="survival")
    risk = gradient_times_input(of)
    assert risk.map.meaning.startswith("contribution of each patch to the risk")
    logits = of.run().logits.detach().requires_grad_()
    (-torch.cumprod(1 - logits.sigmoid(), 0).sum()).backward()
    bins = [of.scores_of_map(gradient_times_input(of, k).map) for k in range(3)]
    chained = sum(float(g) * b for g, b in zip(logits.grad, bins, strict=True))
    np.testing.assert_allclose(of.scores_of_map(risk.map), chained, rtol=1e-4, atol=1e-7)
    assert "hazard logit of b" in gradient_times_input(of, "b").map.meaning
    with pytest.raises(ValueError, match="no output 'z'; it has a, b, c and risk"):
        gradient_times_input(of, "z")


def test_a_linear_model_is_explained_exactly_and_others_are_told_of() -> None:
    of = subject("abmil", hidden=8, attention_hidden=4)
    found = gradient_times_input(of, 0)
    assert ("read signs and ranks" in found.verdict) == (found.error > 0.05)
    with pytest.raises(Cancelled):
        integrated_gradients(of, should_stop=lambda: True)
