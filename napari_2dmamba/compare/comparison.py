"""What a comparison found, and where its models agree."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.compare.contender import SCORE
from napari_2dmamba.explain.display import percentiles, ranks
from napari_2dmamba.explain.grid_map import GridMap, scatter
from napari_2dmamba.export.record import RunRecord
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.slide.grid import PatchGrid
from napari_2dmamba.slide.regions import Regions

Scale = Literal["percentile", "raw"]
"""Compare the rank of a patch within its map, 0 to 100, or the values themselves."""

DIFFERENCE = "difference of percentile ranks"
"""Quantity of a `Comparison.difference`, whatever two maps it is of."""

FRACTIONS = (0.01, 0.05, 0.1)
"""Shares of the patches whose overlap is reported."""


@dataclass(frozen=True)
class Entry:
    """One map of one model.

    Attributes
    ----------
    label
        The model's label.
    map_name
        `contender.SCORE`, or a name of `explain.maps.MAPS`.
    prediction
        What the model answered; entries of one model share it.
    grid_map
        The map; all maps of a comparison have the same cells.
    scores
        ``(N,)`` float64, the value of the map at each patch; NaN where it has none.
    seconds
        Wall time of the forward pass after another one that warmed up; of up to five passes,
        where they are short, the fastest.
    peak_bytes
        Memory of the forward pass as `Comparison.memory_meaning` says; None where it could not
        be measured.
    header
        What the checkpoint says of itself.
    record
        The record of this model's run, as `pipeline.run` makes it.
    """

    label: str
    map_name: str
    prediction: SlidePrediction
    grid_map: GridMap
    scores: NDArray[np.float64]
    seconds: float
    peak_bytes: int | None
    header: CheckpointHeader
    record: RunRecord

    @property
    def title(self) -> str:
        """Label, with the name of the map where it is not the model's own score."""
        return title_of(self.label, self.map_name)

    @property
    def score_meaning(self) -> str:
        """One sentence: what a value of the map is."""
        return self.grid_map.meaning

    @property
    def device(self) -> str:
        """What ran the model."""
        return self.prediction.device

    @property
    def device_reason(self) -> str:
        """Why it ran there."""
        return str(self.prediction.extra.get("device_reason", ""))


@dataclass(frozen=True)
class Reading:
    """The value of one map under the cursor.

    Attributes
    ----------
    title
        Of the entry.
    value
        As the map holds it; NaN where it has none.
    percentile, rank
        Among the patches of the map: 100 is the highest percentile, 1 the highest rank.
    """

    title: str
    value: float
    percentile: float
    rank: float


