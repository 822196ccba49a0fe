"""Opening a tested slide, with the map of the model that tested it where a run is saved."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_2dmamba.errors import ExportError, TaskError
from napari_2dmamba.export.content_hash import file_hash
from napari_2dmamba.export.record import read_record
from napari_2dmamba.export.run_folder import RECORD_FILE
from napari_2dmamba.export.run_library import list_runs, slide_folder
from napari_2dmamba.plugin.session.opened_run import OpenedRun
from napari_2dmamba.plugin.training_widget.rows import SlideRow
from napari_2dmamba.slide import open_slide

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

_SAME_ANSWER = 1e-3
"""Probabilities of a run and of the test may differ by this, as devices round differently."""


@dataclass(frozen=True)
class Opened:
    """A slide that is ready to be shown.

    Attributes
    ----------
    row
        What was asked for.
    slide
        The slide itself.
    run
        The newest saved run of the model that tested it; None where there is none.
    """

    row: SlideRow
    slide: "Slide"
    run: OpenedRun | None = None

    @property
    def differs(self) -> bool:
        """Whether the run says something else than the test did."""
        if self.run is None or not self.row.values:
            return False
        prediction = self.run.shown.prediction
        said = prediction.probabilities
        if said is None:
            said = prediction.logits if prediction.survival is None else prediction.survival
        told = np.array(self.row.values)
        if said is None or said.shape != told.shape:
            return True
        return bool(np.abs(said - told).max() > _SAME_ANSWER)


def open_tested(
    row: SlideRow, checkpoint: Path | None, runs: Path, already_open: "Sequence[Slide]"
) -> Opened:
    """Open a slide, and look among its saved runs of the whole slide for the model's.

    Models are told apart by the content of their files: those of a training have one name.

    Raises
    ------
    TaskError
        When the table does not say where the slide is, or it is not there.
    SlideError, ExportError
        When slide or run cannot be opened.
    """
    if row.slide is None:
        raise TaskError(
            f"the table does not name the slide file of {row.name}; add it in the column slide"
        )
    if not row.slide.exists():
        raise TaskError(
            f"the slide {row.slide.name} is not where the table says; mend the column slide"
        )
    path = row.slide.resolve()
    slide = next((one for one in already_open if one.path.resolve() == path), None)
    if slide is None:
        slide = open_slide(row.slide, mpp=row.mpp)
    if checkpoint is None or not checkpoint.is_file():
        return Opened(row, slide)
    wanted = file_hash(checkpoint)
    for summary in list_runs(slide_folder(runs, slide)):
        if summary.problem or summary.regions:
            continue
        try:
            record = read_record(summary.folder / RECORD_FILE)
        except ExportError:
            continue
        if record.model.checkpoint_sha256 == wanted:
            run = OpenedRun.of(summary.folder, [*already_open, slide])
            if slide is not run.shown.slide and slide not in already_open:
                slide.close()
            return Opened(row, run.shown.slide, run)
    return Opened(row, slide)
