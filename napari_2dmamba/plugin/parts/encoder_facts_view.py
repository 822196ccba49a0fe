"""The facts of the chosen encoder, in a few lines below the choice."""

import html

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QWidget

from napari_2dmamba.features import FeatureSettings
from napari_2dmamba.features.encoder_facts import against_checkpoint, facts_of
from napari_2dmamba.features.encoder_speed import latest_speed

NOT_MEASURED = "not measured here yet"
_ROWS = ("Needs", "Licence", "Size", "Features", "Input", "Checkpoint", "Speed here")
_UNKNOWN = "not in the lists here: see where it comes from"
_LOOKS = {True: "color: #1d7a3a;", False: "color: #b4540a; font-weight: bold;", None: ""}


class EncoderFactsView(QWidget):
    """What the encoder needs, its licence, size, features and input, and its speed here."""

    def __init__(self) -> None:
        super().__init__()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 2)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(1)
        grid.setColumnStretch(1, 1)
        self._values: dict[str, QLabel] = {}
        self._names: dict[str, QLabel] = {}
        for row, name in enumerate(_ROWS):
            title, value = QLabel(name), QLabel()
            value.setWordWrap(True)
            value.setOpenExternalLinks(True)
            value.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
            top = Qt.AlignmentFlag.AlignTop
            grid.addWidget(title, row, 0, top)
            grid.addWidget(value, row, 1, top)
            self._names[name], self._values[name] = title, value

    def text(self, row: str) -> str:
        """Return what stands in a row, such as ``"Licence"``."""
        return self._values[row].text()

    def show_facts(
        self, settings: FeatureSettings, wanted: tuple[str | None, int | None, float | None] | None
    ) -> None:
        """Show the facts of an encoder.

        Parameters
        ----------
        wanted
            Encoder, number of features and µm per pixel that the open checkpoint states, each
            None where it does not; None without a checkpoint.
        """
        name = settings.encoder
        facts = facts_of(name)
        if facts is None:
            said = dict.fromkeys(("Needs", "Licence", "Size", "Features", "Input"), "")
            said["Needs"] = _UNKNOWN
        else:
            licence = html.escape(facts.licence)
            if facts.page:
                licence += f' · <a href="{html.escape(facts.page)}">its page</a>'
            said = {
                "Needs": facts.needs(has_weights=settings.weights is not None),
                "Licence": licence,
                "Size": facts.size_words,
                "Features": f"{facts.feature_size} per patch",
                "Input": facts.input_words,
            }
        agrees, verdict = (None, "none is open") if wanted is None else against_checkpoint(
            name, *wanted
        )  # fmt: skip
        said["Checkpoint"] = html.escape(verdict)
        speed = latest_speed(name, settings.device, settings.precision)
        said["Speed here"] = NOT_MEASURED if speed is None else html.escape(speed.words)
        for row, text in said.items():
            self._values[row].setText(text)
            for label in (self._names[row], self._values[row]):
                label.setVisible(bool(text))
        self._values["Checkpoint"].setStyleSheet(_LOOKS[agrees])
