"""OME-Zarr images (NGFF 0.4 and 0.5), as a folder or a zip file.

Read with zarr-python (the extra ``zarr``). Nothing of a store is executed: an array with a codec
outside `PLAIN_CODECS` is refused, since numcodecs' pickle codecs would run what a chunk holds.
"""

import hashlib
import json
import math
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide.backend import (
    Channel,
    Level,
    NotForThisBackend,
    SlideClosed,
    TileError,
    usable_mpp,
)
from napari_2dmamba.slide.level_factors import settle
from napari_2dmamba.slide.remote import Transport

if TYPE_CHECKING:
    import zarr

PLAIN_CODECS = frozenset(
    (
        "bytes", "transpose", "blosc", "gzip", "zlib", "zstd", "lz4", "bz2", "lzma", "crc32c",
        "sharding_indexed", "delta", "shuffle",
    )
)  # fmt: skip
"""Codecs that only move bytes."""
_IN_UM = {
    "nanometer": 1e-3, "nm": 1e-3, "micrometer": 1.0, "micron": 1.0, "µm": 1.0, "μm": 1.0,
    "um": 1.0, "millimeter": 1e3, "mm": 1e3, "centimeter": 1e4, "meter": 1e6,
}  # fmt: skip
_TILE = 512  # where chunks are whole planes, or specks
_LARGEST_CHUNK = 1 << 29  # bytes that one read of a tile may decode
_SAMPLES = 16  # tiles of the finest level that the fingerprint reads
_SIDE_LIMIT = 1 << 24
_MOST_IMAGES = 1000


