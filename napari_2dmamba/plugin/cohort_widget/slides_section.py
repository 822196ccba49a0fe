"""The section *Slides*: folders, files and lists that name the slides of a cohort."""

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
)

from napari_2dmamba.cohort import CohortSlide, SlideStatus, find_slides
from napari_2dmamba.plugin.npe2.reader import SLIDE_PATTERNS
from napari_2dmamba.plugin.parts.jobs import LatestJob
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.section import Section
from napari_2dmamba.settings import ProgressCallback, StopCallback

_HINT = "Drop folders, slides or a .csv list here, or choose them:"


class SlidesSection(Section):
    """What is to be done.

    Signals
    -------
    slides_found(slides)
        Other slides were named; empty while there are none, or none can be understood.
    """

    slides_found = Signal(list)

    def __init__(self) -> None:
        super().__init__("Slides")
        self._out: Path | None = None
        self._slides: list[CohortSlide] = []
        self.hint = QLabel(_HINT)
        self.hint.setWordWrap(True)
        self.inputs = QListWidget()
        self.inputs.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.inputs.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.inputs.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.inputs.setMaximumHeight(64)
        delete = QShortcut(QKeySequence(Qt.Key.Key_Delete), self.inputs)
        delete.setContext(Qt.ShortcutContext.WidgetShortcut)
        delete.activated.connect(self.remove_chosen)
        buttons = QHBoxLayout()
        for text, tip, do in (
            ("Folder…", "All slides in a folder and below it", self._browse_folder),
            ("Files…", "Slides one by one", self._browse_files),
            ("List…", "A .csv file: slide; label, mpp, regions if wanted", self._browse_list),
            ("Remove", "Take what is chosen above out again; all of it if nothing is",
             self.remove_chosen),
        ):  # fmt: skip
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(do)
            buttons.addWidget(button)
        self.count = QLabel()
        self.count.setWordWrap(True)
        self.message = Message()
        self.body.addWidget(self.hint)
        self.body.addWidget(self.inputs)
        self.body.addLayout(buttons)
        self.body.addWidget(self.count)
        self.body.addWidget(self.message)
        self._finding = LatestJob(self, delay_ms=100)
        self._finding.started.connect(lambda: self._say("Looking for slides…"))
        self._finding.succeeded.connect(self._take)
        self._finding.failed.connect(self._refuse)
        self._say("")

    @property
    def slides(self) -> list[CohortSlide]:
        """The slides that were named, each once."""
        return list(self._slides)

    @property
    def is_looking(self) -> bool:
        """Whether slides are still being looked for."""
        return self._finding.is_busy

    def set_out(self, out: Path | None) -> None:
        """Leave the folder of the results out of the search."""
        self._out = out

    def add_inputs(self, paths: Sequence[str | Path]) -> None:
        """Take in folders, files and lists."""
        known = set(self._named())
        for path in map(str, paths):
            if path not in known:
                known.add(path)
                item = QListWidgetItem(Path(path).name or path)
                item.setData(Qt.ItemDataRole.UserRole, path)
                item.setToolTip(path)
                self.inputs.addItem(item)
        self._look()

    def remove_chosen(self) -> None:
        """Take out the inputs that are chosen in the list, or all where none is."""
        chosen = self.inputs.selectedItems()
        if not chosen:
            self.inputs.clear()
        for item in chosen:
            self.inputs.takeItem(self.inputs.row(item))
        self._look()

    def set_opened(self, folder: Path, rows: Sequence[SlideStatus]) -> None:
        """Name the slides of a cohort that was opened."""
        self._finding.cancel()
        self.inputs.clear()
        self.message.clear()
        self._slides = [
            CohortSlide(
                Path(row.slide),
                row.label,
                row.mpp,
                dict(row.notes),
                Path(row.regions) if row.regions else None,
            )
            for row in rows
        ]
        self._say(f"<b>{len(rows)}</b> slides of the cohort {folder.name}")
        self.set_summary(f"{len(rows)} slides of {folder.name}")

    def cancel(self) -> None:
        """Stop looking."""
        self._finding.cancel()

    def _named(self) -> list[str]:
        items = (self.inputs.item(place) for place in range(self.inputs.count()))
        return [item.data(Qt.ItemDataRole.UserRole) for item in items if item is not None]

    def _look(self) -> None:
        inputs, out = self._named(), self._out
        self.message.clear()
        self._slides = []
        self.slides_found.emit([])
        if not inputs:
            self._finding.cancel()
            self._say("")
            self.set_summary("")
            return

        def task(progress: ProgressCallback, stop: StopCallback) -> list[CohortSlide]:
            return find_slides(inputs, leave_out=out)

        self._finding.request(task)

    def _take(self, slides: list[CohortSlide]) -> None:
        self._slides = slides
        words = "1</b> slide" if len(slides) == 1 else f"{len(slides)}</b> slides"
        labels = sum(slide.label is not None for slide in slides)
        self._say(f"<b>{words}" + (f", {labels} with a label" if labels else ""))
        self.set_summary(words.replace("</b>", ""))
        self.slides_found.emit(slides)

    def _refuse(self, sentence: str) -> None:
        self._say("")
        self.set_summary("cannot be used")
        self.message.say(sentence, "error")

    def _say(self, words: str) -> None:
        self.count.setText(words)
        self.count.setVisible(bool(words))

    def _browse_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A folder of slides")
        if folder:
            self.add_inputs([folder])

    def _browse_files(self) -> None:
        kinds = f"Slides ({' '.join(SLIDE_PATTERNS)});;All files (*)"
        paths, _ = QFileDialog.getOpenFileNames(self, "Slides", "", kinds)
        self.add_inputs(paths)

    def _browse_list(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "A list of slides", "", "Lists (*.csv)")
        if path:
            self.add_inputs([path])
