"""The Compare widget in a real window."""

import csv
import dataclasses
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.qt import QtViewer
from PIL import Image
from qtpy.QtCore import QEvent, QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent, QMouseEvent
from qtpy.QtWidgets import QApplication
from safetensors.torch import load_file, save_file
from scipy.stats import percentileofscore, spearmanr

from napari_2dmamba.compare.figure_marks import box_colour
from napari_2dmamba.explain.display import DisplaySettings, format_value
from napari_2dmamba.plugin.compare_widget import CompareWidget, grid_window
from napari_2dmamba.plugin.compare_widget.export_section import figure_files
from napari_2dmamba.plugin.compare_widget.grid_window import GridWindow
from napari_2dmamba.plugin.compare_widget.widget import compared_layers
from napari_2dmamba.plugin.parts.checkpoint_model import shared_checkpoints
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.plugin.session import Session
from napari_2dmamba.sample import (
    demo_checkpoint,
    demo_rivals,
    demo_survival_checkpoint,
    sample_slide,
)
from napari_2dmamba.slide import Slide, open_slide
from tests.plugin.conftest import LONG, add_slide, light_window, process_events
from tests.plugin.run_widget import make_checkpoint

SPACING = 6
CYAN = (0, 213, 255)
PLAIN = DisplaySettings(transform="raw", colormap="gray", opacity=1.0)

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features are extracted once for all tests of this file."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def runs(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from napari.settings import get_plugin_settings

    monkeypatch.setattr(get_plugin_settings("napari-2dmamba").analysis, "runs_folder", str(kept))
    return kept


