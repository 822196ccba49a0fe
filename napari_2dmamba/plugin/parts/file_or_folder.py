"""A button for what is a file or, as Zarr stores and DICOM slides are, a folder.

The dialogs of no system offer both at once.
"""

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QMenu, QPushButton

FILE_SLIDES, FOLDER_SLIDES = "Files…", "A folder (OME-Zarr, DICOM, slides)…"
"""The menu of a button that opens slides."""


class FileOrFolderButton(QPushButton):
    """Asks which of both is wanted.

    Parameters
    ----------
    text
        Of the button.
    folder
        Of its menu, about folders.
    file
        Of its menu, about files.

    Signals
    -------
    file_wanted()
    folder_wanted()
    """

    file_wanted = Signal()
    folder_wanted = Signal()

    def __init__(self, text: str, folder: str, file: str = "A file…") -> None:
        super().__init__(text)
        menu = QMenu(self)
        self.file = menu.addAction(file, self.file_wanted.emit)
        self.folder = menu.addAction(folder, self.folder_wanted.emit)
        self.setMenu(menu)
