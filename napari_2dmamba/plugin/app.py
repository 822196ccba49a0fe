"""The standalone application: napari set up for slides, with its settings kept apart."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_2dmamba.plugin.reader import SLIDE_PATTERNS

if TYPE_CHECKING:
    from napari.viewer import Viewer

PLUGIN_NAME = "napari-2dmamba"
TITLE = "2DMamba"


def view(paths: Sequence[Path | str] = ()) -> int:
    """Open the viewer on slides and stay until it is closed.

    Returns
    -------
    int
        0, or 1 when one of the slides could not be opened.
    """
    keep_settings_apart()
    import napari

    viewer, problems = make_viewer(paths)
    napari.run()
    del viewer
    return 1 if problems else 0


def keep_settings_apart() -> None:
    """Point napari to settings of our own, unless the environment names some already.

    To be called before napari is imported for the first time.
    """
    from platformdirs import user_config_path

    os.environ.setdefault(
        "NAPARI_CONFIG", str(user_config_path(PLUGIN_NAME, appauthor=False) / "settings.yaml")
    )


def make_viewer(
    paths: Sequence[Path | str] = (), *, show: bool = True
) -> "tuple[Viewer, list[str]]":
    """Return the window with its widgets docked and the slides open, and what went wrong."""
    import napari
    from napari.utils.notifications import show_error

    from napari_2dmamba.errors import UserError
    from napari_2dmamba.plugin.overview import SlideOverview
    from napari_2dmamba.plugin.preferences import apply_preferences
    from napari_2dmamba.plugin.run_widget import RunWidget
    from napari_2dmamba.plugin.slide_layer import add_slide
    from napari_2dmamba.slide import open_slide

    suit_slides()
    apply_preferences()
    viewer = napari.Viewer(title=TITLE, show=False, show_welcome_screen=False)
    viewer.window.add_dock_widget(SlideOverview(viewer), name="Slide overview", area="left")
    viewer.window.add_dock_widget(RunWidget(viewer), name="Run 2DMamba", area="right")
    if show:
        viewer.window.show()
    problems = []
    for path in paths:
        try:
            slide = open_slide(Path(path))
        except UserError as error:
            problems.append(str(error))
            show_error(str(error))
            continue
        add_slide(viewer, slide)
        viewer.title = f"{slide.name} - {TITLE}"
    return viewer, problems


def suit_slides() -> None:
    """Set napari's settings so that large slides open well.

    Slices load in the background, and slide files go to our reader without a question.
    """
    from napari.settings import get_settings

    settings = get_settings()
    settings.experimental.async_ = True
    settings.appearance.theme = "light"
    readers = {**settings.plugins.extension2reader}
    readers.update(dict.fromkeys(SLIDE_PATTERNS, PLUGIN_NAME))
    settings.plugins.extension2reader = readers
