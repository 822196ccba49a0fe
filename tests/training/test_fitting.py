import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from napari_2dmamba.errors import Cancelled, FeatureError, TrainingError
from napari_2dmamba.evaluation import predict
from napari_2dmamba.evaluation.scoring import point_scores
from napari_2dmamba.evaluation.survival import concordance
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import Aggregator, CheckpointHeader, training_canvas
from napari_2dmamba.models.checkpoint import build_model
from napari_2dmamba.tasks import LabelledBag
from napari_2dmamba.training import FitSettings, Step, fit
from napari_2dmamba.training.model import class_weights_of, start_step_sizes
from tests import warm
from tests.material import shared

QUICK = FitSettings(
    epochs=3, learning_rate=1e-2, accumulate=1, patience=0, schedule="constant",
    class_weights=False, device="cpu",
)  # fmt: skip


def untrained(task: str = "classification", n_outputs: int = 2, name: str = "abmil") -> Aggregator:
    config = {
        "abmil": {"hidden": 8, "attention_hidden": 4},
        "2dmamba": {"d_model": 8, "d_state": 2, "canvas_mode": "slide"},
        "clam": {"hidden": 8, "attention_hidden": 4},
    }[name]
    config = {"feature_size": 6, "n_outputs": n_outputs, "dropout": 0.1, **config}
    header = CheckpointHeader(name, config, task, tuple(map(str, range(n_outputs))))
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
        examples.append(
            LabelledBag(FeatureBag(features, coords, 64), index % 2, name=f"slide {index}")
        )
    return examples


def weights(aggregator: Aggregator) -> torch.Tensor:
    return torch.cat([value.flatten() for value in aggregator.model.state_dict().values()])


@pytest.mark.parametrize(
    "case", ["sgd_cls", "adam_cls", "adamw_cls_l2", "adam_surv", "adamw_zero_pad"]
)
def test_published_steps_are_replayed(case: str) -> None:
    folder = shared("golden/train2d")
    index = json.loads((folder / "index.json").read_text())
    told = next(one for one in index["cases"] if one["case"] == case)
    z, c, o = np.load(folder / told["file"]), told["config"], told["optimizer"]
    survival = c["survival"]
    config = {
        "feature_size": c["in_dim"], "n_outputs": c["n_classes"], "dropout": 0.0,
        "d_model": c["mambamil_dim"], "n_layers": c["mambamil_layer"],
        "d_state": c["mambamil_state_dim"], "pad": c["mamba_2d_pad_token"],
    }  # fmt: skip
    header = CheckpointHeader(
        "2dmamba", config, "survival" if survival else "classification",
        tuple(map(str, range(c["n_classes"]))),
        canvas=training_canvas(c["mamba_2d_max_w"], c["mamba_2d_max_h"], 512),
    )  # fmt: skip
    model = build_model(header).double()
    model.load_state_dict(load_file(folder / told["weights_before"]))
    two = [
        LabelledBag(
            FeatureBag(z[f"features{i}"], z[f"coords{i}"], 512), int(z["labels"][i]),
            censored=survival and bool(z["censorship"][i]),
        )
        for i in (0, 1)
    ]  # fmt: skip
    settings = FitSettings(
        epochs=3, learning_rate=o["lr"], weight_decay=o["weight_decay"], optimiser=o["name"],
        momentum=o["momentum"] or 0.9, schedule="constant", accumulate=1, patience=0, clip=0.0,
        class_weights=False, order="given", loss_divisor=32.0 if survival else 1.0,
        precision="64", device="cpu",
    )  # fmt: skip
    seen: list[Step] = []
    after: dict[str, torch.Tensor] = {}

    def watch(step: Step) -> None:
        seen.append(step)
        if step.number == 4:
            after.update({name: v.clone() for name, v in model.state_dict().items()})

    fit(Aggregator(model, header), two, (), settings, on_step=watch)
    np.testing.assert_allclose([step.loss for step in seen[:5]], z["loss"], rtol=1e-11)
    for number, step in enumerate(seen[:5]):
        said = step.logits if not survival else torch.sigmoid(step.logits)
        np.testing.assert_allclose(said, z["model_out"][number], rtol=1e-9)
    for key in z:
        # The bias before the softmax has no gradient in theory, and its noise is not compared.
        if key.startswith("final/") and key != "final/attention.2.bias":
            name = key.removeprefix("final/")
            np.testing.assert_allclose(after[name], z[key], rtol=0, atol=1e-12, err_msg=name)


