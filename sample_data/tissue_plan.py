"""Where everything lies on a synthetic slide: tissue, fat, glands, tumour and every nucleus.

A plan holds coarse maps (one value per `MAP` x `MAP` level-0 pixels) and lists of objects in
level-0 pixels of 0.5 µm. It is all that `synthetic_slide` needs to paint any tile.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label
from scipy.spatial import cKDTree

from sample_data.textures import (
    ANGLES,
    KINDS,
    SHAPES_PER_KIND,
    TEXTURE_SIDE,
    Array,
    smooth_noise,
    textures,
)

MAP = 4
"""Side of a map pixel in level-0 pixels."""

MPP = 0.5
SMALLEST_FOCUS = 200
"""A focus of tumour has at least the area of a square of this side, in level-0 px."""

KIND_NAMES = tuple(KINDS)
HARMONICS = np.arange(2, 7)


@dataclass(frozen=True)
class SlideRecipe:
    """What distinguishes one synthetic slide from another.

    Attributes
    ----------
    seed
        Everything random follows from it.
    width, height
        Level-0 pixels, multiples of 256.
    tumour_share
        Share of the tissue that is tumour; 0 for none.
    pieces
        Number of tissue pieces.
    """

    seed: int
    width: int
    height: int
    tumour_share: float = 0.0
    pieces: int = 2

    def __post_init__(self) -> None:
        if self.width % 256 or self.height % 256 or min(self.width, self.height) < 256:
            raise ValueError(f"{self.width} x {self.height} is not a multiple of 256 pixels")
        if not 0.0 <= self.tumour_share <= 0.9:
            raise ValueError(f"tumour_share is {self.tumour_share}, but must be 0 to 0.9")


@dataclass(frozen=True)
class Gland:
    """A closed ring of cells (or of muscle, for a vessel) around a lumen.

    The outline is ``radius * (1 + sum(depth * cos(k * theta + phase)))`` around ``(x, y)``.
    """

    x: float
    y: float
    radius: float
    wall: float
    depth: Array
    phase: Array
    vessel: bool

    def outline(self, theta: Array) -> Array:
        """Return the outer radius in each direction."""
        waves = np.cos(HARMONICS * theta[..., None] + self.phase)
        return self.radius * (1.0 + waves @ self.depth)


@dataclass(frozen=True)
class Nuclei:
    """Every nucleus: centre in level-0 px, which stamp, and how strongly stained."""

    x: Array
    y: Array
    kind: NDArray[np.int8]
    shape: NDArray[np.int16]
    angle: NDArray[np.int8]
    strength: Array


@dataclass(frozen=True)
class TissuePlan:
    """A whole slide before it is painted.

    All maps are ``(height / MAP, width / MAP)``; distances are in level-0 pixels, positive
    inside.

    Attributes
    ----------
    tissue, tumour, nest
        Signed distance to the border of the tissue, of the tumour region and of the tumour's
        epithelial nests.
    lumen
        Positive in the holes of tumour nests.
    fat_wall
        Distance to the nearest wall between fat cells, 0 and below outside fat.
    thickness
        Section thickness, about 1.
    looseness
        How torn the stroma is, mean 0 and standard deviation 1.
    shift
        ``(2, h, w)``: where the periodic fibre texture is read, relative to the pixel.
    glands, nuclei, red_cells
        Objects; red blood cells are ``(N, 2)`` ``(x, y)``.
    """

    recipe: SlideRecipe
    tissue: Array
    tumour: Array
    nest: Array
    lumen: Array
    fat_wall: Array
    thickness: Array
    looseness: Array
    shift: Array
    glands: list[Gland]
    nuclei: Nuclei
    red_cells: Array


def plan_slide(recipe: SlideRecipe) -> TissuePlan:
    """Lay out a synthetic slide."""
    rng = np.random.default_rng(recipe.seed)
    shape = (recipe.height // MAP, recipe.width // MAP)
    tissue = _tissue(recipe, shape, rng)
    tumour = _tumour(recipe, tissue, rng)
    nest, lumen = _nests(tumour, tissue, rng)
    fat_wall, in_fat = _fat(shape, tissue, tumour, rng)
    warp = np.stack([smooth_noise(shape, 520.0, rng) for _ in range(2)])
    shift = 130.0 * warp + rng.uniform(0, TEXTURE_SIDE, (2, 1, 1)).astype(np.float32)
    looseness = smooth_noise(shape, 150.0, rng, octaves=2)
    thickness = 1.0 + 0.07 * smooth_noise(shape, 300.0, rng, octaves=2)

    taken = (tissue < 14) | in_fat | (tumour > -24)
    glands = _glands(taken, rng)
    occupied = _covered(glands, shape)
    nuclei, red_cells = _cells(
        rng, tissue, tumour, nest, lumen, in_fat, fat_wall, occupied, glands, shift
    )
    return TissuePlan(
        recipe, tissue, tumour, nest, lumen, fat_wall, thickness, looseness, shift,
        glands, nuclei, red_cells,
    )  # fmt: skip


def signed_distance(mask: NDArray[np.bool_]) -> Array:
    """Return the distance to the border of a mask in level-0 px, positive inside."""
    if not mask.any():
        return np.full(mask.shape, -1e4, np.float32)
    inside = distance_transform_edt(mask).astype(np.float32)
    outside = distance_transform_edt(~mask).astype(np.float32)
    return gaussian_filter(MAP * (inside - outside), 0.8)


def _tissue(recipe: SlideRecipe, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    rows, cols = shape
    y, x = np.indices(shape, dtype=np.float32)
    unit = float(min(rows, cols))
    rough = smooth_noise(shape, unit / 3.5, rng, octaves=4)
    level = np.full(shape, -1.0, np.float32)
    slots = rng.permutation(recipe.pieces)
    for piece in range(recipe.pieces):
        # Pieces stand side by side along the longer side, of different size and tilt.
        along = (slots[piece] + 0.5) / recipe.pieces
        size = 1.0 if piece == 0 else rng.uniform(0.55, 0.85)
        centre = np.array([0.5, along]) + rng.uniform(-0.04, 0.04, 2)
        half_x = 0.43 * size * cols / recipe.pieces
        half_y = rng.uniform(0.36, 0.41) * size * rows
        tilt = rng.uniform(-0.35, 0.35)
        dx, dy = x - centre[1] * cols, y - centre[0] * rows
        u = (dx * np.cos(tilt) + dy * np.sin(tilt)) / half_x
        v = (-dx * np.sin(tilt) + dy * np.cos(tilt)) / half_y
        bend = v + rng.uniform(-0.35, 0.35) * (u**2 - 0.4)
        level = np.maximum(level, 1.0 - (np.abs(u) ** 2.6 + np.abs(bend) ** 2.6) ** (1 / 2.6))
    margin = np.minimum(np.minimum(x, cols - 1 - x), np.minimum(y, rows - 1 - y))
    mask = (level + 0.10 * rough > 0) & (margin > 12)
    names, count = label(mask)
    sizes = np.bincount(names.ravel(), minlength=count + 1)
    sizes[0] = 0
    mask &= sizes[names] > 0.002 * mask.size
    tears = smooth_noise(shape, 110.0, rng, octaves=2) > 3.0
    frayed = signed_distance(mask & ~tears) + 7.0 * smooth_noise(shape, 16.0, rng, octaves=2)
    return frayed.astype(np.float32)


def _tumour(recipe: SlideRecipe, tissue: Array, rng: np.random.Generator) -> Array:
    """Choose one or two foci and grow them to the wanted share of the tissue."""
    if recipe.tumour_share == 0.0:
        return np.full(tissue.shape, -1e4, np.float32)
    inside = np.argwhere(tissue > 0)
    unit = float(np.sqrt(len(inside)))
    deep = np.argwhere(tissue > 0.35 * tissue.max())
    y, x = np.indices(tissue.shape, dtype=np.float32)
    reach = np.full(tissue.shape, np.inf, np.float32)
    for size in (1.0, rng.uniform(0.3, 0.6))[: 1 + int(rng.random() < 0.4)]:
        cy, cx = deep[rng.integers(len(deep))]
        reach = np.minimum(reach, np.hypot(y - cy, x - cx) / (unit * size))
    reach += 0.10 * smooth_noise(tissue.shape, unit / 4, rng, octaves=3)
    reach[tissue < 0] = np.inf
    threshold = np.quantile(reach[tissue > 0], recipe.tumour_share)
    names, count = label(reach < threshold)
    sizes = np.bincount(names.ravel(), minlength=count + 1)
    sizes[0] = 0
    # Specks are too small to hold a nest, and would be truth without tumour.
    return signed_distance(sizes[names] * MAP**2 > SMALLEST_FOCUS**2)


def _nests(tumour: Array, tissue: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Cut the tumour into crowded, irregular nests with slit-like and cribriform lumens."""
    nothing = np.full(tumour.shape, -1e4, np.float32)
    if tumour.max() < 0:
        return nothing, nothing
    rows, cols = (slice(a.min(), a.max() + 1) for a in np.nonzero(tumour > -20))
    part = (rows, cols)
    shape = tumour[part].shape
    # The absolute value of noise has thin valleys everywhere: stroma between packed nests.
    valley = np.abs(smooth_noise(shape, 40.0, rng) + 0.25 * smooth_noise(shape, 15.0, rng))
    wide = smooth_noise(shape, 190.0, rng)
    solid = valley > 0.24 + 0.10 * wide
    solid &= (tumour[part] > 4) & (tissue[part] > 6)
    distance = signed_distance(solid)
    hole = smooth_noise(shape, 20.0, rng) + 0.4 * smooth_noise(shape, 9.0, rng)
    open_here = 0.5 * smooth_noise(shape, 120.0, rng)
    lumen = np.minimum(13.0 * (hole + open_here - 0.85), distance - 24.0)
    nest_map, lumen_map = nothing.copy(), nothing.copy()
    nest_map[part], lumen_map[part] = distance, lumen
    return nest_map, lumen_map


