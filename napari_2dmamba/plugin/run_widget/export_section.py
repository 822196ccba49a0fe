"""The section *Export*: pictures, maps, tables and the record of the run on display."""

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QWidget,
)

from napari_2dmamba.plugin.exports import KINDS
from napari_2dmamba.plugin.section import ElidedLabel, Section
from napari_2dmamba.plugin.shown_run import ShownRun


class ExportSection(Section):
    """What to write and where.

    Signals
    -------
    export_wanted(kind, path, mpp)
        ``mpp`` is None for the resolution that suits.
    open_wanted(folder)
    """

    export_wanted = Signal(str, str, object)
    open_wanted = Signal(str)

    def __init__(self) -> None:
        super().__init__("Export and saved runs", is_open=False)
        self._shown: ShownRun | None = None
        self.kinds = QComboBox()
        for key, kind in KINDS.items():
            self.kinds.addItem(kind.title, key)
        self.kinds.currentIndexChanged.connect(self._follow)
        self.hint = QLabel()
        self.hint.setWordWrap(True)
        self.mpp = QDoubleSpinBox()
        self.mpp.setDecimals(2)
        self.mpp.setRange(0.0, 100.0)
        self.mpp.setSingleStep(0.5)
        self.mpp.setSuffix(" µm/px")
        self.mpp.setSpecialValueText("as fits")
        self.mpp_row = QWidget()
        row = QFormLayout(self.mpp_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.addRow("Resolution", self.mpp)
        self.export = QPushButton("Export…")
        self.export.clicked.connect(self._browse)
        self.open = QPushButton("Open saved run…")
        self.open.clicked.connect(self._browse_run)
        self.folder = ElidedLabel()
        first = QHBoxLayout()
        first.addWidget(self.kinds, 1)
        first.addWidget(self.export)
        self.body.addLayout(first)
        for widget in (self.hint, self.mpp_row, self.folder, self.open):
            self.body.addWidget(widget)
        self.set_run(None)
        self._follow()

    @property
    def kind(self) -> str:
        """Key in `KINDS` of what is chosen."""
        return str(self.kinds.currentData())

    def set_run(self, shown: ShownRun | None) -> None:
        """Offer to export a run; None offers nothing."""
        self._shown = shown
        self.export.setEnabled(shown is not None)
        if shown is None:
            self.folder.set_text("Nothing to export yet")
            self.set_summary("")
        elif shown.folder is not None:
            self.folder.set_text(f"Saved in {shown.folder}")
            self.set_summary(f"saved in {shown.folder.name}")
        else:
            self.folder.set_text("Not saved")

    def _follow(self) -> None:
        kind = KINDS[self.kind]
        self.hint.setText(kind.hint)
        self.mpp_row.setVisible(kind.has_mpp)

    def _browse(self) -> None:
        if self._shown is None:
            return
        kind = KINDS[self.kind]
        stem = self._shown.slide.path.stem
        start = (self._shown.folder or Path.home()) / f"{stem}-{self.kind}{kind.suffix}"
        path, _ = QFileDialog.getSaveFileName(
            self, kind.title, str(start), f"{kind.title} (*{kind.suffix})"
        )
        if path:
            path = path if path.endswith(kind.suffix) else path + kind.suffix
            mpp = self.mpp.value() if kind.has_mpp and self.mpp.value() > 0 else None
            self.export_wanted.emit(self.kind, path, mpp)

    def _browse_run(self) -> None:
        from napari_2dmamba.plugin.preferences import runs_folder

        folder = QFileDialog.getExistingDirectory(self, "Open a saved run", str(runs_folder()))
        if folder:
            self.open_wanted.emit(folder)
