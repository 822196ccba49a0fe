"""Paint a planned slide: optical densities of the stains, then light, blur and noise."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from sample_data.textures import TEXTURE_SIDE, Array, interpolate, nucleus_stamps, textures
from sample_data.tissue_plan import KIND_NAMES, MAP, MPP, Gland, SlideRecipe, TissuePlan, plan_slide

TILE = 256
BLOCK = 512
"""Side of the blocks a slide is painted in, a multiple of the tile."""

MARGIN = 8
"""Pixels painted around a block so that blur does not see its border."""


@dataclass(frozen=True)
class Stain:
    """Colour of one slide: absorption of each stain in R, G, B, and the light behind it."""

    haematoxylin: Array
    eosin: Array
    red_cell: Array
    light: Array

    @classmethod
    def of(cls, seed: int) -> "Stain":
        """Return the stain of a slide: hue and strength vary as between laboratories."""
        rng = np.random.default_rng([seed, 7])

        def vector(red: float, green: float, blue: float, strength: float) -> Array:
            colour = np.array([red, green, blue]) + 0.025 * rng.standard_normal(3)
            colour = np.clip(colour, 0.02, None)
            return (strength * colour / np.linalg.norm(colour)).astype(np.float32)

        return cls(
            vector(0.62, 0.69, 0.37, np.exp(0.10 * rng.standard_normal())),
            vector(0.14, 0.87, 0.44, np.exp(0.12 * rng.standard_normal())),
            vector(0.06, 0.83, 0.62, 1.0),
            (np.array([243.0, 242.0, 244.0]) + rng.uniform(-4, 3, 3)).astype(np.float32),
        )


class SyntheticSlide:
    """A painted slide, rendered block by block.

    Parameters
    ----------
    recipe
        What to paint.
    """

    def __init__(self, recipe: SlideRecipe) -> None:
        self.recipe = recipe
        self.plan: TissuePlan = plan_slide(recipe)
        self.stain = Stain.of(recipe.seed)

    def truth(self, downsample: int) -> NDArray[np.bool_]:
        """Return where tumour is; pixel ``(i, j)`` covers `downsample` x `downsample` px.

        A pixel is true where at least half of its map samples are tumour on tissue.
        """
        step = downsample // MAP
        tumour = (self.plan.tumour > 0) & (self.plan.tissue > 0)
        rows, cols = tumour.shape
        cells = tumour.reshape(rows // step, step, cols // step, step)
        return cells.mean((1, 3)) >= 0.5

    def blocks(self) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """Yield ``(y, x, rgb)`` for the whole slide, row by row."""
        for y in range(0, self.recipe.height, BLOCK):
            for x in range(0, self.recipe.width, BLOCK):
                height = min(BLOCK, self.recipe.height - y)
                yield y, x, self.region(y, x, height, min(BLOCK, self.recipe.width - x))

    def pixels(self) -> NDArray[np.uint8]:
        """Return the whole slide as ``(height, width, 3)``."""
        picture = np.empty((self.recipe.height, self.recipe.width, 3), np.uint8)
        for y, x, rgb in self.blocks():
            picture[y : y + rgb.shape[0], x : x + rgb.shape[1]] = rgb
        return picture

    def region(self, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return RGB pixels of a region in level-0 coordinates."""
        window = _Window(self.plan, y - MARGIN, x - MARGIN, height + 2 * MARGIN, width + 2 * MARGIN)
        stains = (np.zeros(window.shape, np.float32),) * 3 if window.empty else _paint(window)
        cut = [_blur(stain)[MARGIN : MARGIN + height, MARGIN : MARGIN + width] for stain in stains]
        rng = np.random.default_rng([self.recipe.seed, 11, y, x])
        # Glass is kept calm: its noise would be most of the file.
        noise = rng.standard_normal((height, width), dtype=np.float32)
        noise *= np.where(cut[0] + cut[1] + cut[2] > 0.05, np.float32(1.2), np.float32(0.2))
        rgb = np.empty((height, width, 3), np.uint8)
        colours = zip(self.stain.haematoxylin, self.stain.eosin, self.stain.red_cell, strict=True)
        for channel, absorption in enumerate(colours):
            density = sum(a * stain for a, stain in zip(absorption, cut, strict=True))
            light = self.stain.light[channel] * np.exp(-density) + noise
            rgb[..., channel] = np.clip(light + 0.5, 0, 255)
        return rgb