@dataclass(frozen=True)
class Comparison:
    """Several maps of one bag.

    Attributes
    ----------
    slide_path
        The slide.
    grid
        Its patches.
    bag
        Their features, which all models saw.
    entries
        The maps, in the order asked for.
    memory_meaning
        What the entries' ``peak_bytes`` are.
    unchecked
        One sentence for each thing that could not be compared before the run.
    query
        Number of the patch that maps of one patch are about; None without such maps.
    regions
        What the comparison was restricted to, or None.
    """

    slide_path: Path
    grid: PatchGrid
    bag: FeatureBag
    entries: tuple[Entry, ...]
    memory_meaning: str = ""
    unchecked: tuple[str, ...] = ()
    query: int | None = None
    regions: Regions | None = None

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def titles(self) -> tuple[str, ...]:
        """Titles of the entries."""
        return tuple(entry.title for entry in self.entries)

    @property
    def runs(self) -> tuple[Entry, ...]:
        """One entry for each model."""
        first: dict[str, Entry] = {}
        for entry in self.entries:
            first.setdefault(entry.label, entry)
        return tuple(first.values())

    def map_of(self, scores: NDArray[np.floating], **about: Any) -> GridMap:
        """Place one value per patch, ``(N,)``, on the cells all maps of the comparison share.

        ``about`` are further fields of `GridMap`.
        """
        return place(self.bag, scores, **about)

    def difference(self, first: int, second: int, scale: Scale = "percentile") -> GridMap:
        """Return ``first - second`` at every patch, as a signed map.

        Parameters
        ----------
        first, second
            Numbers of entries.
        scale
            ``"percentile"``: difference of the percentile ranks that a patch has within the two
            maps, -100 to 100: +100 is the highest patch of ``first`` and the lowest of
            ``second``. ``"raw"``: difference of the values, which says something only where
            both maps measure the same on one scale.
        """
        a, b = self.entries[first], self.entries[second]
        values = on_scale(a.scores, scale) - on_scale(b.scores, scale)
        if scale == "percentile":
            meaning = (
                f"percentile rank of the patch in {a.title} minus that in {b.title}, in "
                f"percentage points: positive where {a.title} ranks the patch higher"
            )
        else:
            meaning = f"value in {a.title} minus value in {b.title}"
            if (a.score_meaning, a.header.architecture) != (b.score_meaning, b.header.architecture):
                meaning += (
                    "; the two measure different things, so that only the difference of ranks "
                    "can be read"
                )
        return self.map_of(
            values,
            name=f"{a.title} − {b.title}",
            meaning=meaning,
            signed=True,
            display_range=(-100.0, 100.0) if scale == "percentile" else None,
            quantity=DIFFERENCE if scale == "percentile" else "",
        )

    def rank_correlation(self) -> NDArray[np.float64]:
        """Return ``(n, n)`` Spearman correlations over the patches, -1 to 1.

        NaN for a map that is the same everywhere, also on the diagonal.
        """
        return self._pairwise(lambda found: found.spearman)

    def overlap(self, fraction: float) -> NDArray[np.float64]:
        """Return ``(n, n)`` how far the highest patches are the same ones, 0 to 1.

        Entry ``(i, j)`` is the share of the ``k`` highest patches of map i that are among the
        ``k`` highest of map j, where ``k`` is ``fraction`` of all patches, at least 1. Unrelated
        maps share ``fraction`` of them. Ties are drawn by lot, and the mean of all draws is
        returned, so that a map that is zero nearly everywhere overlaps little; with itself
        every map overlaps entirely.
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"the fraction is {fraction}, but must lie between 0 and 1")
        found = self._pairwise(lambda pair: pair.overlap, self.top_count(fraction))
        np.fill_diagonal(found, 1.0)
        return found

    def top_count(self, fraction: float) -> int:
        """Return how many patches a fraction of them is: at least one."""
        return max(1, round(fraction * len(self.bag)))

    def _pairwise(self, value: Any, k: int | None = None) -> NDArray[np.float64]:
        from napari_2dmamba.explain.faithfulness import agreement

        found = np.empty((len(self), len(self)))
        for i, a in enumerate(self.entries):
            for j, b in enumerate(self.entries[: i + 1]):
                found[i, j] = found[j, i] = value(agreement(a.scores, b.scores, k))
        return found

    def values_at(self, cell: tuple[int, int]) -> tuple[Reading, ...]:
        """Return what every map says at a cell ``(row, col)`` of the maps.

        Empty where no patch lies.
        """
        patch = self._patch_at(cell)
        if patch is None:
            return ()
        return tuple(
            Reading(
                entry.title,
                float(entry.scores[patch]),
                float(percentiles_[patch]),
                float(ranks_[patch]),
            )
            for entry, (percentiles_, ranks_) in zip(self.entries, self._ranked, strict=True)
        )

    def corner_at(self, cell: tuple[int, int]) -> tuple[int, int] | None:
        """Return the level-0 ``(x, y)`` corner of the patch that a cell shows; None without one."""
        patch = self._patch_at(cell)
        if patch is None:
            return None
        x, y = self.bag.coords[patch]
        return int(x), int(y)

    def cell_at(self, x: float, y: float) -> tuple[int, int]:
        """Return the cell ``(row, col)`` of a level-0 point, which may lie off the maps."""
        placed = self.entries[0].grid_map
        side, (left, top) = placed.patch_size_level0, placed.origin
        return int((y - top) // side), int((x - left) // side)

    def _patch_at(self, cell: tuple[int, int]) -> int | None:
        rows, cols = self.entries[0].grid_map.values.shape
        if not (0 <= cell[0] < rows and 0 <= cell[1] < cols):
            return None
        patch = int(self._patch_of_cell[cell])
        return None if patch < 0 else patch

    # the cursor asks many times a second, and nothing of this can change

    @cached_property
    def _ranked(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Percentiles and ranks of every entry."""
        return [(percentiles(entry.scores), ranks(entry.scores)) for entry in self.entries]

    @cached_property
    def _patch_of_cell(self) -> NDArray[np.int64]:
        """Number of the patch in each cell of the maps, -1 without one."""
        placed = self.entries[0].grid_map
        found = np.full(placed.values.shape, -1, dtype=np.int64)
        cells = placed.cells_of(self.bag.coords, self.bag.patch_size_level0)
        found[cells[:, 0], cells[:, 1]] = np.arange(len(cells))
        return found

    def predictions_table(self) -> list[dict[str, Any]]:
        """Return one row per model, each with the same keys; every value is JSON.

        ``answer`` and ``probability`` (of the most probable class) are None for survival, and
        ``risk`` and ``survival`` None for classification: tasks are never mixed in one column.
        Risks of two models lie on one scale only where their time bins are the same.
        """
        return [_row(entry) for entry in self.runs]


def title_of(label: str, map_name: str) -> str:
    """Return the name of a map of a model."""
    return label if map_name == SCORE else f"{label}: {map_name}"


def place(bag: FeatureBag, scores: NDArray[np.floating], **about: Any) -> GridMap:
    """Place one value per patch on the smallest grid that holds all patches of a bag.

    ``about`` are the further fields of `GridMap`. Of patches that share a cell, which only a run
    that allows it brings here, the later counts.
    """
    placed = scatter(
        scores,
        bag.coords + bag.cell_inset,
        bag.cell_size,
        name=about.pop("name"),
        meaning=about.pop("meaning"),
        mpp=bag.slide_mpp,
        shared_cells="last",
    )
    return dataclasses.replace(placed, **about)


def on_scale(scores: NDArray[np.floating], scale: Scale) -> NDArray[np.float64]:
    """Return percentile ranks of the finite scores, 0 to 100, or the scores as they are."""
    if scale not in ("percentile", "raw"):
        raise ValueError(f"the scale is {scale!r}, but must be percentile or raw")
    return percentiles(scores) if scale == "percentile" else np.asarray(scores, np.float64)


def _row(entry: Entry) -> dict[str, Any]:
    prediction = entry.prediction
    top, probabilities = prediction.top_class, prediction.probabilities

    def listed(values: NDArray[np.float64] | None) -> list[float] | None:
        return None if values is None else [float(value) for value in values]

    return {
        "label": entry.label,
        "architecture": entry.header.architecture,
        "task": prediction.task,
        "class_names": list(prediction.class_names),
        "answer": None if probabilities is None else prediction.class_names[top],
        "probability": None if probabilities is None else float(probabilities[top]),
        "probabilities": listed(probabilities),
        "risk": prediction.risk,
        "survival": listed(prediction.survival),
        "background_attention": prediction.background_mass,
        "seconds": entry.seconds,
        "peak_bytes": entry.peak_bytes,
        "device": entry.device,
        "device_reason": entry.device_reason,
        "backend": prediction.backend,
        "intended_use": entry.header.intended_use,
    }
