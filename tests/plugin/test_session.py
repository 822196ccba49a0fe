"""Several slides in a real window: nothing of one is shown, counted or saved of another."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Shapes
from qtpy.QtCore import Qt
from shapely import box

from napari_2dmamba.export.run_folder import open_run
from napari_2dmamba.plugin.inspect_widget import InspectWidget
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.layers.region_layers import (
    drawn_regions,
    ensure_region_layer,
    show_regions,
)
from napari_2dmamba.plugin.overview import SlideOverview
from napari_2dmamba.plugin.parts.docks import INSPECT, RUN, docked, show
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.slide import Region, Regions, open_slide
from tests.plugin.conftest import LONG, process_events, tissue_pixels, write_slide
from tests.plugin.run_widget import checkpoint, finish, make_checkpoint, runs, widget

__all__ = ["checkpoint", "runs", "widget"]  # fixtures

LEFT = [[0, 0], [0, 1023], [1535, 1023], [1535, 0]]  # (y, x) corners of the left half


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1200, 900)
    return viewer


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two slides of other content, size and resolution."""
    folder = tmp_path_factory.mktemp("two")
    small = np.ascontiguousarray(tissue_pixels()[400:1400, 300:1700])
    return write_slide(folder / "a.tif"), write_slide(folder / "b.tif", mpp=0.4, pixels=small)


@pytest.fixture
def two(widget: RunWidget, paths: tuple[Path, Path]) -> tuple[SlideState, SlideState]:
    assert widget.open_slides(list(paths)) == ()
    first, second = widget.session.slides
    return first, second


@pytest.fixture
def inspect(widget: RunWidget, viewer: Any) -> Iterator[InspectWidget]:
    inspect = show(viewer, INSPECT)
    yield inspect
    inspect.let_go()


def seen(viewer: Any) -> set[str]:
    return {layer.name for layer in viewer.layers if layer.visible}


def settle(inspect: InspectWidget, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: not inspect.is_busy, timeout=LONG)
    process_events()


def test_run_analyses_the_slide_that_is_looked_at(
    widget: RunWidget, viewer: Any, qtbot: Any, two: tuple[SlideState, SlideState]
) -> None:
    first, second = two
    assert widget.session.current is second  # what is opened becomes current
    assert seen(viewer) == {"b.tif"}
    widget.slide_section.slides.setCurrentIndex(0)  # the list
    assert widget.session.current is first
    assert seen(viewer) == {"a.tif"}
    viewer.layers["b.tif"].visible = True  # the eye in napari's list
    assert widget.session.current is second
    assert seen(viewer) == {"b.tif"}
    assert widget.slide_section.slides.currentText() == "b.tif"

    widget.start_run()
    widget.session.show(first)  # gone before it has ended
    finish(widget, qtbot)
    assert seen(viewer) == {"a.tif"}
    assert first.run is None
    assert "run of b.tif has ended" in widget.footer.message.text()
    assert "No result yet" in widget.result_section.headline.text()
    assert not widget.export_section.export.isEnabled()
    assert not viewer.canvas.overlays.text.visible

    widget.session.show(second)
    assert second.run is not None
    assert second.run.record.slide.name == "b.tif"
    assert seen(viewer) == {"b.tif", "Attention"}
    (layer,) = widget.session.runs.maps_of(second)
    high, (_, right) = layer.extent.world[1], viewer.layers["b.tif"].extent.world[1]
    assert (high <= viewer.layers["b.tif"].extent.world[1] + layer.scale).all()
    assert right < 600  # µm: 1400 px of 0.4
    said = widget.result_section.about.text()
    assert "b.tif" in said
    assert "classification.safetensors" in said
    assert "all tissue" in said


def test_regions_belong_to_one_slide(
    widget: RunWidget, viewer: Any, qtbot: Any, two: tuple[SlideState, SlideState]
) -> None:
    first, second = two
    session = widget.session
    session.show(first)
    section = widget.slide_section
    section.region_wanted.emit("include")
    layer = viewer.layers["Regions to include"]
    assert layer.mode == "add_polygon"
    layer.add_rectangles(np.array(LEFT))
    assert "1 to include" in section.regions_about.text()
    qtbot.waitUntil(lambda: first.grid is not None, timeout=LONG)
    assert first.grid is not None
    assert len(first.grid) == 6

    session.show(second)
    assert layer.mode == "pan_zoom"  # the next click draws nothing on what is hidden
    assert "None drawn" in section.regions_about.text()
    assert drawn_regions(session, second) is None
    widget.start_run()
    finish(widget, qtbot)
    assert second.run is not None
    assert second.run.regions is None
    assert second.run.prediction.attention.size == len(second.run.grid)
    assert second.run.grid.coords[:, 0].max() > 512
    session.show(first)
    assert drawn_regions(session, first) is not None
    assert "Regions to include" in seen(viewer)


