import gc
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.settings import get_settings
from qtpy.QtWidgets import QApplication

from napari_2dmamba.explain.display import DisplaySettings, colour_table
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer, OnScreen
from napari_2dmamba.plugin.layers.map_layers import cell_at, go_to_patch
from napari_2dmamba.plugin.session import Session
from napari_2dmamba.slide import open_slide
from tests.plugin.conftest import (
    LONG,
    WHITE,
    canvas_picture,
    colour_at,
    on_canvas,
    process_events,
)

HOT = 2, 3  # row, column


def make_map(**changes: Any) -> GridMap:
    values = np.full((6, 8), 0.01, np.float32)
    values[HOT] = 0.9
    values[0] = np.nan
    options: dict[str, Any] = {"values": values, "name": "attention", "meaning": "a test"}
    options |= {"patch_size_level0": 256, "mpp": 0.5}
    return GridMap(**(options | changes))


def raw(**changes: Any) -> DisplaySettings:
    return DisplaySettings(transform="raw", opacity=1.0, **changes)


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(900, 700)
    viewer.theme = "light"
    return viewer


def test_the_hot_patch_is_drawn_on_its_cell(viewer: Any) -> None:
    layer = viewer.add_layer(HeatmapLayer(make_map(), raw()))
    layer.colorbar.visible = False
    viewer.fit_to_view()
    picture = canvas_picture(viewer)
    table = colour_table("viridis")
    # cell (2, 3) of 256 px at 0.5 µm covers x 384 to 512 and y 256 to 384 µm, less half a pixel
    np.testing.assert_allclose(colour_at(viewer, picture, 448, 320), table[-1], atol=6)
    np.testing.assert_allclose(colour_at(viewer, picture, 320, 320), table[0], atol=6)
    np.testing.assert_allclose(colour_at(viewer, picture, 448, 64), WHITE, atol=2)  # NaN
    is_hot = (np.abs(picture.astype(int) - table[-1]) < 30).all(axis=-1)
    rows, cols = np.nonzero(is_hot)
    top, left = on_canvas(viewer, picture, 384 - 0.25, 256 - 0.25)
    bottom, right = on_canvas(viewer, picture, 512 - 0.25, 384 - 0.25)
    found = rows.min(), cols.min(), rows.max() + 1, cols.max() + 1
    np.testing.assert_allclose(found, (top, left, bottom, right), atol=1)


