from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_2dmamba.cli import main
from napari_2dmamba.errors import Cancelled, EvaluationError
from napari_2dmamba.evaluation import (
    EvaluationSettings,
    Predictions,
    compare_models,
    read_predictions,
    score_predictions,
    write_predictions,
    write_report,
)
from napari_2dmamba.evaluation.bootstrap import bootstrap
from napari_2dmamba.evaluation.comparison import delong
from napari_2dmamba.evaluation.predictions import together
from napari_2dmamba.evaluation.scoring import write_evaluation
from napari_2dmamba.evaluation.survival import risk_groups

QUICK = EvaluationSettings(resamples=100)


def classes(count: int = 60, seed: int = 0, signal: float = 1.0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    logits = signal * (2 * labels - 1) + rng.normal(0, 1, count)
    p = 1 / (1 + np.exp(-logits))
    return Predictions(
        "classification",
        ("no, <b>never</b>", "yes"),
        tuple(f"slide {i}" for i in range(count)),
        np.arange(count),
        tuple(f"fold {i % 3}" for i in range(count)),
        np.stack([1 - p, p], 1),
        labels,
    )


def lives(count: int = 60, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    risk = rng.normal(0, 1, count)
    time = rng.exponential(10 * np.exp(-risk))
    hazards = 1 / (1 + np.exp(1 - risk[:, None] - np.zeros((1, 3))))
    return Predictions(
        "survival",
        ("early", "middle", "late"),
        tuple(f"slide {i}" for i in range(count)),
        np.arange(count),
        ("fold 0",) * count,
        np.cumprod(1 - hazards, 1),
        np.digitize(time, [3, 12]),
        times=time,
        events=rng.random(count) < 0.7,
        risks=-np.cumprod(1 - hazards, 1).sum(1),
        edges=np.tile([0.0, 3.0, 12.0, 80.0], (count, 1)),
    )


@pytest.mark.parametrize("make", [classes, lives])
def test_predictions_come_back_as_they_were_written(make, tmp_path: Path) -> None:
    told = make()
    back = read_predictions(write_predictions(told, tmp_path / "p.csv"))
    for name in ("kind", "class_names", "slides", "models"):
        assert getattr(back, name) == getattr(told, name)
    for name in ("groups", "values", "labels", "times", "events", "risks", "edges"):
        np.testing.assert_array_equal(getattr(back, name), getattr(told, name))


def test_a_table_that_is_no_predictions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("slide,label\na,b\n")
    with pytest.raises(EvaluationError, match="no table of predictions"):
        read_predictions(tmp_path / "p.csv")


def test_intervals_resample_patients_not_slides() -> None:
    """Ten copies of each slide of a patient make no interval narrower."""
    told = classes(40)
    many = told.take(np.repeat(np.arange(40), 10))
    one = score_predictions(told, QUICK).scores["accuracy"]
    ten = score_predictions(many, QUICK).scores["accuracy"]
    assert ten == one
    assert one.low is not None
    assert one.high is not None
    assert one.low < one.value < one.high


def test_intervals_cover_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values = rng.normal(3.0, 1.0, 40)
        (score,) = bootstrap(
            lambda rows, v=values: {"mean": float(v[rows].mean())}, np.arange(40), resamples=200
        ).values()
        assert score.low is not None
        assert score.high is not None
        inside += score.low <= 3.0 <= score.high
    assert 51 <= inside <= 60


def test_bootstrap_stops_and_counts_samples_without_a_meaning() -> None:
    with pytest.raises(Cancelled):
        score_predictions(classes(), QUICK, should_stop=lambda: True)
    rare = classes(12)
    rare = replace(rare, labels=np.array([1] + [0] * 11))
    found = score_predictions(rare, QUICK).scores["auroc"]
    assert found.value is not None
    assert 0.5 < found.defined < 0.8


def test_delong_is_the_variance_of_the_difference() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(100) % 2 == 1
    base = rng.normal(0, 1, 100) + 0.8 * label
    first, second = base + rng.normal(0, 0.5, 100), base + rng.normal(0, 2.0, 100)
    a, b, p = delong(label, first, second)

    # From the definition: placements of each positive among negatives and the other way round.
    def parts(s):
        psi = (s[label][:, None] > s[~label][None]) + 0.5 * (s[label][:, None] == s[~label][None])
        return psi.mean(), psi.mean(1), psi.mean(0)

    (area, v10, v01), (other, w10, w01) = parts(first), parts(second)
    assert (a, b) == (pytest.approx(area), pytest.approx(other))
    variance = np.var(v10 - w10, ddof=1) / 50 + np.var(v01 - w01, ddof=1) / 50
    from scipy import stats

    assert p == pytest.approx(2 * stats.norm.sf(abs(area - other) / np.sqrt(variance)))
    assert delong(label, first, first)[2] == 1.0


def test_a_better_model_is_told_from_a_worse_one_and_not_from_itself() -> None:
    good, bad = classes(60, 0, 2.0), classes(60, 1, 0.0)
    for one in compare_models(good, bad, permutations=200):
        assert one.p_value < 0.05, one
    for one in compare_models(good, good, permutations=50):
        assert one.p_value == 1.0
    shuffled = lives()
    shuffled = replace(shuffled, risks=np.random.default_rng(3).permutation(shuffled.risks))
    (one,) = compare_models(lives(), shuffled, permutations=200)
    assert one.score == "concordance"
    worst = replace(lives(), risks=lives().times)
    assert compare_models(lives(), worst, permutations=200)[0].p_value < 0.01 < one.p_value


def test_a_scale_of_its_own_makes_no_model_better_or_worse() -> None:
    good, bad = classes(60, 0, 1.0), classes(60, 1, 0.2)
    squeezed = replace(bad, values=np.array([0.5, 0.4]) + 0.1 * bad.values)
    one, other = (
        {(d.score, d.test): d for d in compare_models(good, rival, permutations=300)}
        for rival in (bad, squeezed)
    )
    key = "auroc", "300 permutations by patient"
    assert one[key] == other[key]
    assert one[key].p_value < 0.05
    assert one[key].p_value == pytest.approx(one["auroc", "DeLong"].p_value, abs=0.02)


def test_a_difference_without_spread_is_no_certainty() -> None:
    perfect = replace(classes(4), values=np.eye(2)[np.arange(4) % 2])
    constant = replace(perfect, values=np.full((4, 2), 0.5))
    found = compare_models(perfect, constant, permutations=200)
    assert [one.test for one in found if one.score == "auroc"] == ["200 permutations by patient"]
    assert found[0].p_value > 0.05  # four slides are certain of nothing


def test_a_rival_is_scored_on_the_slides_of_both(tmp_path: Path, capsys) -> None:
    mine, its = classes(60).take(np.arange(30)), classes(60, 1)
    # On slides that only the rival predicted it is always right
    flawless = its.values.copy()
    flawless[30:] = np.eye(2)[its.labels[30:]]
    write_predictions(mine, tmp_path / "mine.csv")
    write_predictions(replace(its, values=flawless), tmp_path / "its.csv")
    report = tmp_path / "r.html"
    assert main(["report", str(tmp_path / "mine.csv"), "--out", str(report),
                 "--against", str(tmp_path / "its.csv"), "--resamples", "0"]) == 0  # fmt: skip
    expected = score_predictions(its.take(np.arange(30)), EvaluationSettings(resamples=0))
    shown = f"{expected.scores['auroc'].value:.3f}"
    page = report.read_text()
    compared = page[page.index("Compared on the same slides") : page.index("Plots")]
    assert f"<td>30 of 30</td><td>AUROC</td><td>{shown}</td>" in compared
    assert f"against {shown} ({tmp_path.name}) on the 30 slides of both" in capsys.readouterr().out


def test_what_was_said_of_predictions_is_said_again(tmp_path: Path, capsys) -> None:
    write_evaluation(score_predictions(classes(), QUICK, remarks=("take care",)), tmp_path)
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "r.html")]) == 0
    assert capsys.readouterr().out.count("take care") == 1
    assert "take care" in (tmp_path / "r.html").read_text()


