"""What a model is fitted to: a bag and what is known about its slide or patient."""

from dataclasses import dataclass

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.bag import FeatureBag


@dataclass(frozen=True)
class LabelledBag:
    """One training example; the label is of the slide, never of a patch.

    Attributes
    ----------
    bag
        Features of the slide.
    label
        Index of the class, or of the time bin of the event or censoring.
    censored
        Survival only: the event was not seen.
    time
        Survival only: time of the event or censoring, in any unit; for the concordance index.
        The bin stands in for it when None.
    """

    bag: FeatureBag
    label: int
    censored: bool = False
    time: float | None = None


def check_labels(examples: list[LabelledBag], n_outputs: int) -> None:
    """Refuse labels that are not one of a model's outputs.

    Raises
    ------
    FeatureError
        Naming the first wrong label.
    """
    for position, example in enumerate(examples):
        if not 0 <= example.label < n_outputs:
            raise FeatureError(
                f"bag {position} has label {example.label}, but the model has {n_outputs} "
                f"outputs, so labels must be 0 to {n_outputs - 1}"
            )
