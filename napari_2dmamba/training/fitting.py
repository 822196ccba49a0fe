"""The training loop: one bag after the other, on Lightning Fabric, resumable to the bit.

Everything random in an epoch follows from the seed and the number of the epoch, so that a
training that was cut off goes on from its last whole epoch with the numbers it would have had.
"""

import contextlib
import copy
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_2dmamba.errors import Cancelled, TrainingError
from napari_2dmamba.evaluation.predictions import named
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.models.settings import ModelSettings, device_and_reason
from napari_2dmamba.settings import ProgressCallback, StopCallback, validate
from napari_2dmamba.tasks.bags import LabelledBag, prefetched
from napari_2dmamba.torchvision_compat import import_needing_torchvision
from napari_2dmamba.training import losses, state
from napari_2dmamba.training.determinism import determinism
from napari_2dmamba.training.model import class_weights_of
from napari_2dmamba.training.settings import FitSettings
from napari_2dmamba.training.validation_score import validation_score

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}
_DTYPE = {"32": torch.float32, "bf16": torch.float32, "64": torch.float64}


@dataclass(frozen=True)
class Step:
    """One bag that was learnt from.

    Attributes
    ----------
    number
        Of the bag since the start, from 0.
    epoch
        From 0.
    name
        Of the slide.
    loss
        Before it was divided by anything; NaN for Cox, which has a loss per lot only.
    logits
        ``(K,)``.
    stepped
        Whether the weights were changed after it.
    """

    number: int
    epoch: int
    name: str
    loss: float
    logits: Tensor
    stepped: bool


@dataclass(frozen=True)
class Epoch:
    """What one epoch brought.

    Attributes
    ----------
    epoch
        From 0.
    training_loss
        Mean over its bags, with dropout.
    validation_loss
        Of the same kind, without dropout, every class counting as in training; None without
        validation bags.
    learning_rate, seconds
        In this epoch.
    validation_score
        AUROC of the validation bags, or their concordance index; it chooses nothing. None where
        it has no meaning.
    """

    epoch: int
    training_loss: float
    validation_loss: float | None
    learning_rate: float
    seconds: float = 0.0
    validation_score: float | None = None


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
    remarks
        What was not promised: see `determinism`.
    """

    aggregator: Aggregator
    history: tuple[Epoch, ...]
    best: Epoch
    remarks: tuple[str, ...] = ()

    def summary(self, settings: FitSettings) -> dict[str, Any]:
        """Return what a checkpoint's header says about its training."""
        return {
            "settings": asdict(settings),
            "epochs_run": len(self.history),
            "best": {k: v for k, v in asdict(self.best).items() if k != "seconds"},
        }


def fit(
    aggregator: Aggregator,
    training: Sequence[LabelledBag],
    validation: Sequence[LabelledBag] = (),
    settings: FitSettings | None = None,
    *,
    state_file: str | os.PathLike[str] | None = None,
    on_progress: ProgressCallback | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    should_stop: StopCallback | None = None,
) -> FitResult:
    """Fit a model to labelled bags; its own weights are changed.

    On the CPU, the same bags, settings, first weights and number of threads give the same model
    to the bit, also when the training was killed in between and goes on from its state file.

    Parameters
    ----------
    aggregator
        Freshly built or loaded; its header states the task. A classifier of one output is fitted
        with the binary loss.
    training, validation
        Bags that the model takes, in memory or read when needed (`TableBags`); validation
        chooses the epoch that is kept and nothing else.
    settings
        How.
    state_file
        Written after every epoch, whole or not at all; training goes on from it where it is
        there, and refuses one of another training.
    on_step, on_epoch
        Called after every bag and every epoch.

    Raises
    ------
    TrainingError
        When there is nothing to fit to, labels are not the model's, the state file is of another
        training, or the loss is not a number; the model then has its best weights so far.
    FeatureError, CheckpointError, GridError, BackendError
        When a bag does not fit the model or this machine; the sentence names the slide.
    Cancelled
        When ``should_stop()`` said so; the model then has the weights of its best epoch.
    """
    settings = settings or FitSettings()
    try:
        validate(settings)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    _check_labels(aggregator, training, "training")
    _check_labels(aggregator, validation, "validation", may_be_empty=True)
    job = _Fitting(aggregator, training, validation, settings)
    with determinism(settings.deterministic, job.device) as remarks, torch.random.fork_rng():
        try:
            job.set_up()
            if state_file is not None:
                job.go_on_from(Path(state_file))
            while not job.finished():
                epoch = job.epoch(on_progress, on_step, should_stop)
                if state_file is not None:
                    job.write(Path(state_file))
                if on_epoch is not None:
                    on_epoch(epoch)
                if on_progress is not None:
                    on_progress(epoch.epoch + 1, settings.epochs, sentence(epoch))
        finally:
            job.end()
    assert job.best is not None
    return FitResult(aggregator, tuple(job.history), job.best, tuple(remarks))


