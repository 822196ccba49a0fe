"""A run made ready for questions: its model and features, and what was computed of them."""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import CheckpointError, FeatureError
from napari_2dmamba.explain.counterfactual import Counterfactuals
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.named_maps import AVERAGED, MAPS, Asked, average_of
from napari_2dmamba.explain.outcome import Target
from napari_2dmamba.explain.provenance import Channels, Provenance, Through
from napari_2dmamba.explain.receptive_field import Measure, lay_on_patch, receptive_field
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.export.record import features_hash, file_hash
from napari_2dmamba.features import FeatureFileSettings
from napari_2dmamba.features.lattice import laid_out
from napari_2dmamba.features.on_slide import features_on
from napari_2dmamba.models import load_checkpoint
from napari_2dmamba.models.mamba2d import Mamba2DMIL
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.plugin.shown_run import ShownRun
from napari_2dmamba.settings import ProgressCallback, StopCallback

_OF_PROVENANCE: dict[str, tuple[Literal["on", "feeds"], Through]] = {
    "provenance": ("on", "state"),
    "provenance-gate": ("on", "gate"),
    "provenance-projection": ("on", "projection"),
    "feeds": ("feeds", "state"),
}
_OF_FIELD: dict[str, Measure] = {"erf": "jacobian", "erf-figure": "figure"}


@dataclass(frozen=True)
class How:
    """How maps are computed.

    Attributes
    ----------
    target
        The answer that maps of the slide explain.
    layer, channels
        See `explain.named_maps.Asked`.
    """

    target: Target = None
    layer: int = -1
    channels: Channels = "absolute"


@dataclass
class Inspected:
    """A run that can be asked.

    Attributes
    ----------
    shown
        The run.
    subject
        Its model and features.
    provenance
        Its scans; None for models without a 2D scan.
    counterfactuals
        Edits of the slide. They, and everything that takes long, use a copy of the model, so
        that maps stay live meanwhile.
    """

    shown: ShownRun
    subject: Subject
    provenance: Provenance | None
    counterfactuals: Counterfactuals
    _kept: dict[tuple[str, Target], GridMap] = field(default_factory=dict)
    _averages: dict[tuple[int, tuple[int, ...] | None], NDArray[np.float64]] = field(
        default_factory=dict
    )

    @classmethod
    def of(cls, shown: ShownRun) -> "Inspected":
        """Read what is needed; to be called off the GUI thread.

        Raises
        ------
        CheckpointError, FeatureError
            When model or features of the run are gone, or are not those of the run any more.
        """
        bag = shown.bag
        aggregator = load_checkpoint(_checkpoint(shown), **shown.record.model.told)
        stages = shown.record.settings
        chosen = ModelSettings(**{**stages.get("model", {}), "device": "auto"})
        if bag is None:
            path = _find(shown, shown.record.features.path)
            if path is None:
                raise FeatureError(
                    "the features of this run were not kept, or were moved; run the slide again "
                    "to inspect it"
                )
            given = FeatureFileSettings(**stages.get("feature_file", {}))
            bag = features_on(shown.slide, path, trained=aggregator.header, given=given)
            bag, _ = laid_out(
                bag, uses_grid=aggregator.model.uses_grid, shared_cells=chosen.shared_cells
            )
            if features_hash(bag) != shown.record.features.content_sha256:
                raise FeatureError(
                    f"{path} was changed since the run; run the slide again to inspect it"
                )
        if bag.slide_mpp != shown.slide.mpp:  # maps are placed on the slide as it is shown
            bag = dataclasses.replace(bag, slide_mpp=shown.slide.mpp)
        subject = Subject.of(aggregator, bag, chosen)
        return cls(
            shown,
            subject,
            Provenance(subject) if isinstance(subject.model, Mamba2DMIL) else None,
            Counterfactuals(dataclasses.replace(subject, model=copy.deepcopy(subject.model))),
        )

    def map(
        self,
        name: str,
        patches: Sequence[int],
        how: How,
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

        def asked(patch: int) -> Asked:
            return Asked(
                self.subject, patch, how.target, how.layer, how.channels, on_progress, should_stop
            )

        if not MAPS[name].at_patch:
            return self._of_slide(name, asked(0))
        if name == "erf-average":
            field = self.average(patches, asked(0))
            return lay_on_patch(self.subject, field, patches[-1], averaged_words(patches))
        if name in _OF_FIELD:
            return receptive_field(
                self.subject, list(patches), layer=how.layer, measure=_OF_FIELD[name],
                on_progress=on_progress, should_stop=should_stop,
            )  # fmt: skip
        maps = [self._of_patch(name, asked(patch)) for patch in patches]
        if len(maps) == 1:
            return maps[0]
        return dataclasses.replace(
            maps[0],
            values=np.mean([one.values for one in maps], axis=0),
            meaning=f"mean over {len(maps)} patches: {MAPS[name].question}",
            queries=tuple(self.subject.corner_of(patch) for patch in patches),
        )

    def keep(self, name: str, grid_map: GridMap) -> None:
        """Keep a map of the slide that was made already; nothing else depends on a target."""
        self._kept[name, None] = grid_map

    def average(self, patches: Sequence[int], asked: Asked) -> NDArray[np.float64]:
        """Return the average receptive field: of the tissue, or of several inspected patches."""
        several = tuple(patches) if len(patches) > 1 else None
        key = asked.layer, several
        if key not in self._averages:
            self._averages[key] = average_of(asked, several)
        return self._averages[key]

    def _of_slide(self, name: str, asked: Asked) -> GridMap:
        key = name, None if name.startswith("stability-") else asked.target
        if key not in self._kept:
            self._kept[key] = MAPS[name].compute(asked)
        return self._kept[key]

    def _of_patch(self, name: str, asked: Asked) -> GridMap:
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


def averaged_words(patches: Sequence[int]) -> str:
    """Say whose receptive fields an average is of, with these patches inspected."""
    if len(patches) > 1:
        return f"the {len(patches)} inspected patches"
    return f"{AVERAGED} patches of the tissue"


def _checkpoint(shown: ShownRun) -> Path:
    said = shown.record.model
    path = _find(shown, said.checkpoint_path)
    if path is None:
        raise CheckpointError(
            f"the checkpoint {said.checkpoint} of this run is neither at "
            f"{said.checkpoint_path} nor in the run's folder; put it back to inspect the run"
        )
    if said.checkpoint_sha256 not in (None, file_hash(path)):
        raise CheckpointError(
            f"{path} is not the checkpoint of this run any more (its checksum differs); put the "
            "old one back, or run the slide again"
        )
    return path


def _find(shown: ShownRun, path: str | None) -> Path | None:
    """Return where a file of the run lies, which may have moved together with the run."""
    if path is None:
        return None
    places = [Path(path)]
    if shown.folder is not None:
        places += [shown.folder / Path(path).name, shown.folder.parent / Path(path).name]
    return next((place for place in places if place.is_file()), None)
