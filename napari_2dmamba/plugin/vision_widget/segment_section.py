"""The section *Segmentation*: which segmenter, where, and the classes that were found."""

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.plugin.parts.form import Form, PathEditor
from napari_2dmamba.plugin.parts.section import Fold, Section
from napari_2dmamba.plugin.vision_widget.area import ALL, VIEW, AreaRow
from napari_2dmamba.plugin.vision_widget.class_list import ClassList
from napari_2dmamba.vision.segment_settings import SegmentSettings, WindowSettings

_SCANS = {
    "As the file says": None,
    "2d: 2DVMamba": "2d",
    "1d: VMamba": "1d",
    "2d, from four corners": "2d-four-corners",
}
_SUFFIXES = {".geojson": "Outlines for QuPath", ".ome.tif": "Class numbers as OME-TIFF"}


class SegmentSection(Section):
    """What is segmented and what is shown of it; touches no layer itself.

    Signals
    -------
    segment_wanted()
    hidden_changed(names)
        Classes that are not to be seen.
    export_wanted(path)
        Ends in ``.geojson`` or ``.ome.tif``.
    """

    segment_wanted = Signal()
    hidden_changed = Signal(list)
    export_wanted = Signal(str)

    def __init__(self) -> None:
        super().__init__("Segmentation", is_open=False)
        self.file = PathEditor(
            "A segmenter", "Segmenters (*.safetensors *.pth *.pt);;All files (*)"
        )
        self.file.setToolTip("What segment train wrote, or a published UPerNet on VMamba")
        self.scan = QComboBox()
        self.scan.addItems(list(_SCANS))
        self.names = PathEditor("Names of the classes", "Text (*.txt);;All files (*)")
        self.area = AreaRow(
            {VIEW: "What the window shows", ALL: "The whole slide"}, around="Rectangle around "
        )
        self.form = Form(SegmentSettings, leave_out=("device",))
        self.windows = Form(WindowSettings, leave_out=("batch_size", "memory"))
        self.segment = QPushButton("Segment")
        self.segment.clicked.connect(self.segment_wanted)
        self.legend = ClassList(can_hide=True)
        self.legend.hidden_changed.connect(self.hidden_changed)
        self.export = QPushButton("Export…")
        self.export.setToolTip("Outlines for QuPath without the classes that are hidden, or labels")
        self.export.clicked.connect(self._browse)
        self._lay_out()
        self.show_classes((), ())

    def _lay_out(self) -> None:
        rows, more = QFormLayout(), QWidget()
        rows.addRow("Segmenter", self.file)
        rows.addRow("Area", self.area)
        published = QFormLayout(more)
        published.setContentsMargins(0, 0, 0, 0)
        published.addRow("Scan", self.scan)
        published.addRow("Class names", self.names)
        self.names.setToolTip("A text file with one name per line, in the order of the outputs")
        settings = QWidget()
        inner = QVBoxLayout(settings)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addWidget(self.form)
        inner.addWidget(self.windows)
        self.body.addLayout(rows)
        self.body.addWidget(Fold("A published file, which does not tell its classes", more))
        self.body.addWidget(Fold("Resolution and windows", settings))
        self.body.addWidget(self.segment)
        self.result = QWidget()
        inside = QVBoxLayout(self.result)
        inside.setContentsMargins(0, 4, 0, 0)
        head = QHBoxLayout()
        head.addWidget(QLabel("Classes, with their share of the area"), 1)
        head.addWidget(self.export)
        inside.addLayout(head)
        inside.addWidget(self.legend)
        self.body.addWidget(self.result)

    @property
    def chosen_scan(self) -> str | None:
        """The scan of a published file; None where the file says it."""
        return _SCANS[self.scan.currentText()]

    def set_busy(self, is_busy: bool, *, has_slide: bool) -> None:
        """Grey what would be refused."""
        self.segment.setEnabled(has_slide and not is_busy)
        self.export.setEnabled(not is_busy)

    def show_classes(
        self,
        names: Sequence[str],
        shares: Sequence[float],
        colours: Sequence[tuple[int, int, int]] = (),
    ) -> None:
        """List the classes of the segmentation on display; none hides the list."""
        self.result.setVisible(bool(names))
        self.set_summary(f"{len(names)} classes" if names else "")
        if names:
            self.legend.show_classes(names, shares, colours)

    def _browse(self) -> None:
        filters = ";;".join(f"{title} (*{suffix})" for suffix, title in _SUFFIXES.items())
        path, kind = QFileDialog.getSaveFileName(self, "Export", "classes.geojson", filters)
        if not path:
            return
        suffix = next(s for s, title in _SUFFIXES.items() if kind.startswith(title))
        if not path.endswith(tuple(_SUFFIXES)):
            path = str(Path(path).with_suffix("")) + suffix
        self.export_wanted.emit(path)
