"""The Inspect widget in a real window, on the sample slide with the demo model."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from napari.layers import Shapes
from qtpy.QtCore import QObject, QPoint, Qt

from napari_2dmamba.explain.counterfactual import Counterfactual, Counterfactuals
from napari_2dmamba.explain.display import PATCH_DISPLAY, DisplaySettings
from napari_2dmamba.explain.faithfulness import stability_under_turns
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.maps import MAPS
from napari_2dmamba.explain.mass import LINE_COLOURS, border, fewest_cells
from napari_2dmamba.explain.outcome import Outcome
from napari_2dmamba.explain.receptive_field import average_field, field_size, receptive_field
from napari_2dmamba.export.run_folder import open_run
from napari_2dmamba.pipeline import run
from napari_2dmamba.plugin.inspect_widget import InspectWidget
from napari_2dmamba.plugin.inspect_widget.follow_mouse import REST, FollowMouse
from napari_2dmamba.plugin.inspect_widget.what_if_section import INSPECTED, WhatIfSection
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.sample import demo_checkpoint, sample_slide
from napari_2dmamba.slide import open_slide
from tests.plugin.conftest import LONG, add_slide, canvas_picture, on_canvas, process_events

CYAN = (0, 213, 255)

pytestmark = pytest.mark.timeout(900)  # the first test extracts the features of the sample


@pytest.fixture(scope="session")
def sample_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features are extracted once for all tests of this file."""
    folder = tmp_path_factory.mktemp("runs") / "sample"
    run(sample_slide(), demo_checkpoint(), out=folder)
    return folder


@pytest.fixture
def folder(sample_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sample_run, tmp_path / "sample")


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    viewer = make_napari_viewer(show=True)
    viewer.theme = "light"
    viewer.window.resize(1300, 900)
    return viewer


@pytest.fixture
def widgets(viewer: Any) -> Iterator[tuple[RunWidget, InspectWidget]]:
    run_widget = RunWidget(viewer)
    viewer.window.add_dock_widget(run_widget, name="Run 2DMamba", area="right")
    inspect = InspectWidget(viewer)
    viewer.window.add_dock_widget(inspect, name="Inspect 2DMamba", area="right", tabify=True)
    yield run_widget, inspect
    inspect.let_go()
    run_widget.let_go()


@pytest.fixture
def inspect(
    widgets: tuple[RunWidget, InspectWidget], viewer: Any, folder: Path, qtbot: Any
) -> InspectWidget:
    """The widget with the run of the sample slide open and the mode on; provenance only."""
    run_widget, inspect = widgets
    run_widget.open_saved_run(folder)
    qtbot.waitUntil(lambda: run_widget.shown is not None, timeout=LONG)
    inspect.map_list.tick("erf", False)
    inspect.mode.click()
    settle(inspect, qtbot)
    return inspect


def settle(inspect: InspectWidget, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: not inspect.is_busy, timeout=3 * LONG)
    process_events()


def click(
    viewer: Any, qtbot: Any, x: float, y: float, modifier: Any = Qt.KeyboardModifier.NoModifier
) -> None:
    """Click the world point ``x, y`` on the canvas."""
    camera, (height, width) = viewer.scene.camera, viewer.canvas.size
    center_y, center_x = camera.center[-2:]
    at = QPoint(
        round(width / 2 + (x - center_x) * camera.zoom),
        round(height / 2 + (y - center_y) * camera.zoom),
    )
    canvas = viewer.window._qt_viewer.canvas.native
    qtbot.mouseMove(canvas, at)
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, modifier, at)


def world(inspect: InspectWidget, patch: int) -> tuple[float, float]:
    """World ``x, y`` of the centre of a patch, from the features' coordinates alone."""
    bag = inspect.live.inspected.subject.bag  # type: ignore[union-attr]
    x, y = bag.coords[patch] + (bag.patch_size_level0 - 1) / 2
    return x * 0.5, y * 0.5


def heatmaps(viewer: Any) -> dict[str, HeatmapLayer]:
    return {one.name: one for one in viewer.layers if isinstance(one, HeatmapLayer)}


def test_every_map_is_offered() -> None:
    untitled = {name for name, kind in MAPS.items() if kind.title is None}
    assert untitled == {"decisive"}  # which has a button, as it takes a search


