"""What is open in a viewer: its slides, the current one, and all that belongs to each."""

from napari_2dmamba.plugin.session.session import Session
from napari_2dmamba.plugin.session.slide_state import Choices, ChosenCheckpoint, SlideState

__all__ = ["Choices", "ChosenCheckpoint", "Session", "SlideState"]
