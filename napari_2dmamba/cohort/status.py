"""What became of each slide: one small file per slide, and a table of all of them."""

import csv
import dataclasses
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import CohortError
from napari_2dmamba.redaction import file_names_only
from napari_2dmamba.slide import addresses

STATUS_FILE = "status.json"
SUMMARY_FILE = "summary.csv"

WAITING, RUNNING, DONE, REUSED, FAILED, STOPPED, ELSEWHERE, SUPERSEDED = (
    "waiting", "running", "done", "reused", "failed", "stopped", "elsewhere", "superseded",
)  # fmt: skip
STATES = {
    WAITING: "its turn has not come",
    RUNNING: "worked on now",
    DONE: "done in this run",
    REUSED: "done before, with the same content, settings and checkpoint",
    FAILED: "failed; the reason says why",
    STOPPED: "stopped before its end; the next run goes on from there",
    ELSEWHERE: "worked on by another run; looked at again later",
    SUPERSEDED: "of a file that another of its name has replaced since",
}
"""Every state of a slide and what it means."""


@dataclass(frozen=True)
class SlideStatus:
    """A row of the cohort's table.

    Attributes
    ----------
    slide
        Path of the slide file.
    state
        One of `STATES`.
    label, notes, mpp
        From the manifest.
    regions
        Path of the slide's own regions; empty without any.
    folder
        The slide's own folder, once it has one.
    reason
        One sentence: why it failed, or was stopped.
    result
        What was found: patches, prediction, probabilities or risk, files.
    attempts
        How often it was begun in this run.
    seconds
        Duration of the last attempt.
    worker
        Host and process that worked on it.
    started, finished
        Times of the last attempt, ISO 8601, UTC.
    fingerprint
        `Slide.fingerprint`; empty when the slide does not open.
    key
        Hash of slide, settings and checkpoint of a finished result; empty without one.
    cohort
        Number of the run that wrote it.
    patches_per_second
        How fast features came in the last attempt; 0 when none were computed.
    patches_done, patches_total, message
        Progress, while it runs; not kept.
    """

    slide: str
    state: str = WAITING
    label: str | None = None
    notes: dict[str, str] = field(default_factory=dict)
    mpp: float | None = None
    folder: str = ""
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    seconds: float = 0.0
    worker: str = ""
    started: str = ""
    finished: str = ""
    fingerprint: str = ""
    key: str = ""
    cohort: str = ""
    patches_per_second: float = 0.0
    regions: str = ""
    patches_done: int = 0
    patches_total: int = 0
    message: str = ""

    @property
    def name(self) -> str:
        """File name of the slide."""
        return Path(self.slide).name

    @property
    def good(self) -> bool:
        """Whether there is a result."""
        return self.state in (DONE, REUSED)

    @property
    def finding(self) -> str:
        """The prediction in a few words, or the size of the features."""
        result = self.result
        if "prediction" in result:
            share = result.get("probabilities", {}).get(result["prediction"])
            return result["prediction"] + (f" {share:.3f}" if share is not None else "")
        if result.get("risk") is not None:
            return f"risk {result['risk']:.3f}"
        if "feature_size" in result:
            return f"{result['feature_size']} features per patch"
        return ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is to be known of the slide or its result, in sentences."""
        return tuple(self.result.get("warnings", ()))


_NOT_KEPT = ("folder", "worker", "patches_done", "patches_total", "message")
_LARGEST = 2**24
_DIGITS = re.compile(r"[0-9A-Za-z]*")
"""What a fingerprint is of: folders are called by it."""
_NUMBERS = ("attempts", "seconds", "patches_per_second")
_DICTIONARIES = ("notes", "result")
_NAMES = ("slide", "checkpoint", "settings_digest")
_PLACES = ("folder", "file")
"""Of a result: what is called by a path."""


def write_status(status: SlideStatus) -> None:
    """Write a status into its folder, whole or not at all.

    The folder may be handed on: the slide's path is relative to it, and neither the place of the
    folder nor the machine that worked there is told.

    Raises
    ------
    CohortError
        When the file system refuses.
    """
    folder = Path(status.folder)
    row = {k: v for k, v in dataclasses.asdict(status).items() if k not in _NOT_KEPT}
    row["slide"] = relative(status.slide, folder)
    row["regions"] = relative(status.regions, folder) if status.regions else ""
    row["reason"] = file_names_only(status.reason, folder.parent, Path(status.slide).parent)
    row["result"] = {
        name: relative(value, folder) if name in _PLACES and value else value
        for name, value in status.result.items()
    }
    # A name that is no text in Unicode comes back from the escapes of JSON as it was
    text = json.dumps(row, indent=1, ensure_ascii=False) + "\n"
    with atomic_write(folder / STATUS_FILE, CohortError) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_status(folder: Path) -> SlideStatus | None:
    """Return the status in a slide's folder, or None when there is none that can be read.

    A damaged file is none: its slide is taken for one that was not done.
    """
    path = folder / STATUS_FILE
    try:
        if path.stat().st_size > _LARGEST:
            return None
        row = json.loads(path.read_text(encoding="utf-8"))
        known = {f.name for f in dataclasses.fields(SlideStatus)} - set(_NOT_KEPT)
        status = SlideStatus(**{name: value for name, value in row.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    if not _is_well_formed(status):
        return None
    # The folder may have been moved or mounted elsewhere since
    result = {
        name: os.path.normpath(folder / value) if name in _PLACES and value else value
        for name, value in status.result.items()
    }
    slide = os.path.normpath(Path(os.path.abspath(folder)) / status.slide)
    own = status.regions
    regions = os.path.normpath(Path(os.path.abspath(folder)) / own) if own else ""
    return dataclasses.replace(
        status, folder=str(folder), slide=slide, regions=regions, result=result
    )


def relative(path: str, folder: str | os.PathLike[str]) -> str:
    """Return a path as seen from a folder, with slashes; as it is where there is no way to it."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return path


