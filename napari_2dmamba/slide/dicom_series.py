"""Which files of a folder, a DICOMDIR or beside a file are one DICOM whole slide image.

Reads headers with pydicom (the extra ``dicom``), and of them neither names nor other words about
the patient. Labels and overviews are told apart here and never opened.
"""

import logging
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide.backend import LARGEST_SIDE

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_DIRECTORY = "1.2.840.10008.1.3.10"
_MOST_FILES = 4096
_MOST_TILES = 2**22
_LARGEST_TILE = 2**28
"""Bytes of one decoded frame."""
_LAST_TAG = 0x00480008
"""Sizes and kind stand before it; the lists of all frames after it."""
_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "ImageType", "ContainerIdentifier",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "BitsStored",
    "PhotometricInterpretation", "TotalPixelMatrixColumns", "TotalPixelMatrixRows",
)  # fmt: skip


@dataclass(frozen=True)
class DicomFile:
    """A file of a whole slide image, and what its header says of the pixels.

    Attributes
    ----------
    path, series, instance
        The file, the unique numbers of its series and of itself.
    container
        Number of the glass slide; compared, never shown.
    kind
        ``"VOLUME"`` (the slide), ``"LABEL"``, ``"OVERVIEW"``, ``"THUMBNAIL"``.
    width, height
        In pixels.
    syntax
        Transfer syntax: how the pixels are stored.
    samples, bits, photometric
        Per pixel; what the samples mean.
    """

    path: Path
    series: str
    instance: str
    container: str
    kind: str
    width: int
    height: int
    syntax: str
    samples: int
    bits: int
    photometric: str


def is_dicom(header: bytes) -> bool:
    """Tell a DICOM file, DICOMDIR included, by its first bytes."""
    return header[128:132] == b"DICM"


def holds_dicom(folder: Path) -> bool:
    """Whether a folder holds a DICOMDIR or a DICOM file, itself or one folder below."""
    return (folder / "DICOMDIR").is_file() or any(
        _starts_as_dicom(path) for path in _files_below(folder)
    )


def series_of(path: Path) -> str | None:
    """Return the series of a file of a whole slide image, or None for anything else."""
    try:
        found = _read(path)
    except (ImportError, SlideError):
        return None
    return found.series if found is not None else None


def is_beside_the_slide(path: Path) -> bool:
    """Whether a DICOM file is known to hold a label, an overview or a thumbnail."""
    try:
        found = _read(path)
    except (ImportError, SlideError):
        return False
    return found is not None and found.kind != "VOLUME"


def volume_of(path: Path) -> list[DicomFile]:
    """Return the files of the one slide that a file, a folder or a DICOMDIR stands for.

    Raises
    ------
    ImportError
        When pydicom is not installed.
    SlideError
        When there is no whole slide image, or more than one.
    """
    wanted = None
    if path.is_dir():
        directory = path / "DICOMDIR"
        paths = _listed_in(directory) if directory.is_file() else _files_below(path)
    else:
        header = _header(path)
        if str(getattr(header.file_meta, "MediaStorageSOPClassUID", "")) == _DIRECTORY:
            paths = _listed_in(path)
        else:
            one = described(path, header)
            if one is None:
                raise SlideError(
                    f"{path.name} is a DICOM file of another kind than a whole slide image; open a "
                    "file of a slide's series"
                )
            wanted = one.series
            paths = [path, *(p for p in _files_beside(path) if p != path)]
    files: dict[str, DicomFile] = {}
    for place in paths:
        found = _read(place) if _starts_as_dicom(place) else None
        if found is not None and wanted in (None, found.series):
            files.setdefault(found.instance, found)
    return one_slide(path, list(files.values()))


def one_slide(path: Path, files: list[DicomFile]) -> list[DicomFile]:
    """Return those of the files that are the slide itself.

    Raises
    ------
    SlideError
        When there is none, or more than one slide.
    """
    volume = [one for one in files if one.kind == "VOLUME"]
    if not volume:
        what = "only a label or an overview of a slide" if files else "no DICOM whole slide image"
        raise SlideError(f"{path.name} holds {what}; open the folder with the slide's own files")
    series = {one.series for one in volume}
    if len(series) > 1:
        first = ", ".join(sorted({_of_series(volume, one) for one in series})[:4])
        raise SlideError(
            f"{path.name} holds {len(series)} DICOM series, that is {len(series)} slides or scans; "
            f"open one file of the series you want, for example {first}"
        )
    if len({one.container for one in volume}) > 1:
        raise SlideError(
            f"the series of {path.name} mixes files of several glass slides; separate them into "
            "series of their own"
        )
    return volume


def _of_series(volume: list[DicomFile], series: str) -> str:
    return max((o for o in volume if o.series == series), key=lambda o: o.width).path.name