def test_every_run_has_a_folder_and_brings_its_regions_back(
    widget: RunWidget, viewer: Any, qtbot: Any, paths: tuple[Path, Path], runs: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    session = widget.session
    slide = session.add(open_slide(paths[0]))
    drawn = Regions((Region(box(0, 0, 1024, 1536), "include", "left", "Tumor"),))
    show_regions(session, slide, drawn)
    widget.start_run()
    finish(widget, qtbot)
    first = slide.run
    assert first is not None
    assert len(first.grid) == 6
    assert "1 included region" in widget.result_section.about.text()
    viewer.layers.remove("Regions to include")
    widget.model_section.add_checkpoint(make_checkpoint(tmp_path, seed=5))
    widget.start_run()
    finish(widget, qtbot)
    second = slide.run
    assert second is not None
    assert first.folder is not None
    assert second.folder is not None
    assert first.folder != second.folder
    assert len(second.grid) == 12
    assert len(list(runs.rglob("run.json"))) == 2
    assert len(list(runs.rglob("features-*.h5"))) == 2  # one for each set of patches
    again = open_run(first.folder)  # as it was
    np.testing.assert_array_equal(again.prediction.logits, first.prediction.logits)
    assert not np.array_equal(first.prediction.logits, second.prediction.logits)
    assert json.loads((first.folder / "run.json").read_text())["regions"]

    session.close(slide)
    widget.open_saved_run(first.folder)
    finish(widget, qtbot)
    opened = session.current
    assert opened is not None
    assert drawn_regions(session, opened) == drawn
    assert "1 included region" in widget.result_section.about.text()
    qtbot.waitUntil(lambda: opened.grid is not None, timeout=LONG)
    assert opened.grid is not None
    np.testing.assert_array_equal(opened.grid.coords, first.grid.coords)


def test_a_run_after_inspect_takes_its_place(
    widget: RunWidget, inspect: InspectWidget, viewer: Any, qtbot: Any,
    two: tuple[SlideState, SlideState],
) -> None:  # fmt: skip
    first, second = two
    widget.start_run()
    finish(widget, qtbot)
    inspect.mode.click()
    settle(inspect, qtbot)
    assert "Provenance (state)" in seen(viewer)
    assert "Attention" not in seen(viewer)
    (patch,) = inspect.inspected_patches
    widget.start_run()  # with the mode on: the new run is inspected
    finish(widget, qtbot)
    settle(inspect, qtbot)
    inspect.mode.click()
    widget.start_run()
    finish(widget, qtbot)
    assert seen(viewer) == {"b.tif", "Attention"}
    assert {one.name for one in widget.session.runs.maps_of(second)} == {"Attention"}

    # what is asked follows the slide, and a closed Run dock is no matter
    viewer.window.remove_dock_widget(widget)
    process_events()
    assert docked(viewer, RUN) is None
    inspect.mode.click()
    settle(inspect, qtbot)
    assert inspect.inspected_patches == (patch,)
    widget.session.show(first)
    settle(inspect, qtbot)
    assert seen(viewer) == {"a.tif"}
    assert not inspect.mode.isChecked()
    assert "no run to inspect" in inspect.message.text()
    widget.session.show(second)
    widget.session.close(second)
    assert {layer.name for layer in viewer.layers} == {"a.tif"}


def test_closing_a_slide_ends_its_run(
    widget: RunWidget, viewer: Any, qtbot: Any, two: tuple[SlideState, SlideState]
) -> None:
    first, second = two
    widget.start_run()
    viewer.layers.remove("b.tif")
    finish(widget, qtbot)
    assert widget.session.slides == (first,)
    assert {layer.name for layer in viewer.layers} == {"a.tif"}
    assert "Stopped" in widget.footer.message.text()
    assert widget.session.current is first

    widget.start_run()
    finish(widget, qtbot)
    assert first.run is not None
    widget.slide_section.close_slide.click()
    assert not viewer.layers
    assert not first.works
    assert "No result yet" in widget.result_section.headline.text()
    assert not viewer.canvas.overlays.text.visible
    assert widget.export_section.folder.full_text == "Nothing to export yet"
    assert second not in widget.session.slides


def test_rows_and_columns_are_those_of_the_exports(
    widget: RunWidget, inspect: InspectWidget, viewer: Any, qtbot: Any, paths: tuple[Path, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    slide = widget.session.add(open_slide(paths[0]))
    widget.start_run()
    finish(widget, qtbot)
    widget.export_section.export_wanted.emit("csv", str(tmp_path / "s.csv"), None)
    finish(widget, qtbot)
    with (tmp_path / "s.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    (layer,) = widget.session.runs.maps_of(slide)
    assert layer.grid_map.origin == (512, 512)  # the map does not begin at the slide's corner
    inspect.mode.click()
    settle(inspect, qtbot)
    for number, row in enumerate(rows):
        words = f"row {row['row']}, column {row['col']}"
        x, y = int(row["x_level0_px"]), int(row["y_level0_px"])
        widget.session.select_patch(slide, (x, y))
        assert words in widget.result_section.readout.text()
        assert f"x {x}, y {y}" in widget.result_section.readout.text()
        assert inspect.inspected_patches == (number,)  # they keep in step
        settle(inspect, qtbot)
        assert words in inspect.patch_section.numbers.text()


def test_the_size_of_a_pixel_can_be_corrected(
    widget: RunWidget, viewer: Any, qtbot: Any, paths: tuple[Path, Path]
) -> None:
    slide = widget.session.add(open_slide(paths[0]))
    row, section = widget.slide_section.mpp_row, widget.slide_section
    assert "0.5" in row.about.text()
    assert slide.slide.mpp_source in row.about.text()
    assert not row.editor.isVisibleTo(section)
    widget.start_run()
    finish(widget, qtbot)
    made = slide.run
    assert made is not None
    (layer,) = widget.session.runs.maps_of(slide)
    section.set_open(True)
    row.change.click()
    assert row.value.value() == 0  # nothing is filled in
    assert not row.use.isEnabled()
    line = row.value.lineEdit()
    qtbot.keyClicks(line, "0.25")
    qtbot.keyClick(line, Qt.Key.Key_Return)
    assert slide.slide.mpp == 0.25
    assert "given by the user" in row.about.text()
    assert viewer.layers["a.tif"].scale.tolist() == [0.25, 0.25]
    # the map lies on its patches still, and says what it is
    assert layer.scale.tolist() == [64, 64]
    np.testing.assert_allclose(layer.translate, (512 + 127.5) * 0.25)
    assert "made with 0.5 µm per pixel" in widget.result_section.other_mpp.text()
    assert slide.run is made
    assert made.record.slide.mpp == 0.5
    qtbot.waitUntil(lambda: slide.grid is not None, timeout=LONG)
    assert slide.grid is not None
    assert slide.grid.patch_size_level0 == 512
    row.change.click()
    row.take_back.click()
    assert slide.slide.mpp == 0.5
    assert widget.result_section.other_mpp.text() == ""


def test_micrometres_and_pixels_never_share_a_view(
    widget: RunWidget, viewer: Any, paths: tuple[Path, Path], no_mpp_path: Path,
    notifications: Callable[[], list[str]],
) -> None:  # fmt: skip
    overview = SlideOverview(viewer)
    viewer.window.add_dock_widget(overview, area="left")
    widget.open_slides([paths[0], no_mpp_path])
    measured, unknown = widget.session.slides
    for slide, unit, words in (
        (unknown, "pixel", "full resolution"), (measured, "micrometer", "×"),
        (unknown, "pixel", "full resolution"),
    ):  # fmt: skip
        widget.session.show(slide)
        process_events()
        assert str(viewer.layers.units[-1]) == unit
        assert words in overview.magnification.readout.text()
    assert not [one for one in notifications() if "nit" in one]
    section = widget.slide_section
    assert not section.show_patches.isEnabled()
    assert "µm per pixel" in section.show_patches.toolTip()
    section.mpp_row.use_pixels.setChecked(True)
    assert section.show_patches.isEnabled()
    assert not section.grid_form.editor("target_mpp").isVisibleTo(section)
    widget.session.show(measured)
    assert not widget.session.choices.in_pixels
    overview.let_go()


def test_two_openings_of_one_file_are_two_slides(
    widget: RunWidget, viewer: Any, paths: tuple[Path, Path]
) -> None:
    widget.open_slides([paths[0], paths[0]])
    session = widget.session
    first, second = session.slides
    names = [widget.slide_section.slides.itemText(place) for place in range(2)]
    assert names == ["a.tif", "a.tif (2)"]
    ensure_region_layer(session, second, "include").add_rectangles(np.array(LEFT))
    assert drawn_regions(session, first) is None
    session.show(first)
    assert seen(viewer) == {"a.tif"}
    session.close(second)
    assert [layer.name for layer in viewer.layers] == ["a.tif"]
    assert session.current is first


def test_what_the_user_drew_is_hidden_and_never_removed(
    widget: RunWidget, viewer: Any, two: tuple[SlideState, SlideState]
) -> None:
    first, second = two
    viewer.add_layer(own := Shapes([np.array(LEFT)], name="my own"))
    viewer.scene.camera.zoom = 3.3
    widget.session.show(first)
    assert not own.visible
    assert viewer.scene.camera.zoom != pytest.approx(3.3)
    widget.session.show(second)
    assert own.visible
    assert viewer.scene.camera.zoom == pytest.approx(3.3)
    viewer.layers.selection = {viewer.layers["b.tif"], viewer.layers["a.tif"]}
    viewer.layers.remove_selected()
    assert list(viewer.layers) == [own]
    assert not own.visible
    assert widget.session.current is None


def test_a_session_is_that_of_its_viewer_and_of_its_proxies(viewer: Any) -> None:
    from napari.utils._proxies import PublicOnlyProxy

    session = Session.of(viewer)
    assert Session.of(PublicOnlyProxy(viewer)) is session
    assert session.viewer is viewer
    assert not isinstance(session.viewer.layers, PublicOnlyProxy)
    assert not any(isinstance(one, HeatmapLayer) for one in viewer.layers)
