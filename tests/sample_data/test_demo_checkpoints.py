from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_2dmamba.evaluation.classification import ranking_auroc
from napari_2dmamba.models import read_header
from napari_2dmamba.pipeline import RunResult, run
from napari_2dmamba.sample import (
    demo_checkpoint,
    demo_rivals,
    demo_survival_checkpoint,
    sample_slide,
)
from sample_data.demo_checkpoints import DEMOS, WARNING, tumour_share_of

TRUTH = sample_slide().with_name("synthetic-he-truth.tif")


@pytest.fixture(scope="module")
def result() -> RunResult:
    return run(sample_slide(), demo_checkpoint())


def found(result: RunResult) -> float | None:
    share = tumour_share_of(result.bag, tifffile.imread(TRUTH) > 0)
    return ranking_auroc(result.prediction.attention, share > 0.5)


def test_the_attention_finds_the_tumour_of_the_sample(result: RunResult) -> None:
    prediction = result.prediction
    assert prediction.class_names[prediction.top_class] == "tumour (synthetic)"
    assert prediction.attention.sum() == pytest.approx(1.0, abs=1e-4)
    auroc = found(result)
    assert auroc is not None
    assert auroc > 0.97


def test_the_survival_demo_finds_it_too(result: RunResult) -> None:
    survival = run(sample_slide(), demo_survival_checkpoint(), features=result.bag)
    prediction = survival.prediction
    assert prediction.survival is not None
    assert prediction.survival.shape == (4,)
    assert (np.diff(prediction.survival) <= 0).all()
    auroc = found(survival)
    assert auroc is not None
    assert auroc > 0.95


SYNTHETIC = sorted(
    path for path in demo_checkpoint().parent.glob("demo-*.safetensors") if path.stem != "demo-real"
)


@pytest.mark.parametrize("path", SYNTHETIC)
def test_the_header_says_what_the_model_is_and_is_not(path: Path) -> None:
    header = read_header(path)
    assert header.intended_use == WARNING
    assert "Not for any medical use" in header.intended_use
    assert "slide labels only" in header.training["data"]
    assert all("synthetic" in name for name in header.class_names)
    assert (header.encoder, header.patch_size, header.mpp) == ("stain-texture-v1", 256, 0.5)
    assert path.stat().st_size < 1e6


def test_every_demo_checkpoint_is_packed_into_the_wheel() -> None:
    packed = (demo_checkpoint().parents[1] / "CMakeLists.txt").read_text()
    for file in (*(demo.file for demo in DEMOS), "demo-real.safetensors", "demo-real.md"):
        assert f"sample_data/{file}" in packed
        assert demo_checkpoint().with_name(file).is_file()
    assert len(demo_rivals()) == 6


@pytest.mark.parametrize("path", demo_rivals()[:-1])
def test_the_rivals_find_the_tumour_too(result: RunResult, path: Path) -> None:
    rival = run(sample_slide(), path, features=result.bag)
    assert rival.prediction.class_names[rival.prediction.top_class] == "tumour (synthetic)"
    if read_header(path).architecture != "transmil":  # its class token looks elsewhere
        auroc = found(rival)
        assert auroc is not None
        assert auroc > 0.95


def test_tumour_share_of_a_patch_is_read_where_the_patch_lies(result: RunResult) -> None:
    truth = np.zeros((448, 576), bool)
    x, y = result.bag.coords[10]
    truth[y // 16 : y // 16 + 16, x // 16 : x // 16 + 8] = True
    share = tumour_share_of(result.bag, truth)
    assert share[10] == pytest.approx(0.5)
    assert share.sum() == pytest.approx(0.5)
