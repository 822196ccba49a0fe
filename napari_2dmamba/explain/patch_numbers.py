"""What is known of a patch, as numbers: for the viewer, the command line and the record."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.inspection import Inspection, MapOptions
from napari_2dmamba.explain.maps import MAPS, MapRequest
from napari_2dmamba.explain.receptive_field import FieldSize, field_size, measure_field
from napari_2dmamba.explain.subject import Subject


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


_EXTENTS = {
    "provenance": "Provenance",
    "feeds": "Feeds",
    "erf": "Receptive field",
    "erf-average": "Mean field",
    "erf-figure": "As in papers",
}


def extents_of(
    subject: Subject,
    patch: int,
    maps: Mapping[str, GridMap],
    average: NDArray[np.float64] | None = None,
) -> dict[str, Extent]:
    """Measure how far the maps of a patch reach, by the map's name.

    Parameters
    ----------
    subject, patch
        What the maps are about.
    maps
        By name; those with signs, and those that say nothing of one patch, are passed over.
    average
        The field, around its middle cell, that the map ``erf-average`` was laid on the slide
        from; without it that map is passed over, for the slide's rim cuts it.
    """
    found = {}
    for name, title in _EXTENTS.items():
        one = maps.get(name)
        if one is None or one.signed or (name == "erf-average" and average is None):
            continue
        if name == "erf-average" and average is not None:
            middle = average.shape[0] // 2, average.shape[1] // 2
            size = field_size(average, middle, subject.cell_um)
            own, total = float(average[middle]), float(np.nansum(average))
        else:
            size = measure_field(subject, one, patch)
            own = float(subject.scores_of_map(one)[patch])
            total = float(np.nansum(one.values))
        found[name] = Extent(title, size, own / total if total > 0 else math.nan)
    return found


def numbers_of(
    inspection: Inspection,
    attention: NDArray[np.floating],
    patches: Sequence[int],
    options: MapOptions,
    maps: Mapping[str, GridMap],
) -> PatchNumbers:
    """Gather what is known of the last of the inspected patches.

    Maps of several patches at once say nothing of one of them, but their average does.

    Parameters
    ----------
    inspection
        The model and the bag.
    attention
        Attention of all patches ``(N,)``.
    patches
        Numbers of the patches that are inspected together.
    options, maps
        How maps were made, and those that are there, by name.
    """
    subject, patch = inspection.subject, patches[-1]
    told = {
        name: one
        for name, one in maps.items()
        if len(patches) == 1 or not MAPS[name].at_patch or name == "erf-average"
    }
    average = None
    if "erf-average" in told:
        average = inspection.average(patches, MapRequest(subject, patch, layer=options.layer))
    return PatchNumbers(
        patch,
        subject.corner_of(patch),
        subject.place_of(patch),
        float(attention[patch]),
        int((attention > attention[patch]).sum()) + 1,
        len(attention),
        extents_of(subject, patch, told, average),
        {one.name: float(subject.scores_of_map(one)[patch]) for one in told.values()},
    )
