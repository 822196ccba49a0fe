import dataclasses

import numpy as np
import pytest
import torch

from napari_2dmamba.errors import (
    BackendError,
    Cancelled,
    CheckpointError,
    FeatureError,
    GridError,
)
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import ModelSettings, device_and_reason, load_checkpoint
from napari_2dmamba.scan import backend_for, use_backend
from tests.models.golden_cases import HERE, case
from tests.models.test_checkpoint import CLASSES, small


def a_bag(**changes: object) -> FeatureBag:
    rng = np.random.default_rng(0)
    bag = FeatureBag(
        features=rng.normal(size=(4, 6)).astype(np.float32),
        coords=np.array([[0, 0], [512, 256], [768, 256], [256, 512]]),
        patch_size_level0=256, patch_size=256, mpp=0.5, encoder="stain-texture-v1",
    )  # fmt: skip
    return dataclasses.replace(bag, **changes)


def test_prediction_of_a_published_model() -> None:
    golden = case("cls_small")
    aggregator = load_checkpoint(
        HERE / "cls_small.full_model.pt", class_names=("a", "b", "c"), encoder="made-up"
    )
    told = []
    prediction = aggregator.predict(golden.bag(), on_progress=lambda *step: told.append(step))
    target = golden.arrays["logits"][0]
    np.testing.assert_allclose(prediction.logits, target, rtol=0, atol=2e-5 * abs(target).max())
    assert prediction.logits.dtype == np.float64
    attention = golden.arrays["att_softmax"]
    rows, cols = prediction.cells.T
    np.testing.assert_allclose(prediction.attention, attention[rows, cols], rtol=1e-4)
    assert prediction.attention.dtype == np.float32
    assert prediction.canvas == attention.shape
    assert prediction.background_mass == pytest.approx(0.0852817, abs=1e-5)
    assert prediction.attention.sum() + prediction.background_mass == pytest.approx(1, abs=1e-5)
    assert prediction.class_names == ("a", "b", "c")
    assert prediction.task == "classification"
    assert prediction.device == device_and_reason(ModelSettings())[0]
    assert prediction.backend == backend_for(torch.zeros(1)).name
    with use_backend("definition"):
        assert aggregator.predict(golden.bag()).backend == "definition"
    assert [step[:2] for step in told] == [(0, 2), (1, 2), (2, 2)]
    assert prediction.extra["unchecked"] == [
        "the checkpoint does not state the resolution, so it was not compared"
    ]


def test_own_canvas_is_the_bounding_box_and_moves_with_the_tissue() -> None:
    aggregator = small()
    settings = ModelSettings(canvas="slide")
    bag = a_bag()
    there = aggregator.predict(bag, settings)
    assert there.canvas == (3, 4)
    moved = dataclasses.replace(bag, coords=bag.coords + np.array([10_240, 5_000]))
    np.testing.assert_array_equal(aggregator.predict(moved, settings).logits, there.logits)
    with pytest.raises(GridError, match=r"4 of 4 patches lie off the canvas .* own canvas"):
        aggregator.predict(moved)
    cropped = dataclasses.replace(bag, features=bag.features[1:3], coords=bag.coords[1:3])
    smaller = aggregator.predict(cropped, settings)
    assert smaller.canvas == (1, 2)
    assert smaller.cells.tolist() == [[0, 0], [0, 1]]
    assert smaller.background_mass == 0
    assert smaller.extra["canvas_mode"] == "slide"


def test_attention_over_tissue_is_an_option_of_the_run() -> None:
    aggregator = small()
    everywhere = aggregator.predict(a_bag())
    tissue = aggregator.predict(a_bag(), ModelSettings(attention="tissue"))
    assert everywhere.background_mass > 0
    assert tissue.background_mass == 0
    np.testing.assert_allclose(
        tissue.attention, everywhere.attention / everywhere.attention.sum(), rtol=1e-5
    )
    assert tissue.extra["attention_over"] == "tissue"
    assert aggregator.config.attention_over == "all"