def test_answers_of_a_survival_model(qtbot: Any) -> None:
    def outcome(hazards: list[float]) -> Outcome:
        survival = np.cumprod(1 - np.array(hazards))
        return Outcome(
            "survival", ("early", "late"), np.zeros(2), np.ones(3) / 3,
            hazards=np.array(hazards), survival=survival, risk=-float(survival.sum()),
        )  # fmt: skip

    nothing = GridMap(np.zeros((1, 3), np.float32), "change of attention", "", 256)
    present = np.array([True, True, False])
    found = Counterfactual(outcome([0.5, 0.5]), outcome([0.2, 0.5]), present, np.ones(3), nothing)
    section = WhatIfSection()
    qtbot.addWidget(section)
    section.show_change(found, 1)
    # 0.5 + 0.25 survived bins before, 0.8 + 0.4 after
    assert "risk is <b>-1.200</b> instead of -0.750 (-0.450)" in section.words.text()
    assert "1 of 3 patches gone" in section.words.text()
    (axes,) = section.chart.figure.axes
    drawn = [line.get_ydata() for line in axes.get_lines()]
    np.testing.assert_allclose(drawn, [[1, 0.5, 0.25], [1, 0.8, 0.4]])
    assert section.undo.isEnabled()


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


def test_what_if(inspect: InspectWidget, viewer: Any, qtbot: Any) -> None:
    truth = tifffile.imread(sample_slide().with_name("synthetic-he-truth.tif"))
    slide = inspect.live.shown.slide  # type: ignore[union-attr]
    step = slide.dimensions[0] / truth.shape[1]
    rows, cols = np.nonzero(truth)
    area = shapely.MultiPoint(np.column_stack([cols, rows]) * step).convex_hull.buffer(150)
    section = inspect.what_if_section
    section.draw.click()
    layer = viewer.layers["What if"]
    assert isinstance(layer, Shapes)
    assert layer.mode == "add_polygon"
    before = inspect.inspected_patches
    click(viewer, qtbot, *world(inspect, 0))  # draws, and inspects nothing
    assert inspect.inspected_patches == before
    layer.mode = "pan_zoom"
    layer.data = [np.asarray(area.exterior.coords)[:-1, ::-1] - 0.5]
    section.apply.click()
    settle(inspect, qtbot)
    assert "instead of 1.000" in section.words.text()
    edits = inspect.live.inspected.counterfactuals  # type: ignore[union-attr]
    found = edits.current()
    tumour = found.before.class_names.index("tumour (synthetic)")
    assert found.before.probabilities[tumour] > 0.9 > 0.5 > found.after.probabilities[tumour]
    assert "The prediction becomes" in section.words.text()
    change = heatmaps(viewer)["Change of attention"]
    assert change.visible
    assert change.grid_map.signed
    bag = inspect.live.inspected.subject.bag  # type: ignore[union-attr]
    centres = bag.coords + 128
    gone = shapely.contains_xy(area, centres[:, 0], centres[:, 1])
    assert (found.present == ~gone).all()

    section.undo.click()
    settle(inspect, qtbot)
    assert "Change of attention" not in heatmaps(viewer)
    assert not section.undo.isEnabled()
    assert edits.current().after.probabilities == pytest.approx(found.before.probabilities)

    # nothing to do is one sentence, not a traceback
    layer.data = []
    section.apply.click()
    settle(inspect, qtbot)
    assert "no patch" in inspect.message.text().lower()

    section.where.setCurrentText(INSPECTED)
    section.action.setCurrentIndex(section.action.findData("similar"))
    section.apply.click()
    settle(inspect, qtbot)
    assert "With all patches" in section.words.text()  # replaced, not removed


