"""JPEG and PNG files as small slides: a field of view, a tile of a data set."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide.backend import Channel, Level, SlideClosed, on_background

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_TILE = 512
_MOST_PIXELS = 400_000_000  # 1.2 GB as RGB: the whole picture is decoded into memory
_TURNED = "turned upright as its EXIF data say"


def is_picture(header: bytes) -> bool:
    """Tell JPEG and PNG by their first bytes."""
    return header.startswith(_MAGIC)


class PictureBackend:
    """Decode the whole picture once; it states no µm per pixel that could be believed.

    Resolutions in JPEG and PNG are those of a screen or printer, so the user gives the true one.

    Raises
    ------
    SlideError
        When it is damaged, or too large for a format without tiles.
    """

    name = "Pillow"
    background: tuple[int, ...]
    content_hash: str | None = None
    no_picture: str | None = None

    def __init__(self, path: Path) -> None:
        remarks: list[str] = []
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # our own limit speaks
        try:
            with Image.open(path, formats=("JPEG", "PNG")) as picture:
                if picture.width * picture.height > _MOST_PIXELS:
                    raise SlideError(
                        f"{path.name} has {picture.width} x {picture.height} pixels, too many for "
                        "a picture that is read as a whole; convert it to a tiled TIFF"
                    )
                upright = ImageOps.exif_transpose(picture)
                if upright.size != picture.size or picture.getexif().get(0x0112, 1) != 1:
                    remarks.append(_TURNED)
                pixels = _pixels(upright)
        except SlideError:
            raise
        except Exception as error:  # Pillow passes on whatever its decoders raise
            raise SlideError(
                f"{path.name} is damaged and cannot be decoded ({error}); copy it again"
            ) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
        self._pixels: NDArray[Any] | None = pixels
        height, width, count = pixels.shape
        self.rgb = count == 3
        self.dtype: np.dtype[Any] = pixels.dtype
        names = ("red", "green", "blue") if self.rgb else ("grey",)
        self.channels = tuple(Channel(name) for name in names)
        self.background = (255, 255, 255) if self.rgb else (0,)
        self.levels: tuple[Level, ...] = (Level(width, height, 1.0, _TILE, _TILE),)
        self.bounds = (0, 0, width, height)
        self.mpp: float | None = None
        self.mpp_source = "JPEG and PNG state none that is a microscope's"
        self.properties: dict[str, str] = {}
        self.remarks = tuple(remarks)

    def read_tile(self, level: int, row: int, column: int) -> NDArray[Any]:
        """See `Backend.read_tile`."""
        pixels = self._pixels
        if pixels is None:
            raise SlideClosed("the slide is closed")
        y, x = row * _TILE, column * _TILE
        return pixels[y : y + _TILE, x : x + _TILE].copy()

    def close(self) -> None:
        """Give the memory back."""
        self._pixels = None


def _pixels(picture: Image.Image) -> NDArray[Any]:
    """Return ``(h, w, 3)`` colours over white, or ``(h, w, 1)`` of one grey channel."""
    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        return np.asarray(picture).astype(np.uint16)[..., None]
    if picture.mode in ("L", "1"):
        return np.asarray(picture.convert("L"))[..., None].copy()
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        return on_background(np.asarray(picture.convert("RGBA")), (255, 255, 255))
    return np.asarray(picture.convert("RGB")).copy()
