"""Layers whose data change many times a second, where they are."""

from weakref import WeakSet

from napari.layers import Layer
from qtpy.QtCore import QCoreApplication, QObject, QTimer

_REST = 500  # milliseconds without a change, after which thumbnails are made


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
        application = QCoreApplication.instance()
        if application is None:
            self.make_thumbnail()
            return
        thumbnails = application.findChild(_Thumbnails) or _Thumbnails(application)
        thumbnails.make_later(self)


class _Thumbnails(QObject):
    """Makes the thumbnails of layers that have changed, once none of them changes any more.

    One timer for all, which the application owns: a timer of a layer's own would go with the
    layer, in the middle of its own call where that held the layer last.
    """

    def __init__(self, application: QCoreApplication) -> None:
        super().__init__(application)
        self._changed: WeakSet[Redrawn] = WeakSet()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REST)
        self._timer.timeout.connect(self._make)

    def make_later(self, layer: Redrawn) -> None:
        """Make the thumbnail of a layer when all rest, if the layer is still there."""
        self._changed.add(layer)
        self._timer.start()

    def _make(self) -> None:
        changed = list(self._changed)
        self._changed.clear()
        for layer in changed:
            layer.make_thumbnail()
