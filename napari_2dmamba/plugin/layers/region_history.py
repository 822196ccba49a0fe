"""Undo and redo of what is drawn, for each slide by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from napari_2dmamba.explain.map_regions import measured_with
from napari_2dmamba.plugin.layers.region_layers import drawn_regions, replace_regions
from napari_2dmamba.slide import Regions

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState

_MOST_STEPS = 50

_histories: "WeakKeyDictionary[Session, RegionHistory]" = WeakKeyDictionary()


class RegionHistory:
    """What was drawn on each slide of a session, step by step.

    Use `RegionHistory.of`: it outlives the docks.
    """

    def __init__(self, session: "Session") -> None:
        self._steps: WeakKeyDictionary[SlideState, tuple[list[Regions], int]] = WeakKeyDictionary()
        self._is_going = False
        for slide in session.slides:
            self._steps[slide] = [drawn_regions(session, slide) or Regions()], 0

    @classmethod
    def of(cls, session: "Session") -> "RegionHistory":
        """Return the history of a session, begun with what is drawn now."""
        if session not in _histories:
            _histories[session] = cls(session)
        return _histories[session]

    def note(self, slide: "SlideState", drawn: Regions) -> None:
        """Remember what is drawn now; what was undone cannot be done again then."""
        if self._is_going:
            return
        steps, place = self._steps.get(slide, ([Regions()], 0))
        if _measured(steps[place], slide) != drawn:
            steps = [*steps[: place + 1], drawn][-_MOST_STEPS:]
            self._steps[slide] = steps, len(steps) - 1

    @contextmanager
    def one_step(self) -> Iterator[None]:
        """Within this, what is drawn is on its way, and not remembered."""
        self._is_going = True
        try:
            yield
        finally:
            self._is_going = False

    def can_undo(self, slide: "SlideState") -> bool:
        """Whether something can be taken back."""
        return self._steps.get(slide, ([], 0))[1] > 0

    def can_redo(self, slide: "SlideState") -> bool:
        """Whether something that was taken back can be done again."""
        steps, place = self._steps.get(slide, ([], 0))
        return place + 1 < len(steps)

    def undo(self, session: "Session", slide: "SlideState") -> None:
        """Draw what was drawn one step before."""
        if self.can_undo(slide):
            self._go(session, slide, -1)

    def redo(self, session: "Session", slide: "SlideState") -> None:
        """Draw what was taken back last."""
        if self.can_redo(slide):
            self._go(session, slide, 1)

    def _go(self, session: "Session", slide: "SlideState", by: int) -> None:
        steps, place = self._steps[slide]
        self._steps[slide] = steps, place + by
        with self.one_step():
            replace_regions(session, slide, _measured(steps[place + by], slide))
        session.events.regions.emit(slide)


def _measured(drawn: Regions, slide: "SlideState") -> Regions:
    """Return what was drawn, with areas of the µm per pixel that the slide is shown with now."""
    return Regions(tuple(measured_with(one, slide.slide.mpp) for one in drawn))
