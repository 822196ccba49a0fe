import dataclasses
from pathlib import Path

import numpy as np
import pytest

from napari_2dmamba.errors import (
    Cancelled,
    CheckpointError,
    FeatureError,
    GridError,
    MissingMppError,
)
from napari_2dmamba.export.run_folder import open_run
from napari_2dmamba.features import write_features
from napari_2dmamba.models import ModelSettings, load_checkpoint
from napari_2dmamba.pipeline import RunSettings, run
from napari_2dmamba.slide import GridSettings, open_slide
from tests.tiny import MPP, PATCH, TISSUE, write_checkpoint, write_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slide") / "tiny.tif")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def test_from_slide_to_attention_on_the_tissue(slide: Path, checkpoint: Path) -> None:
    result = run(slide, checkpoint)
    rows, cols = TISSUE
    expected = {
        (row, col)
        for row in range(rows.start // PATCH, rows.stop // PATCH)
        for col in range(cols.start // PATCH, cols.stop // PATCH)
    }
    found = {(int(r), int(c)) for r, c in result.grid.cells}
    assert expected <= found  # a blurred mask may add a rim
    assert len(found - expected) <= 2 * (10 + 13) + 4
    placed = result.attention_map
    assert placed.pixel_size == pytest.approx(PATCH * MPP)
    x, y = result.bag.coords[7]
    row, col = (y - placed.origin[1]) // PATCH, (x - placed.origin[0]) // PATCH
    assert placed.values[row, col] == result.prediction.attention[7]
    mass = result.prediction.attention.sum() + result.prediction.background_mass
    assert mass == pytest.approx(1, abs=1e-5)


def test_the_checkpoint_gives_patch_size_and_resolution(checkpoint: Path) -> None:
    aggregator = load_checkpoint(checkpoint)
    half = GridSettings(min_tissue=0.5).trained_for(aggregator.header)
    assert half == GridSettings(patch_size=PATCH, target_mpp=MPP, min_tissue=0.5)
    silent = dataclasses.replace(aggregator.header, patch_size=None, mpp=None)
    assert GridSettings(patch_size=64).trained_for(silent) == GridSettings(patch_size=64)
    # what was taken from one model is not left over for another that states nothing
    taken = GridSettings(min_tissue=0.5).trained_for(aggregator.header)
    plain = GridSettings(min_tissue=0.5)
    assert taken.trained_for(silent, before=aggregator.header) == plain
    by_hand = dataclasses.replace(taken, patch_size=96)
    kept = by_hand.trained_for(silent, before=aggregator.header)
    assert kept == dataclasses.replace(plain, patch_size=96)


def test_a_saved_run_opens_with_the_same_numbers(
    slide: Path, checkpoint: Path, tmp_path: Path
) -> None:
    result = run(slide, checkpoint, out=tmp_path / "run")
    saved = open_run(result.folder)
    np.testing.assert_array_equal(saved.prediction.attention, result.prediction.attention)
    np.testing.assert_array_equal(saved.prediction.logits, result.prediction.logits)
    np.testing.assert_array_equal(saved.maps[0].values, result.attention_map.values)
    assert saved.find_slide() == slide
    assert saved.find_features() == result.bag.path
    assert saved.record.model.intended_use == "random weights, for tests"


def test_features_from_a_file_give_the_same_answer(
    slide: Path, checkpoint: Path, tmp_path: Path
) -> None:
    direct = run(slide, checkpoint)
    write_features(direct.bag, tmp_path / "features.h5")
    again = run(slide, checkpoint, features=tmp_path / "features.h5")
    np.testing.assert_array_equal(direct.prediction.logits, again.prediction.logits)


def test_features_of_another_slide_are_refused(
    slide: Path, checkpoint: Path, tmp_path: Path
) -> None:
    bag = run(slide, checkpoint).bag
    other = write_slide(tmp_path / "other.tif", seed=1)
    with pytest.raises(FeatureError, match=r"another slide than other\.tif"):
        run(other, checkpoint, features=bag)
    foreign = dataclasses.replace(bag, slide_id=None, coords=bag.coords + 2000)
    with pytest.raises(FeatureError, match=r"lie outside other\.tif"):
        run(other, checkpoint, features=foreign)


def test_patches_of_another_size_do_not_fit_the_checkpoint(slide: Path, checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="patch size 64 px"):
        run(slide, checkpoint, RunSettings(grid=GridSettings(patch_size=128)))


def test_a_missing_mpp_is_asked_for_and_never_guessed(checkpoint: Path, tmp_path: Path) -> None:
    bare = write_slide(tmp_path / "bare.tif", mpp=None)
    with pytest.raises(MissingMppError, match=r"bare\.tif states no usable µm per pixel"):
        run(bare, checkpoint)
    given = run(bare, checkpoint, mpp=MPP)
    assert given.record.slide.mpp_source == "given by the user"
    in_pixels = run(bare, checkpoint, RunSettings(in_pixels=True))
    assert in_pixels.attention_map.mpp is None
    assert in_pixels.record.slide.mpp is None
    assert in_pixels.grid.patch_size_level0 == PATCH


def test_stopping_keeps_finished_batches(slide: Path, checkpoint: Path, tmp_path: Path) -> None:
    polls = iter(range(1000))
    with pytest.raises(Cancelled):
        run(slide, checkpoint, out=tmp_path / "run", should_stop=lambda: next(polls) > 4)
    seen: list[str] = []
    result = run(
        slide, checkpoint, out=tmp_path / "run", on_progress=lambda d, t, m: seen.append(m)
    )
    assert any(message.startswith("going on from") for message in seen)
    np.testing.assert_array_equal(result.bag.features, run(slide, checkpoint).bag.features)


def test_a_survival_model_gives_curves(slide: Path, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "survival.safetensors", task="survival")
    prediction = run(slide, path).prediction
    assert prediction.probabilities is None
    np.testing.assert_allclose(prediction.survival, np.cumprod(1 - prediction.hazards))
    assert prediction.risk == pytest.approx(-prediction.survival.sum())


def test_a_given_slide_stays_open(slide: Path, checkpoint: Path) -> None:
    with open_slide(slide) as opened:
        run(opened, checkpoint)
        assert opened.read_region(0, 0, 0, 4, 4).mean() > 230


def test_patches_that_share_a_cell_are_refused_unless_the_last_may_win(
    slide: Path, checkpoint: Path
) -> None:
    bag = run(slide, checkpoint).bag
    coords = bag.coords.copy()
    coords[1] = coords[0] + 1
    doubled = dataclasses.replace(bag, coords=coords)
    with pytest.raises(GridError, match=r"1 of .* patches fall into a cell"):
        run(slide, checkpoint, features=doubled)
    settings = RunSettings(model=ModelSettings(shared_cells="last"))
    result = run(slide, checkpoint, settings, features=doubled)
    col, row = (coords[0] - coords.min(axis=0)) // bag.patch_size_level0
    assert result.attention_map.values[row, col] == result.prediction.attention[1]
