"""A model and a bag made ready for questions, and what was computed of them."""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.explain.counterfactual import Counterfactuals
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.maps import MAPS, MapRequest, average_of, averaged_words
from napari_2dmamba.explain.outcome import Target
from napari_2dmamba.explain.provenance import Channels, Provenance, Through
from napari_2dmamba.explain.receptive_field import Measure, lay_on_patch, receptive_field
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.settings import ProgressCallback, StopCallback

_OF_PROVENANCE: dict[str, tuple[Literal["on", "feeds"], Through]] = {
    "provenance": ("on", "state"),
    "provenance-gate": ("on", "gate"),
    "provenance-projection": ("on", "projection"),
    "feeds": ("feeds", "state"),
}
_OF_FIELD: dict[str, Measure] = {"erf": "jacobian", "erf-figure": "figure"}


@dataclass(frozen=True)
class MapOptions:
    """How maps are computed.

    Attributes
    ----------
    target
        The answer that maps of the slide explain.
    layer, channels
        See `explain.maps.MapRequest`.
    """

    target: Target = None
    layer: int = -1
    channels: Channels = "absolute"


@dataclass
class Inspection:
    """A model and a bag that can be asked, as often as one likes.

    Attributes
    ----------
    subject
        The model and the bag.
    provenance
        Its scans; None for models without a 2D scan.
    """

    subject: Subject
    provenance: Provenance | None
    _kept: dict[tuple[str, Target], GridMap] = field(default_factory=dict)
    _averages: dict[tuple[int, tuple[int, ...] | None], NDArray[np.float64]] = field(
        default_factory=dict
    )

    @classmethod
    def of(cls, subject: Subject) -> "Inspection":
        """Return a model and a bag that nothing was asked of yet."""
        return cls(subject, Provenance(subject) if subject.model.tells_scans else None)

    @cached_property
    def counterfactuals(self) -> Counterfactuals:
        """Edits of the slide; made when they are first asked for, in the time of a prediction.

        They, and everything that takes long, use a copy of the model, so that maps stay live
        meanwhile.
        """
        apart = dataclasses.replace(self.subject, model=copy.deepcopy(self.subject.model))
        return Counterfactuals(apart)

    def map(
        self,
        name: str,
        patches: Sequence[int],
        options: MapOptions,
        on_progress: ProgressCallback,
        should_stop: StopCallback,
    ) -> GridMap:
        """Return a map by its name; of several patches the mean, or their joint field.

        Raises
        ------
        UserError
            When the model cannot give this map.
        Cancelled
            When ``should_stop()`` said so.
        """

        def asked(patch: int) -> MapRequest:
            return MapRequest(
                self.subject,
                patch,
                options.target,
                options.layer,
                options.channels,
                on_progress,
                should_stop,
            )

        if not MAPS[name].at_patch:
            return self._of_slide(name, asked(0))
        if name == "erf-average":
            field = self.average(patches, asked(0))
            words = averaged_words(self.subject, patches)
            return lay_on_patch(self.subject, field, patches[-1], words)
        if name in _OF_FIELD:
            return receptive_field(
                self.subject, list(patches), layer=options.layer, measure=_OF_FIELD[name],
                on_progress=on_progress, should_stop=should_stop,
            )  # fmt: skip
        maps = [self._of_patch(name, asked(patch)) for patch in patches]
        if len(maps) == 1:
            return maps[0]
        return dataclasses.replace(
            maps[0],
            values=np.mean([one.values for one in maps], axis=0),
            meaning=f"mean over {len(maps)} patches: {MAPS[name].question}",
            queries=tuple(self.subject.cell_corner_of(patch) for patch in patches),
        )

    def keep(self, name: str, grid_map: GridMap) -> None:
        """Keep a map of the slide that was made already; nothing else depends on a target."""
        self._kept[name, None] = grid_map

    def average(self, patches: Sequence[int], asked: MapRequest) -> NDArray[np.float64]:
        """Return the average receptive field: of the tissue, or of several inspected patches."""
        several = tuple(patches) if len(patches) > 1 else None
        key = asked.layer, several
        if key not in self._averages:
            self._averages[key] = average_of(asked, several)
        return self._averages[key]

    def _of_slide(self, name: str, asked: MapRequest) -> GridMap:
        key = name, None if name.startswith("stability-") else asked.target
        if key not in self._kept:
            self._kept[key] = MAPS[name].compute(asked)
        return self._kept[key]

    def _of_patch(self, name: str, asked: MapRequest) -> GridMap:
        if name in _OF_PROVENANCE and self.provenance is not None:
            direction, through = _OF_PROVENANCE[name]
            ask = self.provenance.on if direction == "on" else self.provenance.feeds
            return ask(asked.patch, layer=asked.layer, through=through, channels=asked.channels)
        return MAPS[name].compute(asked)

    def neighbour(self, patch: int, rows: int, cols: int) -> int | None:
        """Return the next patch in a direction, over gaps in the tissue; None past the last."""
        cells = self.subject.cells_of_patches
        step = np.array([rows, cols])
        away = cells - cells[patch]
        ahead = away @ step
        aside = np.abs(away @ step[::-1])
        found = np.flatnonzero((ahead > 0) & (aside == 0))
        return int(found[np.argmin(ahead[found])]) if len(found) else None
