"""The section *Features*: computed from the slide, or read from a file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QRadioButton

from napari_2dmamba.features import FeatureFileSettings, FeatureSettings
from napari_2dmamba.features.encoder_facts import Wanted
from napari_2dmamba.features.encoder_names import is_known, not_taken
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.plugin.parts.encoder_form import EncoderForm
from napari_2dmamba.plugin.parts.form import Form, PathEditor
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.section import Fold, Section
from napari_2dmamba.plugin.session import Choices

_COMPUTE = "Compute from the slide"
_READ_FILE = (
    "Read from a file (.h5, .pt, .parquet, .h5ad, .zarr)",
    "As CLAM, TRIDENT or LazySlide write it, or a table",
)
_READ_FOLDER = (
    "Read from a folder",
    "With one .h5, .pt, .parquet, .h5ad or .zarr per slide, named like it",
)
_OF_CHECKPOINT = "The checkpoint was trained on it"


class FeaturesSection(Section):
    """Where the features of the patches come from.

    Parameters
    ----------
    of_many
        Features of many slides are read from a folder with one file per slide.

    Signals
    -------
    changed()
    """

    changed = Signal()

    def __init__(self, *, of_many: bool = False) -> None:
        super().__init__("Features", is_open=False)
        self._is_asked = False
        self._facts_of: Path | None = None  # the file that the facts are about
        self.compute = QRadioButton("Compute from the slides" if of_many else _COMPUTE)
        text, more = _READ_FOLDER if of_many else _READ_FILE
        self.from_file = QRadioButton(text)
        self.from_file.setToolTip(more)
        self.encoder_form = EncoderForm()
        files = "Features (*.h5 *.hdf5 *.pt *.parquet *.h5ad);;All files (*)"
        store = "" if of_many else "A folder (.zarr of LazySlide or SpatialData)…"
        self.file = PathEditor("Features", files, folder=of_many, or_folder=store)
        self.stated = Message()
        self.asked = Message()
        self.facts_form: Form[FeatureFileSettings] = Form(FeatureFileSettings)
        self.facts_form.changed.connect(self._follow)
        for widget in (
            self.compute, self.stated, self.encoder_form, self.from_file, self.file, self.asked,
            self.facts_form,
        ):  # fmt: skip
            self.body.addWidget(widget)
        self.compute.setChecked(True)
        self.compute.toggled.connect(self._follow)
        self.encoder_form.changed.connect(self._follow)
        self.file.changed.connect(self._choose_file)
        self._follow()

    @property
    def settings(self) -> FeatureSettings:
        """How to compute features."""
        return self.encoder_form.settings()

    @property
    def feature_file(self) -> Path | None:
        """The file to read instead, or None."""
        path = self.file.get() if self.from_file.isChecked() else None
        return None if path is None else Path(path)

    @property
    def chosen_file(self) -> Path | None:
        """The file that is named, whether it is to be read or not."""
        path = self.file.get()
        return Path(path) if path else None

    @property
    def facts(self) -> FeatureFileSettings:
        """What the user says of the patches of the file."""
        return self.facts_form.settings()

    def ask(self, missing: Sequence[str]) -> None:
        """Ask for what a file does not say: fields of `FeatureFileSettings`; none asks nothing."""
        if not missing:
            return
        self._is_asked = True
        self.asked.say(
            "The file does not say how wide its patches are: give their size on level 0, or their "
            "size and resolution, as they were cut; then run again",
            "warning",
        )
        for fold in self.facts_form.findChildren(Fold):
            fold.set_open(True)
        self.set_open(True)
        self._follow()

    def _choose_file(self) -> None:
        """Take another file, of which nothing was said yet."""
        if self.chosen_file == self._facts_of:
            return
        self._facts_of = self.chosen_file
        self._is_asked = False
        self.asked.clear()
        self.facts_form.blockSignals(True)
        self.facts_form.set_settings(FeatureFileSettings())
        self.facts_form.blockSignals(False)
        self._follow()

    def show_choices(self, choices: Choices) -> None:
        """Show what was chosen for another slide."""
        self.blockSignals(True)
        self.encoder_form.set_settings(choices.features)
        self._facts_of = choices.feature_file
        self.file.set(choices.feature_file)
        self.facts_form.set_settings(choices.feature_facts)
        (self.from_file if choices.from_file else self.compute).setChecked(True)
        self.blockSignals(False)

    def follow_checkpoint(self, header: CheckpointHeader | None) -> None:
        """Choose the encoder a checkpoint states where it is known here; else only show it.

        A checkpoint may be from anyone, and other names may stand for programs.
        """
        self.stated.clear()
        encoder = None if header is None else header.encoder
        wanted = None
        if header is not None:
            wanted = Wanted(encoder, header.config["feature_size"], header.mpp)
        self.encoder_form.want(wanted, _OF_CHECKPOINT)
        if encoder is not None and is_known(encoder):
            self.encoder_form.set_settings(replace(self.settings, encoder=encoder))
        elif encoder is not None and encoder != self.settings.encoder:
            self.stated.say(not_taken(encoder), "warning")
            self.set_open(True)

    def show_facts(self) -> None:
        """Show what is known of the encoder by now, such as its speed."""
        self.encoder_form.show_facts()

    def _follow(self) -> None:
        from_file = self.from_file.isChecked()
        self.encoder_form.setVisible(not from_file)
        self.file.setVisible(from_file)
        told = self.facts != FeatureFileSettings()
        self.facts_form.setVisible(from_file and (self._is_asked or told))
        self.asked.setVisible(from_file and self._is_asked and not told)
        if from_file:
            path = self.file.get()
            self.set_summary(Path(path).name if path else "nothing chosen")
        else:
            self.set_summary(self.settings.encoder)
        self.changed.emit()
