"""The maps that can be asked for: what they are called, and how they are shown at first."""

from napari_2dmamba.explain.display import PATCH_DISPLAY, DisplaySettings
from napari_2dmamba.explain.maps import MAPS
from napari_2dmamba.explain.receptive_field import FIGURE_DISPLAY

OF_PATCH = {
    "provenance": "Provenance: where its state came from",
    "provenance-gate": "Provenance through gate and skip",
    "provenance-projection": "Provenance through the output projection",
    "feeds": "Feeds: where its input goes",
    "rollout": "Provenance through all layers (rollout)",
    "state-relevance": "Relevance to its state (LRP)",
    "erf": "Receptive field (ERF)",
    "erf-average": "Receptive field, mean over tissue",
    "erf-figure": "Receptive field, drawn as in papers",
}
OF_ANSWER = {
    "slide-erf": "Receptive field of the answer",
    "gradient-x-input": "Contribution: gradient x input",
    "integrated-gradients": "Contribution: integrated gradients",
    "relevance": "Contribution: relevance (LRP)",
    "stability-turns": "Unsteady under flips and rotations",
    "stability-dropout": "Unsteady when patches are left out",
}
TITLES = OF_PATCH | OF_ANSWER
"""What the list offers; the decisive patches have a button of their own."""

_EXPLAINED = {
    "erf": "ERF, effective receptive field: the norm of the Jacobian, which is how much this "
    "patch's output changes with the features of each patch",
    "erf-average": "The mean of the receptive fields (ERF) of patches spread over the tissue",
    "state-relevance": "LRP: layer-wise relevance propagation",
    "relevance": "LRP: layer-wise relevance propagation",
}


def tip(name: str) -> str:
    """Return the question a map answers, and what its title means."""
    question = MAPS[name].question
    return "\n".join(filter(None, (question, _EXPLAINED.get(name))))


STARTING = ("provenance", "erf")


def first_display(name: str) -> DisplaySettings:
    """Return how a map is shown at first."""
    if name == "erf-figure":
        return FIGURE_DISPLAY
    if MAPS[name].at_patch:
        return PATCH_DISPLAY
    return DisplaySettings(opacity=0.65, clear_at_zero=True)
