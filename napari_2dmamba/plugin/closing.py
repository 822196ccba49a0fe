"""Closing a slide, after asking where something of it would be lost."""

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QMessageBox, QWidget
from shapely import union_all

from napari_2dmamba.plugin.region_layers import drawn_regions

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session, SlideState
    from napari_2dmamba.slide import Regions

_PART_THAT_COUNTS = 1e-4  # of an area: napari keeps corners in single precision


def close_slide(session: "Session", slide: "SlideState", parent: QWidget | None = None) -> bool:
    """Close a slide unless the user wants to keep it; returns whether it was closed."""
    lost = what_would_be_lost(session, slide)
    if lost:
        question = QMessageBox(
            QMessageBox.Icon.Question,
            "Close the slide?",
            f"Close {slide.name}? {' '.join(lost)}",
            QMessageBox.StandardButton.Close | QMessageBox.StandardButton.Cancel,
            parent,
        )
        question.setDefaultButton(QMessageBox.StandardButton.Cancel)
        if question.exec() != QMessageBox.StandardButton.Close:
            return False
    session.close(slide)
    return True


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
