"""Which patches speak for one class of the run on display, and which against it."""

from dataclasses import replace

from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.plugin.session.shown_run import ShownRun
from napari_2dmamba.settings import ProgressCallback, StopCallback

CLASS_DISPLAY = DisplaySettings(transform="raw", opacity=0.65, clear_at_zero=True)


def class_map(
    shown: ShownRun, number: int, on_progress: ProgressCallback, should_stop: StopCallback
) -> GridMap:
    """Return gradient times input for a class, or for the hazard of a time bin, by its number.

    Raises
    ------
    CheckpointError, FeatureError
        When model or features of the run are gone, or are not those of the run any more.
    Cancelled
        When ``should_stop()`` said so.
    """
    from napari_2dmamba.explain.maps import MAPS, MapRequest
    from napari_2dmamba.plugin.session.run_subject import subject_of

    on_progress(0, 0, "reading the model and the features of the run")
    asked = MapRequest(
        subject_of(shown), 0, number, on_progress=on_progress, should_stop=should_stop
    )
    found = MAPS["gradient-x-input"].compute(asked)
    return replace(found, name=f"contribution to {shown.prediction.class_names[number]}")
