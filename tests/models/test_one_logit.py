"""A network of one logit tells two classes apart: sigmoid, never 100 % for all."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_2dmamba.compare.contender import Contender
from napari_2dmamba.compare.side_by_side import compare
from napari_2dmamba.errors import CheckpointError, NotFiniteError, TargetError
from napari_2dmamba.explain.contribution import gradient_times_input
from napari_2dmamba.explain.counterfactual import Counterfactuals, smallest_set
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import Aggregator, CheckpointHeader, load_checkpoint, save_checkpoint
from napari_2dmamba.models.answer import answer_of, class_logits
from napari_2dmamba.models.registry import architecture, architectures
from napari_2dmamba.pipeline import run, summary_of
from tests.material import shared
from tests.tiny import write_slide

CONFIGS = {
    "2dmamba": {"d_model": 8, "d_state": 3, "canvas_mode": "slide"},
    "mambamil": {"d_model": 8, "n_layers": 1}, "s4mil": {"d_model": 8}, "dsmil": {},
    "transmil": {"dim": 16, "heads": 2}, "dtfd": {"hidden": 8}, "clam": {"hidden": 8},
    "abmil": {"hidden": 8},
}  # fmt: skip


def bag(size: int = 5, seed: int = 0) -> FeatureBag:
    rng = np.random.default_rng(seed)
    coords = np.array([(x * 64, y * 64) for y in range(4) for x in range(5)], np.int64)
    return FeatureBag(rng.normal(size=(20, size)).astype(np.float32), coords, 64, slide_mpp=0.5)


def model(name: str, names: tuple[str, ...] = ("tumour",), size: int = 5) -> Aggregator:
    torch.manual_seed(3)
    kind = architecture(name)
    config = kind.config_class(feature_size=size, n_outputs=1, **CONFIGS[name])
    header = CheckpointHeader(name, dataclasses.asdict(config), "classification", names)
    return Aggregator(kind(config), header)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_sigmoid_of_the_logit(name: str) -> None:
    made = model(name)
    found = made.predict(bag())
    with torch.inference_mode():
        inputs = made.prepare(bag())
        z = float(made.model(inputs.features, inputs.cells, inputs.canvas).logits)
    assert found.class_names == ("not tumour", "tumour")
    np.testing.assert_allclose(
        found.probabilities, [1 / (1 + math.exp(z)), 1 / (1 + math.exp(-z))], rtol=1e-6
    )
    np.testing.assert_allclose(found.logits, [0, z], rtol=1e-6)
    assert found.top_class == int(z > 0)
    assert "predicted class" not in found.attention_meaning
    if "the predicted class" in made.model.score_meaning:
        assert "the positive class, tumour" in found.attention_meaning


def test_all_architectures_are_tried() -> None:
    assert {kind.__module__ for kind in architectures().values()} == {
        architecture(name).__module__ for name in CONFIGS
    }


@pytest.mark.parametrize("z", [-800.0, -2.0, 0.0, 3.0, 800.0])
def test_cross_entropy_of_class_logits_is_the_binary_one(z: float) -> None:
    logits = torch.tensor([[z]], dtype=torch.float64)
    for label in (0, 1):
        found = torch.nn.functional.cross_entropy(class_logits(logits), torch.tensor([label]))
        truth = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[0], torch.tensor([float(label)], dtype=torch.float64)
        )
        torch.testing.assert_close(found, truth)
    answer = answer_of(logits[0], "classification")
    assert answer.probabilities is not None
    assert answer.probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize("name", ["dsmil", "dtfd", "clam"])
@pytest.mark.parametrize("label", [0, 1])
def test_what_papers_add_to_the_loss_knows_two_classes(name: str, label: int) -> None:
    made = model(name)
    inputs = made.prepare(bag())
    stages: dict[str, torch.Tensor] = {}
    made.model(inputs.features, inputs.cells, inputs.canvas, stages=stages)
    loss = made.model.auxiliary_loss(stages, torch.tensor([label]))
    assert loss is not None
    assert float(loss.detach()) > 0


def test_explanations_of_both_classes_are_each_other_s_negative() -> None:
    of = Subject.of(model("abmil", ("normal", "tumour")), bag())
    pro = of.scores_of_map(gradient_times_input(of, "tumour").map)
    con = of.scores_of_map(gradient_times_input(of, "normal").map)
    np.testing.assert_allclose(pro, -con, rtol=1e-5, atol=1e-7)
    assert np.abs(pro).max() > 0
    assert "logit of normal" in gradient_times_input(of, "0").map.meaning
    predicted = ("normal", "tumour")[Counterfactuals(of).before.top_class]
    assert f"logit of {predicted}" in gradient_times_input(of).map.meaning
    for target in ("nope", "2", 2, -1, "risk", "x" * 1000):
        with pytest.raises(TargetError, match="it has normal, tumour") as error:
            gradient_times_input(of, target)
        assert len(str(error.value)) < 300


def test_removing_patches_can_flip_it() -> None:
    made = model("abmil", ("normal", "tumour"))
    given = bag()
    with torch.no_grad():  # the answer hangs on one patch
        z = float(made.predict(given).logits[1])
        made.model.classifier[0].bias -= z - 0.02
    found = smallest_set(Subject.of(made, given))
    assert found.before.top_class == 1
    assert found.found
    assert found.after.top_class == 0


@pytest.mark.parametrize(
    ("names", "says"),
    [(("a", "b", "c"), "positive class"), ((), "positive class"), (("a", "a"), "same name")],
)
def test_names_that_do_not_fit(names: tuple[str, ...], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        model("abmil", names)


def test_one_logit_of_survival_is_a_log_relative_hazard() -> None:
    """Time bins are two at least; one logit is what Cox's loss trains, and no hazard of a bin."""
    made = model("abmil")
    header = dataclasses.replace(made.header, task="survival", class_names=("risk",))
    found = Aggregator(made.model, header).predict(bag())
    assert (found.probabilities, found.hazards, found.survival) == (None, None, None)
    assert found.logits.shape == (1,)
    assert found.risk == found.logits[0]


