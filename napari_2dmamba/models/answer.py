"""From the logits of a network to its answer: the only place that makes probabilities of them.

A network of one logit (the published DSMIL and IBMIL for two classes, and everything trained with
a binary cross entropy) states the log-odds z of its positive class. Its answer has two classes
all the same: their logits are ``(0, z)``, whose softmax is ``(1 - sigmoid(z), sigmoid(z))`` and
whose cross entropy is the binary one.

A survival network of one logit is a Cox model: the logit is the logarithm of a hazard relative to
a baseline that the model does not know. It is the risk, and of hazards and survival nothing is
known.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_2dmamba.models.prediction import is_cox

Task = Literal["classification", "survival"]


@dataclass(frozen=True)
class Answer:
    """What a model says of a slide.

    Attributes
    ----------
    logits
        ``(K,)`` float64, one per class or time bin; ``(0, z)`` for a network of one logit z.
    probabilities
        ``(K,)``; None for survival.
    hazards, survival
        ``(K,)`` discrete hazards sigmoid(logits) and ``cumprod(1 - hazards)``; None for
        classification and Cox models.
    risk
        ``-sum(survival)``, or the logit of a Cox model; None for classification.
    """

    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None = None
    hazards: NDArray[np.float64] | None = None
    survival: NDArray[np.float64] | None = None
    risk: float | None = None


def class_logits(logits: Tensor) -> Tensor:
    """Return one logit per class, ``(..., K)``; of a single one z, ``(0, z)``.

    The softmax of the result are the probabilities, and its cross entropy with the class is the
    loss. Logits of survival models do not belong here.
    """
    if logits.shape[-1] != 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=-1)


def answer_of(logits: Tensor, task: str) -> Answer:
    """Return what the logits ``(K,)`` of a network mean, in float64."""
    logits = logits.detach().double().cpu()
    if task != "survival":
        logits = class_logits(logits)
        return Answer(logits.numpy(), probabilities=torch.softmax(logits, dim=0).numpy())
    if is_cox(task, len(logits)):
        return Answer(logits.numpy(), risk=float(logits[0]))
    hazards = torch.sigmoid(logits)
    survival = torch.cumprod(1 - hazards, dim=0)
    return Answer(
        logits.numpy(),
        hazards=hazards.numpy(),
        survival=survival.numpy(),
        risk=-float(survival.sum()),
    )
