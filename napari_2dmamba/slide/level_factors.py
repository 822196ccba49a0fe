"""How many level-0 pixels a pixel of each level covers, and which levels are to be believed.

A level's size tells its factor where sizes were rounded to whole pixels. Many programs round
them up to whole tiles instead: 1088 pixels become 1536, and the ratio of sizes says 5.7 where 8
is meant. Where sizes admit more than one factor, or none, the pixels decide: a few informative
blocks of a level are looked for in the next finer one at each factor in question. A level that
fits at no factor, or lies beside its place, is left out. Where sizes leave no doubt, a few blocks
are looked for at the one factor, and only a level that clearly shows something else is left out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_2dmamba.slide.backend import Level, TileError, whole_downsample

_BLOCK, _LEAST_BLOCK = 48, 16
"""Side of the blocks that are compared, in pixels of the coarser level."""
_BLOCKS = 9
_LOOKED_AT, _WINDOW = 9, 256
"""Places of a level in which blocks are looked for, and their side. With what lies under the
blocks in the finer level, a level in doubt costs about a hundred tiles at most."""
_LOOKED_AT_SURE, _BLOCKS_SURE = 4, 4
"""The same of a level whose size tells its factor: some twenty tiles."""
_UNLIKE = 0.35
"""Correlation below which such a level shows something else, if its blocks lie beside their place,
too: levels that their makers thinned out without averaging may reach no more than 0.3, at their
place; another slide or place reaches 0.1, anywhere."""
_BESIDE = 2.5
"""Pixels beside its place from which such a level is not believed."""
_OTHER_GREY = 30.0
"""Difference of grey values from which a level without any structure is another picture."""
_MOST_FINE_SIDE = 1024
"""Blocks get smaller where they would cover more pixels of the finer level."""
_MOST_WHOLE = 64
"""Whole factors, from the ratio of sizes on, that padding to tiles is tried to explain with."""
_LEAST_SPREAD = 4.0
"""Standard deviation, in grey levels of 255, from which a block tells one place from another."""
_LEAST_LIKENESS, _LEAST_LEAD = 0.6, 0.1
"""Correlation a factor must reach; how far ahead of others, that put blocks elsewhere."""
_SAME_PLACE = 1.5
"""Pixels between the places of a block at two factors that count as one."""
_REACH = 3
"""Pixels of the coarser level around its place within which a block is looked for."""
_MOST_SHIFT = 1.0
"""A level further beside its place than this, in its own pixels, is not believed."""

Read = Callable[[int, int, int], NDArray[Any]]
"""``(level, row, column)`` to the stored tile ``(h, w, C)``, as `Backend.read_tile`."""


@dataclass(frozen=True)
class Settled:
    """The levels that are believed, with their factors.

    Attributes
    ----------
    kept
        Their indices among those that were given.
    levels
        They themselves, cut to what level 0 covers.
    remarks
        One sentence for each that is left out.
    """

    kept: tuple[int, ...]
    levels: tuple[Level, ...]
    remarks: tuple[str, ...]


def settle(
    levels: Sequence[Level], read: Read, stored_tiles: Sequence[tuple[int, int]] | None = None
) -> Settled:
    """Find the factor of each level; reads pixels only where sizes leave doubt.

    Parameters
    ----------
    levels
        Finest first; their `Level.downsample` is not looked at.
    stored_tiles
        ``(width, height)`` of each level's tiles in the file, where they are not those read.
    """
    first = levels[0]
    stored_tiles = stored_tiles or [(level.tile_width, level.tile_height) for level in levels]
    kept, settled, remarks = [0], [replace(first, downsample=1.0)], []
    for index, level in enumerate(levels[1:], 1):
        finest = settled[0]
        size = f"level {index} of the file ({level.width} x {level.height} pixels)"
        candidates = _candidates(level, settled, stored_tiles[index])
        if not _doubtful(level, settled, stored_tiles[index], candidates):
            factor = whole_downsample(level.width, level.height, finest.width, finest.height)
            if _shows_another(index, level, kept[-1], settled, factor, read):
                remarks.append(f"{size} is left out: its pixels are not those of the finer levels")
                continue
        else:
            found, why = _registered(index, level, kept[-1], settled, candidates, read)
            if found is None:
                remarks.append(f"{size} is left out: {why}")
                continue
            factor = found
        if factor <= settled[-1].downsample:
            remarks.append(f"{size} is left out: it is no coarser than the one before")
            continue
        width = min(level.width, math.ceil(finest.width / factor))
        height = min(level.height, math.ceil(finest.height / factor))
        if _short(width, finest.width / factor) or _short(height, finest.height / factor):
            remarks.append(f"{size} is left out: it shows only a part of the slide")
            continue
        kept.append(index)
        settled.append(replace(level, width=width, height=height, downsample=factor))
    return Settled(tuple(kept), tuple(settled), tuple(remarks))


def _short(length: int, whole: float) -> bool:
    return length < whole - 2


def _rounded(level: Level, full: Level, factor: float) -> bool:
    """Whether a level's sizes are those of level 0 over a factor, up to rounding."""
    slack = 1.0 if factor < 8 else 2.0
    return (
        abs(level.width - full.width / factor) <= slack
        and abs(level.height - full.height / factor) <= slack
    )


