"""The section *Export*: pictures, maps, tables and the record of the run on display."""

from dataclasses import dataclass
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

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.plugin.run_widget.shown_run import ShownRun
from napari_2dmamba.plugin.section import ElidedLabel, Section
from napari_2dmamba.settings import ProgressCallback, StopCallback

_MOST_VIEW_PIXELS = 8000


@dataclass(frozen=True)
class Kind:
    """Something that can be exported."""

    title: str
    suffix: str
    hint: str
    has_mpp: bool = False


KINDS = {
    "view": Kind(
        "Picture of the view", ".png",
        "What the window shows, with the map, a colour bar and a scale bar.",
    ),
    "slide": Kind(
        "Picture of the whole slide", ".png",
        "The slide with the map, a colour bar and a scale bar.", has_mpp=True,
    ),
    "overlay": Kind(
        "Overlay as image pyramid", ".ome.tiff",
        "Slide and map in one OME-TIFF, aligned to the slide.", has_mpp=True,
    ),
    "map": Kind(
        "Raw map", ".ome.tiff", "One pixel per patch, float32, with its place on the slide."
    ),
    "geojson": Kind(
        "Patches for QuPath", ".geojson", "One tile per patch with its measurements."
    ),
    "csv": Kind("Scores as CSV table", ".csv", "One row per patch."),
    "parquet": Kind("Scores as Parquet table", ".parquet", "One row per patch, typed and small."),
    "record": Kind("Record of the run", ".json", "Settings, versions and checksums."),
}  # fmt: skip


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


def write_export(
    kind: str,
    path: Path,
    shown: ShownRun,
    grid_map: GridMap,
    display: DisplaySettings,
    view: tuple[int, int, int, int],
    mpp: float | None,
    on_progress: ProgressCallback,
    should_stop: StopCallback,
) -> Path:
    """Write one of `KINDS`; runs off the GUI thread.

    Raises
    ------
    ExportError
        When it cannot be written.
    """
    raise ExportError(f"{kind} cannot be exported yet")
