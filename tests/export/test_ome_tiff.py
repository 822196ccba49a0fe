import xml.etree.ElementTree as ET

import numpy as np
import openslide
import pytest
import tifffile

from napari_2dmamba.errors import Cancelled, ExportError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap, scatter
from napari_2dmamba.export.ome_tiff import PyramidSettings, write_map_tiff, write_overlay_tiff
from napari_2dmamba.export.picture import PictureSettings, write_picture
from napari_2dmamba.slide import Slide, open_slide

from .material import ATTENTION, COORDS, SIZE, attention_map
from .test_picture import picture_of

FINE = PyramidSettings(mpp=0.5, tile_size=128, compression="zlib")


def ome_of(path) -> tuple[dict, dict, dict]:
    """Pixels attributes, plane attributes and annotations of the first image."""
    root = ET.fromstring(tifffile.TiffFile(path).ome_metadata)
    space = {"o": root.tag[1:].split("}")[0]}
    pixels = root.find(".//o:Pixels", space)
    plane = root.find(".//o:Plane", space)
    notes = {m.get("K"): m.text for m in root.findall(".//o:MapAnnotation//o:M", space)}
    return pixels.attrib, plane.attrib, notes


def test_the_overlay_is_the_picture_and_lies_on_the_slide(slide: Slide, tmp_path) -> None:
    how = DisplaySettings(transform="raw", opacity=0.4)
    path = write_overlay_tiff(slide, attention_map(), tmp_path / "a.ome.tif", FINE, display=how)
    png = write_picture(
        slide,
        attention_map(),
        tmp_path / "a.png",
        PictureSettings(mpp=0.5, bars=False),
        display=how,
    )
    np.testing.assert_array_equal(tifffile.imread(path), picture_of(png))
    pixels, plane, notes = ome_of(path)
    assert float(pixels["PhysicalSizeX"]) == float(pixels["PhysicalSizeY"]) == 0.5
    assert pixels["PhysicalSizeXUnit"] == "µm"
    assert float(plane["PositionX"]) == 0.0
    assert notes["slide"] == slide.name
    assert notes["meaning"] == "share of attention"


def test_other_readers_see_the_same_pixels_and_size(slide: Slide, tmp_path) -> None:
    path = write_overlay_tiff(slide, attention_map(), tmp_path / "a.ome.tif", FINE)
    expected = tifffile.imread(path)
    with openslide.OpenSlide(path) as seen:
        region = np.asarray(seen.read_region((0, 0), 0, seen.dimensions))[..., :3]
        assert float(seen.properties["openslide.mpp-x"]) == pytest.approx(0.5)
    np.testing.assert_array_equal(region, expected)
    with open_slide(path) as again:
        np.testing.assert_array_equal(again.read_region(0, 0, 0, 437, 333), expected)
        assert again.mpp == pytest.approx(0.5)