def is_ome_zarr(path: Path) -> bool:
    """Tell a Zarr group, in a folder or a zip file, from other folders and files."""
    names = {".zgroup", ".zattrs", "zarr.json"}
    if path.is_dir():
        return any((path / name).is_file() for name in names)
    if path.suffix.lower() not in (".zip", ".ozx"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(names & set(archive.namelist()))
    except (OSError, zipfile.BadZipFile):
        return False


class ZarrBackend:
    """Read the chunks of one multiscale image.

    Raises
    ------
    NotForThisBackend
        When zarr is not installed.
    SlideError
        When it is no OME-Zarr image, or damaged, or cannot be shown.
    """

    name = "OME-Zarr"

    def __init__(self, path: Path, transport: Transport | None = None) -> None:
        try:
            import zarr
        except ImportError:
            raise SlideError(
                f'{path.name} is an OME-Zarr image, and zarr is not installed: run pip install "'
                'napari-2dmamba[zarr]"'
            ) from None
        self._name = path.name
        self._closed, self._transport = threading.Event(), transport
        self.remarks: tuple[str, ...] = ()
        try:
            store: Any = str(path)
            if transport is not None:
                from napari_2dmamba.slide.remote_store import RemoteStore

                store = RemoteStore(transport, path.name)
            elif path.is_file():
                store = zarr.storage.ZipStore(path, mode="r")
            self._store = store
            self._open(zarr.open_group(store, mode="r"))
        except (SlideError, NotForThisBackend):
            raise
        except Exception as error:  # zarr passes on whatever JSON, zip and codecs raise
            raise SlideError(
                f"{path.name} is no OME-Zarr image that can be read ({type(error).__name__}: "
                f"{error}); write it again, as OME-Zarr 0.4 or 0.5"
            ) from error

    # -- what the metadata say ----------------------------------------------------------------

    def _open(self, group: "zarr.Group") -> None:
        stated = _ome_of(group)
        if "plate" in stated or "well" in stated:
            raise SlideError(f"{self._name} is a plate of many images; open one image of it")
        if "multiscales" not in stated and "0" in group:  # as bioformats2raw writes series
            others = _images_of(group) - 1
            if others > 0:
                self.remarks += (f"image 1 of {others + 1} is shown",)
            inner = group["0"]
            group = inner if not hasattr(inner, "shape") else group
            stated = _ome_of(group)
        try:
            image, *further = stated["multiscales"]
            if further:
                self.remarks += (f"image 1 of {len(further) + 1} in its multiscales is shown",)
            axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image["axes"]]
            self._axes = "".join(str(axis["name"])[:1].lower() for axis in axes)
            datasets = [
                (str(one["path"]), _scale(one, image, len(axes))) for one in image["datasets"]
            ]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SlideError(
                f"{self._name} states no multiscale image ({type(error).__name__}: {error}); "
                "open the image's own group, or write it again as OME-Zarr 0.4 or 0.5"
            ) from error
        if not self._axes.endswith("yx") or len(set(self._axes)) != len(self._axes):
            raise SlideError(
                f"{self._name} has the axes {self._axes!r}, and only images whose last two are y "
                "and x can be shown"
            )
        self._arrays = [self._array(group, name) for name, _ in datasets]
        first = self._arrays[0]
        self.dtype = np.dtype(first.dtype).newbyteorder("=")
        self._choose(first.shape, stated)
        self.levels = self._levels([scale for _, scale in datasets])
        settled = settle(self.levels, self.read_tile, stated=True)
        self._arrays = [self._arrays[index] for index in settled.kept]
        self.levels, self.remarks = settled.levels, self.remarks + settled.remarks
        width, height = self.levels[0].width, self.levels[0].height
        self.bounds = (0, 0, width, height)
        self.mpp, self.mpp_source = self._resolution(axes, datasets[0][1])
        self.properties: dict[str, str] = {}
        self.no_picture: str | None = None
        self.content_hash: str | None = self._hash()

    def _array(self, group: "zarr.Group", name: str) -> "zarr.Array[Any]":
        if ".." in name.split("/"):
            raise SlideError(f"{self._name} points outside itself ({name}); do not trust it")
        array: Any = group[name]
        if len(array.shape) != len(self._axes) or array.dtype.kind not in "uif":
            raise SlideError(
                f"level {name} of {self._name} is {array.dtype} of shape {array.shape}, which is "
                f"no image with the axes {self._axes}"
            )
        if min(array.shape) < 1 or max(array.shape[-2:]) > _SIDE_LIMIT:
            raise SlideError(
                f"level {name} of {self._name} states an impossible size {array.shape}"
            )
        unknown = sorted(codec_names(array.metadata.to_dict()) - PLAIN_CODECS)
        if unknown:
            raise SlideError(
                f"{self._name} is compressed with {', '.join(unknown)}, which is not read here; "
                "write it again with blosc, zstd or gzip"
            )
        if math.prod(array.chunks) * array.dtype.itemsize > _LARGEST_CHUNK:
            raise SlideError(
                f"level {name} of {self._name} has chunks of {array.chunks}, too large to read "
                "one at a time; write it again with chunks of 256 to 2048 pixels"
            )
        return array

    def _choose(self, shape: tuple[int, ...], stated: dict[str, Any]) -> None:
        """Keep all channels; take the first time and the middle focal plane."""
        words = {"t": "time point", "z": "focal plane"}
        self._index: list[Any] = []
        for axis, size in zip(self._axes[:-2], shape[:-2], strict=True):
            if axis == "c":
                self._index.append(slice(None))
                continue
            index = size // 2 if axis == "z" else 0
            self._index.append(index)
            if size > 1:
                what = words.get(axis, f"position on axis {axis}")
                self.remarks += (f"{what} {index + 1} of {size} is shown",)
        count = shape[self._axes.index("c")] if "c" in self._axes else 1
        named = _channels(stated, count)
        primaries = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
        colours = [channel.color for channel in named]
        labels = [channel.name.strip().lower() for channel in named]
        self.rgb = (
            self.dtype == np.uint8
            and count == 3
            and (
                "omero" not in stated
                or labels in (["red", "green", "blue"], ["r", "g", "b"])
                or colours == primaries
            )
        )
        rgb = (Channel("red"), Channel("green"), Channel("blue"))
        self.channels = rgb if self.rgb else named
        self.background = (255, 255, 255) if self.rgb else (0,) * count

    def _levels(self, scales: list[NDArray[np.float64]]) -> tuple[Level, ...]:
        levels: list[Level] = []
        kept = []
        for array, scale in zip(self._arrays, scales, strict=True):
            height, width = array.shape[-2:]
            factor_y, factor_x = scale[-2:] / scales[0][-2:]
            full_height, full_width = self._arrays[0].shape[-2:]
            fits = (
                abs(factor_x - factor_y) <= 0.01 * factor_x
                and abs(width * factor_x - full_width) <= 2 * factor_x
                and abs(height * factor_y - full_height) <= 2 * factor_y
                and (not levels or factor_x > levels[-1].downsample)
            )
            if not fits and levels:
                self.remarks += (
                    f"level {array.basename} is left out: its size and its scale contradict",
                )
                continue
            tall, wide = (_tile_side(chunk) for chunk in array.chunks[-2:])
            levels.append(Level(width, height, float(factor_x), wide, tall))
            kept.append(array)
        self._arrays = kept
        return tuple(levels)

    def _resolution(
        self, axes: list[dict[str, Any]], scale: NDArray[np.float64]
    ) -> tuple[float | None, str]:
        units = [str(axis.get("unit", "")).strip().lower() for axis in axes[-2:]]
        for unit in units:
            if unit not in _IN_UM:
                return None, f"its unit is {unit[:40]}" if unit else "the file states no unit"
        y, x = (float(v) * _IN_UM[unit] for v, unit in zip(scale[-2:], units, strict=True))
        return usable_mpp(x, y, "OME-Zarr scale")

    def _hash(self) -> str:
        digest = hashlib.sha256(repr([(a.shape, str(a.dtype)) for a in self._arrays]).encode())
        coarsest = len(self.levels) - 1
        for level, most in ((0, _SAMPLES), (coarsest, _SAMPLES)):
            one = self.levels[level]
            rows, columns = -(-one.height // one.tile_height), -(-one.width // one.tile_width)
            for index in np.unique(np.linspace(0, rows * columns - 1, most).astype(np.int64)):
                try:
                    tile = self.read_tile(level, int(index) // columns, int(index) % columns)
                    digest.update(tile.tobytes())
                except TileError:
                    digest.update(b"damaged")
        return digest.hexdigest()

    # -- pixels -------------------------------------------------------------------------------

    def read_tile(self, level: int, row: int, column: int) -> NDArray[Any]:
        """See `Backend.read_tile`."""
        if self._closed.is_set():
            raise SlideClosed("the slide is closed")
        stored = self.levels[level]
        y, x = row * stored.tile_height, column * stored.tile_width
        rows = slice(y, min(y + stored.tile_height, stored.height))
        columns = slice(x, min(x + stored.tile_width, stored.width))
        try:
            pixels = np.asarray(self._arrays[level][(*self._index, rows, columns)])
        except Exception as error:  # zarr passes on whatever files and codecs raise
            raise TileError(f"{type(error).__name__}: {error}") from error
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        if pixels.ndim == 2:
            pixels = pixels[None]
        if pixels.shape[1:] != shape or len(pixels) != len(self.channels):
            raise TileError(f"a chunk of shape {pixels.shape} where {shape} was stated")
        if self.rgb and not pixels.any():  # a chunk that was not written: nothing was scanned
            return np.full((*shape, 3), 255, np.uint8)
        return np.ascontiguousarray(pixels.transpose(1, 2, 0), self.dtype)

    def close(self) -> None:
        """Let nothing more be read."""
        self._closed.set()
        if self._transport is not None:
            self._transport.close()


def _images_of(group: "zarr.Group") -> int:
    """Count images one by one: servers do not list what they hold."""
    return next(index for index in range(_MOST_IMAGES + 1) if str(index) not in group)


def _ome_of(group: "zarr.Group") -> dict[str, Any]:
    """Return the metadata of an image: under ``ome`` since 0.5, at the top before."""
    attributes = json.loads(json.dumps(dict(group.attrs)))
    inner = attributes.get("ome", attributes)
    if not isinstance(inner, dict):
        raise ValueError("its metadata are no object")
    return inner


def _scale(dataset: dict[str, Any], image: dict[str, Any], ndim: int) -> NDArray[np.float64]:
    """Return the scale of every axis: that of the level times that of the whole image."""
    scale = np.ones(ndim)
    for owner in (dataset, image):
        for step in owner.get("coordinateTransformations", ()):
            if step.get("type") == "scale":
                scale = scale * np.asarray(step["scale"], np.float64)
    if scale.shape != (ndim,) or not np.isfinite(scale).all() or (scale <= 0).any():
        raise ValueError(f"a scale of {scale.tolist()}")
    return scale


def _channels(stated: dict[str, Any], count: int) -> tuple[Channel, ...]:
    told = stated.get("omero", {})
    listed = told.get("channels", []) if isinstance(told, dict) else []
    named = []
    for index in range(count):
        one = listed[index] if index < len(listed) and isinstance(listed[index], dict) else {}
        text = str(one.get("color", "")).lstrip("#")
        try:
            red, green, blue = (int(text[i : i + 2], 16) / 255 for i in (0, 2, 4))
            colour: tuple[float, float, float] | None = (red, green, blue)
        except ValueError:
            colour = None
        named.append(Channel(str(one.get("label") or f"channel {index + 1}")[:80], colour))
    return tuple(named)


def codec_names(metadata: Any) -> set[str]:
    """Return the codecs that array metadata name, those inside shards as well."""
    names: set[str] = set()
    for key in ("codecs", "filters", "compressor", "index_codecs", "compressors"):
        found = metadata.get(key) if isinstance(metadata, dict) else None
        for codec in found if isinstance(found, list | tuple) else [found]:
            if isinstance(codec, dict):
                names.add(str(codec.get("name", codec.get("id"))).removeprefix("numcodecs."))
                names |= codec_names(codec.get("configuration", {}))
            elif codec is not None:
                config = codec.get_config() if hasattr(codec, "get_config") else {}
                names.add(str(config.get("id", type(codec).__name__)))
    return names


def _tile_side(chunk: int) -> int:
    """Read whole chunks, unless they are planes (cut) or specks (put together)."""
    if chunk > 2 * _TILE:
        return _TILE
    return chunk * max(1, _TILE // 2 // chunk) if chunk < _TILE // 2 else chunk
