"""Jobs for a slide: their results go to that slide, whatever the user looks at meanwhile."""

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject

from napari_2dmamba.plugin.parts.jobs import Task
from napari_2dmamba.plugin.parts.one_job import OneJob
from napari_2dmamba.plugin.parts.progress_footer import ProgressFooter
from napari_2dmamba.plugin.session import Session, SlideState


class SlideJobs(QObject):
    """Runs one task at a time for a slide, and cancels it with the slide.

    Parameters
    ----------
    session, footer
        Where slides are, and where progress and sentences are shown.
    parent
        The widget.

    Attributes
    ----------
    one
        The job itself, with its signals.
    """

    def __init__(self, session: Session, footer: ProgressFooter, parent: QObject) -> None:
        super().__init__(parent)
        self._session, self._footer = session, footer
        self.one = OneJob(footer, self)
        self.one.failed.connect(self.complain)

    def complain(self, sentence: str) -> None:
        """Say what went wrong."""
        self._footer.message.say(sentence, "error")

    def say(self, sentence: str, kind: str = "good") -> None:
        """Say what was done."""
        self._footer.message.say(sentence, kind)

    def start(
        self,
        slide: SlideState,
        task: Task,
        show: Callable[[Any], str],
        what: str,
        if_cancelled: str,
    ) -> None:
        """Run a task for a slide.

        Parameters
        ----------
        slide
            Whose task; as it is now.
        task
            What runs.
        show
            Puts the result on the slide and returns what to say.
        what
            Of what is told when another slide is looked at, such as ``"The segmentation"``.
        if_cancelled
            What is said then.
        """
        mpp = slide.slide.mpp

        def take(result: Any) -> None:
            if slide not in self._session.slides:
                return  # closed in the same moment
            said = show(result)
            if slide.slide.mpp != mpp:
                self.say(
                    f"{what} of {slide.name} was made before its µm per pixel were changed; it "
                    "lies on the same pixels, but start it again for the new resolution",
                    "warning",
                )
            elif slide is self._session.current:
                self.say(said)
            else:
                self.say(f"{what} of {slide.name} is done; choose that slide to see it")

        job = self.one.start(task, take, if_cancelled)
        if job is not None:
            self._session.begin(slide, job)
            job.finished.connect(lambda: self._session.end(slide, job))