def _fat(
    shape: tuple[int, int], tissue: Array, tumour: Array, rng: np.random.Generator
) -> tuple[Array, NDArray[np.bool_]]:
    """Fill lobules with round-cornered fat cells; whole cells only."""
    lobule = smooth_noise(shape, 330.0, rng, octaves=2)
    centres = _scatter(shape, 118.0, rng)
    cell_y, cell_x = (centres[:, 1] / MAP).astype(int), (centres[:, 0] / MAP).astype(int)
    is_fat = (lobule[cell_y, cell_x] > 0.85) & (tumour[cell_y, cell_x] < -50)
    is_fat &= tissue[cell_y, cell_x] > -10
    wall = np.full(shape, -1.0, np.float32)
    near = np.argwhere((lobule > 0.3) & (tissue > 0) & (tumour < 0))
    if len(near) and is_fat.any():
        points = (near[:, ::-1] + 0.5) * MAP
        distance, index = cKDTree(centres).query(points, k=3)
        second, third = (distance[:, k] - distance[:, 0] for k in (1, 2))
        # The harmonic mean rounds the corners where three cells meet.
        gap = 0.5 / (1.0 / (second + 1e-3) + 0.6 / (third + 1e-3))
        wall[near[:, 0], near[:, 1]] = np.where(is_fat[index[:, 0]], gap, -1.0)
    return wall, wall >= 0


