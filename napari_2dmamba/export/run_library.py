"""Where runs are kept: a folder for each slide, and in it one for each of its runs.

    ROOT/SLIDE-3f2a91c0/features-….h5            features, used again by every run
    ROOT/SLIDE-3f2a91c0/2026-11-27_141503-MODEL/  one run, never written over

Before, a slide had one run, whose files lay directly in its folder: such runs are listed and
opened as well.
"""

import contextlib
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from napari_2dmamba.atomic_files import shortened
from napari_2dmamba.errors import ExportError
from napari_2dmamba.export.record import RunRecord, read_record
from napari_2dmamba.export.run_folder import RECORD_FILE, RUN_FILES, change_record

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

BIN_FOLDER = ".bin"
"""Beside a run, where the system has no bin."""

_OF_A_RUN = (*RUN_FILES, "exports")
_LONGEST_STEM, _LONGEST_MODEL = 150, 60  # bytes; 255 are the most in a name
_DATED = re.compile(r"\d{4}-\d\d-\d\d_\d{6}-")


@dataclass(frozen=True)
class RunSummary:
    """What a list of runs shows of one.

    Attributes
    ----------
    folder
        The run's own folder, or the slide's for a run of the old layout.
    model
        Name of its checkpoint.
    started
        With time zone; None where nothing could be read.
    slide_name, slide_fingerprint
        The slide it was made of.
    verdict
        The answer in a few words.
    included, excluded
        Numbers of regions.
    title, notes
        What the user calls it and says of it.
    problem
        One sentence where the run is damaged and cannot be opened; None else.
    """

    folder: Path
    model: str = ""
    started: datetime | None = None
    slide_name: str = ""
    slide_fingerprint: str = ""
    verdict: str = ""
    included: int = 0
    excluded: int = 0
    title: str = ""
    notes: str = ""
    problem: str | None = None

    @property
    def display_name(self) -> str:
        """The title, or model and local time."""
        if self.title:
            return self.title
        if self.started is None:
            return self.folder.name
        return f"{self.model}, {self.started.astimezone():%Y-%m-%d %H:%M:%S}"

    @property
    def regions(self) -> str:
        """The regions in words; empty for the whole slide."""
        parts = [(self.included, "included"), (self.excluded, "excluded")]
        return ", ".join(f"{count} {word}" for count, word in parts if count)


def slide_folder(root: str | os.PathLike[str], slide: "Slide") -> Path:
    """Return the folder for the runs of one slide, in which its features are kept."""
    stem = shortened(slide.path.stem, _LONGEST_STEM)
    return Path(root) / f"{stem}-{slide.fingerprint[:8]}"


