"""Colours for patches by their features alone: alike patches look alike, no model is asked."""

import numpy as np
from numpy.typing import NDArray

_SAMPLE = 512
_FEWEST = 4
_CLIP = (2.0, 98.0)  # percentiles that become the ends of a colour
_DARKEST, _BRIGHTEST = 40, 245
_PLAIN = 150


class FeatureColours:
    """Red, green and blue are the first three principal components of the features so far.

    Features are brought to mean 0 and standard deviation 1 first. The components are found
    anew whenever the number of patches has doubled, from at most 512 of them, and keep signs
    and order as far as possible, so that colours move little while patches arrive. Until four
    patches are there, they are grey.

    Parameters
    ----------
    patches
        N, how many there will be.

    Attributes
    ----------
    rgba
        ``(N, 4)`` uint8; clear where a patch has not come, or is left out.
    count
        How many patches have come, those left out too.
    """

    def __init__(self, patches: int) -> None:
        self.rgba = np.zeros((patches, 4), np.uint8)
        self.count = 0
        self._features: list[NDArray[np.float32]] = []
        self._places: list[NDArray[np.int64]] = []
        self._next_fit = _FEWEST
        self._axes: tuple[NDArray, NDArray] | None = None  # offset (3,), directions (D, 3)

    def add(self, first: int, features: NDArray[np.float32], kept: NDArray[np.bool_]) -> None:
        """Take in the features ``(B, D)`` of the patches from ``first`` on.

        Parameters
        ----------
        kept
            ``(B,)``; patches where it is False stay clear.
        """
        self.count += len(features)
        places = first + np.flatnonzero(kept)
        self._features.append(features[kept])
        self._places.append(places)
        known = sum(map(len, self._places))
        if known < self._next_fit:
            self._paint(places, features[kept])
            return
        self._next_fit = 2 * known
        everything = np.concatenate(self._features)
        self._fit(everything[np.linspace(0, known - 1, min(known, _SAMPLE)).astype(int)])
        self._paint(np.concatenate(self._places), everything)

    def _fit(self, sample: NDArray[np.float32]) -> None:
        mean, spread = sample.mean(0), sample.std(0)
        scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-8)
        _, _, directions = np.linalg.svd((sample - mean) * scale, full_matrices=False)
        found = np.zeros((sample.shape[1], 3), np.float32)
        found[:, : len(directions)] = directions[:3].T * scale[:, None]
        scores = (sample - mean) @ found
        if self._axes is None:
            strongest = found[np.abs(found).argmax(0), range(3)]
            found *= np.where(strongest < 0, -1.0, 1.0)
        else:
            before = sample @ self._axes[1] - self._axes[0]
            likeness = (before - before.mean(0)).T @ scores  # (before, now)
            from scipy.optimize import linear_sum_assignment  # for half a second

            _, order = linear_sum_assignment(-np.abs(likeness))
            signs = np.sign(likeness[range(3), order])
            found = found[:, order] * np.where(signs < 0, -1.0, 1.0)
        scores = sample @ found
        low, high = np.percentile(scores, _CLIP, axis=0)
        width = np.maximum(high - low, 1e-6)
        self._axes = low / width, found / width

    def _paint(self, places: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        self.rgba[places, 3] = 255
        if self._axes is None:
            self.rgba[places, :3] = _PLAIN
            return
        offset, directions = self._axes
        shares = np.clip(features @ directions - offset, 0.0, 1.0)
        self.rgba[places, :3] = np.rint(_DARKEST + shares * (_BRIGHTEST - _DARKEST))
