"""The section *Receptive fields*: which network, where its weights are from, and the measures."""

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
)

from napari_2dmamba.pixel_fields import PRETRAINED, FieldSettings
from napari_2dmamba.plugin.parts.form import Form, PathEditor
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.section import Fold, Section
from napari_2dmamba.plugin.vision_widget.layers import ShownField

NETWORKS = (
    "vmamba2d_tiny", "vmamba_tiny", "vmamba2d_tiny_corners", "vmamba2d_small", "vmamba_small",
    "convnext_tiny", "swin_tiny_patch4_window7_224", "resnet50",
)  # fmt: skip
"""What is offered; any other name of timm's may be typed."""

_RANDOM, _FILE, _FOLDER = "random", "file", "folder"
_WEIGHTS = {
    _FILE: "A file of weights",
    _FOLDER: "A tile classifier of yours",
    PRETRAINED: "timm's own, downloaded",
    _RANDOM: "Random",
}
_STAGES = {"all": None, "last": (-1,), "1": (0,), "2": (1,), "3": (2,), "4": (3,)}
_QUICK = FieldSettings(crops=4)  # while one looks around; the command line takes more
_HINT = "Click on the slide to see which pixels the network's feature there depends on."
_TAKEN = "<b>Click a place on the slide</b>; Esc cancels."
_COLUMNS = ("Stage, network", "50 %", "90 %", "Cross", "↖", "↗", "↙", "↘")
_TIPS = (
    "A click on a line shows the field",
    "Smallest part of the crop that holds half of the field",
    "Smallest part of the crop that holds 90 % of the field",
    "How much stronger the central row and column are than the rest at the same distance: 1 is "
    "no cross, and less than 1 a square field",
    "Share up left, of what lies beyond the row and column of the cell",
    "Share up right",
    "Share down left",
    "Share down right",
)


