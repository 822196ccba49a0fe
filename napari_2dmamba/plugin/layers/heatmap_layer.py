"""A `GridMap` as an image layer: one pixel per patch, raw values, colours on top."""

from dataclasses import replace
from typing import Any

import numpy as np
from napari.layers import Image
from napari.utils import Colormap
from numpy.typing import NDArray

from napari_2dmamba.explain.display import DisplaySettings, DisplayTransform, map_colours
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.plugin.layers.redrawn import Redrawn

COLOUR_MAPS = (
    "viridis", "inferno", "magma", "turbo", "cividis", "hot", "YlOrRd", "RdYlGn", "gray",
)  # fmt: skip
SIGNED_COLOUR_MAPS = ("coolwarm", "RdBu_r", "PiYG", "seismic")
"""What forms offer; any other name of matplotlib's works as well."""

_LIMITS = "contrast_limits", "contrast_limits_range"
_FINE = 1024  # colours on the graphics card


class HeatmapLayer(Redrawn, Image):
    """An image layer whose data stay the raw values, whatever the display does to them.

    ``layer.data`` and the value under the cursor are raw. What reaches the screen is their
    `DisplayTransform`, on the scale that the colour bar shows: values for ``raw``, percentiles
    from 0 to 100 for ``percentile``, exponents of ten for ``log``.

    Parameters
    ----------
    grid_map
        What to show, and where.
    display
        How to show it.
    """

    def __init__(
        self, grid_map: GridMap, display: DisplaySettings | None = None, **options: Any
    ) -> None:
        self._is_showing = False
        self._grid_map = grid_map
        self._limits_of: GridMap | None = None
        self._display = display or DisplaySettings()
        self._on_screen = OnScreen(grid_map, self._display)
        super().__init__(
            grid_map.values,
            name=options.pop("name", grid_map.name),
            rgb=False,
            multiscale=False,
            scale=grid_map.scale,
            translate=grid_map.translate,
            units=_units(grid_map),
            axis_labels=("y", "x"),
            interpolation2d="nearest",
            contrast_limits=self._on_screen.limits,
            colormap=colormap_of(grid_map, self._display),
            gamma=self._display.gamma,
            opacity=self._display.opacity,
            blending="translucent",
            **options,
        )
        self._colours = self.colormap.name
        self._coloured_as = self._colours_of()
        self.metadata.setdefault("meaning", grid_map.meaning)
        self.colorbar.size = (18, 180)
        self.colorbar.visible = True
        events = self.events
        for event in (events.gamma, events.opacity, events.colormap, events.contrast_limits):
            event.connect(self._note_controls)

    @property
    def grid_map(self) -> GridMap:
        """The map the layer shows."""
        return self._grid_map

    @grid_map.setter
    def grid_map(self, grid_map: GridMap) -> None:
        self.show_map(grid_map)

    def show_map(self, grid_map: GridMap, limits_of: GridMap | None = None) -> None:
        """Show another map.

        ``limits_of`` holds the values that set limits and ranks when they are not the map's
        own: layers that share them have one colour for one value.
        """
        before, self._grid_map, self._limits_of = self._grid_map, grid_map, limits_of
        had_unit = before.mpp is not None
        self.metadata["meaning"] = grid_map.meaning
        self._on_screen = OnScreen(limits_of or grid_map, self._display)
        if _place(before) == _place(grid_map):
            with self._block_refresh(), self.events.data.blocker():  # of which napari takes sizes
                self.data = grid_map.values
            self._show()
            return
        with self._block_refresh():  # each of these would slice and draw the layer anew
            self.data = grid_map.values
            self._change("scale", grid_map.scale)
            self._change("translate", grid_map.translate)
            if had_unit != (grid_map.mpp is not None):
                self.units = _units(grid_map)
        self._show()
        self.refresh()

    @property
    def display(self) -> DisplaySettings:
        """How the values become colours."""
        return self._display

    @display.setter
    def display(self, display: DisplaySettings) -> None:
        self._display = display
        self._on_screen = OnScreen(self._limits_of or self._grid_map, display)
        self._show()

    def _show(self) -> None:
        display = self._display
        self._is_showing = True  # what follows is not the user's doing
        limits = self._on_screen.limits
        if not all(self._is_already(name, limits) for name in _LIMITS):
            with self._block_refresh():
                with self.events.contrast_limits.blocker():  # the colour bar is to change once
                    self.contrast_limits_range = limits
                self.contrast_limits = limits
        if self.colormap.name != self._colours or self._colours_of() != self._coloured_as:
            self._colour()
        self._change("gamma", display.gamma)
        self._change("opacity", display.opacity)
        self._is_showing = False
        self.redraw()

    def _change(self, name: str, value: Any) -> None:
        """Set what is not so already: napari compiles shaders or asks all layers each time."""
        if not self._is_already(name, value):
            setattr(self, name, value)

    def _is_already(self, name: str, value: Any) -> bool:
        return bool(np.array_equal(getattr(self, name), value))

    def _note_controls(self, event: Any = None) -> None:
        """Take over what the user set with napari's own controls, so that exports show it."""
        if self._is_showing:
            return
        seen: dict[str, Any] = {"gamma": float(self.gamma), "opacity": float(self.opacity)}
        if not self._grid_map.signed:
            limits = [self._on_screen.percentile_at(limit) for limit in self.contrast_limits]
            seen["clip_low"], seen["clip_high"] = limits
        if self.colormap.name in (*COLOUR_MAPS, *SIGNED_COLOUR_MAPS):
            which = "signed_colormap" if self._grid_map.signed else "colormap"
            seen[which] = self.colormap.name
        self._display = replace(self._display, **seen)
        bent = self._grid_map.signed and self.colormap.name == self._colours
        if bent or self.colormap.name in (*COLOUR_MAPS, *SIGNED_COLOUR_MAPS):
            self._is_showing = True
            self._colour()
            self._is_showing = False

    def _colour(self) -> None:
        self.colormap = colormap_of(self._grid_map, self._display)
        self._colours = self.colormap.name  # napari adds a number where the name is taken
        self._coloured_as = self._colours_of()

    def _colours_of(self) -> tuple[Any, ...]:
        """Return all that the colour map is made from."""
        signed, display = self._grid_map.signed, self._display
        name = display.colormap_for(self._grid_map)
        return name, display.clear_at_zero, signed, display.gamma if signed else None

    # What follows overrides how napari turns data into a picture. The type string keeps
    # saving, copying and controls those of a plain image.

    @property
    def _type_string(self) -> str:
        return "image"

    def _raw_to_displayed(self, raw: NDArray) -> NDArray:
        return super()._raw_to_displayed(self._on_screen(raw))

    def _calc_data_range(self, mode: str = "data") -> tuple[float, float]:
        return self._on_screen.limits

    def make_thumbnail(self) -> None:
        """Make the thumbnail of all of the map."""
        if self._slice.empty:
            return
        side = self._thumbnail_shape[0]
        step = max(1, -(-max(self.data.shape) // side))
        shown = self._on_screen(self.data)[::step, ::step]
        low, high = self.contrast_limits
        position = np.clip((shown - low) / (high - low), 0, 1) ** self.gamma
        small = self.colormap.map(position.ravel()).reshape((*shown.shape, 4))
        repeat = max(1, side // max(small.shape[:2]))
        self.thumbnail = np.repeat(np.repeat(small, repeat, axis=0), repeat, axis=1)


class OnScreen:
    """Values on the scale of the colour bar, for one map and its display settings.

    Gamma is left to the layer, which applies it to colours and colour bar alike.
    """

    def __init__(self, grid_map: GridMap, display: DisplaySettings) -> None:
        self._transform = DisplayTransform(grid_map, replace(display, gamma=1.0))
        self._values = grid_map.values
        self._shown: NDArray[np.float32] | None = None  # of all of them, once asked for
        self._clip = display.clip_low, display.clip_high
        unit = 100.0 if display.transform == "percentile" else 1.0
        low, high = self._transform.low * unit, self._transform.high * unit
        if high <= low or not np.isfinite([low, high]).all():
            low, high = 0.0, 1.0  # a constant map: half way up the bar
        self.limits: tuple[float, float] = (-high, high) if grid_map.signed else (low, high)

    def percentile_at(self, limit: float) -> float:
        """Return the share of the map's values up to a place on the colour bar, 0 to 100."""
        if limit <= self.limits[0]:
            return self._clip[0]
        if limit >= self.limits[1]:
            return self._clip[1]
        shown = self(self._values)
        shown = shown[np.isfinite(shown)]
        return 100.0 * float(np.mean(shown <= limit)) if shown.size else 0.0

    def __call__(self, values: NDArray) -> NDArray[np.float32]:
        """Return ``values`` between the limits; NaN stays NaN."""
        own = self._values
        is_all = values is own or np.array_equal(values, own, equal_nan=True)  # napari copies
        if is_all and self._shown is not None:
            return self._shown
        low, high = self.limits
        shown = self._transform(values)  # ours, to be changed in place
        shown *= high - low
        shown += low
        if is_all:
            self._shown = shown  # napari asks several times for one drawing
        return shown


def _place(grid_map: GridMap) -> tuple[Any, ...]:
    """Return all that says where a map lies, and how large it is."""
    values = grid_map.values
    return values.shape, values.dtype, grid_map.scale, grid_map.translate, grid_map.mpp


def _units(grid_map: GridMap) -> tuple[str, str]:
    return ("pixel", "pixel") if grid_map.mpp is None else ("µm", "µm")


def colormap_of(grid_map: GridMap, display: DisplaySettings) -> Colormap:
    """Return the colour map for a map, clear where there is no value.

    napari bends the whole bar by gamma, which would move the middle of a signed map away from
    zero. The colours of a signed map are bent the other way, so that gamma acts on magnitudes.
    """
    colours = map_colours(grid_map, display)
    name = display.colormap_for(grid_map) + (", clear" if display.clear_at_zero else "")
    if grid_map.signed and display.gamma != 1:
        name += f", γ {display.gamma:.2f}"
        along = np.linspace(0, 1, _FINE)
        side = 2 * along ** (1 / display.gamma) - 1
        # the curve is steep about zero, which must not fall on a neighbour's colour
        side[np.abs(along - 0.5**display.gamma) < 2 / _FINE] = 0
        position = 0.5 + 0.5 * np.sign(side) * np.abs(side) ** display.gamma
        colours = colours[np.minimum(position * 256, 255).astype(int)]
    return Colormap(colours, name=name, nan_color=(0, 0, 0, 0))
