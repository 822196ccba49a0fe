"""TIFF slides through tifffile and imagecodecs: each stored tile decoded once, unpainted."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide.backend import (
    LARGEST_SIDE,
    Level,
    NotForThisBackend,
    TileError,
    on_background,
)
from napari_2dmamba.slide.jpeg_marks import end_of_jpeg, has_colour_transform, with_more_code
from napari_2dmamba.slide.level_factors import settle
from napari_2dmamba.slide.stored_file import LocalFile, StoredFile
from napari_2dmamba.slide.tiff_layout import (
    JpegTiles,
    PlainLevel,
    SpilledLevel,
    StoredPlane,
    choose_planes,
    cut_short,
    empty_segments,
    ends,
    on_disk,
    pixels_of,
    plain_jpeg,
    reduced_images,
    rgb_of_ycbcr,
    separate_samples,
    slide_series,
    stored_plane,
    stores_more,
)
from napari_2dmamba.slide.tiff_metadata import (
    are_channels,
    channels,
    names_red_green_blue,
    ome_image,
    properties,
    quiet_tifffile,
    require_whole_chain,
    resolution,
)

_BLOCK = 512
_SPILLED_SEGMENT = 64 * 2**20
"""Strips or tiles that decode to more bytes are decoded once, to disk."""
_OVERHEAD = 2**20
"""Bytes of tables and marks that a compressed tile may hold besides its pixels."""
_MOST_PLANES = 1000
"""Channels, and samples of each, that are shown."""

_JPEG = {6, 7, 34892, 33007}
_JPEG_2000 = {33003, 33004, 33005, 34712}
_APERIO_YCBCR = 33003
_PREMULTIPLIED = 1
"""TIFF's ExtraSamples of alpha that colours were multiplied by already."""


