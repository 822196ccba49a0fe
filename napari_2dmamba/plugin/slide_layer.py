"""A slide as napari layers: the pyramid, its size in µm, and the slide behind it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from napari.layers import Image, Layer
from napari.utils import Colormap
from napari.utils.notifications import show_warning

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_2dmamba.slide import Slide
    from napari_2dmamba.slide.backend import Channel

SLIDE_KEY = "slide"
"""``layer.metadata["slide"]`` holds the `Slide` the layer shows."""

_CHANNEL_COLOURS = ("red", "green", "blue", "cyan", "magenta", "yellow", "gray")

_reported: "WeakSet[Slide]" = WeakSet()


def slide_layer_data(slide: "Slide") -> list[tuple[Any, dict[str, Any], str]]:
    """Return the layer data tuples that show ``slide``: one layer, or one per channel."""
    common = {
        "multiscale": True,
        "interpolation2d": "linear",
        "axis_labels": ("y", "x"),
        **placement(slide.mpp),
    }
    if slide.kind == "brightfield":
        metadata = {SLIDE_KEY: slide}
        options = {**common, "rgb": True, "name": slide.name, "metadata": metadata}
        return [(slide.pyramid(), options, "image")]
    alone = len(slide.channels) == 1
    tuples = []
    for index, channel in enumerate(slide.channels):
        options = {
            **common,
            "rgb": False,
            "name": slide.name if alone else f"{slide.name}: {channel.name}",
            "metadata": {SLIDE_KEY: slide},
            "colormap": "gray" if alone else _colormap(channel, index),
            "contrast_limits": slide.contrast_limits(index),
            "blending": "translucent" if alone else "additive",
        }
        tuples.append((slide.pyramid(index), options, "image"))
    return tuples


def _colormap(channel: "Channel", index: int) -> Any:
    if channel.color is None:
        return _CHANNEL_COLOURS[index % len(_CHANNEL_COLOURS)]
    return Colormap([(0, 0, 0), channel.color], name=channel.name)


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
        watch_reading(layer)
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


def watch_reading(layer: Layer) -> None:
    """Notify the user once when tiles of the slide cannot be decoded."""
    layer.events.set_data.disconnect(_report_read_problems)
    layer.events.set_data.connect(_report_read_problems)


def _report_read_problems(event: Any) -> None:
    slide = slide_of(event.source)
    if slide is None or slide in _reported or not slide.read_problems:
        return
    _reported.add(slide)
    count = len(slide.read_problems)
    tiles = "A tile" if count == 1 else f"{count} tiles"
    show_warning(
        f"{tiles} of {slide.name} cannot be decoded and shown as background: the file is "
        "damaged; copy or export it again"
    )


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


def view_region(viewer: "Viewer", slide: "Slide") -> tuple[int, int, int, int]:
    """Return what the window shows as ``(x, y, width, height)`` in level-0 pixels.

    May reach beyond the slide.
    """
    unit = slide.mpp or 1.0
    camera = viewer.scene.camera
    height, width = (side / camera.zoom / unit for side in viewer.canvas.size)
    center_y, center_x = (center / unit + 0.5 for center in camera.center[-2:])
    left, top = round(center_x - width / 2), round(center_y - height / 2)
    return left, top, round(width), round(height)
