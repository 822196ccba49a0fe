"""How alike two levels of a slide are, block by block: where blocks lie, and in which colours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_2dmamba.slide.backend import Level

BLOCK, _LEAST_BLOCK = 48, 16
"""Side of the blocks that are compared, in pixels of the coarser level."""
REACH = 3
"""Pixels of the coarser level around its place within which a block is looked for."""
_WINDOW = 256
"""Side of the windows in which blocks are looked for."""
_MOST_TILE = 1024
"""Tiles up to this side are looked at whole, for they are decoded anyway."""
_MOST_FINE_SIDE = 1024
"""Blocks get smaller where they would cover more pixels of the finer level."""
_LEAST_SPREAD = 4.0
"""Standard deviation, in grey levels of 255, from which a block tells one place from another."""
_LEAST_LEAD = 0.1
_PATCH = 8
"""Side of the squares whose mean colours are compared: single pixels differ by resampling."""
_MOST_CHANNELS = 8

Read = Callable[[int, int, int], NDArray[np.generic]]
"""``(level, row, column)`` to the stored tile ``(h, w, C)``, as `Backend.read_tile`."""


@dataclass(frozen=True)
class Block:
    """A square of a level, in grey, with its corner."""

    x: int
    y: int
    grey: NDArray[np.float32]


@dataclass(frozen=True)
class Match:
    """Where a block was found in the finer level: how well, and how far beside, in pixels."""

    likeness: float
    across: float
    down: float
    block: Block

    @property
    def shift(self) -> float:
        """How far beside its place."""
        return math.hypot(self.across, self.down)


class Mosaic:
    """Regions of a level, each tile of which is read once.

    Parameters
    ----------
    level, index, read
        The level, its number in the file, and what reads its tiles.
    like
        Take values on the scale of this level; else on its own.
    """

    def __init__(self, level: Level, index: int, read: Read, like: "Mosaic | None" = None) -> None:
        self.level, self._index, self._read = level, index, read
        self._tiles: dict[tuple[int, int], NDArray[np.generic]] = {}
        self._scale: tuple[float, float] | None = None
        self._like = like

    def pixels(self, x: int, y: int, width: int, height: int) -> NDArray[np.float32]:
        """Return ``(height, width, C)`` on a scale of 255; it must lie on the level."""
        step_x, step_y = self.level.tile_width, self.level.tile_height
        out: NDArray[np.generic] | None = None
        for row in range(y // step_y, (y + height - 1) // step_y + 1):
            for column in range(x // step_x, (x + width - 1) // step_x + 1):
                tile, top, left = self._tile(row, column), row * step_y, column * step_x
                if out is None:
                    out = np.zeros((height, width, tile.shape[-1]), tile.dtype)
                y0, y1 = max(y, top), min(y + height, top + tile.shape[0])
                x0, x1 = max(x, left), min(x + width, left + tile.shape[1])
                out[y0 - y : y1 - y, x0 - x : x1 - x] = tile[
                    y0 - top : y1 - top, x0 - left : x1 - left
                ]
        assert out is not None
        return self._on_scale(out)

    def region(self, x: int, y: int, width: int, height: int) -> NDArray[np.float32]:
        """Return ``(height, width)``, the mean over channels."""
        pixels = self.pixels(x, y, width, height)
        grey = pixels[..., 0].copy()
        for channel in range(1, pixels.shape[-1]):
            grey += pixels[..., channel]
        return grey / np.float32(pixels.shape[-1])

    def shrunk(self, x: float, y: float, scale: float, side: int) -> NDArray[np.float32] | None:
        """Return ``(side, side)`` means over ``scale`` pixels; None where they are off it."""
        left, top = math.floor(x), math.floor(y)
        right, bottom = math.ceil(x + side * scale), math.ceil(y + side * scale)
        if left < 0 or top < 0 or right > self.level.width or bottom > self.level.height:
            return None
        fine = Image.fromarray(self.region(left, top, right - left, bottom - top))
        box = (x - left, y - top, x - left + side * scale, y - top + side * scale)
        return np.asarray(fine.resize((side, side), Image.Resampling.BOX, box=box))

    def _tile(self, row: int, column: int) -> NDArray[np.generic]:
        if (row, column) not in self._tiles:
            tile = self._read(self._index, row, column)
            self._tiles[row, column] = tile[..., :_MOST_CHANNELS]
        return self._tiles[row, column]

    def _on_scale(self, pixels: NDArray[np.generic]) -> NDArray[np.float32]:
        if pixels.dtype == np.uint8:
            return pixels.astype(np.float32)
        low, high = self.scale()
        values = (pixels.astype(np.float64) - low) * (255 / (high - low))
        return np.nan_to_num(values, posinf=255, neginf=0).clip(0, 255).astype(np.float32)

    def scale(self) -> tuple[float, float]:
        """Return the values that become 0 and 255, where pixels have more than 8 bits."""
        if self._like is not None:
            return self._like.scale()
        if self._scale is None:
            rows = -(-self.level.height // self.level.tile_height)
            columns = -(-self.level.width // self.level.tile_width)
            middle = {(r, c) for r in (0, rows // 2) for c in (0, columns // 2)}
            seen = [self._tile(*place).ravel()[::7].astype(np.float64) for place in middle]
            values = np.concatenate(seen)
            values = values[np.isfinite(values)]
            low, high = np.percentile(values, (0.5, 99.5)) if values.size else (0.0, 1.0)
            self._scale = float(low), float(high if high > low else low + 1)
        return self._scale


def informative(level: Mosaic, looked_at: int, most: int, *, whole: bool = False) -> list[Block]:
    """Return blocks that tell their place, those far from the corner first.

    Wrong factors put blocks near the corner at almost the right place.

    Parameters
    ----------
    looked_at
        Tiles in which they are looked for, about.
    most
        How many are wanted.
    whole
        Look at tiles whole, and not only at a corner of each.
    """
    width, height = level.level.width, level.level.height
    if min(width, height) < 4 * _LEAST_BLOCK:
        return []
    side = max(_LEAST_BLOCK, min(BLOCK, min(width, height) // 8))
    found: list[tuple[float, Block]] = []
    for left, top, right, bottom in _windows(level.level, looked_at, side, whole):
        window = level.region(left, top, right - left, bottom - top)
        best: dict[tuple[int, int], tuple[float, Block]] = {}
        for (y, x), telling in np.ndenumerate(_telling(window, side)):
            y, x = y * side, x * side
            block = Block(left + x, top + y, window[y : y + side, x : x + side])
            rank = float(telling) * (block.x + block.y + (width + height) / 8)
            part = (4 * y // window.shape[0], 4 * x // window.shape[1])
            if rank > best.get(part, (0.0, block))[0]:
                best[part] = rank, block
        found += best.values()
    return _spread(found, width, height, most)


def _spread(found: list[tuple[float, Block]], width: int, height: int, most: int) -> list[Block]:
    """Return the blocks of highest rank, one of each sixteenth of a level before others.

    Parts of a level may show what lies beyond the slide.
    """
    found = sorted(found, reverse=True, key=lambda f: f[0])
    parts: set[tuple[int, int]] = set()
    chosen: list[Block] = []
    others: list[Block] = []
    for _, block in found:
        part = 4 * block.x // width, 4 * block.y // height
        (others if part in parts else chosen).append(block)
        parts.add(part)
    return (chosen + others)[:most]


def _windows(
    level: Level, looked_at: int, side: int, whole: bool
) -> list[tuple[int, int, int, int]]:
    """Return left, top, right and bottom of the windows that are looked at, spread over a level."""
    step_x, step_y = level.tile_width, level.tile_height
    if step_x > _MOST_TILE:  # strips are as wide as the slide
        step_x = _WINDOW
    if not _LEAST_BLOCK <= step_y <= _MOST_TILE:
        step_y = _WINDOW
    columns, rows = -(-level.width // step_x), -(-level.height // step_y)
    every = max(1.0, math.sqrt(rows * columns / looked_at))
    found = []
    for i in range(math.ceil(rows / every)):
        for j in range(math.ceil(columns / every)):
            left, top = int(j * every) * step_x, int(i * every) * step_y
            right = min(level.width, left + max(step_x if whole else min(step_x, _WINDOW), side))
            bottom = min(level.height, top + max(step_y if whole else min(step_y, _WINDOW), side))
            found += [
                (x, y, min(right, x + _WINDOW), min(bottom, y + _WINDOW))
                for y in range(top, bottom, _WINDOW)
                for x in range(left, right, _WINDOW)
            ]
    return [one for one in found if min(one[2] - one[0], one[3] - one[1]) >= side]


def _telling(window: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return how well each block of ``side`` pixels tells its place; 0 where it does not.

    By differences over a few pixels, for even glass has a slope. Little where the right or lower
    quarter of a block is flat: that may be where padding begins.
    """
    rows, columns = window.shape[0] // side, window.shape[1] // side
    cut = window[: rows * side, : columns * side].reshape(rows, side, columns, side)
    blocks = cut.swapaxes(1, 2)  # (rows, columns, side, side)
    lag, quarter = 4, side // 4
    across = (blocks[..., lag:] - blocks[..., :-lag]).std(axis=(-1, -2))
    down = (blocks[..., lag:, :] - blocks[..., :-lag, :]).std(axis=(-1, -2))
    spread = np.minimum(across, down)  # a straight edge looks the same all along
    edges = (
        blocks[..., :, -quarter:], blocks[..., -quarter:, :],
        blocks[..., :, :quarter], blocks[..., :quarter, :],
    )  # fmt: skip
    flattest = np.min([edge.std(axis=(-1, -2)) for edge in edges], axis=0)
    telling: NDArray[np.float32] = np.where(flattest < 2, 0.05, 1.0) * np.minimum(spread, 40.0)
    return np.where(spread < _LEAST_SPREAD, 0.0, telling).astype(np.float32)