def _is_well_formed(status: SlideStatus) -> bool:
    """Return whether every field is of its type, as far as anything is done with it."""
    for field_ in dataclasses.fields(SlideStatus):
        value = getattr(status, field_.name)
        if field_.name in _NUMBERS:
            if not _is_number(value):
                return False
        elif field_.name in _DICTIONARIES:
            if not isinstance(value, dict):
                return False
        elif field_.name == "mpp":
            if value is not None and not (_is_number(value) and value > 0):
                return False
        elif field_.name == "label":
            if not isinstance(value, str | None):
                return False
        elif field_.name not in _NOT_KEPT and (not isinstance(value, str) or "\0" in value):
            return False
    result = status.result
    probabilities = result.get("probabilities", {})
    return (
        status.state in STATES
        and bool(status.slide)
        and _DIGITS.fullmatch(status.fingerprint) is not None
        and all(isinstance(text, str) for text in status.notes.values())
        and isinstance(result.get("prediction", ""), str)
        and isinstance(result.get("warnings", []), list)
        and all(isinstance(one, str) for one in result.get("warnings", ()))
        and isinstance(probabilities, dict)
        and all(value is None or _is_number(value) for value in probabilities.values())
        and all(
            result.get(name) is None or _is_number(result[name])
            for name in ("risk", "patches", "feature_size", "mpp")
        )
        and all(isinstance(result.get(name) or "", str) for name in (*_PLACES, *_NAMES))
    )


def _is_number(value: Any) -> bool:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and math.isfinite(value)


@dataclass(frozen=True)
class CohortSummary:
    """What became of a cohort.

    Attributes
    ----------
    out
        Folder with one folder per slide and the table ``summary.csv`` of all of them.
    rows
        One status per slide, in the order the slides were given.
    interrupted
        Whether it was stopped before every slide had its turn.
    seconds
        Duration.
    warnings
        Sentences about workers that did nothing, and results that were not published.
    unpublished
        Results that are on disk, and were to be copied elsewhere in vain.
    """

    out: Path
    rows: tuple[SlideStatus, ...]
    interrupted: bool = False
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    unpublished: int = 0

    def count(self, *states: str) -> int:
        """Return how many slides are in one of these states."""
        counts = Counter(row.state for row in self.rows)
        return sum(counts[state] for state in states)

    @property
    def failed(self) -> tuple[SlideStatus, ...]:
        """The slides that failed."""
        return tuple(row for row in self.rows if row.state == FAILED)

    @property
    def exit_code(self) -> int:
        """0 when every slide has a result where it belongs, 130 when it was stopped, else 1."""
        if self.interrupted:
            return 130
        return 0 if all(row.good for row in self.rows) and not self.unpublished else 1

    @property
    def table(self) -> Path:
        """The CSV table of every slide in `out`."""
        return self.out / SUMMARY_FILE

    def sentence(self) -> str:
        """Say it in one sentence."""
        parts = [f"{self.count(DONE)} done"]
        for state, words in (
            (REUSED, "done before"),
            (FAILED, "failed"),
            (STOPPED, "stopped"),
            (ELSEWHERE, "worked on by another run"),
            (WAITING, "not begun"),
        ):
            if self.count(state):
                parts.append(f"{self.count(state)} {words}")
        return f"{len(self.rows)} slides: " + ", ".join(parts)


