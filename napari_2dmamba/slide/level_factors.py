"""How many level-0 pixels a pixel of each level covers, and which levels are to be believed.

A level's size tells its factor where sizes were rounded to whole pixels. Many programs round
them up to whole tiles instead: 1088 pixels become 1536, and the ratio of sizes says 5.7 where 8
is meant. Where sizes admit more than one factor, or none, the pixels decide: a few informative
blocks of a level are looked for in the next finer one at each factor in question. A level that
fits at no factor, or lies beside its place, is left out. Where sizes leave no doubt, a few blocks
are looked for at the one factor, and only a level that clearly shows something else is left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from napari_2dmamba.slide.backend import Level, TileError, whole_downsample
from napari_2dmamba.slide.level_likeness import (
    BLOCK,
    REACH,
    Block,
    Match,
    Mosaic,
    Read,
    better,
    colours,
    informative,
    matches,
)

_BLOCKS, _LOOKED_AT = 16, 9
"""Blocks of a level in doubt that are compared, and tiles in which they are looked for. With what
lies under them in the finer level it costs about a hundred tiles at most."""
_BLOCKS_SURE, _LOOKED_AT_SURE = 4, 4
"""The same of a level whose size tells its factor: some twenty tiles."""
_UNLIKE = 0.35
"""Correlation below which such a level shows something else, if its blocks lie beside their place,
too: levels that their makers thinned out without averaging may reach no more than 0.3, at their
place; another slide or place reaches 0.1, anywhere."""
_BESIDE = 2.5
"""Pixels beside its place from which such a level is not believed."""
_OTHER_VALUE = 30.0
"""Difference of a channel's mean, of 255, from which a level is another picture."""
_OTHER_ORDER = 0.7, 1.0
"""Another order of channels fits better if it differs by less than this share, and by this much."""
_MOST_WHOLE = 64
"""Whole factors, from the ratio of sizes on, that padding to tiles is tried to explain with."""
_LEAST_LIKENESS, _LEAST_LEAD = 0.6, 0.1
"""Correlation a factor must reach; how far ahead of others, that put blocks elsewhere."""
_MOST_SHIFT = 1.0
"""A level further beside its place than this, in its own pixels, is not believed."""
_NEAR, _AS_GOOD = 0.5, 0.01
"""A plain factor is taken for a measured one where blocks lie no further beside their places, in
pixels, and correlate hardly less."""
_OFF = 0.6
"""Pixels by which rounding may change a side."""
_RIVAL = 1.5
"""Pixels beside their places within which blocks make another factor a rival."""
_APART = 0.15
"""Share of a level over which blocks must be spread to tell a factor from a shift."""
_PADDED_BY = 512
"""Sides up to which levels are padded where their own tiles are smaller."""
_MOST_TRIED, _BLOCKS_TRIED = 240, 8
"""Factors between those that sizes suggest that are tried, and with how many blocks."""


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
    levels: Sequence[Level],
    read: Read,
    stored_tiles: Sequence[tuple[int, int]] | None = None,
    *,
    stated: bool = False,
) -> Settled:
    """Find the factor of each level; reads more pixels where sizes leave doubt.

    Parameters
    ----------
    levels
        Finest first.
    stored_tiles
        ``(width, height)`` of each level's tiles in the file, where they are not those read.
    stated
        The file states each `Level.downsample`, so that nothing is derived from sizes; else they
        are not looked at.
    """
    first = levels[0]
    stored_tiles = stored_tiles or [(level.tile_width, level.tile_height) for level in levels]
    kept, settled, remarks = [0], [replace(first, downsample=1.0)], []
    for index, level in enumerate(levels[1:], 1):
        finest = settled[0]
        factor, why = _factor(
            _Pair(level, index, settled[-1], kept[-1], read),
            settled, stored_tiles[index], level.downsample if stated else None,
        )  # fmt: skip
        if factor is not None and factor <= settled[-1].downsample:
            factor, why = None, "it is no coarser than the one before"
        if factor is not None:
            width = min(level.width, math.ceil(finest.width / factor))
            height = min(level.height, math.ceil(finest.height / factor))
            if _short(width, finest.width / factor) or _short(height, finest.height / factor):
                factor, why = None, "it shows only a part of the slide"
        if factor is None:
            size = f"level {index} of the file ({level.width} x {level.height} pixels)"
            remarks.append(f"{size} is left out: {why}")
            continue
        kept.append(index)
        settled.append(replace(level, width=width, height=height, downsample=factor))
    return Settled(tuple(kept), tuple(settled), tuple(remarks))


@dataclass(frozen=True)
class _Pair:
    """A level, and the next finer one that is believed, with their numbers in the file."""

    level: Level
    index: int
    base: Level
    finer: int
    read: Read

    def mosaics(self) -> tuple[Mosaic, Mosaic]:
        fine = Mosaic(self.base, self.finer, self.read)
        return Mosaic(self.level, self.index, self.read, like=fine), fine


