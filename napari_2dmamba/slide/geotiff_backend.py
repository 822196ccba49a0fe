"""GeoTIFFs as pictures in 8-bit red, green and blue: bands chosen, wider values scaled."""

import re
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_2dmamba.slide.backend import Channel
from napari_2dmamba.slide.georeference import Georeference, georeference
from napari_2dmamba.slide.stored_file import StoredFile
from napari_2dmamba.slide.tiff_metadata import quiet_tifffile
from napari_2dmamba.slide.tifffile_backend import TifffileBackend

_METADATA, _NO_DATA = 42112, 42113  # GDAL's
_ALPHA = (1, 2)
_COLOURS = (
    re.compile(r"\bred\b|\bB0?4\b", re.I),
    re.compile(r"\bgreen\b|\bB0?3\b", re.I),
    re.compile(r"\bblue\b|\bB0?2\b", re.I),
)
"""What bands are called: by colour, or by Sentinel-2's numbers."""
_LOW, _HIGH = 2, 98
_SAMPLED_TILES = 25
_GROUND_UM = 1e6


def georeference_of(opened: BinaryIO, name: str) -> Georeference | None:
    """Return where a TIFF lies on the ground; None for those that do not say, as slides."""
    with quiet_tifffile():
        try:
            opened.seek(0)  # where tifffile begins to count
            with tifffile.TiffFile(opened, name=name, _multifile=False) as tiff:
                return georeference(tiff.pages.first)
        except Exception:  # noqa: BLE001 - tifffile lets any error through; opening tells it
            return None


