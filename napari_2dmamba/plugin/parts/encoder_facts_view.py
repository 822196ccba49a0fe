"""The facts of the chosen encoder, in a few lines below the choice."""

import html

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QWidget

from napari_2dmamba.features import FeatureSettings
from napari_2dmamba.features.encoder_facts import Wanted, against, facts_of
from napari_2dmamba.features.encoder_speed import latest_speed

WANTED = "Wanted"
"""The row about what wants an encoder; the view calls it by its name."""
NOT_MEASURED = "not measured here yet"
_ROWS = ("Needs", "Licence", "Size", "Features", "Input", WANTED, "Speed here")
_UNKNOWN = "not in the lists here: see where it comes from"
_LOOKS = {True: "color: #1d7a3a;", False: "color: #b4540a; font-weight: bold;", None: ""}


class EncoderFactsView(QWidget):
    """What the encoder needs, its licence, size, features and input, and its speed here.

    Parameters
    ----------
    wanted_by
        What may want a certain encoder.
    nothing_wanted
        What is said while nothing does.
    """

    def __init__(self, wanted_by: str, nothing_wanted: str) -> None:
        super().__init__()
        self._nothing_wanted = nothing_wanted
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 2)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(1)
        grid.setColumnStretch(1, 1)
        self._values: dict[str, QLabel] = {}
        self._names: dict[str, QLabel] = {}
        for row, name in enumerate(_ROWS):
            title, value = QLabel(wanted_by if name == WANTED else name), QLabel()
            value.setWordWrap(True)
            value.setOpenExternalLinks(True)
            value.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
            top = Qt.AlignmentFlag.AlignTop
            grid.addWidget(title, row, 0, top)
            grid.addWidget(value, row, 1, top)
            self._names[name], self._values[name] = title, value

    def text(self, row: str) -> str:
        """Return what stands in a row, such as ``"Licence"`` or `WANTED`."""
        return self._values[row].text()

    def show_facts(self, settings: FeatureSettings, wanted: Wanted | None) -> None:
        """Show the facts of an encoder beside what is wanted; None where nothing is."""
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
        agrees, verdict = None, self._nothing_wanted
        if wanted is not None:
            agrees, verdict = against(name, wanted)
        said[WANTED] = html.escape(verdict)
        speed = latest_speed(name, settings.device, settings.precision)
        said["Speed here"] = NOT_MEASURED if speed is None else html.escape(speed.words)
        for row, text in said.items():
            self._values[row].setText(text)
            for label in (self._names[row], self._values[row]):
                label.setVisible(bool(text))
        self._values[WANTED].setStyleSheet(_LOOKS[agrees])