def matches(blocks: Sequence[Block], finer: Mosaic, scale: float) -> list[Match]:
    """Look for blocks in the finer level at a factor between the two.

    Those that would lie off it are left out: they show what lies beyond the slide.
    """
    side = min(len(blocks[0].grey), max(_LEAST_BLOCK, int(_MOST_FINE_SIDE / scale) - 2 * REACH))
    found = []
    for block in blocks:
        corner_x, corner_y = (block.x - REACH) * scale, (block.y - REACH) * scale
        window = finer.shrunk(corner_x, corner_y, scale, side + 2 * REACH)
        if window is not None:
            found.append(Match(*_place(block.grey[:side, :side], window), block))
    return found


def better(found: Sequence[Match]) -> tuple[list[Match], float]:
    """Return the better two thirds of matches with their median likeness.

    Some blocks may show padding. Fewer than two tell nothing.
    """
    if len(found) < 2:
        return [], 0.0
    ranked = sorted(found, key=lambda match: -match.likeness)
    kept = ranked[: max(2, math.ceil(len(ranked) * 2 / 3))]
    likeness = float(np.median([match.likeness for match in kept]))
    return [match for match in kept if match.likeness > likeness - _LEAST_LEAD], likeness


def _place(block: NDArray[np.float32], window: NDArray[np.float32]) -> tuple[float, float, float]:
    """Return the best correlation of a block within a window, and where: across and down."""
    side = len(block)
    views = np.lib.stride_tricks.sliding_window_view(window, (side, side))
    flat = views.reshape(*views.shape[:2], -1)
    flat = flat - flat.mean(axis=-1, keepdims=True)
    own = (block - block.mean()).ravel()
    norm = np.linalg.norm(flat, axis=-1) * np.linalg.norm(own)
    scores = np.divide(flat @ own, norm, out=np.zeros_like(norm), where=norm > 0)
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    across = column + _summit(scores[row, :], int(column)) - REACH
    down = row + _summit(scores[:, column], int(row)) - REACH
    return float(scores[row, column]), float(across), float(down)


