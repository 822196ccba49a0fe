"""The section *Figure and files*: the comparison as a figure for a paper, and as tables."""

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QLabel, QPushButton

from napari_2dmamba.compare.figure import KINDS, FigureSettings
from napari_2dmamba.plugin.parts.form import Form
from napari_2dmamba.plugin.parts.section import Fold, Section


class ExportSection(Section):
    """What to write and where.

    Signals
    -------
    figure_wanted(paths)
        One file per format.
    files_wanted(folder)
        Tables, maps and record.
    """

    figure_wanted = Signal(object)
    files_wanted = Signal(object)

    def __init__(self) -> None:
        super().__init__("Figure and files", is_open=False)
        hint = QLabel(
            "The panels on display as PDF and SVG, with words and lines that can be edited, and "
            "as PNG. Zoom boxes are chosen in the grid's window."
        )
        hint.setWordWrap(True)
        # colours and range are those of the grid
        self.form: Form[FigureSettings] = Form(FigureSettings, leave_out=("shared_range",))
        self.figure = QPushButton("Export figure…")
        self.figure.clicked.connect(self._browse)
        self.files = QPushButton("Save tables and maps…")
        self.files.setToolTip("Answers, agreement, every patch, every map, and the record")
        self.files.clicked.connect(self._browse_folder)
        for widget in (hint, Fold("How the figure looks", self.form), self.figure, self.files):
            self.body.addWidget(widget)
        self.start = Path.home() / "comparison.pdf"

    def _browse(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Export the figure", str(self.start), "Figure (*.pdf *.svg *.png)"
        )
        if path:
            self.start = Path(path)
            self.figure_wanted.emit(figure_files(Path(path)))

    def _browse_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A folder for tables and maps")
        if folder:
            self.files_wanted.emit(Path(folder))


def figure_files(path: Path) -> list[Path]:
    """Return the files of one figure: the same name in every format."""
    stem = path.with_suffix("") if path.suffix.lower() in KINDS else path
    return [stem.with_name(stem.name + suffix) for suffix in KINDS]
