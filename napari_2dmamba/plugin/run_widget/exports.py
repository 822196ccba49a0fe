"""What is written of the run on display: what the window shows, given to ``export.formats``."""

from dataclasses import dataclass
from pathlib import Path

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.formats import FORMATS, Exported
from napari_2dmamba.plugin.session.shown_run import ShownRun
from napari_2dmamba.settings import ProgressCallback, StopCallback


@dataclass(frozen=True)
class Export:
    """One file to write.

    Attributes
    ----------
    kind
        Key in `FORMATS`.
    path
        The file.
    run, grid_map, display
        What is shown and how.
    view
        ``(x, y, width, height)`` of the window in level-0 pixels.
    mpp
        µm per pixel of pictures; None for one that suits.
    with_patient
        Whether DICOM results say whose slide it is.
    """

    kind: str
    path: Path
    run: ShownRun
    grid_map: GridMap
    display: DisplaySettings
    view: tuple[int, int, int, int]
    mpp: float | None = None
    with_patient: bool = False

    def write(self, on_progress: ProgressCallback, should_stop: StopCallback) -> Path:
        """Write the file, off the GUI thread.

        Raises
        ------
        ExportError
            When it cannot be written.
        Cancelled
            When ``should_stop`` says so; no file is left.
        """
        form, slide = FORMATS[self.kind], self.run.slide
        form.require_library()
        exported = Exported(
            self.run.as_saved(self.display),
            slide,
            self.grid_map,
            self.display,
            region=seen_part(self.view, slide.dimensions) if form.of_view else None,
            mpp=self.mpp,
            with_patient=self.with_patient,
            features=self.run.bag,
            on_progress=on_progress,
            should_stop=should_stop,
        )
        return form.write(exported, self.path)


def seen_part(
    view: tuple[int, int, int, int], dimensions: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the part of a view that lies on the slide.

    Raises
    ------
    ExportError
        When it shows nothing of the slide.
    """
    x, y, width, height = view
    left, top = max(0, x), max(0, y)
    right, bottom = min(dimensions[0], x + width), min(dimensions[1], y + height)
    if right <= left or bottom <= top:
        raise ExportError("the view shows nothing of the slide; move the view over it")
    return left, top, right - left, bottom - top