_BLUR = np.exp(-0.5 * (np.arange(-2, 3) / 0.85) ** 2).astype(np.float32)
_BLUR /= _BLUR.sum()


def _blur(field: Array) -> Array:
    """Blur as a lens does, standard deviation 0.85 px; two pixels at each border are left."""
    out = field.copy()
    out[2:-2] = sum(w * field[k : len(field) - 4 + k] for k, w in enumerate(_BLUR))
    field, width = out.copy(), field.shape[1]
    out[:, 2:-2] = sum(w * field[:, k : width - 4 + k] for k, w in enumerate(_BLUR))
    return out


class _Window:
    """The maps of a plan on the pixels of one region."""

    def __init__(self, plan: TissuePlan, y: int, x: int, height: int, width: int) -> None:
        self.plan, self.y, self.x, self.shape = plan, y, x, (height, width)
        self._rows = (np.arange(y, y + height) + 0.5) / MAP - 0.5
        self._cols = (np.arange(x, x + width) + 0.5) / MAP - 0.5
        self.tissue = self.map(plan.tissue)
        self.empty = bool(self.tissue.max() < -6)

    def map(self, field: Array) -> Array:
        """Return a map on the pixels of the region, linearly interpolated."""
        return interpolate(field, self._rows, self._cols)

    def texture(self, bank: Array, dy: Array, dx: Array) -> Array:
        """Return a periodic texture read at shifted positions."""
        rows = np.arange(self.shape[0], dtype=np.int32)[:, None] + np.int32(self.y)
        cols = np.arange(self.shape[1], dtype=np.int32) + np.int32(self.x)
        # The side is a power of two, so that the mask is the remainder.
        row = (rows + dy.astype(np.int32)) & (TEXTURE_SIDE - 1)
        col = (cols + dx.astype(np.int32)) & (TEXTURE_SIDE - 1)
        return bank.ravel()[row * TEXTURE_SIDE + col]


def _soft(signed: Array, width: float = 1.0) -> Array:
    """Return coverage 0 to 1 of a signed distance, over a border of `width` px."""
    return np.clip(signed / width + 0.5, 0, 1)


def _paint(window: _Window) -> tuple[Array, Array, Array]:
    """Return the amounts of haematoxylin, eosin and blood pigment."""
    plan, bank = window.plan, textures()
    dy, dx = window.map(plan.shift[0]), window.map(plan.shift[1])
    grain = window.texture(bank.grain, 0.3 * dx, 0.3 * dy)
    mottle = window.texture(bank.mottle, dx, dy)
    fibres = window.texture(bank.fibres, dy, dx)
    tumour, nest = window.map(plan.tumour), window.map(plan.nest)
    looseness = window.map(plan.looseness)

    desmoplasia = _soft(tumour + 10, 60)
    eosin = 0.34 + 0.27 * fibres + 0.03 * grain + 0.04 * mottle
    eosin *= 1.0 - 0.22 * desmoplasia
    haematoxylin = 0.035 + 0.02 * fibres + desmoplasia * (0.05 + 0.02 * mottle)
    # Collagen parts along its fibres where the stroma is loose.
    if looseness.max() > 0.2:
        torn = _soft(0.04 + 0.14 * looseness - fibres, 0.16) * _soft(looseness - 0.6, 0.8)
        eosin *= 1.0 - 0.92 * torn
        haematoxylin *= 1.0 - 0.92 * torn
    wall = window.map(plan.fat_wall)
    if wall.max() > -0.9:
        fat = _soft(wall + 0.5, 0.5)
        membrane = np.exp(-(np.maximum(wall, 0) ** 2) / 5.0) * 0.42 + 0.015
        eosin += fat * (membrane - eosin)
        haematoxylin += fat * (membrane * 0.12 - haematoxylin)
    blood = np.zeros_like(eosin)

    if nest.max() > -4:
        body = _soft(nest, 2.0)
        cytoplasm = 0.30 + 0.05 * grain + 0.06 * mottle
        rim = np.exp(-((nest + 2.5) ** 2) / 5.0)
        eosin = eosin * (1 - body) * (1 - 0.55 * rim) + body * cytoplasm
        haematoxylin = haematoxylin * (1 - body) + body * (0.24 + 0.04 * grain + 0.03 * mottle)
        lumen = window.map(plan.lumen)
        hole = _soft(lumen, 1.2)
        edge = np.exp(-((lumen + 0.4) ** 2) / 0.5)
        debris = 0.03 + np.clip(mottle - 0.4, 0, 1.5) * (0.13 + 0.05 * grain)
        eosin = eosin * (1 - hole) * (1 + 0.5 * edge) + hole * debris
        haematoxylin = haematoxylin * (1 - hole) + hole * debris * 0.5

    for gland in _near(window, plan.glands):
        _paint_gland(window, gland, haematoxylin, eosin, grain)
    _stamp_red_cells(window, blood)
    _stamp_nuclei(window, haematoxylin, eosin)

    present = _soft(window.tissue, 3.0) * window.map(plan.thickness)
    # Cut edges take up more eosin.
    eosin *= 1.0 + 0.35 * np.exp(-np.maximum(window.tissue, 0) / 18.0)
    return haematoxylin * present, eosin * present, blood * present


