"""What is known of a patch, as numbers."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.maps import MAPS, MapRequest
from napari_2dmamba.explain.receptive_field import FieldSize, field_size, measure_field
from napari_2dmamba.export.json_file import as_json
from napari_2dmamba.export.record import ExplainedPatch
from napari_2dmamba.plugin.inspect_widget.inspected import How, Inspected
from napari_2dmamba.plugin.layers.patch_place import place_of


@dataclass(frozen=True)
class Extent:
    """How far one of the maps of a patch reaches.

    Attributes
    ----------
    title
        Which map.
    size
        Its size around the patch.
    own_share
        Share of its mass that is on the patch itself.
    """

    title: str
    size: FieldSize
    own_share: float


@dataclass(frozen=True)
class PatchNumbers:
    """What is known of one patch.

    Attributes
    ----------
    patch, corner, cell
        Its number, level-0 ``(x, y)``, and ``(row, col)`` on the slide's grid, as in exports.
    attention, rank, count
        Its attention, the place of it among all patches, and how many there are.
    extents
        How far the live maps of the patch reach, by the map's name.
    values
        Value of every live map at the patch, by the map's title.
    """

    patch: int
    corner: tuple[int, int]
    cell: tuple[int, int]
    attention: float
    rank: int
    count: int
    extents: dict[str, Extent]
    values: dict[str, float]

    def record(self) -> ExplainedPatch:
        """Return what the run's record says of the query."""
        extents = {
            name: as_json({**dataclasses.asdict(one.size), "own_share": one.own_share})
            for name, one in self.extents.items()
        }
        return ExplainedPatch(self.patch, *self.corner, *self.cell, extents)


_EXTENTS = {
    "provenance": "Provenance",
    "feeds": "Feeds",
    "erf": "Receptive field",
    "erf-average": "Mean field",
}


def numbers_of(
    inspected: Inspected, patches: Sequence[int], how: How, maps: Mapping[str, GridMap]
) -> PatchNumbers:
    """Gather what is known of the last of the inspected patches.

    Maps of several patches at once say nothing of one of them, but their average does.
    """
    subject, patch = inspected.subject, patches[-1]
    attention = inspected.shown.prediction.attention
    told = {
        name: one
        for name, one in maps.items()
        if len(patches) == 1 or not MAPS[name].at_patch or name == "erf-average"
    }
    extents = {}
    for name, title in _EXTENTS.items():
        one = told.get(name)
        if one is None or one.signed:
            continue
        if name == "erf-average":
            field = inspected.average(patches, MapRequest(subject, patch, layer=how.layer))
            middle = field.shape[0] // 2, field.shape[1] // 2
            size = field_size(field, middle, subject.cell_um)
            own, total = float(field[middle]), float(np.nansum(field))
        else:
            size = measure_field(subject, one, patch)
            own = float(subject.scores_of_map(one)[patch])
            total = float(np.nansum(one.values))
        extents[name] = Extent(title, size, own / total if total > 0 else math.nan)
    return PatchNumbers(
        patch,
        subject.corner_of(patch),
        place_of(subject.corner_of(patch), subject.bag.patch_size_level0),
        float(attention[patch]),
        int((attention > attention[patch]).sum()) + 1,
        len(attention),
        extents,
        {one.name: float(subject.scores_of_map(one)[patch]) for one in told.values()},
    )
