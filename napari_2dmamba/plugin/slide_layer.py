"""A slide as napari layers: the pyramid, its size in µm, and the slide behind it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Layer

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.slide import Slide

SLIDE_KEY = "slide"
"""``layer.metadata["slide"]`` holds the `Slide` the layer shows."""

_CHANNEL_COLOURS = {
    1: ("gray",),
    2: ("green", "magenta"),
    3: ("red", "green", "blue"),
}
_MORE_CHANNEL_COLOURS = ("blue", "green", "red", "cyan", "magenta", "yellow", "gray")


class ChannelLevel:
    """One channel of a pyramid level, as the array-like a viewer needs."""

    def __init__(self, level: Any, channel: int) -> None:
        self._level = level
        self._channel = channel
        self.shape = tuple(level.shape[:2])
        self.chunks = tuple(level.chunks[:2])
        self.dtype = level.dtype
        self.ndim = 2
        self.size = int(np.prod(self.shape))

    def __getitem__(self, key: Any) -> np.ndarray:
        key = key if isinstance(key, tuple) else (key,)
        return np.asarray(self._level[key])[..., self._channel]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:, :], dtype=dtype)


def slide_layer_data(slide: "Slide") -> list[tuple[Any, dict[str, Any], str]]:
    """Return the layer data tuples that show ``slide``: one layer, or one per channel."""
    levels = slide.pyramid()
    common = {
        "multiscale": True,
        "interpolation2d": "linear",
        "axis_labels": ("y", "x"),
        "metadata": {SLIDE_KEY: slide},
        **placement(slide.mpp),
    }
    channels = levels[0].shape[2] if len(levels[0].shape) == 3 else 1
    if slide.kind == "brightfield":
        return [(levels, {**common, "rgb": True, "name": slide.name}, "image")]
    colours = _CHANNEL_COLOURS.get(channels, _MORE_CHANNEL_COLOURS)
    tuples = []
    for channel in range(channels):
        data = [ChannelLevel(level, channel) for level in levels]
        name = slide.name if channels == 1 else f"{slide.name} channel {channel + 1}"
        shown = {
            "rgb": False,
            "name": name,
            "colormap": colours[channel % len(colours)],
            "contrast_limits": (0, 255),
            "blending": "additive" if channels > 1 else "translucent",
        }
        tuples.append((data, {**common, **shown}, "image"))
    return tuples


def placement(mpp: float | None) -> dict[str, Any]:
    """Return the scale and units of a layer in level-0 pixels of ``mpp``."""
    if mpp is None:
        return {"scale": (1.0, 1.0), "units": ("pixel", "pixel")}
    return {"scale": (mpp, mpp), "units": ("µm", "µm")}


def add_slide(viewer: "Viewer", slide: "Slide") -> list[Layer]:
    """Show ``slide`` below everything else and look at all of it."""
    layers = []
    for data, options, _ in slide_layer_data(slide):
        layer = Image(data, **options)
        layers.append(viewer.add_layer(layer))
    show_scale_bar(viewer)
    viewer.fit_to_view(layers=layers)
    return layers


def set_slide(layers: Iterable[Layer], slide: "Slide") -> None:
    """Show ``slide`` in place of the slide that ``layers`` show, after its mpp was given."""
    for layer, (data, options, _) in zip(layers, slide_layer_data(slide), strict=True):
        layer.data = data
        layer.metadata = options["metadata"]
        layer.scale = options["scale"]
        layer.units = options["units"]


def show_scale_bar(viewer: "Viewer") -> None:
    """Show a scale bar that is legible on white glass and on stained tissue."""
    bar = viewer.canvas.overlays.scale_bar
    bar.visible = True
    bar.colored = False
    bar.box = True
    bar.font_size = 12


def slide_of(layer: Layer | None) -> "Slide | None":
    """Return the slide a layer shows, or None when it shows something else."""
    if layer is None:
        return None
    from napari_2dmamba.slide import Slide

    slide = layer.metadata.get(SLIDE_KEY)
    return slide if isinstance(slide, Slide) and isinstance(layer, Image) else None


def open_slides(viewer: "Viewer") -> list["Slide"]:
    """Return the slides shown in the viewer, the uppermost first, each once."""
    slides: list[Slide] = []
    for layer in reversed(viewer.layers):
        slide = slide_of(layer)
        if slide is not None and slide not in slides:
            slides.append(slide)
    return slides


def layers_of(viewer: "Viewer", slide: "Slide") -> list[Layer]:
    """Return the layers that show ``slide``, the lowest first."""
    return [layer for layer in viewer.layers if slide_of(layer) is slide]