def test_an_interval_of_some_of_the_samples_says_so() -> None:
    """One slide of a class is in 63 % of the samples: 1 - (1 - 1/n)^n."""
    few = classes(20)
    few = replace(few, labels=(np.arange(20) == 0).astype(np.int64))
    found = score_predictions(few, EvaluationSettings(resamples=400))
    share = found.scores["auroc"].defined
    assert share == pytest.approx(1 - (1 - 1 / 20) ** 20, abs=0.08)
    assert sum(f"AUROC has a meaning in {share:.0%}" in remark for remark in found.remarks) == 1
    assert score_predictions(classes(), QUICK).remarks == ()


def repeated(told: Predictions, times: int) -> Predictions:
    """Return the same patients, each with several rows of one model each."""
    of = [replace(told, models=(f"fold {k}",) * len(told)) for k in range(times)]
    return together(of, [[str(group) for group in told.groups]] * times)


def test_a_patient_counts_once_in_the_log_rank_test() -> None:
    told = lives(40, 5)
    alone = score_predictions(told, EvaluationSettings(resamples=0)).details["log_rank"]
    often = score_predictions(repeated(told, 6), EvaluationSettings(resamples=0))
    assert often.details["log_rank"] == pytest.approx(alone)
    expected = risk_groups(told.risks, told.times, told.events)
    assert alone["p_value"] == pytest.approx(expected.p_value)


