import re
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_2dmamba.errors import Cancelled, ExportError
from napari_2dmamba.explain.display import DisplaySettings, colour_table
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.mass import LINE_COLOURS, QUERY_COLOUR
from napari_2dmamba.export.frame import add_bars, describe, scale_bar
from napari_2dmamba.export.picture import PictureSettings, write_picture, write_png
from napari_2dmamba.export.raster import OverlayPainter, Raster, SlidePainter, raster_at
from napari_2dmamba.slide import Slide, open_slide

from .material import CELLS, SIZE, attention_map, classification, survival

PLAIN = PictureSettings(mpp=0.5, bars=False)
VIOLET = np.array([120, 60, 160])


def picture_of(path) -> np.ndarray:
    with Image.open(path) as image:
        image.load()
        return np.asarray(image)


def expected_colours(opacity: float) -> dict[tuple[int, int], np.ndarray]:
    """Colour of each cell, from the definition: percentile rank, viridis, alpha over violet."""
    table = colour_table("viridis").astype(float)
    values = attention_map().values
    finite = values[np.isfinite(values)]
    found = {}
    for row, col in CELLS:
        value = values[row, col]
        rank = ((finite < value).sum() + 0.5 * (finite == value).sum()) / len(finite)
        found[row, col] = (1 - opacity) * VIOLET + opacity * table[min(int(rank * 256), 255)]
    return found


def test_cells_lie_on_their_tissue_to_the_pixel_at_level_0(slide: Slide, tmp_path) -> None:
    path = write_picture(
        slide, attention_map(), tmp_path / "a.png", PLAIN, display=DisplaySettings(opacity=0.5)
    )
    found = picture_of(path).astype(float)
    assert found.shape == (333, 437, 3)
    white = np.ones((333, 437), dtype=bool)
    for (row, col), colour in expected_colours(0.5).items():
        area = np.s_[row * SIZE : (row + 1) * SIZE, col * SIZE : (col + 1) * SIZE]
        white[area] = False
        assert np.abs(found[area] - colour).max() <= 0.51
    assert (found[white] == 255).all()


@pytest.mark.parametrize("mpp", [0.75, 1.0, 1.37, 2.0, 4.9])
def test_both_sides_of_every_edge_are_right_at_any_resolution(slide, tmp_path, mpp) -> None:
    """A pixel whole inside a cell has its colour; none that touches no cell has any."""
    how = DisplaySettings(opacity=0.5)
    path = write_picture(
        slide,
        attention_map(),
        tmp_path / "a.png",
        PictureSettings(mpp=mpp, bars=False),
        display=how,
    )
    found = picture_of(path).astype(float)
    height, width = found.shape[:2]
    assert (width, height) == (round(437 * 0.5 / mpp), round(333 * 0.5 / mpp))
    step_x, step_y = 437 / width, 333 / height
    # at half the resolution the slide's own pixels mix two cells at odd edges only
    margin = 2.0 if mpp > 0.99 else 1.0
    white = np.ones((height, width), dtype=bool)
    for (row, col), colour in expected_colours(0.5).items():
        x0, x1 = (col * SIZE + margin) / step_x, ((col + 1) * SIZE - margin) / step_x
        y0, y1 = (row * SIZE + margin) / step_y, ((row + 1) * SIZE - margin) / step_y
        inside = found[int(np.ceil(y0)) : int(y1), int(np.ceil(x0)) : int(x1)]
        assert inside.shape[0] >= 100 / step_y - 3
        assert np.abs(inside - colour).max() <= 1.0
        outer_x = slice(max(int(x0) - 1, 0), int(np.ceil(x1)) + 1)
        white[max(int(y0) - 1, 0) : int(np.ceil(y1)) + 1, outer_x] = False
    assert (found[white] >= 254).all()


def test_the_slide_alone_is_averaged_over_each_pixel(slide: Slide) -> None:
    full = slide.read_region(0, 0, 0, 437, 333).astype(float)
    raster = Raster((20, 30, 400, 300), 100, 75, 0.5)
    found = SlidePainter(slide, raster)((0, 0, 100, 75))
    expected = full[30:330, 20:420].reshape(75, 4, 100, 4, 3).mean((1, 3))
    assert np.abs(found - expected).max() <= 1.0


