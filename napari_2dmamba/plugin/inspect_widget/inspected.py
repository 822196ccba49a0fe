"""A run made ready for questions: its model and features, and what was computed of them."""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_2dmamba.errors import CheckpointError, FeatureError
from napari_2dmamba.explain.counterfactual import Counterfactuals
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.named_maps import MAPS, Asked
from napari_2dmamba.explain.outcome import Target
from napari_2dmamba.explain.provenance import Provenance, Through
from napari_2dmamba.explain.receptive_field import (
    FieldSize,
    Measure,
    field_size,
    measure_field,
    receptive_field,
)
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.export.record import features_hash, file_hash
from napari_2dmamba.features.files import read_features
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
    _of_slide: dict[tuple[str, Target], GridMap] = field(default_factory=dict)

    @classmethod
    def of(cls, shown: ShownRun) -> "Inspected":
        """Read what is needed; to be called off the GUI thread.

        Raises
        ------
        CheckpointError, FeatureError
            When model or features of the run are gone, or are not those of the run any more.
        """
        bag = shown.bag
        if bag is None:
            path = _find(shown, "features", shown.record["features"].get("path"))
            if path is None:
                raise FeatureError(
                    "the features of this run were not kept, or were moved; run the slide again "
                    "to inspect it"
                )
            bag = read_features(path)
            if features_hash(bag) != shown.record["features"]["content_sha256"]:
                raise FeatureError(
                    f"{path} was changed since the run; run the slide again to inspect it"
                )
        if bag.slide_mpp != shown.slide.mpp:  # maps are placed on the slide as it is shown
            bag = dataclasses.replace(bag, slide_mpp=shown.slide.mpp)
        aggregator = load_checkpoint(_checkpoint(shown))
        chosen = {**shown.record.get("settings", {}).get("model", {}), "device": "auto"}
        subject = Subject.of(aggregator, bag, ModelSettings(**chosen))
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
        target: Target,
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
        if not MAPS[name].at_patch:
            key = name, target
            if key not in self._of_slide:
                made = self._named(name, 0, target, on_progress, should_stop)
                if name.startswith("stability-"):  # two maps of one name would share a layer
                    made = dataclasses.replace(made, name=f"{made.name} ({name[10:]})")
                self._of_slide[key] = made
            return self._of_slide[key]
        if name in _OF_FIELD:
            return receptive_field(
                self.subject, list(patches), measure=_OF_FIELD[name], on_progress=on_progress,
                should_stop=should_stop,
            )  # fmt: skip
        maps = [self._named(name, p, target, on_progress, should_stop) for p in patches]
        if len(maps) == 1:
            return maps[0]
        return dataclasses.replace(
            maps[0],
            values=np.mean([one.values for one in maps], axis=0),
            meaning=f"mean over {len(maps)} patches: {MAPS[name].question}",
        )

    def _named(
        self,
        name: str,
        patch: int,
        target: Target,
        on_progress: ProgressCallback,
        should_stop: StopCallback,
    ) -> GridMap:
        if name in _OF_PROVENANCE and self.provenance is not None:
            direction, through = _OF_PROVENANCE[name]
            ask = self.provenance.on if direction == "on" else self.provenance.feeds
            return ask(patch, through=through)
        return MAPS[name].compute(
            Asked(self.subject, patch, target, -1, "absolute", on_progress, should_stop)
        )

    def neighbour(self, patch: int, rows: int, cols: int) -> int | None:
        """Return the next patch in a direction, over gaps in the tissue; None past the last."""
        cells = self.subject.cells_of_patches
        step = np.array([rows, cols])
        away = cells - cells[patch]
        ahead = away @ step
        aside = np.abs(away @ step[::-1])
        found = np.flatnonzero((ahead > 0) & (aside == 0))
        return int(found[np.argmin(ahead[found])]) if len(found) else None

    def numbers(self, patch: int, maps: dict[str, GridMap]) -> "PatchNumbers":
        """Gather what is known of one patch."""
        attention = self.shown.prediction.attention
        x, y = self.subject.corner_of(patch)
        origin, share, source = maps.get("provenance"), None, None
        if origin is not None:
            side = self.subject.bag.patch_size_level0
            cell = (y - origin.origin[1]) // side, (x - origin.origin[0]) // side
            total = float(np.nansum(origin.values))
            share = float(origin.values[cell]) / total if total > 0 else float("nan")
            source = field_size(origin.values, cell, self.subject.cell_um)
        erf = maps.get("erf")
        values = {one.name: float(self.subject.scores_of_map(one)[patch]) for one in maps.values()}
        return PatchNumbers(
            patch,
            (x, y),
            self.subject.cell_of(patch),
            float(attention[patch]),
            int((attention > attention[patch]).sum()) + 1,
            len(attention),
            share,
            source,
            None if erf is None else measure_field(self.subject, erf, patch),
            values,
        )


@dataclass(frozen=True)
class PatchNumbers:
    """What is known of one patch.

    Attributes
    ----------
    patch, corner, cell
        Its number, level-0 ``(x, y)``, and ``(row, col)`` on the canvas.
    attention, rank, count
        Its attention, the place of it among all patches, and how many there are.
    own_share, source
        Share of its provenance that is its own, and the extent of the provenance.
    field
        Extent of its receptive field.
    values
        Value of every live map at the patch, by the map's name.
    """

    patch: int
    corner: tuple[int, int]
    cell: tuple[int, int]
    attention: float
    rank: int
    count: int
    own_share: float | None
    source: FieldSize | None
    field: FieldSize | None
    values: dict[str, float]

    def record(self) -> dict[str, Any]:
        """Return what the run's record says of the query."""
        said: dict[str, Any] = {
            "patch": self.patch, "x": self.corner[0], "y": self.corner[1],
            "row": self.cell[0], "col": self.cell[1],
        }  # fmt: skip
        if self.field is not None:
            said["receptive_field"] = dataclasses.asdict(self.field)
        return said


def _checkpoint(shown: ShownRun) -> Path:
    said = shown.record["model"]
    path = _find(shown, "checkpoint", said.get("checkpoint_path"))
    if path is None:
        raise CheckpointError(
            f"the checkpoint {said.get('checkpoint')} of this run is neither at "
            f"{said.get('checkpoint_path')} nor in the run's folder; put it back to inspect the run"
        )
    if said.get("checkpoint_sha256") not in (None, file_hash(path)):
        raise CheckpointError(
            f"{path} is not the checkpoint of this run any more (its checksum differs); put the "
            "old one back, or run the slide again"
        )
    return path


def _find(shown: ShownRun, what: str, path: str | None) -> Path | None:
    """Return where a file of the run lies, which may have moved together with the run."""
    if path is None:
        return None
    places = [Path(path)]
    if shown.folder is not None:
        places += [shown.folder / Path(path).name, shown.folder.parent / Path(path).name]
        relative = shown.record.get("relative_paths", {}).get(what)
        if relative is not None:
            places.insert(0, shown.folder / relative)
    return next((place for place in places if place.is_file()), None)
