"""Closing a slide or the window, after asking where something would be lost."""

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QMessageBox, QWidget
from shapely import union_all

from napari_2dmamba.plugin.layers.region_layers import drawn_regions

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState
    from napari_2dmamba.slide import Regions

_PART_THAT_COUNTS = 1e-4  # of an area: napari keeps corners in single precision


def close_slide(session: "Session", slide: "SlideState", parent: QWidget | None = None) -> bool:
    """Close a slide unless the user wants to keep it; returns whether it was closed."""
    lost = what_would_be_lost(session, slide)
    question = f"Close {slide.name}? {' '.join(lost)}"
    if lost and not _agrees("Close the slide?", question, parent):
        return False
    session.close(slide)
    return True


class AskBeforeExit(QObject):
    """Keeps a window open where something would be lost and the user wants to keep it.

    Parameters
    ----------
    window
        It is asked about when it is to close, by whatever way.
    session
        What is open in it.
    """

    def __init__(self, window: QWidget, session: "Session") -> None:
        super().__init__(window)
        self._session = session
        window.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Ask, and take the event away where the answer is no."""
        if event is None or event.type() != QEvent.Type.Close or not isinstance(watched, QWidget):
            return False
        lost = [
            f"{slide.name}: {' '.join(sentences)}"
            for slide in self._session.slides
            if (sentences := what_would_be_lost(self._session, slide))
        ]
        if not lost or _agrees("Close the program?", "\n".join(lost), watched):
            return False
        event.ignore()
        return True


def _agrees(title: str, question: str, parent: QWidget | None) -> bool:
    buttons = QMessageBox.StandardButton
    box = QMessageBox(
        QMessageBox.Icon.Question, title, question, buttons.Close | buttons.Cancel, parent
    )
    box.setDefaultButton(buttons.Cancel)
    return bool(box.exec() == buttons.Close)


def what_would_be_lost(session: "Session", slide: "SlideState") -> list[str]:
    """Return a sentence for each thing of a slide that nobody has saved."""
    lost = []
    if slide.works:
        lost.append("What runs for it will be stopped.")
    drawn = drawn_regions(session, slide)
    run = slide.run
    saved = None if run is None or run.folder is None else run.regions
    if drawn is not None and not _covers_the_same(drawn, saved):
        lost.append("Its regions belong to no saved run and will be gone.")
    return lost


def _covers_the_same(drawn: "Regions", saved: "Regions | None") -> bool:
    if saved is None:
        return False
    for ours, theirs in ((drawn.include, saved.include), (drawn.exclude, saved.exclude)):
        one, other = union_all(ours), union_all(theirs)
        if one.symmetric_difference(other).area > _PART_THAT_COUNTS * max(one.area, other.area):
            return False
    return True
