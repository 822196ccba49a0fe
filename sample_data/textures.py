"""Fibres, grain and nuclei: the small things a synthetic slide is painted from.

Everything here is a function of a fixed seed and is made once per process, then shared by all
slides; slides differ in where and how they use it.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

Array = NDArray[np.float32]

BANK_SEED = 20241200678
TEXTURE_SIDE = 1024
"""Side of the periodic textures, in level-0 pixels."""

SHAPES_PER_KIND = 40
ANGLES = 16


def smooth_noise(
    shape: tuple[int, int], scale: float, rng: np.random.Generator, octaves: int = 1
) -> Array:
    """Return noise of mean 0 and standard deviation 1 whose bumps are about `scale` px wide.

    Each further octave halves both scale and strength.
    """
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        width = scale / 2.0**octave
        step = max(1.0, width / 12.0)
        coarse = tuple(int(np.ceil(side / step)) + 3 for side in shape)
        field = rng.standard_normal(coarse, dtype=np.float32)
        field = gaussian_filter(field, 0.42 * width / step, mode="wrap", truncate=3.0)
        field *= 0.5**octave / max(float(field.std()), 1e-6)
        rows, cols = (np.arange(side) / step for side in shape)
        total += interpolate(field, rows, cols) if step > 1.0 else field[: shape[0], : shape[1]]
    return (total - total.mean()) / max(float(total.std()), 1e-6)


def interpolate(field: Array, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> Array:
    """Return a field at the crossings of fractional rows and columns, linearly interpolated."""
    row, col = (
        np.clip(at, 0, side - 1.001).astype(np.intp)
        for at, side in zip((rows, cols), field.shape, strict=True)
    )
    down = np.clip(rows - row, 0, 1).astype(np.float32)[:, None]
    right = np.clip(cols - col, 0, 1).astype(np.float32)
    part = field[row[0] : row[-1] + 2]
    wide = part[:, col]
    wide += (part[:, col + 1] - wide) * right
    row = row - row[0]
    tall = wide[row]
    tall += (wide[row + 1] - tall) * down
    return tall


@dataclass(frozen=True)
class Textures:
    """Periodic textures, each `TEXTURE_SIDE` px square.

    Attributes
    ----------
    fibres
        Wavy collagen, 0 (gap) to 1 (fibre).
    direction
        Angle of the fibres in radians, on the same pixels.
    grain, mottle
        Fine and coarse cytoplasm noise, mean 0 and standard deviation 1.
    """

    fibres: Array
    direction: Array
    grain: Array
    mottle: Array


@cache
def textures() -> Textures:
    """Return the shared textures."""
    rng = np.random.default_rng(BANK_SEED)
    side = TEXTURE_SIDE

    def periodic(sigma: float) -> Array:
        field = gaussian_filter(
            rng.standard_normal((side, side)).astype(np.float32), sigma, mode="wrap"
        )
        return field / field.std()

    direction = 0.75 * periodic(95.0) + 0.28 * periodic(36.0)
    fine = _along(periodic(0.9), direction, reach=24)
    coarse = _along(periodic(3.2)[::2, ::2], direction[::2, ::2], reach=32)
    coarse = zoom(coarse, 2, order=1, mode="grid-wrap", grid_mode=True)
    mixed = 0.55 * fine / fine.std() + 0.75 * coarse / coarse.std()
    fibres = 1.0 / (1.0 + np.exp(-1.7 * mixed / mixed.std()))
    grain = periodic(0.8) + 0.6 * periodic(1.8)
    return Textures(fibres.astype(np.float32), direction, grain / grain.std(), periodic(7.0))


def _along(field: Array, direction: Array, reach: int, step: float = 2.0) -> Array:
    """Average a periodic field along a field of directions (line integral convolution)."""
    side = len(field)
    start_y, start_x = np.indices(field.shape, dtype=np.float32)
    total = field.copy()
    for sign in (1.0, -1.0):
        y, x = start_y.copy(), start_x.copy()
        for _ in range(int(reach / step)):
            at = (y.astype(np.int32) % side, x.astype(np.int32) % side)
            angle = direction[at]
            y += sign * step * np.sin(angle)
            x += sign * step * np.cos(angle)
            total += field[y.astype(np.int32) % side, x.astype(np.int32) % side]
    return total


@dataclass(frozen=True)
class NucleusKind:
    """How one kind of nucleus looks, lengths in px of 0.5 µm.

    Attributes
    ----------
    long, short
        Mean half axes.
    spread
        Relative standard deviation of the half axes.
    irregularity
        Relative depth of dents and bulges of the outline.
    haematoxylin
        Mean strength of the stain (natural optical density).
    clumping
        Relative strength of chromatin clumps.
    rim
        How much darker the membrane is than the inside.
    nucleolus
        Chance of a nucleolus.
    """

    long: float
    short: float
    spread: float
    irregularity: float
    haematoxylin: float
    clumping: float
    rim: float
    nucleolus: float


KINDS = {
    "epithelial": NucleusKind(7.4, 5.0, 0.10, 0.03, 0.78, 0.22, 0.30, 0.10),
    "tumour": NucleusKind(10.4, 7.4, 0.22, 0.10, 0.92, 0.40, 0.34, 0.6),
    "spindle": NucleusKind(12.0, 2.9, 0.22, 0.05, 0.95, 0.20, 0.10, 0.0),
    "lymphocyte": NucleusKind(5.9, 5.5, 0.08, 0.04, 1.28, 0.30, 0.12, 0.0),
    "flat": NucleusKind(8.0, 2.6, 0.12, 0.03, 0.95, 0.15, 0.10, 0.0),
}


@dataclass(frozen=True)
class Stamp:
    """A small picture of one nucleus: coverage 0 to 1 and haematoxylin inside it."""

    alpha: Array
    haematoxylin: Array


@cache
def nucleus_stamps(kind: str) -> list[list[Stamp]]:
    """Return stamps ``[shape][angle]`` of a kind of `KINDS`; angle ``i`` is ``i * pi / ANGLES``.

    At angle 0 the long axis lies along x.
    """
    look = KINDS[kind]
    rng = np.random.default_rng([BANK_SEED, sorted(KINDS).index(kind)])
    return [_one_shape(look, rng) for _ in range(SHAPES_PER_KIND)]


def _one_shape(look: NucleusKind, rng: np.random.Generator) -> list[Stamp]:
    size = np.exp(look.spread * rng.standard_normal())
    stretch = np.exp(0.5 * look.spread * rng.standard_normal())
    long, short = look.long * size * stretch, look.short * size / stretch
    side = int(np.ceil(max(long, short) * (1.0 + 2.5 * look.irregularity))) + 3
    orders = np.arange(2, 7)
    depth = look.irregularity * rng.standard_normal(5) / np.sqrt(orders - 1)
    phase = rng.uniform(0, 2 * np.pi, 5)
    strength = look.haematoxylin * np.exp(0.13 * rng.standard_normal())
    chromatin = smooth_noise((2 * side + 1, 2 * side + 1), 4.5, rng, octaves=2)
    nucleoli = []
    if rng.random() < look.nucleolus:
        for _ in range(int(rng.integers(1, 3))):
            where = 0.4 * rng.uniform(-1, 1, 2) * (long, short)
            nucleoli.append((where, rng.uniform(1.2, 2.0)))

    stamps = []
    grid_y, grid_x = np.mgrid[-side : side + 1, -side : side + 1].astype(np.float32)
    for index in range(ANGLES):
        angle = index * np.pi / ANGLES
        u = grid_x * np.cos(angle) + grid_y * np.sin(angle)
        v = -grid_x * np.sin(angle) + grid_y * np.cos(angle)
        theta = np.arctan2(v / short, u / long)
        radius = 1.0 + np.sum(
            depth[:, None, None] * np.cos(orders[:, None, None] * theta + phase[:, None, None]), 0
        )
        inside = (radius - np.hypot(u / long, v / short)) * min(long, short)
        alpha = np.clip(inside + 0.5, 0, 1)
        rim = np.exp(-((inside - 1.0) ** 2) / 1.6)
        density = 1.0 + look.clumping * chromatin + look.rim * rim
        for (x, y), width in nucleoli:
            density += 0.7 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * width**2))
        stamps.append(
            Stamp(
                alpha.astype(np.float32),
                (strength * np.clip(density, 0.35, 2.2)).astype(np.float32),
            )
        )
    return stamps
