from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_2dmamba.plugin.layers.slide_layer import (
    slide_of,
    view_region,
)
from napari_2dmamba.plugin.session import Session
from napari_2dmamba.slide import open_slide
from tests.plugin.conftest import PINK, WHITE, add_slide, canvas_picture, colour_at, write_slide


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(900, 700)
    return viewer


def test_tissue_and_glass_are_drawn_where_they_are(viewer: Any, slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        add_slide(viewer, slide)
        picture = canvas_picture(viewer)
        # the tissue spans 256 to 768 µm in x and 256 to 640 µm in y
        inside = colour_at(viewer, picture, 500, 450)
        np.testing.assert_allclose(inside, PINK, atol=12)
        for x, y in [(100, 100), (900, 400), (500, 700), (100, 600)]:
            np.testing.assert_allclose(colour_at(viewer, picture, x, y), WHITE, atol=2)
        pixel = 1 / viewer.scene.camera.zoom  # the edge, two screen pixels to either side
        outside = colour_at(viewer, picture, 255.75 - 3 * pixel, 450, radius=0)
        just_in = colour_at(viewer, picture, 255.75 + 3 * pixel, 450, radius=0)
        np.testing.assert_allclose(outside, WHITE, atol=3)
        assert just_in[1] < 190


def test_world_is_microns_with_a_scale_bar(viewer: Any, slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        (layer,) = add_slide(viewer, slide)
        assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
        assert viewer.canvas.overlays.scale_bar.visible
        assert slide_of(layer) is slide
        (state,) = Session.of(viewer).slides
        assert state.slide is slide
        assert Session.of(viewer).layers_of(state) == [layer]


def test_giving_mpp_puts_the_same_layer_in_microns(viewer: Any, no_mpp_path: Path) -> None:
    session = Session.of(viewer)
    state = session.add(open_slide(no_mpp_path))
    (layer,) = viewer.layers
    assert [str(unit) for unit in layer.units] == ["pixel", "pixel"]
    session.set_mpp(state, 0.25)
    assert layer.scale.tolist() == [0.25, 0.25]
    assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
    assert slide_of(layer) is state.slide
    assert state.slide.mpp_source == "given by the user"
    picture = canvas_picture(viewer)
    np.testing.assert_allclose(colour_at(viewer, picture, 250, 225), PINK, atol=12)
    session.set_mpp(state, None)
    assert state.slide.mpp is None
    assert layer.scale.tolist() == [1, 1]
    assert [str(unit) for unit in layer.units] == ["pixel", "pixel"]


def test_grey_and_many_channels_open_as_channels(viewer: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    channels = rng.integers(100, 900, (2, 600, 800)).astype(np.uint16)
    path = tmp_path / "two.ome.tif"
    tifffile.imwrite(
        path, channels, tile=(256, 256), metadata={"axes": "CYX", "Channel": {"Name": ["A", "B"]}}
    )
    with open_slide(path) as slide:
        layers = add_slide(viewer, slide)
        assert [layer.name for layer in layers] == ["two.ome.tif: A", "two.ome.tif: B"]
        assert not layers[0].rgb
        low, high = layers[0].contrast_limits
        assert 90 < low < 150
        assert 850 < high <= 900
        assert layers[1].blending == "additive"
        process = canvas_picture(viewer)
        assert process.mean() > 20
    viewer.layers.clear()
    grey = write_slide(tmp_path / "grey.tif", pixels=rng.integers(0, 255, (600, 800)).astype("u1"))
    with open_slide(grey) as slide:
        (layer,) = add_slide(viewer, slide)
        assert layer.name == "grey.tif"
        assert layer.colormap.name == "gray"


def test_a_damaged_tile_shows_background_and_is_told_once(
    viewer: Any, tmp_path: Path, notifications: Callable[[], list[str]]
) -> None:
    pixels = np.full((1024, 1024, 3), PINK, np.uint8)
    path = write_slide(tmp_path / "damaged.tif", pixels=pixels)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        start, length = page.dataoffsets[0], page.databytecounts[0]
    data = bytearray(path.read_bytes())
    data[start : start + length] = bytes(length)
    path.write_bytes(data)
    with open_slide(path) as slide:
        (layer,) = add_slide(viewer, slide)
        picture = canvas_picture(viewer)
        np.testing.assert_allclose(colour_at(viewer, picture, 64, 64), WHITE, atol=2)
        np.testing.assert_allclose(colour_at(viewer, picture, 300, 300), PINK, atol=12)
        layer.refresh()
        viewer.scene.camera.zoom *= 3
        canvas_picture(viewer)
        told = [sentence for sentence in notifications() if "damaged.tif" in sentence]
        assert len(told) == 1
        assert "cannot be decoded" in told[0]


def test_the_view_in_slide_pixels(viewer: Any, slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        add_slide(viewer, slide)
        viewer.scene.camera.zoom = 1.0  # one screen pixel is 1 µm, that is two slide pixels
        viewer.scene.camera.center = (0.0, 300.0, 400.0)
        height, width = viewer.canvas.size
        x, y, w, h = view_region(viewer, 0.5)
        assert (w, h) == (2 * width, 2 * height)
        assert x + w / 2 == pytest.approx(800.5, abs=1)
        assert y + h / 2 == pytest.approx(600.5, abs=1)
