import dataclasses
import re

import numpy as np
import pytest

from napari_2dmamba.checkpoints.fit import FeatureFacts, InputFacts, State, can_extract, fits
from napari_2dmamba.checkpoints.summary import CheckpointSummary
from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.features.bag import FeatureBag
from tests.models.test_checkpoint import small

MODEL = CheckpointSummary(
    "/m.safetensors", architecture="2dmamba", task="classification", n_outputs=2,
    encoder="uni", feature_size=1024, patch_size=256, mpp=0.5,
)  # fmt: skip
SAME = FeatureFacts(1024, "uni", 256, 0.5)


def against(features: FeatureFacts | None, encoders: tuple[str, ...] = (), **model):
    subject = InputFacts("a.svs", features, encoders, 0.25)
    return fits(dataclasses.replace(MODEL, **model), subject)


def test_the_same_features_fit() -> None:
    assert against(SAME).state is State.FITS
    assert "a.svs (uni, 1024 features, 256 px at 0.5 µm/px)" in against(SAME).sentence
    assert against(dataclasses.replace(SAME, mpp=0.504)).state is State.FITS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"feature_size": 512}, "expects 1024 features"), ({"encoder": "gigapath"}, "'?gigapath"),
        ({"patch_size": 224}, "patch size 256 px"), ({"mpp": 0.25}, r"resolution 0.5 µm/px"),
    ],
)  # fmt: skip
def test_other_features_do_not_and_the_reason_is_that_of_the_run(change: dict, says: str) -> None:
    facts = dataclasses.replace(SAME, **change)
    fit = against(facts)
    assert fit.state is State.NO
    assert re.search(says, fit.sentence)
    assert not fit.usable
    # what a run with such a bag would say
    model = small(encoder="uni", patch_size=256, mpp=0.5)
    changed = {"feature_size": 6} | change
    size = 5 if changed.pop("feature_size") == 512 else 6
    told = {"encoder": "uni", "patch_size": 256, "mpp": 0.5} | changed
    bag = FeatureBag(np.zeros((1, size), np.float32), np.zeros((1, 2), np.int64), 256, **told)
    with pytest.raises(CheckpointError) as refused:
        model.check_fits(bag)
    expected = fits(
        dataclasses.replace(MODEL, feature_size=6), InputFacts("b", FeatureFacts.of(bag))
    )
    assert expected.sentence == str(refused.value)


def test_what_is_not_said_is_not_taken_for_granted() -> None:
    fit = against(FeatureFacts(1024))
    assert fit.state is State.UNSURE
    assert fit.sentence.count("not compared") == 3
    assert against(SAME, encoder=None, mpp=None).state is State.UNSURE


def test_features_that_can_be_extracted_first() -> None:
    other = FeatureFacts(102, "stain-texture-v1", 256, 0.5)
    assert against(other, ("stain-texture-v1",)).state is State.NO
    fit = against(other, ("stain-texture-v1", "uni"))
    assert fit.state is State.EXTRACT
    assert "uni, 256 px at 0.5 µm/px" in fit.sentence
    assert against(None, ("uni",)).state is State.EXTRACT
    assert against(None, ()).state is State.NO
    assert against(None, ("x",)).state is State.NO
    assert "'uni', which is not known here" in against(None, ("x",)).sentence
    assert against(None, ("uni",), encoder=None).state is State.UNSURE
    assert "coarser" in against(None, ("uni",), mpp=0.125).sentence
    assert "coarser" not in fit.sentence


def test_what_cannot_be_read_says_so_first() -> None:
    fit = against(SAME, problem="m.safetensors is damaged")
    assert (fit.state, fit.sentence) == (State.UNUSABLE, "m.safetensors is damaged")


def test_encoders_by_name(tmp_path) -> None:
    assert can_extract("timm:resnet50", ("uni", "timm:"))
    assert not can_extract("timm:resnet50", ("uni",))
    assert not can_extract(str(tmp_path / "e.ts"), ("uni",))
    (tmp_path / "e.ts").touch()
    assert not can_extract(str(tmp_path / "e.ts"), ())  # it is there, but only the user names files
