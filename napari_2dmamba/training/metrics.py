"""How good predictions are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from napari_2dmamba.beside_torchvision import import_beside_torchvision
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.training.bags import LabelledBag
from napari_2dmamba.training.losses import loss_of

_CLASSIFICATION = "torchmetrics.functional.classification"  # slow to import


@dataclass(frozen=True)
class Scores:
    """Scores on a set of bags; None where a score has no meaning for the task or the labels.

    Attributes
    ----------
    loss
        Mean cross entropy or survival likelihood.
    accuracy
        Share of slides whose most probable class is right.
    auroc
        Area under the ROC curve; macro average of one class against the rest.
    concordance
        Harrell's C of the risk.
    """

    loss: float
    accuracy: float | None = None
    auroc: float | None = None
    concordance: float | None = None


def score(
    aggregator: Aggregator, examples: Sequence[LabelledBag], settings: ModelSettings | None = None
) -> Scores:
    """Predict every bag, by the same call as everywhere else, and score the predictions."""
    predictions = [aggregator.predict(example.bag, settings) for example in examples]
    task = aggregator.header.task
    losses = [
        float(loss_of(task, torch.from_numpy(prediction.logits), example))
        for prediction, example in zip(predictions, examples, strict=True)
    ]
    loss = float(np.mean(losses))
    labels = np.array([example.label for example in examples])
    if task == "survival":
        times = [e.label if e.time is None else e.time for e in examples]
        risks = [p.risk for p in predictions if p.risk is not None]
        events = [not example.censored for example in examples]
        return Scores(loss, concordance=concordance_index(risks, times, events))
    probabilities = np.stack([p.probabilities for p in predictions if p.probabilities is not None])
    accuracy = float((probabilities.argmax(axis=1) == labels).mean())
    return Scores(loss, accuracy=accuracy, auroc=class_auroc(probabilities, labels))


def class_auroc(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Return the AUROC, macro average of one class against the rest.

    Parameters
    ----------
    probabilities
        ``(n, K)``.
    labels
        ``(n,)`` class indices.

    Returns
    -------
    None where a class is absent, so that it has no ROC curve.
    """
    classification = import_beside_torchvision(_CLASSIFICATION)
    scores = torch.as_tensor(np.asarray(probabilities), dtype=torch.float64)
    target = torch.as_tensor(np.asarray(labels), dtype=torch.int64)
    if len(torch.unique(target)) < scores.shape[1]:
        return None
    return float(
        classification.multiclass_auroc(
            scores, target, num_classes=scores.shape[1], average="macro"
        )
    )


def patch_auroc(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Return how well a score per patch finds the positive patches; None without both kinds."""
    classification = import_beside_torchvision(_CLASSIFICATION)
    target = torch.as_tensor(np.asarray(positive)).long()
    if target.min() == target.max():
        return None
    # torchmetrics puts scores outside 0..1 through a sigmoid, which rounds them together;
    # ranks keep their order and lie inside.
    values = np.asarray(scores, np.float64)
    _, rank = np.unique(values, return_inverse=True)
    return float(classification.binary_auroc(torch.from_numpy(rank / max(1, rank.max())), target))


def concordance_index(risk: ArrayLike, time: ArrayLike, event: ArrayLike) -> float | None:
    """Return Harrell's concordance index (Harrell et al., JAMA 247, 1982).

    A pair counts when the earlier of two times is an event; it agrees when the earlier one has
    the higher risk, and half when the risks are equal.

    Parameters
    ----------
    risk, time, event
        ``(n,)`` each; event is true where the event was seen.

    Returns
    -------
    0 to 1, or None when no pair can be compared.
    """
    risks, times = np.asarray(risk, np.float64), np.asarray(time, np.float64)
    comparable = (times[:, None] < times[None, :]) & np.asarray(event, bool)[:, None]
    difference = risks[:, None] - risks[None, :]
    agree = (difference > 0) + 0.5 * (difference == 0)
    pairs = int(comparable.sum())
    return float(agree[comparable].sum() / pairs) if pairs else None
