"""A plain training loop: one bag per step, as published MIL models are trained."""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from napari_2dmamba.errors import Cancelled, FeatureError
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.settings import ProgressCallback, StopCallback, setting, validate
from napari_2dmamba.training.bags import LabelledBag, check_labels
from napari_2dmamba.training.losses import loss_of
from napari_2dmamba.training.metrics import Scores, score


@dataclass(frozen=True)
class FitSettings:
    """How an aggregator is fitted."""

    epochs: int = setting(20, "Times every bag is seen.", minimum=1)
    learning_rate: float = setting(1e-4, "Step size of AdamW at the start.", minimum=0.0)
    weight_decay: float = setting(1e-5, "Weight decay of AdamW.", minimum=0.0)
    schedule: str = setting(
        "cosine",
        "Learning rate over the epochs: down to zero along a cosine, or constant.",
        choices=("cosine", "constant"),
    )
    accumulate: int = setting(1, "Bags whose gradients are averaged before a step.", minimum=1)
    patience: int = setting(
        0, "Stop after this many epochs without a lower validation loss; 0 never stops.", minimum=0
    )
    seed: int = setting(0, "Seed of order and dropout.", minimum=0)
    device: str = setting("auto", "Where it is fitted.", choices=("auto", "cuda", "cpu"))


@dataclass(frozen=True)
class Epoch:
    """What one epoch brought: mean training loss, and scores of the validation bags."""

    epoch: int
    training_loss: float
    validation: Scores | None


@dataclass(frozen=True)
class FitResult:
    """A fitted model, with the weights of its best epoch.

    Attributes
    ----------
    aggregator
        Ready to predict and to be saved.
    history
        One entry per epoch.
    best
        The epoch whose weights were kept: lowest validation loss, or the last one without
        validation bags.
    """

    aggregator: Aggregator
    history: tuple[Epoch, ...]
    best: Epoch

    def summary(self, settings: FitSettings) -> dict[str, Any]:
        """Return what a checkpoint's header says about its training."""
        return {
            "settings": asdict(settings),
            "epochs_run": len(self.history),
            "best": asdict(self.best),
        }


def fit(
    aggregator: Aggregator,
    training: Sequence[LabelledBag],
    validation: Sequence[LabelledBag] = (),
    settings: FitSettings | None = None,
    *,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> FitResult:
    """Fit a model to labelled bags; its own weights are changed.

    Deterministic on the CPU: the same bags, settings and initial weights give the same model.

    Parameters
    ----------
    aggregator
        Freshly built or loaded; its header states the task.
    training, validation
        Bags that the model takes; validation chooses the epoch that is kept.
    settings
        Defaults are those of the published training.

    Raises
    ------
    FeatureError, CheckpointError, GridError
        When there is nothing to fit to, or a bag does not fit the model.
    Cancelled
        When ``should_stop()`` said so; the model then has the weights of its best epoch.
    """
    settings = settings or FitSettings()
    validate(settings)
    if not training:
        raise FeatureError("there is no bag to fit the model to; give at least one")
    model, task = aggregator.model, aggregator.header.task
    check_labels([*training, *validation], model.config.n_outputs)
    run = ModelSettings(device=settings.device)
    prepared = [aggregator.prepare(example.bag, run) for example in training]
    model.to(prepared[0].device)
    optimiser = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    order = torch.Generator().manual_seed(settings.seed)
    history: list[Epoch] = []
    best: Epoch | None = None
    best_weights = copy.deepcopy(model.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        try:
            for epoch in range(settings.epochs):
                if settings.schedule == "cosine":
                    share = 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
                    optimiser.param_groups[0]["lr"] = settings.learning_rate * share
                model.train()
                total = 0.0
                shuffled = torch.randperm(len(training), generator=order).tolist()
                for start in range(0, len(shuffled), settings.accumulate):
                    if should_stop is not None and should_stop():
                        raise Cancelled
                    lot = shuffled[start : start + settings.accumulate]
                    for index in lot:
                        inputs = prepared[index]
                        output = model(inputs.features, inputs.cells, inputs.canvas)
                        loss = loss_of(task, output.logits, training[index])
                        (loss / len(lot)).backward()
                        total += float(loss.detach())
                    optimiser.step()
                    optimiser.zero_grad()
                model.eval()
                scores = score(aggregator, validation, run) if validation else None
                now = Epoch(epoch, total / len(training), scores)
                history.append(now)
                if best is None or _rank(now) <= _rank(best):
                    best, best_weights = now, copy.deepcopy(model.state_dict())
                if on_progress is not None:
                    on_progress(epoch + 1, settings.epochs, _sentence(now))
                if settings.patience and epoch - best.epoch >= settings.patience:
                    break
        finally:
            model.eval()
            model.load_state_dict(best_weights)
    assert best is not None
    return FitResult(aggregator, tuple(history), best)


def _rank(epoch: Epoch) -> float:
    """Lower is better; without validation the later epoch always is."""
    return epoch.validation.loss if epoch.validation else -epoch.epoch


def _sentence(epoch: Epoch) -> str:
    words = [f"epoch {epoch.epoch + 1}: training loss {epoch.training_loss:.4f}"]
    if epoch.validation is not None:
        words += [
            f"{name} {value:.4f}"
            for name, value in asdict(epoch.validation).items()
            if value is not None
        ]
    return ", ".join(words)
