"""What the user set under Preferences > 2DMamba, and where runs are kept."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba.export.run_library import slide_folder

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

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
    """Give the shared tile cache the size the user chose."""
    from napari_2dmamba.slide import set_cache_size

    megabytes = preference("slides", "cache_mb")
    if megabytes is not None:
        set_cache_size(megabytes)


def tries_slides_apart() -> bool:
    """Whether the first tiles of each slide are read in a process apart before it opens here."""
    return bool(preference("slides", "apart", False))


def settings_folder() -> Path:
    """Return the folder for what is remembered: beside napari's settings, where they are ours."""
    from platformdirs import user_config_path

    settings = os.environ.get("NAPARI_CONFIG")
    return Path(settings).parent if settings else user_config_path(PLUGIN_NAME, appauthor=False)


def runs_folder() -> Path:
    """Return the folder that gets one folder per analysed slide."""
    from platformdirs import user_documents_path

    chosen = preference("analysis", "runs_folder", "")
    return Path(chosen).expanduser() if chosen else user_documents_path() / "2DMamba runs"


def features_folder(slide: "Slide") -> Path:
    """Return the folder for the runs of one slide, in which its features are kept."""
    return slide_folder(runs_folder(), slide)
