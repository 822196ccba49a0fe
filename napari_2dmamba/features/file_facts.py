"""What a features file says of its patches, whichever tool wrote it."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.settings import setting
from napari_2dmamba.slide.backend import LARGEST_MPP, SMALLEST_MPP

OWN_ATTRIBUTE = "napari_2dmamba"
OWN_LAYOUT = "napari-2dmamba"

LARGEST_PATCH = 10**6
LARGEST_SLIDE = 2**32

_UM_PER_UNIT = {
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns"), 1.0),
    **dict.fromkeys(("micrometer", "micrometers", "micrometre", "micrometres"), 1.0),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 1e4),
    **dict.fromkeys(("inch", "inches"), 25_400.0),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1e-3),
    **dict.fromkeys(("picometer", "picometers", "picometre", "picometres"), 1e-6),
}
_PIXEL_UNITS = ("px", "pixel", "pixels")
_NOT_OF_COORDS = ("mpp", "size", "resolution", "um", "feature")
"""Parts of names that make a unit that of something else: ``tile_size_unit``."""

_PATCH_MPP = ("mpp", "target_mpp", "patch_mpp", "tile_mpp", "extraction_mpp", "microns_per_pixel")
_SLIDE_MPP = (
    "slide_mpp", "level0_mpp", "mpp_level0", "level_0_mpp", "base_mpp", "wsi_mpp", "native_mpp",
    "source_mpp", "slide_mpp_x",
)  # fmt: skip
_SLIDE_POWER = (
    "level0_magnification", "slide_magnification", "base_magnification", "native_magnification",
    "wsi_magnification", "objective_power", "slide_objective_power",
)  # fmt: skip
_SLIDE_SIDES = (
    ("level0_width", "level0_height"), ("slide_width", "slide_height"),
    ("wsi_width", "wsi_height"), ("slide_w", "slide_h"),
)  # fmt: skip
_SLIDE_SIZES = tuple(
    f"{of}_{what}"
    for of in ("slide", "wsi", "level0", "level_0")
    for what in ("dimensions", "dims", "dim", "size")
)
_SLIDE_NAMES = (
    "slide_name", "slide", "slide_file", "slide_filename", "slide_path", "wsi", "wsi_name",
    "wsi_path", "wsi_file",
)  # fmt: skip
_SLIDE_HASHES = tuple(
    f"{of}_{what}"
    for of in ("slide", "wsi")
    for what in ("checksum", "hash", "digest", "sha256", "sha1", "md5")
)
_NUMBER = re.compile(
    r"\s*(\d+(?:[.,]\d+)?(?:e[+-]?\d+)?)"
    r"\s*(?:[x×]|px|pixels?|mpp|(?:um|µm|μm|microns?)(?:\s*(?:/|per)\s*(?:px|pixels?))?)?\s*",
    re.IGNORECASE,
)
"""A number as text, with a decimal comma or a unit that its name admits."""


@dataclass(frozen=True)
class FeatureFileSettings:
    """What features of other tools do not say of themselves; None where nothing has to be said."""

    feature_patch_size: int | None = setting(
        None,
        "Side of the patches that the features were computed from, in pixels at their resolution, "
        "where their file does not say it.",
        label="Patch size of the features",
        unit="px",
        minimum=1,
        maximum=LARGEST_PATCH,
    )
    feature_mpp: float | None = setting(
        None,
        "Resolution of the patches that the features were computed from, where their file does "
        "not say it.",
        label="Resolution of the features",
        unit="µm/px",
        minimum=SMALLEST_MPP,
        maximum=LARGEST_MPP,
    )
    feature_patch_size_level0: int | None = setting(
        None,
        "Side of the patches in level-0 pixels, where neither the features file nor the other two "
        "and the slide say it.",
        label="Patch size on level 0",
        unit="px",
        minimum=1,
        maximum=LARGEST_PATCH,
        advanced=True,
    )


class MissingFeatureFactsError(FeatureError):
    """A features file, its slide and the checkpoint leave open how wide its patches are.

    Attributes
    ----------
    missing
        The fields of `FeatureFileSettings` to give.
    """

    def __init__(self, message: str, missing: tuple[str, ...]) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True)
class FileFacts:
    """What a file says; None where it does not.

    Attributes
    ----------
    layout
        The tool whose layout it is, or empty.
    encoder
        Name of the encoder.
    patch_size
        Side of a patch in pixels at ``mpp``.
    patch_size_level0
        In level-0 pixels.
    patch_size_um
        In µm.
    tile_size
        In pixels, of level 0 or at the patches' own resolution: how far they lie apart tells.
    mpp, slide_mpp
        µm per pixel of patches and of level 0, as measured.
    magnification, slide_magnification
        The same as nominal magnifications: 20x stands for 0.3 to 0.6 µm per pixel.
    slide_size
        ``(width, height)`` of level 0, and within how many pixels it is meant.
    slide_name
        Name of the slide file, mostly without its suffix.
    slide_id
        `Slide.fingerprint`.
    slide_hash
        Checksum of the slide's file, in hexadecimal digits.
    um_per_unit
        Size of the unit of the coordinates in µm; None for level-0 pixels.
    in_pixels
        Whether the file says that its coordinates are pixels.
    centred
        Whether coordinates are those of the centres of patches.
    source
        What our own files say of their making.
    """

    layout: str = ""
    encoder: str | None = None
    patch_size: int | None = None
    patch_size_level0: int | None = None
    patch_size_um: float | None = None
    tile_size: int | None = None
    mpp: float | None = None
    slide_mpp: float | None = None
    magnification: float | None = None
    slide_magnification: float | None = None
    slide_size: tuple[float, float, float] | None = None
    slide_name: str | None = None
    slide_id: str | None = None
    slide_hash: str | None = None
    um_per_unit: float | None = None
    in_pixels: bool = False
    centred: bool = False
    source: dict[str, Any] = field(default_factory=dict)


def facts_of(
    path: Path, attributes: Mapping[str, Any], of_coords: Mapping[str, Any] | None = None
) -> FileFacts:
    """Translate the attributes of a file of ours, CLAM's, TRIDENT's or STAMP's.

    Parameters
    ----------
    attributes
        All of them, of whatever part of the file.
    of_coords
        Those of the coordinates alone: only there ``name`` is the slide's.

    Raises
    ------
    FeatureError
        When a number is none that can be meant, or a unit is unknown.
    """
    said = _Said(path, attributes)
    um_per_unit = said.unit()
    if OWN_ATTRIBUTE in attributes:
        return _own(path, attributes, um_per_unit)
    name = said.text(*_SLIDE_NAMES)
    if name is None and of_coords is not None:
        name = _Said(path, of_coords).text("name")
    if name is not None:
        name = name.replace("\\", "/").rstrip("/").rpartition("/")[2]  # not where it lay
    common: dict[str, Any] = {
        "encoder": said.text("encoder", "encoder_name", "extractor"),
        "slide_mpp": said.number(*_SLIDE_MPP, least=SMALLEST_MPP, most=LARGEST_MPP),
        "slide_name": name,
        "slide_id": said.text("slide_fingerprint", "fingerprint"),
        "slide_magnification": said.number(*_SLIDE_POWER, least=0.01, most=1000),
        "slide_hash": said.text(*_SLIDE_HASHES),
        "um_per_unit": um_per_unit,
        "in_pixels": said.in_pixels(),
        "slide_size": _slide_size(said),
    }
    if said.has("slideflow"):
        return FileFacts(layout="Slideflow", centred=True, **common, **_slideflow(said))
    if said.has("stamp_version") or said.has("tile_size_um") or um_per_unit is not None:
        return FileFacts(layout="STAMP", **common, **_stamp(said, um_per_unit))
    size = said.whole("patch_size")
    level0 = said.whole("patch_size_level0")
    downsample = said.number("downsample", least=1e-3, most=1e6)
    layout = "TRIDENT" if level0 is not None else ""
    if level0 is None and size is not None and downsample is not None:
        level0, layout = max(1, round(size * downsample)), "CLAM"
    return FileFacts(
        layout=layout,
        patch_size=size,
        patch_size_level0=level0,
        tile_size=said.whole("tile_size"),
        mpp=said.number(*_PATCH_MPP, least=SMALLEST_MPP, most=LARGEST_MPP),
        magnification=said.number("target_magnification", least=0.01, most=1000),
        **common,
    )


def _stamp(said: "_Said", um_per_unit: float | None) -> dict[str, Any]:
    unit = um_per_unit or 1.0
    size_um = said.number("tile_size_um", least=1e-2, most=LARGEST_PATCH * LARGEST_MPP)
    if size_um is None:
        size = said.number("tile_size", least=1e-9, most=LARGEST_PATCH * LARGEST_MPP)
        size_um = None if size is None else size * unit
    size_px = said.whole("tile_size_px") or said.whole("patch_size")
    mpp = said.number("mpp", least=SMALLEST_MPP, most=LARGEST_MPP)
    if mpp is None and size_px is not None and size_um is not None:
        mpp = size_um / size_px
    return {
        "patch_size": size_px,
        "patch_size_um": size_um,
        "patch_size_level0": said.whole("patch_size_level0"),
        "mpp": mpp,
    }


def _slideflow(said: "_Said") -> dict[str, Any]:
    """Translate ``tile_um``: a width in µm, or a nominal magnification such as ``"20x"``."""
    width: dict[str, Any] = {}
    if (nominal := said.text("tile_um")) is not None:
        power = _Said(said.path, {"tile_um": nominal.strip().lower().removesuffix("x")})
        width["magnification"] = power.number("tile_um", least=0.01, most=1000)
    else:
        most = LARGEST_PATCH * LARGEST_MPP
        width["patch_size_um"] = said.number("tile_um", least=1e-2, most=most)
    return {"patch_size": said.whole("tile_px"), **width}


def _slide_size(said: "_Said") -> tuple[float, float, float] | None:
    """Return width and height of level 0, and the rounding in them."""
    for names in _SLIDE_SIDES:
        width, height = (said.number(name, least=1, most=LARGEST_SLIDE) for name in names)
        if width is not None and height is not None:
            return width, height, 0.5
    for one in _SLIDE_SIZES:
        if len(size := said.numbers(one)) == 2 and min(size) >= 1:
            return size[0], size[1], 0.5
    # CLAM: the size of the level patches are read from, and by what it is smaller
    size = said.numbers("level_dim")
    down = said.numbers("downsample")
    if len(size) == 2 and len(down) in (1, 2) and min(size) > 0:
        across, along = down[0], down[-1]
        return size[0] * across, size[1] * along, max(across, along) + 0.5
    return None


def _own(path: Path, attributes: Mapping[str, Any], um_per_unit: float | None) -> FileFacts:
    try:
        told = json.loads(attributes[OWN_ATTRIBUTE])
    except (ValueError, TypeError, RecursionError) as error:
        raise FeatureError(
            f"{path} has a damaged attribute {OWN_ATTRIBUTE!r}; restore the file, or extract again"
        ) from error
    if not isinstance(told, dict) or not isinstance(told.get("source", {}) or {}, dict):
        raise FeatureError(
            f"{path} has a damaged attribute {OWN_ATTRIBUTE!r}; restore the file, or extract again"
        )
    said = _Said(path, {name: value for name, value in told.items() if value is not None})
    return FileFacts(
        layout=OWN_LAYOUT,
        encoder=said.text("encoder"),
        patch_size=said.whole("patch_size"),
        patch_size_level0=said.whole("patch_size_level0"),
        mpp=said.number("mpp", least=SMALLEST_MPP / 10, most=LARGEST_MPP * 1000),
        slide_mpp=said.number("slide_mpp", least=SMALLEST_MPP / 10, most=LARGEST_MPP * 10),
        slide_id=said.text("slide_id"),
        slide_name=said.text("slide_name"),
        slide_size=_slide_size(said),
        um_per_unit=um_per_unit,
        source=dict(told.get("source") or {}),
    )


class _Said:
    """Attributes, read as what they must be."""

    def __init__(self, path: Path, attributes: Mapping[str, Any]) -> None:
        self.path = path
        self._attributes = {name.casefold(): value for name, value in attributes.items()}

    def has(self, name: str) -> bool:
        return name in self._attributes

    def unit(self) -> float | None:
        """Return the size of the declared unit of coordinates in µm; None for pixels."""
        for name in self._attributes:
            if (unit := self.text(name)) is None:
                continue
            is_unit = unit.strip().lower() in _UM_PER_UNIT or "unit" in name
            if not is_unit or any(part in name for part in _NOT_OF_COORDS):
                continue
            if unit.strip().lower() in _PIXEL_UNITS:
                continue
            known = _UM_PER_UNIT.get(unit.strip().lower())
            if known is None:
                raise FeatureError(
                    f"{self.path} gives its coordinates in {unit[:40]!r}, a unit that is not "
                    "known; write them in level-0 pixels ('px') or in 'um'"
                )
            return known
        return None

    def in_pixels(self) -> bool:
        """Whether coordinates are declared as pixels."""
        return any(
            (self.text(name) or "").strip().lower() in _PIXEL_UNITS
            for name in self._attributes
            if "unit" in name and not any(part in name for part in _NOT_OF_COORDS)
        )

    def text(self, *names: str) -> str | None:
        for name in names:
            value = self._attributes.get(name)
            if isinstance(value, np.ndarray) and value.size == 1:
                value = value.ravel()[0]
            if isinstance(value, bytes):
                value = value.decode(errors="replace")
            if isinstance(value, str) and value:
                return value[:1000]
        return None

    def numbers(self, name: str) -> list[float]:
        """Return all numbers of an attribute; none where it is no numbers."""
        try:
            values = np.asarray(self._attributes.get(name, []), np.float64).ravel()
        except (TypeError, ValueError):
            return []
        return [float(value) for value in values[:3]] if np.isfinite(values).all() else []

    def number(self, *names: str, least: float, most: float) -> float | None:
        """Return the first number of the first attribute that is there.

        Raises
        ------
        FeatureError
            When it is no number, or none that can be meant.
        """
        for name in names:
            if name not in self._attributes:
                continue
            value = self._attributes[name]
            text = self.text(name)
            try:
                if text is None:
                    number = float(np.asarray(value).ravel()[0])
                else:
                    found = _NUMBER.fullmatch(text)
                    number = math.nan if found is None else float(found[1].replace(",", "."))
            except (TypeError, ValueError, IndexError, OverflowError):
                number = math.nan
            if not least <= number <= most:
                plain = value.item() if isinstance(value, np.generic) else value
                shown = ascii(plain)[:40]
                raise FeatureError(
                    f"{self.path} says {name} {shown}, which must be a number from {least:g} to "
                    f"{most:g}; mend the file, or make it again"
                )
            return number
        return None

    def whole(self, name: str) -> int | None:
        number = self.number(name, least=0.5, most=LARGEST_PATCH)
        return None if number is None else max(1, round(number))
