"""Resample a piece of a slide to a patch: the mean over each output pixel's own area."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


@lru_cache(maxsize=256)
def area_weights(source: int, start: float, length: float, size: int) -> sparse.csr_array:
    """Return ``(size, source)`` float32 weights, rows adding up to one.

    Output pixel ``i`` covers ``[start + i * length / size, start + (i + 1) * length / size)`` of
    the source. Shrinking, it is the mean over exactly that interval; enlarging, where an
    interval is less than a pixel, it interpolates linearly between pixel centres. Beyond the
    source the edge pixel repeats.
    """
    step = length / size
    edges = start + step * np.arange(size + 1)
    # Enlarging, a window one pixel wide around the centre gives linear interpolation
    low, high = edges[:-1], edges[1:]
    if step < 1:
        centre = (low + high) / 2
        low, high = centre - 0.5, centre + 0.5
    first = np.floor(low + 1e-9).astype(int)
    width = int((np.ceil(high - 1e-9).astype(int) - first).max())
    pixels = first[:, None] + np.arange(width)
    overlap = np.minimum(high[:, None], pixels + 1) - np.maximum(low[:, None], pixels)
    overlap = np.clip(overlap, 0, None)
    overlap[overlap < 1e-9] = 0
    overlap /= overlap.sum(1, keepdims=True)
    rows = np.repeat(np.arange(size), width)
    columns = np.clip(pixels, 0, source - 1).ravel()
    weights = sparse.coo_array(
        (overlap.astype(np.float32).ravel(), (rows, columns)), shape=(size, source)
    ).tocsr()
    weights.eliminate_zeros()
    return weights


def resample(
    pixels: NDArray[np.uint8], box: tuple[float, float, float, float], size: int
) -> NDArray[np.uint8]:
    """Return ``(size, size, C)`` of the box ``(x, y, width, height)`` of ``(h, w, C)`` pixels."""
    x, y, width, height = box
    h, w, channels = pixels.shape
    if (width, height) == (size, size) and x == int(x) and y == int(y):
        x, y = int(x), int(y)
        return pixels[y : y + size, x : x + size]
    down = area_weights(h, y, height, size) @ pixels.reshape(h, w * channels).astype(np.float32)
    turned = down.reshape(size, w, channels).transpose(1, 0, 2).reshape(w, size * channels)
    both = (area_weights(w, x, width, size) @ turned).reshape(size, size, channels)
    return (both.transpose(1, 0, 2) + 0.5).astype(np.uint8)
