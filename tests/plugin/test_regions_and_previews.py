from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Shapes
from shapely import Polygon, box
from shapely.ops import unary_union

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.map_regions import regions_above
from napari_2dmamba.plugin.layers.preview import show_patches, show_tissue
from napari_2dmamba.plugin.layers.region_history import RegionHistory
from napari_2dmamba.plugin.layers.region_layers import (
    drawn_regions,
    ensure_region_layer,
    show_regions,
)
from napari_2dmamba.plugin.layers.region_shapes import to_polygons, to_shape, without_holes
from napari_2dmamba.plugin.npe2.writer import write_region_layers
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.slide import (
    GridSettings,
    Regions,
    TissueSettings,
    detect_tissue,
    make_grid,
    open_slide,
    read_regions,
)
from tests.plugin.conftest import TISSUE, canvas_picture, colour_at


def test_polygons_come_back_as_they_went(slide_path: Path) -> None:
    viewer = ViewerModel()
    regions = Regions.of((box(100, 200, 900, 800),), (Polygon([(0, 0), (50, 0), (0, 50)]),))
    with open_slide(slide_path) as slide:
        session = Session.of(viewer)
        state = session.add(slide)
        show_regions(session, state, regions)
        drawn = drawn_regions(session, state)
    assert drawn is not None
    assert drawn.include[0].equals(regions.include[0])
    assert drawn.exclude[0].equals(regions.exclude[0])
    assert [layer.name for layer in viewer.layers][1:] == [
        "Regions to include",
        "Regions to exclude",
    ]


def test_shapes_are_placed_in_microns(slide_path: Path) -> None:
    viewer = ViewerModel()
    with open_slide(slide_path) as slide:
        session = Session.of(viewer)
        state = session.add(slide)
        layer = ensure_region_layer(session, state, "include")
        assert ensure_region_layer(session, state, "include") is layer
    layer.add_rectangles(np.array([[99.5, 199.5], [99.5, 299.5], [199.5, 299.5], [199.5, 199.5]]))
    assert layer.extent.world[1] == pytest.approx([199.5 / 2, 299.5 / 2], abs=3)
    drawn = drawn_regions(session, state)
    assert drawn is not None
    assert drawn.include[0].equals(box(200, 100, 300, 200))


def test_nothing_drawn_is_none(slide_path: Path) -> None:
    session = Session.of(viewer := ViewerModel())
    with open_slide(slide_path) as slide:
        assert drawn_regions(session, session.add(slide)) is None
    assert len(viewer.layers) == 1


def test_an_ellipse_has_its_area() -> None:
    corners = np.array([[0, 0], [0, 200], [100, 200], [100, 0]], float)
    (polygon,) = to_polygons(corners, "ellipse")
    assert polygon.area == pytest.approx(np.pi * 100 * 50, rel=0.01)
    assert polygon.bounds == pytest.approx((0.5, 0.5, 200.5, 100.5), abs=0.5)


def test_lines_and_crossed_outlines() -> None:
    assert to_polygons(np.array([[0, 0], [5, 5]]), "line") == []
    bow_tie = np.array([[0, 0], [10, 10], [0, 10], [10, 0]], float)
    parts = to_polygons(bow_tie, "polygon")
    assert sum(part.area for part in parts) == pytest.approx(50)


def test_holes_are_cut_and_not_lost() -> None:
    ring = box(0, 0, 100, 100).difference(box(20, 20, 40, 40)).difference(box(60, 60, 70, 90))
    pieces = without_holes(ring)
    assert all(not piece.interiors for piece in pieces)
    assert unary_union(pieces).equals(ring)
    again = [to_polygons(to_shape(piece), "polygon")[0] for piece in pieces]
    assert sum(piece.area for piece in again) == pytest.approx(ring.area)


