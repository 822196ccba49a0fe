"""Losses of the published training, one bag at a time."""

import torch
from torch import Tensor
from torch.nn import functional

from napari_2dmamba.training.bags import LabelledBag


def nll_survival(
    logits: Tensor, label: Tensor, censored: Tensor, alpha: float = 0.0, eps: float = 1e-7
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
    hazards = torch.sigmoid(logits)
    survival = torch.cumprod(1 - hazards, dim=1)
    survival_before = torch.cat([torch.ones_like(survival[:, :1]), survival[:, :-1]], dim=1)

    def log_at_label(probability: Tensor) -> Tensor:
        return probability.gather(1, label[:, None])[:, 0].clamp(min=eps).log()

    censored = censored.to(logits.dtype)
    seen = -(1 - censored) * (log_at_label(survival_before) + log_at_label(hazards))
    unseen = -censored * log_at_label(survival)
    return (seen + (1 - alpha) * unseen).mean()


def loss_of(task: str, logits: Tensor, example: LabelledBag) -> Tensor:
    """Return the scalar loss of the logits ``(K,)`` of one bag."""
    label = torch.tensor([example.label], device=logits.device)
    if task == "survival":
        censored = torch.tensor([float(example.censored)], device=logits.device)
        return nll_survival(logits[None], label, censored)
    return functional.cross_entropy(logits[None], label)
