"""An open slide: its pyramid, its resolution, and reads in level-0 coordinates."""

import hashlib
import itertools
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_2dmamba.errors import SlideError, UserError
from napari_2dmamba.slide.addresses import address_of, slide_path
from napari_2dmamba.slide.apart import require_survives
from napari_2dmamba.slide.backend import LARGEST_MPP, SMALLEST_MPP, Backend, Level, require_tile
from napari_2dmamba.slide.georeference import Georeference
from napari_2dmamba.slide.geotiff_backend import GeoTiffBackend
from napari_2dmamba.slide.level import (
    SlideLevel,
    StoredTiles,
    TileSource,
    build_pyramid,
    failure_within,
    read_pixels,
)
from napari_2dmamba.slide.opening import open_backend
from napari_2dmamba.slide.tifffile_backend import TifffileBackend
from napari_2dmamba.slide.tile_cache import TileCache, shared_cache

Kind = Literal["brightfield", "fluorescence", "greyscale", "georeferenced"]

GIVEN_BY_USER = "given by the user"
"""`Slide.mpp_source` where it is not the file's."""

_DARK, _GLASS = 60, 180
_GLANCE_PIXELS = 2_000_000
_SAMPLE_BYTES, _SAMPLES = 65536, 16
_numbers = itertools.count()


def open_slide(path: str | Path, *, mpp: float | None = None, apart: bool = False) -> "Slide":
    """Open a slide; nothing but its header and a few tiles are read.

    Parameters
    ----------
    path
        A slide file, or an address (``https://``, ``http://``, ``s3://``, of a DICOMweb series as
        well); for DICOM any one of its files, their folder or DICOMDIR, for MIRAX the ``.mrxs``
        file.
    mpp
        µm per level-0 pixel, taken instead of what the file states.
    apart
        First have another process read a tile of each level: a file that crashes a decoder is
        then refused, and this process lives on. Costs the start of a Python process.

    Raises
    ------
    SlideError
        When the file is missing, damaged or of no known kind, in one sentence.
    """
    path = slide_path(path).expanduser()
    if mpp is not None and not SMALLEST_MPP <= mpp <= LARGEST_MPP:
        raise SlideError(
            f"{mpp:g} µm/px was given for {path.name}, but a slide lies between "
            f"{SMALLEST_MPP:g} and {LARGEST_MPP:g}"
        )
    if apart:
        require_survives(path)
    slide = None
    try:
        slide = Slide(path, open_backend(path), mpp=mpp)
        slide._refuse_if_nothing_decodes()
    except UserError:
        if slide is not None:
            slide.close()
        raise
    except Exception as error:  # what no check foresaw is still about this file
        if slide is not None:
            slide.close()
        raise SlideError(
            f"{path.name} cannot be opened as a slide ({type(error).__name__}: {error}); it is "
            "probably damaged: copy or export it again"
        ) from error
    return slide


