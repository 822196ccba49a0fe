"""The model that was chosen last, so that the next start of the program begins with it."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import ExportError
from napari_2dmamba.plugin.session.preferences import settings_folder

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session

_FILE = "last-model.txt"


def last_model() -> Path | None:
    """Return the checkpoint chosen last, where it is still there."""
    try:
        path = Path((settings_folder() / _FILE).read_text(encoding="utf-8"))
        return path if path.is_file() else None
    except (OSError, ValueError):  # none yet, or somebody wrote into it
        return None


class RemembersModel(QObject):
    """Writes down each model chosen in a session that states its own settings.

    One that lies on Hugging Face is left out: starting the program contacts nobody.
    """

    def __init__(self, window: QObject, session: "Session") -> None:
        super().__init__(window)
        self._session = session
        self._last = last_model()
        session.events.choices.connect(self._remember)

    def _remember(self, _: object) -> None:
        chosen = self._session.choices.checkpoint
        path = chosen.path
        if path is None or chosen.header is None or chosen.given or path == self._last:
            return
        if chosen.location != str(path):
            return
        self._last = path
        # a comfort, and not worth a message
        with contextlib.suppress(ExportError), atomic_write(settings_folder() / _FILE) as part:
            part.write_text(str(path), encoding="utf-8")
