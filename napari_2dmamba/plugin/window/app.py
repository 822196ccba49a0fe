"""The standalone application: napari set up for slides, with its settings kept apart."""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

from napari_2dmamba.plugin.npe2.reader import SLIDE_PATTERNS

if TYPE_CHECKING:
    from napari.viewer import Viewer
    from qtpy.QtWidgets import QLabel

    from napari_2dmamba.plugin.overview import SlideOverview
    from napari_2dmamba.plugin.run_widget import RunWidget
    from napari_2dmamba.plugin.session import Session, SlideState
    from napari_2dmamba.plugin.slides_widget import SlidesWidget
    from napari_2dmamba.plugin.window.later_widgets import LaterWidgets

PLUGIN_NAME = "napari-2dmamba"
TITLE = "2DMamba"
LEAST_SIZE = 1100, 660
"""Of a window, in pixels: a smaller screen shows a part of it."""


def view(paths: Sequence[Path | str] = (), *, run_folder: Path | str | None = None) -> int:
    """Open the viewer on slides and stay until it is closed.

    Parameters
    ----------
    paths
        Slide files, or addresses.
    run_folder
        A saved run to show as well.

    Returns
    -------
    int
        0, or 1 when one of the slides could not be opened.
    """
    keep_settings_apart()
    with all_kept():
        import napari

        from napari_2dmamba.crash_log import sentence_for_last_crash

        welcome = show_welcome()
        window = make_viewer(paths)
        if not window.problems:  # they come first
            if crash := sentence_for_last_crash():
                window.session.events.said.emit(crash[0].upper() + crash[1:], "error")
            else:
                window.later.loaded.connect(partial(advise_on_gpu, window.session))
        welcome.close()
    if run_folder is not None:
        window.run_widget.open_saved_run(run_folder)
    napari.run()
    return 1 if window.problems else 0


def advise_on_gpu(session: "Session") -> None:
    """Say how to use a GPU that lies idle; asks PyTorch, which must be loaded."""
    from napari_2dmamba.doctor import how_to_use_the_gpu

    if advice := how_to_use_the_gpu():
        session.events.said.emit(advice, "info")


@contextmanager
def all_kept() -> Iterator[None]:
    """Keep what is made meanwhile for the life of the process, without a look for garbage in it.

    Modules, types and the window are never garbage, and each look at all of them takes longer
    than the one before: a twentieth of the start, and later a pause of the window.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def show_welcome() -> "QLabel":
    """Say what is being loaded, for half a minute at the first start, until the window is there.

    Not a ``QSplashScreen``: that waits a second for a window to be there which it shows only
    afterwards (Qt 6.11).
    """
    from napari.qt import get_qapp
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QLabel

    application = get_qapp()
    welcome = QLabel(f"{TITLE}: loading the viewer\n(the first start takes longest)")
    welcome.setWindowFlags(Qt.WindowType.SplashScreen)
    welcome.setAlignment(Qt.AlignmentFlag.AlignCenter)
    welcome.setStyleSheet("background: white; color: #12385f")
    welcome.setFixedSize(460, 120)
    if screen := application.primaryScreen():
        welcome.move(screen.availableGeometry().center() - welcome.rect().center())
    welcome.show()
    application.processEvents()
    return welcome


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
    run_widget, overview, slides_widget
        Docked in it. The menu *2DMamba* brings them to the front, and the others.
    later
        Docks the others, once PyTorch is loaded.
    problems
        One sentence per slide that could not be opened.
    """

    viewer: "Viewer"
    session: "Session"
    run_widget: "RunWidget"
    overview: "SlideOverview"
    slides_widget: "SlidesWidget"
    later: "LaterWidgets"
    problems: tuple[str, ...]


def make_viewer(paths: Sequence[Path | str] = (), *, show: bool = True) -> Application:
    """Return the window with its widgets docked and the slides open."""
    import napari
    from qtpy.QtWidgets import QApplication

    from napari_2dmamba.plugin.parts import docks
    from napari_2dmamba.plugin.parts.closing import AskBeforeExit
    from napari_2dmamba.plugin.session import Session
    from napari_2dmamba.plugin.session.preferences import apply_preferences
    from napari_2dmamba.plugin.window.last_model import RemembersModel, last_model
    from napari_2dmamba.plugin.window.later_widgets import LaterWidgets
    from napari_2dmamba.plugin.window.menu import add_menu
    from napari_2dmamba.slide.addresses import slide_path

    suit_slides()
    apply_preferences()
    viewer = napari.Viewer(title=TITLE, show=False, show_welcome_screen=False)
    session = Session.of(viewer)
    overview = docks.show(viewer, docks.OVERVIEW)
    slides_widget = docks.show(viewer, docks.SLIDES)
    run_widget = docks.show(viewer, docks.RUN)
    model = last_model()
    if model is not None:
        run_widget.model_section.add_checkpoint(model)
    RemembersModel(viewer.window._qt_window, session)
    AskBeforeExit(viewer.window._qt_window, session)
    add_menu(viewer)
    naming = partial(name_window, ref(viewer))
    session.events.current.connect(naming)
    if show:
        if docks.is_small_screen(viewer.window._qt_window):
            docks.share_places(viewer)
        viewer.window.show()  # with the size it had
        fit_window(viewer)
        QApplication.processEvents()  # the canvas gets its size, so that slides fit into it
    problems = run_widget.open_slides([slide_path(path) for path in paths])
    later = LaterWidgets(viewer, session)
    return Application(viewer, session, run_widget, overview, slides_widget, later, problems)


def fit_window(viewer: "Viewer") -> None:
    """Make the window of a first start large enough for its widgets, and no window too large.

    Later windows have the size they had, unless the screen is smaller now.
    """
    from napari.settings import get_settings
    from qtpy.QtWidgets import QApplication

    window, screen = viewer.window._qt_window, QApplication.primaryScreen()
    if screen is None:
        return
    room = screen.availableGeometry()
    # the frame of the window takes some; below the least size nothing is left for the slide
    wide = max(room.width() - 40, LEAST_SIZE[0])
    high = max(room.height() - 60, LEAST_SIZE[1])
    if get_settings().application.window_size is None:
        window.resize(min(1700, wide), min(1080, high))
    elif window.width() > wide or window.height() > high:
        window.resize(min(window.width(), wide), min(window.height(), high))
        window.move(room.topLeft())


def name_window(viewer: "ReferenceType[Viewer]", slide: "SlideState | None") -> None:
    """Put the name of the slide that is looked at into the title."""
    window = viewer()
    if window is None:
        return
    window.title = TITLE if slide is None else f"{slide.name} - {TITLE}"
    if slide is None:  # what was said of the last one
        window.canvas.overlays.scale_bar.visible = False
        window.status = "Ready"


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
