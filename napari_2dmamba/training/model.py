"""A fresh model for a task."""

import dataclasses
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from napari_2dmamba.errors import TrainingError
from napari_2dmamba.models import Aggregator, CheckpointHeader
from napari_2dmamba.models.checkpoint import build_model
from napari_2dmamba.models.prediction import UNUSED
from napari_2dmamba.models.registry import architecture
from napari_2dmamba.tasks.bags import FeatureKind
from napari_2dmamba.tasks.table import Table
from napari_2dmamba.training.presets import Preset

SMALLEST_DT, LARGEST_DT = 1e-3, 0.1
"""Range of the scan's step sizes at the start (Gu and Dao 2023)."""


def new_aggregator(
    name: str,
    table: Table,
    features: FeatureKind,
    preset: Preset,
    *,
    config: dict[str, Any] | None = None,
    class_names: dict[str, str] | None = None,
    intended_use: str = "",
    edges: list[float] | None = None,
) -> Aggregator:
    """Build an untrained model for a table.

    Parameters
    ----------
    name
        Of the architecture.
    table, features
        What is learnt, and from what.
    preset
        Its seed draws the weights.
    config
        Options of the architecture that replace those of the preset.
    class_names
        Names for people of the table's labels.
    intended_use
        Stated wherever the model's results are shown.
    edges
        Survival: edges of the time bins; None for Cox.

    Raises
    ------
    CheckpointError
        For an unknown architecture, or options it does not take.
    TrainingError
        When the preset needs a canvas that is not known, or names of classes are unknown or given
        twice.
    """
    survival = table.kind == "survival"
    labels: tuple[str, ...] = ()
    if survival:
        names = _bin_names(edges, preset.outputs)
    else:
        called = class_names or {}
        unknown = [label for label in called if label not in table.classes]
        if unknown:
            raise TrainingError(
                f"{unknown[0]!r} is given a name, but is no label of the table "
                f"({', '.join(table.classes)})"
            )
        names = tuple(called.get(label, label) for label in table.classes)
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise TrainingError(f"two classes are called {twice[0]!r}; give each a name of its own")
        labels = table.classes
    if preset.needs_canvas and features.canvas is None:
        raise TrainingError(
            "the canvas of the largest slide is not known; check the features first"
        )
    kind = architecture(name)
    told: dict[str, Any] = {"kind": table.kind, "seen": []}
    told |= {"time_bins": edges} if survival and edges is not None else {}
    told |= {"labels": list(labels)} if labels and labels != names else {}
    header = CheckpointHeader(
        architecture=kind.name,
        config={
            "feature_size": features.feature_size,
            "n_outputs": len(names),
            **preset.config,
            **(config or {}),
        },
        task="survival" if survival else "classification",
        class_names=names,
        encoder=features.encoder,
        patch_size=features.patch_size,
        mpp=features.mpp,
        canvas=features.canvas if preset.needs_canvas else None,
        training=told,
        intended_use=intended_use,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.fit.seed)
        model = build_model(header)
        if preset.fit.keep_dt:
            start_step_sizes(model)
    header = dataclasses.replace(header, config=dataclasses.asdict(model.config))
    return Aggregator(model, header)


def start_step_sizes(model: nn.Module) -> None:
    """Draw what makes the step sizes of every selective scan, as Mamba does.

    Biases are such that the first step sizes lie evenly, on a logarithmic scale, between
    `SMALLEST_DT` and `LARGEST_DT`; weights are uniform within the inverse root of the rank.
    """
    for name, part in model.named_modules():
        if not (isinstance(part, nn.Linear) and name.rpartition(".")[2].startswith("dt_proj")):
            continue
        nn.init.uniform_(part.weight, -(part.in_features**-0.5), part.in_features**-0.5)
        low, high = math.log(SMALLEST_DT), math.log(LARGEST_DT)
        with torch.no_grad():
            dt = torch.exp(low + (high - low) * torch.rand(part.out_features))
            part.bias.copy_(inverse_softplus(dt))


def inverse_softplus(values: Tensor) -> Tensor:
    """Return x with ``softplus(x)`` the values, without overflow."""
    return values + torch.log(-torch.expm1(-values))


def class_weights_of(labels: list[int], classes: int) -> Tensor:
    """Return ``(classes,)`` weights under which every class that is there counts alike.

    Their mean over the slides is 1.
    """
    counts = torch.bincount(torch.tensor(labels), minlength=classes).double()
    present = (counts > 0).sum()
    weights = len(labels) / (present * counts.clamp(min=1))
    return torch.where(counts > 0, weights, torch.zeros_like(weights))


def _bin_names(edges: list[float] | None, outputs: int | None) -> tuple[str, ...]:
    if edges is None:
        return ("relative risk (Cox)",)
    inner = [0.0, *edges[1:-1]]
    for digits in (6, 9, 12, 17):  # as many as tell the edges apart
        said = [f"{edge:.{digits}g}" for edge in inner]
        if len(set(said)) == len(said):
            break
    names = [f"{low} to {high}" for low, high in itertools.pairwise(said)]
    names.append(f"from {said[-1]} on")
    spare = (outputs or len(names)) - len(names)
    return (*names, *(f"{UNUSED}{number + 1}" for number in range(spare)))
