"""What the user set under Preferences > 2DMamba, handed to the core."""

from typing import Any

PLUGIN_NAME = "napari-2dmamba"


def preference(section: str, name: str, default: Any = None) -> Any:
    """Return a value declared under ``configurations`` in the manifest.

    ``default`` is returned where napari does not know the plugin, as in a script that uses a
    widget without installing the package.
    """
    from napari.settings import get_plugin_settings

    try:
        settings = get_plugin_settings(PLUGIN_NAME)
    except KeyError:
        return default
    return getattr(getattr(settings, section), name)


def apply_preferences() -> None:
    """Give the slide cache the size and the number of threads the user chose."""
