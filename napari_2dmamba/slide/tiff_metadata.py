"""What a TIFF says about itself: resolution, channels, its kind, and whether it is whole."""

import contextlib
import logging
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal
from xml.etree import ElementTree

import tifffile

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide.backend import Channel, usable_mpp

_UM = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "μm": 1.0, "um": 1.0, "nm": 1e-3, "å": 1e-4, "in": 25400.0,
    "micron": 1.0, "micrometer": 1.0, "micrometre": 1.0, "nanometer": 1e-3, "nanometre": 1e-3,
    "millimeter": 1e3, "millimetre": 1e3, "centimeter": 1e4, "centimetre": 1e4, "inch": 25400.0,
    "angstrom": 1e-4, "meter": 1e6, "metre": 1e6,
}  # fmt: skip
"""Units in µm, in lower case with the Greek letter mu."""

_RGB_NAMES = ({"red", "r"}, {"green", "g"}, {"blue", "b"})
_NONE = (None, "the file states no resolution")
_MOST_PAGES = 100_000


@contextlib.contextmanager
def quiet_tifffile() -> Iterator[None]:
    """Keep tifffile from logging what we turn into a sentence."""
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def ome_image(tiff: tifffile.TiffFile, index: int) -> ElementTree.Element | None:
    """Return the ``Pixels`` element of a series, with namespaces taken off."""
    if not tiff.is_ome or not tiff.ome_metadata:
        return None
    try:
        root = ElementTree.fromstring(tiff.ome_metadata)
    except ElementTree.ParseError:
        return None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    images = root.findall("Image")
    return images[index].find("Pixels") if index < len(images) else None


def names_red_green_blue(ome: ElementTree.Element | None) -> bool:
    """Whether three planes are the colours of one picture rather than three stains."""
    if ome is None:
        return False
    channels = ome.findall("Channel")
    if any(c.get("EmissionWavelength") or c.get("Fluor") for c in channels):
        return False
    if len(channels) != 3:
        return not channels or channels[0].get("SamplesPerPixel") == "3"
    names = [(c.get("Name") or "").strip().lower() for c in channels]
    generic = all(re.fullmatch(r"(channel[ :]*)?[\d:]*", name) for name in names)
    return generic or all(n in known for n, known in zip(names, _RGB_NAMES, strict=True))


def are_channels(ome: ElementTree.Element | None, planes: int) -> bool:
    """Whether planes that tifffile could not place are the channels that OME metadata counts."""
    if ome is None:
        return False
    counts = {axis: ome.get(f"Size{axis}", "1") for axis in "CZT"}
    return counts == {"C": str(planes), "Z": "1", "T": "1"}


def channels(
    tiff: tifffile.TiffFile, ome: ElementTree.Element | None, count: int, rgb: bool
) -> tuple[Channel, ...]:
    """Return the channels as OME or PerkinElmer metadata name them."""
    if rgb:
        return (Channel("red"), Channel("green"), Channel("blue"))
    named: list[Channel] = []
    if ome is not None:
        for element in ome.findall("Channel"):
            color = element.get("Color")
            shade = None
            if color is not None:
                value = int(color) & 0xFFFFFFFF
                red, green, blue = (value >> shift & 255 for shift in (24, 16, 8))
                shade = (red / 255, green / 255, blue / 255) if value >> 8 else None
            named.append(Channel(element.get("Name") or f"channel {len(named) + 1}", shade))
    elif tiff.is_qpi:
        for page in tiff.series[0].pages:
            described = getattr(page, "description", "") or ""
            found = re.search(r"<Name>([^<]+)</Name>", described)
            named.append(Channel(found[1] if found else f"channel {len(named) + 1}"))
    if len(named) != count:
        named = [Channel(f"channel {i + 1}") for i in range(count)]
    return tuple(named)


def resolution(
    tiff: tifffile.TiffFile, page: tifffile.TiffPage, ome: ElementTree.Element | None
) -> tuple[float | None, str]:
    """Return µm per pixel, or None, with where it comes from or why there is none."""
    if tiff.is_svs:
        stated = re.search(r"\bMPP\s*=\s*([0-9.,eE+-]+)", page.description)
        if not stated:
            return _NONE
        size = stated_number(stated[1])
        return usable_mpp(size, size, "Aperio metadata")
    if ome is not None:
        found = [_ome_size(ome, axis) for axis in "XY"]
        if any(size is not None for size in found):
            return _from_axes(found, "OME metadata")
    unit = page.tags.get("ResolutionUnit")
    scale = {2: 25400.0, 3: 10000.0}.get(int(unit.value) if unit is not None else 2)
    source = "TIFF resolution tag"
    named = _imagej_unit(tiff)
    if named is not None:
        scale, source = named, "ImageJ metadata"
    if scale is None:
        return _NONE
    tags = [page.tags.get(f"{axis}Resolution") for axis in "XY"]
    ratios = [tag.value if tag is not None and 0 not in tag.value else None for tag in tags]
    return _from_axes([r and scale * r[1] / r[0] for r in ratios], source)