def test_the_pyramid_halves_and_stays_aligned(slide: Slide, tmp_path) -> None:
    """Enlarged so that there are levels; a cell has its colour on every one of them."""
    path = write_overlay_tiff(
        slide,
        attention_map(),
        tmp_path / "a.ome.tif",
        PyramidSettings(mpp=0.125, tile_size=256, compression="zlib"),
    )
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        levels = file.series[0].levels
        assert [level.shape for level in levels] == [(1332, 1748, 3), (666, 874, 3), (333, 437, 3)]
        assert all(page.is_tiled for level in levels for page in level.pages)
        finest = levels[0].asarray()
        for level in levels[1:]:
            coarse = level.asarray()
            factor = finest.shape[0] // coarse.shape[0]
            middles = finest[factor // 2 :: factor, factor // 2 :: factor]
            np.testing.assert_array_equal(coarse, middles)


def test_jpeg_is_close_and_smaller(slide: Slide, tmp_path) -> None:
    exact = write_overlay_tiff(slide, attention_map(), tmp_path / "a.ome.tif", FINE)
    settings = PyramidSettings(mpp=0.5, tile_size=128, compression="jpeg")
    lossy = write_overlay_tiff(slide, attention_map(), tmp_path / "b.ome.tif", settings)
    difference = np.abs(tifffile.imread(exact).astype(int) - tifffile.imread(lossy))
    assert np.median(difference) <= 2
    with tifffile.TiffFile(lossy) as file:
        assert file.pages[0].compression == tifffile.COMPRESSION.JPEG


def test_the_raw_map_has_one_pixel_per_patch_and_says_where_it_lies(tmp_path) -> None:
    moved = COORDS + np.array([130, 70])
    shifted = scatter(
        ATTENTION, moved, SIZE, name="attention", meaning="a & b < c", mpp=0.5
    )  # fmt: skip
    path = write_map_tiff(shifted, tmp_path / "m.ome.tif")
    found = tifffile.imread(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, shifted.values)
    pixels, plane, notes = ome_of(path)
    assert float(pixels["PhysicalSizeX"]) == SIZE * 0.5
    assert (float(plane["PositionX"]), float(plane["PositionY"])) == (65.0, 35.0)
    assert plane["PositionXUnit"] == "µm"
    assert (notes["corner_x_level0_px"], notes["corner_y_level0_px"]) == ("130", "70")
    assert notes["meaning"] == "a & b < c"


def test_without_mpp_the_map_counts_in_pixels(tmp_path) -> None:
    path = write_map_tiff(attention_map(None), tmp_path / "m.ome.tif")
    pixels, plane, notes = ome_of(path)
    assert float(pixels["PhysicalSizeX"]) == SIZE
    assert pixels["PhysicalSizeXUnit"] == plane["PositionXUnit"] == "pixel"
    assert notes["slide_mpp"] == "unknown"


def test_the_resampled_map_lies_on_the_slide(slide: Slide, tmp_path) -> None:
    path = write_map_tiff(attention_map(), tmp_path / "m.ome.tif", FINE, slide=slide)
    found = tifffile.imread(path)
    expected = np.full((333, 437), np.nan, dtype=np.float32)
    for (x, y), value in zip(COORDS, ATTENTION, strict=True):
        expected[y : y + SIZE, x : x + SIZE] = value
    np.testing.assert_array_equal(found, expected)


def test_a_region_says_its_corner(slide: Slide, tmp_path) -> None:
    path = write_overlay_tiff(
        slide, attention_map(), tmp_path / "a.ome.tif", FINE, region=(100, 40, 150, 90)
    )
    whole = write_overlay_tiff(slide, attention_map(), tmp_path / "b.ome.tif", FINE)
    np.testing.assert_array_equal(tifffile.imread(path), tifffile.imread(whole)[40:130, 100:250])
    assert float(ome_of(path)[1]["PositionX"]) == 50.0
    assert ome_of(path)[2]["corner_y_level0_px"] == "40"


def test_progress_reaches_its_end_and_cancelling_leaves_nothing(slide: Slide, tmp_path) -> None:
    seen: list[tuple[int, int]] = []
    write_overlay_tiff(
        slide, attention_map(), tmp_path / "a.ome.tif", FINE,
        on_progress=lambda done, total, message: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(n, 12) for n in range(1, 13)]
    answers = iter([False, False, True])
    with pytest.raises(Cancelled):
        write_overlay_tiff(
            slide, attention_map(), tmp_path / "b.ome.tif", FINE, should_stop=lambda: next(answers)
        )
    assert [p.name for p in tmp_path.iterdir()] == ["a.ome.tif"]


def test_a_place_that_cannot_be_written_is_named(slide: Slide, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="choose a folder you may write to"):
        write_map_tiff(attention_map(), tmp_path / "file" / "m.ome.tif")


def test_absurd_sizes_are_refused_before_anything_is_written(slide: Slide, tmp_path) -> None:
    with pytest.raises(ExportError, match="µm per pixel or more"):
        write_overlay_tiff(
            slide, attention_map(), tmp_path / "a.ome.tif", PyramidSettings(mpp=0.0001)
        )
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_file(slide: Slide, tmp_path) -> None:
    """20 megapixels of float64 working copies would be 480 MB; tiles need a few."""
    import tracemalloc

    wide = GridMap(np.zeros((3, 4), np.float32), "a", "b", SIZE, mpp=0.5)
    tracemalloc.start()
    write_overlay_tiff(slide, wide, tmp_path / "a.ome.tif", PyramidSettings(mpp=0.042))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert np.prod(file.series[0].shape) > 60e6
    assert peak < 110e6


@pytest.mark.parametrize("compression", ["jpeg", "zlib"])
def test_openslide_sees_the_same_pyramid(slide: Slide, tmp_path, compression: str) -> None:
    """As tifffile does: level by level, by pixels, whichever way levels are looked for."""
    path = write_overlay_tiff(
        slide, attention_map(), tmp_path / "a.ome.tif",
        PyramidSettings(mpp=0.125, tile_size=256, compression=compression),
    )  # fmt: skip
    with tifffile.TiffFile(path) as file, openslide.OpenSlide(path) as seen:
        levels = [level.asarray() for level in file.series[0].levels]
        assert len(file.series) == 1
        assert len(file.pages) == len(levels) == 3  # the same ones in the chain
        assert seen.level_dimensions == tuple(level.shape[1::-1] for level in levels)
        for number, level in enumerate(levels):
            region = seen.read_region((0, 0), number, seen.level_dimensions[number])
            found = np.asarray(region)[..., :3].astype(int)
            assert np.abs(found - level).max() <= (2 if compression == "jpeg" else 0)
        assert float(seen.properties["openslide.mpp-x"]) == pytest.approx(0.125)


def test_tiles_that_are_alike_are_stored_once(slide: Slide, tmp_path) -> None:
    """A white slide with one patch: all but a few tiles are the same, and still white."""
    wide = GridMap(np.full((1, 1), 0.5, np.float32), "a", "b", SIZE, (100, 0), mpp=0.5)
    settings = PyramidSettings(mpp=0.05, tile_size=128, compression="zlib")
    path = write_map_tiff(wide, tmp_path / "m.ome.tif", settings, slide=slide)
    with tifffile.TiffFile(path) as file:
        levels = [level.asarray() for level in file.series[0].levels]
        page = file.pages[0]
        assert len(page.dataoffsets) > 900
        assert len(set(page.dataoffsets)) < 50
    for number, level in enumerate(levels):
        side = 1000 / 2**number
        assert np.isfinite(level).sum() == pytest.approx(side**2, rel=0.05)
        assert np.isnan(level[-1, -1])
    assert path.stat().st_size < 150_000
