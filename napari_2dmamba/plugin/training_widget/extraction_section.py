"""The section *Features*: how slides that have none get them before the training."""

from dataclasses import replace

from napari_2dmamba.features import FeatureSettings
from napari_2dmamba.features.encoder_facts import Wanted
from napari_2dmamba.features.encoder_names import is_known
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.plugin.parts.encoder_form import EncoderForm
from napari_2dmamba.plugin.parts.form import Form
from napari_2dmamba.plugin.parts.message import Message
from napari_2dmamba.plugin.parts.section import Section
from napari_2dmamba.plugin.session.preferences import preference
from napari_2dmamba.plugin.training_widget.plan import Checked
from napari_2dmamba.slide import GridSettings


class ExtractionSection(Section):
    """Shown while a table has slides without features."""

    def __init__(self) -> None:
        super().__init__("Features")
        self.message = Message()
        self.encoder_form = EncoderForm("Other slides", nothing_wanted="")
        device = preference("analysis", "device", FeatureSettings().device)
        self.encoder_form.set_settings(replace(self.encoder_form.settings(), device=device))
        self.grid_form: Form[GridSettings] = Form(GridSettings)
        self._checked: Checked | None = None
        for widget in (self.message, self.encoder_form, self.grid_form):
            self.body.addWidget(widget)
        self.encoder_form.changed.connect(self._say)
        self.grid_form.changed.connect(self._say)
        self.hide()

    def settings(self) -> RunSettings:
        """Return how the slides are cut and encoded."""
        return RunSettings(grid=self.grid_form.settings(), features=self.encoder_form.settings())

    def show_checked(self, checked: Checked | None) -> None:
        """Say how many slides are to be extracted, alike to those that have features."""
        new = checked is not None and (
            self._checked is None or self._checked.features != checked.features
        )
        self._checked = checked
        there = None if checked is None else checked.features
        wanted = None
        if there is not None:
            wanted = Wanted(there.encoder, there.feature_size, there.mpp, "slides")
        self.encoder_form.want(wanted, "The features of the other slides are its")
        self.setVisible(checked is not None and bool(checked.to_extract))
        if there is not None and new:
            self.grid_form.set_settings(GridSettings().trained_for(there))
            if there.encoder is not None and is_known(there.encoder):
                settings = replace(self.encoder_form.settings(), encoder=there.encoder)
                self.encoder_form.set_settings(settings)
        self._say()

    def _say(self) -> None:
        checked = self._checked
        if checked is None or not checked.to_extract:
            return
        count = len(checked.to_extract)
        self.set_summary(f"{count} slide{'s' * (count != 1)} to extract")
        words = (
            f"{count} of {len(checked.table)} slides {'have' if count != 1 else 'has'} no "
            "features: Train extracts them first, into the folder features of the training, and "
            "takes what is there already. If they lie elsewhere, name the folder under Table and "
            "task, How it is read"
        )
        differs = self._difference(checked)
        self.message.say(f"{words}. {differs}" if differs else words, "warning")

    def _difference(self, checked: Checked) -> str:
        """Return in what the features would differ from those that are there, or nothing."""
        from napari_2dmamba.models.fit import MPP_TOLERANCE

        there, grid = checked.features, self.grid_form.settings()
        if there is None:
            return ""
        differ = []
        encoder = self.encoder_form.settings().encoder
        if there.encoder not in (None, encoder):
            differ.append(f"encoder {encoder} here, {there.encoder} there")
        if there.patch_size not in (None, grid.patch_size):
            differ.append(f"patch size {grid.patch_size} here, {there.patch_size} there")
        mpp = there.mpp
        if mpp is not None and abs(grid.target_mpp - mpp) > MPP_TOLERANCE * mpp:
            differ.append(f"resolution {grid.target_mpp:g} µm/px here, {mpp:g} there")
        if not differ:
            return ""
        return (
            f"The features of the other slides differ ({'; '.join(differ)}), and a training takes "
            "features of one kind: choose the same"
        )