def _near(window: _Window, glands: list[Gland]) -> Iterator[Gland]:
    height, width = window.shape
    for gland in glands:
        reach = 1.4 * gland.radius + 6
        if (
            -reach < gland.y - window.y < height + reach
            and -reach < gland.x - window.x < width + reach
        ):
            yield gland


def _paint_gland(
    window: _Window, gland: Gland, haematoxylin: Array, eosin: Array, grain: Array
) -> None:
    reach = int(1.4 * gland.radius) + 6
    cy, cx = round(gland.y) - window.y, round(gland.x) - window.x
    part = np.s_[max(0, cy - reach) : max(0, cy + reach), max(0, cx - reach) : max(0, cx + reach)]
    h, e, noise = haematoxylin[part], eosin[part], grain[part]
    y, x = np.indices(h.shape, dtype=np.float32)
    dy = y + part[0].start + window.y - gland.y
    dx = x + part[1].start + window.x - gland.x
    theta, radius = np.arctan2(dy, dx), np.hypot(dx, dy)
    distance = gland.outline(theta) - radius
    body = _soft(distance, 1.5)
    inner = distance - gland.wall
    if gland.vessel:
        layers = 0.5 + 0.5 * np.sin(distance * 0.9 + 3 * theta + noise)
        wall_e, wall_h = 0.50 + 0.16 * layers, np.full_like(noise, 0.05)
        content_e = np.full_like(noise, 0.02)
        lumen = _soft(inner, 1.5)
    else:
        # Secretory cytoplasm: purple at the base, pale and frothy towards the lumen.
        apical = np.clip(distance / gland.wall, 0, 1)
        wall_e = 0.30 - 0.08 * apical + 0.05 * noise
        wall_h = 0.20 * (1 - apical) + 0.06 + 0.02 * noise
        fringe = 1.6 * np.sin(theta * np.round(gland.radius / 3.2)) + 1.2 * noise
        lumen = _soft(inner + fringe, 2.0)
        content_e = np.clip(0.05 + 0.10 * np.cos(gland.phase[0]) + 0.03 * noise, 0.0, None)
        wall_e += 0.20 * np.exp(-((inner + fringe) ** 2) / 4.0)
    sleeve = np.exp(-((distance + 2.0) ** 2) / 6.0)
    e[:] = e * (1 - body) * (1 + 0.25 * sleeve) + body * ((1 - lumen) * wall_e + lumen * content_e)
    h[:] = h * (1 - body) + body * ((1 - lumen) * wall_h)