class FieldSection(Section):
    """What is asked, and the measures of what was found; touches no layer itself.

    Signals
    -------
    pointing_wanted(is_wanted)
        The next click on the slide is the place.
    again_wanted()
        The same place once more, with another network.
    chosen(number)
        A field of the table is to be shown.
    remove_wanted()
        All fields of the slide are to go.
    figure_wanted(path)
    visit_wanted()
        The view is to go to the crop.
    """

    pointing_wanted = Signal(bool)
    again_wanted = Signal()
    chosen = Signal(int)
    remove_wanted = Signal()
    figure_wanted = Signal(str)
    visit_wanted = Signal()

    def __init__(self) -> None:
        super().__init__("Receptive fields, in pixels")
        self._is_busy = False
        self.network = QComboBox()
        self.network.setEditable(True)
        self.network.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.network.addItems(NETWORKS)
        self.network.setMinimumContentsLength(12)
        self.network.setToolTip("2DVMamba, VMamba, or the name of any model of timm's")
        self.weights = QComboBox()
        for kind, title in _WEIGHTS.items():
            self.weights.addItem(title, kind)
        self.weights.currentIndexChanged.connect(self._follow)
        self.file = PathEditor("Weights of the network", "Weights (*.pth *.pt *.safetensors)")
        self.folder = PathEditor("Folder that tile training wrote", folder=True)
        self.random = Message()
        self.random.say(
            "Random weights show what the architecture lets a feature see, and nothing that was "
            "learnt; the layers are named so", "warning",
        )  # fmt: skip
        self.stages = QComboBox()
        for key in _STAGES:
            self.stages.addItem(key.capitalize(), key)
        self.stages.setToolTip("One layer for each stage")
        self.form = Form(FieldSettings, leave_out=("seed", "device"))
        self.form.set_settings(_QUICK)
        self.point = QPushButton("Click a place")
        self.point.setCheckable(True)
        self.point.clicked.connect(self.pointing_wanted)
        self.again = QPushButton("Same place again")
        self.again.setToolTip("At the last place, to compare networks or settings")
        self.again.clicked.connect(self.again_wanted)
        self.hint = QLabel(_HINT)
        self.hint.setWordWrap(True)
        self.table = self._make_table()
        self.figure = QPushButton("Save figure…")
        self.figure.setToolTip("Crop and fields side by side, as PNG, PDF or SVG")
        self.figure.clicked.connect(self._browse)
        self.visit = QPushButton("Go there")
        self.visit.setToolTip("Let the crop fill the view")
        self.visit.clicked.connect(self.visit_wanted)
        self.remove = QPushButton("Remove")
        self.remove.setToolTip("Take the fields off the slide")
        self.remove.clicked.connect(self.remove_wanted)
        self._lay_out()
        self._follow()
        self.show_fields((), None)

    def _lay_out(self) -> None:
        self.rows = QFormLayout()
        for label, field in (
            ("Network", self.network),
            ("Weights", self.weights),
            ("File", self.file),
            ("Folder", self.folder),
            ("Stages", self.stages),
        ):
            self.rows.addRow(label, field)
        buttons, last = QHBoxLayout(), QHBoxLayout()
        buttons.addWidget(self.point, 1)
        buttons.addWidget(self.again, 1)
        last.addWidget(self.visit)
        last.addWidget(self.figure)
        last.addWidget(self.remove)
        last.addStretch(1)
        self.body.addLayout(self.rows)
        self.body.addWidget(self.random)
        self.body.addWidget(Fold("Crops", self.form))
        self.body.addLayout(buttons)
        self.body.addWidget(self.hint)
        self.body.addWidget(self.table)
        self.body.addLayout(last)

    def _make_table(self) -> QTableWidget:
        table = QTableWidget(0, len(_COLUMNS))
        table.setHorizontalHeaderLabels(_COLUMNS)
        for column, tip in enumerate(_TIPS):
            title = table.horizontalHeaderItem(column)
            assert title is not None
            title.setToolTip(tip)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setWordWrap(False)
        header, numbers = table.horizontalHeader(), table.verticalHeader()
        assert header is not None
        assert numbers is not None
        numbers.hide()
        header.setMinimumSectionSize(24)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        table.itemSelectionChanged.connect(self._choose)
        return table

    # -- what is asked ------------------------------------------------------------------------

    @property
    def spec(self) -> str:
        """The network as `fields_on_slide` takes it; empty where a file is still to be chosen."""
        kind, name = self.weights.currentData(), self.network.currentText().strip()
        if kind == _FOLDER:
            folder = self.folder.get()
            return f"local-dir:{folder}" if folder else ""
        if kind == _FILE:
            file = self.file.get()
            return f"{name}={file}" if file and name else ""
        return name if kind == _RANDOM else f"{name}={PRETRAINED}"

    @property
    def what_is_missing(self) -> str:
        """Why nothing can be asked, or nothing."""
        kind = self.weights.currentData()
        if kind == _FOLDER and not self.folder.get():
            return "no folder of a tile classifier is chosen; browse for the one training wrote"
        if kind != _FOLDER and not self.network.currentText().strip():
            return "no network is named; choose one, such as vmamba2d_tiny"
        if kind == _FILE and not self.file.get():
            return "no file of weights is chosen; browse for one, or choose other weights"
        return ""

    @property
    def chosen_stages(self) -> Sequence[int] | None:
        """Stages as `fields_on_slide` takes them."""
        return _STAGES[self.stages.currentData()]

    def _follow(self) -> None:
        kind = self.weights.currentData()
        self.rows.setRowVisible(self.network, kind != _FOLDER)
        self.rows.setRowVisible(self.file, kind == _FILE)
        self.rows.setRowVisible(self.folder, kind == _FOLDER)
        self.random.setVisible(kind == _RANDOM)

    # -- what is shown ------------------------------------------------------------------------

    def show_pointing(self, is_on: bool) -> None:
        """Say that the next click is the place, or no more."""
        self.point.setChecked(is_on)
        self.hint.setText(_TAKEN if is_on else _HINT)

    def set_busy(self, is_busy: bool, *, has_slide: bool, has_place: bool) -> None:
        """Grey what would be refused."""
        self._is_busy = is_busy
        self.point.setEnabled(has_slide and not is_busy)
        self.again.setEnabled(has_place and not is_busy)
        self.figure.setEnabled(self.table.rowCount() > 0 and not is_busy)

    def show_fields(self, found: Sequence[ShownField], shown: int | None) -> None:
        """List the fields of the slide with their measures; ``shown`` is looked at."""
        self.table.blockSignals(True)
        self.table.setRowCount(len(found))
        for row, one in enumerate(found):
            for column, word in enumerate(_words(one)):
                item = QTableWidgetItem(word)
                item.setToolTip(one.field.name if column == 0 else _TIPS[column])
                if column:
                    right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                    item.setTextAlignment(right)
                self.table.setItem(row, column, item)
        self.table.clearSelection()
        if shown is not None:
            self.table.selectRow(shown)
        self.table.blockSignals(False)
        header = self.table.horizontalHeader()
        assert header is not None
        lines = min(max(len(found), 1), 8)
        row_height = self.table.rowHeight(0) if found else 24
        self.table.setFixedHeight(header.sizeHint().height() + lines * row_height + 6)
        for part in (self.table, self.visit, self.figure, self.remove):
            part.setVisible(bool(found))
        self.figure.setEnabled(bool(found) and not self._is_busy)
        self.set_summary(f"{len(found)} shown" if found else "")

    def _choose(self) -> None:
        rows = {item.row() for item in self.table.selectedItems()}
        if rows:
            self.chosen.emit(min(rows))

    def _browse(self) -> None:
        path, kind = QFileDialog.getSaveFileName(
            self, "Save figure", "receptive-field.png", "PNG (*.png);;PDF (*.pdf);;SVG (*.svg)"
        )
        if path:
            suffix = f".{kind[:3].lower()}"
            self.figure_wanted.emit(path if Path(path).suffix else path + suffix)


def _words(one: ShownField) -> list[str]:
    found = one.field.measures()
    corners = ("up_left", "up_right", "down_left", "down_right")
    cross = found.get("cross_strength")
    return [
        f"{one.field.stage + 1} · {one.field.model}",
        f"{100 * found['area_50']:.1f}",
        f"{100 * found['area_90']:.1f}",
        "–" if cross is None else f"{cross:.2f}",
        *(f"{100 * found[f'quadrant_{corner}']:.0f}" for corner in corners),
    ]