def test_strips_and_boxes_do_not_show(slide: Slide) -> None:
    raster = raster_at(slide, 0.8)
    painter = OverlayPainter(slide, attention_map(), DisplaySettings(), raster, contour=60.0)
    whole = painter((0, 0, raster.width, raster.height))
    lefts = range(0, raster.width, 37)
    rows = [
        np.hstack([painter((x, y, min(x + 37, raster.width), min(y + 41, raster.height)))
                   for x in lefts])
        for y in range(0, raster.height, 41)
    ]  # fmt: skip
    np.testing.assert_array_equal(np.vstack(rows), whole)


def test_a_region_may_reach_beyond_the_slide(slide: Slide, tmp_path) -> None:
    path = write_picture(
        slide, attention_map(), tmp_path / "a.png", PLAIN, region=(-50, -20, 200, 170)
    )
    found = picture_of(path)
    assert found.shape == (170, 200, 3)
    assert (found[:20] == 255).all()
    assert (found[:, :50] == 255).all()
    assert not (found[20:120, 150:] == 255).all(axis=-1).any()


def test_contours_run_around_the_patches_above_a_percentile(slide: Slide, tmp_path) -> None:
    shown = PictureSettings(mpp=0.5, bars=False, contour=90.0)
    path = write_picture(slide, attention_map(), tmp_path / "a.png", shown)
    black = (picture_of(path) == 0).all(axis=-1)
    ys, xs = np.nonzero(black)
    row, col = CELLS[0]  # the highest of ten scores has percentile 95
    assert (ys.min(), ys.max()) == (row * SIZE, (row + 1) * SIZE - 1)
    assert (xs.min(), xs.max()) == (col * SIZE, (col + 1) * SIZE - 1)
    assert not black[10:90, 110:190].any()


def test_a_map_of_a_patch_outlines_it_and_what_holds_its_mass(slide: Slide, tmp_path) -> None:
    values = np.zeros((4, 4), np.float32)
    values[1, 1:3] = 60, 30
    values[2, 1] = 9.5
    values[3, 3] = 0.5
    side = 64
    one = GridMap(
        values, "provenance", "a test", side, (0, 0), slide.mpp, queries=((side, side),)
    )  # fmt: skip
    clear = DisplaySettings(opacity=0.0)
    settings = PictureSettings(mpp=slide.mpp, bars=False)
    write_picture(slide, one, tmp_path / "lines.png", settings, display=clear)
    lines = picture_of(tmp_path / "lines.png")
    write_picture(
        slide, one, tmp_path / "none.png", replace(settings, lines=False), display=clear
    )  # fmt: skip
    changed = (lines != picture_of(tmp_path / "none.png")).any(axis=-1)
    # inner rims: the patch itself, the two cells of 90 %, the third of 99 %
    assert lines[side, side + 20].tolist() == list(QUERY_COLOUR)
    assert lines[side, 2 * side + 20].tolist() == list(LINE_COLOURS[90])
    assert lines[3 * side - 1, side + 20].tolist() == list(LINE_COLOURS[99])
    inside = np.zeros((4, 4), bool)
    inside[1, 1:3] = inside[2, 1] = True
    drawn = np.kron(inside, np.ones((side, side), bool))
    assert not changed[: 4 * side, : 4 * side][~drawn].any()
    assert not changed[4 * side :].any()


def test_bars_surround_the_picture_and_leave_its_pixels_alone(slide: Slide, tmp_path) -> None:
    bare = picture_of(write_picture(slide, attention_map(), tmp_path / "a.png", PLAIN))
    framed = picture_of(
        write_picture(
            slide,
            attention_map(),
            tmp_path / "b.png",
            PictureSettings(mpp=0.5),
            title=f"squares\n{describe(classification())}",
            notes=["Not for medical use."],
        )
    )
    top = next(y for y in range(len(framed) - 333) if (framed[y : y + 333, :437] == bare).all())
    assert top > 20
    # the scale bar below: 100 µm at 0.5 µm/px, at most a quarter of 437 px
    below = framed[top + 333 :]
    runs = (below == 0).all(axis=-1)
    longest = max(len(m.group()) for row in runs for m in re.finditer(b"\x01+", row.tobytes()))
    assert longest == 100
    # the colour bar beside: from the last colour down to the first
    side = framed[top : top + 333, 437:].reshape(-1, 3)
    table = colour_table("viridis")
    for colour in (table[0], table[128], table[255]):
        assert (np.abs(side.astype(int) - colour) <= 1).all(axis=-1).any()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (40, 30), (300, 2000), (3000, 200)])
