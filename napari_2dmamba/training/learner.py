"""Loss and gradient of single bags: what every process of a training does alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from napari_2dmamba.errors import TrainingError
from napari_2dmamba.evaluation.predictions import named
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.tasks.bags import LabelledBag
from napari_2dmamba.torchvision_compat import import_needing_torchvision
from napari_2dmamba.training import losses
from napari_2dmamba.training.settings import FitSettings

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}
_DTYPE = {"32": torch.float32, "bf16": torch.float32, "64": torch.float64}


@dataclass(frozen=True)
class Answer:
    """What the model said of a bag, and what it cost.

    Attributes
    ----------
    example
        Without its bag: a thousand of them are not to be held.
    logits
        ``(K,)``, without their graph.
    loss
        None in validation, and for Cox, which has a loss per lot only.
    """

    example: LabelledBag
    logits: Tensor
    loss: float | None = None

    def on_cpu(self) -> "Answer":
        """Return it for another process, which a tensor on a device would make open that one."""
        return replace(self, logits=self.logits.cpu())


@dataclass(frozen=True)
class Gradient:
    """The gradient of some bags, in one piece.

    Attributes
    ----------
    values
        ``(P,)``, of all trainable weights one after the other.
    present
        For each weight whether it has a gradient: one that no bag used is not stepped, nor
        decayed.
    """

    values: NDArray[np.floating]
    present: tuple[bool, ...]


class Learner:
    """A model on a device, in the precision asked for, with the gradient of the bags it saw.

    Parameters
    ----------
    aggregator
        Its model is moved and changed in place.
    settings
        Of the training.
    class_weights
        ``(K,)`` what a slide of each class counts; None where they count alike.
    device
        Such as ``"cpu"`` or ``"cuda:1"``.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        settings: FitSettings,
        class_weights: Tensor | None,
        device: str,
    ) -> None:
        fabric_module = import_needing_torchvision("lightning_fabric")
        kind, _, index = device.partition(":")
        self.fabric: Any = fabric_module.Fabric(
            accelerator=kind,
            devices=1 if kind == "cpu" else [int(index or 0)],
            precision=_PRECISION[settings.precision],
        )
        self.aggregator, self.model = aggregator, aggregator.model
        self.settings, self.class_weights, self.device = settings, class_weights, device
        self.network = self.fabric.setup_module(self.model)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.is_survival = aggregator.header.task == "survival"
        self.is_cox = self.is_survival and settings.survival_loss == "cox"
        self._run = ModelSettings(device=kind)
        self._graphs: dict[int, Tensor] = {}

    def learn(self, example: LabelledBag, epoch: int, position: int, lot: int) -> Answer:
        """Add the gradient of one bag; for Cox, keep what `learn_lot` will need.

        Parameters
        ----------
        epoch, position
            From 0. Dropout follows from them and the seed, so that it is the same in whichever
            process the bag is learnt from.
        lot
            Bags whose gradients are averaged.
        """
        s = self.settings
        torch.manual_seed(_seed_of(s.seed, epoch, position))
        stages: dict[str, Tensor] | None = {} if s.auxiliary_weight else None
        logits = self._logits(example, stages)
        without_bag = replace(example, bag=None)  # type: ignore[arg-type]
        if self.is_cox:
            self._graphs[position % s.accumulate] = logits
            return Answer(without_bag, logits.detach())
        loss = self.loss(logits, example)
        whole = loss
        if stages is not None and not self.is_survival:
            label = torch.tensor([example.label], device=logits.device)
            with self.fabric.autocast():
                extra = self.model.auxiliary_loss(stages, label)
            if extra is not None:
                weight = 1.0
                if self.class_weights is not None:
                    weight = float(self.class_weights[example.label])
                share = s.auxiliary_weight
                whole = (1 - share) * loss + share * weight * extra
        _refuse_no_number(whole, epoch, example.name)
        self.fabric.backward(whole / (s.loss_divisor * lot))
        return Answer(without_bag, logits.detach(), float(loss.detach()))

    def learn_lot(self, answers: Sequence[Answer], epoch: int) -> float:
        """Add the gradient of Cox's loss, which compares the patients of a lot.

        Answers of other processes are constants; each process differentiates its own, so that
        the gradients of all add up to that of the loss.
        """
        logits = [
            self._graphs.get(number, one.logits.to(self.device))
            for number, one in enumerate(answers)
        ]
        loss = cox_of([one.example for one in answers], logits)
        _refuse_no_number(loss, epoch, answers[-1].example.name)
        if self._graphs:
            self.fabric.backward(loss / self.settings.loss_divisor)
        self._graphs = {}
        return float(loss.detach())

    def answer(self, example: LabelledBag) -> Answer:
        """Ask the model without learning from it."""
        with torch.no_grad():
            logits = self._logits(example)
        return Answer(replace(example, bag=None), logits)  # type: ignore[arg-type]

    def loss(self, logits: Tensor, example: LabelledBag) -> Tensor:
        """Return the loss of one bag, every class counting as in training; not for Cox."""
        label = torch.tensor([example.label], device=logits.device)
        if self.is_survival:
            censored = torch.tensor([float(example.censored)], device=logits.device)
            kind = (
                losses.ce_survival if self.settings.survival_loss == "ce" else losses.nll_survival
            )
            return kind(logits[None], label, censored, self.settings.alpha)
        weights = self.class_weights
        return losses.classification(
            logits[None], label, None if weights is None else weights.to(logits.device)
        )

    def _logits(self, example: LabelledBag, stages: dict[str, Tensor] | None = None) -> Tensor:
        """Return ``(K,)`` logits of a bag, in full precision."""
        with named(example.name):
            inputs = self.aggregator.prepare(example.bag, self._run, keeps=True)
        kind = _DTYPE[self.settings.precision]
        # Not through Fabric's wrapper, which returns 64 bit numbers as 32 bit ones
        with self.fabric.autocast():
            output = self.model(
                inputs.features.to(kind), inputs.cells, inputs.canvas, stages=stages
            )
        return output.logits.to(kind)

    def vector(self) -> NDArray[np.floating]:
        """Return ``(P,)`` all trainable weights, one after the other."""
        return parameters_to_vector(self.weights).detach().cpu().numpy()

    def take_vector(self, vector: NDArray[np.floating]) -> None:
        """Take over the weights of another process."""
        vector_to_parameters(torch.from_numpy(vector).to(self.device), self.weights)

    def take_gradient(self) -> Gradient:
        """Return the gradient of the bags since the last call, and start at zero again."""
        present = tuple(weight.grad is not None for weight in self.weights)
        values = parameters_to_vector(
            [torch.zeros_like(w) if w.grad is None else w.grad for w in self.weights]
        )
        for weight in self.weights:
            weight.grad = None
        return Gradient(values.cpu().numpy(), present)

    def add_gradient(self, gradient: Gradient) -> None:
        """Add the gradient of another process to that of the bags seen here."""
        values = torch.from_numpy(gradient.values).to(self.device)
        parts = values.split([weight.numel() for weight in self.weights])
        for weight, part, is_there in zip(self.weights, parts, gradient.present, strict=True):
            if is_there:
                part = part.view_as(weight)
                weight.grad = part.clone() if weight.grad is None else weight.grad + part


def cox_of(examples: Sequence[LabelledBag], logits: Sequence[Tensor]) -> Tensor:
    """Return Cox's loss of patients; their bin stands in for a time that is not known."""
    risk = torch.stack([value[0] for value in logits])
    times = [e.label if e.time is None else e.time for e in examples]
    return losses.cox(
        risk,
        torch.tensor(times, dtype=torch.float64, device=risk.device),
        torch.tensor([not e.censored for e in examples], device=risk.device),
    )


def _refuse_no_number(loss: Tensor, epoch: int, name: str) -> None:
    if bool(torch.isfinite(loss)):
        return
    at = f" at slide {name}" if name else ""
    raise TrainingError(
        f"the loss is not a number any more in epoch {epoch + 1}{at}; lower the "
        "learning rate, clip gradients, or look for outliers in the features"
    )


def _seed_of(seed: int, epoch: int, position: int) -> int:
    """Return a seed for a bag of an epoch, far from those of others."""
    entropy = np.random.SeedSequence((seed, epoch, position))
    return int(entropy.generate_state(1, np.uint64)[0] >> 1)
