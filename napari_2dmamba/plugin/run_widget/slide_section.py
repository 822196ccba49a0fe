"""The section *Slide and tissue*: which slide, its µm per pixel, tissue, regions, patches."""

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_2dmamba.plugin.npe2.reader import SLIDE_PATTERNS
from napari_2dmamba.plugin.parts.file_or_folder import (
    FILE_SLIDES,
    FOLDER_SLIDES,
    FileOrFolderButton,
)
from napari_2dmamba.plugin.parts.form import Form
from napari_2dmamba.plugin.parts.message import Message, as_lines
from napari_2dmamba.plugin.parts.section import Fold, Section
from napari_2dmamba.plugin.run_widget.mpp_row import MppRow
from napari_2dmamba.plugin.session import SlideState
from napari_2dmamba.slide import GridSettings, PatchGrid, Regions, TissueSettings

_HINT = "Open a slide here, or drop it into the window."
_NEEDS_SIZE = "Needs the µm per pixel of the slide, or the choice to work in pixels"


class SlideSection(Section):
    """What is analysed; emits what the user asks for and touches no layer itself.

    Signals
    -------
    slide_chosen(slide)
    settings_changed()
        Tissue or patch settings.
    previews_changed()
        Tissue or patches are to be shown or hidden.
    region_wanted(role)
        The user wants to draw: ``"include"`` or ``"exclude"``.
    regions_file_chosen(path)
    regions_wanted()
        The user wants the list of regions.
    slides_wanted(paths)
    folder_wanted(path)
        What is in it is to be opened.
        The user wants to open slide files.
    close_wanted()
        The slide is to be closed.
    cohort_wanted()
        The user has many slides.
    """

    slide_chosen = Signal(object)
    settings_changed = Signal()
    previews_changed = Signal()
    region_wanted = Signal(str)
    regions_file_chosen = Signal(str)
    regions_wanted = Signal()
    slides_wanted = Signal(list)
    folder_wanted = Signal(str)
    close_wanted = Signal()
    cohort_wanted = Signal()

    def __init__(self) -> None:
        super().__init__("Slide and tissue")
        self._slides: tuple[SlideState, ...] = ()
        self.slides = QComboBox()
        self.slides.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.slides.currentIndexChanged.connect(self._choose)
        self.open = FileOrFolderButton("Open…", FOLDER_SLIDES, FILE_SLIDES)
        self.open.file_wanted.connect(self._browse_slides)
        self.open.folder_wanted.connect(self._browse_folder)
        self.close_slide = QPushButton("Close")
        self.close_slide.setToolTip("Close this slide with its layers; what runs for it stops")
        self.close_slide.clicked.connect(self.close_wanted)
        self.many = QPushButton("Many…")
        self.many.setToolTip("Run or extract many slides at once, in Cohort 2DMamba")
        self.many.clicked.connect(self.cohort_wanted)
        self.about = QLabel(_HINT)
        self.about.setWordWrap(True)
        self.message, self.remarks = Message(), Message()
        self.mpp_row = MppRow()
        self.show_tissue = QCheckBox("Show tissue")
        self.show_patches = QCheckBox("Show patches")
        for box in (self.show_tissue, self.show_patches):
            box.toggled.connect(self.previews_changed)
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
        self.regions_about.setWordWrap(True)
        choose = QHBoxLayout()
        choose.addWidget(self.slides, 1)
        for button in (self.open, self.close_slide, self.many):
            choose.addWidget(button)
        self.body.addLayout(choose)
        for widget in (self.about, self.mpp_row, self.remarks, self.message):
            self.body.addWidget(widget)
        self.body.addLayout(previews)
        self.body.addWidget(self.count)
        self.body.addWidget(Fold("Patches", self.grid_form))
        self.body.addWidget(Fold("Tissue", self.tissue_form))
        self.body.addWidget(Fold("Regions of interest", self._make_regions_row()))
        self.count.hide()

    def show_slides(self, slides: Sequence[SlideState], current: SlideState | None) -> None:
        """Offer the open slides; those of one name are numbered."""
        self._slides = tuple(slides)
        self.slides.blockSignals(True)
        self.slides.clear()
        for place, slide in enumerate(slides):
            number = sum(one.name == slide.name for one in slides[:place])
            self.slides.addItem(f"{slide.name} ({number + 1})" if number else slide.name)
        self.slides.setEnabled(bool(slides))
        self.slides.setCurrentIndex(-1 if current is None else self._slides.index(current))
        self.slides.setToolTip(self.slides.currentText())
        self.slides.blockSignals(False)
        self.close_slide.setEnabled(current is not None)

    def show_slide(self, slide: SlideState | None) -> None:
        """Say what the slide is, and show how it is to be analysed."""
        self.mpp_row.show_slide(slide)
        self._enable_previews(slide)
        self.remarks.clear()
        if slide is None:
            self.about.setText(_HINT)
            self.set_summary("no slide")
            return
        width, height = slide.slide.dimensions
        levels = len(slide.slide.level_dimensions)
        stored = "1 stored level" if levels == 1 else f"{levels} stored levels"
        size = f"{width:,} × {height:,} px".replace(",", "\u2009")
        self.about.setText(f"{size} · {stored} · {slide.slide.backend}")
        if slide.slide.remarks:
            self.remarks.say(as_lines(slide.slide.remarks))

    def show_choices(self, slide: SlideState | None, grid: GridSettings, tissue: TissueSettings,
    ) -> None:  # fmt: skip
        """Show how the slide is cut; without µm per pixel no sizes in µm are asked for."""
        self.grid_form.set_settings(grid)
        self.tissue_form.set_settings(tissue)
        in_um = slide is None or slide.slide.mpp is not None or not slide.choices.in_pixels
        self.grid_form.set_row_visible("target_mpp", in_um)
        for name in ("smallest_piece", "largest_hole"):
            self.tissue_form.set_row_visible(name, in_um)
        self._enable_previews(slide)

    def show_patches_of(self, slide: SlideState | None) -> None:
        """Say how many patches there are, or why there are none."""
        for box, is_on in (
            (self.show_tissue, slide is not None and slide.shows_tissue),
            (self.show_patches, slide is not None and slide.shows_patches),
        ):
            box.blockSignals(True)
            box.setChecked(is_on)
            box.blockSignals(False)
        self.message.clear()
        if slide is None:
            self._say_count("")
            return
        self.set_summary(slide.name)
        if slide.grid is not None:
            self._show_grid(slide, slide.grid)
            return
        self._say_count("")
        if slide.problem:
            self.message.say(slide.problem, "error")
        elif not slide.can_be_cut:
            self.message.say(
                "The size of a pixel is unknown. Give it, or work in pixels", "warning"
            )

    def show_counting(self) -> None:
        """Say that the patches are being counted."""
        self._say_count("Finding tissue…")

    def show_regions(self, regions: Regions | None) -> None:
        """Say how many regions are drawn."""
        roles = [region.role for region in regions or ()]
        include, exclude = roles.count("include"), roles.count("exclude")
        self.regions_about.setText(
            f"{include} to include, {exclude} to exclude."
            if include + exclude
            else "None drawn: all tissue counts."
        )

    def say_how_to_draw(self, how: str) -> None:
        """Say how the tool in hand is used."""
        self.regions_about.setText(f"<b>{how}</b>")

    def _show_grid(self, slide: SlideState, grid: PatchGrid) -> None:
        size, area = f"{grid.patch_size_level0} px", ""
        if grid.slide_mpp is not None:
            side = grid.patch_size_level0 * grid.slide_mpp
            size, area = f"{side:.0f} µm", f", {len(grid) * side**2 / 1e6:.1f} mm²"
        self._say_count(f"<b>{len(grid)}</b> patches of {size} on tissue{area}")
        self.set_summary(f"{slide.name}, {len(grid)} patches")

    def _enable_previews(self, slide: SlideState | None) -> None:
        can = slide is not None and slide.can_be_cut
        tips = ("Outlines what was found as tissue", "Tints the patches like a chessboard")
        for box, tip in zip((self.show_tissue, self.show_patches), tips, strict=True):
            box.setEnabled(can)
            box.setToolTip(tip if can or slide is None else _NEEDS_SIZE)

    def _say_count(self, text: str) -> None:
        self.count.setText(text)
        self.count.setVisible(bool(text))

    def _choose(self, index: int) -> None:
        if 0 <= index < len(self._slides):
            self.slide_chosen.emit(self._slides[index])

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
        every = QPushButton("List…")
        every.setToolTip("All regions of the slide with name, class and area, and more tools")
        every.clicked.connect(self.regions_wanted)
        include.clicked.connect(lambda: self.region_wanted.emit("include"))
        exclude.clicked.connect(lambda: self.region_wanted.emit("exclude"))
        bring.clicked.connect(self._browse_regions)
        for button in (include, exclude, bring, every):
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

    def _browse_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A slide that is a folder")
        if folder:
            self.folder_wanted.emit(folder)

    def _browse_regions(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Import regions", "", "GeoJSON (*.geojson *.json);;All files (*)"
        )
        if path:
            self.regions_file_chosen.emit(path)