def _padded(level: Level, full: Level, factor: float, tile: tuple[int, int]) -> bool:
    """Whether they are so, rounded up to whole tiles."""

    def up(length: float, tile: int) -> int:
        return math.ceil(length / tile - 1e-9) * tile

    return (level.width, level.height) == (
        up(full.width / factor, tile[0]),
        up(full.height / factor, tile[1]),
    )


def _candidates(level: Level, settled: Sequence[Level], tile: tuple[int, int]) -> list[float]:
    """Return every factor that a level of this size may have, coarser than the level before."""
    full, before = settled[0], settled[-1].downsample
    ratios = (full.width / level.width, full.height / level.height)
    low, high = min(ratios), max(ratios)
    step = before / settled[-2].downsample if len(settled) > 1 else 2.0
    found = {float(round(r)) for r in ratios} | {*ratios, (low + high) / 2}
    found |= {before * s for s in (2.0, 3.0, 4.0, 8.0, 16.0, step, step * step)}
    found |= {2.0**k for k in range(1, 40)}
    whole = range(max(2, math.floor(low)), math.ceil(high * 2) + 2)
    found |= {float(k) for k in list(whole)[:_MOST_WHOLE] if _padded(level, full, k, tile)}
    return sorted(f for f in found if before < f <= high * 8.001 and f >= low / 2)


def _doubtful(
    level: Level, settled: Sequence[Level], tile: tuple[int, int], candidates: Sequence[float]
) -> bool:
    """Whether sizes alone do not tell a level's factor."""
    full = settled[0]
    factor = whole_downsample(level.width, level.height, full.width, full.height)
    if factor != int(factor) or not _rounded(level, full, factor):
        return True
    if factor <= settled[-1].downsample:
        return True
    others = (f for f in candidates if f == int(f) and abs(f - factor) > 0.5)
    return any(_padded(level, full, f, tile) for f in others)


def _shows_another(
    index: int, level: Level, finer: int, settled: Sequence[Level], factor: float, read: Read
) -> bool:
    """Whether a level of the right size clearly shows another place, or another slide."""
    base = settled[-1]
    try:
        tiles, fine = _Mosaic(level, index, read), _Mosaic(base, finer, read)
        scale = factor / base.downsample
        blocks = _informative(tiles, _LOOKED_AT_SURE)[:_BLOCKS_SURE]
        if len(blocks) < 2:
            return _is_blank_beside(tiles, fine, scale)
        likeness, shift = _likeness(blocks, fine, scale)
    except TileError:  # said where the tile is shown or needed
        return False
    if likeness is None:
        return False
    return shift > _BESIDE or (likeness < _UNLIKE and shift > _MOST_SHIFT)


def _is_blank_beside(level: "_Mosaic", finer: "_Mosaic", scale: float) -> bool:
    """Whether a level without structure has other grey values than the finer one has there."""
    differences = []
    for block in _informative(finer, _LOOKED_AT_SURE)[:_BLOCKS_SURE]:
        x, y, side = int(block.x / scale), int(block.y / scale), int(len(block.grey) / scale)
        width, height = min(side, level.level.width - x), min(side, level.level.height - y)
        if min(width, height) > 0:
            there = level.region(x, y, width, height)
            differences.append(abs(float(there.mean()) - float(block.grey.mean())))
    return len(differences) > 1 and float(np.median(differences)) > _OTHER_GREY