def read_cohort(out: str | os.PathLike[str], *, superseded: bool = False) -> CohortSummary:
    """Return the status of every slide in a cohort's folder, also while it is worked on.

    A slide whose worker was killed shows as stopped. Results of files that were replaced are
    left out unless ``superseded``.
    """
    return CohortReader(out).read(superseded=superseded)


class CohortReader:
    """Reads a cohort's folder again and again: only what was written since the last time.

    Parameters
    ----------
    out
        The folder.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = Path(out)
        self._known: dict[str, tuple[tuple[int, ...], SlideStatus | None]] = {}

    def read(self, *, superseded: bool = False) -> CohortSummary:
        """See `read_cohort`."""
        from napari_2dmamba.cohort.folders import is_locked

        known, self._known = self._known, {}
        rows = []
        for name in sorted(_folders(self.out)):
            folder = self.out / name
            written = _written(folder / STATUS_FILE)
            if written is None:
                continue
            before = known.get(name)
            same = before is not None and before[0] == written
            status = before[1] if before is not None and same else read_status(folder)
            self._known[name] = written, status
            if status is None or (status.state == SUPERSEDED and not superseded):
                continue
            if status.state == RUNNING and not is_locked(folder):
                status = dataclasses.replace(status, state=STOPPED, reason="its worker was killed")
            rows.append(status)
        return CohortSummary(self.out, tuple(rows))


def _folders(out: Path) -> list[str]:
    try:
        with os.scandir(out) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []


def _written(path: Path) -> tuple[int, ...] | None:
    """Return what tells one writing of a file from another: each is a file of its own."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


_COLUMNS = (
    "slide", "state", "label", "checkpoint", "settings digest", "mpp", "prediction", "risk",
    "patches", "reason", "warnings", "attempts", "seconds", "patches per second", "finished",
    "fingerprint", "folder", "path",
)  # fmt: skip


def write_summary(out: Path, rows: Iterable[SlideStatus], *, full_paths: bool = False) -> Path:
    """Write the table of a cohort: one line per slide, one column per class and note.

    The table may be handed on. ``path`` is seen from the table's folder where the slide lies in
    the same project, else the slide's name alone; with ``full_paths`` it is absolute, and so are
    the paths in reasons.

    Raises
    ------
    CohortError
        When the file system refuses.
    """
    rows, remote = list(rows), addresses.folder()
    classes = dict.fromkeys(n for row in rows for n in row.result.get("probabilities", {}))
    notes = dict.fromkeys(n for row in rows for n in row.notes)
    columns = [
        *_COLUMNS,
        *(f"probability of {name}" for name in classes),
        *(f"note: {name}" for name in notes),
    ]
    with (
        atomic_write(out / SUMMARY_FILE, CohortError) as part,
        part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        table = csv.DictWriter(file, columns)
        table.writeheader()
        for row in rows:
            known = (out, Path(row.slide).parent)
            cells: dict[str, Any] = {
                "slide": row.name,
                "state": row.state,
                "label": row.label,
                "checkpoint": row.result.get("checkpoint"),
                "settings digest": row.result.get("settings_digest"),
                "mpp": row.result.get("mpp"),
                "prediction": row.result.get("prediction"),
                "risk": row.result.get("risk"),
                "patches": row.result.get("patches"),
                "reason": row.reason if full_paths else file_names_only(row.reason, *known),
                "warnings": "; ".join(row.warnings),
                "attempts": row.attempts,
                "seconds": round(row.seconds, 2),
                "patches per second": round(row.patches_per_second, 2) or None,
                "finished": row.finished,
                "fingerprint": row.fingerprint,
                "folder": Path(row.folder).name,
                "path": row.slide if full_paths else _shown_path(row.slide, out, remote),
            }
            for name, value in row.result.get("probabilities", {}).items():
                cells[f"probability of {name}"] = value
            for name, text in row.notes.items():
                cells[f"note: {name}"] = text
            table.writerow(cells)
    return out / SUMMARY_FILE


def _shown_path(slide: str, out: Path, remote: Path) -> str:
    project = Path(os.path.abspath(out)).parent
    path = Path(os.path.abspath(slide))
    beside = path.is_relative_to(project) and project != Path(project.anchor)
    beside = beside and not path.is_relative_to(remote)  # a stand-in says nothing to others
    return relative(str(path), out) if beside else path.name
