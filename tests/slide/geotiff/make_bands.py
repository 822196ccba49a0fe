"""Pixels of the GeoTIFFs of this folder."""

import numpy as np


def bands(height: int, width: int, count: int, dtype: type, highest: int) -> np.ndarray:
    """Waves, a little different in each band."""
    y, x = np.mgrid[:height, :width]
    waves = [(np.sin(x / 9 + k) + np.cos(y / 7 - k) + 2) / 4 for k in range(count)]
    return (np.stack(waves) * highest).astype(dtype)
