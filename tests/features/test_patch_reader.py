"""Patches against an independent crop and resize of the same region."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_2dmamba.features.patch_reader import PatchReader
from napari_2dmamba.features.resample import (
    LIBRARY,
    AreaWeights,
    TileResampler,
    area_weights,
    resample_in_numpy,
)
from napari_2dmamba.slide import open_slide
from tests.features.conftest import full_grid
from tests.material import shared


def mean_over_areas(pixels: np.ndarray, box: tuple[float, float, float], size: int) -> np.ndarray:
    """The definition, by summed areas in float64: the mean over each output pixel's square."""
    x, y, side = box
    padded = np.pad(pixels.astype(np.float64), ((0, 1), (0, 1), (0, 0)), mode="edge")
    table = np.zeros((padded.shape[0] + 1, padded.shape[1] + 1, 3))
    table[1:, 1:] = padded.cumsum(0).cumsum(1)

    def at(edges: np.ndarray, array: np.ndarray) -> np.ndarray:
        low = np.floor(edges).astype(int)
        part = (edges - low).reshape(-1, *[1] * (array.ndim - 1))
        return array[low] * (1 - part) + array[np.minimum(low + 1, len(array) - 1)] * part

    edges = np.arange(size + 1) * side / size
    sums = at(edges + y, table).swapaxes(0, 1)
    sums = at(edges + x, sums).swapaxes(0, 1)
    cells = np.diff(np.diff(sums, axis=0), axis=1)
    return cells / (side / size) ** 2


def on_white(pixels: np.ndarray, x: int, y: int, side: int) -> np.ndarray:
    crop = np.full((side, side, 3), 255, np.uint8)
    part = pixels[y : y + side, x : x + side]
    crop[: part.shape[0], : part.shape[1]] = part
    return crop


