from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_2dmamba.errors import Cancelled, FeatureError
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import Aggregator, CheckpointHeader
from napari_2dmamba.models.checkpoint import build_model
from napari_2dmamba.training import FitSettings, LabelledBag, fit, score
from napari_2dmamba.training.metrics import patch_auroc

QUICK = FitSettings(epochs=4, learning_rate=5e-3, device="cpu")


def untrained(task: str = "classification", n_outputs: int = 2) -> Aggregator:
    config = {
        "feature_size": 6, "n_outputs": n_outputs, "d_model": 16, "d_state": 2,
        "dropout": 0.1, "canvas_mode": "slide", "attention_over": "tissue",
    }  # fmt: skip
    header = CheckpointHeader("2dmamba", config, task, tuple(map(str, range(n_outputs))))
    torch.manual_seed(0)
    return Aggregator(build_model(header), header)


def bags(count: int, seed: int, level: float = 4.0) -> list[LabelledBag]:
    """Noise on 2 x 5 cells; every second bag has one patch with a high first feature."""
    rng = np.random.default_rng(seed)
    coords = 64 * np.stack(np.meshgrid(np.arange(5), np.arange(2)), -1).reshape(-1, 2)
    examples = []
    for index in range(count):
        features = rng.standard_normal((10, 6)).astype(np.float32)
        features[:, 0] = 0
        if index % 2:
            features[rng.integers(10), 0] = level
        examples.append(LabelledBag(FeatureBag(features, coords, 64), index % 2))
    return examples


def weights(aggregator: Aggregator) -> torch.Tensor:
    return torch.cat([value.flatten() for value in aggregator.model.state_dict().values()])


def test_it_learns_a_bag_task_and_finds_the_patch_that_decides() -> None:
    held_out = bags(40, seed=2)
    before = score(untrained(), held_out)
    result = fit(untrained(), bags(40, seed=1), bags(10, seed=3), replace(QUICK, epochs=6))
    after = score(result.aggregator, held_out)
    assert after.loss < 0.5 * before.loss
    assert after.accuracy is not None
    assert after.accuracy >= 0.95
    found = [
        np.argmax(result.aggregator.predict(example.bag).attention)
        == np.argmax(example.bag.features[:, 0])
        for example in held_out
        if example.label
    ]
    assert np.mean(found) >= 0.9


def test_one_step_is_adamw_on_the_published_loss() -> None:
    aggregator, twin = untrained(), untrained()
    settings = FitSettings(epochs=1, learning_rate=1e-3, weight_decay=0.1, device="cpu")
    example = bags(2, seed=4)[1]
    # Without dropout the step can be written down here, apart from the loop.
    aggregator.model.config = replace(aggregator.model.config, dropout=0.0)
    for model in (aggregator.model, twin.model):
        model._fc1[2].p = 0.0
    fit(aggregator, [example], settings=settings)

    twin.model.train()
    optimiser = torch.optim.AdamW(twin.model.parameters(), lr=1e-3, weight_decay=0.1)
    inputs = twin.prepare(example.bag)
    logits = twin.model(inputs.features, inputs.cells, inputs.canvas).logits
    (-torch.log_softmax(logits, 0)[1]).backward()
    optimiser.step()
    torch.testing.assert_close(weights(aggregator), weights(twin), rtol=0, atol=1e-7)


def test_same_seed_same_model_and_the_callers_random_numbers_are_left_alone() -> None:
    models = []
    for seed in (5, 5, 6):
        aggregator = untrained()
        torch.manual_seed(123)
        fit(aggregator, bags(8, seed=1), settings=replace(QUICK, epochs=2, seed=seed))
        models.append(weights(aggregator))
        assert torch.rand(1).item() == pytest.approx(0.2961, abs=1e-3)
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


def test_the_best_epoch_is_kept_and_patience_stops() -> None:
    # Validation labels are wrong, so learning makes validation worse from the start.
    wrong = [LabelledBag(example.bag, 1 - example.label) for example in bags(10, seed=3)]
    result = fit(untrained(), bags(16, seed=1), wrong, replace(QUICK, epochs=30, patience=2))
    losses = [epoch.validation.loss for epoch in result.history if epoch.validation]
    assert result.best.epoch == int(np.argmin(losses))
    assert len(losses) == result.best.epoch + 3
    assert score(result.aggregator, wrong).loss == pytest.approx(min(losses))


def test_survival_follows_the_feature_that_drives_the_hazard() -> None:
    rng = np.random.default_rng(0)
    examples = []
    for index, example in enumerate(bags(130, seed=7)):
        years = rng.uniform(0, 1) if index % 2 else rng.uniform(3, 4)
        examples.append(LabelledBag(example.bag, int(years), bool(rng.random() < 0.2), years))
    result = fit(untrained("survival", 4), examples[:100], settings=replace(QUICK, epochs=6))
    scores = score(result.aggregator, examples[100:])
    assert result.history[-1].training_loss < 0.8 * result.history[0].training_loss
    # Half of all pairs differ in the feature, so that a perfect model has about 0.75.
    assert scores.concordance is not None
    assert scores.concordance > 0.6
    assert scores.accuracy is None
    risks = [result.aggregator.predict(example.bag).risk for example in examples[100:]]
    high = patch_auroc(risks, np.arange(30) % 2 == 1)
    assert high is not None
    assert high > 0.9


def test_a_stopped_fit_leaves_the_best_epoch_so_far() -> None:
    aggregator = untrained()
    seen: list[torch.Tensor] = []

    def remember(done: int, total: int, message: str) -> None:
        seen.append(weights(aggregator).clone())

    with pytest.raises(Cancelled):
        fit(
            aggregator, bags(8, seed=1), settings=QUICK,
            on_progress=remember, should_stop=lambda: len(seen) == 2,
        )  # fmt: skip
    assert torch.equal(weights(aggregator), seen[-1])


@pytest.mark.parametrize(
    ("examples", "says"),
    [([], "no bag"), ([replace(bags(1, seed=0)[0], label=2)], "label 2, but the model has 2")],
)
def test_what_cannot_be_fitted_is_said(examples: list[LabelledBag], says: str) -> None:
    with pytest.raises(FeatureError, match=says):
        fit(untrained(), examples)
