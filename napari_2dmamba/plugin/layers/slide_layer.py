"""A slide as napari layers: the pyramid, its size in µm, and the slide behind it."""

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
"""``layer.metadata["slide"]`` holds the `Slide` the layer shows or lies on."""

REGION_KEY = "2dmamba region"
"""``layer.metadata`` holds the role of a region layer under this name."""

CHANNEL_KEY = "channel"
"""Number of the channel that a layer of a slide shows; None for colours."""

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
    if slide.kind in ("brightfield", "georeferenced"):
        metadata = {SLIDE_KEY: slide, CHANNEL_KEY: None}
        options = {**common, "rgb": True, "name": slide.name, "metadata": metadata}
        return [(slide.pyramid(), options, "image")]
    alone = len(slide.channels) == 1
    tuples = []
    for index, channel in enumerate(slide.channels):
        options = {
            **common,
            "rgb": False,
            "name": slide.name if alone else f"{slide.name}: {channel.name}",
            "metadata": {SLIDE_KEY: slide, CHANNEL_KEY: index},
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


def view_region(viewer: "Viewer", unit: float) -> tuple[int, int, int, int]:
    """Return what the window shows as ``(x, y, width, height)`` in level-0 pixels.

    May reach beyond the slide. ``unit`` is the size of a pixel in the world.
    """
    camera = viewer.scene.camera
    height, width = (side / camera.zoom / unit for side in viewer.canvas.size)
    center_y, center_x = (center / unit + 0.5 for center in camera.center[-2:])
    left, top = round(center_x - width / 2), round(center_y - height / 2)
    return left, top, round(width), round(height)
