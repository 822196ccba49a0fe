"""Patches as QuPath tiles."""

import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.explain.display import colour_indices, colour_table
from napari_2dmamba.export.patches import PatchScores

_NAMESPACE = uuid.UUID("5d0b0c52-64d5-4b0f-9d0c-2d5e1c0f2d2d")
_WORDS = {
    "row": "Row",
    "col": "Column",
    "attention": "Attention",
    "rank": "Attention rank",
    "percentile": "Attention percentile",
    "tissue_fraction": "Tissue fraction",
}
_IMPLIED_BY_THE_OUTLINE = {
    "x_level0_px", "y_level0_px", "size_level0_px", "x_um", "y_um", "size_um",
}  # fmt: skip


def write_geojson(
    scores: PatchScores,
    path: str | os.PathLike[str],
    *,
    bounds: tuple[int, int, int, int] | None = None,
    slide_id: str = "",
    classification: str | None = None,
) -> Path:
    """Write one tile per patch, with its measurements, as QuPath opens them on the same slide.

    The schema is the one QuPath 0.4 and newer writes itself: a FeatureCollection of objects of
    type ``tile`` with ``measurements`` as a dictionary (SBU-BMI/wsinfer issue 178). Missing
    measurements are left out, for JSON has no NaN.

    Parameters
    ----------
    scores
        The patches.
    path
        Usually ends in ``.geojson``.
    bounds
        `Slide.bounds`, level-0 ``(x, y, width, height)``. QuPath counts from the corner of the
        OpenSlide bounds (as in MRXS files), so x and y are taken off all coordinates.
    slide_id
        `Slide.fingerprint`. Objects get identifiers made from it and their place, so that the
        same patch keeps its identifier from one export to the next.
    classification
        Class of all tiles, or None for none.

    Raises
    ------
    ExportError
        When the file cannot be written.
    """
    path = Path(path)
    offset = (bounds[0], bounds[1]) if bounds is not None else (0, 0)
    with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"type":"FeatureCollection","features":[\n')
        first = True
        for feature in _features(scores, offset, slide_id, classification):
            file.write(feature if first else ",\n" + feature)
            first = False
        file.write("\n]}\n")
    return path


def _features(
    scores: PatchScores, offset: tuple[int, int], slide_id: str, classification: str | None
) -> Iterator[str]:
    """Yield the JSON text of one tile after the other; 100,000 of them must not take long."""
    columns = [
        _measurement(_WORDS.get(name, name), values)
        for name, values in scores.columns().items()
        if name not in _IMPLIED_BY_THE_OUTLINE
    ]
    size = scores.patch_size_level0
    places = scores.coords.tolist()
    space = uuid.uuid5(_NAMESPACE, f"{slide_id}/{size}").bytes
    tail = ',"objectType":"tile","isLocked":true'
    if classification is not None:
        red, green, blue = class_colour(classification)
        name = json.dumps(classification, ensure_ascii=False)
        tail += f',"classification":{{"name":{name},"color":[{red},{green},{blue}]}}'
    for (left, top), *measurements in zip(places, *columns, strict=True):
        x, y = left - offset[0], top - offset[1]
        x2, y2 = x + size, y + size
        # a version-5 UUID, spelled out: uuid.uuid5 takes half of the time of the whole export
        key = hashlib.sha1(space + b"%d,%d" % (left, top), usedforsecurity=False).hexdigest()
        listed = ",".join(filter(None, measurements))
        yield (
            f'{{"type":"Feature","id":"{key[:8]}-{key[8:12]}-5{key[13:16]}-a{key[17:20]}-'
            f'{key[20:32]}","geometry":{{"type":"Polygon","coordinates":[['
            f"[{x},{y}],[{x2},{y}],[{x2},{y2}],[{x},{y2}],[{x},{y}]"
            f']]}},"properties":{{"measurements":{{{listed}}}{tail}}}}}'
        )


def _measurement(name: str, values: NDArray[np.generic]) -> list[str]:
    """Return ``"name":value`` per patch, with all digits of the type; "" for missing values."""
    key = json.dumps(name, ensure_ascii=False)
    if np.issubdtype(values.dtype, np.integer):
        return [f"{key}:{value}" for value in values.tolist()]
    digits = 9 if values.dtype == np.float32 else 17
    return [f"{key}:{v:.{digits}g}" if math.isfinite(v) else "" for v in values.tolist()]


def class_colour(name: str) -> tuple[int, int, int]:
    """Return a colour that a class keeps from one export to the next."""
    position = np.array(uuid.uuid5(_NAMESPACE, name).int % 1000 / 1000)
    red, green, blue = colour_table("turbo")[colour_indices(position)]
    return int(red), int(green), int(blue)
