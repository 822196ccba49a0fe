import numpy as np
import pytest
import torch

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.explain.implied_attention import ScanArrays, influence_on
from napari_2dmamba.explain.receptive_field import reachable
from napari_2dmamba.explain.rollout import held_states, rollout, slide_relevance, state_relevance
from tests.explain.subjects import subject


@pytest.mark.parametrize("config", [
    {"n_layers": 2}, {"directions": 4}, {"scan": "1d"}, {"inner_norms": True},
])  # fmt: skip
def test_values_are_those_of_the_network(config: dict) -> None:
    of = subject(**config)
    stages: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        of.run(stages=stages)
        held = held_states(of, of.features)
    last = config.get("n_layers", 1) - 1
    expected = stages[f"layer{last}_out"].flatten(0, 1)
    torch.testing.assert_close(held, expected, rtol=1e-9, atol=1e-12)


def test_one_layer_is_implied_attention_convolution_and_projections_multiplied_out() -> None:
    of = subject(rows=3, cols=4, left_out=(6,))
    patch = 9
    row, col = of.cell_of(patch)
    stages: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        of.run(stages=stages)
        mixer, norm = of.model.layers.layers[0].mixer, of.model.layers.layers[0].norm
        one = of.model.scan_layers(of.features, of.cells, of.canvas)[0].directions[0]
        arrays = ScanArrays(one.dt, one.A, one.B, one.C)
        scan = influence_on(arrays, (row, col)).flatten(0, 1)  # (cells, d_inner)
        scan[row * 4 + col] += mixer.D
        z = torch.nn.functional.silu(stages["mixer0_z"][row, col])
        # the cells before the mixer
        index = of.cells[:, 0] * 4 + of.cells[:, 1]
        states = of.model.layers.pad_token.expand(12, -1).clone()
        states[index] = stages["fc1"]
        scale = norm.weight / (states.square().mean(1, keepdim=True) + 1e-5).sqrt()
        to_x = mixer.in_proj.weight[:16]
        inner = (states * scale) @ to_x.t()
        taps = mixer.conv1d.weight[:, 0]
        padded = torch.cat([torch.zeros_like(inner[:3]), inner])
        conv = sum(padded[k : k + 12] * taps[:, k] for k in range(4)) + mixer.conv1d.bias
        act = torch.sigmoid(conv)
        linear = of.model._fc1[0]
        before = linear(of.features)
        phi = 0.5 * (1 + torch.erf(before / 2**0.5))
        expected = []
        for number, p in enumerate(index.tolist()):
            inflow = torch.zeros(16, dtype=torch.float64)  # of channel d of the cell's projection
            for k in range(4):  # the convolution carries it on to the next three cells
                if p + 3 - k < 12:
                    inflow += scan[p + 3 - k] * act[p + 3 - k] * taps[:, k]
            matrix = mixer.out_proj.weight @ ((z * inflow)[:, None] * to_x * scale[p])
            if number == patch:
                matrix = matrix + torch.eye(8)
            expected.append((matrix @ (phi[number][:, None] * linear.weight)).norm())
    found = of.scores_of_map(rollout(of, patch, probes=None))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_it_reaches_what_can_be_reached() -> None:
    of = subject(n_layers=2)
    found = of.scores_of_map(rollout(of, 15, probes=None))
    np.testing.assert_array_equal(found > 0, reachable(of, 15))


def test_relevance_adds_up_without_biases() -> None:
    of = subject(pad="zero", left_out=(), n_layers=2)
    for name, parameter in of.model.named_parameters():
        if name.endswith("bias") and "dt_proj" not in name:
            torch.nn.init.zeros_(parameter)
    total = np.nansum(state_relevance(of, 17).values)
    assert total == pytest.approx(1, abs=1e-5)
    logit = float(of.run().logits[1].detach())
    assert np.nansum(slide_relevance(of, 1).values) == pytest.approx(logit, rel=1e-4)


def test_relevance_of_a_state_is_gradient_times_input_of_the_held_network() -> None:
    of = subject()
    features = of.features.clone().requires_grad_()
    position = int(of.cells[20, 0]) * 6 + int(of.cells[20, 1])
    state = held_states(of, features)[position]
    torch.testing.assert_close(
        state.detach(), of.patch_states(of.features)[20].detach(), rtol=1e-9, atol=1e-12
    )
    (gradient,) = torch.autograd.grad(state @ state.detach() / state.detach().norm() ** 2, features)
    found = of.scores_of_map(state_relevance(of, 20))
    np.testing.assert_allclose(found, (gradient * of.features).sum(1), rtol=1e-5, atol=1e-9)


def test_other_models_are_refused() -> None:
    with pytest.raises(CheckpointError, match="this model is ABMIL"):
        rollout(subject("abmil", hidden=8, attention_hidden=4), 3)