def _registered(
    index: int,
    level: Level,
    finer: int,
    settled: Sequence[Level],
    candidates: Sequence[float],
    read: Read,
) -> tuple[float | None, str]:
    """Return the factor at which a level's pixels fit level ``finer``, or why there is none."""
    base = settled[-1]
    try:
        blocks = _informative(_Mosaic(level, index, read))
        if len(blocks) < 2:
            return None, "its size does not tell its factor, and it shows too little to compare"
        tiles = _Mosaic(base, finer, read)
        fits = [(_likeness(blocks, tiles, f / base.downsample), f) for f in candidates]
        results = [(likeness or 0.0, shift, f) for (likeness, shift), f in fits]
    except TileError as error:
        return None, f"its size does not tell its factor, and its tiles cannot be read ({error})"
    if not results:
        return None, "it is no coarser than the one before"
    results.sort(reverse=True, key=lambda r: r[0])
    likeness, shift, factor = results[0]
    if likeness < _LEAST_LIKENESS:
        return None, "its pixels are not those of the finer levels at any factor"
    if shift > _MOST_SHIFT:
        return None, f"its pixels lie {shift:.1f} of them beside those of the finer levels"
    far = max(max(block.x, block.y) for block in blocks) + _BLOCK
    close = [r for r in results if abs(factor / r[2] - 1) * far <= _SAME_PLACE]
    rival = next((r for r in results if r not in close), None)
    if rival is not None and rival[0] > likeness - _LEAST_LEAD:
        return None, f"it fits at factors {factor:g} and {rival[2]:g} alike"
    # Of factors that put every block at the same place, the plainest that is as good
    good = [r[2] for r in close if r[0] > likeness - 0.02]
    return min(good, key=lambda f: (f != int(f), not math.log2(f).is_integer(), f)), ""


@dataclass(frozen=True)
class _Block:
    """A square of a level, in grey, with its corner."""

    x: int
    y: int
    grey: NDArray[np.float32]