def test_what_if_says_which_canvas_it_means(inspect: InspectWidget, qtbot: Any) -> None:
    inspected, section = inspect.live.inspected, inspect.what_if_section
    assert inspected is not None
    rows = inspected.subject.cells_of_patches[:, 0]
    inspect._inspect(np.flatnonzero(rows == rows.min()).tolist())  # a whole outer row
    settle(inspect, qtbot)
    section.set_open(True)
    assert not section.canvas.isVisibleTo(section)
    section.apply.click()
    assert not inspect.trust_section.stability.isEnabled()  # one thing at a time
    assert not section.apply.isEnabled()
    settle(inspect, qtbot)
    assert inspect.trust_section.stability.isEnabled()
    assert "The canvas was kept" in section.about_canvas.text()
    edits = inspected.counterfactuals
    kept = edits.current().after.logits
    section.canvas.setCurrentIndex(1)
    section.canvas.activated.emit(1)  # as a click does
    settle(inspect, qtbot)
    assert "The canvas is that of the patches left" in section.about_canvas.text()
    assert not np.array_equal(edits.current().after.logits, kept)
    section.reset.click()
    settle(inspect, qtbot)
    assert not section.canvas.isVisibleTo(section)


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


def test_average_field_and_two_layers_of_stability(
    inspect: InspectWidget, viewer: Any, qtbot: Any
) -> None:
    subject = inspect.live.inspected.subject  # type: ignore[union-attr]
    inspect.map_list.tick("erf-average")
    settle(inspect, qtbot)
    (patch,) = inspect.inspected_patches
    found = heatmaps(viewer)["Average receptive field"].grid_map
    average = average_field(subject, count=16)
    scores = subject.scores_of_map(found)
    assert scores[patch] == pytest.approx(average[tuple(np.array(average.shape) // 2)], rel=1e-4)
    size = field_size(average, tuple(np.array(average.shape) // 2), 128.0)
    assert f"<b>{size.radii[99]:,.0f}</b>" in inspect.patch_section.extent.text()

    trust = inspect.trust_section
    trust.stability.click()
    settle(inspect, qtbot)
    assert "Flips and rotations" in trust.steadiness.text()
    spread = heatmaps(viewer)["Spread of attention (turns)"].grid_map
    expected = stability_under_turns(subject).spread
    np.testing.assert_allclose(spread.values, expected.values, rtol=1e-5, atol=1e-9)
    assert "Spread of attention (dropout)" in heatmaps(viewer)


def test_few_patches_that_decide_and_cancel(
    inspect: InspectWidget, viewer: Any, qtbot: Any
) -> None:
    section, footer = inspect.what_if_section, inspect.footer
    seen: list[str] = []
    section.search.click()
    assert not footer.cancel.isHidden()
    footer.cancel.click()
    settle(inspect, qtbot)
    assert "nothing was changed" in footer.message.text()
    assert "Decisive patches" not in heatmaps(viewer)

    inspect._jobs.start(lambda progress, stop: None, seen.append, "")  # what comes next may run
    settle(inspect, qtbot)
    section.search.click()
    settle(inspect, qtbot)
    marked = heatmaps(viewer)["Decisive patches"]
    subject = inspect.live.inspected.subject  # type: ignore[union-attr]
    chosen = np.flatnonzero(subject.scores_of_map(marked.grid_map) == 1)
    assert f"Removing {len(chosen)} patch" in section.words.text()
    edits = Counterfactuals(subject)
    assert edits.apply(chosen, "remove").flipped


def test_trust_while_another_slide_is_open(
    inspect: InspectWidget, viewer: Any, qtbot: Any, slide_path: Path
) -> None:
    with open_slide(slide_path) as other:
        session = inspect.session
        (sample,) = session.slides
        add_slide(viewer, other)  # it is looked at now, and nothing of the sample is
        assert not inspect.mode.isChecked()
        assert not any(layer.visible for layer in session.layers_of(sample))
        session.show(sample)
        inspect.mode.click()
        settle(inspect, qtbot)
        trust = inspect.trust_section
        # a handful of steps and patches would do, but the sample is what users try first
        trust.maps.setCurrentText("Attention")
        trust.check.click()
        settle(inspect, qtbot)
        assert "finds patches the model's answer depends on" in trust.verdict.text()
        table = trust.agreement.text()
        for text in ("Provenance (state)", "deletion", "insertion", "random", "ranks", "top 45"):
            assert text in table
        assert not trust.chart.isHidden()
        trust.stability.click()
        settle(inspect, qtbot)
        assert "Flips and rotations" in trust.steadiness.text()


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