class GeoTiffBackend:
    """Show three bands of a GeoTIFF.

    Values of 8 bits are taken as they are. Others are scaled, band by band, so that percentiles 2
    and 98 of a sample of tiles become 0 and 255.

    Parameters
    ----------
    path
        The file.
    placed
        Where it lies.
    stored
        Its bytes, where they are not a file of this machine.

    Raises
    ------
    NotForThisBackend, SlideError
        As of `TifffileBackend`.
    """

    name = "tifffile (GeoTIFF)"
    background: tuple[int, ...] = (255, 255, 255)
    content_hash: str | None = None
    rgb = True
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    channels: tuple[Channel, ...] = (Channel("red"), Channel("green"), Channel("blue"))

    def __init__(self, path: Path, placed: Georeference, stored: StoredFile | None = None) -> None:
        self._bands = TifffileBackend(path, stored, as_bands=True)
        self.stored = self._bands.stored
        self.georeference = placed
        self.no_picture = self._bands.no_picture
        self.levels, self.bounds = self._bands.levels, self._bands.bounds
        self.mpp = None if placed.metres is None else placed.metres * _GROUND_UM
        self.mpp_source = placed.source
        page = self._bands.page
        names = _band_names(page)
        self._alpha = _alpha_band(page)
        self._no_data = _no_data(page)
        self._chosen = _choose(names, len(self._bands.channels), self._alpha)
        self._limits: list[tuple[float, float]] | None = None
        remarks = [self._say_bands(names)]
        if self._bands.dtype != np.uint8:
            self._limits = self._sampled_limits()
            ranges = ", ".join(f"{low:g} to {high:g}" for low, high in self._limits)
            remarks.append(
                f"{self._bands.dtype} values {ranges} of these bands (percentiles {_LOW} and "
                f"{_HIGH}) are shown, and given to networks, as 0 to 255"
            )
        if self._no_data is not None:
            remarks.append(f"pixels without data ({self._no_data:g}) are white")
        self.remarks: tuple[str, ...] = (*self._bands.remarks, *remarks)
        self.properties = {
            **self._bands.properties, "vendor": "GeoTIFF", "coordinate_system": placed.crs,
        }  # fmt: skip

    def _say_bands(self, names: dict[int, str]) -> str:
        total = len(self._bands.channels)
        if len(set(self._chosen)) == 1:
            return f"band 1 of {total} is shown in grey"
        shown = ", ".join(
            f"{band + 1} ({names[band]})" if band in names else f"{band + 1}"
            for band in self._chosen
        )
        return f"bands {shown} of {total} are shown as red, green, blue"

    def _sampled_limits(self) -> list[tuple[float, float]]:
        """Return the values that become 0 and 255, for each band shown."""
        level = len(self.levels) - 1
        last = self.levels[level]
        columns, rows = -(-last.width // last.tile_width), -(-last.height // last.tile_height)
        total = columns * rows
        numbers = np.unique(np.linspace(0, total - 1, min(total, _SAMPLED_TILES)).astype(int))
        found = []
        for number in numbers.tolist():
            tile = self._bands.read_tile(level, number // columns, number % columns)
            seen = tile[~self._is_empty(tile)][:, self._chosen]
            found.append(seen[:: max(1, len(seen) // 40_000)].astype(np.float64))
        values = np.concatenate(found)
        limits = []
        for band in values.T:
            finite = band[np.isfinite(band)]
            low, high = np.percentile(finite, (_LOW, _HIGH)) if finite.size else (0.0, 1.0)
            limits.append((float(low), float(high if high > low else low + 1)))
        return limits

    def _is_empty(self, tile: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which pixels hold no data."""
        shown = tile[..., self._chosen]
        empty = np.zeros(tile.shape[:2], bool)
        if self._no_data is not None:
            empty |= (shown == self._no_data).all(-1)
        if shown.dtype.kind == "f":
            empty |= ~np.isfinite(shown).all(-1)
        if self._alpha is not None:
            empty |= tile[..., self._alpha] == 0
        return empty

    def read_tile(self, level: int, row: int, column: int) -> NDArray[Any]:
        """See `Backend.read_tile`."""
        tile = self._bands.read_tile(level, row, column)
        shown = tile[..., self._chosen]
        if self._limits is not None:
            low, high = (np.array(side, np.float32) for side in zip(*self._limits, strict=True))
            scaled = (shown.astype(np.float32) - low) / (high - low) * 255
            shown = np.nan_to_num(np.rint(scaled).clip(0, 255)).astype(np.uint8)
        empty = self._is_empty(tile)
        if empty.any():
            shown = np.where(empty[..., None], np.uint8(255), shown)
        return np.ascontiguousarray(shown, dtype=np.uint8)

    def close(self) -> None:
        """See `Backend.close`."""
        self._bands.close()


def _band_names(page: tifffile.TiffPage) -> dict[int, str]:
    """Return what GDAL's metadata call bands."""
    tag = page.tags.get(_METADATA)
    if tag is None:
        return {}
    try:
        root = ElementTree.fromstring(str(tag.value))
        return {
            int(item.attrib["sample"]): (item.text or "").strip()
            for item in root.iter("Item")
            if item.get("role") == "description" and (item.text or "").strip()
        }
    except (ElementTree.ParseError, KeyError, ValueError):
        return {}


def _alpha_band(page: tifffile.TiffPage) -> int | None:
    extra = [int(value) for value in page.extrasamples]
    first = page.samplesperpixel - len(extra)
    return next((first + i for i, value in enumerate(extra) if value in _ALPHA), None)


def _no_data(page: tifffile.TiffPage) -> float | None:
    tag = page.tags.get(_NO_DATA)
    try:
        found = None if tag is None else float(tag.value)
    except ValueError:
        return None
    return None if found is None or np.isnan(found) else found


def _choose(names: dict[int, str], count: int, alpha: int | None) -> list[int]:
    """Return the bands shown as red, green, blue: as they are named, else the first three."""
    named = [[k for k, name in names.items() if one.search(name)] for one in _COLOURS]
    if all(named) and max(max(found) for found in named) < count:
        return [found[0] for found in named]
    pictures = [band for band in range(count) if band != alpha]
    return pictures[:3] if len(pictures) >= 3 else pictures[:1] * 3
