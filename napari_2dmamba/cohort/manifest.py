"""A CSV list of slides: which they are, their labels, and their resolution where it is wrong."""

import codecs
import contextlib
import csv
import difflib
import io
import os
import re
from pathlib import Path

from napari_2dmamba.cohort.slides import CohortSlide, home_expanded, slides_below
from napari_2dmamba.errors import CohortError
from napari_2dmamba.slide.addresses import is_address, stand_in
from napari_2dmamba.slide.backend import LARGEST_MPP, SMALLEST_MPP

_COLUMNS = ("slide", "label", "mpp", "regions")


def read_manifest(path: str | os.PathLike[str]) -> list[CohortSlide]:
    """Read a list of slides.

    The first line names the columns: ``slide`` (a file or an address, or the folder of a DICOM
    slide; relative to the manifest), and where wanted ``label``, ``mpp`` (µm per level-0 pixel)
    and ``regions`` (a GeoJSON file, relative to the manifest). Commas, semicolons or tabs
    separate, or what a line ``sep=;`` before it says; further columns are carried into the
    summary, and columns with neither name nor content passed over. Text is UTF-8 or UTF-16, or,
    as Excel saves plain CSV in the west, Windows-1252.

    Raises
    ------
    CohortError
        Naming the line and what is wrong with it.
    """
    path = Path(path)
    text = _text(path)
    if not text.strip():
        raise CohortError(f"{path} is empty; its first line must name the column slide")
    text, separator, lines_before = _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns: list[str] | None = None
    found: dict[Path, tuple[int, CohortSlide]] = {}
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            line = reader.line_num + lines_before
            if not any(cells):
                continue
            while cells and not cells[-1] and (columns is None or len(cells) > len(columns)):
                del cells[-1]
            if columns is None:
                columns = _header(cells, path, line)
                continue
            if len(cells) != len(columns):
                raise CohortError(
                    f"{path}, line {line}: {_counted(len(cells), 'cell')}, but the first line "
                    f"names {_counted(len(columns), 'column')}; put quotes around a cell that "
                    f"holds a {_SEPARATOR_NAMES.get(separator, separator)}"
                )
            row = dict(zip(columns, cells, strict=True))
            if row.pop("", ""):
                raise CohortError(
                    f"{path}, line {line}: {cells[columns.index('')]!r} stands in a column "
                    "without a name; name it in the first line"
                )
            slide = _slide(row, path, line, separator)
            identity = Path(os.path.realpath(slide.path))
            if identity in found:
                raise CohortError(
                    f"{path}, line {line}: {slide.path.name} stands in line "
                    f"{found[identity][0]} already; keep one of the two"
                )
            found[identity] = (line, slide)
    except csv.Error as error:
        raise CohortError(
            f"{path}, line {reader.line_num + lines_before}: not a line of a CSV table "
            f"({error}); check its quotes"
        ) from error
    if not found:
        raise CohortError(f"{path} names no slide; add one line per slide below the first")
    return [slide for _, slide in found.values()]


_SEPARATOR_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}


_LARGEST = 64 * 2**20
_SAYS_SEPARATOR = re.compile(r'\s*"?sep=(.)"?[;,\t]*\s*?(\r\n|\n|\r|$)', re.IGNORECASE)


def _separator(text: str) -> tuple[str, str, int]:
    """Return the table, what separates its cells, and how many lines stood before it."""
    said = _SAYS_SEPARATOR.match(text)
    if said is not None:
        before = text[: said.end()]
        return text[said.end() :], said[1], len(before.splitlines())
    first = text.lstrip().splitlines()[0]
    return text, max(",;\t", key=first.count), 0


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise CohortError(
                f"{path} holds {size / 1e6:.0f} MB, which no list of slides does; check its name"
            )
        data = path.read_bytes()
    except OSError as error:
        raise CohortError(f"{path} cannot be read ({error.strerror}); check its name") from error
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif data[1:2] == b"\0" or data[:1] == b"\0":
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8-sig" and not data.startswith(codecs.BOM_UTF8):
            with contextlib.suppress(UnicodeDecodeError):
                return data.decode("cp1252")
        raise CohortError(
            f"{path} is not text in {encoding.removesuffix('-sig').upper()} (byte "
            f"{error.start}); save it as CSV UTF-8"
        ) from error


def _header(cells: list[str], path: Path, line: int) -> list[str]:
    columns = [_known(cell) for cell in cells]
    for name in columns:
        if name and columns.count(name) > 1:
            raise CohortError(
                f"{path}, line {line}: two columns are called {name!r}; rename one of them"
            )
    if "slide" not in columns:
        raise CohortError(
            f"{path}, line {line}: no column is called slide, only {', '.join(cells)}; name the "
            "column of the slide files slide"
        )
    for known in _COLUMNS:
        if known in columns:
            continue
        for name in columns:
            likeness = difflib.SequenceMatcher(None, known, name.lower()).ratio()
            if name not in _COLUMNS and likeness > 0.79:
                raise CohortError(
                    f"{path}, line {line}: the column {name!r} is unknown; call it {known!r} if "
                    "that is what it holds, or something less like it"
                )
    return columns


def _known(name: str) -> str:
    return name.lower() if name.lower() in _COLUMNS else name


def _slide(row: dict[str, str], path: Path, line: int, separator: str) -> CohortSlide:
    name = row.pop("slide")
    if not name:
        raise CohortError(f"{path}, line {line}: the cell slide is empty; name the slide file")
    if "\0" in name:
        raise CohortError(f"{path}, line {line}: {name!r} cannot be the name of a file")
    place = stand_in(name) if is_address(name) else path.parent / home_expanded(name)
    slide = Path(os.path.abspath(place))
    if os.path.isdir(slide):  # unlike Path.is_dir, says no to a name too long for the system
        inside = slides_below(slide)
        if len(inside) != 1:
            raise CohortError(
                f"{path}, line {line}: the folder {name} holds "
                f"{_counted(len(inside), 'slide')} instead of one; name the slide file"
            )
        slide = inside[0]
    label = row.pop("label", "") or None
    mpp = _mpp(row.pop("mpp", ""), path, line, separator)
    regions = row.pop("regions", "")
    if "\0" in regions:
        raise CohortError(f"{path}, line {line}: {regions!r} cannot be the name of a file")
    return CohortSlide(
        slide,
        label,
        mpp,
        {key: value for key, value in row.items() if value},
        Path(os.path.abspath(path.parent / home_expanded(regions))) if regions else None,
    )


def _mpp(text: str, path: Path, line: int, separator: str) -> float | None:
    if not text:
        return None
    try:
        mpp = float(text if separator == "," else text.replace(",", "."))
    except ValueError:
        raise CohortError(
            f"{path}, line {line}: mpp is {text!r}, but must be a number of µm per pixel, such as "
            "0.25"
        ) from None
    if not SMALLEST_MPP <= mpp <= LARGEST_MPP:
        raise CohortError(
            f"{path}, line {line}: mpp is {text}, but a slide lies between {SMALLEST_MPP:g} and "
            f"{LARGEST_MPP:g} µm per pixel"
        )
    return mpp


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