def test_shared_cells_are_refused_or_the_last_wins() -> None:
    golden = case("cls_duplicates")
    given = {**CLASSES, "canvas": golden.canvas, "class_names": ("a", "b")}
    aggregator = load_checkpoint(golden.folder / "cls_duplicates.safetensors", **given)
    bag = golden.bag()
    with pytest.raises(GridError, match="patches fall into a cell that another patch already"):
        aggregator.predict(bag)
    prediction = aggregator.predict(bag, ModelSettings(shared_cells="last"))
    target = golden.arrays["logits"][0]
    np.testing.assert_allclose(prediction.logits, target, rtol=0, atol=2e-5 * abs(target).max())
    cells = {tuple(cell) for cell in prediction.cells.tolist()}
    assert prediction.extra["overwritten_patches"] == len(bag) - len(cells) > 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoder": "uni"}, "trained with encoder stain-texture-v1, .* made with uni;"),
        ({"patch_size": 512}, "patch size 256 px, .* made with 512 px"),
        ({"mpp": 1.0}, r"resolution 0.5 µm/px, .* made with 1.0 µm/px"),
        ({"features": np.zeros((4, 1024), np.float32)}, "expects 6 features .* have 1024"),
    ],
)
def test_what_does_not_fit_names_both_sides(changes: dict, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        small().predict(a_bag(**changes))


def test_nominal_magnification_counts_as_the_same() -> None:
    assert small().check_fits(a_bag(mpp=0.4942)) == ()
    assert small().check_fits(a_bag(mpp=None, encoder=None)) == (
        "the feature file does not state the encoder, so it was not compared",
        "the feature file does not state the resolution, so it was not compared",
    )


def test_empty_and_broken_bags() -> None:
    with pytest.raises(FeatureError, match="holds no patches"):
        small().predict(a_bag(features=np.zeros((0, 6), np.float32), coords=np.zeros((0, 2), int)))
    features = a_bag().features.copy()
    features[2, 3] = np.nan
    with pytest.raises(FeatureError, match="features of 1 of 4 patches are not finite"):
        small().predict(a_bag(features=features))


def test_a_canvas_too_large_for_the_memory_is_refused_before_it_runs() -> None:
    stray = a_bag(coords=np.array([[0, 0], [512, 256], [768, 256], [256 * 10**6, 256 * 10**6]]))
    with pytest.raises(BackendError, match=r"needs about \d+\.\d GB for 4 patches on a canvas of"):
        small().predict(stray, ModelSettings(canvas="slide", device="cpu"))


def test_one_patch() -> None:
    bag = a_bag(features=np.ones((1, 6), np.float32), coords=np.array([[256, 256]]))
    prediction = small().predict(bag, ModelSettings(canvas="slide"))
    assert prediction.attention.tolist() == [1.0]


def test_stop_is_heard() -> None:
    with pytest.raises(Cancelled):
        small().predict(a_bag(), should_stop=lambda: True)


def test_prepared_inputs_can_be_explained() -> None:
    aggregator = small()
    inputs = aggregator.prepare(a_bag())
    features = inputs.features.requires_grad_()
    output = inputs.model(features, inputs.cells, inputs.canvas)
    output.logits[1].backward()
    assert features.grad is not None
    assert features.grad.abs().min() > 0
    np.testing.assert_allclose(
        output.logits.detach(), aggregator.predict(a_bag()).logits, rtol=1e-6
    )


def test_device_choice_says_why() -> None:
    assert device_and_reason(ModelSettings(device="cpu")) == ("cpu", "the CPU was asked for")
    if torch.cuda.is_available():
        assert device_and_reason(ModelSettings())[0].startswith("cuda")
        return
    device, reason = device_and_reason(ModelSettings())
    assert device == "cpu"
    assert "CUDA" in reason
    with pytest.raises(BackendError, match="CUDA was asked for, but"):
        small().predict(a_bag(), ModelSettings(device="cuda"))
