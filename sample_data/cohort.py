"""The synthetic slides that the demo checkpoints are trained and tested on.

Even seeds have no tumour; odd ones have some, from specks to nearly half of the tissue. The
only labels used are of whole slides: tumour or not, and a made-up survival time.
"""

from dataclasses import dataclass

import numpy as np

from sample_data.tissue_plan import SlideRecipe

FIRST_SEED = 1000
"""Far from the seed of the sample slide."""

N_BINS = 4
BIN_EDGES = (1.0, 2.5, 5.0)
"""Years that part the time bins of the survival demo."""


def recipe_of(seed: int) -> SlideRecipe:
    """Return the recipe of a slide of the cohort."""
    rng = np.random.default_rng([seed, 3])
    share = float(np.exp(rng.uniform(np.log(0.03), np.log(0.45)))) if seed % 2 else 0.0
    width, height = 256 * int(rng.integers(8, 13)), 256 * int(rng.integers(8, 13))
    return SlideRecipe(seed, width, height, share, pieces=int(rng.integers(1, 3)))


@dataclass(frozen=True)
class Outcome:
    """A made-up follow-up: years to the event, or to censoring."""

    years: float
    censored: bool

    @property
    def time_bin(self) -> int:
        """Index of the time bin, 0 to `N_BINS` - 1."""
        return int(np.searchsorted(BIN_EDGES, self.years, side="right"))


def outcome_of(recipe: SlideRecipe) -> Outcome:
    """Return an outcome whose hazard grows with the extent of the tumour.

    The event comes at a rate of ``0.08 * exp(9 * tumour_share)`` a year (0.08 without tumour,
    3 at 40 %); follow-up ends between 3 and 9 years.
    """
    rng = np.random.default_rng([recipe.seed, 5])
    event = rng.exponential(1.0 / (0.08 * np.exp(9.0 * recipe.tumour_share)))
    end = rng.uniform(3.0, 9.0)
    return Outcome(float(min(event, end)), bool(event > end))
