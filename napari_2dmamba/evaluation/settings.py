"""How predictions are scored."""

from dataclasses import dataclass

from napari_2dmamba.settings import setting


@dataclass(frozen=True)
class EvaluationSettings:
    """How predictions are scored."""

    resamples: int = setting(
        1000,
        "Bootstrap samples of the patients that the intervals are made of, and permutations of "
        "comparisons; 0 makes none.",
        minimum=0,
        maximum=100_000,
    )
    level: float = setting(
        0.95, "Coverage the intervals aim at.", minimum=0.5, maximum=0.999, advanced=True
    )
    bootstrap_seed: int = setting(0, "Seed of the bootstrap.", minimum=0, advanced=True)