def test_saved_run_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(model("abmil", size=102), path)
    again = load_checkpoint(path)
    assert again.header.class_names == ("not tumour", "tumour")
    slide = write_slide(tmp_path / "slide.tif")
    answer = summary_of(run(slide, path, out=tmp_path / "run"))
    assert set(answer["probabilities"]) == {"not tumour", "tumour"}
    assert 0 < answer["probabilities"]["tumour"] < 1
    found = compare(slide, [Contender("a", again), Contender("b", again)], cache=tmp_path / "run")
    row = found.predictions_table()[0]
    assert row["answer"] == answer["prediction"]
    assert row["probability"] == pytest.approx(answer["probabilities"][answer["prediction"]])


def test_the_case() -> None:
    found = load_checkpoint(
        shared("cases/checkpoints/one_logit.pt"), canvas=(20, 20), patch_size=64,
        task="classification", class_names=("tumour",), encoder=None,
    )  # fmt: skip
    answer = found.predict(bag(102))
    assert answer.class_names == ("not tumour", "tumour")
    assert answer.probabilities is not None
    assert 0 < answer.probabilities.min() < answer.probabilities.max() < 1


# -- numbers that are no numbers ------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_features_that_overflow_give_no_answer(name: str) -> None:
    huge = dataclasses.replace(bag(), features=bag().features * np.float32(1e38))
    made = model(name)
    of = Subject.of(made, huge)
    output = of.run()
    if torch.isfinite(output.logits).all() and torch.isfinite(output.scores).all():
        assert np.isfinite(made.predict(huge).logits).all()
        return
    with pytest.raises(NotFiniteError, match=r"no finite number.*features reach") as error:
        made.predict(huge)
    assert len(str(error.value)) < 700
    with pytest.raises(NotFiniteError):
        Counterfactuals(of)


def test_a_map_holds_no_infinity() -> None:
    of = Subject.of(model("abmil"), bag())
    for value in (np.inf, np.nan):
        scores = np.zeros(20)
        scores[3] = value
        with pytest.raises(NotFiniteError, match="map 'm'"):
            of.map_of_patches(scores, "m", "")
    of.map_of_patches(scores, "m", "", gaps=True)


@pytest.mark.parametrize("case", ["huge.h5", "huge-values.safetensors"])
def test_the_cases_that_overflow(case: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from napari_2dmamba.cli.main import main

    path = shared(f"cases/damaged/{case}")
    slide = Path(__file__).parents[2] / "sample_data" / "synthetic-he.tif"
    option = "--features" if case.endswith(".h5") else "--checkpoint"
    more = [] if case.endswith(".h5") else ["--features", str(_features(tmp_path))]
    code = main(
        ["run", str(slide), "--out", str(tmp_path / "r"), option, str(path), *more, "--json"]
    )
    said = "".join(capsys.readouterr())
    assert code == 1
    assert "no finite number" in said
    assert '"prediction"' not in said


def _features(folder: Path) -> Path:
    from napari_2dmamba.features import write_features

    given = dataclasses.replace(
        bag(102), patch_size=256, patch_size_level0=256, mpp=0.5, encoder="stain-texture-v1",
        coords=bag().coords * 4,
    )  # fmt: skip
    write_features(given, folder / "features.h5")
    return folder / "features.h5"
