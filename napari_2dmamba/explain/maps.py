"""Every map by its name, for the command line, the widget and exports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import UserError
from napari_2dmamba.explain import (
    contribution,
    counterfactual,
    faithfulness,
    provenance,
    receptive_field,
)
from napari_2dmamba.explain import rollout as stack
from napari_2dmamba.explain.display import PATCH_DISPLAY, DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.outcome import Target
from napari_2dmamba.explain.provenance import Channels, Provenance, Through
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.models.architecture import Architecture
from napari_2dmamba.settings import ProgressCallback, StopCallback


@dataclass(frozen=True)
class MapRequest:
    """What a map is asked for.

    Attributes
    ----------
    subject
        The model and the bag.
    patch
        The query, for maps that have one.
    target
        What maps of the answer explain.
    layer
        Up to which layer of the model maps of a patch go, as an index; -1 is the last.
    channels
        How provenance makes one number of the channels of a scan.
    on_progress, should_stop
        See `settings`.
    """

    subject: Subject
    patch: int
    target: Target = None
    layer: int = -1
    channels: Channels = "absolute"
    on_progress: ProgressCallback | None = None
    should_stop: StopCallback | None = None


@dataclass(frozen=True)
class NamedMap:
    """A kind of map.

    Attributes
    ----------
    question
        The question it answers.
    at_patch
        Whether it is about one patch (or else about the slide).
    compute
        Makes it.
    title
        What lists call it; None keeps it out of the list of *Inspect*.
    terms
        What the terms of the title mean, where it has any.
    display
        How it is shown at first.
    why_not
        Says why a model has no such map; None if it has, or if only computing it can tell.
    """

    question: str
    at_patch: bool
    compute: Callable[[MapRequest], GridMap]
    title: str | None = None
    terms: str = ""
    display: DisplaySettings | None = None
    why_not: Callable[[Architecture], str | None] = lambda model: None

    @property
    def first_display(self) -> DisplaySettings:
        """How the map is shown at first, also where `display` leaves it open."""
        return self.display or (PATCH_DISPLAY if self.at_patch else _SLIDE_DISPLAY)


_SLIDE_DISPLAY = DisplaySettings(opacity=0.65, clear_at_zero=True)


AVERAGED = 16
"""Patches of the tissue that an average receptive field is the mean of."""


def average_of(asked: MapRequest, patches: Sequence[int] | None = None) -> NDArray[np.float64]:
    """Return the average receptive field of patches, or of the tissue: see `average_field`."""
    return receptive_field.average_field(
        asked.subject, patches, count=AVERAGED, layer=asked.layer,
        on_progress=asked.on_progress, should_stop=asked.should_stop,
    )  # fmt: skip


def averaged_words(subject: Subject, patches: Sequence[int] = ()) -> str:
    """Say whose receptive fields an average is of, with these patches inspected."""
    if len(patches) > 1:
        return f"the {len(patches)} inspected patches"
    return f"{min(AVERAGED, len(subject))} patches of the tissue"


def _average(asked: MapRequest) -> GridMap:
    return receptive_field.lay_on_patch(
        asked.subject, average_of(asked), asked.patch, averaged_words(asked.subject)
    )


def _erf(asked: MapRequest, measure: receptive_field.Measure = "jacobian") -> GridMap:
    return receptive_field.receptive_field(
        asked.subject, asked.patch, layer=asked.layer, measure=measure,
        on_progress=asked.on_progress, should_stop=asked.should_stop,
    )  # fmt: skip


def _provenance(asked: MapRequest, through: Through = "state") -> GridMap:
    return Provenance(asked.subject).on(
        asked.patch, layer=asked.layer, through=through, channels=asked.channels
    )


def _integrated(asked: MapRequest) -> GridMap:
    return contribution.integrated_gradients(
        asked.subject, asked.target, on_progress=asked.on_progress, should_stop=asked.should_stop
    ).map


def _decisive(asked: MapRequest) -> GridMap:
    goal: counterfactual.Goal = "halve" if asked.subject.header.task == "survival" else "flip"
    return counterfactual.smallest_set(
        asked.subject, goal, target=asked.target, on_progress=asked.on_progress,
        should_stop=asked.should_stop,
    ).map  # fmt: skip


def _spread(asked: MapRequest, under: Callable[..., faithfulness.Stability]) -> GridMap:
    return under(asked.subject, on_progress=asked.on_progress, should_stop=asked.should_stop).spread


_LRP = "LRP: layer-wise relevance propagation"

MAPS: dict[str, NamedMap] = {
    "provenance": NamedMap(
        "where did the state of this patch come from, in one scan?",
        True,
        _provenance,
        "Provenance: where its state came from",
        why_not=provenance.why_not,
    ),
    "provenance-gate": NamedMap(
        "the same through skip connection and gate?",
        True,
        lambda a: _provenance(a, "gate"),
        "Provenance through gate and skip",
        why_not=provenance.why_not,
    ),
    "provenance-projection": NamedMap(
        "the same through the output projection?",
        True,
        lambda a: _provenance(a, "projection"),
        "Provenance through the output projection",
        why_not=provenance.why_not,
    ),
    "feeds": NamedMap(
        "which patches does this one feed, in one scan?",
        True,
        lambda a: Provenance(a.subject).feeds(a.patch, layer=a.layer, channels=a.channels),
        "Feeds: where its input goes",
        why_not=provenance.why_not,
    ),
    "rollout": NamedMap(
        "where did it come from through all layers, step sizes and gates held?",
        True,
        lambda a: stack.rollout(
            a.subject,
            a.patch,
            layer=a.layer,
            on_progress=a.on_progress,
            should_stop=a.should_stop,
        ),
        "Provenance through all layers (rollout)",
        why_not=stack.why_not,
    ),
    "state-relevance": NamedMap(
        "which share has each patch in this one's state?",
        True,
        lambda a: stack.state_relevance(a.subject, a.patch, layer=a.layer),
        "Relevance to its state (LRP)",
        _LRP,
        why_not=stack.why_not,
    ),
    "erf": NamedMap(
        "on which patches does this one's output depend?",
        True,
        _erf,
        "Receptive field (ERF)",
        "ERF, effective receptive field: the norm of the Jacobian, which is how much this "
        "patch's output changes with the features of each patch",
    ),
    "erf-average": NamedMap(
        "on what around it does a patch of this slide depend on average?",
        True,
        _average,
        "Receptive field, mean over tissue",
        "The mean of the receptive fields (ERF) of patches spread over the tissue",
    ),
    "erf-figure": NamedMap(
        "the same as receptive fields are usually drawn?",
        True,
        lambda a: _erf(a, "figure"),
        "Receptive field, drawn as in papers",
        display=receptive_field.FIGURE_DISPLAY,
    ),
    "slide-erf": NamedMap(
        "on which patches does the slide's answer depend?",
        False,
        lambda a: receptive_field.slide_field(a.subject, a.target),
        "Receptive field of the answer",
    ),
    "gradient-x-input": NamedMap(
        "which patches speak for, which against, by one gradient?",
        False,
        lambda a: contribution.gradient_times_input(a.subject, a.target).map,
        "Contribution: gradient x input",
    ),
    "integrated-gradients": NamedMap(
        "which patches speak for, which against, so that it adds up?",
        False,
        _integrated,
        "Contribution: integrated gradients",
    ),
    "relevance": NamedMap(
        "which patches speak for, which against, step sizes and gates held?",
        False,
        lambda a: stack.slide_relevance(a.subject, a.target),
        "Contribution: relevance (LRP)",
        _LRP,
        why_not=stack.why_not,
    ),
    "decisive": NamedMap("without which few patches is the answer another one?", False, _decisive),
    "stability-turns": NamedMap(
        "how much does the attention change when the grid is flipped and rotated?",
        False,
        lambda a: _spread(a, faithfulness.stability_under_turns),
        "Unsteady under flips and rotations",
    ),
    "stability-dropout": NamedMap(
        "how much does the attention change when patches are left out?",
        False,
        lambda a: _spread(a, faithfulness.stability_under_dropout),
        "Unsteady when patches are left out",
    ),
}
"""By name; "decisive" has no title, for it takes a search, which has a button of its own."""


def check_names(names: Sequence[str]) -> None:
    """Refuse names that are no maps.

    Raises
    ------
    UserError
        Naming what there is.
    """
    unknown = [name for name in names if name not in MAPS]
    if unknown:
        raise UserError(f"there is no map {unknown[0]!r}; choose from {', '.join(MAPS)}")


def compute_maps(asked: MapRequest, names: Sequence[str]) -> dict[str, GridMap]:
    """Compute maps by name.

    Raises
    ------
    UserError
        For unknown names, and where the model cannot give a map.
    Cancelled
        When ``should_stop()`` said so.
    """
    check_names(names)
    return {name: MAPS[name].compute(asked) for name in names}
