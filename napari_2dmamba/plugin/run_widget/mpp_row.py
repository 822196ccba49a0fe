"""µm per pixel of a slide: what it is, where that comes from, and how to correct it."""

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_2dmamba.plugin.parts.form import PlainSpinBox
from napari_2dmamba.plugin.session import SlideState
from napari_2dmamba.slide.slide import GIVEN_BY_USER

_WHAT_CHANGES = (
    "Enter accepts. Patches are cut anew, and all sizes in µm follow. Runs made so far keep "
    "theirs and say so."
)
_LARGEST = 100.0


class MppRow(QWidget):
    """Shows µm per pixel with its source; a button beside it opens the field to change it.

    The field is empty until the user writes into it.

    Signals
    -------
    given(mpp)
    taken_back()
        What the file says is to count again.
    pixels_wanted(is_wanted)
    """

    given = Signal(float)
    taken_back = Signal()
    pixels_wanted = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.change = QPushButton("Change…")
        self.change.setCheckable(True)
        self.change.toggled.connect(self._open)
        self.value = PlainSpinBox()
        self.value.setDecimals(4)
        self.value.setRange(0.0, _LARGEST)  # 0: nothing was written
        self.value.setSingleStep(0.05)
        self.value.setSuffix(" µm/px")
        self.value.setSpecialValueText("µm per pixel")
        self.value.setToolTip("At full resolution: about 0.25 for 40x, 0.5 for 20x")
        self.value.valueChanged.connect(lambda value: self.use.setEnabled(value > 0))
        line = self.value.lineEdit()
        assert line is not None
        line.returnPressed.connect(self._accept)
        self.use = QPushButton("Use")
        self.use.setEnabled(False)
        self.use.clicked.connect(self._accept)
        self.take_back = QPushButton("As in the file")
        self.take_back.setToolTip("Use what the file itself says")
        self.take_back.clicked.connect(self.taken_back)
        self.hint = QLabel(f"<i>{_WHAT_CHANGES}</i>")
        self.hint.setWordWrap(True)
        self.use_pixels = QCheckBox("Work in pixels instead")
        self.use_pixels.toggled.connect(self.pixels_wanted)
        head, fields = QHBoxLayout(), QHBoxLayout()
        head.addWidget(self.about, 1)
        head.addWidget(self.change)
        self.editor = QWidget()
        fields.addWidget(self.value, 1)
        fields.addWidget(self.use)
        fields.addWidget(self.take_back)
        inner = QVBoxLayout(self.editor)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addLayout(fields)
        inner.addWidget(self.hint)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(head)
        layout.addWidget(self.editor)
        layout.addWidget(self.use_pixels)
        self.editor.hide()

    def show_slide(self, slide: SlideState | None) -> None:
        """Show what is known; the field opens by itself where nothing is."""
        self.setVisible(slide is not None)
        self.value.setValue(0.0)
        if slide is None:
            return
        mpp, source = slide.slide.mpp, slide.slide.mpp_source
        ground = slide.slide.georeference is not None
        size = (
            "" if mpp is None else f"{mpp:.4g}</b> µm" if not ground else f"{mpp / 1e6:.4g}</b> m"
        )
        said = (
            f"µm per pixel unknown: {source}" if mpp is None else f"<b>{size} per pixel, {source}"
        )
        self.about.setText(said)
        self.take_back.setVisible(source == GIVEN_BY_USER)
        self.use_pixels.setVisible(mpp is None)
        self.use_pixels.blockSignals(True)
        self.use_pixels.setChecked(slide.choices.in_pixels)
        self.use_pixels.blockSignals(False)
        self.change.setVisible(mpp is not None and not ground)
        self.change.setChecked(mpp is None)

    def _open(self, is_open: bool) -> None:
        self.editor.setVisible(is_open)
        if is_open and self.isVisible():
            self.value.setFocus()
            self.value.selectAll()

    def _accept(self) -> None:
        self.value.interpretText()
        if self.value.value() > 0:
            self.given.emit(self.value.value())