def test_risks_of_cox_models_are_not_held_against_each_other() -> None:
    """Each model has a baseline of its own: adding a number to its risks changes nothing."""
    told = replace(lives(60, 2), edges=None, models=("fold 0",) * 30 + ("fold 1",) * 30)
    shifted = replace(told, risks=told.risks + np.repeat([0.0, 50.0], 30))
    one, other = (score_predictions(x, EvaluationSettings(resamples=50)) for x in (told, shifted))
    assert one.scores == other.scores
    assert one.details["log_rank"] == other.details["log_rank"]
    assert any("no common scale" in remark for remark in one.remarks)
    first, second = (compare_models(x, told, permutations=50)[0] for x in (told, shifted))
    assert first.first == second.first == second.second
    # Time bins are a scale that models share, and so is one model's own
    assert score_predictions(lives(60, 2), QUICK).remarks == ()
    alone = replace(told, models=("fold 0",) * 60)
    assert score_predictions(alone, QUICK).remarks != one.remarks


def test_answers_of_several_models_are_put_together_by_name() -> None:
    first, second = classes(6), classes(6, 1)
    patients = [[str(i) for i in range(6)]] * 2
    with pytest.raises(EvaluationError, match="of the same classes in one order"):
        together([first, replace(second, class_names=second.class_names[::-1])], patients)
    with pytest.raises(EvaluationError, match="different questions"):
        together([first, lives(6)], patients)
    # Each model has time bins of its own: none lends its names to those of the others
    one, other = lives(6), replace(lives(6, 1), class_names=("0 to 2", "2 to 5", "from 5 on"))
    assert together([one, other], patients).class_names == ("bin 1", "bin 2", "bin 3")
    assert together([one, one], patients).class_names == one.class_names


def test_models_of_other_questions_are_not_compared() -> None:
    with pytest.raises(EvaluationError, match="different questions"):
        compare_models(classes(), lives())
    with pytest.raises(EvaluationError, match="no slide in common"):
        compare_models(classes(), replace(classes(), slides=tuple("x" * i for i in range(60))))
    with pytest.raises(EvaluationError, match="different labels"):
        compare_models(classes(), replace(classes(), labels=1 - classes().labels))
    with pytest.raises(EvaluationError, match="several times"):
        compare_models(classes().take(np.array([0, 0])), classes())


@pytest.mark.parametrize("make", [classes, lives])
def test_the_report_stands_alone(make, tmp_path: Path) -> None:
    found = score_predictions(make(), QUICK, title="a <title>", remarks=("take care",))
    page = write_report(
        found, tmp_path / "r.html", commands={("slide 1", "fold 1"): "open 'it'"}
    ).read_text()
    assert "src=" not in page
    assert 'href="http' not in page
    assert page.count("<svg") >= 2
    assert "a &lt;title&gt;" in page
    assert "<b>never" not in page
    assert "take care" in page
    written = write_evaluation(found, tmp_path)
    assert {path.name for path in written} == {"predictions.csv", "scores.json", "scores.csv"}
    assert "slide 1" not in (tmp_path / "scores.json").read_text()


def test_a_prediction_that_is_no_number_is_never_scored() -> None:
    told = classes()
    values = told.values.copy()
    values[4, 0] = np.nan
    with pytest.raises(EvaluationError, match="slide 4"):
        score_predictions(replace(told, values=values), QUICK)
