"""The section *Classes of tiles*: which classifier, which patches, and which class is shown."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt, Signal
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

from napari_2dmamba.errors import UserError
from napari_2dmamba.plugin.parts.form import Form, PathEditor
from napari_2dmamba.plugin.parts.section import Section
from napari_2dmamba.plugin.vision_widget.area import ALL, TISSUE, VIEW, AreaRow
from napari_2dmamba.plugin.vision_widget.class_list import ClassList
from napari_2dmamba.slide import GridSettings
from napari_2dmamba.tiles.facts import ClassifierFacts, read_facts

if TYPE_CHECKING:
    from napari_2dmamba.tiles.on_slide import TileMaps

_HINT = "A folder that <i>tiles train</i> wrote, or one in timm's layout with names of classes."


class TilesSection(Section):
    """What is classified and how it is looked at; touches no layer itself.

    Signals
    -------
    classify_wanted()
    class_chosen(name)
        The layer of a class is to be looked at.
    export_wanted(folder)
    """

    classify_wanted = Signal()
    class_chosen = Signal(str)
    export_wanted = Signal(str)

    def __init__(self) -> None:
        super().__init__("Classes of tiles", is_open=False)
        self.facts: ClassifierFacts | None = None
        self.problem = ""
        self.folder = PathEditor("Folder of a tile classifier", folder=True)
        self.folder.changed.connect(self._read)
        self.about = QLabel(_HINT)
        self.about.setTextFormat(Qt.TextFormat.RichText)
        self.about.setWordWrap(True)
        self.area = AreaRow(
            {TISSUE: "All tissue", ALL: "Everything, also glass", VIEW: "What the window shows"}
        )
        self.form = Form(GridSettings, leave_out=("min_tissue",))
        self.classify = QPushButton("Classify")
        self.classify.clicked.connect(self.classify_wanted)
        self.maps = QComboBox()
        self.maps.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.maps.setToolTip("The class of each tile, or the probability of one class")
        self.maps.textActivated.connect(self.class_chosen)
        self.legend = ClassList(can_hide=False)
        self.export = QPushButton("Export…")
        self.export.setToolTip(
            "A table of probabilities, outlines of the classes for QuPath, and an OME-TIFF for "
            "each class, into a folder"
        )
        self.export.clicked.connect(self._browse)
        self._lay_out()
        self.show_maps(None, (), None)

    def _lay_out(self) -> None:
        rows = QFormLayout()
        rows.addRow("Classifier", self.folder)
        self.body.addLayout(rows)
        self.body.addWidget(self.about)
        area = QFormLayout()
        area.addRow("Area", self.area)
        self.body.addLayout(area)
        self.body.addWidget(self.form)
        self.body.addWidget(self.classify)
        self.result = QWidget()
        inside = QVBoxLayout(self.result)
        inside.setContentsMargins(0, 4, 0, 0)
        shown = QHBoxLayout()
        shown.addWidget(QLabel("Show"))
        shown.addWidget(self.maps, 1)
        shown.addWidget(self.export)
        inside.addLayout(shown)
        inside.addWidget(self.legend)
        self.body.addWidget(self.result)

    def _read(self) -> None:
        """Say what the classifier is, and propose the patches of its training."""
        self.facts, self.problem = None, ""
        folder = self.folder.get()
        if folder is None:
            self.about.setText(_HINT)
            return
        try:
            self.facts = read_facts(folder)
        except UserError as error:
            self.problem = str(error)
            self.about.setText(f"<b>{escape(self.problem[:1].upper() + self.problem[1:])}.</b>")
            return
        facts = self.facts
        mpp = "of unknown resolution" if facts.mpp is None else f"of {facts.mpp:g} µm/px"
        self.about.setText(
            f"{escape(facts.architecture)}, {len(facts.classes)} classes "
            f"({escape(_listed(facts.classes))}), tiles "
            f"of {facts.patch_size} px {mpp}."
        )
        self.form.set_settings(self.form.settings().trained_for(facts))

    def set_busy(self, is_busy: bool, *, has_slide: bool) -> None:
        """Grey what would be refused."""
        self.classify.setEnabled(has_slide and not is_busy)
        self.export.setEnabled(not is_busy)

    def show_maps(
        self, found: "TileMaps | None", names: Sequence[str], looked_at: str | None
    ) -> None:
        """Offer the layers of a classified slide; ``looked_at`` is the one that is seen."""
        self.result.setVisible(found is not None)
        self.maps.clear()
        self.maps.addItems(list(names))
        self.maps.setCurrentIndex(self.maps.findText(looked_at or ""))
        self.set_summary("")
        if found is not None:
            answers = np.bincount(found.probabilities.argmax(1), minlength=len(found.classes))
            self.legend.show_classes(found.classes, (answers / answers.sum()).tolist())
            self.set_summary(f"{len(found.coords)} tiles")

    def _browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Export classes of tiles", "")
        if folder:
            self.export_wanted.emit(folder)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