class TifffileBackend:
    """Read a TIFF's own tiles, strips in bands, and plain arrays piece by piece.

    Parameters
    ----------
    path
        The file.
    as_bands
        Take samples as bands of measurements, never as colours and alpha.

    Raises
    ------
    NotForThisBackend
        When another backend may still read the file.
    SlideError
        When the file is understood, and no backend will read it well.
    """

    name = "tifffile"
    background: tuple[int, ...] = (255, 255, 255)
    content_hash: str | None = None

    def __init__(
        self, path: Path, stored: StoredFile | None = None, *, as_bands: bool = False
    ) -> None:
        self._path, self._as_bands = path, as_bands
        self.stored = LocalFile(path) if stored is None else stored
        self._jpeg: dict[int, JpegTiles | None] = {}
        self.no_picture: str | None = None
        self._opened = self.stored.open()
        with quiet_tifffile():
            try:
                require_whole_chain(path, self._opened)
                self._opened.seek(0)  # where tifffile begins to count
                self._tiff = tifffile.TiffFile(self._opened, name=path.name, _multifile=False)
                self._open(slide_series(self._tiff))
                self._settle_levels()
            except (NotForThisBackend, SlideError):
                self._close_quietly()
                raise
            except Exception as error:
                self._close_quietly()
                raise NotForThisBackend(f"{type(error).__name__}: {error}") from error

    def _open(self, series: tifffile.TiffPageSeries) -> None:
        first = self.page = series.levels[0].keyframe
        self._refuse_what_is_drawn_wrong(first)
        page_axes = first.axes
        if not series.axes.endswith(page_axes) or "Y" not in page_axes or "Z" in page_axes:
            raise NotForThisBackend(f"its axes are {series.axes!r}")
        ome = ome_image(self._tiff, self._tiff.series.index(series))
        self._lead = series.axes[: -len(page_axes)]
        self._samples = first.samplesperpixel
        lead_shape = dict(zip(self._lead, series.levels[0].shape, strict=False))
        if len(lead_shape) == 1 and are_channels(ome, *lead_shape.values()):
            lead_shape = {"C": series.levels[0].shape[0]}
        self._chosen, self.remarks = choose_planes(lead_shape)
        planes = lead_shape.get("C", 1)
        self._photometric = int(first.photometric)
        self._colormap = np.asarray(first.colormap)
        self.dtype = np.dtype(first.dtype).newbyteorder("=")
        if self.dtype.kind not in "uifb":
            raise SlideError(f"{self._path.name} holds {self.dtype} pixels, which are no image")
        if self.dtype.kind == "b" or self._photometric == 3:
            self.dtype = np.dtype(np.uint8)
        samples = 3 if self._photometric == 3 else self._samples
        if planes * samples > _MOST_PLANES:
            raise SlideError(
                f"{self._path.name} claims {planes * samples} channels, which no slide has; "
                "export it again from its source"
            )
        self._stored_dtype = np.dtype(first.dtype).newbyteorder("=")
        self._stored_channels = planes * self._samples
        alpha = first.extrasamples
        self._premultiplied = bool(alpha) and int(alpha[0]) == _PREMULTIPLIED
        self._has_alpha = bool(alpha) and int(alpha[0]) != 0
        looks_rgb = samples in (3, 4) and planes == 1 and self._photometric in (2, 3, 6)
        planar_rgb = planes == 3 and samples == 1 and names_red_green_blue(ome)
        self.rgb = self.dtype == np.uint8 and (looks_rgb or planar_rgb) and not self._as_bands
        if self.rgb and samples == 4 and not self._has_alpha:
            self.remarks += (
                "its fourth channel is not said to be transparency, and is left aside",
            )
        count = 3 if self.rgb else planes * samples
        self.channels = channels(self._tiff, ome, count, self.rgb)
        if not self.rgb:
            self.background = (0,) * count
        self._read_levels(series)
        if stores_more(first):
            self.remarks += (
                "the file holds more pixels than its size takes: if it was not made so, it is "
                "damaged, and its picture is put together wrongly",
            )
        self.mpp, self.mpp_source = resolution(self._tiff, first, ome)
        width, height = self.levels[0].width, self.levels[0].height
        self.bounds = (0, 0, width, height)
        self.properties = properties(self._tiff, first)

    def _refuse_what_is_drawn_wrong(self, page: tifffile.TiffPage) -> None:
        name = self._path.name
        orientation = page.tags.get("Orientation")
        if orientation is not None and orientation.value not in (0, 1):
            raise SlideError(
                f"{name} asks to be turned or mirrored on display (TIFF orientation "
                f"{int(orientation.value)}), on which slide viewers disagree; save it upright "
                "(orientation 1) and open that"
            )
        if 0 in page.shape:
            raise SlideError(
                f"{name} is an image of {page.imagewidth} x {page.imagelength} pixels: it holds "
                "no picture; export it again from its source"
            )
        if page.planarconfig not in (1, 2):
            raise SlideError(
                f"{name} is damaged: its planar configuration is {int(page.planarconfig)}, where "
                "TIFF knows 1 and 2; copy or export it again"
            )
        photometric = int(page.photometric)
        if photometric not in (0, 1, 2, 3, 6):
            stored = tifffile.PHOTOMETRIC(photometric).name
            raise SlideError(f"{name} stores its colours as {stored}; convert it to RGB")
        if photometric == 6 and int(page.compression) not in _JPEG | _JPEG_2000:
            raise NotForThisBackend("its YCbCr colours are not those of JPEG")
        if int(page.compression) != 1 and int(page.compression) not in tifffile.TIFF.DECOMPRESSORS:
            raise SlideError(
                f"{name} is compressed by a method (TIFF compression {int(page.compression)}) "
                "that no reader here knows; convert it, for example to JPEG tiles"
            )

    def _read_levels(self, series: tifffile.TiffPageSeries) -> None:
        levels: list[Level] = []
        self._sources: list[list[StoredPlane] | SpilledLevel | PlainLevel] = []
        reduced, remarks = reduced_images(self._tiff, series)
        stored_levels = [*series.levels, *reduced]
        self.remarks += remarks
        for stored in sorted(stored_levels, key=pixels_of, reverse=True):
            shape = dict(zip(stored.axes, stored.shape, strict=True))
            width, height = shape["X"], shape["Y"]
            if min(width, height) < 1 or stored.dtype != series.levels[0].dtype:
                self._say_left_out(width, height, "its pixels are of another kind")
                continue
            if max(width, height) > LARGEST_SIDE:
                raise SlideError(
                    f"{self._path.name} claims {width} x {height} pixels, more than any slide has; "
                    "its directory is damaged: copy or export it again"
                )
            level = Level(width, height, 1.0, _BLOCK, _BLOCK)  # factors follow
            plain = self._plain(stored)
            if plain is not None:
                self._sources.append(plain)
                levels.append(level)
                continue
            planes = [stored_plane(page, self._path.name) for page in self._pages(stored)]
            if any(ends(plane.page) > self._tiff.filehandle.size for plane in planes):
                raise SlideError(cut_short(self._path))
            empty, count = empty_segments(planes)
            if empty == count and levels:
                self._say_left_out(width, height, "it was never written")
                continue
            if empty:
                self._say_what_is_empty(empty, count, first=not levels)
            tile_width = stored.keyframe.tilewidth if stored.keyframe.is_tiled else width
            own_tiles = replace(level, tile_width=tile_width, tile_height=planes[0].rows_per_tile)
            if planes[0].segment_bytes > _SPILLED_SEGMENT:
                self._sources.append(SpilledLevel(planes, own_tiles))
                levels.append(level)
            else:
                self._sources.append(planes)
                levels.append(own_tiles)
        self.levels = tuple(levels)

    def _say_left_out(self, width: int, height: int, why: str) -> None:
        self.remarks += (f"a level of the file ({width} x {height} pixels) is left out: {why}",)

    def _say_what_is_empty(self, empty: int, count: int, *, first: bool) -> None:
        if not first:
            return
        if empty == count:
            self.no_picture = f"all of its {count} tiles are empty"
            self.remarks += (f"the file holds no picture data: {self.no_picture}",)
        else:
            self.remarks += (f"{empty} of {count} tiles hold no data and are shown as glass",)

    def _settle_levels(self) -> None:
        """Find the factor of each level and drop those that contradict the finest."""
        settled = settle(self.levels, self.read_tile)
        self._sources = [self._sources[i] for i in settled.kept]
        self._jpeg.clear()
        self.levels = settled.levels
        self.remarks += settled.remarks

    def _pages(self, level: tifffile.TiffPageSeries) -> list[Any]:
        """Return the page of each chosen plane."""
        lead = level.shape[: len(self._lead)]
        if len(level.pages) != int(np.prod(lead, dtype=int)):
            raise NotForThisBackend("some of its planes are missing")
        indices = np.arange(len(level.pages)).reshape(lead)[self._chosen]
        pages = [level.pages[int(index)] for index in np.atleast_1d(indices).ravel()]
        if any(page is None for page in pages):
            raise NotForThisBackend("some of its planes are missing")
        return pages

    def _plain(self, level: tifffile.TiffPageSeries) -> PlainLevel | None:
        """Return where a level's pixels lie if they are uncompressed and in one piece."""
        if level.dataoffset is None or level.dtype.kind == "b":
            return None
        size = level.dtype.itemsize
        if level.dataoffset + level.size * size > self._tiff.filehandle.size:
            return None  # cut short: read strip by strip what is there
        page_axes = level.axes[len(self._lead) :]
        sizes = dict(zip(page_axes, level.shape[len(self._lead) :], strict=True))
        lead = level.shape[: len(self._lead)]
        numbers = np.arange(int(np.prod(lead, dtype=int))).reshape(lead)[self._chosen]
        page_bytes = int(np.prod(tuple(sizes.values()), dtype=np.int64)) * size
        side_by_side = sizes.get("S", 1) if page_axes.endswith("S") else 1
        planes = sizes.get("S", 1) if page_axes.startswith("S") else 1
        starts = tuple(
            level.dataoffset + int(number) * page_bytes + plane * (page_bytes // planes)
            for number in np.atleast_1d(numbers).ravel()
            for plane in range(planes)
        )
        pixel_bytes = side_by_side * size
        dtype = np.dtype(self._tiff.byteorder + level.dtype.char)
        return PlainLevel(starts, sizes["X"] * pixel_bytes, pixel_bytes, dtype, side_by_side)

    def read_tile(self, level: int, row: int, column: int) -> NDArray[Any]:
        """See `Backend.read_tile`."""
        source, stored = self._sources[level], self.levels[level]
        try:
            if isinstance(source, SpilledLevel):
                array = self._spill(source)
                top, left = row * stored.tile_height, column * stored.tile_width
                pixels = array[top : top + stored.tile_height, left : left + stored.tile_width]
            elif isinstance(source, PlainLevel):
                pixels = self._read_plain(source, stored, row, column)
            else:
                pixels = self._decode_tile(source, row, column)
            return self._finish(pixels, stored, row, column)
        except (TileError, SlideError):
            raise
        except Exception as error:  # a decoder's, of what no check above foresaw
            raise TileError(f"{type(error).__name__}: {error}") from error

    def _read_plain(self, plain: PlainLevel, stored: Level, row: int, column: int) -> NDArray[Any]:
        """Read a block line by line: mapped memory would end the process if the file shrank."""
        top, left = row * stored.tile_height, column * stored.tile_width
        height = min(stored.tile_height, stored.height - top)
        width = min(stored.tile_width, stored.width - left)
        length = width * plain.pixel_bytes
        parts = []
        for start in plain.starts:
            first = start + top * plain.row_bytes + left * plain.pixel_bytes
            lines = b"".join(
                self.stored.read_at(first + line * plain.row_bytes, length)
                for line in range(height)
            )
            if len(lines) < height * length:
                raise TileError("the file ends before the tile does")
            parts.append(np.frombuffer(lines, plain.dtype).reshape(height, width, plain.samples))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def _decode_tile(self, planes: list[StoredPlane], row: int, column: int) -> NDArray[Any]:
        parts = [
            self._decode(plane, row, column, sample)
            for plane in planes
            for sample in range(separate_samples(plane.page))
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def read_tile_into(
        self, level: int, row: int, column: int, out: NDArray[np.uint8]
    ) -> NDArray[np.uint8] | None:
        """Decode a JPEG tile into ``(tile_height, tile_width, 3)`` memory that is used again.

        Fresh memory for every tile costs about half as much time as decoding it. Tiles at the
        edge keep what is stored beyond the slide. None where the level holds no such tiles.

        Raises
        ------
        TileError
            As `read_tile`.
        """
        tiles = self._jpeg_tiles(level)
        stored = self.levels[level]
        if tiles is None or out.shape != (stored.tile_height, stored.tile_width, 3):
            return None
        index = row * tiles.columns + column
        if index >= len(tiles.offsets):
            raise TileError("the list of tiles is cut short")
        size = tiles.sizes[index]
        if not size or size > 2 * out.nbytes + _OVERHEAD:
            return None  # never written, or a lie: the careful way decides
        data = self.stored.read_at(tiles.offsets[index], size)
        if len(data) < size:
            raise TileError("the file ends before the tile does")
        if end_of_jpeg(data) is None:
            raise TileError("its JPEG data is damaged")
        try:
            imagecodecs.jpeg8_decode(
                data,
                tables=tiles.tables,
                colorspace=tiles.stored_space,
                outcolorspace=tiles.rgb_space,
                out=out,
            )
        except Exception as error:
            raise TileError(f"{type(error).__name__}: {error}") from error
        if out[-1, -1, 0] == 128 and (out[-8:, -8:] == 128).all():
            return None  # perhaps filled up by the decoder: let the careful way decide
        return out

    def _jpeg_tiles(self, level: int) -> JpegTiles | None:
        """Return what decoding a level's tiles takes, or None where they are not plain JPEG."""
        if level not in self._jpeg:
            source = self._sources[level]
            self._jpeg[level] = (
                plain_jpeg(source[0]) if isinstance(source, list) and len(source) == 1 else None
            )
        return self._jpeg[level]

    def _spill(self, source: SpilledLevel) -> NDArray[Any]:
        """Decode a level once, segment by segment, to a file that goes when we do."""
        with source.lock:
            if source.array is None and source.error is None:
                try:
                    source.array = self._decode_whole(source)
                except (TileError, OSError) as error:
                    source.error = str(error)
            if source.array is None:
                raise TileError(source.error)
            return source.array

    def _decode_whole(self, source: SpilledLevel) -> NDArray[Any]:
        stored = source.stored
        array: NDArray[Any] | None = None
        for row in range(-(-stored.height // stored.tile_height)):
            for column in range(-(-stored.width // stored.tile_width)):
                pixels = self._decode_tile(source.planes, row, column)
                if array is None:
                    array = on_disk((stored.height, stored.width, pixels.shape[-1]), pixels.dtype)
                top, left = row * stored.tile_height, column * stored.tile_width
                part = array[top : top + pixels.shape[0], left : left + pixels.shape[1]]
                part[...] = pixels[: part.shape[0], : part.shape[1]]
        assert array is not None
        return array

    def _finish(self, pixels: NDArray[Any], stored: Level, row: int, column: int) -> NDArray[Any]:
        height = min(stored.tile_height, stored.height - row * stored.tile_height)
        width = min(stored.tile_width, stored.width - column * stored.tile_width)
        pixels = pixels[:height, :width]
        if pixels.shape != (height, width, self._stored_channels) or (
            pixels.dtype.newbyteorder("=") != self._stored_dtype
        ):
            raise TileError(
                f"a tile holds {pixels.dtype} pixels of shape {pixels.shape} where the file's "
                f"directory promises {self._stored_dtype} of shape "
                f"{(height, width, self._stored_channels)}"
            )
        if self._photometric == 3:
            pixels = (self._colormap[:, pixels[..., 0]] >> 8).astype(np.uint8).transpose(1, 2, 0)
        elif pixels.dtype.kind == "b":
            pixels = pixels.astype(np.uint8) * 255
        if self._photometric == 0 and self.dtype.kind == "u":
            pixels = np.iinfo(self.dtype).max - pixels
        if self.rgb and pixels.shape[-1] == 4 and not self._has_alpha:
            return np.ascontiguousarray(pixels[..., :3])
        if self.rgb and pixels.shape[-1] == 4:
            return on_background(pixels, self.background, premultiplied=self._premultiplied)
        return np.ascontiguousarray(pixels, dtype=self.dtype)

    def _decode(self, plane: StoredPlane, row: int, column: int, sample: int) -> NDArray[Any]:
        """Decode a tile, or the strips of a band, of one plane."""
        if plane.segments_per_tile == 1:
            index = row * plane.columns + column
            return self._segment(plane, sample * plane.segments + index)
        first = row * plane.segments_per_tile
        last = min(first + plane.segments_per_tile, plane.segments)
        strips = [self._segment(plane, sample * plane.segments + i) for i in range(first, last)]
        return np.concatenate(strips, axis=0)

    def _segment(self, plane: StoredPlane, index: int) -> NDArray[Any]:
        page, keyframe = plane.page, plane.page.keyframe
        try:
            offset, size = page.dataoffsets[index], page.databytecounts[index]
        except IndexError as error:
            raise TileError("the list of tiles is cut short") from error
        if size > 2 * plane.segment_bytes + _OVERHEAD:
            raise TileError(
                f"a tile claims {size} bytes where {plane.segment_bytes} hold all of it"
            )
        data = self.stored.read_at(offset, size) if size else None
        if data is not None and len(data) < size:
            raise TileError("the file ends before the tile does")
        options = {}
        if int(keyframe.compression) in _JPEG:
            options = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
            if data is not None and end_of_jpeg(data) is None:
                raise TileError("its JPEG data is damaged")
        try:
            pixels, _, shape = keyframe.decode(data, index, **options)
        except Exception as error:
            raise TileError(f"{type(error).__name__}: {error}") from error
        if data is None or pixels is None:  # a tile that was never written
            fill = 255 if self.rgb else 0
            return np.full(shape[1:], fill, keyframe.dtype)
        if options and (pixels[0, -8:, -8:] == 128).all():
            again, _, _ = keyframe.decode(with_more_code(data), index, **options)
            if not np.array_equal(again, pixels):
                raise TileError("its JPEG data ends before its pixels do")
        if int(keyframe.compression) in _JPEG_2000 and self._is_ycbcr(keyframe, data):
            return rgb_of_ycbcr(pixels[0])
        return pixels[0]

    def _is_ycbcr(self, keyframe: Any, data: bytes) -> bool:
        """Whether a decoded JPEG 2000 tile still holds YCbCr: no transform was made in it."""
        stated = int(keyframe.photometric) == 6 or int(keyframe.compression) == _APERIO_YCBCR
        return stated and self._samples == 3 and not has_colour_transform(data)

    def _close_quietly(self) -> None:
        for name in ("stored", "_tiff", "_opened"):
            with contextlib.suppress(AttributeError):
                getattr(self, name).close()

    def close(self) -> None:
        """See `Backend.close`."""
        self.stored.close()
        self._tiff.close()
        self._opened.close()
