"""The reader napari calls for a dropped or opened file."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba.file_suffixes import SLIDE_SUFFIXES

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

LayerData = tuple[Any, ...]
Reader = Callable[[str | Sequence[str]], list[LayerData]]

SLIDE_PATTERNS = tuple(f"*{suffix}" for suffix in SLIDE_SUFFIXES)
"""What the manifest claims; a test keeps the two equal."""

_NO_LAYER: list[LayerData] = [(None,)]  # npe2's sign for "read, and nothing to show"


def get_reader(path: str | Sequence[str]) -> Reader | None:
    """Return the reader for slide files, and None at once for all others."""
    paths = [path] if isinstance(path, str) else list(path)
    if not paths or not all(_looks_like_a_slide(p) for p in paths):
        return None
    return read_slides


def read_slides(path: str | Sequence[str]) -> list[LayerData]:
    """Return the layers of one or several slides.

    A slide that cannot be opened is notified in one sentence and leaves the viewer as it is.
    """
    from napari.utils.notifications import show_error

    from napari_2dmamba.errors import UserError
    from napari_2dmamba.plugin.session.preferences import apply_preferences, tries_slides_apart
    from napari_2dmamba.slide import open_slide

    apply_preferences()
    paths = [path] if isinstance(path, str) else list(path)
    layers: list[LayerData] = []
    for one in paths:
        try:
            layers += layers_for_window(open_slide(Path(one), apart=tries_slides_apart()))
        except UserError as error:
            show_error(str(error))
    return layers or _NO_LAYER


def layers_for_window(slide: "Slide") -> list[LayerData]:
    """Return the layer data of a slide in the units of the window that will show it.

    napari draws a new layer at once and warns where units differ from those before; the session
    gives the slide its own when it makes it the current one.
    """
    import napari

    from napari_2dmamba.plugin.layers.slide_layer import slide_layer_data
    from napari_2dmamba.plugin.session import Session

    viewer = napari.current_viewer()
    units = None if viewer is None else Session.of(viewer).units
    layers = slide_layer_data(slide)
    for _, options, _ in layers:
        options["units"] = units or options["units"]
    return list(layers)


def _looks_like_a_slide(path: str) -> bool:
    name = Path(path).name.lower()
    return any(fnmatch(name, pattern) for pattern in SLIDE_PATTERNS)
