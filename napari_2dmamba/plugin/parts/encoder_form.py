"""How features are computed, with the facts of the encoder below the choice of it."""

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_2dmamba.features import FeatureSettings
from napari_2dmamba.features.encoder_facts import Wanted, about_encoder, facts_of
from napari_2dmamba.features.encoder_names import grouped_encoders
from napari_2dmamba.plugin.parts.encoder_facts_view import EncoderFactsView
from napari_2dmamba.plugin.parts.form import Form, SuggestEditor
from napari_2dmamba.plugin.parts.message import Message


def _suggestions() -> dict[str, dict[str, str]]:
    """Return the encoders by what they ask of the user, each with its facts."""
    return {
        access.value: {name: about_encoder(name) or "From an installed package" for name in names}
        for access, names in grouped_encoders().items()
    }


class EncoderForm(QWidget):
    """The form of `FeatureSettings`, which suggests the encoders known here and tells of them.

    Parameters
    ----------
    wanted_by
        What may want a certain encoder, as the facts call it.
    nothing_wanted
        What the facts say while nothing does; "" says nothing.

    Signals
    -------
    changed()
    """

    changed = Signal()

    def __init__(self, wanted_by: str = "Checkpoint", nothing_wanted: str = "none is open") -> None:
        super().__init__()
        self.form: Form[FeatureSettings] = Form(
            FeatureSettings,
            choices={"device": ("auto", "cuda", "cpu")},
            suggestions={"encoder": _suggestions()},
            files=("weights",),
        )
        self.facts = EncoderFactsView(wanted_by, nothing_wanted)
        self.form.put_below("encoder", self.facts)
        self.to_do = Message()
        self._wanted: Wanted | None = None
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.form)
        layout.addWidget(self.to_do)
        self.form.changed.connect(self._follow)
        self.show_facts()

    def settings(self) -> FeatureSettings:
        """Return how to compute features."""
        return self.form.settings()

    def set_settings(self, settings: FeatureSettings) -> None:
        """Show settings."""
        self.form.set_settings(settings)
        self.show_facts()

    def want(self, wanted: Wanted | None, mark: str = "") -> None:
        """Compare with what is wanted; ``mark`` says why its encoder stands out in the list."""
        self._wanted = wanted
        editor = self.form.editor("encoder")
        assert isinstance(editor, SuggestEditor)
        editor.mark(None if wanted is None else wanted.encoder, mark)
        self.show_facts()

    def show_facts(self) -> None:
        """Show the facts of the encoder, and what is to be done before it can be used."""
        settings = self.settings()
        self.facts.show_facts(settings, self._wanted)
        facts = facts_of(settings.encoder)
        to_do = "" if facts is None else facts.to_do(has_weights=settings.weights is not None)
        if to_do:
            self.to_do.say(to_do, "warning")
        else:
            self.to_do.clear()

    def _follow(self) -> None:
        self.show_facts()
        self.changed.emit()