def _stamp_red_cells(window: _Window, blood: Array) -> None:
    cells = window.plan.red_cells - (window.x, window.y)
    height, width = window.shape
    offsets = np.arange(-8, 9, dtype=np.float32)
    disc = np.hypot(offsets[:, None], offsets[None, :])
    stamp = (np.clip(7.0 - disc, 0, 1) * (0.52 + 0.02 * disc)).astype(np.float32)
    for x, y in np.round(cells).astype(int):
        if 8 <= x < width - 8 and 8 <= y < height - 8:
            target = blood[y - 8 : y + 9, x - 8 : x + 9]
            np.maximum(target, stamp, out=target)


def _stamp_nuclei(window: _Window, haematoxylin: Array, eosin: Array) -> None:
    nuclei = window.plan.nuclei
    height, width = window.shape
    low, high = np.searchsorted(nuclei.y, [window.y - 40, window.y + height + 40])
    chosen = low + np.flatnonzero(
        (nuclei.x[low:high] > window.x - 40) & (nuclei.x[low:high] < window.x + width + 40)
    )
    banks = [nucleus_stamps(kind) for kind in KIND_NAMES]
    xs = np.round(nuclei.x[chosen]).astype(int) - window.x
    ys = np.round(nuclei.y[chosen]).astype(int) - window.y
    for index, x, y in zip(chosen.tolist(), xs.tolist(), ys.tolist(), strict=True):
        stamp = banks[nuclei.kind[index]][nuclei.shape[index]][nuclei.angle[index]]
        half = len(stamp.alpha) // 2
        top, left = max(0, y - half), max(0, x - half)
        bottom, right = min(height, y + half + 1), min(width, x + half + 1)
        if top >= bottom or left >= right:
            continue
        cut = np.s_[top - y + half : bottom - y + half, left - x + half : right - x + half]
        alpha = stamp.alpha[cut]
        h = haematoxylin[top:bottom, left:right]
        e = eosin[top:bottom, left:right]
        # Overlapping nuclei add a little, as they do in a section of finite thickness.
        h *= 1.0 - 0.72 * alpha
        h += alpha * stamp.haematoxylin[cut] * nuclei.strength[index]
        e *= 1.0 - 0.40 * alpha


def write_pyramid(path: Path, pixels: NDArray[np.uint8], quality: int = 70) -> None:
    """Write pixels as a pyramidal tiled JPEG TIFF that OpenSlide and tifffile both understand.

    Levels are plain pages, each half the one before, marked as reduced images; µm per pixel is
    stated by the resolution tags.
    """
    level, downsample = pixels, 1
    temporary = path.with_name(path.name + ".part")
    with tifffile.TiffWriter(temporary, bigtiff=False) as tiff:
        while True:
            per_cm = 1e4 / (MPP * downsample)
            tiff.write(
                level,
                photometric="rgb",
                tile=(TILE, TILE),
                compression="jpeg",
                compressionargs={"level": quality},
                subsampling=(2, 2),
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=0 if downsample == 1 else 1,
                metadata=None,
                software="napari-2dmamba sample_data/make.py",
                description="Synthetic H&E-like picture, not real tissue"
                if downsample == 1
                else None,
            )
            if min(level.shape[:2]) <= 2 * TILE:
                break
            level, downsample = halve(level), downsample * 2
    temporary.replace(path)


def halve(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels at half the size, each the mean of four; odd last rows are dropped."""
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    even = pixels[:height, :width]
    total = even[::2, ::2].astype(np.uint16)
    for part in (even[1::2, ::2], even[::2, 1::2], even[1::2, 1::2]):
        total += part
    return ((total + 2) // 4).astype(np.uint8)


def write_truth(path: Path, mask: NDArray[np.bool_], downsample: int = 16) -> None:
    """Write a mask as uint8, 255 on tumour; its resolution tags state µm per mask pixel."""
    per_cm = 1e4 / (MPP * downsample)
    temporary = path.with_name(path.name + ".part")
    tifffile.imwrite(
        temporary,
        np.where(mask, 255, 0).astype(np.uint8),
        compression="zlib",
        photometric="minisblack",
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    temporary.replace(path)
