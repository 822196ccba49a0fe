"""What the checkpoints are held against: the slide that is open, and its features."""

from pathlib import Path
from typing import TYPE_CHECKING

from napari_2dmamba.checkpoints.fit import FeatureFacts, Subject, encoders_here
from napari_2dmamba.export.record import RunRecord
from napari_2dmamba.plugin.slide_layer import open_slides

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.viewer import Viewer

    from napari_2dmamba.plugin.run_widget import RunWidget


def find_subject(viewer: "Viewer", run: "RunWidget | None") -> "Callable[[], Subject | None]":
    """Return what finds the subject, to be called where it may take a while.

    Features are those of the file chosen under *Features*, else those of the run on display.
    """
    slides = open_slides(viewer)
    slide = slides[0] if slides else None
    if run is not None:
        slide = run.slide_section.slide or slide
        file = run.features_section.feature_file
        if file is not None:
            return lambda: _of_file(file)
    if slide is None:
        return lambda: None
    facts = None
    if run is not None and run.shown is not None and run.shown.slide is slide:
        facts = _of_record(run.shown.record)
    name, mpp = slide.name, slide.mpp
    return lambda: Subject(name, facts, encoders_here(), mpp)


def _of_file(path: Path) -> Subject:
    from napari_2dmamba.features.files import describe_features

    return Subject(path.name, FeatureFacts(**describe_features(path)))


def _of_record(record: RunRecord) -> FeatureFacts:
    features, grid = record.features, record.grid
    return FeatureFacts(features.size, features.encoder, grid.patch_size_px, grid.mpp)