class Slide:
    """An open pyramid of brightfield colours, or of fluorescence or grey channels.

    Coordinates are level-0 pixels, ``x`` to the right, ``y`` down. Reads may come from any
    thread. Beyond the slide, and where nothing was scanned, lies background: white on a
    brightfield slide.

    Attributes
    ----------
    path, name
        The file, and its name without folders.
    backend
        ``"OpenSlide"``, ``"tifffile"``, ``"OME-Zarr"``, ``"wsidicom"``, ``"libCZI"``, ``"Pillow"``.
    dimensions
        ``(width, height)`` of level 0.
    level_dimensions, level_downsamples
        Of the stored levels; `pyramid` adds made ones.
    mpp
        µm per level-0 pixel, or None; never guessed.
    mpp_source
        Where `mpp` comes from, or why there is none.
    kind
        ``"brightfield"``, ``"fluorescence"`` or ``"greyscale"``.
    rgb
        True when the last axis of pixels is red, green, blue.
    channels
        What the last axis of pixels means.
    bounds
        ``(x, y, w, h)`` of the scanned part; QuPath counts from its corner.
    properties
        Vendor, objective power and the like; no label text, no names of people.
    remarks
        What of a larger file is shown, such as one focal plane of a stack.
    georeference
        Where a GeoTIFF lies on the ground; None for slides.
    """

    def __init__(
        self,
        path: Path,
        backend: Backend,
        *,
        mpp: float | None = None,
        cache: TileCache = shared_cache,
    ) -> None:
        self.path, self.name = path, path.name
        self._backend, self._cache = backend, cache
        self._number = next(_numbers)
        self._closed = False
        self.backend = backend.name
        self._stored = [
            StoredTiles(backend, index, self._number, self.name)
            for index in range(len(backend.levels))
        ]
        self._pyramid = build_pyramid(self._stored, cache)
        self.level_dimensions = tuple((level.width, level.height) for level in backend.levels)
        self.level_downsamples = tuple(level.downsample for level in backend.levels)
        self.dimensions = self.level_dimensions[0]
        self.mpp, self.mpp_source = backend.mpp, backend.mpp_source
        if mpp is not None:
            self.mpp, self.mpp_source = float(mpp), GIVEN_BY_USER
        self.rgb, self.channels, self.dtype = backend.rgb, backend.channels, backend.dtype
        self.bounds = backend.bounds
        self.properties = dict(backend.properties)
        self.remarks = backend.remarks
        self.georeference: Georeference | None = getattr(backend, "georeference", None)

    def __enter__(self) -> "Slide":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        width, height = self.dimensions
        mpp = "no mpp" if self.mpp is None else f"{self.mpp:.4g} µm/px"
        kind = "closed" if self._closed else self.kind
        return f"Slide({self.name!r}, {width} x {height}, {mpp}, {kind}, {self.backend})"

    @cached_property
    def kind(self) -> Kind:
        """Brightfield, unless pixels are no 8-bit colours, or mostly dark without any glass."""
        if self.georeference is not None:
            return "georeferenced"
        if not self.rgb:
            return "greyscale" if len(self.channels) == 1 else "fluorescence"
        last = self._stored[-1]
        if last.width * last.height <= _GLANCE_PIXELS:
            pixels = self._read(last, 0, 0, last.width, last.height)
            mostly_dark = np.median(pixels.max(axis=-1)) < _DARK
            shows_glass = (pixels.min(axis=-1) > _GLASS).mean() > 0.01
            if mostly_dark and not shows_glass:
                return "fluorescence"
        return "brightfield"

    @property
    def objective_power(self) -> float | None:
        """Magnification of the objective as the file states it."""
        try:
            return float(self.properties["objective_power"])
        except (KeyError, ValueError):
            return None

    @property
    def read_problems(self) -> tuple[str, ...]:
        """One sentence per stored tile that could not be decoded so far."""
        return tuple(
            f"tile at row {row}, column {column} of level {index} cannot be decoded: {reason}"
            for index, level in enumerate(self._stored)
            for (row, column), reason in tuple(level.failed.items())
        )

    def require_brightfield(self) -> None:
        """Refuse slides that the analysis is not made for.

        Raises
        ------
        SlideError
            Saying what the slide is instead.
        """
        if self._backend.no_picture is not None:
            raise SlideError(
                f"{self.name} holds no picture data ({self._backend.no_picture}), so there is "
                "nothing to analyse; export or convert it again"
            )
        if self.kind == "brightfield":
            return
        if self.georeference is not None:
            raise SlideError(
                f"{self.name} is a georeferenced image ({self.georeference.crs}), on which tissue "
                "and models of slides mean nothing; classifiers of tiles, segmenters and receptive "
                "fields of image networks work on it"
            )
        what = (
            f"one channel of {self.dtype}"
            if len(self.channels) == 1
            else f"{len(self.channels)} channels of {self.dtype}"
        )
        if self.rgb:
            what = "colours on a dark ground"
        raise SlideError(
            f"{self.name} is a {self.kind} image ({what}), but 2DMamba is made for stained "
            "tissue in bright field (8-bit RGB); it can be viewed, not analysed"
        )

    def require_colours(self) -> None:
        """Refuse what networks for pictures cannot take: they need stained tissue or the ground.

        Raises
        ------
        SlideError
            Saying what the slide is instead.
        """
        if self.georeference is None or self._backend.no_picture is not None:
            self.require_brightfield()

    def read_region(
        self, x: int, y: int, level: int, width: int, height: int, *, strict: bool = False
    ) -> NDArray[Any]:
        """Read pixels of a stored level.

        Parameters
        ----------
        x, y
            Top left corner in level-0 pixels; may lie outside the slide.
        level
            Index into `level_dimensions`.
        width, height
            In pixels of that level.
        strict
            Refuse a region whose stored tiles cannot all be decoded, as analysis must,
            instead of showing background there, as a viewer should.

        Returns
        -------
        ``(height, width, C)``, uint8 for brightfield.

        Raises
        ------
        SlideError
            When the slide is closed, or with ``strict`` a tile is damaged.
        """
        source = self._stored[level]
        left, top = round(x / source.downsample), round(y / source.downsample)
        pixels = self._read(source, left, top, width, height)
        if strict:
            self._refuse_damage(source, left, top, width, height)
        return pixels

    @property
    def levels(self) -> tuple[Level, ...]:
        """The stored levels with the tiles they are cut into."""
        return self._backend.levels

    def read_tile(
        self, level: int, row: int, column: int, out: NDArray[np.uint8] | None = None
    ) -> NDArray[Any]:
        """Decode one stored tile, past the cache that viewers share; may be called from threads.

        Parameters
        ----------
        out
            Memory of a whole tile, used where the backend can decode into it; then a tile at
            the slide's edge keeps what the file stores beyond it.

        Raises
        ------
        TileError
            When it cannot be decoded.
        """
        if out is not None and isinstance(self._backend, TifffileBackend):
            pixels = self._backend.read_tile_into(level, row, column, out)
            if pixels is not None:
                return pixels
        pixels = self._backend.read_tile(level, row, column)
        require_tile(pixels, self.levels[level], row, column, len(self.channels), self.dtype)
        return pixels

    def best_level(self, downsample: float) -> int:
        """Return the coarsest stored level still at least as fine as a downsample."""
        fine = [i for i, d in enumerate(self.level_downsamples) if d <= downsample * 1.001]
        return fine[-1] if fine else 0

    def pyramid(self, channel: int | None = None) -> list[SlideLevel]:
        """Return levels for a viewer, finest first, steps of at most 3, the last one small.

        Parameters
        ----------
        channel
            For ``(h, w)`` levels of one channel instead of ``(h, w, C)``.
        """
        return [SlideLevel(source, self._cache, channel) for source in self._pyramid]

    def thumbnail(self, max_side: int = 1024, *, strict: bool = False) -> NDArray[Any]:
        """Return the whole slide with its longer side at most ``max_side`` pixels, area-averaged.

        Raises
        ------
        SlideError
            As for `read_region`.
        """
        longest = max(self.dimensions)
        side = min(max_side, longest)
        fine_enough = [s for s in self._pyramid if max(s.width, s.height) >= side]
        source = fine_enough[-1]
        pixels = self._read(source, 0, 0, source.width, source.height)
        if strict:
            self._refuse_damage(source, 0, 0, source.width, source.height)
        size = tuple(max(1, round(length * side / longest)) for length in self.dimensions)
        return _resize(pixels, (size[0], size[1]))

    def contrast_limits(self, channel: int = 0) -> tuple[float, float]:
        """Return a dark and a bright value to show a channel between."""
        if self.rgb:
            return 0.0, 255.0
        source = self._pyramid[-1]
        plane = self._read(source, 0, 0, source.width, source.height)[..., channel]
        low, high = (float(v) for v in np.percentile(plane, (0.5, 99.8)))
        return (low, high) if high > low else (low, low + 1.0)

    @cached_property
    def fingerprint(self) -> str:
        """Content hash: the same bytes give the same 32 hex digits, wherever they lie.

        Hashes the level sizes with the file's length and 18 samples of 64 kB, or for slides
        of several files OpenSlide's own hash, which does not depend on the file opened.
        """
        digest = hashlib.sha256(json.dumps(self.level_dimensions).encode())
        if self._backend.content_hash is not None:
            digest.update(self._backend.content_hash.encode())
            return digest.hexdigest()[:32]
        backend = self._backend
        open_file: Callable[[], BinaryIO] = lambda: self.path.open("rb")  # noqa: E731
        if isinstance(backend, TifffileBackend | GeoTiffBackend):  # may lie on the network
            open_file = backend.stored.open
        with open_file() as file:
            size = file.seek(0, 2)
            digest.update(str(size).encode())
            last = max(0, size - _SAMPLE_BYTES)
            for position in np.linspace(0, last, _SAMPLES + 2).astype(np.int64):
                file.seek(int(position))
                digest.update(file.read(_SAMPLE_BYTES))
        return digest.hexdigest()[:32]

    def close(self) -> None:
        """Release the file and its cached tiles; levels still held show background."""
        if self._closed:
            return
        self._closed = True
        self._backend.close()
        self._cache.forget(lambda key: isinstance(key, tuple) and key[0] == self._number)

    def _read(self, source: TileSource, x: int, y: int, width: int, height: int) -> NDArray[Any]:
        if self._closed:
            raise SlideError(f"{self.name} is closed; open it again")
        return read_pixels(source, self._cache, x, y, width, height)

    def _refuse_damage(self, source: TileSource, x: int, y: int, width: int, height: int) -> None:
        failure = failure_within(source, x, y, width, height)
        if failure is not None:
            left, top, reason = failure
            if address_of(self.path) is not None:
                raise SlideError(f"{self.name} cannot be read at x {left}, y {top}: {reason}")
            raise SlideError(
                f"{self.name} is damaged: the tile at x {left}, y {top} cannot be decoded "
                f"({reason}); copy or export the slide again"
            )

    def _refuse_if_nothing_decodes(self) -> None:
        """Try a tile in the middle of the coarsest level, then of the finest, then its first."""
        reason = ""
        for source, middle in (
            (self._stored[-1], True),
            (self._stored[0], True),
            (self._stored[0], False),
        ):
            x, y = (source.width // 2, source.height // 2) if middle else (0, 0)
            self._read(source, x, y, 1, 1)
            found = failure_within(source, x, y, 1, 1)
            if found is None:
                return
            reason = found[2]
        raise SlideError(
            f"{self.name} opens, but none of the tiles tried can be decoded ({reason}); "
            "the file is damaged: copy or export it again"
        )


def _resize(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Area-average ``(h, w, C)`` down to ``(width, height)``."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    planes = [
        np.asarray(
            Image.fromarray(pixels[..., i].astype(np.float32)).resize(size, Image.Resampling.BOX)
        )
        for i in range(pixels.shape[2])
    ]
    stacked = np.stack(planes, axis=-1)
    if pixels.dtype.kind in "ui":
        stacked = np.rint(stacked)
    return stacked.astype(pixels.dtype)
