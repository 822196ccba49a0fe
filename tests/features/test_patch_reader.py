"""Patches against an independent crop and resize of the same region."""

from pathlib import Path

import numpy as np
import pytest

from napari_2dmamba.errors import SlideError
from napari_2dmamba.features.patch_reader import PatchReader
from napari_2dmamba.features.resample import area_weights, resample
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
    [(256, 256), (256, 406), (200, 391), (128, 256), (100, 333), (96, 96 * 7 + 5), (300, 251)],
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
    canvas = np.full((stored.shape[0] + side, stored.shape[1] + side, 3), 255, np.uint8)
    canvas[: stored.shape[0], : stored.shape[1]] = stored
    worst = 0.0
    for (x, y), patch in zip(grid.coords, got, strict=True):
        if side < patch_size:  # enlarging is linear interpolation, compared elsewhere
            continue
        truth = mean_over_areas(canvas, (x / down, y / down, side / down), patch_size)
        worst = max(worst, float(np.abs(patch - truth).max()))
    assert worst <= 0.51, worst


def test_shrinking_by_whole_numbers_is_skimage_local_mean(slide, pyramid_pixels):
    from skimage.transform import downscale_local_mean

    patch = PatchReader(slide, full_grid(slide, 100, 300)).read(0)
    # level 1 (factor 2) is the best level for a factor of 3
    quads = pyramid_pixels[:300, :300].reshape(150, 2, 150, 2, 3).mean((1, 3))
    truth = mean_over_areas((quads + 0.5).astype(np.uint8), (0, 0, 150), 100)
    assert np.abs(patch - truth).max() <= 0.51
    exact = resample(pyramid_pixels[:300, :300], (0, 0, 300, 300), 100)
    assert np.abs(exact - downscale_local_mean(pyramid_pixels[:300, :300], (3, 3, 1))).max() <= 0.51


def test_enlarging_is_linear_interpolation_between_pixel_centres():
    import torch

    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    got = resample(pixels, (0, 0, 40, 40), 57)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    truth = torch.nn.functional.interpolate(planes, (57, 57), mode="bilinear")[0].permute(1, 2, 0)
    assert np.abs(got - truth.numpy()).max() <= 0.51


def test_weights_add_up_and_reach_no_further_than_the_area():
    weights = area_weights(100, 3.25, 61.5, 20).toarray()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    step = 61.5 / 20
    for i, row in enumerate(weights):
        used = np.flatnonzero(row)
        assert used[0] >= np.floor(3.25 + i * step)
        assert used[-1] <= np.ceil(3.25 + (i + 1) * step) - 1
    np.testing.assert_allclose(weights[0, 3:7], np.array([0.75, 1, 1, 0.325]) / step, atol=1e-6)


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
    "name", ["he/metaplasia-HE.svs", "he/lungSCC-HE2-half.tif", "he/CMU-1-Small-Region.svs"]
)
def test_real_slides_against_openslide_and_pillow(name):
    import openslide
    from PIL import Image

    path = shared(f"slides/{name}")
    with open_slide(path) as slide, openslide.OpenSlide(path) as other:
        side = round(224 * 0.75 / slide.mpp)
        grid = full_grid(slide, 224, side)
        reader = PatchReader(slide, grid)
        assert reader.level == 0 or slide.level_downsamples[reader.level] * slide.mpp <= 0.76
        for index in (len(grid) // 2, len(grid) // 2 + 1, len(grid) // 3):
            x, y = (int(v) for v in grid.coords[index])
            crop = other.read_region((x, y), 0, (side, side))
            crop = Image.alpha_composite(Image.new("RGBA", crop.size, "white"), crop)
            truth = np.asarray(crop.convert("RGB").resize((224, 224), Image.Resampling.BOX))
            difference = np.abs(reader.read(index).astype(int) - truth)
            # Pillow's box takes whole pixels only, and levels are second-generation JPEG
            assert difference.mean() < 3.0


def test_a_damaged_tile_is_named_with_its_patch():
    path: Path = shared("slides/broken/corrupt-tiles.svs")
    try:
        slide = open_slide(path)
    except SlideError as error:
        assert "corrupt-tiles.svs" in str(error)
        return
    with slide:
        grid = full_grid(slide, 256, 256)
        problems: dict[int, str] = {}
        for batch in PatchReader(slide, grid).batches(8):
            problems |= batch.unreadable
        assert problems
        index, sentence = next(iter(problems.items()))
        assert f"patch {index} of {len(grid)}" in sentence
        assert "corrupt-tiles.svs" in sentence
