"""Regions of a slide: drawn, listed, changed, taken back, measured, saved; geometry by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Shapes
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from shapely import LineString, Point, Polygon, box

from napari_2dmamba.errors import GridError
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.export.geojson import class_colour
from napari_2dmamba.plugin.inspect_widget.what_if_region import places
from napari_2dmamba.plugin.layers.line_width import LineWidths
from napari_2dmamba.plugin.layers.map_layers import outline_patch
from napari_2dmamba.plugin.layers.region_layers import (
    annotations,
    drawn_regions,
    import_regions,
    region_layer,
    replace_regions,
    show_regions,
)
from napari_2dmamba.plugin.layers.region_words import area_words, length_words
from napari_2dmamba.plugin.regions_widget import RegionsWidget
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.slide import Region, Regions, read_regions, write_regions
from tests.plugin.conftest import canvas_picture, docked_beside, process_events

LEFT = Qt.MouseButton.LeftButton
RING = box(100, 100, 1100, 900).difference(box(300, 300, 500, 500))
ALL = Regions(
    (
        Region(box(0, 0, 1000, 500), "include", "upper", "Tumor", (200, 0, 0)),
        Region(Polygon([(0, 0), (400, 0), (0, 300)]), "exclude", "fold"),
        Region(RING, "note", "ring", "Stroma", (150, 200, 150)),
        Region(LineString([(0, 0), (300, 400)]), "note", "diameter"),
        Region(Point(700, 800), "note", "mitosis", "Mitosis", (1, 2, 3)),
    )
)


@pytest.fixture
def widget(viewer: Any, slide: SlideState) -> RegionsWidget:
    return docked_beside(viewer, RegionsWidget(viewer))


def canvas_of(viewer: Any) -> Any:
    return viewer.window._qt_viewer.canvas.native


def pixel(viewer: Any, x: float, y: float) -> QPoint:
    """Where level-0 ``x, y`` is on the canvas (0.5 µm per pixel; a pixel's centre is whole)."""
    camera = viewer.scene.camera
    height, width = viewer.canvas.size
    center_y, center_x = camera.center[-2:]
    return QPoint(
        round(width / 2 + ((x - 0.5) * 0.5 - center_x) * camera.zoom),
        round(height / 2 + ((y - 0.5) * 0.5 - center_y) * camera.zoom),
    )


def move(viewer: Any, point: QPoint, buttons: Any) -> None:
    canvas = canvas_of(viewer)
    event = QMouseEvent(
        QEvent.Type.MouseMove, QPointF(point), QPointF(canvas.mapToGlobal(point)),
        Qt.MouseButton.NoButton, buttons, Qt.KeyboardModifier.NoModifier,
    )  # fmt: skip
    QApplication.sendEvent(canvas, event)
    process_events()


def click(viewer: Any, x: float, y: float) -> None:
    point = pixel(viewer, x, y)
    move(viewer, point, Qt.MouseButton.NoButton)
    QTest.mouseClick(canvas_of(viewer), LEFT, pos=point)
    process_events()


def drag(viewer: Any, points: list[tuple[float, float]]) -> None:
    canvas, places = canvas_of(viewer), [pixel(viewer, *one) for one in points]
    move(viewer, places[0], Qt.MouseButton.NoButton)
    QTest.mousePress(canvas, LEFT, pos=places[0])
    for place in places[1:]:
        move(viewer, place, LEFT)
    QTest.mouseRelease(canvas, LEFT, pos=places[-1])
    process_events(6)


def texts(widget: RegionsWidget) -> list[list[str]]:
    table = widget.table
    return [
        [table.item(row, column).text() for column in range(table.columnCount())]  # type: ignore[union-attr]
        for row in range(table.rowCount())
    ]


def test_all_forms_come_back_from_layers_and_from_files(
    viewer: Any, slide: SlideState, tmp_path: Path
) -> None:
    session = Session.of(viewer)
    show_regions(session, slide, ALL)
    assert drawn_regions(session, slide) == ALL
    path = tmp_path / "all.geojson"
    write_regions(ALL, path)
    replace_regions(session, slide, Regions())
    assert drawn_regions(session, slide) is None
    read = import_regions(session, slide, path)
    assert drawn_regions(session, slide) == read
    said = [(one.role, one.name, one.classification, one.colour) for one in ALL]
    assert [(one.role, one.name, one.classification, one.colour) for one in read] == said
    assert all(a.geometry.equals(b.geometry) for a, b in zip(read, ALL, strict=True))
    features = json.loads(path.read_text())["features"]
    assert features[2]["properties"]["classification"] == {
        "name": "Stroma", "color": [150, 200, 150],
    }  # fmt: skip
    assert len(features[2]["geometry"]["coordinates"]) == 2  # outline and hole


def test_a_note_changes_no_analysis() -> None:
    only = Regions(tuple(one for one in ALL if one.role != "note"))
    assert ALL.content_hash() == only.content_hash()
    np.testing.assert_array_equal(
        ALL.rasterize((30, 40), (2048, 1536)), only.rasterize((30, 40), (2048, 1536))
    )


def test_an_edited_ring_keeps_its_hole_and_loses_what_was_measured(
    viewer: Any, slide: SlideState
) -> None:
    session = Session.of(viewer)
    measured = {"measurements": {"Area mm²": 1.0}, "isLocked": False}
    show_regions(session, slide, Regions((Region(RING, "note", properties=measured),)))
    layer: Shapes = region_layer(session, slide, "note")
    layer.data = [corners + 10 for corners in layer.data]
    drawn = drawn_regions(session, slide)
    assert drawn is not None
    (moved,) = drawn
    expected = box(110, 110, 1110, 910).difference(box(310, 310, 510, 510))
    assert moved.geometry.equals(expected)
    assert moved.properties == {"isLocked": False}


def test_what_a_map_measured_stays_while_nobody_edits(viewer: Any, slide: SlideState) -> None:
    session = Session.of(viewer)
    odd = Point(700.1, 500.3).buffer(123.4)  # corners that single precision does not hold
    regions = Regions((Region(odd, "include", properties={"measurements": {"mean": 0.5}}),))
    show_regions(session, slide, regions)
    assert drawn_regions(session, slide) == regions


def test_the_list_tells_area_and_length(widget: RegionsWidget, slide: SlideState) -> None:
    session = widget.session
    show_regions(session, slide, ALL)
    # 0.5 µm per pixel: 1000 x 500 px are 0.125 mm², 3000 px around are 1.5 mm
    assert texts(widget) == [
        ["upper", "Tumor", "include", "0.125 mm²", "1.500 mm"],
        ["fold", "", "exclude", "0.015 mm²", "600.0 µm"],
        ["ring", "Stroma", "annotation only", "0.19 mm²", "2.200 mm"],
        ["diameter", "", "annotation only", "", "250.0 µm"],
        ["mitosis", "Mitosis", "annotation only", "", ""],
    ]
    layer = region_layer(session, slide, "note")
    assert "250.0 µm" in list(layer.features["label"])
    session.set_mpp(slide, 1.0)
    assert texts(widget)[0][3:] == ["0.5 mm²", "3.000 mm"]
    assert "500.0 µm" in list(region_layer(session, slide, "note").features["label"])


def test_sizes_without_microns_are_pixels() -> None:
    assert area_words(ALL.regions[0], None) == "500\u2009000 px²"
    assert length_words(3000.0, None) == "3\u2009000 px"
    assert length_words(3000.0, 0.25) == "750.0 µm"
    assert area_words(ALL.regions[3], 0.5) == ""  # a line


def test_changes_are_made_taken_back_and_made_again(
    widget: RegionsWidget, slide: SlideState, viewer: Any
) -> None:
    session = widget.session
    show_regions(session, slide, ALL)
    widget.table.choose([0])
    widget.form.name.setText("renamed")
    widget.form.name.editingFinished.emit()
    widget.form.classification.setCurrentText("Necrosis")
    widget.form.classification.textActivated.emit("Necrosis")
    widget.form.role.setCurrentIndex(2)
    widget.form.role.activated.emit(2)
    assert texts(widget)[1][:3] == ["renamed", "Necrosis", "annotation only"]
    assert widget.table.chosen() == [1]  # now behind what is excluded
    drawn = drawn_regions(session, slide)
    assert drawn is not None
    assert drawn.regions[1].colour == (50, 50, 50)
    assert drawn.include == ()
    widget.delete()
    assert len(texts(widget)) == 4
    canvas = canvas_of(viewer)
    for _ in range(4):
        QTest.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert drawn_regions(session, slide) == ALL
    shift = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    QTest.keyClick(canvas, Qt.Key.Key_Z, shift)
    assert texts(widget)[0][0] == "renamed"
    for _ in range(3):
        widget.take_back()
    assert drawn_regions(session, slide) is None
    assert not widget.undo.isEnabled()


def test_drawing_with_the_mouse(widget: RegionsWidget, slide: SlideState, viewer: Any) -> None:
    session = widget.session
    step = 2 / viewer.scene.camera.zoom  # level-0 pixels of a screen pixel
    widget.tools["Polygon"].click()
    assert "double click or Enter ends it, Esc cancels" in widget.hint.text()
    for x, y in ((400, 400), (1400, 400), (1400, 1000)):
        click(viewer, x, y)
    last = pixel(viewer, 400, 1000)
    move(viewer, last, Qt.MouseButton.NoButton)
    QTest.mouseClick(canvas_of(viewer), LEFT, pos=last)
    QTest.mouseDClick(canvas_of(viewer), LEFT, pos=last)
    process_events(6)
    layer = region_layer(session, slide, "include")
    assert layer.mode == "pan_zoom"  # the next click starts nothing
    assert not widget.tools["Polygon"].isChecked()
    drawn = drawn_regions(session, slide)
    assert drawn is not None
    (polygon,) = drawn.include
    assert polygon.symmetric_difference(box(400, 400, 1400, 1000)).area < 4 * 1000 * step
    click(viewer, 700, 700)
    assert layer.nshapes == 1

    widget.tools["Polygon"].click()
    for x, y in ((100, 100), (300, 100), (300, 300), (100, 300)):
        click(viewer, x, y)
    QTest.keyClick(canvas_of(viewer), Qt.Key.Key_Escape)
    process_events()
    assert drawn_regions(session, slide) == drawn
    assert layer.mode == "pan_zoom"

    widget.role.setCurrentIndex(1)
    widget.tools["Brush"].click()
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    around = np.column_stack((800 + 300 * np.cos(angle), 700 + 300 * np.sin(angle)))
    drag(viewer, [(float(x), float(y)) for x, y in around])
    drawn = drawn_regions(session, slide)
    assert drawn is not None
    (disc,) = drawn.exclude
    circle = Point(800, 700).buffer(300)
    assert disc.symmetric_difference(circle).area < 0.1 * circle.area

    widget.tools["Measure"].click()
    drag(viewer, [(200, 200), (700, 600), (1400, 1100)])
    length = 0.5 * np.hypot(1200, 900)
    (line,) = [one for one in texts(widget) if one[0].startswith("Line")]
    assert float(line[-1].split()[0]) == pytest.approx(length, abs=2 * step)
    widget.tools["Point"].click()
    click(viewer, 1000, 300)
    process_events(6)
    drawn = drawn_regions(session, slide)
    assert drawn is not None
    assert drawn.regions[-1].geometry.distance(Point(1000, 300)) < 2 * step
    assert len(texts(widget)) == 4


def test_lines_are_as_wide_at_any_zoom(
    widget: RegionsWidget, slide: SlideState, viewer: Any
) -> None:
    session = widget.session
    show_regions(session, slide, ALL)
    outline_patch(session, slide, (512, 512), 64)
    follower = LineWidths.of(session.viewer)
    layers = [one for one in viewer.layers if isinstance(one, Shapes)]
    assert len(layers) == 4
    for zoom in (0.02, 0.3, 1.0, 17.0):
        viewer.scene.camera.zoom = zoom
        for layer in layers:
            pixels = np.array(layer.edge_width) * layer.scale[-1] * zoom
            assert (pixels > 1.9).all()
            assert (pixels < 3.8).all()
            assert layer.current_edge_width / follower.width_of(layer) < 1.26


def test_the_selected_patch_is_seen_at_fit(
    widget: RegionsWidget, slide: SlideState, viewer: Any
) -> None:
    widget.session.fit()
    outline_patch(widget.session, slide, (1024, 700), 16)
    picture = canvas_picture(viewer).astype(int)
    cyan = (picture[..., 0] < 60) & (picture[..., 1] > 170) & (picture[..., 2] > 200)
    assert cyan.sum() > 30


def test_what_if_offers_regions_by_name_and_no_helper_layers(
    widget: RegionsWidget, slide: SlideState
) -> None:
    session = widget.session
    show_regions(session, slide, ALL)
    outline_patch(session, slide, (512, 512), 64)
    own = Shapes([np.array([[0, 0], [0, 10], [10, 10], [10, 0]])], name="mine")
    session.viewer.add_layer(own)
    found = places(session, slide)
    assert list(found) == ["upper", "fold", "ring", "mine"]
    assert found["ring"][0].equals(RING)


def test_a_map_becomes_regions(
    widget: RegionsWidget, slide: SlideState, viewer: Any, tmp_path: Path
) -> None:
    values = np.full((6, 8), np.nan, np.float32)
    values[1:5, 1:7] = 0.1
    values[2:4, 2:5] = 0.9  # six patches of 256 px: 128 µm
    session = widget.session
    grid_map = GridMap(values, "attention", "Where it looks", 256, mpp=0.5)
    session.runs.show_map(slide, grid_map)
    section = widget.threshold
    assert section.map.currentText() == "attention"
    section.threshold.setText("high")
    section.make.click()
    assert "neither a value nor a percentile" in widget.message.text()
    section.threshold.setText("2")
    section.make.click()
    assert "lies above" in widget.message.text()
    assert drawn_regions(session, slide) is None
    section.threshold.setText("0.5")
    section.class_name.setText("Tumor")
    section.make.click()
    assert texts(widget) == [
        ["Tumor 1", "Tumor", "annotation only", "0.0983 mm²", "1.280 mm"],
    ]
    path = tmp_path / "hot.geojson"
    widget.export_file(str(path))
    assert "Written" in widget.message.text()
    (feature,) = json.loads(path.read_text())["features"]
    assert feature["properties"]["classification"] == {"name": "Tumor", "color": [200, 0, 0]}
    assert feature["properties"]["measurements"]["Patches"] == 6
    with pytest.raises(GridError, match="restrict nothing"):
        read_regions(path)  # a run in them would be one on the whole slide
    (region,) = read_regions(path, notes_suffice=True)
    assert region.geometry.equals(box(512, 512, 5 * 256, 4 * 256))
    widget.zoom_to(0)
    center_y, center_x = viewer.scene.camera.center[-2:]
    assert (center_x, center_y) == pytest.approx((447.75, 383.75))
    section.class_name.setText("hot")  # a class that nobody gave a colour
    section.make.click()
    *_, made = annotations(session, slide)
    assert made.region.classification == "hot"
    assert made.region.colour == class_colour("hot")  # as `export --regions-above` has it


def test_a_file_that_is_none_is_one_sentence(widget: RegionsWidget, tmp_path: Path) -> None:
    path = tmp_path / "no.geojson"
    path.write_text("{")
    widget.import_file(str(path))
    assert "not GeoJSON" in widget.message.text()
    widget.export_file(str(path / "x.geojson"))
    assert widget.message.kind == "error"
