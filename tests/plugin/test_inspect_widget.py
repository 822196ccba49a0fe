"""Patches inspected in a real window: clicks, live maps, lines, saving, following the mouse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QObject, QPoint, Qt

from napari_2dmamba.explain.display import PATCH_DISPLAY, DisplaySettings
from napari_2dmamba.explain.maps import MAPS
from napari_2dmamba.explain.mass import LINE_COLOURS, border, fewest_cells
from napari_2dmamba.explain.receptive_field import receptive_field
from napari_2dmamba.export.run_folder import open_run
from napari_2dmamba.plugin.inspect_widget import InspectWidget
from napari_2dmamba.plugin.inspect_widget.follow_mouse import REST, FollowMouse
from napari_2dmamba.plugin.run_widget import RunWidget
from tests.plugin.conftest import LONG, canvas_picture, on_canvas, process_events
from tests.plugin.inspect_widget import (
    CYAN,
    click,
    folder,
    heatmaps,
    inspect,
    sample_run,
    settle,
    viewer,
    widgets,
    world,
)

__all__ = ["folder", "inspect", "sample_run", "viewer", "widgets"]  # fixtures

pytestmark = pytest.mark.timeout(900)  # the first test extracts the features of the sample


def test_every_map_is_offered() -> None:
    untitled = {name for name, kind in MAPS.items() if kind.title is None}
    assert untitled == {"decisive"}  # which has a button, as it takes a search


def test_clicks_arrows_and_escape(inspect: InspectWidget, viewer: Any, qtbot: Any) -> None:
    bag = inspect.live.inspected.subject.bag  # type: ignore[union-attr]
    attention = inspect.live.shown.prediction.attention  # type: ignore[union-attr]
    assert inspect.inspected_patches == (int(np.argmax(attention)),)  # something to start with
    assert "Provenance (state)" in heatmaps(viewer)
    count = len(viewer.layers)

    patch = int(np.flatnonzero((bag.coords == [1536, 2560]).all(axis=1))[0])
    x, y = world(inspect, patch)
    for zoom in (viewer.scene.camera.zoom, 1.0):
        viewer.scene.camera.zoom = zoom
        viewer.scene.camera.center = (y + 40, x - 30)
        process_events()
        other = int(np.flatnonzero((bag.coords == bag.coords[patch] + [256, 0]).all(axis=1))[0])
        click(viewer, qtbot, *world(inspect, other))
        assert inspect.inspected_patches == (other,)
        # anywhere in the patch will do: here near its lower right corner
        click(viewer, qtbot, x + 55, y + 55)
        assert inspect.inspected_patches == (patch,)
        settle(inspect, qtbot)
        for layer in heatmaps(viewer).values():
            layer.visible = False
        qtbot.waitUntil(lambda: all(layer.loaded for layer in viewer.layers), timeout=LONG)
        picture = canvas_picture(viewer)
        for dx, dy in ((-64, 0), (64, 0), (0, -64), (0, 64)):  # the sides of the square
            row, col = on_canvas(viewer, picture, x + dx, y + dy)
            near = picture[row - 2 : row + 3, col - 2 : col + 3].reshape(-1, 3).astype(int)
            assert np.abs(near - CYAN).sum(axis=1).min() < 90, (zoom, dx, dy)

    # provenance: nothing from the right or from below, and placed on the patch
    layer = heatmaps(viewer)["Provenance (state)"]
    values = layer.grid_map.values
    row, col = np.round(layer.world_to_data((y, x))).astype(int)
    assert values[row, col] == np.nanmax(values) > 0
    assert np.nansum(np.abs(values[:, col + 1 :])) == 0
    assert np.nansum(np.abs(values[row + 1 :])) == 0
    assert np.nansum(values[:row, :col]) > 0
    assert len(viewer.layers) == count  # layers are used again
    assert (
        f"x {bag.coords[patch][0]}, y {bag.coords[patch][1]}"
        in inspect.patch_section.numbers.text()
    )
    assert "µm" in inspect.patch_section.extent.text()
    rank = int((attention > attention[patch]).sum()) + 1
    assert f"rank {rank} of {len(bag)}" in inspect.patch_section.numbers.text()
    picture = inspect.patch_section.picture.pixmap()
    assert picture.width() == picture.height() > 100

    canvas = viewer.window._qt_viewer.canvas.native
    viewer.layers.selection.active = layer
    qtbot.keyClick(canvas, Qt.Key.Key_Right)
    assert inspect.inspected_patches == (other,)
    qtbot.keyClick(canvas, Qt.Key.Key_Down)
    (below,) = inspect.inspected_patches
    assert (bag.coords[below] - bag.coords[other]).tolist() == [0, 256]
    settle(inspect, qtbot)
    alone = heatmaps(viewer)["Provenance (state)"].grid_map.values
    click(viewer, qtbot, x, y, Qt.KeyboardModifier.ShiftModifier)
    assert inspect.inspected_patches == (below, patch)
    settle(inspect, qtbot)
    both = heatmaps(viewer)["Provenance (state)"].grid_map.values
    np.testing.assert_allclose(both, (alone + values) / 2, rtol=1e-4)

    click(viewer, qtbot, 20, 20)  # glass
    assert inspect.inspected_patches == (below, patch)
    assert "No patch" in inspect.message.text()

    qtbot.keyClick(canvas, Qt.Key.Key_Escape)
    assert not inspect.mode.isChecked()
    assert inspect.query_layer.layer is None
    assert "Provenance (state)" in heatmaps(viewer)  # the maps stay
    click(viewer, qtbot, *world(inspect, other))
    assert inspect.inspected_patches == (below, patch)


def test_maps_are_in_the_exports_and_in_the_saved_run(
    inspect: InspectWidget, widgets: tuple[RunWidget, InspectWidget], viewer: Any, qtbot: Any,
    folder: Path,
) -> None:  # fmt: skip
    run_widget, _ = widgets
    inspect.map_list.tick("gradient-x-input")
    settle(inspect, qtbot)
    names = {"attention", "provenance (state)", "gradient x input"}
    assert run_widget.shown is not None
    assert {one.name for one in run_widget.shown.maps} == names
    shown = {name for name, layer in heatmaps(viewer).items() if layer.visible}
    assert shown == {"Gradient x input"}  # maps on top of each other would mix
    inspect.map_list.choose("provenance")
    assert heatmaps(viewer)["Provenance (state)"].visible

    inspect.link.setChecked(True)
    viewer.layers["Provenance (state)"].gamma = 0.7
    assert viewer.layers["Gradient x input"].gamma == pytest.approx(0.7)

    inspect.keep.click()
    settle(inspect, qtbot)
    saved = open_run(folder)
    assert {one.name for one in saved.maps} == names
    said = json.loads((folder / "run.json").read_text())["explanations"]
    assert said["queries"][0]["patch"] == inspect.inspected_patches[0]

    inspect.map_list.tick("gradient-x-input", False)
    assert set(heatmaps(viewer)) == {"Attention", "Provenance (state)"}
    viewer.layers.remove(viewer.layers["Provenance (state)"])  # by hand: no longer wanted
    assert inspect.map_list.ticked_names == []

    run_widget.open_saved_run(folder)
    qtbot.waitUntil(lambda: "Provenance (state)" in viewer.layers, timeout=LONG)
    settle(inspect, qtbot)
    again = heatmaps(viewer)
    assert again["Provenance (state)"].display == PATCH_DISPLAY
    assert again["Attention"].display == DisplaySettings()

    # the saved map of the first patch stays beside those of the next, with what is said of it
    (first,) = inspect.inspected_patches
    inspect.map_list.tick("gradient-x-input")
    inspect.step(0, 1)
    settle(inspect, qtbot)
    (second,) = inspect.inspected_patches
    assert run_widget.shown is not None
    told = run_widget.shown.record.explanations
    assert told is not None
    assert set(told.maps) == {"provenance", "gradient-x-input"}
    assert [one.patch for one in told.queries] == [second, first]


def test_the_words_on_the_canvas_go_with_the_map_they_are_of(
    widgets: tuple[RunWidget, InspectWidget], inspect: InspectWidget, viewer: Any
) -> None:
    run_widget, _ = widgets
    layer, words = heatmaps(viewer)["Provenance (state)"], viewer.canvas.overlays.text
    viewer.layers.selection.active = layer
    assert words.visible
    assert words.text.startswith("Provenance (state)")
    layer.visible = False
    assert not words.visible
    assert not run_widget.result_section.show_layer.isChecked()
    layer.visible = True
    assert words.visible


def test_what_a_patch_has_nothing_to_do_with_shows_the_tissue(
    inspect: InspectWidget, viewer: Any, qtbot: Any
) -> None:
    subject = inspect.live.inspected.subject  # type: ignore[union-attr]
    (patch,) = inspect.inspected_patches
    x, y = world(inspect, patch)
    layer = heatmaps(viewer)["Provenance (state)"]
    layer.colorbar.visible = viewer.canvas.overlays.text.visible = False
    held = fewest_cells(layer.grid_map.values)
    assert inspect.live.held == {percent: int(cells.sum()) for percent, cells in held.items()}
    for zoom in (0.25, 1.5):
        viewer.scene.camera.zoom, viewer.scene.camera.center = zoom, (y, x)
        qtbot.waitUntil(lambda: all(layer.loaded for layer in viewer.layers), timeout=LONG)
        picture = canvas_picture(viewer).astype(int)
        layer.visible = False
        bare = canvas_picture(viewer).astype(int)
        layer.visible = True

        def around(image: np.ndarray, x: float, y: float, radius: int = 2) -> np.ndarray:
            row, col = on_canvas(viewer, image, x, y)
            return image[row - radius : row + radius + 1, col - radius : col + radius + 1]

        # off the crosshair, in the patch to the right: the map is zero there, and clear
        assert np.abs(around(picture, x + 100, y + 30) - around(bare, x + 100, y + 30)).max() <= 3
        *_, blue = (around(picture, x + 30, y + 30) - around(bare, x + 30, y + 30)).mean((0, 1))
        assert blue < -20  # the patch itself is dark red
        # the darkest line runs around what holds half: here the patch itself
        assert held[50].sum() == 1
        green = np.array(LINE_COLOURS[90])
        origin, side = layer.grid_map.origin, layer.grid_map.patch_size_level0
        lines = border(held[90]) * side + (origin[1] - 0.5, origin[0] - 0.5)
        own = subject.corner_of(patch)
        for (top, left), (bottom, right) in lines * 0.5:
            middle = (0.7 * left + 0.3 * right), (0.7 * top + 0.3 * bottom)  # off the crosshair
            if np.abs(np.array(middle) - np.array(own) * 0.5 - 64).max() < 70:
                continue  # below the square around the patch
            seen = np.abs(around(picture, *middle) - green).sum(axis=-1).min()
            assert seen < 110, (zoom, middle, seen)


def test_the_patch_is_marked_at_every_zoom_without_another_click(
    inspect: InspectWidget, viewer: Any, qtbot: Any
) -> None:
    (patch,) = inspect.inspected_patches
    x, y = world(inspect, patch)
    for layer in heatmaps(viewer).values():
        layer.visible = False
    inspect.lines.setChecked(False)
    for zoom in (3.0, 0.1, 1.0):
        viewer.scene.camera.zoom, viewer.scene.camera.center = zoom, (y, x)
        qtbot.waitUntil(lambda: all(layer.loaded for layer in viewer.layers), timeout=LONG)
        picture = canvas_picture(viewer).astype(int)
        row, col = on_canvas(viewer, picture, x, y - 64)  # across the upper side of the square
        beside = round(40 * zoom)  # off the crosshair
        across = picture[row - 6 : row + 7, col + beside]
        is_cyan = np.abs(across - CYAN).sum(axis=1) < 200
        assert 1 <= is_cyan.sum() <= 4, (zoom, across.tolist())
        assert is_cyan[4:9].any()


def test_maps_of_one_quantity_share_one_range(
    inspect: InspectWidget, viewer: Any, qtbot: Any
) -> None:
    for name in ("feeds", "gradient-x-input", "relevance"):
        inspect.map_list.tick(name)
    settle(inspect, qtbot)
    layers = heatmaps(viewer)
    one, other = layers["Provenance (state)"], layers["Feeds (state)"]
    parts = layers["Gradient x input"], layers["Relevance"]
    largest = {layer: float(np.nanmax(np.abs(layer.grid_map.values))) for layer in layers.values()}
    assert inspect.ranges.isHidden()
    inspect.map_list.choose("provenance")
    inspect.link.setChecked(True)  # on the scale of provenance, which is raw
    process_events()
    for group in ((one, other), parts):
        top = max(largest[layer] for layer in group)
        assert [layer.contrast_limits[1] for layer in group] == pytest.approx([top, top])
    assert parts[0].contrast_limits[0] == pytest.approx(-max(largest[layer] for layer in parts))
    assert "Provenance (state), Feeds (state)" in inspect.ranges.text()

    one.contrast_limits = (0.0, largest[one] / 4)  # by hand
    assert other.contrast_limits == pytest.approx([0, largest[one] / 4])
    before = parts[0].contrast_limits
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, Qt.Key.Key_Left)
    settle(inspect, qtbot)
    for layer in (one, other):  # one colour stays one value from patch to patch
        assert layer.contrast_limits == pytest.approx([0, largest[one] / 4])
    assert parts[0].contrast_limits == pytest.approx(before)

    inspect.link.setChecked(False)
    process_events()
    assert inspect.ranges.isHidden()
    values = float(np.nanmax(inspect.live.maps["feeds"].values))
    assert other.contrast_limits[1] == pytest.approx(values)


def test_a_run_that_cannot_be_inspected(
    widgets: tuple[RunWidget, InspectWidget], viewer: Any, folder: Path, qtbot: Any,
    notifications: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run_widget, inspect = widgets
    inspect.mode.click()
    assert "no run to inspect" in inspect.message.text()
    assert not inspect.mode.isChecked()

    for file in folder.glob("features-*.h5"):
        file.unlink()
    record = json.loads((folder / "run.json").read_text())
    record["features"]["path"] = str(folder / "gone.h5")
    (folder / "run.json").write_text(json.dumps(record))
    run_widget.open_saved_run(folder)
    qtbot.waitUntil(lambda: run_widget.shown is not None, timeout=LONG)
    inspect.mode.click()
    settle(inspect, qtbot)
    assert not inspect.mode.isChecked()
    assert inspect.message.text() == (
        "The features of the run on synthetic-he.tif were not kept, or were moved; put them back, "
        "or run the slide again."
    )


def test_maps_follow_the_mouse_and_end_at_the_patch_under_it(
    inspect: InspectWidget, viewer: Any, qtbot: Any
) -> None:
    subject = inspect.live.inspected.subject  # type: ignore[union-attr]
    inspect.map_list.tick("erf", True)
    settle(inspect, qtbot)
    start = inspect.inspected_patches
    cells = subject.cells_of_patches
    middle = cells[start[-1]][0]
    row = [int(patch) for patch in np.flatnonzero(cells[:, 0] == middle)][:8]
    assert len(row) > 4

    def move(patch: int) -> None:
        x, y = world(inspect, patch)
        camera, (height, width) = viewer.scene.camera, viewer.canvas.size
        center_y, center_x = camera.center[-2:]
        at = QPoint(
            round(width / 2 + (x - center_x) * camera.zoom),
            round(height / 2 + (y - center_y) * camera.zoom),
        )
        qtbot.mouseMove(viewer.window._qt_viewer.canvas.native, at)
        process_events()

    move(row[0])
    assert inspect.inspected_patches == start  # it was not asked to follow
    inspect.follow.setChecked(True)
    shown: list[tuple[int, ...]] = []
    inspect.live.computed.connect(lambda: shown.append(inspect.inspected_patches))
    for patch in row[1:]:
        move(patch)
    qtbot.waitUntil(lambda: inspect.inspected_patches == (row[-1],), timeout=LONG)
    settle(inspect, qtbot)
    assert shown[-1] == (row[-1],)
    truth = receptive_field(subject, row[-1])
    np.testing.assert_allclose(
        inspect.live.maps["erf"].values, truth.values, rtol=1e-5, atol=1e-6, equal_nan=True
    )
    click(viewer, qtbot, *world(inspect, row[2]))
    settle(inspect, qtbot)
    assert not inspect.follow.isChecked()
    move(row[-1])
    assert inspect.inspected_patches == (row[2],)


def test_a_patch_waits_for_the_maps_of_the_one_before_but_not_for_long(qtbot: Any) -> None:
    busy, asked = [False], []
    parent = QObject()
    follow = FollowMouse(lambda: busy[0], parent)
    follow.patch.connect(asked.append)
    follow.point(1)
    busy[0] = True
    follow.point(2)
    follow.point(3)
    assert asked == [1]
    follow.go_on()  # the maps of 1 are there: the newest is next, 2 is never asked
    assert asked == [1, 3]
    follow.point(4)
    follow.point(3)  # back where it was
    follow.go_on()
    assert asked == [1, 3]
    rested: list[int] = []
    follow.rested.connect(lambda: rested.append(asked[-1]))
    assert follow.is_moving
    follow.point(5)  # whose maps take long
    qtbot.waitUntil(lambda: asked == [1, 3, 5], timeout=LONG)
    qtbot.wait(2 * REST)
    assert rested == []  # not before the maps are there
    busy[0] = False
    qtbot.waitUntil(lambda: rested == [5], timeout=LONG)
    assert not follow.is_moving
    follow.point(6)
    follow.forget()  # ended while it moved: what waited for the rest is done now
    assert rested == [5, 6]