def test_previews_lie_on_the_tissue(make_napari_viewer: Any, slide_path: Path) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(900, 700)
    viewer.theme = "light"
    with open_slide(slide_path) as slide:
        session = Session.of(viewer)
        state = session.add(slide)
        (layer,) = viewer.layers
        viewer.layers.selection.active = layer
        tissue = detect_tissue(slide, TissueSettings())
        grid = make_grid(slide, tissue, GridSettings(patch_size=256))
        state.shows_tissue = state.shows_patches = True
        state.tissue, state.grid = tissue, grid
        show_tissue(session, state)
        show_patches(session, state)
        assert viewer.layers.selection.active is layer
        # 256 px at 0.5 µm is 256 px of level 0: the tissue fills 4 x 3 cells exactly
        assert len(grid) == 12
        viewer.layers["Patches"].opacity = 1.0
        picture = canvas_picture(viewer)
        dark, light = (26, 102, 204), (127, 180, 255)
        left, top = TISSUE[0] / 2 + 64, TISSUE[1] / 2 + 64
        np.testing.assert_allclose(colour_at(viewer, picture, left, top), dark, atol=6)
        np.testing.assert_allclose(colour_at(viewer, picture, left + 128, top), light, atol=6)
        np.testing.assert_allclose(colour_at(viewer, picture, left - 128, top), 255, atol=3)
        labels = viewer.layers["Tissue"]
        extent = np.array(labels.extent.world)
        np.testing.assert_allclose(extent[0], labels.translate)
        inside = labels.get_value((450, 500), world=True)
        assert inside == 1
        assert labels.get_value((100, 100), world=True) == 0
        state.shows_tissue = state.shows_patches = False
        show_tissue(session, state)
        show_patches(session, state)
        assert list(viewer.layers) == [layer]


def test_a_hundred_thousand_patches_are_one_small_layer(slide_path: Path) -> None:
    viewer = ViewerModel()
    with open_slide(slide_path) as slide:
        tissue = detect_tissue(slide, TissueSettings(method="everything"))
        grid = make_grid(slide, tissue, GridSettings(patch_size=16, target_mpp=0.5))
        assert len(grid) == 128 * 96
        state = Session.of(viewer).add(slide)
        state.shows_patches, state.grid = True, grid
        show_patches(Session.of(viewer), state)
        assert viewer.layers["Patches"].data.shape == (96, 128)


def test_regions_are_saved_for_qupath(slide_path: Path, tmp_path: Path) -> None:
    viewer = ViewerModel()
    regions = Regions.of((box(100, 200, 900, 800),), (box(300, 300, 400, 400),))
    with open_slide(slide_path) as slide:
        session = Session.of(viewer)
        show_regions(session, session.add(slide), regions)
        path = tmp_path / "regions.geojson"
        viewer.layers.selection = set(viewer.layers[1:])
        written = viewer.layers.save(str(path), selected=True, plugin="napari-2dmamba")
        assert written == [str(path)]
        again = read_regions(path, offset=slide.bounds[:2])
    assert again.include[0].equals(regions.include[0])
    assert again.exclude[0].equals(regions.exclude[0])


def test_areas_and_files_are_of_one_slide_as_it_is_shown(slide_path: Path, tmp_path: Path) -> None:
    viewer = ViewerModel()
    session = Session.of(viewer)
    above = GridMap(np.full((1, 2), 0.7, np.float32), "attention", "", 100, (200, 300), 0.5)
    with open_slide(slide_path) as first, open_slide(slide_path) as second:
        history = RegionHistory.of(session)
        for slide in (first, second):
            state = session.add(slide)
            show_regions(session, state, regions_above(above, 0.5))
            drawn = drawn_regions(session, state)
            assert drawn is not None
            history.note(state, drawn)
        assert areas(session, state) == [{"Area mm²": pytest.approx(0.005)}]
        session.set_mpp(state, 0.25)  # 200 x 100 pixels
        assert areas(session, state) == [{"Area mm²": pytest.approx(0.00125)}]
        drawn = drawn_regions(session, state)
        assert drawn is not None
        history.note(state, drawn)  # measured otherwise, but the same
        history.undo(session, state)
        assert areas(session, state) == []
        history.redo(session, state)
        assert areas(session, state) == [{"Area mm²": pytest.approx(0.00125)}]
        viewer.layers.selection = {one for one in viewer.layers if isinstance(one, Shapes)}
        path = tmp_path / "regions.geojson"
        with pytest.raises(ExportError, match="lie on 2 slides"):
            viewer.layers.save(str(path), selected=True, plugin="napari-2dmamba")
        assert not path.exists()


def areas(session: Session, slide: SlideState) -> list[dict[str, float]]:
    """What regions say of their area."""
    told = [one.properties["measurements"] for one in drawn_regions(session, slide) or ()]
    return [{name: one[name] for name in one if "Area" in name} for one in told]


def test_saving_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no areas are drawn"):
        write_region_layers(str(tmp_path / "x.geojson"), [([], {"shape_type": []}, "shapes")])