def test_a_frame_fits_around_pictures_of_any_size(width, height) -> None:
    framed = add_bars(
        np.zeros((height, width, 4), np.uint8),
        pixel_size=0.25,
        grid_map=attention_map(),
        title="A title which is much too long for one line of a small picture " * 3,
        notes=["supercalifragilisticexpialidocious" * 4],
    )
    assert framed.shape[0] > height
    assert framed.shape[1] > width
    assert (framed[:, -1] == 255).all()  # no letter is cut off
    above = framed[: np.flatnonzero((framed[:, 0] != 255).any(axis=-1))[0]]
    assert (above < 128).any()


@pytest.mark.parametrize(
    ("longest", "pixel_size", "unit", "expected"),
    [(250, 0.5, "µm", (200, "100 µm")), (250, 16.0, "µm", (125, "2 mm")),
     (250, 0.02, "µm", (250, "5 µm")), (250, 64.0, "px", (156, "10000 px"))],
)  # fmt: skip
def test_scale_bars_are_round(longest, pixel_size, unit, expected) -> None:
    assert scale_bar(longest, pixel_size, unit) == expected


def test_pictures_without_mpp_count_in_pixels(slide_file, tmp_path) -> None:
    with open_slide(slide_file) as slide:
        slide.mpp = None
        settings = PictureSettings(mpp=2.0, bars=False)
        path = write_picture(slide, attention_map(None), tmp_path / "a.png", settings)
    assert picture_of(path).shape == (166, 218, 3)


def test_absurd_sizes_are_refused_with_a_proposal_that_works(slide: Slide) -> None:
    with pytest.raises(ExportError, match="µm per pixel or more") as caught:
        raster_at(slide, 0.01, most_pixels=1e6)
    proposed = float(re.search(r"choose ([\d.]+)", str(caught.value)).group(1))
    raster = raster_at(slide, proposed, most_pixels=1e6)
    assert 0.5e6 < raster.width * raster.height <= 1e6


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan")])
def test_impossible_resolutions_are_refused(slide: Slide, mpp) -> None:
    with pytest.raises(ExportError, match="no resolution"):
        raster_at(slide, mpp)


def test_empty_regions_are_refused(slide: Slide) -> None:
    with pytest.raises(ExportError, match="is empty"):
        raster_at(slide, 1.0, (0, 0, 0, 10))


def test_cancelling_leaves_the_old_picture(slide: Slide, tmp_path) -> None:
    path = write_picture(slide, attention_map(), tmp_path / "a.png", PLAIN)
    before = path.read_bytes()
    with pytest.raises(Cancelled):
        write_picture(slide, attention_map(), path, PLAIN, should_stop=lambda: True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_maps_without_values_are_drawn_as_nothing(slide: Slide, tmp_path) -> None:
    empty = GridMap(np.full((3, 4), np.nan, np.float32), "empty", "nothing", SIZE, mpp=0.5)
    found = picture_of(write_picture(slide, empty, tmp_path / "a.png", PLAIN))
    np.testing.assert_array_equal(found, slide.read_region(0, 0, 0, 437, 333))
    write_picture(slide, empty, tmp_path / "b.png")


def test_slides_without_natural_colours_are_refused(tmp_path) -> None:
    tifffile.imwrite(tmp_path / "grey.tif", np.full((300, 400), 900, np.uint16), tile=(64, 64))
    with (
        open_slide(tmp_path / "grey.tif", mpp=0.5) as slide,
        pytest.raises(ExportError, match=r"grey\.tif has channels in place of natural colours"),
    ):
        write_picture(slide, attention_map(), tmp_path / "a.png", PLAIN)
    assert not (tmp_path / "a.png").exists()


def test_predictions_are_said_in_one_line() -> None:
    assert describe(classification()) == "Prediction: tumour 81.8%, normal 18.2%"
    assert describe(survival()).startswith("Prediction: risk -1.")
    assert "survival to the end of later" in describe(survival())


def test_png_strips_of_any_height_make_one_picture(tmp_path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (50, 31, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", [pixels[:1], pixels[1:30], pixels[30:30], pixels[30:]], 31, 50)
    np.testing.assert_array_equal(picture_of(tmp_path / "a.png"), pixels)
