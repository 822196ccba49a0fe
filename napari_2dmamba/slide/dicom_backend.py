"""DICOM whole slide images through wsidicom, where OpenSlide refuses how pixels are stored.

OpenSlide takes baseline JPEG, JPEG 2000 and plain pixels; wsidicom (the extra ``dicom``) also
JPEG-LS, HTJ2K, RLE and JPEG XL, and slides whose files lie in several folders.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide.backend import Channel, Level, TileError, require_tile, usable_mpp
from napari_2dmamba.slide.dicom_series import DicomFile, quiet_dicom
from napari_2dmamba.slide.jpeg_marks import stated_size
from napari_2dmamba.slide.level_factors import settle
from napari_2dmamba.slide.reads import Reads
from napari_2dmamba.slide.remote import RemoteError

_SAMPLES = 16
"""Tiles of the finest level that the fingerprint reads."""
_CACHE = 2**24
"""Bytes: a tile's code is looked at before it is decoded; decoded tiles are kept elsewhere."""
_SPARE = 2**20
"""Bytes that a stored tile may hold besides its pixels."""
_DECODED_TO_RGB = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}
_YBR_IS_UNDONE = {
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
}  # fmt: skip
"""JPEG, JPEG 2000, HTJ2K, whose decoders turn luminance and colour differences into RGB."""


