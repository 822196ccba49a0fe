"""The demo checkpoint that was trained on real tissue: honest about what it is."""

import re

import pytest

from napari_2dmamba.errors import EvaluationError
from napari_2dmamba.evaluation import evaluate
from napari_2dmamba.models import load_checkpoint, read_header
from napari_2dmamba.pipeline import run
from napari_2dmamba.sample import demo_checkpoint, sample_slide
from napari_2dmamba.tasks import TableSettings, read_table
from sample_data.demo_real import INTENDED_USE, NAME
from tests.material import shared

PATH = demo_checkpoint().with_name(f"{NAME}.safetensors")


def test_header_and_card_say_what_it_is_and_how_well_it_does() -> None:
    header = read_header(PATH)
    assert header.intended_use == INTENDED_USE
    assert "Not for any medical use" in header.intended_use
    assert header.class_names == ("other", "gastrointestinal tract")
    assert (header.encoder, header.patch_size, header.mpp) == ("stain-texture-v1", 256, 0.5)
    assert PATH.stat().st_size < 100_000
    card = PATH.with_suffix(".md").read_text()
    score = header.training["cross_validation"]["auroc"]
    assert f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" in card
    assert score["low"] > 0.5
    low, high = header.training["expected_on_10_further_cases"]["accuracy"]
    assert re.search(rf"accuracy {low:g} to {high:g}", card)
    assert "Turkish Pathology Atlas" in card


def test_it_runs_on_the_sample() -> None:
    result = run(sample_slide(), PATH)
    assert result.prediction.probabilities is not None
    assert result.prediction.class_names[1] == "gastrointestinal tract"


def test_it_knows_the_slides_it_was_trained_on() -> None:
    path = shared("atlas/labels.csv")
    table = read_table(path, TableSettings(label_column="label_gi_tract"))
    with pytest.raises(EvaluationError, match="trained on all 44 slides"):
        evaluate(load_checkpoint(PATH), table)