def stated_number(text: str) -> float | None:
    """Return a number written with a decimal point or, as some locales do, a comma."""
    try:
        return float(text.strip(",").replace(",", "."))
    except ValueError:
        return None


def _from_axes(sizes: list[float | None], source: str) -> tuple[float | None, str]:
    """Judge sizes along x and y; one that is missing is like the other, for pixels are square."""
    stated = [size for size in sizes if size is not None]
    if len(stated) == 1:
        source = f"{source} (one axis)"
    return usable_mpp(stated[0], stated[-1], source) if stated else _NONE


def um_per(unit: str) -> float | None:
    """Return µm per unit, whichever way it is written; None where it is no length."""
    with contextlib.suppress(UnicodeDecodeError):
        if "\\u" in unit:  # as ImageJ writes letters beyond ASCII
            unit = unit.encode("ascii", "ignore").decode("unicode_escape")
    plain = unicodedata.normalize("NFKC", unit).strip().lower()
    return _UM.get(plain) or _UM.get(plain.removesuffix("s"))


def _ome_size(ome: ElementTree.Element, axis: str) -> float | None:
    scale = um_per(ome.get(f"PhysicalSize{axis}Unit", "µm"))
    size = stated_number(ome.get(f"PhysicalSize{axis}", ""))
    return None if scale is None or size is None else scale * size


def _imagej_unit(tiff: tifffile.TiffFile) -> float | None:
    """Return µm per unit of the resolution tags as ImageJ's description names it."""
    if not tiff.is_imagej:
        return None
    unit = (tiff.imagej_metadata or {}).get("unit")
    return um_per(str(unit)) if unit else None


def properties(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> dict[str, str]:
    """Return what is worth showing and holds neither label text nor names of people."""
    found = {
        "vendor": "aperio" if tiff.is_svs else "ome" if tiff.is_ome else "generic-tiff",
        "compression": tifffile.COMPRESSION(page.compression).name,
    }
    power = re.search(r"\bAppMag\s*=\s*([0-9.]+)", page.description) if tiff.is_svs else None
    if power:
        found["objective_power"] = power[1]
    return found


def is_vendors_own(opened: BinaryIO, name: str) -> bool:
    """Whether a TIFF's tiles overlap or are arranged in a way only OpenSlide puts together."""
    with quiet_tifffile():
        try:
            with tifffile.TiffFile(opened, name=name, _multifile=False) as tiff:
                make = tiff.pages.first.tags.get("Make")
                return bool(
                    tiff.is_ndpi
                    or tiff.is_scn
                    or tiff.is_bif
                    or tiff.is_philips
                    or (make is not None and "trestle" in str(make.value).lower())
                )
        except Exception:  # noqa: BLE001 - tifffile lets any error through
            return False


def require_whole_chain(path: Path, file: BinaryIO) -> None:
    """Walk the chain of directories before anything else follows it.

    Raises
    ------
    SlideError
        When it leads beyond the end of the file, in a circle, or on and on.
    """
    file.seek(0)
    header = file.read(16)
    order: Literal["little", "big"] = "big" if header[:2] == b"MM" else "little"
    big = int.from_bytes(header[2:4], order) == 43
    offset_size, count_size, entry_size = (8, 8, 20) if big else (4, 2, 12)
    if path.suffix.lower() == ".ndpi":  # its offsets are 64 bits wide in a 32-bit file
        return
    length = file.seek(0, 2)
    position = 8 if big else 4
    seen: set[int] = set()
    while True:
        file.seek(position)
        data = file.read(offset_size)
        offset = int.from_bytes(data, order)
        if len(data) < offset_size or offset + count_size > length:
            raise SlideError(
                f"{path.name} is cut short: the file ends before its image does; copy it again"
            )
        if offset == 0:
            return
        if offset in seen or len(seen) >= _MOST_PAGES:
            what = "lead in a circle" if offset in seen else f"are more than {_MOST_PAGES}"
            raise SlideError(
                f"{path.name} is damaged: its directories {what}; copy or export it again"
            )
        seen.add(offset)
        file.seek(offset)
        tags = int.from_bytes(file.read(count_size), order)
        position = offset + count_size + tags * entry_size
        if position > length:
            raise SlideError(
                f"{path.name} is cut short: the file ends before its image does; copy it again"
            )