class DicomBackend:
    """Read the stored tiles of the one volume of a DICOM series.

    Raises
    ------
    SlideError
        When wsidicom is not installed, or cannot read the files either.
    """

    name = "wsidicom"
    content_hash: str | None
    no_picture: str | None = None

    def __init__(self, path: Path, files: Sequence[DicomFile]) -> None:
        try:
            import wsidicom.config
        except ImportError:
            raise SlideError(needs_dicom(path)) from None
        quiet_dicom()
        self._name, self._files = path.name, list(files)
        self._reads = Reads()
        self.remarks: tuple[str, ...] = ()
        self._require_decoder()
        try:
            self._slide = self._open(
                wsidicom.config.Settings(
                    decoded_frame_cache_size=_CACHE, encoded_frame_cache_size=_CACHE
                )
            )
            self._describe()
        except SlideError:
            self._close_quietly()
            raise
        except Exception as error:  # noqa: BLE001 - messages may quote the patient's data
            self._close_quietly()
            raise SlideError(
                f"{path.name} is a DICOM slide that is damaged or incomplete "
                f"({type(error).__name__}); copy or export the whole series again"
            ) from None

    def _open(self, settings: Any) -> Any:
        """Return the slide as wsidicom opens it."""
        from wsidicom import WsiDicom

        return WsiDicom.open([one.path for one in self._files], settings=settings)

    def _require_decoder(self) -> None:
        """Refuse pixels that nothing here decodes, or decodes into other colours."""
        from pydicom.uid import UID
        from wsidicom.codec import Decoder

        for one in self._files:
            syntax = UID(one.syntax)
            known = Decoder.select_decoder(syntax, one.samples, one.bits) is not None
            if one.samples == 3:
                known &= one.photometric in _DECODED_TO_RGB
                known &= one.photometric == "RGB" or one.syntax in _YBR_IS_UNDONE
            else:
                known &= one.photometric == "MONOCHROME2"
            if not known:
                raise SlideError(
                    f"{self._name} stores {one.samples} x {one.bits} bits per pixel as "
                    f"{one.photometric[:20]} in {str(syntax.name)[:60]}, which no reader here "
                    "decodes; export it as JPEG or JPEG 2000"
                )
        kinds = {(one.samples, one.bits, one.photometric) for one in self._files}
        if len({kind[:2] for kind in kinds}) > 1:
            raise SlideError(
                f"the levels of {self._name} hold pixels of different kinds; export it again"
            )

    def _describe(self) -> None:
        slide, first = self._slide, self._files[0]
        base = slide.levels.base_level
        self._refuse_what_was_left_out()
        if len(slide.pyramids) > 1:
            self.remarks += (f"image 1 of {len(slide.pyramids)} of the series is shown",)
        self._stored = list(slide.levels)
        paths = list(base.optical_paths)
        planes = sorted(base.focal_planes)
        if len(planes) > 1:
            middle = len(planes) // 2
            self.remarks += (f"focal plane {middle + 1} of {len(planes)} is shown",)
        self._plane = planes[len(planes) // 2]
        self.rgb = first.samples == 3
        self.dtype: np.dtype[Any] = np.dtype(np.uint8 if first.bits <= 8 else np.uint16)
        if self.rgb:
            if len(paths) > 1:
                self.remarks += (f"optical path 1 of {len(paths)} is shown",)
            self._paths = paths[:1]
            self.channels: tuple[Channel, ...] = (Channel("red"), Channel("green"), Channel("blue"))
            self.background: tuple[int, ...] = (255, 255, 255)
        else:
            self._paths = paths
            self.channels = tuple(Channel(f"optical path {one}"[:80]) for one in paths)
            self.background = (0,) * len(paths)
        self.levels = tuple(
            Level(one.size.width, one.size.height, 1.0, one.tile_size.width, one.tile_size.height)
            for one in self._stored
        )
        settled = settle(self.levels, self.read_tile)
        self._stored = [self._stored[index] for index in settled.kept]
        self.levels = settled.levels
        self.remarks += settled.remarks
        width, height = self.levels[0].width, self.levels[0].height
        self.bounds = (0, 0, width, height)
        self.mpp, self.mpp_source = self._resolution(base)
        self.properties = {"vendor": "dicom"}
        self.content_hash = self._hash()

    def _refuse_what_was_left_out(self) -> None:
        """Refuse a slide of which wsidicom passed over the finest level."""
        widest = max(one.width for one in self._files)
        if self._slide.levels.base_level.size.width != widest:
            raise SlideError(
                f"the finest level of {self._name} ({widest} pixels wide) is damaged; copy or "
                "export the whole series again"
            )

    @staticmethod
    def _resolution(base: Any) -> tuple[float | None, str]:
        try:
            size = base.mpp
        except Exception:  # noqa: BLE001 - states none, in one of several ways
            size = None
        if size is None:
            return None, "the file states no resolution"
        return usable_mpp(float(size.width), float(size.height), "DICOM pixel spacing")

    def _hash(self) -> str:
        digest = hashlib.sha256(repr(sorted(one.instance for one in self._files)).encode())
        finest = self.levels[0]
        columns = -(-finest.width // finest.tile_width)
        rows = -(-finest.height // finest.tile_height)
        for index in np.unique(np.linspace(0, rows * columns - 1, _SAMPLES).astype(np.int64)):
            try:
                row, column = divmod(int(index), columns)
                digest.update(self.read_tile(0, row, column).tobytes())
            except TileError:
                digest.update(b"damaged")
        return digest.hexdigest()

    def read_tile(self, level: int, row: int, column: int) -> NDArray[Any]:
        """See `Backend.read_tile`."""
        stored, one = self.levels[level], self._stored[level]
        plane = min(one.focal_planes, key=lambda z: abs(z - self._plane))
        with self._reads.one():
            try:
                parts = [self._decoded(one, stored, (column, row), plane, p) for p in self._paths]
            except TileError:
                raise
            except RemoteError as error:
                raise TileError(str(error)) from None
            except Exception as error:  # noqa: BLE001 - a decoder's, of what no check foresaw
                raise TileError(type(error).__name__) from None
        pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        height = min(stored.tile_height, stored.height - row * stored.tile_height)
        width = min(stored.tile_width, stored.width - column * stored.tile_width)
        pixels = np.ascontiguousarray(pixels[:height, :width])
        require_tile(pixels, stored, row, column, len(self.channels), self.dtype)
        return pixels

    def _decoded(
        self, one: Any, stored: Level, tile: tuple[int, int], plane: float, path: str
    ) -> NDArray[Any]:
        """Decode a tile, once its own header was seen to state the size that it should have."""
        data = self._slide.read_encoded_tile(
            one.level, tile, plane, path, crop_to_image_boundary=False
        )
        size = stated_size(data)
        if size is not None and size != (stored.tile_width, stored.tile_height):
            raise TileError(
                f"a tile is {size[0]} x {size[1]} pixels where {stored.tile_width} x "
                f"{stored.tile_height} were stated"
            )
        whole = stored.tile_width * stored.tile_height * len(self.channels) * self.dtype.itemsize
        if len(data) > 2 * whole + _SPARE:
            raise TileError(f"a tile claims {len(data)} bytes where {whole} hold all of it")
        pixels = np.asarray(
            self._slide.read_tile(
                one.level, tile, plane, path, crop_to_image_boundary=False, as_array=True
            )
        )
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def _close_quietly(self) -> None:
        with contextlib.suppress(Exception):
            self._slide.close()

    def close(self) -> None:
        """See `Backend.close`."""
        if self._reads.end():
            self._close_quietly()


def needs_dicom(path: Path) -> str:
    """Return the sentence for a file that only the extra ``dicom`` reads."""
    return (
        f"{path.name} is a DICOM slide that OpenSlide does not read, and wsidicom is not "
        'installed: run pip install "napari-2dmamba[dicom]"'
    )
