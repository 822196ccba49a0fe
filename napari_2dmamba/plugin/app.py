"""The standalone application: napari set up for slides, with its settings kept apart."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

from napari_2dmamba.plugin.reader import SLIDE_PATTERNS

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.plugin.cohort_widget import CohortWidget
    from napari_2dmamba.plugin.compare_widget import CompareWidget
    from napari_2dmamba.plugin.inspect_widget import InspectWidget
    from napari_2dmamba.plugin.overview import SlideOverview
    from napari_2dmamba.plugin.run_widget import RunWidget
    from napari_2dmamba.plugin.session import Session, SlideState
    from napari_2dmamba.plugin.training_widget import TrainingWidget

PLUGIN_NAME = "napari-2dmamba"
TITLE = "2DMamba"


def view(paths: Sequence[Path | str] = (), *, run_folder: Path | str | None = None) -> int:
    """Open the viewer on slides and stay until it is closed.

    Parameters
    ----------
    paths
        Slide files.
    run_folder
        A saved run to show as well.

    Returns
    -------
    int
        0, or 1 when one of the slides could not be opened.
    """
    keep_settings_apart()
    import napari

    window = make_viewer(paths)
    if run_folder is not None:
        window.run_widget.open_saved_run(run_folder)
    napari.run()
    return 1 if window.problems else 0


def keep_settings_apart() -> None:
    """Point napari to settings of our own, unless the environment names some already.

    To be called before napari is imported for the first time.
    """
    from platformdirs import user_config_path

    os.environ.setdefault(
        "NAPARI_CONFIG", str(user_config_path(PLUGIN_NAME, appauthor=False) / "settings.yaml")
    )


@dataclass(frozen=True)
class Application:
    """The open window.

    Attributes
    ----------
    viewer, session
        napari's, and what is open in it.
    run_widget, inspect_widget, compare_widget, overview
        Docked in it.
    cohort_widget
        Docked and hidden: *Window › Cohort 2DMamba* shows it.
    training_widget
        Docked and hidden as well.
    problems
        One sentence per slide that could not be opened.
    """

    viewer: "Viewer"
    session: "Session"
    run_widget: "RunWidget"
    inspect_widget: "InspectWidget"
    compare_widget: "CompareWidget"
    overview: "SlideOverview"
    cohort_widget: "CohortWidget"
    training_widget: "TrainingWidget"
    problems: tuple[str, ...]


def make_viewer(paths: Sequence[Path | str] = (), *, show: bool = True) -> Application:
    """Return the window with its widgets docked and the slides open."""
    import napari
    from qtpy.QtWidgets import QApplication

    from napari_2dmamba.plugin import docks
    from napari_2dmamba.plugin.preferences import apply_preferences
    from napari_2dmamba.plugin.session import Session

    suit_slides()
    apply_preferences()
    viewer = napari.Viewer(title=TITLE, show=False, show_welcome_screen=False)
    session = Session.of(viewer)
    overview = docks.show(viewer, docks.OVERVIEW)
    run_widget = docks.show(viewer, docks.RUN)
    inspect_widget = docks.show(viewer, docks.INSPECT)
    compare_widget = docks.show(viewer, docks.COMPARE)
    docks.raise_dock(run_widget)  # the first thing to do
    cohort_widget = docks.show(viewer, docks.COHORT)
    docks.dock_of(cohort_widget).hide()
    training_widget = docks.show(viewer, docks.TRAINING)
    docks.dock_of(training_widget).hide()
    naming = partial(name_window, ref(viewer))
    session.events.current.connect(naming)
    if show:
        fit_window(viewer)
        viewer.window.show()
        QApplication.processEvents()  # the canvas gets its size, so that slides fit into it
    problems = run_widget.open_slides([Path(path) for path in paths])
    return Application(
        viewer,
        session,
        run_widget,
        inspect_widget,
        compare_widget,
        overview,
        cohort_widget,
        training_widget,
        problems,
    )


def fit_window(viewer: "Viewer") -> None:
    """Make the window of a first start large enough for its widgets; later ones are restored."""
    from napari.settings import get_settings
    from qtpy.QtWidgets import QApplication

    screen = QApplication.primaryScreen()
    if get_settings().application.window_size is None and screen is not None:
        room = screen.availableGeometry()
        viewer.window.resize(min(1700, room.width() - 40), min(1080, room.height() - 60))


def name_window(viewer: "ReferenceType[Viewer]", slide: "SlideState | None") -> None:
    """Put the name of the slide that is looked at into the title."""
    window = viewer()
    if window is not None:
        window.title = TITLE if slide is None else f"{slide.name} - {TITLE}"


def suit_slides() -> None:
    """Set napari's settings so that large slides open well.

    Slices load in the background, and slide files go to our reader without a question.
    """
    from napari.settings import get_settings

    settings = get_settings()
    is_first_start = not Path(settings.config_path or "").is_file()
    settings.experimental.async_ = True
    if is_first_start:  # later it is the user's
        settings.appearance.theme = "light"  # white, as the glass
    readers = {**settings.plugins.extension2reader}
    readers.update(dict.fromkeys(SLIDE_PATTERNS, PLUGIN_NAME))
    settings.plugins.extension2reader = readers