def test_it_learns_a_bag_task_and_finds_the_patch_that_decides() -> None:
    held_out = bags(40, seed=2)
    result = fit(untrained(), bags(40, seed=1), bags(10, seed=3), replace(QUICK, epochs=5))
    scores = point_scores(predict(result.aggregator, held_out))
    assert scores["accuracy"] is not None
    assert scores["accuracy"] >= 0.95
    found = [
        np.argmax(result.aggregator.predict(example.bag).attention)
        == np.argmax(example.bag.features[:, 0])
        for example in held_out
        if example.label
    ]
    assert np.mean(found) >= 0.9


def test_a_lot_of_bags_is_one_step_on_their_mean() -> None:
    """Also the last lot, which is smaller; written down here apart from the loop."""
    aggregator, twin = untrained(), untrained()
    for model in (aggregator.model, twin.model):
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    examples = bags(5, seed=4)
    settings = replace(
        QUICK, epochs=1, accumulate=3, order="given", clip=0.1, class_weights=True,
        weight_decay=0.1,
    )  # fmt: skip
    fit(aggregator, examples, settings=settings)
    twin.model.train()
    optimiser = torch.optim.AdamW(twin.model.parameters(), lr=1e-2, weight_decay=0.1)
    for lot in (examples[:3], examples[3:]):
        losses = []
        for example in lot:
            inputs = twin.prepare(example.bag)
            logits = twin.model(inputs.features, inputs.cells, inputs.canvas).logits
            weight = 5 / (2 * (2 if example.label else 3))
            losses.append(-weight * torch.log_softmax(logits, 0)[example.label])
        optimiser.zero_grad()
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(twin.model.parameters(), 0.1)
        optimiser.step()
    torch.testing.assert_close(weights(aggregator), weights(twin), rtol=0, atol=1e-6)


def test_same_seed_same_model_and_the_callers_random_numbers_are_left_alone() -> None:
    models = []
    for seed in (5, 5, 6):
        aggregator = untrained()
        torch.manual_seed(123)
        settings = replace(QUICK, epochs=2, seed=seed, deterministic=True)
        result = fit(aggregator, bags(8, seed=1), settings=settings)
        models.append(weights(aggregator))
        assert torch.rand(1).item() == pytest.approx(0.2961, abs=1e-3)
        assert "promised on this device" in result.remarks[0]
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])
    assert not torch.are_deterministic_algorithms_enabled()


def test_validation_chooses_the_epoch_and_patience_stops() -> None:
    # Validation labels are wrong, so learning makes validation worse from the start.
    wrong = [replace(example, label=1 - example.label) for example in bags(10, seed=3)]
    told: list[int] = []
    result = fit(
        untrained(), bags(16, seed=1), wrong, replace(QUICK, epochs=30, patience=2),
        on_epoch=lambda epoch: told.append(epoch.epoch),
    )  # fmt: skip
    losses = [epoch.validation_loss for epoch in result.history]
    assert result.best.epoch == int(np.argmin(np.array(losses, float)))
    assert len(losses) == result.best.epoch + 3 == len(told)
    again = predict(result.aggregator, wrong)
    chosen = again.values[np.arange(10), again.labels]
    assert -np.log(chosen).mean() == pytest.approx(min(map(float, losses)), rel=1e-5)


