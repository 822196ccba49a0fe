"""How strongly the view magnifies, in the words of a microscope."""

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from napari_2dmamba.plugin.session import Session

PRESETS = (1, 5, 10, 20, 40)

MICRONS_PER_PIXEL_AT_1X = 10.0
"""The convention of slide scanners: a 10x objective gives 1 µm per pixel."""


def objective(zoom: float, device_pixel_ratio: float = 1.0) -> float:
    """Return the objective that would show as much, for a camera in µm.

    Parameters
    ----------
    zoom
        Canvas pixels per µm.
    device_pixel_ratio
        Screen pixels per canvas pixel.
    """
    return MICRONS_PER_PIXEL_AT_1X * zoom * device_pixel_ratio


def zoom_for(objective_power: float, device_pixel_ratio: float = 1.0) -> float:
    """Return the camera zoom for an objective: the inverse of `objective`."""
    return objective_power / MICRONS_PER_PIXEL_AT_1X / device_pixel_ratio


class MagnificationBar(QWidget):
    """Readout of the magnification, with buttons for the usual objectives.

    The owner calls `refresh` when the camera or the layers change.
    """

    def __init__(self, session: "Session", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self._viewer = session.viewer
        self.readout = QLabel()
        self.readout.setObjectName("magnification")
        self.buttons: dict[int, QPushButton] = {}
        row = QHBoxLayout()
        row.setSpacing(3)
        fit = QPushButton("Fit")
        fit.setToolTip("Show the whole slide")
        fit.clicked.connect(session.fit)
        for power in PRESETS:
            button = QPushButton(f"{power}×")
            button.clicked.connect(lambda _=False, p=power: self.set_objective(p))
            self.buttons[power] = button
        for button in (fit, *self.buttons.values()):
            button.setMinimumWidth(30)
            row.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addWidget(self.readout)
        layout.addLayout(row)
        self.refresh()

    def set_objective(self, power: float) -> None:
        """Zoom to an objective about the centre of the view."""
        self._viewer.scene.camera.zoom = zoom_for(power, self.devicePixelRatioF())
        self.refresh()

    def refresh(self) -> None:
        """Show the present magnification."""
        slide = self._session.current
        zoom, ratio = self._viewer.scene.camera.zoom, self.devicePixelRatioF()
        on_ground = slide is not None and slide.slide.georeference is not None
        in_microns = slide is not None and slide.slide.mpp is not None and not on_ground
        for power, button in self.buttons.items():
            button.setEnabled(in_microns)
            button.setToolTip(
                f"Show {MICRONS_PER_PIXEL_AT_1X / power:g} µm per screen pixel"
                if in_microns
                else "Objectives mean nothing on a georeferenced image"
                if on_ground
                else "Needs a slide with a known µm per pixel"
            )
        if slide is None:
            text = "No slide open"
        elif in_microns:
            text = f"<b>{objective(zoom, ratio):.3g}×</b> · {1 / (zoom * ratio):.3g} µm per pixel"
        elif on_ground and slide.slide.mpp is not None:
            text = f"<b>{1e-6 / (zoom * ratio):.3g} m</b> of ground per pixel"
        else:
            text = f"<b>{100 * zoom * ratio:.3g} %</b> of full resolution · µm per pixel unknown"
        self.readout.setText(text)