def _scatter(shape: tuple[int, int], spacing: float, rng: np.random.Generator) -> Array:
    """Return jittered hexagonal points ``(N, 2)`` ``(x, y)`` over a map, in level-0 px."""
    height, width = shape[0] * MAP, shape[1] * MAP
    rows = np.arange(0.5 * spacing, height, spacing * 0.866)
    cols = np.arange(0.5 * spacing, width, spacing)
    x = cols[None, :] + 0.5 * spacing * (np.arange(len(rows)) % 2)[:, None]
    y = np.broadcast_to(rows[:, None], x.shape)
    points = np.stack([x, y], -1).reshape(-1, 2)
    points = (points + 0.27 * spacing * rng.standard_normal(points.shape)).astype(np.float32)
    inside = (points >= 0).all(1) & (points < (width, height)).all(1)
    return points[inside]


def _glands(taken: NDArray[np.bool_], rng: np.random.Generator) -> list[Gland]:
    """Throw glands in lobules, and a few vessels, where nothing else is."""
    free = ~taken
    lobule = smooth_noise(taken.shape, 260.0, rng, octaves=2)
    height, width = taken.shape
    glands: list[Gland] = []
    tries = int(taken.size / 130)
    radii = np.sort(np.exp(np.log(54.0) + 0.32 * rng.standard_normal(tries)))[::-1]
    for radius in radii:
        y, x = int(rng.integers(height)), int(rng.integers(width))
        vessel = rng.random() < 0.012
        if not free[y, x] or (lobule[y, x] < 0.1 and not vessel):
            continue
        radius *= 0.8 if vessel else 1.0
        reach = int(radius * rng.uniform(1.2, 1.45) / MAP) + 2
        window = np.s_[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        if not free[window].all():
            continue
        free[window] = False
        wall = rng.uniform(11, 17) if vessel else rng.uniform(22, 32)
        depth = (0.05 if vessel else 0.10) * rng.standard_normal(5) / (HARMONICS - 1)
        glands.append(
            Gland(
                x * MAP + 2.0,
                y * MAP + 2.0,
                radius,
                min(wall, 0.62 * radius),
                depth.astype(np.float32),
                rng.uniform(0, 2 * np.pi, 5).astype(np.float32),
                vessel,
            )
        )
    return glands


def _covered(glands: list[Gland], shape: tuple[int, int]) -> NDArray[np.bool_]:
    covered = np.zeros(shape, bool)
    for gland in glands:
        reach = int(gland.radius * 1.2 / MAP) + 1
        cy, cx = int(gland.y / MAP), int(gland.x / MAP)
        y0, x0 = max(0, cy - reach), max(0, cx - reach)
        window = covered[y0 : cy + reach + 1, x0 : cx + reach + 1]
        y, x = np.indices(window.shape, dtype=np.float32)
        dy, dx = (y + y0) * MAP - gland.y, (x + x0) * MAP - gland.x
        window |= np.hypot(dx, dy) < gland.outline(np.arctan2(dy, dx)) + 5
    return covered


class _NucleusList:
    """Collects nuclei kind by kind."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.parts: list[tuple[Array, ...]] = []

    def add(self, points: Array, kind: str, angle: Array | None, fade: float = 0.12) -> None:
        count = len(points)
        if angle is None:
            angle = self.rng.uniform(0, np.pi, count)
        index = np.round(np.asarray(angle) / np.pi * ANGLES).astype(int) % ANGLES
        strength = np.exp(fade * self.rng.standard_normal(count))
        self.parts.append(
            (
                points[:, 0],
                points[:, 1],
                np.full(count, KIND_NAMES.index(kind)),
                self.rng.integers(SHAPES_PER_KIND, size=count),
                index,
                strength,
            )
        )

    def finish(self) -> Nuclei:
        x, y, kind, shape, angle, strength = (
            np.concatenate(column) for column in zip(*self.parts, strict=True)
        )
        order = np.argsort(y, kind="stable")
        return Nuclei(
            x[order].astype(np.float32), y[order].astype(np.float32),
            kind[order].astype(np.int8), shape[order].astype(np.int16),
            angle[order].astype(np.int8), strength[order].astype(np.float32),
        )  # fmt: skip


def _cells(
    rng: np.random.Generator,
    tissue: Array,
    tumour: Array,
    nest: Array,
    lumen: Array,
    in_fat: NDArray[np.bool_],
    fat_wall: Array,
    occupied: NDArray[np.bool_],
    glands: list[Gland],
    shift: Array,
) -> tuple[Nuclei, Array]:
    """Put a nucleus where each kind of cell belongs."""
    shape = tissue.shape
    found = _NucleusList(rng)

    def at(points: Array, field: Array) -> Array:
        return field[(points[:, 1] / MAP).astype(int), (points[:, 0] / MAP).astype(int)]

    def keep(points: Array, share: float) -> Array:
        return points[rng.random(len(points)) < share]

    def fibre_angle(points: Array) -> Array:
        dy, dx = at(points, shift[0]), at(points, shift[1])
        bank = textures().direction
        row = (points[:, 1] + dy).astype(int) % TEXTURE_SIDE
        return bank[row, (points[:, 0] + dx).astype(int) % TEXTURE_SIDE] % np.pi

    # Fibroblasts lie along the fibres; tumour stroma is more cellular.
    points = _scatter(shape, 31.0, rng)
    stroma = (at(points, tissue) > 5) & ~at(points, in_fat | occupied) & (at(points, nest) < -4)
    active = at(points, tumour) > -20
    points = points[stroma & (rng.random(len(points)) < np.where(active, 0.85, 0.42))]
    found.add(points, "spindle", fibre_angle(points) + 0.15 * rng.standard_normal(len(points)))

    # Lymphocytes: a few everywhere, and crowds that normal slides have as well as tumours.
    crowd = smooth_noise(shape, 120.0, rng, octaves=2)
    points = _scatter(shape, 14.5, rng)
    free = (at(points, tissue) > 8) & ~at(points, in_fat | occupied) & (at(points, nest) < -3)
    dense = np.clip((at(points, crowd) - 2.05) * 1.6, 0, 0.85)
    dense = np.maximum(dense, np.where(at(points, tumour) > -60, 0.05, 0.012))
    points = points[free & (rng.random(len(points)) < dense)]
    found.add(points, "lymphocyte", None)

    # Fat cells have a flat nucleus here and there in their walls.
    points = _scatter(shape, 42.0, rng)
    points = keep(points[at(points, in_fat) & (at(points, fat_wall) < 4.0)], 0.30)
    found.add(points, "flat", None)

    red = [np.zeros((0, 2), np.float32)]
    for gland in glands:
        turn = 2 * np.pi * gland.radius
        count = max(6, int(turn / (26.0 if gland.vessel else 12.5)))
        theta = (np.arange(count) + 0.25 * rng.standard_normal(count)) * 2 * np.pi / count
        depth = gland.wall * (0.93 if gland.vessel else rng.normal(0.40, 0.09, count))
        reach = gland.outline(theta) - depth
        ring = np.stack([gland.x + reach * np.cos(theta), gland.y + reach * np.sin(theta)], 1)
        if gland.vessel:
            found.add(ring, "flat", theta + np.pi / 2)
            inner = max(gland.radius - gland.wall - 6, 0.0)
            fill = rng.uniform(-inner, inner, (int(0.035 * inner**2), 2))
            fill = fill[np.hypot(fill[:, 0], fill[:, 1]) < inner * 0.95]
            red.append((fill + np.array([gland.x, gland.y])).astype(np.float32))
        else:
            found.add(ring, "epithelial", theta + 0.12 * rng.standard_normal(count))
            some = theta[::3][rng.random(len(theta[::3])) < 0.75]
            outer = gland.outline(some) - 2.0
            basal = np.stack([gland.x + outer * np.cos(some), gland.y + outer * np.sin(some)], 1)
            found.add(basal, "flat", some + np.pi / 2)

    # Tumour nuclei crowd and overlap; at the rim of a nest they stand on it.
    points = _scatter(shape, 18.5, rng)
    inside = (at(points, nest) > 5) & (at(points, lumen) < -3.5)
    points = keep(points[inside], 0.94)
    gy, gx = np.gradient(gaussian_filter(nest, 2.0)) if len(points) else (nest, nest)
    angle = np.where(
        at(points, nest) < 26,
        np.arctan2(at(points, gy), at(points, gx)) + 0.3 * rng.standard_normal(len(points)),
        rng.uniform(0, np.pi, len(points)),
    )
    found.add(points, "tumour", angle % np.pi, fade=0.2)
    return found.finish(), np.concatenate(red)
