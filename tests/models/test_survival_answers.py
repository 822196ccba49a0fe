"""What a survival model says, and what it does not: by hand, at every entrance."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_2dmamba.cli.main import main
from napari_2dmamba.cohort.plan import CohortPlan
from napari_2dmamba.compare import Contender, compare
from napari_2dmamba.compare.ensemble import ensemble
from napari_2dmamba.errors import TargetError
from napari_2dmamba.evaluation.predictions import predict, read_predictions, write_predictions
from napari_2dmamba.evaluation.scoring import evaluate, point_scores
from napari_2dmamba.explain.counterfactual import Counterfactuals, smallest_set
from napari_2dmamba.explain.outcome import named_target, target_value, words_of
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.export.frame import describe
from napari_2dmamba.export.record import ResultRecord
from napari_2dmamba.export.run_folder import open_run, save_run
from napari_2dmamba.export.run_report import write_run_report
from napari_2dmamba.features import write_features
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import Aggregator, CheckpointHeader, save_checkpoint
from napari_2dmamba.models.answer import answer_of
from napari_2dmamba.models.registry import architecture
from napari_2dmamba.pipeline import RunSettings, run, summary_of
from napari_2dmamba.slide import open_slide
from napari_2dmamba.tasks.bags import LabelledBag
from napari_2dmamba.tasks.table import read_table
from tests.tiny import MPP, PATCH, write_slide

COX = ("relative risk (Cox)",)
PUBLISHED = ("0 to 10", "from 10 on", "unused 1", "unused 2")


def model(names: tuple[str, ...], seed: int = 0, **told: object) -> Aggregator:
    torch.manual_seed(seed)
    kind = architecture("abmil")
    config = kind.config_class(feature_size=102, n_outputs=len(names), hidden=8)
    header = CheckpointHeader(
        "abmil", dataclasses.asdict(config), "survival", names, encoder="stain-texture-v1",
        patch_size=PATCH, mpp=MPP, training=dict(told),
    )  # fmt: skip
    return Aggregator(kind(config), header)


def bags(count: int) -> list[LabelledBag]:
    rng = np.random.default_rng(1)
    coords = np.array([(x * 64, 0) for x in range(6)], np.int64)
    return [
        LabelledBag(
            FeatureBag(rng.normal(size=(6, 102)).astype(np.float32), coords, 64, slide_mpp=MPP),
            0, censored=i % 3 == 2, time=float(i + 1), name=f"s{i}", patient=f"p{i}",
        )
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("z", [-40.0, -0.5, 0.0, 25.0])
def test_the_risk_of_a_cox_model_is_its_logit(z: float) -> None:
    said = answer_of(torch.tensor([z]), "survival")
    assert (said.risk, said.hazards, said.survival) == (z, None, None)
    two = answer_of(torch.tensor([0.0, 0.0]), "survival")
    assert two.risk == -0.75


def test_high_risks_of_a_cox_model_are_no_ties() -> None:
    """Between 25 and 35 the sigmoid has differences below what counts as equal."""
    made, examples = model(COX), bags(6)
    with torch.no_grad():
        head = [p for p in made.model.parameters() if p.shape == (1,)][-1]
        head += 30.0
    found = predict(made, examples)
    assert len(set(np.round(found.risks, 6))) == 6
    order = np.argsort(-found.risks)
    told = dataclasses.replace(
        found, times=np.argsort(order).astype(float), events=np.ones(6, bool)
    )
    assert point_scores(told)["concordance"] == 1.0


def test_predictions_of_cox_models_are_written_without_survival(tmp_path: Path) -> None:
    found = predict(model(COX), bags(4), model="a")
    again = read_predictions(write_predictions(found, tmp_path / "p.csv"))
    assert "survival" not in (tmp_path / "p.csv").read_text()
    np.testing.assert_array_equal(again.risks, found.risks)
    assert (again.values.shape, again.class_names) == ((4, 0), ())


def test_what_earlier_versions_wrote_of_a_cox_model_is_read_right(tmp_path: Path) -> None:
    z, survived = 0.7, 1 / (1 + math.exp(0.7))
    held = {"task": "survival", "class_names": COX, "risk": -survived}
    told = ResultRecord(**held, logits=(z,), hazards=(1 - survived,), survival=(survived,))
    assert (told.risk, told.hazards, told.survival) == (z, None, None)
    assert told.verdict == "risk 0.700"
    head = f"slide,group,model,time,event,time_bin,risk,survival {COX[0]}\n"
    (tmp_path / "p.csv").write_text(head + f"a,0,m,1.0,1,0,{-survived},{survived}\n")
    assert read_predictions(tmp_path / "p.csv").values.shape == (1, 0)
    plan = CohortPlan(RunSettings(), str(tmp_path), "")  # their rows are made again
    assert dataclasses.replace(plan, risk="logit").settings_digest() != plan.settings_digest()


def test_explanations_of_a_cox_model_are_about_the_risk() -> None:
    made = model(COX)
    logits = torch.tensor([0.7])
    for target in (None, 0, "0", "risk", COX[0]):
        assert named_target(made.header, target) == "risk"
        assert target_value(logits, made.header, target) == logits[0]
        assert words_of(made.header, target) == "the risk"
    with pytest.raises(TargetError):
        named_target(made.header, 1)
    subject = Subject.of(made, bags(1)[0].bag)
    found = smallest_set(subject, goal="halve")
    risks = [one.risk for one in (found.before, found.after)]
    assert (abs(risks[1] - risks[0]) >= math.log(2)) == found.found
    edit = Counterfactuals(subject).apply([0], "remove")
    np.testing.assert_allclose(edit.change, [edit.after.risk - edit.before.risk])


def test_a_run_says_what_the_model_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = write_slide(tmp_path / "tiny.tif")
    for names, bins in ((COX, ()), (PUBLISHED, PUBLISHED[:2])):
        made = model(names)
        save_checkpoint(made, tmp_path / f"{len(names)}.safetensors")
        result = run(slide, tmp_path / f"{len(names)}.safetensors", out=tmp_path / f"{len(names)}")
        said, told = result.prediction, summary_of(result)
        assert told["risk"] == said.risk
        assert tuple(told["survival"] or ()) == bins
        title = describe(said)
        assert f"risk {said.risk:.3f}" in title
        assert "unused" not in title
        assert ("survival" in title) == bool(bins)
        if bins:
            expected = np.prod(1 - said.hazards[:2])
            assert f"survival to the end of from 10 on {expected:.1%}" in title
        else:  # as an earlier version saved it: the sigmoid of the logit for a hazard
            wrong = {"hazards": np.array([0.6]), "survival": np.array([0.4]), "risk": -0.4}
            save_run(
                tmp_path / "1", result.record, grid=result.grid, maps=open_run(tmp_path / "1").maps,
                prediction=dataclasses.replace(said, **wrong),
            )  # fmt: skip
        saved = open_run(tmp_path / f"{len(names)}")
        assert saved.prediction.risk == said.risk
        assert saved.prediction.survival_by_bin == said.survival_by_bin
        with open_slide(slide) as opened:
            write_run_report(saved, opened, tmp_path / "r.html")
        page = (tmp_path / "r.html").read_text()
        assert "unused" not in page
        assert ("Share that survives" in page) == bool(bins)
        assert ("2 outputs that no time bin was trained on" in page) == bool(bins)
    capsys.readouterr()


def test_risks_without_a_common_scale_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = write_slide(tmp_path / "tiny.tif")
    first, second = (Contender(name, model(COX, seed)) for seed, name in enumerate(("a", "b")))
    found = compare(slide, [first, second])
    assert any("the risks of a, b have no common scale" in one for one in found.unchecked)
    both = ensemble(found)
    assert (both.risk, both.survival, both.probabilities) == (None, None, None)
    alike = compare(slide, [Contender("a", model(PUBLISHED)), Contender("b", model(PUBLISHED, 1))])
    assert not any("scale" in one for one in alike.unchecked)
    others = compare(
        slide, [Contender("a", model(PUBLISHED)), Contender("b", model(("0 to 9", "from 9 on")))]
    )
    assert any("their time bins differ" in one for one in others.unchecked)
    paths = []
    for name in ("a", "b"):
        save_checkpoint(model(COX), tmp_path / f"{name}.safetensors")
        paths += ["--model", f"{tmp_path / name}.safetensors={name}"]
    assert main(["compare", str(slide), *paths, "--json"]) == 0
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert any("no common scale" in one for one in said["not_compared"])


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1, ""), (30, "6 of 6 times lie beyond 7"), (1 / 12, "all 6 times lie in the model's first")],
)
def test_times_in_another_unit_are_told(tmp_path: Path, factor: float, words: str) -> None:
    made = model(("0 to 3", "3 to 5", "from 5 on"), time_bins=[0.5, 3.0, 5.0, 7.0])
    lines = ["features,patient,time,event"]
    for number, one in enumerate(bags(6)):
        write_features(one.bag, tmp_path / f"{number}.h5")
        lines.append(f"{number}.h5,p{number},{one.time * factor},1")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = evaluate(made, read_table(tmp_path / "t.csv"))
    said = [one for one in found.remarks if "one unit (days, months, years)" in one]
    assert len(said) == bool(words)
    assert not words or words in said[0]
