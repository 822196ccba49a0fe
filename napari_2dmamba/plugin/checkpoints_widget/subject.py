"""What the checkpoints are held against: the slide that is looked at, and its features."""

from collections.abc import Callable
from pathlib import Path

from napari_2dmamba.checkpoints.fit import FeatureFacts, InputFacts, encoders_here
from napari_2dmamba.export.record import RunRecord
from napari_2dmamba.plugin.session import Session


def find_subject(session: Session) -> Callable[[], InputFacts | None]:
    """Return what finds the subject, to be called where it may take a while.

    Features are those of the file chosen under *Features*, else those of the run on display.
    """
    file = session.choices.features_to_read
    if file is not None:
        return lambda: _of_file(file)
    slide = session.current
    if slide is None:
        return lambda: None
    facts = None if slide.run is None else _of_record(slide.run.record)
    name, mpp = slide.name, slide.slide.mpp
    return lambda: InputFacts(name, facts, encoders_here(), mpp)


def _of_file(path: Path) -> InputFacts:
    from napari_2dmamba.features.files import describe_features

    return InputFacts(path.name, FeatureFacts(**describe_features(path)))


def _of_record(record: RunRecord) -> FeatureFacts:
    features, grid = record.features, record.grid
    return FeatureFacts(features.size, features.encoder, grid.patch_size_px, grid.mpp)
