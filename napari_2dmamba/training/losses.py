"""Losses of slide-level models, in forms that stay exact for saturated logits."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from napari_2dmamba.models.answer import class_logits

SMALLEST_PROBABILITY = 1e-7
"""Published survival losses take no logarithm of less; beyond it there is no gradient."""

LOSSES = ("nll", "ce", "cox")
"""Losses for survival."""


def nll_survival(
    logits: Tensor,
    label: Tensor,
    censored: Tensor,
    alpha: float = 0.0,
    eps: float = SMALLEST_PROBABILITY,
) -> Tensor:
    """Negative log likelihood of discrete survival times (Zadeh and Schmid 2020).

    A patient whose event falls into bin k has survived the bins before and then has the event;
    a censored one is only known to have survived bin k too.

    Parameters
    ----------
    logits
        ``(batch, K)``; hazards are their sigmoid.
    label
        ``(batch,)`` int64, time bin of the event or of the censoring.
    censored
        ``(batch,)``, 1 where the event was not seen.
    alpha
        Weight taken from censored patients, 0 to 1.
    eps
        Smallest probability a logarithm is taken of.

    Returns
    -------
    Scalar, mean over the batch.
    """
    before, hazard, after = _log_probabilities(logits, label)
    floor = math.log(eps)
    censored = censored.to(logits.dtype)
    seen = -(1 - censored) * (before.clamp(min=floor) + hazard.clamp(min=floor))
    unseen = -censored * after.clamp(min=floor)
    return (seen + (1 - alpha) * unseen).mean()


def ce_survival(
    logits: Tensor,
    label: Tensor,
    censored: Tensor,
    alpha: float = 0.0,
    eps: float = SMALLEST_PROBABILITY,
) -> Tensor:
    """Cross entropy of "survived bin k", beside the likelihood of the event.

    The likelihood of patients with the event, and for all patients the cross entropy of having
    survived their bin, weighted ``alpha`` to ``1 - alpha``, as the published code has it; its
    first logarithm is of the probability plus `eps`, the others are of at least `eps`.

    Parameters
    ----------
    logits, label, censored, alpha, eps
        See `nll_survival`.
    """
    before, hazard, after = _log_probabilities(logits, label)
    floor, small = math.log(eps), logits.new_tensor(math.log(eps))
    censored = censored.to(logits.dtype)
    event = -(1 - censored) * (
        torch.logaddexp(before, small.expand_as(before)) + hazard.clamp(min=floor)
    )
    # In float64, as published numbers are: the difference from 1 is what cancels
    survival = torch.cumprod(1 - torch.sigmoid(logits.double()), dim=1)
    died = 1 - survival.gather(1, label[:, None])[:, 0].clamp(min=eps)
    log_died = died.clamp(min=torch.finfo(died.dtype).eps / 2).log().to(logits.dtype)
    entropy = -censored * after.clamp(min=floor) - (1 - censored) * log_died
    return ((1 - alpha) * entropy + alpha * event).mean()


def _log_probabilities(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log of: surviving the bins before the label, the hazard there, surviving that bin too.

    Sums of ``log(1 - sigmoid(x)) = log sigmoid(-x)`` are exact where a product of rounded
    probabilities is 0 or 1.
    """
    survival = torch.cumsum(functional.logsigmoid(-logits), dim=1)
    at = label[:, None]
    before = functional.pad(survival, (1, 0)).gather(1, at)[:, 0]
    hazard = functional.logsigmoid(logits).gather(1, at)[:, 0]
    return before, hazard, survival.gather(1, at)[:, 0]


def cox(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Negative Cox partial log likelihood, ties as Breslow has them.

    Parameters
    ----------
    risk
        ``(batch,)`` log relative hazards.
    time, event
        ``(batch,)`` times, and 1 where the event was seen.

    Returns
    -------
    Scalar, mean over the events; 0 (with a gradient of 0) for a batch without events.
    """
    at_risk = time[None, :] >= time[:, None]
    total = torch.where(at_risk, risk[None, :], -torch.inf).logsumexp(1)
    event = event.to(risk.dtype)
    return (event * (total - risk)).sum() / event.sum().clamp(min=1)


def classification(logits: Tensor, label: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross entropy of ``(batch, K)`` logits; of one logit per slide the binary one.

    Parameters
    ----------
    logits
        ``(batch, K)``; with ``K = 1`` it is the logit of class 1 against class 0.
    label
        ``(batch,)`` int64.
    class_weights
        ``(max(K, 2),)``, what a slide of each class counts.

    Returns
    -------
    Scalar, weighted mean of the batch: weights are not normalised within it.
    """
    each = functional.cross_entropy(class_logits(logits), label, reduction="none")
    if class_weights is not None:
        each = each * class_weights.to(logits.dtype)[label]
    return each.mean()