@pytest.mark.parametrize(
    ("patch_size", "side"),
    [(256, 256), (256, 406), (200, 391), (128, 256), (100, 333), (96, 96 * 7 + 5)],
)
def test_patches_are_the_mean_over_their_areas(slide, pyramid_pixels, patch_size, side):
    grid = full_grid(slide, patch_size, side)
    reader = PatchReader(slide, grid, threads=2)
    factor = int(slide.level_downsamples[reader.level])
    stored = pyramid_pixels
    while factor > 1:
        h, w = stored.shape[0] // 2 * 2, stored.shape[1] // 2 * 2
        quads = stored[:h, :w].reshape(h // 2, 2, w // 2, 2, 3)
        stored, factor = (quads.mean((1, 3)) + 0.5).astype(np.uint8), factor // 2
    down = int(slide.level_downsamples[reader.level])
    got = np.concatenate([batch.pixels for batch in reader.batches(5)])
    assert got.shape == (len(grid), patch_size, patch_size, 3)
    reach = side // down + 2
    canvas = np.pad(stored, ((0, reach), (0, reach), (0, 0)), constant_values=255)
    worst = 0.0
    for index in {0, len(grid) // 2, len(grid) // 3, len(grid) - 1}:
        x, y = grid.coords[index] / down
        x0, y0 = int(x), int(y)
        crop, patch = canvas[y0 : y0 + reach, x0 : x0 + reach], got[index]
        truth = mean_over_areas(crop, (x - x0, y - y0, side / down), patch_size)
        worst = max(worst, float(np.abs(patch - truth).max()))
    assert worst <= 0.51, worst


def resampled(pixels: np.ndarray, box: tuple[float, float, float], size: int) -> np.ndarray:
    x, y, side = box
    out = np.empty((size, size, 3), np.uint8)
    rows = area_weights(y, side, size, 0, pixels.shape[0])
    columns = area_weights(x, side, size, 0, pixels.shape[1])
    resampler = TileResampler(pixels.shape[:2], 1, 1, rows, columns, out)
    assert resampler.add(np.ascontiguousarray(pixels)) == 1
    return out


def test_shrinking_by_whole_numbers_is_skimage_local_mean(pyramid_pixels):
    from skimage.transform import downscale_local_mean

    crop = pyramid_pixels[:300, :300]
    truth = downscale_local_mean(crop, (3, 3, 1))
    assert np.abs(resampled(crop, (0, 0, 300), 100) - truth).max() <= 0.51


def test_enlarging_is_linear_interpolation_between_pixel_centres():
    import torch

    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    truth = torch.nn.functional.interpolate(planes, (57, 57), mode="bilinear")[0].permute(1, 2, 0)
    assert np.abs(resampled(pixels, (0, 0, 40), 57) - truth.numpy()).max() <= 0.51


def test_weights_add_up_and_reach_no_further_than_the_area():
    weights = dense(area_weights(3.25, 61.5, 20, 0, 100), 100)
    assert (weights.sum(1) == 1).all()
    step = 61.5 / 20
    for i, row in enumerate(weights):
        used = np.flatnonzero(row)
        assert used[0] >= np.floor(3.25 + i * step)
        assert used[-1] <= np.ceil(3.25 + (i + 1) * step) - 1
    np.testing.assert_allclose(weights[0, 3:7], np.array([0.75, 1, 1, 0.325]) / step, atol=2e-5)


def dense(table: AreaWeights, width: int) -> np.ndarray:
    """The weights as a matrix ``(size, width)``."""
    weights = np.zeros((len(table.first), width))
    for row, first, part in zip(weights, table.first, table.weights, strict=True):
        within = part[: width - first]
        row[first : first + len(within)] = within / 65536
        assert not part[len(within) :].any()
    return weights


def test_beyond_the_pixels_that_exist_the_nearest_counts():
    inside = dense(area_weights(0, 30, 40, 0, 30), 30)  # enlarging reaches half a pixel beyond
    assert (inside.sum(1) == 1).mean() > 0.5
    assert inside[0, 0] == pytest.approx(1, abs=2e-5)
    assert inside[-1, -1] == pytest.approx(1, abs=2e-5)
    narrow = dense(area_weights(4, 1, 5, 4, 5), 6)
    assert (narrow[:, [0, 1, 2, 3, 5]] == 0).all()


@pytest.mark.parametrize("side", [20, 33.3, 64, 100.7, 450, 1270])
@pytest.mark.parametrize("value", [0, 1, 100, 254, 255])
def test_an_even_colour_stays_what_it_is(side, value):
    pixels = np.full((1280, 1280, 3), value, np.uint8)
    assert (resampled(pixels, (4.3, 5.9, side), 20) == value).all()


@pytest.mark.skipif(LIBRARY is None, reason="the area library is not built here")
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.floats(1, 60),
    st.floats(0, 7.9),
    st.floats(0, 7.9),
    st.integers(0, 2**31),
)
def test_the_library_gives_the_bits_of_the_definition(size, side, x, y, seed):
    tiles = np.random.default_rng(seed).integers(0, 256, (5, 4, 14, 18, 3), np.uint8)
    whole = np.concatenate([np.concatenate(list(row), 1) for row in tiles], 0)
    rows = area_weights(y, side, size, 0, whole.shape[0])
    columns = area_weights(x, side, size, 0, whole.shape[1])
    out = np.empty((size, size, 3), np.uint8)
    tile_rows = -(-int(rows.ends.max()) // 14)  # no more than the patch is made of
    given: list[np.ndarray] = []
    resampler = TileResampler((14, 18), tile_rows, 4, rows, columns, out)
    free = 0
    for tile in [tile.copy() for row in tiles[:tile_rows] for tile in row]:
        given.append(tile)
        before, free = free, resampler.add(tile)
        for used in given[before:free]:
            used[:] = 99  # as another tile in the same memory would
    assert free == 4 * tile_rows
    assert (out == resample_in_numpy(whole, rows, columns)).all()


def test_beyond_the_slide_patches_are_white(slide):
    grid = full_grid(slide, 256, 512)
    last = PatchReader(slide, grid).read(len(grid) - 1)
    width, height = slide.dimensions
    x, y = grid.coords[-1]
    assert (last[(height - y) // 2 + 1 :] == 255).all()
    assert (last[:, (width - x) // 2 + 1 :] == 255).all()
    assert last[: (height - y) // 2, : (width - x) // 2].mean() < 200


def test_threads_and_batch_sizes_do_not_change_pixels(slide):
    grid = full_grid(slide, 128, 203)
    one = np.concatenate([b.pixels for b in PatchReader(slide, grid, threads=1).batches(7)])
    four = np.concatenate([b.pixels for b in PatchReader(slide, grid, threads=4).batches(16)])
    assert (one == four).all()
    tail = next(iter(PatchReader(slide, grid, threads=2).batches(4, start=8)))
    assert tail.start == 8
    assert (tail.pixels == one[8:12]).all()


@pytest.mark.parametrize(
    "name",
    [
        "he/metaplasia-HE.svs",
        "he/lungSCC-HE2-half.tif",
        "he/CMU-1-Small-Region.svs",
        "dicom/1.2.826.0.1.3680043.8.498.58740178995208579534253317996600852419.dcm",
        "no_mpp/tcga-cr-7395-01a-01-ts1.svs",
        "odd/untiled-plain.tif",
    ],
)
def test_real_slides_against_a_crop_read_by_another_library(name):
    import openslide
    import tifffile
    from PIL import Image

    path = shared(f"slides/{name}")

    def crop(x: int, y: int, side: int) -> np.ndarray:
        try:
            with openslide.OpenSlide(path) as other:
                part = other.read_region((x, y), 0, (side, side))
        except openslide.OpenSlideError:
            return on_white(tifffile.imread(path), x, y, side)
        white = Image.new("RGBA", part.size, "white")
        return np.asarray(Image.alpha_composite(white, part).convert("RGB"))

    with open_slide(path) as slide:
        side = 300  # shrinks by 1.2: from level 0 in all of them
        grid = full_grid(slide, 250, side)
        reader = PatchReader(slide, grid)
        assert reader.level == 0
        for index in (0, len(grid) // 2, len(grid) // 3, len(grid) - 1):
            x, y = (int(v) for v in grid.coords[index])
            truth = mean_over_areas(crop(x, y, side), (0, 0, side), 250)
            # JPEG 2000 decoders differ by a grey level or two
            limit = 2.6 if "tcga" in name else 0.51
            assert np.abs(reader.read(index) - truth).max() <= limit


def test_a_damaged_tile_is_named_with_its_patch():
    path: Path = shared("slides/broken/corrupt-tiles.svs")
    with open_slide(path) as slide:
        grid = full_grid(slide, 256, 256)
        problems: dict[int, str] = {}
        for batch in PatchReader(slide, grid).batches(8):
            problems |= batch.unreadable
        assert problems
        index, sentence = next(iter(problems.items()))
        assert f"patch {index} of {len(grid)}" in sentence
        assert "corrupt-tiles.svs" in sentence
