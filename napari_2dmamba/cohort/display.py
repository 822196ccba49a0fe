"""A cohort on the terminal: bars while it runs, a table at its end."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from napari_2dmamba.cohort import status as states
from napari_2dmamba.cohort.following import Following
from napari_2dmamba.cohort.status import CohortSummary, SlideStatus
from napari_2dmamba.settings import ProgressCallback
from napari_2dmamba.terminal import printable

_MOST_BARS, _MOST_ROWS = 12, 40
_WIDTH_OF_A_FILE = 160
_STYLES = {states.FAILED: "red", states.DONE: "green", states.REUSED: "cyan"}


class LiveTable:
    """One bar per slide at work and one for all of them, on standard error.

    Where standard error is no terminal, it is one line per slide that ended, and nothing for a
    single slide.

    Parameters
    ----------
    slides
        How many there are.
    """

    def __init__(self, slides: int) -> None:
        self._console = Console(stderr=True)
        self._live = self._console.is_terminal
        self._bars = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._slides, self._ended = slides, set[str]()
        self._following = Following(slides)
        self._at_work: dict[str, TaskID] = {}
        self._all = self._bars.add_task("", total=slides, name="all slides", visible=slides > 1)

    def show(self, row: SlideStatus) -> None:
        """Take in a row that changed."""
        self._following.put(row)
        self._following.take()
        known = self._following.progress()
        if known is not None:
            share, words = known
            rest = words.partition(" · ")[2]  # how many have ended stands before it
            self._bars.update(self._all, completed=int(share * self._slides), description=rest)
        if row.state == states.RUNNING:
            self._at_work_now(row)
            return
        if row.slide in self._at_work:
            self._bars.remove_task(self._at_work.pop(row.slide))
        if not (row.good or row.state == states.FAILED) or row.slide in self._ended:
            return
        self._ended.add(row.slide)
        if self._slides > 1 and not self._live and row.good:
            words = f"{len(self._ended)}/{self._slides} {row.name}: {row.state} {row.finding}"
            self._console.print(
                printable(words.rstrip()), markup=False, highlight=False, soft_wrap=True
            )

    def _at_work_now(self, row: SlideStatus) -> None:
        if row.slide not in self._at_work:
            if len(self._at_work) >= _MOST_BARS:
                return
            self._at_work[row.slide] = self._bars.add_task(
                "", total=None, name=printable(row.name, one_line=True)
            )
        self._bars.update(
            self._at_work[row.slide],
            completed=row.patches_done,
            total=row.patches_total or None,
            description=printable(row.message, one_line=True),
        )

    def __enter__(self) -> "LiveTable":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()


def print_table(summary: CohortSummary) -> None:
    """Print the cohort's rows on standard output; of a long cohort only those without result."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_FILE)
    shown = summary.rows
    if len(shown) > _MOST_ROWS:
        shown = tuple(row for row in shown if not row.good)
    if shown:
        table = Table(box=None, pad_edge=False)
        for name in ("slide", "label", "state", "finding"):
            table.add_column(name, overflow="fold")
        table.add_column("patches", justify="right")
        table.add_column("time", justify="right")
        table.add_column("folder or reason", overflow="fold", ratio=1)
        for row in shown[:_MOST_ROWS]:
            table.add_row(
                Text(printable(row.name)),
                Text(printable(row.label or "")),
                Text(row.state, _STYLES.get(row.state, "")),
                Text(printable(row.finding)),
                str(row.result.get("patches", "")),
                f"{row.seconds:.0f} s" if row.seconds else "",
                Text(printable(row.reason or row.folder)),
            )
        console.print(table)
    if len(shown) > _MOST_ROWS:
        console.print(f"... and {len(shown) - _MOST_ROWS} more")
    warned = [f"{row.name}: {one}" for row in summary.rows for one in row.warnings]
    for line in warned[:_MOST_ROWS]:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    if len(warned) > _MOST_ROWS:
        console.print(f"... and {len(warned) - _MOST_ROWS} more remarks")
    words = f"{summary.sentence()}; the table of all is {summary.table}"
    console.print(printable(words), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(name: str) -> Iterator[ProgressCallback]:
    """Show the progress of one thing on standard error, where that is a terminal."""
    with LiveTable(1) as live:

        def on_progress(done: int, total: int, message: str) -> None:
            live.show(
                SlideStatus(
                    name,
                    states.RUNNING,
                    patches_done=done,
                    patches_total=total,
                    message=message,
                )
            )

        yield on_progress
