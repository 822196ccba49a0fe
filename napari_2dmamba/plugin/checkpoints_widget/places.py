"""Where checkpoints are looked for: folders, files and repositories on Hugging Face."""

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QInputDialog,
    QListWidget,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.checkpoints.library import hub_source
from napari_2dmamba.errors import UserError
from napari_2dmamba.plugin.parts.checkpoint_model import CheckpointModel

FILTER = "Checkpoints (*.safetensors *.pt *.pth *.bin *.ckpt);;All files (*)"


class Places(QWidget):
    """The list of places, and what adds to it and takes from it.

    Parameters
    ----------
    checkpoints
        The shared list.

    Signals
    -------
    refused(sentence)
        A name was no name of a repository.
    """

    refused = Signal(str)

    def __init__(self, checkpoints: CheckpointModel) -> None:
        super().__init__()
        self._checkpoints = checkpoints
        self.list = QListWidget()
        self.list.setAccessibleName("Places")
        self.list.setMaximumHeight(90)
        self.list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.remove = QPushButton("Stop looking there")
        self.remove.setToolTip("Take the place off the list; nothing on the disk changes")
        self.restore = QPushButton("Show removed again")
        self.restore.setToolTip("Put back the checkpoints that were removed from the list")
        row = QHBoxLayout()
        row.addWidget(self.remove)
        row.addWidget(self.restore)
        row.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.list)
        layout.addLayout(row)
        self.remove.clicked.connect(self._remove)
        self.restore.clicked.connect(checkpoints.restore)
        self.list.itemSelectionChanged.connect(self._follow_selection)
        checkpoints.settled.connect(self.show_places)
        self.show_places()

    def show_places(self) -> None:
        """Show what the list holds now."""
        sources = list(self._checkpoints.library.sources)
        if [self.list.item(n).text() for n in range(self.list.count())] != sources:  # type: ignore[union-attr]
            self.list.clear()
            self.list.addItems(sources)
        self.restore.setEnabled(bool(self._checkpoints.library.removed))
        self._follow_selection()

    def ask_for_folder(self) -> None:
        """Let the user choose a folder to look into."""
        folder = QFileDialog.getExistingDirectory(self, "Folder with checkpoints")
        if folder:
            self._checkpoints.add(folder)

    def ask_for_repository(self) -> None:
        """Let the user name a repository on Hugging Face."""
        name, accepted = QInputDialog.getText(
            self,
            "Checkpoints on Hugging Face",
            "Repository, as owner/name or owner/name@revision.\n"
            "Only safetensors files are listed, by their headers.",
        )
        if accepted and name.strip():
            self.add_repository(name)

    def add_repository(self, name: str) -> None:
        """Look into a repository."""
        try:
            self._checkpoints.add(hub_source(name))
        except UserError as error:
            self.refused.emit(str(error))

    def _remove(self) -> None:
        for item in self.list.selectedItems():
            self._checkpoints.remove_source(item.text())

    def _follow_selection(self) -> None:
        self.remove.setEnabled(bool(self.list.selectedItems()))
