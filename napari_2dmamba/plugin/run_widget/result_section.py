"""The section *Result*: what the model says, how the map is shown, and its patches."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QWidget,
)

from napari_2dmamba.explain.display import (
    DisplaySettings,
    DisplayTransform,
    format_value,
    percentiles,
    ranks,
)
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.record import RunRecord
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.plugin.layers.heatmap_layer import COLOUR_MAPS, SIGNED_COLOUR_MAPS
from napari_2dmamba.plugin.parts.charts import PredictionChart
from napari_2dmamba.plugin.parts.colour_bar import ColourBar
from napari_2dmamba.plugin.parts.form import Form
from napari_2dmamba.plugin.parts.gallery import Gallery
from napari_2dmamba.plugin.parts.message import Message, as_lines
from napari_2dmamba.plugin.parts.section import Fold, Section
from napari_2dmamba.plugin.session import SlideState
from napari_2dmamba.plugin.session.shown_run import Patches
from napari_2dmamba.slide.grid import place_words

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

_CURSOR_HINT = "Move over the map to read a patch."
_COX = "the logarithm of a relative hazard; higher is worse"
_NOTHING = "No result yet. Run a model, or open a saved run."


class ResultSection(Section):
    """Shows one result; emits what the user wants to see, and touches no layer itself.

    Signals
    -------
    display_changed(settings)
    map_chosen(name)
    map_shown(is_shown)
    class_map_wanted(number)
        What speaks for one of the classes, or time bins, is to be shown.
    patch_chosen(x, y)
        Level-0 corner of the patch to go to.
    """

    display_changed = Signal(object)
    map_chosen = Signal(str)
    map_shown = Signal(bool)
    class_map_wanted = Signal(int)
    patch_chosen = Signal(int, int)

    def __init__(self) -> None:
        super().__init__("Result", is_open=False)
        self._map: GridMap | None = None
        self._patches: Patches | None = None
        self._record: RunRecord | None = None
        self._selected: tuple[int, int] | None = None
        self._ranks: np.ndarray | None = None
        self._percentiles: np.ndarray | None = None
        self._patch_of_cell: np.ndarray | None = None
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.headline = QLabel(_NOTHING)
        self.headline.setWordWrap(True)
        self.warning = Message()
        self.other_mpp = Message()
        self.remarks = Message()
        self.chart = PredictionChart()
        self.background = QLabel()
        self.background.setWordWrap(True)
        self.classes = QComboBox()
        self.classes.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.class_map = QPushButton("What speaks for it")
        self.class_map.setToolTip(
            "Shows which patches speak for this class and which against it: gradient times input. "
            "Inspect has more such maps, and puts them into tables"
        )
        self.class_map.clicked.connect(
            lambda: self.class_map_wanted.emit(self.classes.currentIndex())
        )
        self.class_row = QWidget()
        row = QHBoxLayout(self.class_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.classes, 1)
        row.addWidget(self.class_map)
        self.maps = QComboBox()
        self.maps.currentTextChanged.connect(self._choose_map)
        self.meaning = QLabel()
        self.meaning.setWordWrap(True)
        self.colour_bar = ColourBar()
        self.caption = QLabel()
        self.caption.setWordWrap(True)
        for plain in (self.about, self.meaning):  # names of files and classes may hold a "<"
            plain.setTextFormat(Qt.TextFormat.PlainText)
        self.readout = QLabel(_CURSOR_HINT)
        self.readout.setWordWrap(True)
        self.readout.setMinimumHeight(2 * self.readout.fontMetrics().height() + 4)
        self.form: Form[DisplaySettings] = Form(
            DisplaySettings,
            choices={"colormap": COLOUR_MAPS, "signed_colormap": SIGNED_COLOUR_MAPS},
        )
        self.form.changed.connect(self._on_display)
        self.gallery = Gallery()
        self.gallery.chosen.connect(self._choose_patch)
        self._details = QWidget()
        rows = QFormLayout(self._details)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.show_layer = QCheckBox("Show")
        self.show_layer.setToolTip("Untick to see the tissue alone")
        self.show_layer.setChecked(True)
        self.show_layer.toggled.connect(self.map_shown)
        choice = QHBoxLayout()
        choice.addWidget(self.maps, 1)
        choice.addWidget(self.show_layer)
        rows.addRow("Map", choice)
        self._parts = (
            self._details, self.meaning, self.colour_bar, self.caption,
            Fold("How the map is shown", self.form), self.readout, self.gallery,
        )  # fmt: skip
        for part in (
            self.about, self.headline, self.other_mpp, self.remarks, self.warning, self.chart,
            self.class_row, self.background, *self._parts,
        ):  # fmt: skip
            self.body.addWidget(part)
        self.gallery.hide()
        self._show_parts(False)

    @property
    def display(self) -> DisplaySettings:
        """How maps are to be shown."""
        return self.form.settings()

    def set_display(self, display: DisplaySettings) -> None:
        """Show settings that were changed elsewhere, without saying so again."""
        self.form.blockSignals(True)
        self.form.set_settings(display)
        self.form.blockSignals(False)
        self._show_colours()

    def show_run(self, slide: SlideState | None) -> None:
        """Show what the model says of a slide, and of which slide, model and regions."""
        run = None if slide is None else slide.run
        if slide is None or run is None:
            self._map = self._patches = self._selected = None
            self.about.hide()
            self.headline.setText(_NOTHING)
            self.set_summary("")
            for part in (self.warning, self.other_mpp, self.remarks):
                part.clear()
            for widget in (self.chart, self.class_row, self.background):
                widget.hide()
            self.gallery.show_patches(None, None)
            self._show_parts(False)
            return
        if run.record is not self._record:
            self._record = run.record
            self._offer_classes(run.prediction)
        self.about.setText(f"{slide.name} · {run.model_name} · {run.regions_in_words}")
        self.about.setToolTip(f"{slide.slide.path}\n{run.folder or 'not saved'}")
        self.about.show()
        if slide.other_mpp:
            self.other_mpp.say(slide.other_mpp, "warning")
        else:
            self.other_mpp.clear()
        remarks = (*run.record.warnings, *run.remarks)
        if remarks:
            self.remarks.say(as_lines(remarks), "warning")
        else:
            self.remarks.clear()
        self._show_prediction(run.prediction, run.intended_use)

    def _show_prediction(self, prediction: SlidePrediction, intended_use: str = "") -> None:
        if prediction.task == "survival":
            what = "higher is worse" if prediction.survival_by_bin else _COX
            self.headline.setText(f"Risk score <b>{prediction.risk:.3f}</b> ({what})")
            self.set_summary(f"risk {prediction.risk:.3f}")
        else:
            assert prediction.probabilities is not None
            name = prediction.class_names[prediction.top_class]
            value = prediction.probabilities[prediction.top_class]
            self.headline.setText(f"<b>{escape(name)}</b>, probability {value:.3f}")
            self.set_summary(f"{name} {value:.3f}")
        if intended_use:
            self.warning.say(intended_use, "warning")
        else:
            self.warning.clear()
        self.chart.show_prediction(prediction)
        self.class_row.show()
        mass = prediction.background_mass
        self.background.setText(
            "" if mass is None else f"{100 * mass:.1f} % of the attention fell on background."
        )
        self.background.setVisible(mass is not None)

    def _offer_classes(self, said: SlidePrediction) -> None:
        values = said.hazards if said.probabilities is None else said.probabilities
        values = said.logits if values is None else values
        self.classes.clear()
        # Outputs that no time bin was trained on come last, and are not offered
        names = tuple(said.survival_by_bin) or said.class_names
        for name, value in zip(names, values.tolist(), strict=False):
            self.classes.addItem(f"{name}: {value:.3f}")
        self.classes.setCurrentIndex(int(values[: len(names)].argmax()))
        survives = said.probabilities is None
        kind = "time bin, and its hazard" if survives else "class, and its probability"
        kind = "risk, and its value" if said.task == "survival" and said.hazards is None else kind
        self.classes.setToolTip(f"A {kind}")

    def set_maps(self, names: list[str], current: str) -> None:
        """Offer the maps that are layers now."""
        self.maps.blockSignals(True)
        self.maps.clear()
        self.maps.addItems(names)
        self.maps.setCurrentText(current)
        self.maps.blockSignals(False)
        self._show_parts(bool(names))

    def show_map(self, slide: "Slide", grid_map: GridMap, patches: Patches) -> None:
        """Show the values of one map: colour bar, and its top and bottom patches."""
        self._map, self._patches = grid_map, patches
        self._ranks = ranks(patches.scores)
        self._percentiles = percentiles(patches.scores)
        self._patch_of_cell = patches.by_cell(grid_map)
        self._rest()
        self.meaning.setText(grid_map.meaning)
        self._show_colours()
        self.gallery.show_patches(slide, patches)
        self._show_parts(True)

    def select(self, corner: tuple[int, int] | None) -> None:
        """Read a patch, by its level-0 corner, while the cursor is not over the map."""
        self._selected = corner
        self._rest()

    def show_cursor(self, row: int, col: int) -> None:
        """Say what the map holds in one of its cells; off the map, of the selected patch."""
        if not self._read(row, col):
            self._rest()

    def _rest(self) -> None:
        if self._selected is not None and self._map is not None and self._patches is not None:
            corner = np.array([self._selected], np.int64)
            row, col = self._map.cells_of(corner, self._patches.size)[0]
            if self._read(int(row), int(col)):
                return
        self.readout.setText(_CURSOR_HINT)

    def _read(self, row: int, col: int) -> bool:
        """Say what a cell holds, and return whether there is one."""
        if self._map is None or self._patches is None or self._patch_of_cell is None:
            return False
        assert self._ranks is not None
        assert self._percentiles is not None
        rows, cols = self._map.values.shape
        if not (0 <= row < rows and 0 <= col < cols):
            return False
        patch, size = int(self._patch_of_cell[row, col]), self._patches.size
        if patch < 0 or np.isnan(self._patches.scores[patch]):
            side = self._map.patch_size_level0
            inset = (size - side) // 2
            x, y = self._map.origin
            place = place_words((x + col * side - inset, y + row * side - inset), size)
            self.readout.setText(f"No tissue here<br>{place}")
            return True
        x, y = self._patches.coords[patch]
        count = int(np.isfinite(self._patches.scores).sum())
        self.readout.setText(
            f"<b>{format_value(float(self._patches.scores[patch]))}</b> · "
            f"rank {int(self._ranks[patch])} of {count} "
            f"(percentile {self._percentiles[patch]:.0f})<br>{place_words((int(x), int(y)), size)}"
        )
        return True

    def _show_colours(self) -> None:
        self.colour_bar.show_map(self._map, self.display)
        if self._map is not None:
            words = DisplayTransform(self._map, self.display).caption()
            self.caption.setText(f"Colours {words}.")

    def _show_parts(self, visible: bool) -> None:
        for part in self._parts:
            part.setVisible(visible)

    def _on_display(self) -> None:
        self._show_colours()
        self.display_changed.emit(self.display)

    def _choose_map(self, name: str) -> None:
        if name:
            self.map_chosen.emit(name)

    def _choose_patch(self, index: int) -> None:
        if self._patches is not None:
            x, y = self._patches.coords[index]
            self.patch_chosen.emit(int(x), int(y))
