import hashlib

import numpy as np
import openslide
import pytest
import tifffile

from napari_2dmamba.sample import sample_slide
from napari_2dmamba.slide import open_slide
from sample_data.make import SAMPLE
from sample_data.synthetic_slide import BLOCK, SyntheticSlide, halve, write_pyramid
from sample_data.tissue_plan import SlideRecipe

TRUTH = sample_slide().with_name("synthetic-he-truth.tif")
LEVELS = [(9216, 7168), (4608, 3584), (2304, 1792), (1152, 896), (576, 448)]


def test_openslide_tifffile_and_we_see_the_same_pyramid() -> None:
    with openslide.OpenSlide(sample_slide()) as slide:
        assert list(slide.level_dimensions) == LEVELS
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5)
    with tifffile.TiffFile(sample_slide()) as tiff:
        assert [level.shape[1::-1] for level in tiff.series[0].levels] == LEVELS
    with open_slide(sample_slide()) as slide:
        assert slide.dimensions == LEVELS[0]
        assert list(slide.level_dimensions) == LEVELS
        assert slide.mpp == pytest.approx(0.5)
        assert slide.kind == "brightfield"
    assert sample_slide().stat().st_size < 8e6


def test_the_truth_lies_on_the_crowded_nuclei() -> None:
    truth = tifffile.imread(TRUTH) > 0
    assert truth.shape == (448, 576)
    with openslide.OpenSlide(sample_slide()) as slide:
        pixels = np.asarray(slide.read_region((0, 0), 4, LEVELS[4]).convert("RGB"), float)
    # Red is what haematoxylin takes away most and eosin least.
    blue = 245 - pixels[..., 0]
    tissue = np.ptp(pixels, axis=-1) > 25
    assert blue[truth].mean() > 2 * blue[tissue & ~truth].mean()
    # Moved by half a patch in any direction, the mask must fit worse.
    fit = {
        (dy, dx): np.corrcoef(np.roll(truth, (dy, dx), (0, 1)).ravel(), blue.ravel())[0, 1]
        for dy in (-8, 0, 8)
        for dx in (-8, 0, 8)
    }
    assert max(fit, key=lambda moved: fit[moved]) == (0, 0)


def test_the_committed_slide_is_what_the_generator_paints() -> None:
    slide = SyntheticSlide(SAMPLE)
    truth = slide.truth(16)
    assert np.array_equal(truth, tifffile.imread(TRUTH) > 0)
    row, col = np.argwhere(truth).mean(0).astype(int) * 16 // BLOCK * BLOCK
    painted = slide.region(int(row), int(col), BLOCK, BLOCK).astype(float)
    with openslide.OpenSlide(sample_slide()) as file:
        region = file.read_region((int(col), int(row)), 0, (BLOCK, BLOCK)).convert("RGB")
    # JPEG and rounding apart; another seed differs by 40 grey levels and more.
    assert np.abs(painted - np.asarray(region, float)).mean() < 6


def test_painting_is_deterministic_and_the_seed_matters() -> None:
    def digest(seed: int) -> str:
        slide = SyntheticSlide(SlideRecipe(seed, 768, 512, tumour_share=0.3, pieces=1))
        return hashlib.sha256(slide.pixels().tobytes() + slide.truth(16).tobytes()).hexdigest()

    assert digest(3) == digest(3)
    assert digest(3) != digest(4)


def test_a_region_is_the_same_however_it_is_cut() -> None:
    slide = SyntheticSlide(SlideRecipe(9, 1024, 768, tumour_share=0.3, pieces=1))
    whole = slide.pixels().astype(int)
    part = slide.region(200, 300, 256, 320).astype(int)
    # Only the scanner's noise may differ.
    assert np.abs(whole[200:456, 300:620] - part).max() <= 15


def test_tumour_is_what_was_asked_for_or_absent() -> None:
    with_tumour = SyntheticSlide(SlideRecipe(21, 2048, 2048, tumour_share=0.25, pieces=1))
    tissue = (with_tumour.plan.tissue > 0).mean()
    assert with_tumour.truth(16).mean() / tissue == pytest.approx(0.25, abs=0.04)
    without = SyntheticSlide(SlideRecipe(21, 1024, 1024, pieces=1))
    assert not without.truth(16).any()
    tumour_kind = 1
    assert (with_tumour.plan.nuclei.kind == tumour_kind).sum() > 500
    assert not (without.plan.nuclei.kind == tumour_kind).any()


@pytest.mark.parametrize(("width", "share"), [(1000, 0.1), (0, 0.1), (512, 1.5)])
def test_impossible_recipes_are_refused(width: int, share: float) -> None:
    with pytest.raises(ValueError, match=r"multiple of 256|tumour_share"):
        SlideRecipe(1, width, 512, share)


def test_pyramid_levels_are_means_and_the_file_is_written_whole(tmp_path) -> None:
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(80, 240, (4, 6, 3)), np.ones((256, 256, 1))).astype(np.uint8)
    assert np.array_equal(halve(smooth), smooth[::2, ::2])
    assert halve(np.array([[[0], [1]], [[1], [1]]], np.uint8)).item() == 1
    write_pyramid(tmp_path / "x.tif", smooth)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tif"]
    with openslide.OpenSlide(tmp_path / "x.tif") as slide:
        assert slide.level_downsamples == (1.0, 2.0)
        seen = np.asarray(slide.read_region((300, 300), 1, (64, 64)).convert("RGB"), int)
    assert np.abs(seen - smooth[300, 300]).max() <= 2
