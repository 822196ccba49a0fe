"""The section *Export*: pictures, maps, tables and the record of the run on display."""

from pathlib import Path

from qtpy.QtCore import QSignalBlocker, QUrl, Signal
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QWidget,
)

from napari_2dmamba.export.file_names import file_stem
from napari_2dmamba.export.formats import FORMATS
from napari_2dmamba.plugin.parts.section import ElidedLabel, Section
from napari_2dmamba.plugin.session.shown_run import ShownRun

EXPORTS = "exports"
"""Folder in that of a run, for all of its exports."""


class ExportSection(Section):
    """What to write and where.

    Signals
    -------
    export_wanted(kind, path, mpp)
        ``mpp`` is None for the resolution that suits.
    all_wanted(folder)
        Every format is to be written into a folder.
    open_wanted(folder)
    """

    export_wanted = Signal(str, str, object)
    all_wanted = Signal(str)
    open_wanted = Signal(str)

    def __init__(self) -> None:
        super().__init__("Export and saved runs", is_open=False)
        self._shown: ShownRun | None = None
        self._place: Path | None = None
        self._is_busy = False
        self.kinds = QComboBox()
        self.kinds.currentIndexChanged.connect(self._follow)
        self.hint = QLabel()
        self.hint.setWordWrap(True)
        self.mpp = QDoubleSpinBox()
        self.mpp.setDecimals(2)
        self.mpp.setRange(0.0, 100.0)
        self.mpp.setSingleStep(0.5)
        self.mpp.setSpecialValueText("as fits")
        self.mpp_row = QWidget()
        row = QFormLayout(self.mpp_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.addRow("Resolution", self.mpp)
        self.with_patient = QCheckBox("With the patient's data")
        self.with_patient.setToolTip(
            "The numbers (UIDs) of study and images are always in the file, for it belongs to them"
        )
        self.export = QPushButton("Export…")
        self.export.clicked.connect(self._browse)
        self.open = QPushButton("Open saved run…")
        self.open.clicked.connect(self._browse_run)
        self.all = QPushButton("Export everything")
        self.all.setToolTip(
            "Pictures, pyramids, tables, report and record, with all maps, into the folder exports "
            "of the run, as the command line's export does; stores are written one at a time"
        )
        self.all.clicked.connect(self._ask_for_all)
        self.folder = ElidedLabel()
        self.open_folder = _small_button("Open folder", "Show the folder in the file manager")
        self.open_folder.clicked.connect(self._open_folder)
        self.copy = _small_button("Copy path", "Put the path of the folder into the clipboard")
        self.copy.clicked.connect(self._copy)
        place = QHBoxLayout()
        place.addWidget(self.open_folder)
        place.addWidget(self.copy)
        place.addStretch(1)
        first = QHBoxLayout()
        first.addWidget(self.kinds, 1)
        first.addWidget(self.export)
        self.body.addLayout(first)
        for widget in (self.hint, self.mpp_row, self.with_patient, self.all, self.folder):
            self.body.addWidget(widget)
        self.body.addLayout(place)
        self.body.addWidget(self.open)
        self.set_run(None)

    @property
    def kind(self) -> str:
        """Key in `FORMATS` of what is chosen."""
        return str(self.kinds.currentData())

    @property
    def tells_of_patient(self) -> bool:
        """Whether the user asked for the patient's data in what is chosen."""
        return FORMATS[self.kind].of_dicom and self.with_patient.isChecked()

    def set_run(self, shown: ShownRun | None) -> None:
        """Offer to export a run; None offers nothing."""
        was, self._shown = self._shown, shown
        is_other = (
            shown is None or was is None or (shown.folder, shown.slide) != (was.folder, was.slide)
        )
        self._allow()
        if is_other:
            self.with_patient.setChecked(False)  # asked for one run is not asked for the next
        in_um = shown is None or shown.slide.mpp is not None
        self.mpp.setSuffix(" µm/px" if in_um else " level-0 px per px")
        self._offer()
        if shown is None:
            self._show_place(None, "Nothing to export yet")
            self.set_summary("")
        elif shown.folder is None:
            self._show_place(None, "Not saved")
            self.set_summary("not saved")
        elif is_other:
            self._show_place(shown.folder, f"Saved in {shown.folder}")
            self.set_summary(f"saved in {shown.folder.name}")

    def set_busy(self, is_busy: bool) -> None:
        """Grey what cannot be done while something else is."""
        self._is_busy = is_busy
        self._allow()

    def _offer(self) -> None:
        """List what can be written of the run; what is chosen stays chosen where it can."""
        slide = None if self._shown is None else self._shown.slide
        keys = [
            key
            for key, kind in FORMATS.items()
            if (not kind.of_dicom if slide is None else kind.is_for(slide))
        ]
        if keys != [self.kinds.itemData(index) for index in range(self.kinds.count())]:
            chosen = self.kind
            with QSignalBlocker(self.kinds):
                self.kinds.clear()
                for key in keys:
                    self.kinds.addItem(FORMATS[key].title, key)
                self.kinds.setCurrentIndex(max(0, self.kinds.findData(chosen)))
        self._follow()

    def _allow(self) -> None:
        for button in (self.export, self.all):
            button.setEnabled(self._shown is not None and not self._is_busy)
        self.open.setEnabled(not self._is_busy)

    def show_written(self, path: Path) -> None:
        """Say which file, or folder, was written last."""
        folder = path if path.is_dir() else path.parent
        self._show_place(folder, f"Written: {path}")

    @property
    def place(self) -> Path | None:
        """The folder that can be opened: of the run, or of what was written last."""
        return self._place

    def _show_place(self, folder: Path | None, words: str) -> None:
        self._place = folder
        self.folder.set_text(words)
        for button in (self.open_folder, self.copy):
            button.setVisible(folder is not None)

    def _open_folder(self) -> None:
        if self._place is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._place)))

    def _copy(self) -> None:
        clipboard = QApplication.clipboard()
        if self._place is not None and clipboard is not None:
            clipboard.setText(str(self._place))

    def _ask_for_all(self) -> None:
        if self._shown is None:
            return
        if self._shown.folder is not None:
            self.all_wanted.emit(str(self._shown.folder / EXPORTS))
            return
        folder = QFileDialog.getExistingDirectory(self, "Folder for all exports", str(Path.home()))
        if folder:
            self.all_wanted.emit(folder)

    def _follow(self) -> None:
        kind = FORMATS[self.kind]
        self.hint.setText(kind.hint)
        self.mpp_row.setVisible(kind.has_mpp)
        self.with_patient.setVisible(kind.of_dicom)

    def _browse(self) -> None:
        if self._shown is None:
            return
        kind = FORMATS[self.kind]
        stem = file_stem(self._shown.as_saved())
        start = (self._shown.folder or Path.home()) / f"{stem}-{self.kind}{kind.suffix}"
        path, _ = QFileDialog.getSaveFileName(
            self, kind.title, str(start), f"{kind.title} (*{kind.suffix})"
        )
        if path:
            path = path if path.endswith(kind.suffix) else path + kind.suffix
            mpp = self.mpp.value() if kind.has_mpp and self.mpp.value() > 0 else None
            self.export_wanted.emit(self.kind, path, mpp)

    def _browse_run(self) -> None:
        from napari_2dmamba.plugin.session.preferences import runs_folder

        folder = QFileDialog.getExistingDirectory(self, "Open a saved run", str(runs_folder()))
        if folder:
            self.open_wanted.emit(folder)


def _small_button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    return button
