"""What image networks say, as layers of a slide; each layer holds the result it shows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Layer, Shapes
from napari.utils import Colormap
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.export.labels import class_colours
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.layers.line_width import LineWidths
from napari_2dmamba.plugin.layers.slide_layer import placement

if TYPE_CHECKING:
    from napari_2dmamba.pixel_fields import SlideFields
    from napari_2dmamba.plugin.session import Session, SlideState
    from napari_2dmamba.tiles.on_slide import TileMaps
    from napari_2dmamba.vision.pixel_field import PixelField
    from napari_2dmamba.vision.region import Place
    from napari_2dmamba.vision.segmentation import Segmentation

FIELD_KEY, CROP_KEY = "2dmamba pixel field", "2dmamba crop of fields"
TILES_KEY, SEGMENTS_KEY = "2dmamba tile maps", "2dmamba segmentation"
POWER = 0.2
_FIELD_COLOURS = Colormap(
    [(1, 1, 1, 0), (0.75, 0.95, 0.3, 0.35), (0.1, 0.7, 0.2, 0.75), (0, 0.22, 0.1, 0.95)],
    name="receptive field",
)
_CROP_COLOUR, _CROP_PIXELS, _CROP_SHARE = "#00d5ff", 2.5, 0.8
_PROBABILITIES = DisplaySettings(transform="raw", clip_low=0, clip_high=100, opacity=0.7)
_ONE_TEXTURE = 4096  # pixels; larger label pictures are shown as pyramids
_MOST_PROBABLE = "Most probable class"


@dataclass(frozen=True)
class ShownField:
    """A receptive field, the crop it was computed on, and the place that was asked about.

    Attributes
    ----------
    field
        What is shown.
    image
        ``(h, w, 3)`` pixels of the crop.
    at
        Level-0 ``(x, y)``.
    """

    field: "PixelField"
    image: NDArray[np.uint8]
    at: tuple[float, float]


# -- receptive fields ---------------------------------------------------------------------------


def field_layers(session: "Session", slide: "SlideState | None") -> list[Image]:
    """Return the layers of receptive fields of a slide, the first made first."""
    found = [] if slide is None else session.layers_of(slide)
    return [one for one in found if FIELD_KEY in one.metadata]


def show_fields(
    session: "Session", slide: "SlideState", found: "SlideFields", at: tuple[float, float]
) -> list[Image]:
    """Show fields over their crop; those of the same network and stage there before go."""
    names = {field.name for field in found.fields}
    for layer in field_layers(session, slide):
        if layer.metadata[FIELD_KEY].field.name in names:
            session.viewer.layers.remove(layer)
    outline_crop(session, slide, found.fields[0])
    made = []
    for field in found.fields:
        layer = Image(
            field.shown(POWER).astype(np.float32),
            name=field.name,
            rgb=False,
            colormap=_FIELD_COLOURS,
            contrast_limits=(0, 1),
            blending="translucent",
            interpolation2d="nearest",
            visible=False,
            axis_labels=("y", "x"),
            metadata={
                FIELD_KEY: ShownField(field, found.image, at),
                "meaning": f"(gradient / largest) to the power {POWER:g}, mean of "
                f"{field.crops} crops",
            },
            **_placed(field.place, slide),
        )
        session.add_layer(slide, layer)
        made.append(layer)
    look_at_field(session, slide, made[-1])
    return made


def look_at_field(session: "Session", slide: "SlideState", layer: Image) -> None:
    """Show one field with the outline of its crop, and hide what lies over it."""
    for other in session.layers_of(slide):
        if FIELD_KEY in other.metadata or isinstance(other, HeatmapLayer | Labels):
            session.set_visible(other, other is layer)
    outline_crop(session, slide, layer.metadata[FIELD_KEY].field)
    if slide is session.current:
        session.viewer.layers.selection.active = layer


def outline_crop(session: "Session", slide: "SlideState", field: "PixelField | None") -> None:
    """Draw the border of a crop in place of the one before; None only takes that away."""
    for layer in session.layers_of(slide):
        if CROP_KEY in layer.metadata:
            session.viewer.layers.remove(layer)
    if field is None:
        return
    x, y = field.place.origin_level0
    height, width = (side * field.place.step for side in field.values.shape)
    square = np.array([[0, 0], [0, 1], [1, 1], [1, 0]]) * (height, width)
    corners = square + np.array([y, x]) - 0.5
    outline = Shapes(
        [corners],
        shape_type="rectangle",
        name="Crop of the receptive field",
        metadata={CROP_KEY: True},
        face_color="transparent",
        edge_color=_CROP_COLOUR,
        opacity=1.0,
        axis_labels=("y", "x"),
        **placement(slide.slide.mpp),
    )
    session.add_layer(slide, outline)
    LineWidths.of(session.viewer).follow(outline, _CROP_PIXELS)
    outline.editable = False


def go_to_field(session: "Session", layer: Image) -> None:
    """Move the view so that the crop of a field fills most of it."""
    height, width = (
        side * scale for side, scale in zip(layer.data.shape, layer.scale, strict=True)
    )
    camera, canvas = session.viewer.scene.camera, session.viewer.canvas
    camera.zoom = _CROP_SHARE * min(canvas.size[0] / height, canvas.size[1] / width)
    top, left = layer.translate - layer.scale / 2
    camera.center = (*camera.center[:-2], top + height / 2, left + width / 2)


# -- classes of tiles ---------------------------------------------------------------------------


def tile_layers(session: "Session", slide: "SlideState | None") -> dict[str, Layer]:
    """Return the layers of a classified slide by class; the most probable class comes first."""
    found = [] if slide is None else session.layers_of(slide)
    return {one.metadata[TILES_KEY][0]: one for one in found if TILES_KEY in one.metadata}


def tile_maps(session: "Session", slide: "SlideState | None") -> "TileMaps | None":
    """Return what the layers of a classified slide show."""
    return next((one.metadata[TILES_KEY][1] for one in tile_layers(session, slide).values()), None)


def show_tiles(session: "Session", slide: "SlideState", found: "TileMaps") -> None:
    """Show a layer of answers and one of probabilities for each class, in place of those before."""
    for layer in tile_layers(session, slide).values():
        session.viewer.layers.remove(layer)
    first = replace(found.maps[0], mpp=slide.slide.mpp)
    answers = Labels(
        found.answers(),
        name="Classes of tiles",
        scale=first.scale,
        translate=first.translate,
        metadata={TILES_KEY: (_MOST_PROBABLE, found)},
        **_classes(found.classes, slide),
    )
    answers.editable = False
    for one, name in zip(found.maps, found.classes, strict=True):
        layer = HeatmapLayer(
            replace(one, mpp=slide.slide.mpp),
            _PROBABILITIES,
            name=f"Probability of {name}",
            visible=False,
            metadata={TILES_KEY: (name, found)},
        )
        session.add_layer(slide, layer)
    session.add_layer(slide, answers)
    look_at_tiles(session, slide, _MOST_PROBABLE)


def look_at_tiles(session: "Session", slide: "SlideState", name: str) -> None:
    """Show the layer of one class, and hide what would mix with it."""
    layers = tile_layers(session, slide)
    for other in session.layers_of(slide):
        if isinstance(other, HeatmapLayer | Labels) or FIELD_KEY in other.metadata:
            session.set_visible(other, other is layers.get(name))
    outline_crop(session, slide, None)
    if name in layers and slide is session.current:
        session.viewer.layers.selection.active = layers[name]


# -- segmentations ------------------------------------------------------------------------------


def segments_layer(session: "Session", slide: "SlideState | None") -> Labels | None:
    """Return the layer of a segmented slide, or None."""
    found = [] if slide is None else session.layers_of(slide)
    return next((one for one in found if SEGMENTS_KEY in one.metadata), None)


def show_segments(
    session: "Session", slide: "SlideState", found: "Segmentation", shares: Sequence[float]
) -> Labels:
    """Show the classes of pixels, and their shares of the area, in place of those before."""
    before = segments_layer(session, slide)
    if before is not None:
        session.viewer.layers.remove(before)
    levels = _levels(found.labels)
    layer = Labels(
        levels if len(levels) > 1 else levels[0],
        multiscale=len(levels) > 1,
        name="Segmentation",
        metadata={SEGMENTS_KEY: found, "shares": list(shares)},
        **_classes(found.classes, slide, found.colours),
        **{k: v for k, v in _placed(found.place, slide).items() if k != "units"},
    )
    layer.editable = False
    session.add_layer(slide, layer)
    for other in session.layers_of(slide):
        if isinstance(other, HeatmapLayer | Labels) or FIELD_KEY in other.metadata:
            session.set_visible(other, other is layer)
    outline_crop(session, slide, None)
    if slide is session.current:
        session.viewer.layers.selection.active = layer
    return layer


def hide_classes(layer: Labels, hidden: Sequence[str]) -> None:
    """Give the classes of a segmentation their colours; hidden ones are clear."""
    found = layer.metadata[SEGMENTS_KEY]
    layer.colormap = _colours(found.classes, hidden, found.colours)


def _levels(labels: NDArray[np.uint16]) -> list[NDArray[np.uint16]]:
    """Return labels and, of large ones, every 2nd, 4th, ... pixel; nothing is copied."""
    found = [labels]
    while max(labels.shape) > _ONE_TEXTURE and max(found[-1].shape) > _ONE_TEXTURE // 4:
        found.append(found[-1][::2, ::2])
    return found


def _classes(
    classes: Sequence[str], slide: "SlideState", given: Sequence[tuple[int, int, int]] = ()
) -> dict[str, Any]:
    """Return how a layer of labels shows classes: colours, names under the cursor."""
    return {
        "colormap": _colours(classes, (), given),
        "features": {"index": [0, *range(1, len(classes) + 1)], "class": ["none", *classes]},
        "units": placement(slide.slide.mpp)["units"],
        "axis_labels": ("y", "x"),
        "opacity": 0.6,
    }


def _colours(
    classes: Sequence[str], hidden: Sequence[str], given: Sequence[tuple[int, int, int]]
) -> DirectLabelColormap:
    clear = (0.0, 0.0, 0.0, 0.0)
    colours: dict[int | None, Any] = {None: clear, 0: clear}
    inks = class_colours(classes, given)
    for number, (name, rgb) in enumerate(zip(classes, inks, strict=True), 1):
        colours[number] = clear if name in hidden else (*(rgb / 255).tolist(), 1.0)
    return DirectLabelColormap(color_dict=colours)


def _placed(place: "Place", slide: "SlideState") -> dict[str, Any]:
    """Return scale, translation and units on the slide as it is shown now."""
    placed = replace(place, mpp=slide.slide.mpp)
    return {
        "scale": placed.scale,
        "translate": placed.translate,
        "units": placement(slide.slide.mpp)["units"],
    }
