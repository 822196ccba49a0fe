"""The training loop: one bag after the other, on Lightning Fabric, resumable to the bit.

Everything random follows from the seed, the number of the epoch and the position of a bag in it,
so that a training that was cut off goes on from its last whole epoch with the numbers it would
have had, and a bag means the same in whichever process it is learnt from (`processes`).
"""

import contextlib
import copy
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_2dmamba.errors import Cancelled, TrainingError
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.models.settings import ModelSettings, device_and_reason
from napari_2dmamba.settings import ProgressCallback, StopCallback, validate
from napari_2dmamba.tasks.bags import LabelledBag, prefetched
from napari_2dmamba.training import state
from napari_2dmamba.training.determinism import determinism
from napari_2dmamba.training.learner import Answer, Learner, cox_of
from napari_2dmamba.training.model import class_weights_of
from napari_2dmamba.training.processes import Helpers, devices_of, lots, owner, remarks_on
from napari_2dmamba.training.settings import FitSettings
from napari_2dmamba.training.validation_score import validation_score


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
    Several devices (`FitSettings.devices`) share out the bags of a lot; one model comes of it,
    which differs from that of one device by rounding alone.

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
        Called after every bag and every epoch, in the order of the bags and in this process.

    Raises
    ------
    TrainingError
        When there is nothing to fit to, labels are not the model's, the state file is of another
        training, the loss is not a number, or the process of a device was ended; the model then
        has its best weights so far.
    FeatureError, CheckpointError, GridError, BackendError
        When a bag does not fit the model or this machine; the sentence names the slide. Or when
        there are fewer devices than were asked for.
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
            if settings.devices > 1 and on_progress is not None:
                words = f"starting the processes of {settings.devices} devices"
                on_progress(len(job.history), settings.epochs, words)
            with job.helped() as helpers:
                while not job.finished():
                    epoch = job.epoch(helpers, on_progress, on_step, should_stop)
                    if state_file is not None:
                        job.write(Path(state_file))
                    if on_epoch is not None:
                        on_epoch(epoch)
                    if on_progress is not None:
                        on_progress(epoch.epoch + 1, settings.epochs, sentence(epoch))
        finally:
            job.end()
    assert job.best is not None
    found = (*remarks, *remarks_on(settings))
    return FitResult(aggregator, tuple(job.history), job.best, found)


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
        self.device, _ = device_and_reason(ModelSettings(device=settings.device))
        gpus = 0 if self.device == "cpu" else torch.cuda.device_count()
        self.devices = devices_of(settings, self.device, gpus)
        lot = min(settings.accumulate, len(training))
        if lot < settings.devices:
            raise TrainingError(
                f"{settings.devices} devices cannot share a lot of {lot} "
                f"bag{'s' * (lot != 1)}; train on at most {lot}, or average the gradients of more "
                "bags (accumulate)"
            )
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.best_weights = copy.deepcopy(self.model.state_dict())
        self.labels = _labels(training)
        self.steps = 0

    def set_up(self) -> None:
        """Put model and optimiser on the device, in the precision asked for."""
        s = self.settings
        weighted = s.class_weights and self.aggregator.header.task != "survival"
        outputs = max(2, self.model.config.n_outputs)
        class_weights = class_weights_of(self.labels, outputs) if weighted else None
        self.learner = Learner(self.aggregator, s, class_weights, self.device)
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        more = {"momentum": s.momentum} if s.optimiser == "sgd" else {}
        optimiser = kind[s.optimiser](
            self.learner.weights, lr=s.learning_rate, weight_decay=s.weight_decay, **more
        )
        self.optimiser = self.learner.fabric.setup_optimizers(optimiser)

    def helped(self) -> Helpers:
        """Start the processes of the other devices, with the weights as they are now."""
        return Helpers(self.learner, self.training, self.validation, self.devices)

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
        helpers: Helpers,
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
        order = self._order(number)
        self.model.train()
        self.optimiser.zero_grad()
        helpers.begin_epoch(number, order)
        mine = [order[p] for p in range(len(order)) if owner(p, s) == 0]
        total = 0.0
        with contextlib.closing(prefetched(self.training, mine, s.prefetch)) as bags:
            for lot in lots(len(order), s.accumulate):
                helpers.hand_out_weights(self.learner)
                answers: list[Answer] = []
                for position in lot:
                    if should_stop is not None and should_stop():
                        raise Cancelled
                    if on_progress is not None:
                        words = f"epoch {number + 1}, bag {position + 1} of {len(order)}"
                        on_progress(number, s.epochs, words)
                    whose = owner(position, s)
                    if whose == 0:
                        answer = self.learner.learn(next(bags), number, position, len(lot))
                    else:
                        answer = helpers.answer(whose)
                    answers.append(answer)
                    total += answer.loss or 0.0
                    if position == lot[-1]:
                        total += self._end_lot(answers, number, helpers)
                    if on_step is not None:
                        on_step(self._told(answer, number, stepped=position == lot[-1]))
                    self.steps += 1
        self.model.eval()
        validated, score = None, None
        if len(self.validation):
            validated, score = self._validate(helpers, should_stop)
        seconds = time.perf_counter() - started
        done = Epoch(number, total / len(order), validated, rate, seconds, score)
        self.history.append(done)
        if self.best is None or validated is None or validated <= (self.best.validation_loss or 0):
            self.best, self.best_weights = done, copy.deepcopy(self.model.state_dict())
        return done

    def _told(self, answer: Answer, epoch: int, *, stepped: bool) -> Step:
        loss = math.nan if answer.loss is None else answer.loss
        logits = answer.logits.to(self.device, copy=True)
        return Step(self.steps, epoch, answer.example.name, loss, logits, stepped)

    def _order(self, epoch: int) -> list[int]:
        count, s = len(self.training), self.settings
        if s.order == "given":
            return list(range(count))
        rng = np.random.default_rng((s.seed, epoch))
        if s.order == "shuffled" or self.aggregator.header.task == "survival":
            return rng.permutation(count).tolist()
        each = np.bincount(self.labels)
        chance = 1 / each[self.labels] / len(np.flatnonzero(each))
        return rng.choice(count, count, p=chance / chance.sum()).tolist()

    def _end_lot(self, answers: list[Answer], epoch: int, helpers: Helpers) -> float:
        """Step on the gradients of all processes; return what a loss of the whole lot counts."""
        learner, counts = self.learner, 0.0
        if learner.is_cox:
            helpers.hand_out(answers)
            # One loss for the lot, so it counts as often as its bags
            counts = len(answers) * learner.learn_lot(answers, epoch)
        for gradient in helpers.gradients():
            learner.add_gradient(gradient)
        if self.settings.clip:
            learner.fabric.clip_gradients(
                learner.network, self.optimiser, max_norm=self.settings.clip,
                error_if_nonfinite=False,
            )  # fmt: skip
        self.optimiser.step()
        self.optimiser.zero_grad()
        return counts

    def _validate(
        self, helpers: Helpers, should_stop: StopCallback | None
    ) -> tuple[float, float | None]:
        s, learner, count = self.settings, self.learner, len(self.validation)
        helpers.begin_validation(learner)
        mine = [p for p in range(count) if owner(p, s) == 0]
        answers: list[Answer] = []
        with contextlib.closing(prefetched(self.validation, mine, s.prefetch)) as bags:
            for position in range(count):
                if should_stop is not None and should_stop():
                    raise Cancelled
                whose = owner(position, s)
                answers.append(learner.answer(next(bags)) if whose == 0 else helpers.answer(whose))
        told = [answer.example for answer in answers]
        logits = [answer.logits.to(self.device) for answer in answers]
        if learner.is_cox:
            value = float(cox_of(told, logits))
        else:
            each = [learner.loss(*one) for one in zip(logits, told, strict=True)]
            value = float(np.mean([float(loss) for loss in each]))
        if not math.isfinite(value):
            raise TrainingError(
                f"the validation loss is not a number in epoch {len(self.history) + 1}; lower the "
                "learning rate or clip gradients"
            )
        on_cpu = [one.cpu() for one in logits]
        return value, validation_score(told, on_cpu, self.aggregator.header.task)

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
            (
                slide.name,
                slide.patient,
                slide.time,
                slide.censored if isinstance(slide, LabelledBag) else slide.event,
                label,
            )
            for some in (self.training, self.validation)
            for slide, label in zip(getattr(some, "slides", some), _labels(some), strict=True)
        ]
        header = self.aggregator.header
        told: list[Any] = [asdict(self.settings) | {"memory_mb": 0, "prefetch": 0}]
        told += [header.architecture, header.task, header.config, header.class_names, header.canvas]
        return state.fingerprint([*told, len(self.training), bags])

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