def _summit(scores: NDArray[np.float32], at: int) -> float:
    """Return how far from the best of evenly spaced values the summit of a parabola lies."""
    if not 0 < at < len(scores) - 1:
        return 0.0
    before, best, after = (float(scores[i]) for i in (at - 1, at, at + 1))
    bend = before - 2 * best + after
    return 0.0 if bend >= 0 else max(-0.5, min(0.5, 0.5 * (before - after) / bend))


def colours(
    found: Sequence[Match], level: Mosaic, finer: Mosaic, scale: float
) -> tuple[float, float, float]:
    """Compare the colours of matched blocks, in means over small squares, on a scale of 255.

    Returns
    -------
    tuple of float
        How much channels differ from those of the finer level; how much in the order of channels
        in which they differ least; and how far the mean of a channel lies off, at most.
    """
    costs, biases = [], []
    for match in found:
        block = match.block
        side = min(len(block.grey), max(_LEAST_BLOCK, int(_MOST_FINE_SIDE / scale))) // _PATCH
        step = _PATCH * scale
        x = max(0, round((block.x + match.across) * scale))
        y = max(0, round((block.y + match.down) * scale))
        wide = round(side * step)
        if x + wide > finer.level.width or y + wide > finer.level.height:
            continue
        own = level.pixels(block.x, block.y, side * _PATCH, side * _PATCH)
        there = finer.pixels(x, y, wide, wide)
        ours = own.reshape(side, _PATCH, side, _PATCH, -1).mean((1, 3))
        cuts = np.rint(np.arange(side) * step).astype(int)
        sums = np.add.reduceat(np.add.reduceat(there.astype(np.float64), cuts, 0), cuts, 1)
        sizes = np.diff(np.append(cuts, wide))
        theirs = sums / (sizes[:, None] * sizes[None, :])[..., None]
        costs.append(np.abs(ours[..., :, None] - theirs[..., None, :]).mean((0, 1)))
        biases.append((ours - theirs).mean((0, 1)))
    if not costs:
        return 0.0, 0.0, 0.0
    from scipy.optimize import linear_sum_assignment  # half a second that no start shall take

    cost = np.median(costs, axis=0)
    least = float(cost[linear_sum_assignment(cost)].mean())
    return float(cost.diagonal().mean()), least, float(np.abs(np.median(biases, axis=0)).max())
