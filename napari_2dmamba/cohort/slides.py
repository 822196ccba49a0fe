"""From folders, patterns, files and manifests to a list of slides, each of them once."""

import dataclasses
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from napari_2dmamba.errors import CohortError
from napari_2dmamba.file_suffixes import SLIDE_SUFFIXES
from napari_2dmamba.slide.addresses import is_address, stand_in

_OF_A_RUN = frozenset(("run.json", "status.json"))


@dataclass(frozen=True)
class CohortSlide:
    """A slide and what the manifest says of it.

    Attributes
    ----------
    path
        The slide file, absolute; for DICOM the first of its files.
    label
        From the manifest; goes into the summary.
    mpp
        µm per level-0 pixel, taken instead of what the file states.
    notes
        Further columns of the manifest, carried into the summary.
    regions
        A GeoJSON file of regions of this slide, taken instead of those given for all.
    """

    path: Path
    label: str | None = None
    mpp: float | None = None
    notes: dict[str, str] = field(default_factory=dict)
    regions: Path | None = None


def find_slides(
    inputs: Iterable[str | os.PathLike[str]],
    *,
    mpp: float | None = None,
    leave_out: str | os.PathLike[str] | None = None,
) -> list[CohortSlide]:
    """Return the slides that files, folders, patterns and manifests name.

    Folders are searched with all folders below them; hidden files and the folders of saved
    runs are passed over. The files of one DICOM series are one slide, and so is a MIRAX file
    with its folder. A slide named twice is returned once, at its first place; what a manifest
    says of it holds wherever else it was named.

    Parameters
    ----------
    inputs
        Slide files, addresses (``https://``, ``s3://``), folders, patterns such as
        ``"scans/*.svs"`` (``**`` for all folders below), and ``.csv`` manifests (see
        `read_manifest`). A named file need not exist: that is found out when its turn comes, and
        does not stop the others.
    mpp
        For every slide whose manifest does not give one.
    leave_out
        A folder that is not searched: where results are written.

    Raises
    ------
    CohortError
        When a folder or pattern has no slide, a manifest cannot be understood, or two say
        different things of one slide.
    """
    from napari_2dmamba.cohort.manifest import read_manifest

    barred = None if leave_out is None else home_expanded(os.fspath(leave_out)).resolve()
    found: dict[Path, CohortSlide] = {}
    for given in inputs:
        text = os.fspath(given)
        path = stand_in(text) if is_address(text) else home_expanded(text)
        if is_address(text):
            slides = [CohortSlide(path)]
        elif path.suffix.lower() == ".csv" and not os.path.isdir(path):
            slides = read_manifest(path)
        elif os.path.isdir(path) and path.suffix.lower() not in SLIDE_SUFFIXES:
            slides = [CohortSlide(one) for one in slides_below(path, barred)]
            if not slides:
                raise CohortError(
                    f"the folder {path} holds no slide ({', '.join(sorted(SLIDE_SUFFIXES))}); "
                    "name the folder where the slides are"
                )
        elif glob.has_magic(text) and not os.path.exists(path):
            slides = [CohortSlide(one) for one in _matching(str(path), barred)]
            if not slides:
                raise CohortError(f"no slide matches {text!r}; check the pattern and the folder")
        else:
            slides = [CohortSlide(_absolute(path))]
        for slide in slides:
            identity = Path(os.path.realpath(slide.path))
            known = found.get(identity)
            if known is None or (known == CohortSlide(known.path) and slide != known):
                found[identity] = slide
            else:
                _refuse_contradiction(known, slide)
    if not found:
        raise CohortError("no slide was named; give slide files, folders, patterns or a .csv list")
    return [
        slide if slide.mpp is not None else dataclasses.replace(slide, mpp=mpp)
        for slide in found.values()
    ]


def _refuse_contradiction(first: CohortSlide, second: CohortSlide) -> None:
    for what in ("label", "mpp", "regions"):
        said = getattr(first, what), getattr(second, what)
        if None not in said and said[0] != said[1]:
            raise CohortError(
                f"{first.path.name} is named twice, with {what} {said[0]} and {said[1]}; keep the "
                "right one"
            )


def slides_below(folder: Path, leave_out: Path | None = None) -> list[Path]:
    """Return the slides in a folder and all below it, sorted."""
    beside = folder.resolve().with_suffix(".mrxs")
    if (folder / "Slidedat.ini").is_file() and beside.is_file():
        return [beside]
    files: list[Path] = []
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = Path(os.path.realpath(place))
        if real in seen or real == leave_out or _OF_A_RUN & set(names):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        slides = [name for name in folders if Path(name).suffix.lower() == ".zarr"]
        folders[:] = [
            name for name in folders if name not in slides
        ]  # a slide, not a place of some
        files += [
            _absolute(Path(place, name))
            for name in [*names, *slides]
            if not name.startswith(".") and Path(name).suffix.lower() in SLIDE_SUFFIXES
        ]
    return list(_one_per_dicom_series(sorted(files)))


def _matching(pattern: str, leave_out: Path | None) -> Iterator[Path]:
    """Yield the slides a pattern matches; a matched folder stands for the slides in it."""
    files: list[Path] = []
    any_suffix = fnmatch(Path(pattern).name, "*.?*")
    for name in sorted(glob.glob(pattern, recursive=True)):
        path = Path(name)
        if leave_out is not None and Path(os.path.realpath(path)).is_relative_to(leave_out):
            continue
        if os.path.isdir(path) and path.suffix.lower() not in SLIDE_SUFFIXES:
            if not pattern.endswith("**"):
                files += slides_below(path, leave_out)
        elif any_suffix or path.suffix.lower() in SLIDE_SUFFIXES:
            files.append(_absolute(path))
    return _one_per_dicom_series(list(dict.fromkeys(files)))


def _one_per_dicom_series(files: list[Path]) -> Iterator[Path]:
    from napari_2dmamba.slide.dicom_series import is_beside_the_slide

    seen = set()
    # a label's file stands for its series too, and would give the slide its name
    for path in sorted(files, key=lambda p: p.suffix.lower() == ".dcm" and is_beside_the_slide(p)):
        if path.suffix.lower() == ".dcm":
            series = _dicom_series(path)
            if (path.parent, series) in seen:
                continue
            if series is not None:
                seen.add((path.parent, series))
        yield path


def _dicom_series(path: Path) -> str | None:
    """Return the series a DICOM file belongs to, or None for one that does not open."""
    import openslide

    from napari_2dmamba.slide.dicom_series import series_of

    try:
        with openslide.OpenSlide(path) as slide:
            return slide.properties.get("dicom.SeriesInstanceUID")
    except (openslide.OpenSlideError, OSError):
        return series_of(path)


def home_expanded(name: str) -> Path:
    """Return a path whose leading ``~/`` is the user's home; other tildes belong to names."""
    return Path(name).expanduser() if name.startswith("~/") else Path(name)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
