"""The rows of a cohort, counted as they change: no number of slides makes an update slow."""

from collections import Counter
from collections.abc import Iterable, Iterator

from qtpy.QtCore import QObject, Signal

from napari_2dmamba.cohort import SlideStatus
from napari_2dmamba.cohort import status as states


class SlideRows(QObject):
    """Slides and what became of them, in the order in which they were given.

    Signals
    -------
    reset()
        There are other slides.
    changed(places)
        Rows that changed or were added at the end.
    """

    reset = Signal()
    changed = Signal(list)

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[SlideStatus] = []
        self._places: dict[str, int] = {}
        self._states: Counter[str] = Counter()
        self._labelled = 0
        self.is_paused = False

    @property
    def rows(self) -> tuple[SlideStatus, ...]:
        """The rows as they are now."""
        return tuple(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> SlideStatus:
        return self._rows[place]

    def __iter__(self) -> Iterator[SlideStatus]:
        return iter(self._rows)

    def count(self, *states: str) -> int:
        """Return how many slides are in one of these states."""
        return sum(self._states[state] for state in states)

    @property
    def has_labels(self) -> bool:
        """Whether a slide has a label."""
        return self._labelled > 0

    def set_rows(self, rows: Iterable[SlideStatus]) -> None:
        """Show other slides."""
        self._rows = list(rows)
        self._places = {row.slide: place for place, row in enumerate(self._rows)}
        self._states = Counter(row.state for row in self._rows)
        self._labelled = sum(bool(row.label) for row in self._rows)
        self.reset.emit()

    def update(self, rows: Iterable[SlideStatus]) -> None:
        """Take in rows that changed; slides that are not there are added."""
        changed = []
        for row in rows:
            place = self._places.setdefault(row.slide, len(self._rows))
            if place == len(self._rows):
                self._rows.append(row)
            else:
                before, self._rows[place] = self._rows[place], row
                if before is row:
                    continue
                self._states[before.state] -= 1
                self._labelled -= bool(before.label)
            self._states[row.state] += 1
            self._labelled += bool(row.label)
            changed.append(place)
        if changed:
            self.changed.emit(changed)

    def set_paused(self, is_paused: bool) -> None:
        """Say *paused* of slides that are worked on."""
        self.is_paused = is_paused
        running = [n for n, row in enumerate(self._rows) if row.state == states.RUNNING]
        if running:
            self.changed.emit(running)
