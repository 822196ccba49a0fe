"""Two saved runs of one slide side by side: what was done, what came out, and how far they agree.

Nothing is computed again; `compare.compare` runs several models on the same patches.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.faithfulness import Agreement, agreement
from napari_2dmamba.export.saved_run import SavedRun
from napari_2dmamba.models.prediction import SlidePrediction

_NONE = "–"


@dataclass(frozen=True)
class RunPair:
    """Two runs of one slide.

    Attributes
    ----------
    first, second
        The runs.
    rows
        ``(what, of the first, of the second)`` in words.
    shared
        How many patches both have, at the same place and of the same size.
    attention
        How far both order the patches they share alike, by their attention; None below two.
    """

    first: SavedRun
    second: SavedRun
    rows: tuple[tuple[str, str, str], ...]
    shared: int
    attention: Agreement | None

    @property
    def in_words(self) -> str:
        """How far the runs look at the same patches, as a sentence."""
        if self.attention is None:
            return (
                "The runs share no two patches of the same place and size: what they look at "
                "cannot be held against each other patch by patch."
            )
        found = self.attention
        ranks = "have no order" if np.isnan(found.spearman) else f"agree by {found.spearman:.2f}"
        return (
            f"Of the {found.k} patches with most attention, {found.overlap:.0%} are the same "
            f"({found.expected_overlap:.0%} by chance); the ranks of all {self.shared} shared "
            f"patches {ranks} (Spearman)."
        )


def compare_runs(first: SavedRun, second: SavedRun) -> RunPair:
    """Put two saved runs side by side.

    Raises
    ------
    ExportError
        When they are of different slides.
    """
    one, other = first.record.slide, second.record.slide
    if one.fingerprint != other.fingerprint:
        raise ExportError(
            f"the runs are of two slides, {one.name} and {other.name}; choose two runs of one"
        )
    shared, alike = _shared_attention(first, second)
    return RunPair(first, second, tuple(_rows(first, second)), shared, alike)


def _shared_attention(first: SavedRun, second: SavedRun) -> tuple[int, Agreement | None]:
    if first.grid.patch_size_level0 != second.grid.patch_size_level0:
        return 0, None
    places = {corner: row for row, corner in enumerate(map(tuple, second.grid.coords.tolist()))}
    pairs = [
        (row, places[corner])
        for row, corner in enumerate(map(tuple, first.grid.coords.tolist()))
        if corner in places
    ]
    if len(pairs) < 2:
        return len(pairs), None
    rows, others = np.array(pairs).T
    found = agreement(first.prediction.attention[rows], second.prediction.attention[others])
    return len(pairs), found


def _rows(first: SavedRun, second: SavedRun) -> Iterator[tuple[str, str, str]]:
    runs = first, second

    def row(what: str, *said: str) -> tuple[str, str, str]:
        return what, said[0] or _NONE, said[1] or _NONE

    if first.title or second.title:
        yield row("Title", *(one.title for one in runs))
    yield row("Model", *(one.record.model.name for one in runs))
    yield row("Made", *(f"{one.record.started.astimezone():%Y-%m-%d %H:%M:%S}" for one in runs))
    yield row("Regions", *(_regions(one) for one in runs))
    yield row("µm per pixel", *(_number(one.record.slide.mpp) for one in runs))
    yield row("Patches", *(_patches(one) for one in runs))
    yield row("Verdict", *(one.record.result.verdict for one in runs))
    predictions = [one.prediction for one in runs]
    names = list(dict.fromkeys(name for one in predictions for name in one.class_names))
    answers = {"probabilities": "Probability of", "hazards": "Hazard of"}
    for kind, words in answers.items():
        if all(getattr(one, kind) is None for one in predictions):
            continue
        for name in names:
            yield row(f"{words} {name}", *(_of_class(one, kind, name) for one in predictions))
    if any(one.risk is not None for one in predictions):
        yield row("Risk", *(_number(one.risk) for one in predictions))
    yield row("Attention", *(one.attention_meaning for one in predictions))
    if any(one.background_mass is not None for one in predictions):
        masses = (one.background_mass for one in predictions)
        yield row("Attention on background", *("" if m is None else f"{m:.1%}" for m in masses))
    if first.notes or second.notes:
        yield row("Notes", *(one.notes for one in runs))


def _regions(run: SavedRun) -> str:
    told = run.record.regions
    if told is None:
        return "all tissue"
    parts = [(told.included, "included"), (told.excluded, "excluded")]
    return ", ".join(f"{count} {word}" for count, word in parts if count)


def _patches(run: SavedRun) -> str:
    grid = run.grid
    size = f"{grid.patch_size} px" + ("" if grid.mpp is None else f" at {grid.mpp:.4g} µm")
    return f"{len(grid)} of {size}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _of_class(prediction: SlidePrediction, kind: str, name: str) -> str:
    values, names = getattr(prediction, kind), prediction.class_names
    return f"{values[names.index(name)]:.5f}" if values is not None and name in names else ""
