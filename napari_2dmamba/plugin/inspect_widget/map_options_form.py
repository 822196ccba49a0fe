"""How maps of a patch are computed: which layer, and how channels become one number."""

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QSpinBox, QWidget

from napari_2dmamba.explain.inspection import Inspection, MapOptions
from napari_2dmamba.explain.outcome import Target
from napari_2dmamba.models.header import CheckpointHeader

_ONE = "one"
_CHANNELS = {
    "absolute": "Mean of absolute values",
    "mean": "Mean with sign",
    _ONE: "One channel",
}


class MapOptionsForm(QWidget):
    """The answer that is explained, the layer, and the channels.

    Signals
    -------
    changed()
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.target = QComboBox()
        self.target.setToolTip("What the maps of the slide's answer are about")
        self.layer = QComboBox()
        self.layer.setToolTip(
            "Maps of a patch are about what leaves this layer of the model; provenance is that of "
            "its scan"
        )
        self.channels = QComboBox()
        self.channels.setToolTip("How provenance makes one number of the channels of a scan")
        for key, title in _CHANNELS.items():
            self.channels.addItem(title, key)
        self.channel = QSpinBox()
        self.channel.setAccessibleName("Number of the channel")
        self.channel.hide()
        for box in (self.target, self.layer, self.channels):  # long names must not widen the dock
            box.setSizeAdjustPolicy(
                QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
            )
            box.setMinimumContentsLength(8)
        row = QHBoxLayout()
        row.addWidget(self.channels, 1)
        row.addWidget(self.channel)
        self.rows = QFormLayout(self)
        self.rows.setContentsMargins(0, 0, 0, 0)
        self.rows.addRow("Answer explained", self.target)
        self.rows.addRow("Layer", self.layer)
        self.rows.addRow("Channels", row)
        self._channels_row = row
        self.target.currentIndexChanged.connect(self._on_change)
        self.layer.currentIndexChanged.connect(self._on_change)
        self.channels.currentIndexChanged.connect(self._on_change)
        self.channel.valueChanged.connect(self._on_change)

    def offer(self, inspected: Inspection) -> None:
        """Offer what the model of a run has; nothing is said to have changed."""
        self.blockSignals(True)
        self.target.clear()
        for title, target in _targets(inspected.subject.header):
            self.target.addItem(title, target)
        depth = inspected.subject.layers
        self.layer.clear()
        for number in range(depth, 0, -1):
            title = f"{number} of {depth}" + (" (the last)" if 1 < depth == number else "")
            self.layer.addItem(title, number - 1)
        self.rows.setRowVisible(self.layer, depth > 1)
        scan = inspected.provenance
        self.rows.setRowVisible(self._channels_row, scan is not None)
        if scan is not None:
            self.channel.setRange(0, scan.channels - 1)
        self.channel.setVisible(self.channels.currentData() == _ONE)
        self.blockSignals(False)

    @property
    def how(self) -> MapOptions:
        """What is chosen."""
        channels = self.channels.currentData()
        return MapOptions(
            self.target.currentData(),
            int(self.layer.currentData() or 0),
            self.channel.value() if channels == _ONE else channels,
        )

    def _on_change(self) -> None:
        self.channel.setVisible(self.channels.currentData() == _ONE)
        self.changed.emit()


def _targets(header: CheckpointHeader) -> list[tuple[str, Target]]:
    found: list[tuple[str, Target]] = [("The prediction", None)]
    if header.task == "survival":
        found = [("The risk", None)]
        if len(header.class_names) == 1:
            return found
    return found + [(name, number) for number, name in enumerate(header.class_names)]