def _read(path: Path) -> DicomFile | None:
    return described(path, _header(path))


def _header(path: Path) -> Any:
    """Return the data set up to the lists of frames."""
    import pydicom
    from pydicom.filereader import read_partial

    quiet_dicom()
    try:
        with path.open("rb") as file:
            return read_partial(
                file,
                stop_when=lambda tag, vr, length: int(tag) >= _LAST_TAG,
                specific_tags=[pydicom.tag.Tag(name) for name in _TAGS],
            )
    except Exception as error:  # noqa: BLE001 - whatever parsing raises, with values in it
        raise SlideError(
            f"{path.name} is a DICOM file that is damaged or cut short ({type(error).__name__}); "
            "copy or export it again"
        ) from None


def described(path: Path, header: Any) -> DicomFile | None:
    """Return what a header says of a whole slide image, or None for one of another kind.

    Raises
    ------
    SlideError
        When it lacks what the pixels need, or states sizes that no slide has.
    """
    try:
        if str(header.get("SOPClassUID", "")) != _WHOLE_SLIDE:
            return None
        kind = [str(word).upper() for word in header.get("ImageType", ())]
        width, height = int(header.TotalPixelMatrixColumns), int(header.TotalPixelMatrixRows)
        rows, columns = int(header.Rows), int(header.Columns)
        frames = int(header.get("NumberOfFrames", 1))
        found = DicomFile(
            path=path,
            series=str(header.SeriesInstanceUID),
            instance=str(header.SOPInstanceUID),
            container=str(header.get("ContainerIdentifier", "")),
            kind=kind[2] if len(kind) > 2 else "VOLUME",
            width=width,
            height=height,
            syntax=str(header.file_meta.TransferSyntaxUID),
            samples=int(header.SamplesPerPixel),
            bits=int(header.BitsStored),
            photometric=str(header.PhotometricInterpretation),
        )
        allocated = int(header.BitsAllocated)
    except Exception as error:  # noqa: BLE001 - as above
        raise SlideError(
            f"{path.name} is a DICOM slide whose header lacks what its pixels need "
            f"({type(error).__name__}); export it again from its source"
        ) from None
    sizes_fit = (
        min(width, height) > 0
        and max(width, height) <= LARGEST_SIDE
        and min(rows, columns) > 0
        and rows * columns * found.samples * allocated // 8 <= _LARGEST_TILE
        and -(-width // columns) * -(-height // rows) <= _MOST_TILES
        and 0 < frames <= _MOST_TILES
        and found.samples in (1, 3)
        and allocated in (8, 16)
    )
    if not sizes_fit:
        raise SlideError(
            f"{path.name} claims {width} x {height} pixels in {frames} frames of {columns} x "
            f"{rows}, which no slide has; it is damaged: export it again from its source"
        )
    return found


def _listed_in(directory: Path) -> list[Path]:
    """Return the files that a DICOMDIR lists, none of them outside its folder."""
    import pydicom

    quiet_dicom()
    paths: list[Path] = []
    try:
        records = pydicom.dcmread(directory).DirectoryRecordSequence
        for record in records:
            named = record.get("ReferencedFileID")
            if not named:
                continue
            parts = [named] if isinstance(named, str) else [str(part) for part in named]
            inside = not any({"/", "\\", "\0"} & set(one) or one in (".", "..") for one in parts)
            if not inside or len(paths) >= _MOST_FILES:
                raise ValueError("a file outside the folder, or too many")
            paths.append(directory.parent.joinpath(*parts))
    except Exception as error:  # noqa: BLE001 - as above
        raise SlideError(
            f"{directory.name} is damaged, or lists files outside its folder "
            f"({type(error).__name__}); open the folder of the slide's files instead"
        ) from None
    missing = sum(1 for path in paths if not path.is_file())
    if missing:
        raise SlideError(
            f"{missing} of the {len(paths)} files that {directory.name} lists are missing; copy "
            "the whole folder again"
        )
    return paths


def _files_below(folder: Path) -> list[Path]:
    """Return the files of a folder and of the folders in it."""
    inner = sorted(p for p in _entries(folder) if p.is_dir())
    return [*_files_in(folder), *(p for one in inner for p in _files_in(one))][:_MOST_FILES]


def _files_beside(path: Path) -> list[Path]:
    return _files_in(path.parent)[:_MOST_FILES]


def _files_in(folder: Path) -> list[Path]:
    return sorted(p for p in _entries(folder) if p.is_file())


def _entries(folder: Path) -> Iterable[Path]:
    try:
        return [folder / name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError:
        return []


def _starts_as_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return False


def quiet_dicom() -> None:
    """Keep the libraries from logging and warning: what they say may quote the patient's data."""
    for name in ("pydicom", "wsidicom", "dicomweb_client", "highdicom"):
        logger = logging.getLogger(name)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
        warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
