"""Zeiss CZI through libCZI, where OpenSlide refuses: fluorescence, stacks, other programs' files.

The library, pylibCZIrw, is under the LGPL and therefore only in an extra (``czi``).
"""

import contextlib
import math
import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide.backend import (
    LARGEST_SIDE,
    Channel,
    Level,
    TileError,
    require_tile,
    usable_mpp,
)
from napari_2dmamba.slide.czi_blocks import read_blocks
from napari_2dmamba.slide.level_factors import settle
from napari_2dmamba.slide.reads import Reads

_MAGIC = b"ZISRAWFILE"
_TILE = 512
_MOST_CHANNELS = 256
_LONGEST_METADATA = 2**26
_DTYPES = {
    "Gray8": (np.uint8, 1), "Gray16": (np.uint16, 1), "Gray32Float": (np.float32, 1),
    "Bgr24": (np.uint8, 3), "Bgr48": (np.uint16, 3),
}  # fmt: skip
_AXES = {"T": "time point", "R": "rotation", "I": "illumination", "H": "phase", "V": "view"}


def is_czi(header: bytes) -> bool:
    """Tell CZI by its first bytes."""
    return header.startswith(_MAGIC)


class CziBackend:
    """Read squares of the whole canvas, on which each scene lies where it was scanned.

    Raises
    ------
    SlideError
        When pylibCZIrw is not installed, or the file is damaged or cannot be shown.
    """

    name = "libCZI"
    content_hash: str | None = None
    no_picture: str | None = None

    def __init__(self, path: Path) -> None:
        try:
            from pylibCZIrw.czi import CziReader
        except ImportError:
            raise SlideError(
                f"{path.name} is a CZI that OpenSlide does not read, and pylibCZIrw is not "
                'installed: run pip install "napari-2dmamba[czi]"'
            ) from None
        self._name = path.name
        self._reads, self._lock = Reads(), threading.Lock()
        self.remarks: tuple[str, ...] = ()
        try:
            self._blocks = read_blocks(path)
            self._reader = CziReader(str(path))
            self._describe()
        except SlideError:
            self._close_quietly()
            raise
        except Exception as error:  # noqa: BLE001 - libCZI's kinds; messages may quote metadata
            self._close_quietly()
            raise SlideError(
                f"{path.name} is a CZI that is damaged or cut short ({type(error).__name__}); "
                "copy or export it again"
            ) from None

    # -- what the file says -------------------------------------------------------------------

    def _describe(self) -> None:
        whole = self._reader.total_bounding_rectangle_no_pyramid
        self._left, self._top = whole.x, whole.y
        if min(whole.w, whole.h) < 1 or max(whole.w, whole.h) > LARGEST_SIDE:
            raise SlideError(
                f"{self._name} claims {whole.w} x {whole.h} pixels, which no slide has; it is "
                "damaged: copy or export it again"
            )
        self._refuse_scenes_in_one_place()
        factors = [one for one in self._blocks.factors if one <= whole.w]
        self._choose_planes()
        stated = self._metadata()
        self._choose_pixels(stated)
        self.levels = tuple(
            Level(math.ceil(whole.w / f), math.ceil(whole.h / f), float(f), _TILE, _TILE)
            for f in factors
        )
        settled = settle(self.levels, self.read_tile)
        self.levels, self.remarks = settled.levels, self.remarks + settled.remarks
        self.bounds = (0, 0, whole.w, whole.h)
        self.mpp, self.mpp_source = _resolution(stated)
        self.properties = {"vendor": "zeiss"}
        power = None if stated is None else stated.findtext(".//NominalMagnification")
        if power:
            self.properties["objective_power"] = power[:20]

    def _refuse_scenes_in_one_place(self) -> None:
        scenes = list(self._reader.scenes_bounding_rectangle_no_pyramid.values())
        for index, one in enumerate(scenes):
            for other in scenes[index + 1 :]:
                across = min(one.x + one.w, other.x + other.w) - max(one.x, other.x)
                along = min(one.y + one.h, other.y + other.h) - max(one.y, other.y)
                if across > 0 and along > 0:
                    raise SlideError(
                        f"{self._name} holds {len(scenes)} scenes that lie over one another; "
                        "export each scene to a file of its own"
                    )
        if len(scenes) > 1:
            self.remarks += (f"its {len(scenes)} scenes are shown where they lie on the glass",)

    def _choose_planes(self) -> None:
        """Take the middle focal plane, and the first of everything else."""
        sizes = {
            name: high - low
            for name, (low, high) in self._reader.total_bounding_box.items()
            if name not in "XYC"
        }
        self._plane = {}
        for axis, size in sizes.items():
            index = size // 2 if axis == "Z" else 0
            self._plane[axis] = index
            if size > 1:
                what = "focal plane" if axis == "Z" else _AXES.get(axis, f"position on axis {axis}")
                self.remarks += (f"{what} {index + 1} of {size} is shown",)

    def _choose_pixels(self, stated: ElementTree.Element | None) -> None:
        count = self._reader.total_bounding_box["C"][1]
        kinds = {self._reader.get_channel_pixel_type(i) for i in range(min(count, _MOST_CHANNELS))}
        kind = kinds.pop() if len(kinds) == 1 else ""
        if kind not in _DTYPES or count > _MOST_CHANNELS:
            raise SlideError(
                f"{self._name} holds {count} channels whose pixels cannot be shown together; "
                "export it as OME-TIFF or OME-Zarr"
            )
        dtype, self._samples = _DTYPES[kind]
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._channel_count = count
        self.rgb = kind == "Bgr24" and count == 1
        colours = [Channel("red"), Channel("green"), Channel("blue")]
        if self._samples == 1:
            self.channels = _channels(stated, count)
        elif count == 1:
            self.channels = tuple(colours)
        else:
            self.channels = tuple(
                Channel(f"{one.name} {colour.name}")
                for one in _channels(stated, count)
                for colour in colours
            )
        self.background: tuple[int, ...] = (255 if self.rgb else 0,) * len(self.channels)

    def _metadata(self) -> ElementTree.Element | None:
        text = self._reader.raw_metadata
        if not text or len(text) > _LONGEST_METADATA:
            return None
        try:
            return ElementTree.fromstring(text)
        except ElementTree.ParseError:
            return None

    # -- pixels -------------------------------------------------------------------------------

    def read_tile(self, level: int, row: int, column: int) -> NDArray[Any]:
        """See `Backend.read_tile`."""
        stored = self.levels[level]
        factor = round(stored.downsample)
        x, y = column * _TILE, row * _TILE
        width, height = min(_TILE, stored.width - x), min(_TILE, stored.height - y)
        place = (self._left + x * factor, self._top + y * factor, width * factor, height * factor)
        ground = (float(self.rgb),) * 3
        with self._reads.one(), self._lock:
            try:
                self._blocks.require_sound(*place)
                parts = [
                    self._reader.read(
                        roi=place,
                        plane={**self._plane, "C": channel},
                        zoom=1 / factor,
                        background_pixel=ground,
                    )
                    for channel in range(self._channel_count)
                ]
            except TileError:
                raise
            except Exception as error:  # noqa: BLE001 - as above
                raise TileError(type(error).__name__) from None
        if self._samples == 3:  # stored as blue, green, red
            parts = [part[..., ::-1] for part in parts]
        pixels = np.ascontiguousarray(np.concatenate(parts, axis=-1))
        require_tile(pixels, stored, row, column, len(self.channels), self.dtype)
        return pixels

    def _close_quietly(self) -> None:
        for name in ("_reader", "_blocks"):
            with contextlib.suppress(Exception):
                opened = getattr(self, name)
                (opened if name == "_reader" else opened.file).close()

    def close(self) -> None:
        """See `Backend.close`."""
        if self._reads.end():
            self._close_quietly()