def test_the_map_lies_on_the_tissue_it_was_made_from(viewer: Any, slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        state = Session.of(viewer).add(slide)
        # the tissue fills cells (2..4, 2..5) of 256 px
        values = np.full((6, 8), np.nan, np.float32)
        values[2:5, 2:6] = 1.0
        layer = Session.of(viewer).runs.show_map(
            state, make_map(values=values), raw(colormap="gray")
        )
        layer.colorbar.visible = False
        viewer.canvas.overlays.scale_bar.visible = False
        picture = canvas_picture(viewer)
        pink = (picture[..., 1] < 200) & (picture[..., 0] > 150)
        assert pink.sum() <= 0.001 * pink.size  # nothing of the tissue looks out
        layer.visible = False
        picture = canvas_picture(viewer)
        assert ((picture[..., 1] < 200) & (picture[..., 0] > 150)).mean() > 0.05


@pytest.mark.parametrize("transform", ["raw", "percentile", "log"])
def test_the_display_never_changes_the_data(transform: str) -> None:
    grid_map = make_map()
    before = grid_map.values.copy()
    layer = HeatmapLayer(grid_map, DisplaySettings(transform=transform, gamma=0.5, clip_high=95))
    layer.display = DisplaySettings(transform="log", clip_low=5)
    layer.display = DisplaySettings(transform=transform)
    np.testing.assert_array_equal(layer.data, before)
    position = (2 * 128 + 63.75, 3 * 128 + 63.75)
    assert layer.get_value(position, world=True) == pytest.approx(0.9)
    assert np.isnan(layer.get_value((60, 60), world=True))
    data, _, kind = layer.as_layer_data_tuple()
    assert kind == "image"
    np.testing.assert_array_equal(data, before)


def test_the_colour_bar_speaks_the_units_of_the_display() -> None:
    values = np.arange(1, 13, dtype=np.float32).reshape(3, 4) / 100
    layer = HeatmapLayer(make_map(values=values), raw())
    assert layer.contrast_limits == pytest.approx([0.01, 0.12])
    layer.display = DisplaySettings(transform="percentile")
    assert layer.contrast_limits == [0, 100]
    layer.display = DisplaySettings(transform="log")
    assert layer.contrast_limits == pytest.approx([-2, np.log10(0.12)])
    shown = layer._data_view
    assert shown.min() == pytest.approx(-2, abs=1e-5)


def test_a_signed_map_is_white_at_zero() -> None:
    values = np.array([[-0.2, 0.0, 0.1]], np.float32)
    layer = HeatmapLayer(make_map(values=values, signed=True), raw())
    assert layer.contrast_limits == pytest.approx([-0.2, 0.2])
    assert layer.colormap.name == "coolwarm"


def test_a_constant_map_has_valid_limits() -> None:
    layer = HeatmapLayer(make_map(values=np.full((3, 3), 0.5, np.float32)), raw())
    assert layer.contrast_limits[0] < layer.contrast_limits[1]
    layer = HeatmapLayer(make_map(values=np.full((3, 3), np.nan, np.float32)), raw())
    assert layer.contrast_limits[0] < layer.contrast_limits[1]


def test_what_is_set_in_the_layer_controls_is_noted() -> None:
    values = np.arange(1, 101, dtype=np.float32).reshape(10, 10)
    layer = HeatmapLayer(make_map(values=values), raw())
    layer.gamma, layer.opacity = 0.7, 0.3
    layer.colormap = "magma"
    layer.contrast_limits = (11, 100)
    noted = layer.display
    assert (noted.gamma, noted.opacity, noted.colormap) == (0.7, 0.3, "magma")
    assert noted.clip_low == pytest.approx(11, abs=1)
    assert noted.clip_high == 100


def test_a_new_map_takes_the_place_of_the_old_one(viewer: Any, slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        session = Session.of(viewer)
        state = session.add(slide)
        first = session.runs.show_map(state, make_map(), raw())
        moved = make_map(origin=(256, 512), patch_size_level0=128)
        second = session.runs.show_map(state, moved, raw())
        assert second is first
        assert session.runs.maps_of(state) == [first]
        assert first.scale.tolist() == [64, 64]
        np.testing.assert_allclose(first.translate, [512 / 2 + 31.75, 256 / 2 + 31.75])
        assert cell_at(first, (512 / 2 + 70, 256 / 2 + 10)) == (1, 0)


def test_a_like_map_changes_the_values_alone() -> None:
    """Whatever else is set costs the window a frame, though it be what it was."""
    layer = HeatmapLayer(make_map(), DisplaySettings())
    changes: list[str] = []
    for name in ("colormap", "contrast_limits", "gamma", "opacity", "scale", "translate", "units"):
        layer.events[name].connect(lambda event, name=name: changes.append(name))
    layer.grid_map = make_map(values=make_map().values * 0.5)
    assert changes == []
    assert layer.data[HOT] == np.float32(0.45)

    layer.grid_map = make_map(mpp=None, origin=(256, 512), signed=True)
    assert {"colormap", "contrast_limits", "scale", "translate", "units"} <= set(changes)
    assert [str(unit) for unit in layer.units] == ["pixel", "pixel"]
    assert layer.scale.tolist() == [256, 256]
    assert layer.contrast_limits == [-100, 100]

    layer.colormap = "plasma"  # not one of the form's: gone with the next map
    layer.grid_map = make_map()
    assert layer.colormap.name.startswith("viridis")


def test_going_to_a_patch(viewer: Any, slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        session = Session.of(viewer)
        state = session.add(slide)
        go_to_patch(session, state, (768, 512), 256)
        go_to_patch(session, state, (512, 512), 256)
        assert viewer.scene.camera.center[-2:] == pytest.approx(((512 + 127.5) / 2,) * 2)
        outlines = [layer for layer in viewer.layers if layer.name == "Selected patch"]
        (outline,) = outlines
        corners = np.array([outline.data_to_world(corner) for corner in outline.data[0]])
        np.testing.assert_allclose(corners.min(axis=0), [255.75, 255.75])
        np.testing.assert_allclose(corners.max(axis=0), [383.75, 383.75])
        side = 128 * viewer.scene.camera.zoom
        assert 0.2 * min(viewer.canvas.size) < side < 0.5 * min(viewer.canvas.size)


@pytest.mark.parametrize("gamma", [1.0, 0.3])
def test_a_signed_map_is_neutral_at_zero_whatever_gamma(viewer: Any, gamma: float) -> None:
    values = np.array([[-0.4, -0.05, 0.0, 0.05, 0.4]], np.float32)
    grid_map = make_map(values=values, signed=True)
    layer = viewer.add_layer(HeatmapLayer(grid_map, raw()))
    layer.gamma = gamma  # as the slider of napari sets it
    layer.colorbar.visible = False
    viewer.fit_to_view()
    picture = canvas_picture(viewer)
    table = colour_table("coolwarm").astype(float)
    for column, value in enumerate(values[0] / 0.4):
        # the definition: the magnitude to the power gamma, on its own side of the middle
        position = 0.5 + 0.5 * np.sign(value) * np.abs(value) ** gamma
        seen = colour_at(viewer, picture, 63.75 + 128 * column, 63.75)
        np.testing.assert_allclose(seen, table[min(int(position * 256), 255)], atol=8)
    assert layer.display.gamma == pytest.approx(gamma)


@pytest.mark.parametrize("transform", ["raw", "percentile", "log"])
def test_clear_at_zero_shows_what_lies_below(viewer: Any, transform: str) -> None:
    values = np.array([[0.0, 0.0, 0.02, 1.0]], np.float32)
    display = DisplaySettings(transform=transform, opacity=1.0, clear_at_zero=True)
    layer = viewer.add_layer(HeatmapLayer(make_map(values=values), display))
    layer.colorbar.visible = False
    viewer.fit_to_view()
    picture = canvas_picture(viewer)
    seen = [colour_at(viewer, picture, 63.75 + 128 * column, 63.75) for column in range(4)]
    np.testing.assert_allclose(seen[0], WHITE, atol=2)
    top = colour_table("viridis")[224 if transform == "percentile" else 255]
    np.testing.assert_allclose(seen[3], top, atol=6)
    layer.colormap = "magma"  # chosen in napari's list: still clear at zero
    picture = canvas_picture(viewer)
    np.testing.assert_allclose(colour_at(viewer, picture, 63.75, 63.75), WHITE, atol=2)
    assert layer.display.colormap == "magma"
    layer.display = raw()
    picture = canvas_picture(viewer)
    low = colour_table("viridis")[0]
    np.testing.assert_allclose(colour_at(viewer, picture, 63.75, 63.75), low, atol=6)


@pytest.mark.parametrize("turned", ["T", "flipped", "whole"])
def test_values_are_shown_where_they_are_asked_for(turned: str) -> None:
    """A turned view of the map, as napari takes where axes change places, is not the map."""
    values = np.arange(9, dtype=np.float32).reshape(3, 3)
    on_screen = OnScreen(make_map(values=values), DisplaySettings(transform="raw"))
    once = on_screen(values)
    views = {"T": values.T, "flipped": values[::-1], "whole": values[:]}
    expected = {"T": once.T, "flipped": once[::-1], "whole": once}
    np.testing.assert_array_equal(on_screen(views[turned]), expected[turned])


def hot_at(row: int, col: int) -> GridMap:
    values = np.full((6, 8), 0.01, np.float32)
    values[row, col] = 0.9
    return make_map(values=values)


def test_a_map_is_drawn_at_once_and_no_slice_from_before_comes_after_it(
    viewer: Any, qtbot: Any
) -> None:
    get_settings().experimental.async_ = True
    try:
        layer = viewer.add_layer(HeatmapLayer(hot_at(1, 1), raw()))  # whose slice is on its way
        assert not layer.loaded
        layer.grid_map = hot_at(2, 3)
        qtbot.waitUntil(lambda: layer.loaded, timeout=LONG)
        process_events()
        layer.grid_map = hot_at(4, 5)
        assert layer.loaded  # in one step
        layer.colorbar.visible = False
        viewer.fit_to_view()
        picture = canvas_picture(viewer)
        table = colour_table("viridis")
        for row, col in ((1, 1), (2, 3), (4, 5)):
            shown = colour_at(viewer, picture, (col + 0.5) * 128, (row + 0.5) * 128)
            np.testing.assert_allclose(shown, table[-1 if (row, col) == (4, 5) else 0], atol=6)
    finally:
        get_settings().experimental.async_ = False


def test_limits_and_colour_bar_change_once_with_a_map(viewer: Any) -> None:
    layer = viewer.add_layer(HeatmapLayer(make_map(), raw()))
    told: list[list[float]] = []
    layer.events.contrast_limits.connect(lambda event: told.append(layer.contrast_limits))
    for high in (0.2, 5.0):
        values = np.full((6, 8), 0.1, np.float32)
        values[HOT] = high
        layer.grid_map = make_map(values=values)
        assert told.pop() == pytest.approx([0.1, high])
        assert told == []
        assert layer.contrast_limits_range == pytest.approx([0.1, high])


def test_the_thumbnail_follows_when_the_map_rests(viewer: Any, qtbot: Any) -> None:
    layer = viewer.add_layer(HeatmapLayer(hot_at(0, 0), raw()))
    colour = np.append(colour_table("viridis")[-1], 255)

    def place() -> list[int]:
        picture = layer.thumbnail.astype(int)
        found = np.argwhere((np.abs(picture - colour) < 30).all(axis=-1))
        return found.min(axis=0).tolist() if len(found) else []

    qtbot.waitUntil(lambda: place() == [4, 0], timeout=LONG)
    layer.grid_map = hot_at(5, 7)
    assert place() == [4, 0]
    qtbot.waitUntil(lambda: place() == [24, 28], timeout=LONG)  # four pixels a cell


def test_a_layer_may_go_in_any_thread_before_its_thumbnail_is_made(qtbot: Any) -> None:
    """Whichever thread looks for garbage frees it; a timer of the layer's own then fired freed."""
    held = [HeatmapLayer(make_map(), raw())]
    gone = weakref.ref(held[0])
    held[0]._update_thumbnail()

    def collect() -> None:
        held.clear()
        gc.collect()

    thread = threading.Thread(target=collect)
    thread.start()
    thread.join()
    assert gone() is None
    time.sleep(0.6)  # the timer is due before Qt deletes what another thread let go of
    QApplication.processEvents()
    others = HeatmapLayer(make_map(), raw())
    before = others.thumbnail.copy()
    others._update_thumbnail()
    qtbot.waitUntil(lambda: not np.array_equal(others.thumbnail, before), timeout=LONG)
