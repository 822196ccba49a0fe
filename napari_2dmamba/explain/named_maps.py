"""Every map by its name, for the command line, the widget and exports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from napari_2dmamba.errors import UserError
from napari_2dmamba.explain import contribution, counterfactual, faithfulness, receptive_field
from napari_2dmamba.explain import rollout as stack
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.outcome import Target
from napari_2dmamba.explain.provenance import Provenance
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.settings import ProgressCallback, StopCallback


@dataclass(frozen=True)
class Asked:
    """What a map is asked for.

    Attributes
    ----------
    subject
        The model and the bag.
    patch
        The query, for maps that have one.
    target
        What maps of the answer explain.
    on_progress, should_stop
        See `settings`.
    """

    subject: Subject
    patch: int
    target: Target = None
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
    """

    question: str
    at_patch: bool
    compute: Callable[[Asked], GridMap]


def _erf(asked: Asked, measure: receptive_field.Measure = "jacobian") -> GridMap:
    return receptive_field.receptive_field(
        asked.subject, asked.patch, measure=measure, on_progress=asked.on_progress,
        should_stop=asked.should_stop,
    )  # fmt: skip


def _integrated(asked: Asked) -> GridMap:
    return contribution.integrated_gradients(
        asked.subject, asked.target, on_progress=asked.on_progress, should_stop=asked.should_stop
    ).map


def _decisive(asked: Asked) -> GridMap:
    goal: counterfactual.Goal = "halve" if asked.subject.header.task == "survival" else "flip"
    return counterfactual.smallest_set(
        asked.subject, goal, target=asked.target, on_progress=asked.on_progress,
        should_stop=asked.should_stop,
    ).map  # fmt: skip


def _spread(asked: Asked, under: Callable[..., faithfulness.Stability]) -> GridMap:
    return under(asked.subject, on_progress=asked.on_progress, should_stop=asked.should_stop).spread


MAPS: dict[str, NamedMap] = {
    "provenance": NamedMap(
        "where did the state of this patch come from, in the last scan?",
        True,
        lambda a: Provenance(a.subject).on(a.patch),
    ),
    "provenance-gate": NamedMap(
        "the same through skip connection and gate?",
        True,
        lambda a: Provenance(a.subject).on(a.patch, through="gate"),
    ),
    "provenance-projection": NamedMap(
        "the same through the output projection?",
        True,
        lambda a: Provenance(a.subject).on(a.patch, through="projection"),
    ),
    "feeds": NamedMap(
        "which patches does this one feed, in the last scan?",
        True,
        lambda a: Provenance(a.subject).feeds(a.patch),
    ),
    "rollout": NamedMap(
        "where did it come from through all layers, step sizes and gates held?",
        True,
        lambda a: stack.rollout(
            a.subject, a.patch, on_progress=a.on_progress, should_stop=a.should_stop
        ),
    ),
    "state-relevance": NamedMap(
        "which share has each patch in this one's state?",
        True,
        lambda a: stack.state_relevance(a.subject, a.patch),
    ),
    "erf": NamedMap("on which patches does this one's output depend?", True, _erf),
    "erf-figure": NamedMap(
        "the same as receptive fields are usually drawn?", True, lambda a: _erf(a, "figure")
    ),
    "slide-erf": NamedMap(
        "on which patches does the slide's answer depend?",
        False,
        lambda a: receptive_field.slide_field(a.subject, a.target),
    ),
    "gradient-x-input": NamedMap(
        "which patches speak for, which against, by one gradient?",
        False,
        lambda a: contribution.gradient_times_input(a.subject, a.target).map,
    ),
    "integrated-gradients": NamedMap(
        "which patches speak for, which against, so that it adds up?", False, _integrated
    ),
    "relevance": NamedMap(
        "which patches speak for, which against, step sizes and gates held?",
        False,
        lambda a: stack.slide_relevance(a.subject, a.target),
    ),
    "decisive": NamedMap("without which few patches is the answer another one?", False, _decisive),
    "stability-turns": NamedMap(
        "how much does the attention change when the grid is flipped and rotated?",
        False,
        lambda a: _spread(a, faithfulness.stability_under_turns),
    ),
    "stability-dropout": NamedMap(
        "how much does the attention change when patches are left out?",
        False,
        lambda a: _spread(a, faithfulness.stability_under_dropout),
    ),
}


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


def compute_maps(asked: Asked, names: Sequence[str]) -> dict[str, GridMap]:
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
