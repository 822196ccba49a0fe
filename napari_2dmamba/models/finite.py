"""Numbers that leave a model are numbers: what overflows inside it is an error, not an answer."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_2dmamba.errors import NotFiniteError
from napari_2dmamba.models.architecture import Architecture, ModelOutput

ADVICE = (
    "see that the features are those the model was trained on (their encoder, and no values that "
    "another program scaled), extract them again, or choose another checkpoint"
)


def require_finite(what: str, values: Tensor | NDArray[np.floating], where: str = "") -> None:
    """Refuse values of which any is infinite or not a number.

    Parameters
    ----------
    what
        Names them, such as ``"the attention"``.
    where
        What else is known of the place, as a clause.

    Raises
    ------
    NotFiniteError
        Saying which numbers, how many of them, and what to do.
    """
    if isinstance(values, Tensor):
        if bool(torch.isfinite(values).all()):
            return
        values = values.detach().double().cpu().numpy()
    broken = int((~np.isfinite(values)).sum())
    if broken:
        count = f"{broken} of {values.size} " if values.size > 1 else ""
        raise NotFiniteError(
            f"{count or 'the result: '}{what} {'are' if values.size > 1 else 'is'} no finite "
            f"number, so there is no answer{where}: {ADVICE}"
        )


def check_output(
    output: ModelOutput, model: Architecture, features: Tensor, again: Callable[..., object]
) -> None:
    """Refuse the output of a model when a number of it is not finite.

    Parameters
    ----------
    again
        Runs the model once more and takes ``stages``, to find the stage that broke.

    Raises
    ------
    NotFiniteError
        Naming the numbers, the first stage of the model that holds such, and how large the
        features and weights are.
    """
    mass = output.background_mass
    for what, values in (
        (f"logits of {model.title}", output.logits),
        (f"scores {model.title} gives the patches", output.scores),
        (f"the background attention of {model.title}", mass),
    ):
        if values is not None and not bool(torch.isfinite(values).all()):
            require_finite(what, values, _where(model, features, again))


def _where(model: Architecture, features: Tensor, again: Callable[..., object]) -> str:
    stages: dict[str, Tensor] = {}
    again(stages=stages)
    first = next((n for n, v in stages.items() if not bool(torch.isfinite(v).all())), None)
    stage = f"; the first such number is in its stage {first!r}" if first else ""
    weight = max(
        (float(w.detach().abs().max()) for w in model.parameters() if w.numel()), default=0
    )
    return (
        f" (numbers overflow in the model: features reach {float(features.abs().max()):.3g}, "
        f"weights {weight:.3g}{stage})"
    )
