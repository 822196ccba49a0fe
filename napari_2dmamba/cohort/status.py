"""What became of each slide: one small file per slide, and a table of all of them."""

import csv
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_2dmamba.errors import CohortError
from napari_2dmamba.redaction import file_names_only
from napari_2dmamba.whole_files import written_whole

STATUS_FILE = "status.json"
SUMMARY_FILE = "summary.csv"

WAITING, RUNNING, DONE, REUSED, FAILED, STOPPED, ELSEWHERE = (
    "waiting", "running", "done", "reused", "failed", "stopped", "elsewhere",
)  # fmt: skip
STATES = {
    WAITING: "its turn has not come",
    RUNNING: "worked on now",
    DONE: "done in this run",
    REUSED: "done before, with the same content, settings and checkpoint",
    FAILED: "failed; the reason says why",
    STOPPED: "stopped before its end; the next run goes on from there",
    ELSEWHERE: "worked on by another run; looked at again later",
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


_NOT_KEPT = ("patches_done", "patches_total", "message")


def write_status(status: SlideStatus) -> None:
    """Write a status into its folder, whole or not at all.

    Raises
    ------
    CohortError
        When the file system refuses.
    """
    row = {k: v for k, v in dataclasses.asdict(status).items() if k not in _NOT_KEPT}
    with written_whole(Path(status.folder, STATUS_FILE), CohortError) as part:
        part.write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_status(folder: Path) -> SlideStatus | None:
    """Return the status in a slide's folder, or None when there is none that can be read."""
    try:
        row = json.loads((folder / STATUS_FILE).read_text(encoding="utf-8"))
        known = {f.name for f in dataclasses.fields(SlideStatus)} - set(_NOT_KEPT)
        status = SlideStatus(**{name: value for name, value in row.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    # The folder may have been moved or mounted elsewhere since
    return dataclasses.replace(status, folder=str(folder)) if status.state in STATES else None


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
    """

    out: Path
    rows: tuple[SlideStatus, ...]
    interrupted: bool = False
    seconds: float = 0.0

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
        """0 when every slide has a result, 130 when it was stopped, 1 when some failed."""
        if self.interrupted:
            return 130
        return 0 if all(row.good for row in self.rows) else 1

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


def read_cohort(out: str | os.PathLike[str]) -> CohortSummary:
    """Return the status of every slide in a cohort's folder, also while it is worked on.

    A slide whose worker was killed shows as stopped.
    """
    from napari_2dmamba.cohort.folders import is_locked

    out = Path(out)
    rows = []
    for path in sorted(out.glob(f"*/{STATUS_FILE}")):
        status = read_status(path.parent)
        if status is None:
            continue
        if status.state == RUNNING and not is_locked(path.parent):
            status = dataclasses.replace(status, state=STOPPED, reason="its worker was killed")
        rows.append(status)
    return CohortSummary(out, tuple(rows))


def _place(slide: Path, out: Path) -> str:
    """Return where a slide lies beside or below the results; of others only the name."""
    near = out.resolve().parent
    slide = slide.resolve()
    return slide.relative_to(near).as_posix() if slide.is_relative_to(near) else slide.name


_COLUMNS = (
    "slide", "state", "label", "prediction", "risk", "patches", "reason", "attempts", "seconds",
    "patches per second", "finished", "worker", "fingerprint", "folder", "path",
)  # fmt: skip


def write_summary(out: Path, rows: Iterable[SlideStatus]) -> Path:
    """Write the table of a cohort: one line per slide, one column per class and note.

    Raises
    ------
    CohortError
        When the file system refuses.
    """
    rows = list(rows)
    classes = dict.fromkeys(n for row in rows for n in row.result.get("probabilities", {}))
    notes = dict.fromkeys(n for row in rows for n in row.notes)
    columns = [
        *_COLUMNS,
        *(f"probability of {name}" for name in classes),
        *(f"note: {name}" for name in notes),
    ]
    with (
        written_whole(out / SUMMARY_FILE, CohortError) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.DictWriter(file, columns)
        table.writeheader()
        for row in rows:
            cells: dict[str, Any] = {
                "slide": row.name,
                "state": row.state,
                "label": row.label,
                "prediction": row.result.get("prediction"),
                "risk": row.result.get("risk"),
                "patches": row.result.get("patches"),
                "reason": file_names_only(row.reason),
                "attempts": row.attempts,
                "seconds": round(row.seconds, 2),
                "patches per second": round(row.patches_per_second, 2) or None,
                "finished": row.finished,
                "worker": row.worker,
                "fingerprint": row.fingerprint,
                "folder": Path(row.folder).name,
                "path": _place(Path(row.slide), out),
            }
            for name, value in row.result.get("probabilities", {}).items():
                cells[f"probability of {name}"] = value
            for name, text in row.notes.items():
                cells[f"note: {name}"] = text
            table.writerow(cells)
    return out / SUMMARY_FILE