def _informative(level: "_Mosaic", looked_at: int = _LOOKED_AT) -> list[_Block]:
    """Return blocks that tell their place, those far from the corner first.

    Wrong factors put blocks near the corner at almost the right place.
    """
    width, height = level.level.width, level.level.height
    tile_width, tile_height = level.level.tile_width, level.level.tile_height
    step_x = tile_width if tile_width <= 4 * _WINDOW else _WINDOW  # strips are as wide as the slide
    step_y = tile_height if tile_height >= _LEAST_BLOCK else _WINDOW
    columns, rows = -(-width // step_x), -(-height // step_y)
    side = min(_BLOCK, min(width, height) // 8)
    if side < _LEAST_BLOCK:
        return []
    every = max(1.0, math.sqrt(rows * columns / looked_at))
    found: list[tuple[float, _Block]] = []
    for top in sorted({int(i * every) * step_y for i in range(math.ceil(rows / every))}):
        for left in sorted({int(i * every) * step_x for i in range(math.ceil(columns / every))}):
            right = min(width, left + min(max(step_x, side), _WINDOW))
            bottom = min(height, top + min(max(step_y, side), _WINDOW))
            window = level.region(left, top, right - left, bottom - top)
            best: dict[tuple[int, int], tuple[float, _Block]] = {}
            for (y, x), telling in np.ndenumerate(_telling(window, side)):
                y, x = y * side, x * side
                block = _Block(left + x, top + y, window[y : y + side, x : x + side])
                rank = float(telling) * (block.x + block.y + (width + height) / 8)
                part = (4 * y // window.shape[0], 4 * x // window.shape[1])
                if rank > best.get(part, (0.0, block))[0]:
                    best[part] = rank, block
            found += best.values()
    found.sort(reverse=True, key=lambda f: f[0])
    return [block for _, block in found[:_BLOCKS]]


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
    ends = np.minimum(
        blocks[..., -quarter:].std(axis=(-1, -2)), blocks[..., -quarter:, :].std(axis=(-1, -2))
    )
    telling: NDArray[np.float32] = np.where(ends < 2, 0.05, 1.0) * np.minimum(spread, 40.0)
    return np.where(spread < _LEAST_SPREAD, 0.0, telling).astype(np.float32)


def _grey(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``(h, w)``, the mean over channels on a scale of 255."""
    grey = pixels[..., 0].astype(np.float32)
    for channel in range(1, pixels.shape[-1]):
        grey += pixels[..., channel]
    most = 255.0 if pixels.dtype.kind not in "ui" else float(np.iinfo(pixels.dtype).max)
    grey *= np.float32(255 / most / pixels.shape[-1])
    return grey


class _Mosaic:
    """Grey regions of a level, each tile of which is read once."""

    def __init__(self, level: Level, index: int, read: Read) -> None:
        self.level, self._index, self._read = level, index, read
        self._tiles: dict[tuple[int, int], NDArray[np.float32]] = {}

    def region(self, x: int, y: int, width: int, height: int) -> NDArray[np.float32]:
        """Return ``(height, width)``, which must lie on the level."""
        step_x, step_y = self.level.tile_width, self.level.tile_height
        out = np.empty((height, width), np.float32)
        for row in range(y // step_y, (y + height - 1) // step_y + 1):
            for column in range(x // step_x, (x + width - 1) // step_x + 1):
                if (row, column) not in self._tiles:
                    self._tiles[row, column] = _grey(self._read(self._index, row, column))
                tile, top, left = self._tiles[row, column], row * step_y, column * step_x
                y0, y1 = max(y, top), min(y + height, top + tile.shape[0])
                x0, x1 = max(x, left), min(x + width, left + tile.shape[1])
                out[y0 - y : y1 - y, x0 - x : x1 - x] = tile[
                    y0 - top : y1 - top, x0 - left : x1 - left
                ]
        return out

    def shrunk(self, x: float, y: float, scale: float, side: int) -> NDArray[np.float32] | None:
        """Return ``(side, side)`` means over ``scale`` pixels; None where they are off it."""
        left, top = math.floor(x), math.floor(y)
        right, bottom = math.ceil(x + side * scale), math.ceil(y + side * scale)
        if left < 0 or top < 0 or right > self.level.width or bottom > self.level.height:
            return None
        fine = Image.fromarray(self.region(left, top, right - left, bottom - top))
        box = (x - left, y - top, x - left + side * scale, y - top + side * scale)
        return np.asarray(fine.resize((side, side), Image.Resampling.BOX, box=box))


def _likeness(blocks: Sequence[_Block], finer: _Mosaic, scale: float) -> tuple[float | None, float]:
    """Return how well blocks fit at a factor between two levels, and how far beside, in pixels.

    None where too few of them lie on the finer level.

    The middle of the better two thirds: some blocks may show padding.
    """
    side = min(len(blocks[0].grey), max(_LEAST_BLOCK, int(_MOST_FINE_SIDE / scale) - 2 * _REACH))
    found = []
    for block in blocks:
        corner_x, corner_y = (block.x - _REACH) * scale, (block.y - _REACH) * scale
        window = finer.shrunk(corner_x, corner_y, scale, side + 2 * _REACH)
        if window is not None:  # else it is a block of what lies beyond the slide
            found.append(_place(block.grey[:side, :side], window))
    if len(found) < 2:
        return None, 0.0
    found.sort(reverse=True)
    better = found[: max(2, math.ceil(len(found) * 2 / 3))]
    score = float(np.median([s for s, _ in better]))
    return score, float(np.median([shift for s, shift in better if s > score - _LEAST_LEAD]))


def _place(block: NDArray[np.float32], window: NDArray[np.float32]) -> tuple[float, float]:
    """Return the best correlation of a block within a window, and how far from its middle."""
    side = len(block)
    views = np.lib.stride_tricks.sliding_window_view(window, (side, side))
    flat = views.reshape(*views.shape[:2], -1)
    flat = flat - flat.mean(axis=-1, keepdims=True)
    own = (block - block.mean()).ravel()
    norm = np.linalg.norm(flat, axis=-1) * np.linalg.norm(own)
    scores = np.divide(flat @ own, norm, out=np.zeros_like(norm), where=norm > 0)
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    return float(scores[row, column]), math.hypot(row - _REACH, column - _REACH)