def _factor(
    pair: _Pair, settled: Sequence[Level], tile: tuple[int, int], stated: float | None
) -> tuple[float | None, str]:
    """Return a level's factor, or why it is not believed."""
    level, full = pair.level, settled[0]
    if stated is not None:
        another = stated > pair.base.downsample and _shows_another(pair, stated)
        return (None, another) if another else (stated, "")
    candidates = _candidates(level, settled, tile)
    another = ""
    if not _doubtful(level, settled, tile, candidates):
        factor = whole_downsample(level.width, level.height, full.width, full.height)
        another = _shows_another(pair, factor)
        if not another:
            return factor, ""
        if another == _OTHER_COLOURS:
            return None, another
    found, why = _registered(pair, settled, candidates, tile)
    return found, another or why


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
    """Return plain factors that a level of this size may have, coarser than the level before."""
    full, before = settled[0], settled[-1].downsample
    ratios = (full.width / level.width, full.height / level.height)
    low, high = min(ratios), max(ratios)
    step = before / settled[-2].downsample if len(settled) > 1 else 2.0
    found = {float(round(r)) for r in ratios} | {*ratios, (low + high) / 2}
    found |= {before * s for s in (math.sqrt(2), 1.5, 2.0, 3.0, 4.0, 8.0, 16.0, step, step * step)}
    found |= {2.0**k for k in range(1, 40)}
    whole = range(max(2, math.floor(low)), math.ceil(high * 2) + 2)
    found |= {float(k) for k in list(whole)[:_MOST_WHOLE] if _padded(level, full, k, tile)}
    return sorted(f for f in found if before < f <= high * 8.001 and f >= low / 2)