def new_run_folder(
    root: str | os.PathLike[str], slide: "Slide", model_name: str, started: datetime | None = None
) -> Path:
    """Make an empty folder for a run that is about to begin, and return it.

    Two runs that begin in the same second, in one process or in two, get two folders.

    Parameters
    ----------
    root
        Holds one folder per slide.
    model_name
        Part of the folder's name; characters that file systems refuse are replaced.
    started
        When the run begins, with time zone; now when absent.

    Raises
    ------
    ExportError
        When it cannot be made.
    """
    moment = (started or datetime.now(UTC)).astimezone()
    plain = re.sub(r"[^\w.+=-]+", "-", model_name).strip(".-_") or "model"
    model = shortened(plain, _LONGEST_MODEL)
    parent = slide_folder(root, slide)
    name = f"{moment:%Y-%m-%d_%H%M%S}-{model}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            folder = parent / (name if number == 1 else f"{name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise ExportError(
            f"{parent} cannot be written ({error.strerror}); choose another folder for runs"
        ) from error
    raise ExportError(f"{parent} holds 10,000 runs of one second; choose another folder for runs")


def list_runs(folder: str | os.PathLike[str]) -> list[RunSummary]:
    """Return the runs in a slide's folder, the newest first and damaged ones at the end.

    A folder in which no run was finished yet is left out.

    Raises
    ------
    ExportError
        When the folder is there and cannot be read.
    """
    folder = Path(folder)
    try:
        inside = sorted(one for one in folder.iterdir() if not one.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ExportError(
            f"{folder} cannot be read ({error.strerror}); choose another folder for runs"
        ) from error
    found = [summary_of_run(one) for one in (folder, *inside) if _holds_a_run(one)]
    return sorted(found, key=_newest_first)


def list_all_runs(root: str | os.PathLike[str]) -> list[RunSummary]:
    """Return the runs of every slide below a root folder, in the order of `list_runs`.

    Raises
    ------
    ExportError
        As `list_runs`.
    """
    root = Path(root)
    try:
        slides = [one for one in root.iterdir() if not one.name.startswith(".") and one.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ExportError(
            f"{root} cannot be read ({error.strerror}); choose another folder for runs"
        ) from error
    found: list[RunSummary] = []
    for slide in slides:
        with contextlib.suppress(ExportError):  # a folder of somebody else
            found += list_runs(slide)
    return sorted(found, key=_newest_first)


def _newest_first(run: RunSummary) -> tuple[bool, float, str]:
    when = 0.0 if run.started is None else -run.started.timestamp()
    return run.problem is not None, when, run.folder.name


def _holds_a_run(folder: Path) -> bool:
    """Return whether a run was saved here, whole or damaged."""
    return any((folder / name).is_file() for name in RUN_FILES[:2])


def summary_of_run(folder: str | os.PathLike[str]) -> RunSummary:
    """Return what a list shows of a run, from its record alone."""
    folder = Path(folder)
    try:
        record = read_record(folder / RECORD_FILE)
    except ExportError as error:
        return RunSummary(folder, problem=str(error))
    missing = [name for name in RUN_FILES[1:2] if not (folder / name).is_file()]
    problem = None
    if missing:
        problem = (
            f"{folder / missing[0]} is missing from the saved run; restore it from a copy, or "
            "run the slide again"
        )
    return _summary(folder, record, problem)


def _summary(folder: Path, record: RunRecord, problem: str | None) -> RunSummary:
    regions = record.regions
    return RunSummary(
        folder,
        record.model.name,
        record.started,
        record.slide.name,
        record.slide.fingerprint,
        record.result.verdict,
        0 if regions is None else regions.included,
        0 if regions is None else regions.excluded,
        record.title,
        record.notes,
        problem,
    )


def rename_run(folder: str | os.PathLike[str], title: str) -> RunSummary:
    """Give a run a title, or take it away with an empty one; its folder keeps its name.

    Raises
    ------
    ExportError
        When the run is damaged, the title is too long, or nothing can be written.
    """
    change_record(folder, title=" ".join(title.split()))
    return summary_of_run(folder)


def set_notes(folder: str | os.PathLike[str], notes: str) -> RunSummary:
    """Write notes into the record of a run.

    Raises
    ------
    ExportError
        As `rename_run`.
    """
    change_record(folder, notes=notes)
    return summary_of_run(folder)


def move_to_bin(folder: str | os.PathLike[str]) -> str:
    """Move a run to the system's bin, and say in a sentence where it is.

    Where the system has none, the run goes into a folder `BIN_FOLDER` beside it. Of a run in the
    old layout only its own files go: features and other runs in the slide's folder stay.

    Raises
    ------
    ExportError
        When there is no run, or it cannot be moved; it then stays where it was.
    """
    from send2trash import send2trash

    folder = Path(folder)
    if not _holds_a_run(folder):
        raise ExportError(f"{folder} holds no run; choose the folder of a saved run")
    name = folder.name
    try:
        whole = folder if _is_alone(folder) else _gathered(folder)
        try:
            send2trash(whole)
        except Exception:  # whatever a desktop raises: the answer says where the run is instead
            if not whole.exists():
                raise
            bin_folder = whole.parent / BIN_FOLDER
            bin_folder.mkdir(exist_ok=True)
            goal = bin_folder / whole.name
            while goal.exists():
                goal = bin_folder / f"{whole.name}-{secrets.token_hex(2)}"
            os.replace(whole, goal)
            return f"{name} is in {goal}, for this system has no bin here; delete it there"
    except OSError as error:
        raise ExportError(
            f"{folder} cannot be moved to the bin ({error.strerror or error}); it is still there"
        ) from error
    return f"{name} is in the bin of the system"


def _is_alone(folder: Path) -> bool:
    """Return whether a folder is a run's own, and nothing else lies in it."""
    return bool(_DATED.match(folder.name)) or all(one.name in _OF_A_RUN for one in folder.iterdir())


def _gathered(folder: Path) -> Path:
    """Put the files of a run of the old layout into a folder of their own."""
    own = folder / f"{folder.name}-run-{secrets.token_hex(2)}"
    own.mkdir()
    for name in _OF_A_RUN:
        if (folder / name).exists():
            shutil.move(folder / name, own / name)
    return own
