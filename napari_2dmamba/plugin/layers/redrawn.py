"""Layers whose data change many times a second, where they are."""

from weakref import WeakMethod

from napari.layers import Layer
from qtpy.QtCore import QCoreApplication, QTimer

_REST = 500  # milliseconds without a change, after which the thumbnail is made


class Redrawn(Layer):
    """A layer that can be drawn again without what napari does besides at every change.

    napari slices a changed layer in the background, asks for its thumbnail as soon as it has the
    slice, and paints the list of all layers for the thumbnail: several times what drawing costs,
    where the data are small. Here thumbnails wait until the layer rests.
    """

    _resting: QTimer | None = None

    def redraw(self) -> None:
        """Draw data that were changed in place and cover what they covered before."""
        if not self.loaded:
            self.refresh()  # a slice of older data is on its way; this one comes after it
            return
        if self.visible:  # else napari takes a slice when the layer is shown
            self.set_view_slice()
            self.events.set_data()
        self._update_thumbnail()

    def make_thumbnail(self) -> None:
        """Make the thumbnail, as `_update_thumbnail` does in napari."""
        raise NotImplementedError

    def _update_thumbnail(self) -> None:
        if QCoreApplication.instance() is None:
            self.make_thumbnail()
            return
        if self._resting is None:
            self._resting = QTimer()
            self._resting.setSingleShot(True)
            self._resting.setInterval(_REST)
            reference = WeakMethod(self.make_thumbnail)  # the timer is not to keep the layer

            def make() -> None:
                if (make_thumbnail := reference()) is not None:
                    make_thumbnail()

            self._resting.timeout.connect(make)
        self._resting.start()
