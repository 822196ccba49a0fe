"""Whole settings by name: what was published, and what is recommended."""

from dataclasses import dataclass, field, replace
from typing import Any

from napari_2dmamba.errors import TrainingError
from napari_2dmamba.training.settings import FitSettings

PRESETS = ("recommended", "published")

_PAPERS_SECOND_LOSS = {"clam": 0.3, "dsmil": 0.5, "dtfd": 0.5}
"""Share of the second loss as each model's own paper weights it."""

_SEES_CANVAS = ("2dmamba",)

PUBLISHED_SURVIVAL_OUTPUTS = 8
"""Published survival models have 8 outputs, of which the 4 time bins use the first 4."""


@dataclass(frozen=True)
class Preset:
    """Settings of the training, and options of the model.

    Attributes
    ----------
    fit
        How it is fitted.
    config
        Options of the architecture that differ from its defaults.
    outputs
        Survival: how many outputs; None for one per time bin.
    needs_canvas
        Whether the model is trained on the canvas that holds every slide of the table.
    bins_of_all
        Whether the edges of time bins follow from all patients, tested ones included.
    """

    fit: FitSettings
    config: dict[str, Any] = field(default_factory=dict)
    outputs: int | None = None
    needs_canvas: bool = False
    bins_of_all: bool = False


def preset(name: str, architecture: str, kind: str) -> Preset:
    """Return a preset for an architecture and a kind of task.

    ``published`` is the training of the 2DMamba repository, which trained the models it compares
    with alike: AdamW without shuffling, 20 epochs, one step per slide, weights drawn anew after
    construction, the canvas of the largest slide, attention over background too.

    Raises
    ------
    TrainingError
        For a name that is none.
    """
    if name == "published":
        fit = FitSettings(
            epochs=20,
            learning_rate=1e-4,
            weight_decay=1e-5,
            schedule="constant" if kind == "survival" else "cosine",
            accumulate=1,
            patience=0,
            clip=0.0,
            class_weights=False,
            order="given",
            loss_divisor=32.0 if kind == "survival" else 1.0,
            auxiliary_weight=0.3 if architecture == "clam" else 0.0,
            keep_dt=False,
        )
        canvas = architecture in _SEES_CANVAS
        config = {"canvas_mode": "checkpoint", "attention_over": "all"} if canvas else {}
        outputs = PUBLISHED_SURVIVAL_OUTPUTS if kind == "survival" else None
        return Preset(fit, config, outputs, canvas, bins_of_all=True)
    if name != "recommended":
        raise TrainingError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    fit = FitSettings()
    if kind != "survival":
        fit = replace(fit, auxiliary_weight=_PAPERS_SECOND_LOSS.get(architecture, 0.0))
    own = {"canvas_mode": "slide", "attention_over": "tissue"}
    return Preset(fit, own if architecture in _SEES_CANVAS else {})
