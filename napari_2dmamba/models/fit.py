"""Whether features are those a model was trained on, by what both sides say of themselves."""

from typing import Protocol

MPP_TOLERANCE = 0.1
"""Relative difference up to which two resolutions count as one nominal magnification."""


class SaysOfFeatures(Protocol):
    """What a checkpoint expects, or a bag holds; None where it does not say.

    A `CheckpointHeader` and a `FeatureBag` are such, and what is known of either from its file
    alone.
    """

    @property
    def feature_size(self) -> int | None:
        """D, features per patch."""

    @property
    def encoder(self) -> str | None:
        """Name of the encoder."""

    @property
    def patch_size(self) -> int | None:
        """Side of a patch in pixels at `mpp`."""

    @property
    def mpp(self) -> float | None:
        """µm per pixel of the patches."""


def misfit(model: SaysOfFeatures, features: SaysOfFeatures) -> str | None:
    """Return why features do not suit a model, as a sentence with advice; None where they may."""
    expected, found = model.feature_size, features.feature_size
    if expected is not None and found is not None and expected != found:
        made_by = f" of encoder {features.encoder!r}" if features.encoder else ""
        wants = f" of encoder {model.encoder!r}" if model.encoder else ""
        return (
            f"the model expects {expected} features per patch{wants}, and these "
            f"features{made_by} have {found}; extract features with the encoder "
            "of the model, or choose a checkpoint trained on these"
        )
    for what, name, unit in _COMPARED:
        wanted, there = getattr(model, name), getattr(features, name)
        if wanted is None or there is None or _agree(name, wanted, there):
            continue
        return (
            f"the model was trained with {what} {wanted}{unit}, and these features "
            f"were made with {there}{unit}; extract features as the model expects, or "
            "choose a checkpoint trained on such features"
        )
    return None


def not_compared(model: SaysOfFeatures, features: SaysOfFeatures) -> tuple[str, ...]:
    """Return one sentence for each thing that `misfit` could not compare."""
    unknown = []
    for what, name, _ in _COMPARED:
        for side, says in (("the checkpoint", model), ("the feature file", features)):
            if getattr(says, name) is None:
                unknown.append(f"{side} does not state the {what}, so it was not compared")
                break
    return tuple(unknown)


_COMPARED = (
    ("encoder", "encoder", ""),
    ("patch size", "patch_size", " px"),
    ("resolution", "mpp", " µm/px"),
)


def _agree(name: str, wanted: object, there: object) -> bool:
    if isinstance(wanted, int | float) and isinstance(there, int | float) and name == "mpp":
        return abs(wanted - there) <= MPP_TOLERANCE * wanted
    return wanted == there