def _resolution(stated: ElementTree.Element | None) -> tuple[float | None, str]:
    """Return µm per pixel from the scaling, which CZI gives in metres."""
    sizes: list[float | None] = []
    for axis in "XY":
        text = None
        if stated is not None:
            text = stated.findtext(f".//Scaling/Items/Distance[@Id='{axis}']/Value")
        try:
            sizes.append(float(text) * 1e6 if text else None)
        except ValueError:
            sizes.append(None)
    if any(not size for size in sizes):  # 0 stands for unknown
        return None, "the file states no resolution"
    return usable_mpp(sizes[0], sizes[1], "CZI scaling")


def _channels(stated: ElementTree.Element | None, count: int) -> tuple[Channel, ...]:
    found: list[ElementTree.Element] = []
    if stated is not None:
        found = stated.findall(".//Information/Image/Dimensions/Channels/Channel")
    names = [(one.get("Name") or "")[:80] for one in found] if len(found) == count else []
    shades = {} if stated is None else _colours(stated)
    return tuple(
        Channel(
            (names[index] if names else "") or f"channel {index + 1}",
            shades.get(f"Channel:{index}"),
        )
        for index in range(count)
    )


def _colours(stated: ElementTree.Element) -> dict[str, tuple[float, float, float]]:
    """Return the colours of the display settings, written ``#AARRGGBB``."""
    shades = {}
    for one in stated.findall(".//DisplaySetting/Channels/Channel"):
        text = (one.findtext("Color") or "").lstrip("#")[-6:]
        with contextlib.suppress(ValueError, IndexError):
            red, green, blue = (int(text[i : i + 2], 16) / 255 for i in (0, 2, 4))
            shades[one.get("Id", "")] = (red, green, blue)
    return shades