@pytest.mark.parametrize("loss", ["nll", "ce", "cox"])
def test_survival_follows_the_feature_that_drives_the_hazard(loss: str) -> None:
    rng = np.random.default_rng(0)
    examples = []
    for index, example in enumerate(bags(70, seed=7)):
        years = rng.uniform(0, 1) if index % 2 else rng.uniform(3, 4)
        censored = bool(rng.random() < 0.2)
        examples.append(replace(example, label=int(years), censored=censored, time=years))
    settings = replace(QUICK, survival_loss=loss, epochs=6)
    if loss == "cox":  # one step for a lot
        settings = replace(settings, accumulate=8, epochs=10, learning_rate=3e-2)
    outputs = 1 if loss == "cox" else 4
    result = fit(untrained("survival", outputs), examples[:50], examples[50:], settings)
    risk = predict(result.aggregator, examples[50:]).risks
    assert risk is not None
    assert risk[1::2].mean() > risk[::2].mean()
    told = predict(result.aggregator, examples[50:])
    assert told.times is not None
    assert told.events is not None
    index = concordance(risk, told.times, told.events).index
    # Half of all pairs differ in the feature, so that a perfect model has about 0.75.
    assert index is not None
    assert index > 0.6


def test_one_logit_is_fitted_as_its_sigmoid() -> None:
    result = fit(untrained(n_outputs=1), bags(40, seed=1), settings=replace(QUICK, epochs=5))
    told = predict(result.aggregator, bags(20, seed=2))
    assert told.class_names == ("not 0", "0")
    assert point_scores(told)["accuracy"] == 1.0
    with pytest.raises(TrainingError, match="label 2"):
        fit(untrained(n_outputs=1), [replace(bags(1, seed=0)[0], label=2)])


def test_the_models_own_second_loss_enters_with_its_share() -> None:
    def after(share: float) -> torch.Tensor:
        aggregator = untrained(name="clam")
        before = aggregator.model.instance_classifiers[0].weight.clone()
        fit(aggregator, bags(4, 1), settings=replace(QUICK, epochs=1, auxiliary_weight=share,
                                                     weight_decay=0.0))  # fmt: skip
        return (aggregator.model.instance_classifiers[0].weight - before).abs().sum()

    assert after(0.0) == 0
    assert after(0.3) > 0


def test_balanced_order_sees_every_class_as_often() -> None:
    few = [example for i, example in enumerate(bags(40, 1)) if i % 2 == 0 or i == 1]
    names: list[str] = []
    fit(
        untrained(), few, settings=replace(QUICK, epochs=10, order="balanced"),
        on_step=lambda step: names.append(step.name),
    )  # fmt: skip
    assert 0.35 < np.mean([name == "slide 1" for name in names]) < 0.65


def test_class_weights_have_mean_one() -> None:
    found = class_weights_of([0, 0, 0, 1], 3)
    np.testing.assert_allclose(found, [2 / 3, 2, 0])


def test_step_sizes_start_as_mamba_has_them() -> None:
    model = untrained(name="2dmamba").model
    start_step_sizes(model)
    bias = model.layers.layers[0].mixer.dt_proj.bias
    first = torch.nn.functional.softplus(bias)
    assert first.min() >= 0.000999
    assert first.max() <= 0.1001


def test_a_stopped_fit_leaves_the_best_epoch_so_far_and_goes_on(tmp_path: Path) -> None:
    whole = untrained()
    fit(whole, bags(8, seed=1), bags(4, seed=2), QUICK)
    aggregator = untrained()
    steps: list[Step] = []
    state = tmp_path / "state.pt"
    with pytest.raises(Cancelled):
        fit(
            aggregator, bags(8, seed=1), bags(4, seed=2), QUICK, state_file=state,
            on_step=steps.append, should_stop=lambda: len(steps) == 12,
        )  # fmt: skip
    assert len(steps) == 12
    aggregator = untrained()
    result = fit(aggregator, bags(8, seed=1), bags(4, seed=2), QUICK, state_file=state)
    assert [epoch.epoch for epoch in result.history] == [0, 1, 2]
    assert torch.equal(weights(aggregator), weights(whole))
    with pytest.raises(TrainingError, match="other settings"):
        fit(untrained(), bags(8, 1), bags(4, 2), replace(QUICK, seed=1), state_file=state)
    state.write_bytes(b"no")
    with pytest.raises(TrainingError, match="is damaged"):
        fit(untrained(), bags(8, 1), bags(4, 2), QUICK, state_file=state)


