"""Contribution of every patch to a class, a time bin or the risk: signed maps.

``gradient_times_input``
    ``sum over features of (f - b) * dF/df`` at the slide's own features f: one backward pass;
    exact for a linear model only (Simonyan et al. 2014; Shrikumar et al. 2017).
``integrated_gradients``
    the same gradient averaged on the straight way from a baseline b to f (Sundararajan et al.,
    ICML 2017, arXiv 1703.01365). The map adds up to ``F(f) - F(b)``; how nearly is reported.

F is the logit of a class or time bin, or the risk. The baseline is a feature vector that every
patch has: zeros, or the mean of the bag (a slide of the same tissue everywhere). Networks that
divide by a norm change abruptly near zero features, where sums converge slowly: integrated
gradients start from the mean unless told otherwise.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from napari_2dmamba.errors import BackendError, Cancelled
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.outcome import Target, resolve, target_value, words_of
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.settings import ProgressCallback, StopCallback

Baseline = Literal["zero", "mean"]


@dataclass(frozen=True)
class Contribution:
    """A signed map and whether it adds up.

    Attributes
    ----------
    map
        Contribution of every patch: positive speaks for the target, negative against.
    total
        Sum over all patches.
    expected
        ``F(features) - F(baseline)``: what a complete attribution adds up to.
    """

    map: GridMap
    total: float
    expected: float

    @property
    def error(self) -> float:
        """``|total - expected|`` as a share of ``|expected|``."""
        return abs(self.total - self.expected) / max(abs(self.expected), 1e-12)

    @property
    def verdict(self) -> str:
        """Say in a sentence whether the map can be read as a sum."""
        if self.error <= 0.05:
            return (
                f"The patches' contributions add up to {self.total:.3g}, and the model's answer "
                f"differs from the baseline's by {self.expected:.3g}: they may be read as parts "
                "of it."
            )
        return (
            f"The patches' contributions add up to {self.total:.3g}, but the model's answer "
            f"differs from the baseline's by {self.expected:.3g}: read signs and ranks, not "
            "amounts; integrated gradients with more steps come closer."
        )


def gradient_times_input(
    subject: Subject, target: Target = None, *, baseline: Baseline = "zero"
) -> Contribution:
    """Return gradient times (input minus baseline), summed over features."""
    features = subject.features.detach().requires_grad_()
    start = _baseline(subject, baseline)
    logits = subject.run(features).logits
    chosen = resolve(logits, subject.header, target)
    value = target_value(logits, subject.header, chosen)
    (gradient,) = torch.autograd.grad(value, features, allow_unused=True, materialize_grads=True)
    scores = ((subject.features - start) * gradient).sum(1)
    return _contribution(subject, scores, target, chosen, start, "gradient x input", "")


def integrated_gradients(
    subject: Subject,
    target: Target = None,
    *,
    baseline: Baseline = "mean",
    steps: int = 32,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Contribution:
    """Return integrated gradients by captum, with Gauss-Legendre points.

    Raises
    ------
    BackendError
        When captum, an optional extra, is not installed.
    Cancelled
        When ``should_stop()`` said so.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise BackendError(
            "integrated gradients need captum, which is not installed; run "
            'pip install "napari-2dmamba[explain]", or choose gradient x input'
        ) from error
    with torch.no_grad():
        chosen = resolve(subject.run().logits, subject.header, target)
    start = _baseline(subject, baseline)
    done = 0

    def forward(features: Tensor) -> Tensor:
        # captum puts the points of the way on the batch axis; a bag is one element of it
        nonlocal done
        if should_stop is not None and should_stop():
            raise Cancelled
        value = target_value(subject.run(features[0]).logits, subject.header, chosen)
        done += 1
        if on_progress is not None:
            on_progress(min(done, steps), steps, "Integrated gradients")
        return value[None]

    found = IntegratedGradients(forward).attribute(
        subject.features.detach()[None],
        baselines=start.expand_as(subject.features)[None],
        n_steps=steps,
        method="gausslegendre",
        internal_batch_size=1,
    )
    return _contribution(
        subject, found[0].detach().sum(1), target, chosen, start, "integrated gradients",
        f", {steps} steps",
    )  # fmt: skip


def _baseline(subject: Subject, baseline: Baseline) -> Tensor:
    """Return the feature vector ``(1, D)`` that the way starts from."""
    if baseline == "mean":
        return subject.features.mean(0, keepdim=True)
    if baseline == "zero":
        return torch.zeros_like(subject.features[:1])
    raise ValueError(f"the baseline is {baseline!r}, but must be zero or mean")


def _contribution(
    subject: Subject,
    scores: Tensor,
    target: Target,
    chosen: int | Literal["risk"],
    start: Tensor,
    name: str,
    how: str,
) -> Contribution:
    with torch.no_grad():
        ends = [
            float(target_value(subject.run(f).logits, subject.header, chosen))
            for f in (subject.features, start.expand_as(subject.features).contiguous())
        ]
    grid_map = subject.map_of_patches(
        scores,
        name,
        f"contribution of each patch to {words_of(subject.header, chosen)}: positive for, "
        f"negative against ({name}{how})",
        signed=True,
        quantity=f"part of {words_of(subject.header, chosen)}",
    )
    return Contribution(grid_map, float(scores.double().sum()), ends[0] - ends[1])