def _between(
    level: Level, settled: Sequence[Level], tile: tuple[int, int], far: int
) -> list[float]:
    """Return factors that padding admits, so close that one of them puts each block in reach."""
    full, before = settled[0], settled[-1].downsample
    low, high = before * 1.001, math.inf
    for length, whole, step, first in (
        (level.width, full.width, tile[0], full.tile_width),
        (level.height, full.height, tile[1], full.tile_height),
    ):
        padding = max(_PADDED_BY, step if step < length else 0)
        low = max(low, (whole - max(_PADDED_BY, min(first, whole // 4))) / (length + 2))
        high = min(high, whole / max(length - padding, 1))
    high = min(high, 8 * full.width / level.width)
    if low >= high:
        return []
    apart = 1 + REACH * 1.5 / far
    count = min(_MOST_TRIED, math.ceil(math.log(high / low) / math.log(apart)) + 1)
    return [float(f) for f in np.geomspace(low, high, count)]


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


_OTHER_PIXELS = "its pixels are not those of the finer levels"
_TOO_LITTLE = "its size does not tell its factor, and it shows too little to compare"
_OTHER_COLOURS = "its colours are not those of the finer levels"


def _shows_another(pair: _Pair, factor: float) -> str:
    """Return why a level of the right size clearly shows another picture, or nothing."""
    try:
        level, fine = pair.mosaics()
        scale = factor / pair.base.downsample
        blocks = informative(level, _LOOKED_AT_SURE, _BLOCKS_SURE)
        if len(blocks) < 2:
            return _OTHER_PIXELS if _is_blank_beside(level, fine, scale) else ""
        kept, likeness = better(matches(blocks, fine, scale))
        if not kept:
            return ""
        shift = _shift(kept)
        if shift > _BESIDE or (likeness < _UNLIKE and shift > _MOST_SHIFT):
            return _OTHER_PIXELS
        return _OTHER_COLOURS if _in_other_colours(kept, level, fine, scale) else ""
    except TileError:  # said where the tile is shown or needed
        return ""


def _in_other_colours(kept: Sequence[Match], level: Mosaic, fine: Mosaic, scale: float) -> bool:
    """Whether channels of matched blocks are swapped, or hold other values."""
    differs, least, bias = colours(kept, level, fine, scale)
    share, margin = _OTHER_ORDER
    swapped = least < share * differs and least < differs - margin
    return swapped or bias > _OTHER_VALUE


def _is_blank_beside(level: Mosaic, finer: Mosaic, scale: float) -> bool:
    """Whether a level without structure has other values than the finer one has there."""
    differences = []
    for block in informative(finer, _LOOKED_AT_SURE, _BLOCKS_SURE):
        x, y, side = int(block.x / scale), int(block.y / scale), int(len(block.grey) / scale)
        width, height = min(side, level.level.width - x), min(side, level.level.height - y)
        if min(width, height) > 0:
            there = level.region(x, y, width, height)
            differences.append(abs(float(there.mean()) - float(block.grey.mean())))
    return len(differences) > 1 and float(np.median(differences)) > _OTHER_VALUE


def _registered(
    pair: _Pair, settled: Sequence[Level], candidates: Sequence[float], tile: tuple[int, int]
) -> tuple[float | None, str]:
    """Return the factor at which a level's pixels fit the finer level, or why there is none."""
    before = pair.base.downsample
    try:
        level, fine = pair.mosaics()
        blocks = informative(level, _LOOKED_AT, _BLOCKS, whole=True)
        if len(blocks) < 2:
            return _by_size(pair.level, settled[0], before)
        far = max(max(block.x, block.y) for block in blocks) + BLOCK
        fits = _fits(blocks, fine, candidates, before)
        if max((fit.likeness for fit in fits), default=0.0) < _LEAST_LIKENESS:
            few = blocks[:: -(-len(blocks) // _BLOCKS_TRIED)]
            fits += _fits(few, fine, _between(pair.level, settled, tile, far), before)
        if not fits:
            return None, "it is no coarser than the one before"
        factor, is_measured = max(fits).factor, False
        ends = max(settled[0].width, settled[0].height) / factor
        for _ in range(3):
            stretch, is_measured = _stretch(matches(blocks, fine, factor / before), ends)
            factor *= 1 + stretch
        kept, likeness = better(matches(blocks, fine, factor / before))
        if likeness < _LEAST_LIKENESS:
            return None, f"{_OTHER_PIXELS} at any factor"
        for plain in _plain_factors(factor, pair.level, settled[0], before, ends):
            as_plain, as_good = better(matches(blocks, fine, plain / before))
            if as_good > likeness - _AS_GOOD and _shift(as_plain) < _NEAR:
                factor, kept, likeness, is_measured = plain, as_plain, as_good, True
                break
        if not is_measured:
            return None, _TOO_LITTLE
        shift = _shift(kept)
        if shift > _MOST_SHIFT:
            return None, f"its pixels lie {shift:.1f} of them beside those of the finer levels"
        for fit in sorted(fits, reverse=True):
            apart = abs(factor / fit.factor - 1) * ends > 2 * REACH and fit.shift < _RIVAL
            if apart and fit.likeness > likeness - _LEAST_LEAD:
                return None, f"it fits at factors {factor:g} and {fit.factor:g} alike"
        if _in_other_colours(kept[:_BLOCKS_SURE], level, fine, factor / before):
            return None, _OTHER_COLOURS
    except TileError as error:
        return None, f"its size does not tell its factor, and its tiles cannot be read ({error})"
    return factor, ""


def _by_size(level: Level, full: Level, before: float) -> tuple[float | None, str]:
    """Return the factor of a level without structure, where its sizes agree on one.

    Padding makes sides even, mostly, and they agree by chance.
    """
    factor = whole_downsample(level.width, level.height, full.width, full.height)
    is_odd = bool(level.width % 2 or level.height % 2)
    off = max(abs(level.width - full.width / factor), abs(level.height - full.height / factor))
    if factor > before and is_odd and off <= _OFF:
        return factor, ""
    return None, _TOO_LITTLE


class _Fit(NamedTuple):
    """How well blocks fit at a factor, and how far beside their places."""

    likeness: float
    factor: float
    shift: float


def _fits(
    blocks: Sequence[Block], fine: Mosaic, factors: Sequence[float], before: float
) -> list[_Fit]:
    found = []
    for factor in factors:
        if factor > before:
            kept, likeness = better(matches(blocks, fine, factor / before))
            found.append(_Fit(likeness, factor, _shift(kept)))
    return found


def _shift(kept: Sequence[Match]) -> float:
    return float(np.median([match.shift for match in kept])) if kept else 0.0


def _stretch(found: Sequence[Match], ends: float) -> tuple[float, bool]:
    """Return by how much a factor is to grow, as a share, so that blocks lie in their places.

    The slope of their shifts over their places; those that are not found tell nothing. Also
    whether the blocks lie far enough apart, on a slide of ``ends`` pixels, to tell a factor from
    a shift of the whole.
    """
    sure = [match for match in found if match.likeness > _LEAST_LIKENESS]
    if len(sure) < 2:
        return 0.0, False
    places = np.array([(m.block.x + m.across, m.block.y + m.down) for m in sure])
    shifts = np.array([(m.across, m.down) for m in sure])
    apart = places - places.mean(0)
    is_measured = len(sure) > 2 and float(np.sqrt((apart**2).sum(1).mean())) > _APART * ends
    if is_measured:  # a shift of the whole is no part of the factor, and is told by itself
        return float((apart * shifts).sum() / (apart**2).sum()), True
    return float((places * shifts).sum() / max((places**2).sum(), 1.0)), False


def _plain_factors(
    factor: float, level: Level, full: Level, before: float, ends: float
) -> list[float]:
    """Return factors that somebody may have meant where one was measured, the plainest first."""
    ratios = (full.width / level.width, full.height / level.height)
    found = [round(factor * part) / part for part in (1, 2, 4)]
    found += [math.sqrt(2) ** round(math.log2(factor) * 2), sum(ratios) / 2]
    found += [before * step for step in (math.sqrt(2), math.sqrt(3))] + [*ratios]
    return [f for f in found if f > before and abs(f / factor - 1) * ends <= 2]
