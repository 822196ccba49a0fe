"""The section *Slide and tissue*: which slide, its µm per pixel, tissue, regions, patches."""

from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.plugin.form import Form, PlainSpinBox
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.reader import SLIDE_PATTERNS
from napari_2dmamba.plugin.section import Fold, Section
from napari_2dmamba.slide import GridSettings, PatchGrid, TissueSettings

if TYPE_CHECKING:
    from napari_2dmamba.slide import Regions, Slide


_HINT = "Open a slide here, or drop it into the window."


class SlideSection(Section):
    """What is analysed; emits what the user asks for and touches no layer itself.

    Signals
    -------
    slide_chosen(slide)
    mpp_given(mpp)
    settings_changed()
        Tissue or patch settings, or the choice to work in pixels.
    previews_changed()
        Tissue or patches are to be shown or hidden.
    region_wanted(role)
        The user wants to draw: ``"include"`` or ``"exclude"``.
    regions_file_chosen(path)
    slides_wanted(paths)
        The user wants to open slide files.
    cohort_wanted()
        The user has many slides.
    """

    slide_chosen = Signal(object)
    mpp_given = Signal(float)
    settings_changed = Signal()
    previews_changed = Signal()
    region_wanted = Signal(str)
    regions_file_chosen = Signal(str)
    slides_wanted = Signal(list)
    cohort_wanted = Signal()

    def __init__(self) -> None:
        super().__init__("Slide and tissue")
        self._slides: list[Slide] = []
        self.slides = QComboBox()
        self.slides.currentIndexChanged.connect(self._choose)
        self.open = QPushButton("Open…")
        self.open.clicked.connect(self._browse_slides)
        self.many = QPushButton("Many…")
        self.many.setToolTip("Run or extract many slides at once, in Cohort 2DMamba")
        self.many.clicked.connect(self.cohort_wanted)
        self.about = QLabel(_HINT)
        self.about.setWordWrap(True)
        self.message = Message()
        self.mpp_row = self._make_mpp_row()
        self.show_tissue = QCheckBox("Show tissue")
        self.show_patches = QCheckBox("Show patches")
        for box in (self.show_tissue, self.show_patches):
            box.toggled.connect(lambda _: self.previews_changed.emit())
        previews = QHBoxLayout()
        previews.addWidget(self.show_tissue)
        previews.addWidget(self.show_patches)
        previews.addStretch()
        self.count = QLabel()
        self.count.setWordWrap(True)
        self.grid_form: Form[GridSettings] = Form(GridSettings)
        self.tissue_form: Form[TissueSettings] = Form(TissueSettings)
        for form in (self.grid_form, self.tissue_form):
            form.changed.connect(self.settings_changed)
        self.regions_about = QLabel()
        choose = QHBoxLayout()
        choose.addWidget(self.slides, 1)
        choose.addWidget(self.open)
        choose.addWidget(self.many)
        self.body.addLayout(choose)
        self.body.addWidget(self.about)
        self.body.addWidget(self.message)
        self.body.addWidget(self.mpp_row)
        self.body.addLayout(previews)
        self.body.addWidget(self.count)
        self.body.addWidget(Fold("Patches", self.grid_form))
        self.body.addWidget(Fold("Tissue", self.tissue_form))
        self.body.addWidget(Fold("Regions of interest", self._make_regions_row()))
        self.mpp_row.hide()
        self.count.hide()

    @property
    def slide(self) -> "Slide | None":
        """The slide chosen now."""
        index = self.slides.currentIndex()
        return self._slides[index] if 0 <= index < len(self._slides) else None

    @property
    def in_pixels(self) -> bool:
        """Whether to work in pixels where there is no µm per pixel."""
        return self.use_pixels.isChecked()

    def set_slides(self, slides: "list[Slide]") -> None:
        """Offer the slides of the viewer; keeps the choice when it is still among them."""
        before = self.slide
        self._slides = list(slides)
        self.slides.blockSignals(True)
        self.slides.clear()
        self.slides.setEnabled(bool(slides))
        self.slides.addItems([slide.name for slide in slides])
        self.slides.setCurrentIndex(slides.index(before) if before in slides else 0)
        self.slides.blockSignals(False)
        if self.slide is not before:
            self._choose()

    def choose(self, slide: "Slide") -> None:
        """Choose one of the offered slides."""
        self.slides.setCurrentIndex(self._slides.index(slide))

    def show_about(self, slide: "Slide | None") -> None:
        """Say what the slide is, and ask for its µm per pixel where it states none."""
        self._say_count("")
        self.message.clear()
        self.mpp_row.setVisible(slide is not None and slide.mpp is None)
        if slide is None:
            self.about.setText(_HINT)
            self.set_summary("no slide")
            return
        width, height = slide.dimensions
        parts = [f"{width:,} × {height:,} px".replace(",", "\u2009")]
        if slide.mpp is not None:
            parts.append(f"{slide.mpp:.4g} µm/px")
        parts += [f"{len(slide.level_dimensions)} stored levels", slide.backend]
        self.about.setText(" · ".join(parts))
        self.set_summary(slide.name)
        if slide.mpp is None:
            self.message.say(
                f"The size of a pixel is unknown ({slide.mpp_source}). Give it, or work in pixels",
                "warning",
            )

    def show_grid(self, grid: PatchGrid) -> None:
        """Say how many patches there are."""
        size = f"{grid.patch_size_level0} px"
        area = ""
        if grid.slide_mpp is not None:
            side = grid.patch_size_level0 * grid.slide_mpp
            size = f"{side:.0f} µm"
            area = f", {len(grid) * side**2 / 1e6:.1f} mm²"
        self._say_count(f"<b>{len(grid)}</b> patches of {size} on tissue{area}")
        if self.slide is not None:
            self.set_summary(f"{self.slide.name}, {len(grid)} patches")

    def show_counting(self) -> None:
        """Say that the patches are being counted."""
        self._say_count("Finding tissue…")

    def show_problem(self, sentence: str) -> None:
        """Say why there are no patches."""
        self._say_count("")
        self.message.say(sentence, "error")

    def show_regions(self, regions: "Regions | None") -> None:
        """Say how many regions are drawn."""
        if not regions:
            self.regions_about.setText("None drawn: all tissue counts.")
            return
        self.regions_about.setText(
            f"{len(regions.include)} to include, {len(regions.exclude)} to exclude."
        )

    def _say_count(self, text: str) -> None:
        self.count.setText(text)
        self.count.setVisible(bool(text))

    def _choose(self) -> None:
        self.show_about(self.slide)
        self.slide_chosen.emit(self.slide)

    def _make_mpp_row(self) -> QWidget:
        self.mpp = PlainSpinBox()
        self.mpp.setDecimals(4)
        self.mpp.setRange(0.05, 100.0)
        self.mpp.setSingleStep(0.05)
        self.mpp.setValue(0.25)
        self.mpp.setSuffix(" µm/px")
        self.mpp.setToolTip("µm per pixel at full resolution: about 0.25 for 40x, 0.5 for 20x")
        use = QPushButton("Use")
        use.clicked.connect(lambda: self.mpp_given.emit(self.mpp.value()))
        self.use_mpp = use
        self.use_pixels = QCheckBox("Work in pixels instead")
        self.use_pixels.toggled.connect(lambda _: self.settings_changed.emit())
        row = QFrame()
        layout = QVBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        first = QHBoxLayout()
        first.addWidget(self.mpp, 1)
        first.addWidget(use)
        layout.addLayout(first)
        layout.addWidget(self.use_pixels)
        return row

    def _make_regions_row(self) -> QWidget:
        row = QWidget()
        layout = QVBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        buttons = QHBoxLayout()
        include, exclude = QPushButton("Include…"), QPushButton("Exclude…")
        bring = QPushButton("GeoJSON…")
        include.setToolTip("Draw areas; only tissue in them counts")
        exclude.setToolTip("Draw areas; tissue in them does not count")
        bring.setToolTip("Import annotations that QuPath exported for this slide")
        include.clicked.connect(lambda: self.region_wanted.emit("include"))
        exclude.clicked.connect(lambda: self.region_wanted.emit("exclude"))
        bring.clicked.connect(self._browse_regions)
        for button in (include, exclude, bring):
            buttons.addWidget(button)
        layout.addLayout(buttons)
        layout.addWidget(self.regions_about)
        self.show_regions(None)
        return row

    def _browse_slides(self) -> None:
        patterns = " ".join(SLIDE_PATTERNS)
        paths, _ = QFileDialog.getOpenFileNames(
            self, "Open slides", "", f"Slides ({patterns});;All files (*)"
        )
        if paths:
            self.slides_wanted.emit(paths)

    def _browse_regions(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Import regions", "", "GeoJSON (*.geojson *.json);;All files (*)"
        )
        if path:
            self.regions_file_chosen.emit(path)