_CUT_OFF = """
import os, random, signal, sys, time, torch
torch.set_num_threads(1)
from tests.training.test_fitting import a_longer_fit
from napari_2dmamba.torchvision_compat import import_needing_torchvision
import_needing_torchvision("lightning_fabric")
def written():
    return os.stat(sys.argv[1]).st_mtime_ns if os.path.exists(sys.argv[1]) else 0
for moment in range(int(sys.argv[2])):
    before, child = written(), os.fork()
    if child == 0:
        a_longer_fit(sys.argv[1], int(sys.argv[3]))
        os._exit(0)
    while written() == before:
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print(torch.load(sys.argv[1], weights_only=True)["history"][-1]["epoch"])
"""


@pytest.mark.parametrize("change", [{"label": 1}, {"censored": True}, {"time": 9.0}])
@pytest.mark.parametrize("part", [0, 1])
def test_a_state_of_other_answers_is_refused(tmp_path: Path, change: dict, part: int) -> None:
    both = [[replace(bag, label=0, time=3.0) for bag in bags(3, seed)] for seed in (1, 2)]
    once, state = replace(QUICK, epochs=1), tmp_path / "state.pt"
    fit(untrained("survival"), *both, once, state_file=state)
    fit(untrained("survival"), *both, once, state_file=state)
    both[part][0] = replace(both[part][0], **change)
    with pytest.raises(TrainingError, match="with other settings, slides or model"):
        fit(untrained("survival"), *both, once, state_file=state)


def a_longer_fit(state_file: str | None, epochs: int) -> tuple[torch.Tensor, int]:
    aggregator = untrained(name="2dmamba")
    settings = replace(QUICK, epochs=epochs, accumulate=3, schedule="cosine")
    done: list[int] = []
    fit(
        aggregator, bags(9, 1), bags(3, 2), settings, state_file=state_file,
        on_epoch=lambda epoch: done.append(epoch.epoch),
    )  # fmt: skip
    return weights(aggregator), len(done)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills children that it forks")
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killed_and_compared(tmp_path, kills=2, epochs=14)


def killed_and_compared(folder: Path, kills: int, epochs: int) -> None:
    """By hand with 30 kills; `docs/training.md` says what was found."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole, _ = a_longer_fit(None, epochs)
        state = str(folder / "state.pt")
        child = warm.python("-c", _CUT_OFF, state, str(kills), str(epochs))
        assert child.returncode == 0, child.stderr
        rest, done = a_longer_fit(state, epochs)
    finally:
        torch.set_num_threads(threads)
    assert done == epochs - 1 - int(child.stdout)
    assert torch.equal(whole, rest)


def test_a_loss_that_is_no_number_stops_training_and_names_the_slide() -> None:
    aggregator = untrained()
    with pytest.raises(TrainingError, match="not a number any more in epoch 1 at slide slide"):
        fit(aggregator, bags(9, 1), settings=replace(QUICK, learning_rate=1e30, clip=0.0))
    assert torch.isfinite(weights(aggregator)).all()


def test_a_bag_that_does_not_fit_is_named() -> None:
    broken = bags(3, 1)
    features = broken[1].bag.features.copy()
    features[0, 0] = np.nan
    broken[1] = replace(broken[1], bag=replace(broken[1].bag, features=features))
    with pytest.raises(FeatureError, match="slide slide 1: the features of 1 of 10"):
        fit(untrained(), broken, settings=QUICK)


@pytest.mark.parametrize(
    ("examples", "says"),
    [([], "no bag"), ([replace(bags(1, seed=0)[0], label=2)], "label 2, but the model has 2")],
)
def test_what_cannot_be_fitted_is_said(examples: list[LabelledBag], says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        fit(untrained(), examples)
    with pytest.raises(TrainingError, match="epochs is 0"):
        fit(untrained(), bags(2, 1), settings=replace(QUICK, epochs=0))
