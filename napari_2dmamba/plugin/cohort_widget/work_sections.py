"""The sections *Tissue and patches* and *Results and workers*."""

import importlib.util
from dataclasses import replace
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QLabel, QPushButton

from napari_2dmamba.cohort import CohortSettings
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.plugin.parts.form import Form, PathEditor
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.section import Fold, Section
from napari_2dmamba.slide import GridSettings, TissueSettings


class PatchesSection(Section):
    """How every slide is cut into patches."""

    def __init__(self) -> None:
        super().__init__("Tissue and patches", is_open=False)
        self._trained: CheckpointHeader | None = None
        self.grid_form: Form[GridSettings] = Form(GridSettings)
        self.tissue_form: Form[TissueSettings] = Form(TissueSettings)
        self.pixels_form: Form[RunSettings] = Form(RunSettings)
        self.pixels_form.setToolTip(
            "The µm/px of single slides can be given in the column mpp of a .csv list instead"
        )
        self.body.addWidget(self.grid_form)
        self.body.addWidget(self.pixels_form)
        self.body.addWidget(Fold("Tissue", self.tissue_form))
        self.regions = PathEditor("Regions of the slides", folder=True)
        within = QLabel("Only within regions: a folder with one GeoJSON file per slide")
        within.setWordWrap(True)
        within.setToolTip(
            "Called like the slide, x.geojson for x.svs. A single file holds for all slides, and "
            "the column regions of a .csv list names a file for one"
        )
        self.body.addWidget(within)
        self.body.addWidget(self.regions)
        self.grid_form.changed.connect(self._follow)
        self._follow()

    def follow_checkpoint(self, header: CheckpointHeader) -> None:
        """Take the patches that a model was trained on."""
        grid = self.grid_form.settings().trained_for(header, before=self._trained)
        self.grid_form.set_settings(grid)
        self._trained = header

    def settings(self) -> RunSettings:
        """Return the settings shown, features and model at their defaults."""
        grid, tissue = self.grid_form.settings(), self.tissue_form.settings()
        return replace(self.pixels_form.settings(), grid=grid, tissue=tissue)

    def set_settings(self, settings: RunSettings) -> None:
        """Show settings, those of features and model left aside."""
        self.tissue_form.set_settings(settings.tissue)
        self.pixels_form.set_settings(settings)
        if settings.grid is not None:
            self.grid_form.set_settings(settings.grid)

    def _follow(self) -> None:
        grid = self.grid_form.settings()
        self.set_summary(f"{grid.patch_size} px at {grid.target_mpp:g} µm/px")


class OutputSection(Section):
    """Where the results go, and who does the work.

    Signals
    -------
    out_changed(folder)
    cohort_wanted(folder)
        A cohort that is there already is to be shown.
    """

    out_changed = Signal(object)
    cohort_wanted = Signal(str)

    def __init__(self) -> None:
        super().__init__("Results and workers")
        self._is_own_choice = False
        self.about = QLabel("Folder for the results: one folder per slide and a table.")
        self.about.setWordWrap(True)
        self.out = PathEditor("A folder for the results", folder=True)
        self.out.changed.connect(self._choose)
        self.open = QPushButton("Open a cohort…")
        self.open.setToolTip("Show the table of a folder that holds results already")
        self.open.clicked.connect(self._browse)
        self.form: Form[CohortSettings] = Form(CohortSettings, leave_out=("apart",))
        self.message = Message()
        for widget in (self.about, self.out, self.open, self.form, self.message):
            self.body.addWidget(widget)
        self._has_dask = importlib.util.find_spec("distributed") is not None
        if not self._has_dask:
            self.message.say(
                "Dask is not installed, so slides are done one by one in the process of this "
                'window; for processes of their own: pip install "napari-2dmamba[cohort]"',
                "warning",
            )

    @property
    def settings(self) -> CohortSettings:
        """How the work is shared out; in processes of their own wherever that is possible."""
        return replace(self.form.settings(), apart=self._has_dask)

    @property
    def folder(self) -> Path | None:
        """Where the results go."""
        path = self.out.get()
        return None if path is None else Path(path)

    def suggest(self, folder: Path) -> None:
        """Fill in a folder, unless the user chose one."""
        if not self._is_own_choice:
            self._set(folder)

    def set_folder(self, folder: Path) -> None:
        """Fill in a folder for good."""
        self._is_own_choice = True
        self._set(folder)

    def _set(self, folder: Path) -> None:
        self.out.set(folder)
        self.set_summary(folder.name)
        self.out_changed.emit(folder)

    def _choose(self) -> None:
        folder = self.folder
        self._is_own_choice = folder is not None
        self.set_summary("" if folder is None else folder.name)
        self.out_changed.emit(folder)

    def _browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A cohort's folder", str(self.folder or ""))
        if folder:
            self.cohort_wanted.emit(folder)