@pytest.fixture(autouse=True)
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn without a graphics card, large panels take long."""
    monkeypatch.setattr(grid_window, "SIZE", (1100, 640))


@pytest.fixture(scope="session")
def two_seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folders = [tmp_path_factory.mktemp(f"seed{seed}") for seed in (1, 2)]
    first, second = (make_checkpoint(folder, seed=seed) for seed, folder in enumerate(folders, 1))
    return first, second


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    return light_window(make_napari_viewer, 1200, 800)


@pytest.fixture
def widget(viewer: Any) -> Iterator[CompareWidget]:
    widget = CompareWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Compare 2DMamba", area="right")
    yield widget
    widget.let_go()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)  # the grid's window
    process_events()


@pytest.fixture
def slide(viewer: Any, slide_path: Path) -> Iterator[Slide]:
    with open_slide(slide_path) as slide:
        add_slide(viewer, slide)
        yield slide


@pytest.fixture
def compared(
    widget: CompareWidget, slide: Slide, two_seeds: tuple[Path, Path], qtbot: Any
) -> CompareWidget:
    """Two seeds of one small model, compared on the small slide."""
    choose(widget, two_seeds, ("first", "second"))
    finish(widget, qtbot)
    return widget


def choose(widget: CompareWidget, paths: tuple[Path, ...], names: tuple[str, ...]) -> None:
    widget.contenders.show_rows(paths)
    for row, name in zip(widget.contenders.rows, names, strict=True):
        row.name.setText(name)


def locations(widget: CompareWidget) -> list[Path]:
    return [Path(row.location) for row in widget.contenders.chosen]


def finish(widget: CompareWidget, qtbot: Any) -> None:
    widget.footer.run.click()
    qtbot.waitUntil(lambda: not widget.is_running, timeout=5 * LONG)
    if widget.window_ is not None:
        settle(widget.window_, qtbot)


def settle(window: GridWindow, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: window.grid.is_loaded, timeout=LONG)
    process_events()


def window_of(widget: CompareWidget) -> GridWindow:
    assert widget.window_ is not None, widget.footer.message.text()
    return widget.window_


def move_to(canvas: Any, x: int, y: int) -> None:
    """Send what a mouse sends; the pointer of the screen would arrive at some later time."""
    place, none = QPointF(x, y), Qt.MouseButton.NoButton
    event = QMouseEvent(
        QEvent.Type.MouseMove, place, canvas.mapToGlobal(place), none, none,
        Qt.KeyboardModifier.NoModifier,
    )  # fmt: skip
    QApplication.sendEvent(canvas, event)


def picture_of(window: GridWindow, qtbot: Any) -> np.ndarray:
    settle(window, qtbot)
    picture = window.screenshot()
    assert picture.mean() > 5, "the canvas is dead"
    return picture


def in_panel(
    window: GridWindow, shape: tuple[int, ...], panel: int, x: float, y: float
) -> tuple[int, int]:
    """Row and column of a picture where world point ``x, y`` is drawn in one of two panels."""
    camera = window.grid.model.scene.camera
    center_y, center_x = camera.center[-2:]
    width = (shape[1] - SPACING) / 2
    left = panel * (width + SPACING)
    return (
        round(shape[0] / 2 + (y - center_y) * camera.zoom),
        round(left + width / 2 + (x - center_x) * camera.zoom),
    )


def test_the_demo_models_on_the_sample_slide(
    widget: CompareWidget, viewer: Any, qtbot: Any
) -> None:
    with open_slide(sample_slide()) as slide:
        add_slide(viewer, slide)
        # it starts with the demo models, which all fit the sample
        assert locations(widget) == demo_rivals()
        choose(widget, (demo_checkpoint(), demo_survival_checkpoint()), ("tumour", "risk"))
        finish(widget, qtbot)
        window = window_of(widget)
        comparison = widget.comparison
        assert comparison is not None
        cells = [widget.predictions.table.item(row, 1).text() for row in (0, 1)]
        assert cells == ["tumour (synthetic)", "risk"]
        assert "synthetic slides only" in widget.predictions.warning.text()
        a, b = (entry.scores for entry in comparison.entries)
        expected = f"{spearmanr(a, b).statistic:.2f}"
        assert widget.agreement.table.item(0, 2).text() == expected
        assert widget.agreement.table.item(1, 1).text() == expected

        # the same tissue at the same place in both panels
        window.show_maps.setChecked(False)
        tissue = picture_of(window, qtbot).astype(int)
        width = (tissue.shape[1] - SPACING) // 2
        below = slice(80, tissue.shape[0] - 80)  # headings and scale bar
        left, right = tissue[below, :width], tissue[below, -width:]
        assert (left < 200).any()
        assert np.abs(left - right).mean() < 1
        assert np.abs(left[:, :-3] - right[:, 3:]).mean() > 2  # which tells 3 pixels apart

        # patches of a map at their places, each model's in its panel
        window.show_maps.setChecked(True)
        window.form.set_settings(PLAIN)
        picture = picture_of(window, qtbot)
        for panel, scores in enumerate((a, b)):
            grey = 255 * (scores - scores.min()) / np.ptp(scores)
            side = comparison.bag.patch_size_level0
            checked = 0
            for patch in range(0, len(scores), 7):
                for dx, dy in ((0.15, 0.15), (0.85, 0.15), (0.5, 0.5), (0.15, 0.85), (0.85, 0.85)):
                    x, y = (comparison.bag.coords[patch] + (dx * side, dy * side)) * 0.5
                    row, col = in_panel(window, picture.shape, panel, x, y)
                    if row > 120:
                        assert picture[row, col] == pytest.approx(grey[patch], abs=4)
                        checked += 1
            assert checked > 100

        # models of two tasks are no ensemble
        window.panel_list.combine.click()
        assert "no ensemble" in window.message.text()
        assert len(window.grid.maps) == 2


def test_the_cursor_reads_all_maps(compared: CompareWidget, qtbot: Any) -> None:
    window, comparison = window_of(compared), compared.comparison
    assert comparison is not None
    window.panel_list.add.click()  # first - second
    window.panel_list.tick("difference 0 1", False)  # read, also where it is not shown
    assert len(window.grid.maps) == 2
    settle(window, qtbot)
    patch = len(comparison.bag) // 2
    size = comparison.bag.patch_size_level0
    x, y = (comparison.bag.coords[patch] + size / 2) * 0.5
    canvas = window.grid.findChildren(QtViewer)[0].canvas.native
    shape = canvas.height(), canvas.width()
    row, col = in_panel(window, shape, 1, x, y)
    move_to(canvas, col + 3, row + 3)
    table = window.values.table
    scores = [entry.scores for entry in comparison.entries]
    ranks = [percentileofscore(s, s[patch], kind="mean") for s in scores]
    for number, values in enumerate(scores):
        assert table.item(number, 0).text() == ("first", "second")[number]
        assert table.item(number, 1).text() == format_value(values[patch])
        assert table.item(number, 2).text() == str(int((values > values[patch]).sum()) + 1)
        assert table.item(number, 3).text() == f"{ranks[number]:.0f}"
    assert table.item(2, 1).text() == format_value(ranks[0] - ranks[1])
    left, top = comparison.bag.coords[patch]
    assert f"x {left}, y {top}" in window.values.place.text()

    picture = picture_of(window, qtbot)  # the patch is framed in both panels
    for panel in (0, 1):
        edge = in_panel(window, picture.shape, panel, x - size * 0.25, y)
        near = picture[edge[0] - 2 : edge[0] + 3, edge[1] - 2 : edge[1] + 3].reshape(-1, 3)
        assert np.abs(near.astype(int) - CYAN).sum(axis=1).min() < 90

    row, col = in_panel(window, shape, 1, 20, 20)
    move_to(canvas, col, row)  # glass
    assert table.item(0, 1).text() == ""
    assert "No patch" in window.values.place.text()
    settle(window, qtbot)
    picture = picture_of(window, qtbot).astype(int)  # nor is the frame where it was
    assert np.abs(picture - CYAN).sum(axis=2).min() > 90


def test_ranges_differences_and_ensembles(compared: CompareWidget, viewer: Any, qtbot: Any) -> None:
    window, comparison = window_of(compared), compared.comparison
    assert comparison is not None
    a, b = (entry.scores for entry in comparison.entries)
    window.form.set_settings(PLAIN)
    own = [layer.contrast_limits for layer in window.grid.maps]
    assert own == [pytest.approx([s.min(), s.max()], rel=1e-5) for s in (a, b)]
    window.one_range.setChecked(True)
    for layer in window.grid.maps:
        low, high = min(a.min(), b.min()), max(a.max(), b.max())
        assert layer.contrast_limits == pytest.approx([low, high], rel=1e-5)

    window.panel_list.combine.click()
    window.panel_list.add.click()
    mean, spread, difference = window.grid.maps[2:]
    ranked = np.array([[percentileofscore(s, v, kind="mean") for v in s] for s in (a, b)])
    cells = (comparison.bag.coords - mean.grid_map.origin)[:, ::-1]
    rows, cols = (cells // comparison.bag.patch_size_level0).T
    assert mean.data[rows, cols] == pytest.approx(ranked.mean(axis=0), rel=1e-4)
    assert spread.data[rows, cols] == pytest.approx(ranked.std(axis=0, ddof=1), rel=1e-4, abs=1e-3)
    assert difference.data[rows, cols] == pytest.approx(ranked[0] - ranked[1], rel=1e-4, abs=1e-3)
    assert difference.contrast_limits == [-100, 100]
    assert [panel.title for panel in window.panel_list.ticked][2:] == [
        "Mean of first, second", "Spread of first, second", "first − second",
    ]  # fmt: skip

    window.panel_list.tick("entry 0", False)
    window.to_layers.click()
    session = Session.of(viewer)
    (on,) = session.slides
    layers = compared_layers(session, on)
    names = ["second", "Mean of first, second", "Spread of first, second", "first − second"]
    assert [layer.name for layer in layers] == names
    assert [layer.visible for layer in layers] == [False, False, False, True]
    window.to_layers.click()  # again: in place of those
    assert [layer.name for layer in compared_layers(session, on)] == names

    window.follow.setChecked(True)
    viewer.scene.camera.zoom *= 2
    assert window.grid.model.scene.camera.zoom == pytest.approx(viewer.scene.camera.zoom)
    window.grid.model.scene.camera.center = (0, 300, 400)
    assert viewer.scene.camera.center[-2:] == pytest.approx((300, 400))


def test_a_comparison_is_shown_in_the_size_it_was_made_in(
    compared: CompareWidget, viewer: Any, qtbot: Any
) -> None:
    session = Session.of(viewer)
    (on,) = session.slides
    before = on.slide
    session.set_mpp(on, 0.25)
    try:
        assert "made with 0.5 µm per pixel" in compared.footer.message.text()
        compared.open_window()
        window = window_of(compared)
        settle(window, qtbot)
        slide, shown = window.grid.model.layers[:2]
        place = shown.grid_map.origin
        corner = slide.data_to_world((place[1] - 0.5, place[0] - 0.5))
        assert shown.data_to_world((-0.5, -0.5)) == pytest.approx(corner)
        assert not window.follow.isEnabled()
        assert on.compared_on is before
        window.to_layers.click()
        (pyramid,) = session.pyramid_of(on)
        layer = compared_layers(session, on)[0]
        corner = pyramid.data_to_world((place[1] - 0.5, place[0] - 0.5))
        assert layer.data_to_world((-0.5, -0.5)) == pytest.approx(corner)
    finally:
        session.set_mpp(on, None)


def test_zoom_boxes_are_framed_in_every_panel(
    compared: CompareWidget, viewer: Any, qtbot: Any
) -> None:
    window = window_of(compared)
    window.show_maps.setChecked(False)
    camera = window.grid.model.scene.camera
    settle(window, qtbot)
    whole = camera.zoom
    camera.zoom, camera.center = 4 * whole, (0, 400, 500)
    settle(window, qtbot)
    window.add_zoom.click()
    ((x, y, width, height),) = window.zooms
    colour = np.array([int(box_colour(1)[k : k + 2], 16) for k in (1, 3, 5)])

    def is_edge(picture: np.ndarray) -> np.ndarray:
        return (np.abs(picture[..., :3].astype(int) - colour) < 40).all(-1)

    for zoom in (whole, 2.5 * whole):  # the edge is as thick on the screen at each
        camera.zoom = zoom
        picture = picture_of(window, qtbot)
        edge = is_edge(picture)
        for panel in (0, 1):
            top, left = in_panel(window, picture.shape, panel, x, y)
            bottom, right = in_panel(window, picture.shape, panel, x + width, y + height)
            across = edge[(top + bottom) // 2, left - 6 : right + 7]  # clear of the number
            found = np.flatnonzero(across)
            assert 2 <= len(found) <= 8
            assert abs(found[0] - 6) <= 2
            assert abs(found[-1] - (right - left + 6)) <= 2
            down = np.flatnonzero(edge[top - 6 : bottom + 7, (left + right) // 2])
            assert abs(down[0] - 6) <= 2
            assert abs(down[-1] - (bottom - top + 6)) <= 2
    window.clear_zooms.click()
    assert not is_edge(picture_of(window, qtbot)).any()

    viewer.close()  # and the grid with it
    assert compared.window_ is None


def test_figure_and_files(
    compared: CompareWidget, slide: Slide, tmp_path: Path, qtbot: Any
) -> None:
    window, comparison = window_of(compared), compared.comparison
    assert comparison is not None
    settle(window, qtbot)
    assert window.grid.seen() == pytest.approx((0, 0, 1024, 768))  # µm: all of it
    window.grid.model.scene.camera.zoom *= 8
    window.grid.model.scene.camera.center = (0, 400, 500)
    settle(window, qtbot)
    window.add_zoom.click()
    ((x, y, width, height),) = window.zooms
    assert (x + width / 2, y + height / 2) == pytest.approx((500.25, 400.25))
    assert 0 < width < 1024 / 4
    window.panel_list.add.click()
    window.panel_list.tick("entry 1", False)
    compared.write_figure(figure_files(tmp_path / "figure.pdf"))
    qtbot.waitUntil(lambda: not compared.is_running, timeout=LONG)
    assert compared.footer.message.kind == "good", compared.footer.message.text()
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.width == pytest.approx(180 / 25.4 * 300, abs=2)
    words = (tmp_path / "figure.svg").read_text()
    assert ">first<" in words  # not second, which is not on display
    assert ">first − second<" in words
    assert ">second<" not in words
    assert ">Region 1<" in words

    compared.write_files(tmp_path / "tables")
    qtbot.waitUntil(lambda: not compared.is_running, timeout=LONG)
    with (tmp_path / "tables" / "predictions.csv").open(newline="") as table:
        assert [row["label"] for row in csv.DictReader(table)] == ["first", "second"]


def test_the_grid_closes_with_its_slide_and_leaves_nothing(
    compared: CompareWidget, viewer: Any, slide: Slide, qtbot: Any
) -> None:
    views = len(QtViewer._instances)
    assert views == 2
    window_of(compared).close()
    assert compared.window_ is None
    settled(qtbot, lambda: len(QtViewer._instances) == 1)
    compared.show_grid.click()
    settle(window_of(compared), qtbot)
    assert len(window_of(compared).grid.maps) == 2
    threads = {thread.name for thread in threading.enumerate()}

    viewer.layers.remove(viewer.layers[slide.name])
    assert compared.window_ is None
    assert compared.predictions.isHidden()
    settled(qtbot, lambda: len(QtViewer._instances) == 1)
    assert {thread.name for thread in threading.enumerate()} <= threads
    compared.footer.run.click()
    assert "No slide is open" in compared.footer.message.text()


def settled(qtbot: Any, condition: Callable[[], bool]) -> None:
    for _ in range(20):
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        qtbot.wait(50)
        gc.collect()
        if condition():
            return
    raise AssertionError("something is left")


def test_cancelling_leaves_nothing(
    widget: CompareWidget, viewer: Any, slide: Slide, two_seeds: tuple[Path, Path], qtbot: Any,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from napari.settings import get_plugin_settings

    folder = tmp_path / "runs"
    monkeypatch.setattr(get_plugin_settings("napari-2dmamba").analysis, "runs_folder", str(folder))
    choose(widget, two_seeds, ("first", "second"))
    layers = list(viewer.layers)
    widget.footer.run.click()
    assert widget.is_running
    widget.footer.cancel.click()
    qtbot.waitUntil(lambda: not widget.is_running, timeout=LONG)
    assert "Stopped" in widget.footer.message.text()
    assert widget.window_ is None
    assert widget.comparison is None
    assert widget.predictions.isHidden()
    assert list(viewer.layers) == layers
    assert not [one for one in folder.rglob("*") if one.is_file()]
    assert widget.footer.run.isEnabled()


def test_models_that_do_not_fit_each_other(
    widget: CompareWidget, slide: Slide, two_seeds: tuple[Path, Path], tmp_path: Path, qtbot: Any,
    notifications: Callable[[], list[str]],
) -> None:  # fmt: skip
    weights = tmp_path / "weights.safetensors"
    save_file(load_file(two_seeds[0]), weights)  # without the header that says what they are
    choose(widget, (two_seeds[0], weights), ("small", "bare"))
    finish(widget, qtbot)
    assert "choose it in Run 2DMamba" in widget.footer.message.text()

    larger = make_checkpoint(tmp_path, patch_size=512)
    choose(widget, (two_seeds[0], larger), ("small", "large"))
    finish(widget, qtbot)
    sentence = widget.footer.message.text()
    assert "arge was trained with patch size 512 px, and small with 256 px" in sentence
    assert widget.window_ is None
    assert any("patch size 512" in one for one in notifications())

    choose(widget, (two_seeds[0],), ("alone",))
    finish(widget, qtbot)
    assert "choose another model or map" in widget.footer.message.text()
    widget.contenders.rows[0].maps.tick("gradient-x-input")
    finish(widget, qtbot)
    assert [panel.title for panel in window_of(widget).panel_list.ticked] == [
        "alone", "alone: gradient-x-input",
    ]  # fmt: skip

    window = window_of(widget)  # another comparison takes the same window
    choose(widget, two_seeds, ("first", "second"))
    finish(widget, qtbot)
    assert window_of(widget) is window
    assert [panel.title for panel in window.ticked] == ["first", "second"]
    assert widget.comparison is not None
    for layer, entry in zip(window.grid.maps, widget.comparison.entries, strict=True):
        assert layer.grid_map is entry.grid_map


def test_choosing_models(
    widget: CompareWidget, two_seeds: tuple[Path, Path], tmp_path: Path, qtbot: Any
) -> None:
    models, checkpoints = widget.contenders, shared_checkpoints()
    models.show_rows([])
    text = tmp_path / "notes.safetensors"
    text.write_text("no weights")
    drop(models, [*two_seeds, text])
    assert locations(widget) == [*two_seeds, text]
    qtbot.waitUntil(lambda: not checkpoints.is_reading, timeout=LONG)
    assert "notes.safetensors" in models.message.text()
    models.rows[2].remove.click()
    assert models.message.isHidden()

    folder = tmp_path / "folder"
    folder.mkdir()
    third = make_checkpoint(folder, class_names=("a", "b", "c"))
    drop(models, [folder])  # offered, and compared when it is chosen
    qtbot.waitUntil(lambda: checkpoints.row_of(str(third)) is not None, timeout=LONG)
    assert locations(widget) == list(two_seeds)
    models.rows[1].models.choose(str(third))
    assert locations(widget) == [two_seeds[0], third]
    for _ in range(5):
        models.add.click()
    assert len(set(locations(widget))) == len(models.rows) == 6
    assert not models.add.isEnabled()
    models.rows[0].remove.click()
    assert len(models.rows) == 5
    assert models.add.isEnabled()
    assert widget.models_section._summary.full_text == "5 maps"


def test_the_run_widgets_model_slide_and_patches(
    viewer: Any, slide: Slide, two_seeds: tuple[Path, Path], qtbot: Any
) -> None:
    run_widget = RunWidget(viewer)
    viewer.window.add_dock_widget(run_widget, name="Run 2DMamba", area="right")
    run_widget.model_section.add_checkpoint(two_seeds[0])
    form = run_widget.slide_section.grid_form
    form.set_settings(dataclasses.replace(form.settings(), min_tissue=1.0))
    widget = CompareWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Compare 2DMamba", area="right")
    try:
        assert locations(widget)[0] == two_seeds[0]
        assert set(locations(widget)[1:]) <= set(demo_rivals())
        choose(widget, two_seeds, ("first", "second"))
        finish(widget, qtbot)
        assert widget.comparison is not None
        assert widget.comparison.grid.tissue_fraction.min() == 1
    finally:
        widget.let_go()
        run_widget.let_go()


def drop(models: Any, paths: list[Path]) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    models.dropEvent(
        QDropEvent(
            QPointF(5, 5), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton,
            Qt.KeyboardModifier.NoModifier,
        )
    )  # fmt: skip