def sentence(epoch: Epoch) -> str:
    """Say in words what an epoch brought."""
    words = f"epoch {epoch.epoch + 1}: training loss {epoch.training_loss:.4f}"
    if epoch.validation_loss is not None:
        words += f", validation loss {epoch.validation_loss:.4f}"
    return words


class _Fitting:
    """The state of one training."""

    def __init__(
        self,
        aggregator: Aggregator,
        training: Sequence[LabelledBag],
        validation: Sequence[LabelledBag],
        settings: FitSettings,
    ) -> None:
        self.aggregator, self.model = aggregator, aggregator.model
        self.training, self.validation, self.settings = training, validation, settings
        self.survival = aggregator.header.task == "survival"
        self.device, _ = device_and_reason(ModelSettings(device=settings.device))
        self.run = ModelSettings(device=settings.device)
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.best_weights = copy.deepcopy(self.model.state_dict())
        self.labels = _labels(training)
        weighted = settings.class_weights and not self.survival
        outputs = max(2, self.model.config.n_outputs)
        self.class_weights = class_weights_of(self.labels, outputs) if weighted else None
        self.steps = 0

    def set_up(self) -> None:
        """Put model and optimiser on the device, in the precision asked for."""
        fabric_module = import_needing_torchvision("lightning_fabric")
        s = self.settings
        self.fabric: Any = fabric_module.Fabric(
            accelerator="cpu" if self.device == "cpu" else "cuda",
            devices=1 if self.device == "cpu" else [int(self.device.partition(":")[2] or 0)],
            precision=_PRECISION[s.precision],
        )
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        more = {"momentum": s.momentum} if s.optimiser == "sgd" else {}
        optimiser = kind[s.optimiser](
            weights, lr=s.learning_rate, weight_decay=s.weight_decay, **more
        )
        self.network, self.optimiser = self.fabric.setup(self.model, optimiser)

    def finished(self) -> bool:
        """Whether all epochs are done, or patience is over."""
        done, s = len(self.history), self.settings
        if done >= s.epochs:
            return True
        if not s.patience or not len(self.validation) or self.best is None:
            return False
        return done - 1 - self.best.epoch >= s.patience

    def epoch(
        self,
        on_progress: ProgressCallback | None,
        on_step: Callable[[Step], None] | None,
        should_stop: StopCallback | None,
    ) -> Epoch:
        """Learn from every bag once, validate, and keep the weights if they are the best."""
        s, number, started = self.settings, len(self.history), time.perf_counter()
        rate = s.learning_rate
        if s.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * number / s.epochs))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(_seed_of(s.seed, number))
        order = self._order(number)
        self.model.train()
        self.optimiser.zero_grad()
        total = 0.0
        lot: list[tuple[LabelledBag, Tensor]] = []
        bags = prefetched(self.training, order, s.prefetch)
        try:
            for position, example in enumerate(bags):
                if should_stop is not None and should_stop():
                    raise Cancelled
                if on_progress is not None:
                    words = f"epoch {number + 1}, bag {position + 1} of {len(order)}"
                    on_progress(number, s.epochs, words)
                size = min(s.accumulate, len(order) - position // s.accumulate * s.accumulate)
                ends = (position + 1) % s.accumulate == 0 or position + 1 == len(order)
                logits, loss = self._learn(example, size)
                if loss is None:
                    lot.append((example, logits))
                    if ends:
                        # One loss for the lot, so it counts as often as its bags
                        total += size * self._learn_lot(lot)
                        lot = []
                else:
                    total += loss
                if ends:
                    self._step()
                if on_step is not None:
                    value = math.nan if loss is None else loss
                    told = Step(
                        self.steps, number, example.name, value, logits.detach().clone(), ends
                    )
                    on_step(told)
                self.steps += 1
        finally:
            bags.close()
        self.model.eval()
        validated, score = self._validate(should_stop) if len(self.validation) else (None, None)
        seconds = time.perf_counter() - started
        done = Epoch(number, total / len(order), validated, rate, seconds, score)
        self.history.append(done)
        if self.best is None or validated is None or validated <= (self.best.validation_loss or 0):
            self.best, self.best_weights = done, copy.deepcopy(self.model.state_dict())
        return done

    def _order(self, epoch: int) -> list[int]:
        count, s = len(self.training), self.settings
        if s.order == "given":
            return list(range(count))
        rng = np.random.default_rng((s.seed, epoch))
        if s.order == "shuffled" or self.survival:
            return rng.permutation(count).tolist()
        each = np.bincount(self.labels)
        chance = 1 / each[self.labels] / len(np.flatnonzero(each))
        return rng.choice(count, count, p=chance / chance.sum()).tolist()

    def _logits(self, example: LabelledBag, stages: dict[str, Tensor] | None = None) -> Tensor:
        """Return ``(K,)`` logits of a bag, in full precision."""
        with named(example.name):
            inputs = self.aggregator.prepare(example.bag, self.run, keeps=True)
        kind = _DTYPE[self.settings.precision]
        # Not through Fabric's wrapper, which returns 64 bit numbers as 32 bit ones
        with self.fabric.autocast():
            output = self.model(
                inputs.features.to(kind), inputs.cells, inputs.canvas, stages=stages
            )
        return output.logits.to(kind)

    def _learn(self, example: LabelledBag, lot: int) -> tuple[Tensor, float | None]:
        """Add the gradient of one bag; for Cox, return logits that still have their graph."""
        s = self.settings
        stages: dict[str, Tensor] | None = {} if s.auxiliary_weight else None
        logits = self._logits(example, stages)
        if self.survival and s.survival_loss == "cox":
            return logits, None
        loss = self._loss(logits, example)
        whole = loss
        if stages is not None and not self.survival:
            label = torch.tensor([example.label], device=logits.device)
            with self.fabric.autocast():
                extra = self.model.auxiliary_loss(stages, label)
            if extra is not None:
                weight = 1.0
                if self.class_weights is not None:
                    weight = float(self.class_weights[example.label])
                share = s.auxiliary_weight
                whole = (1 - share) * loss + share * weight * extra
        self._refuse_no_number(whole, example.name)
        self.fabric.backward(whole / (s.loss_divisor * lot))
        return logits, float(loss.detach())

    def _learn_lot(self, lot: list[tuple[LabelledBag, Tensor]]) -> float:
        """Add the gradient of Cox's loss, which compares the patients of a lot."""
        loss = _cox_of([example for example, _ in lot], [logits for _, logits in lot])
        self._refuse_no_number(loss, lot[-1][0].name)
        self.fabric.backward(loss / self.settings.loss_divisor)
        return float(loss.detach())

    def _loss(self, logits: Tensor, example: LabelledBag) -> Tensor:
        label = torch.tensor([example.label], device=logits.device)
        if self.survival:
            censored = torch.tensor([float(example.censored)], device=logits.device)
            kind = (
                losses.ce_survival if self.settings.survival_loss == "ce" else losses.nll_survival
            )
            return kind(logits[None], label, censored, self.settings.alpha)
        weights = self.class_weights
        return losses.classification(
            logits[None], label, None if weights is None else weights.to(logits.device)
        )

    def _refuse_no_number(self, loss: Tensor, name: str) -> None:
        if bool(torch.isfinite(loss)):
            return
        at = f" at slide {name}" if name else ""
        raise TrainingError(
            f"the loss is not a number any more in epoch {len(self.history) + 1}{at}; lower the "
            "learning rate, clip gradients, or look for outliers in the features"
        )

    def _step(self) -> None:
        if self.settings.clip:
            self.fabric.clip_gradients(
                self.network, self.optimiser, max_norm=self.settings.clip, error_if_nonfinite=False
            )
        self.optimiser.step()
        self.optimiser.zero_grad()

    def _validate(self, should_stop: StopCallback | None) -> tuple[float, float | None]:
        each, lot, said = [], [], []
        ahead = prefetched(self.validation, range(len(self.validation)), self.settings.prefetch)
        with torch.no_grad(), contextlib.closing(ahead):
            for example in ahead:
                if should_stop is not None and should_stop():
                    raise Cancelled
                logits = self._logits(example)
                # Without its bag: all of them are not to be held
                said.append((replace(example, bag=None), logits.cpu()))  # type: ignore[arg-type]
                if self.survival and self.settings.survival_loss == "cox":
                    lot.append((example, logits))
                else:
                    each.append(float(self._loss(logits, example)))
        if lot:
            each = [float(_cox_of([e for e, _ in lot], [logits for _, logits in lot]))]
        value = float(np.mean(each))
        if not math.isfinite(value):
            raise TrainingError(
                f"the validation loss is not a number in epoch {len(self.history) + 1}; lower the "
                "learning rate or clip gradients"
            )
        told, logits_of = zip(*said, strict=True)
        return value, validation_score(told, logits_of, self.aggregator.header.task)

    def write(self, path: Path) -> None:
        """Keep all that the rest of the training depends on."""
        state.write(
            path,
            state.Saved(
                fingerprint=self._fingerprint(),
                history=[asdict(epoch) for epoch in self.history],
                best=None if self.best is None else self.best.epoch,
                steps=self.steps,
                weights=self.model.state_dict(),
                best_weights=self.best_weights,
                optimiser=self.optimiser.state_dict(),
            ),
        )

    def go_on_from(self, path: Path) -> None:
        """Take up a training that was cut off, if there is one."""
        saved = state.read(path, self._fingerprint())
        if saved is None:
            return
        self.history = [Epoch(**epoch) for epoch in saved.history]
        self.best = None if saved.best is None else self.history[saved.best]
        self.steps = saved.steps
        self.model.load_state_dict(saved.weights)
        self.best_weights = saved.best_weights
        self.optimiser.load_state_dict(saved.optimiser)

    def _fingerprint(self) -> str:
        bags = [
            (slide.name, slide.patient) if hasattr(slide, "name") else position
            for some in (self.training, self.validation)
            for position, slide in enumerate(getattr(some, "slides", some))
        ]
        header = self.aggregator.header
        told = [asdict(self.settings) | {"memory_mb": 0, "prefetch": 0}, header.architecture]
        return state.fingerprint([*told, header.config, header.class_names, self.labels, bags])

    def end(self) -> None:
        """Leave the model with its best weights, ready to predict."""
        self.model.eval()
        for parameter in self.model.parameters():
            parameter.grad = None
        self.model.load_state_dict(self.best_weights)
        self.model.float()


def _labels(bags: Sequence[LabelledBag]) -> list[int]:
    known = getattr(bags, "labels", None)  # without reading any bag
    return list(known) if known is not None else [bag.label for bag in bags]


def _check_labels(
    aggregator: Aggregator, bags: Sequence[LabelledBag], part: str, *, may_be_empty: bool = False
) -> None:
    if not len(bags) and not may_be_empty:
        raise TrainingError("there is no bag to fit the model to; give at least one")
    outputs = aggregator.config.n_outputs
    cox = aggregator.header.task == "survival" and outputs == 1
    binary = aggregator.header.task == "classification" and outputs == 1
    largest = 1 if binary else outputs - 1
    for position, label in enumerate(_labels(bags)):
        if not cox and not 0 <= label <= largest:
            raise TrainingError(
                f"{part} bag {position} has label {label}, but the model has {outputs} outputs, "
                f"so labels must be 0 to {largest}"
            )


def _cox_of(examples: list[LabelledBag], logits: list[Tensor]) -> Tensor:
    risk = torch.stack([value[0] for value in logits])
    times = [e.label if e.time is None else e.time for e in examples]
    return losses.cox(
        risk,
        torch.tensor(times, dtype=torch.float64, device=risk.device),
        torch.tensor([not e.censored for e in examples], device=risk.device),
    )


def _seed_of(seed: int, epoch: int) -> int:
    """Return a seed for an epoch, far from those of others."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)
