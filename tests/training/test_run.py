"""From a table to a checkpoint, a report, and the same numbers again; leaks and other folders."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from napari_2dmamba.cli import main
from napari_2dmamba.errors import Cancelled, EvaluationError, TaskError, TrainingError
from napari_2dmamba.evaluation import EvaluationSettings, evaluate
from napari_2dmamba.features import read_features, write_features
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import load_checkpoint, read_header
from napari_2dmamba.tasks import Split, SplitSettings, make_split, read_table
from napari_2dmamba.tasks.bags import FeatureKind
from napari_2dmamba.tasks.splits import Fold
from napari_2dmamba.tasks.table import Problem
from napari_2dmamba.tasks.time_bins import time_bins
from napari_2dmamba.training import FitSettings, Preset, preset, read_training, train
from napari_2dmamba.training.model import new_aggregator
from napari_2dmamba.training.run import time_edges
from tests.material import shared

TINY = {"hidden": 8, "attention_hidden": 4}
FIT = FitSettings(
    epochs=6, learning_rate=2e-2, accumulate=2, patience=0, device="cpu", schedule="constant"
)
SCORING = EvaluationSettings(resamples=20)
UNCERTAIN = EvaluationSettings(resamples=0)
"""Without intervals, for tests that look at none."""


def cohort(folder: Path, patients: int = 12, *, survival: bool = False, seed: int = 0) -> Path:
    """Two slides a patient; a patch with a high first feature makes class or early event."""
    rng = np.random.default_rng(seed)
    lines = ["slide,features,patient," + ("time,event" if survival else "label")]
    (folder / "features").mkdir(parents=True)
    for patient in range(patients):
        ill = patient % 2
        for k in "ab":
            name = f"s{patient}{k}"
            side = rng.integers(3, 6)
            coords = np.stack(np.meshgrid(np.arange(side), np.arange(3)), -1).reshape(-1, 2)
            values = rng.standard_normal((len(coords), 6)).astype(np.float32)
            values[:, 0] = 0
            values[0, 0] = 4 * ill
            bag = FeatureBag(values, 512 * coords, 512, 256, 0.5, encoder="made-up")
            write_features(bag, folder / "features" / f"{name}.h5")
            time = 1 + patient / 10 if ill else 5 + patient / 10
            answer = f"{time},{int(patient % 5 != 0)}" if survival else "ny"[ill]
            lines.append(f"{name}.svs,features/{name}.h5,p{patient},{answer}")
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return folder / "t.csv"


def test_the_whole_way_from_the_command_line(tmp_path: Path, capsys) -> None:
    table, out = cohort(tmp_path), tmp_path / "out"
    assert main(["split", str(table), "--folds", "3", "--out", str(tmp_path / "s.csv")]) == 0
    assert "24 slides of 12 patients: 12 'n', 12 'y'" in capsys.readouterr().out
    command = [
        "train", str(table), "--out", str(out), "--split-file", str(tmp_path / "s.csv"),
        "--architecture", "abmil", "--epochs", "6", "--learning-rate", "0.02", "--accumulate", "2",
        "--device", "cpu", "--resamples", "20", "--class-name", "y=ill", "--intended-use", "None.",
        "--model-option", "hidden=8", "--model-option", "attention_hidden=4",
    ]  # fmt: skip
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "AUROC" in told
    assert str(out / "final" / "model.safetensors") in told

    header = read_header(out / "fold-1" / "model.safetensors")
    assert (header.encoder, header.patch_size, header.mpp) == ("made-up", 256, 0.5)
    assert header.class_names == ("n", "ill")
    assert header.intended_use == "None."
    assert header.training["preset"] == "recommended, changed"
    card = (out / "fold-1" / "model-card.md").read_text()
    scores = json.loads((out / "scores.json").read_text())
    assert scores["slides"] == 24
    assert scores["patients"] == 12
    assert scores["scores"]["auroc"]["value"] > 0.9
    assert set(scores["models"]) == {"fold 0", "fold 1", "fold 2"}
    page = (out / "report.html").read_text()
    assert "mean of the features" in page
    assert "tissue area" in page
    assert 'napari-2dmamba run "s' in page.replace("&quot;", '"')
    for text in (card, (out / "scores.json").read_text(), page):
        assert "p11" not in text.replace("p110", "")
        assert str(tmp_path) not in text

    # The card's numbers come again from the checkpoint, which knows what it must not be tested on.
    again = tmp_path / "again"
    checkpoint = str(out / "fold-1" / "model.safetensors")
    assert main(["evaluate", checkpoint, str(table), "--out", str(again), "--device", "cpu",
                 "--resamples", "20"]) == 0  # fmt: skip
    told = capsys.readouterr().out
    assert "were left out" in told
    found = json.loads((again / "scores.json").read_text())["scores"]
    assert found["auroc"]["value"] == header.training["test"]["auroc"]
    assert f"{found['log_loss']['value']:.3f} [" in card
    assert main(["evaluate", str(out / "final" / "model.safetensors"), str(table)]) == 1
    assert "trained on all 24 slides" in capsys.readouterr().err

    report = tmp_path / "r.html"
    baseline = out / "baselines" / "tissue-area" / "predictions.csv"
    assert main(["report", str(out), "--out", str(report), "--against", str(baseline),
                 "--resamples", "20"]) == 0  # fmt: skip
    assert "permutations" in capsys.readouterr().out

    # Finished work is kept; another training in the same folder is refused.
    before = (out / "fold-0" / "model.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    assert (out / "fold-0" / "model.safetensors").stat().st_mtime_ns == before
    assert main([*command, "--seed", "3"]) == 1
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_survival_to_the_report(tmp_path: Path, loss: str) -> None:
    table = read_table(cohort(tmp_path, 20, survival=True))
    use = Preset(dataclasses.replace(FIT, epochs=3, survival_loss=loss, time_bins=3, accumulate=8))
    split = make_split(table, SplitSettings(folds=2))
    run = train(
        table, split, out=tmp_path / "out", architecture="abmil", use=use, config=TINY,
        final=False, scoring=SCORING,
    )  # fmt: skip
    assert run.evaluation is not None
    assert run.evaluation.scores["concordance"].value is not None
    header = read_header(run.checkpoints[0])
    assert header.task == "survival"
    if loss == "nll":
        assert len(header.training["time_bins"]) == 4
        assert run.evaluation.scores["integrated_brier"].value is not None
        again = evaluate(run.checkpoints[0], table, SCORING)
        expected = header.training["test"]["concordance"]
        assert again.scores["concordance"].value == expected
    assert "log-rank test between" in (tmp_path / "out" / "report.html").read_text()


def test_published_survival_has_eight_outputs_of_which_the_bins_use_the_first(
    tmp_path: Path,
) -> None:
    table = read_table(cohort(tmp_path, 12, survival=True))
    use = preset("published", "2dmamba", "survival")
    assert use.fit.loss_divisor == 32
    use = dataclasses.replace(
        use, fit=dataclasses.replace(use.fit, epochs=1, time_bins=2, device="cpu")
    )
    split = make_split(table, SplitSettings(method="held-out"))
    run = train(
        table, split, out=tmp_path / "out", use=use, config={"d_model": 8, "d_state": 2},
        final=False, scoring=UNCERTAIN,
    )  # fmt: skip
    header = read_header(run.checkpoints[0])
    assert len(header.class_names) == 8
    assert header.class_names[-1] == "unused 6"
    assert header.canvas == (3, 5)
    assert header.config["attention_over"] == "all"
    said = "the time bins follow from the times of all patients, tested ones included"
    assert any(said in remark for remark in run.evaluation.remarks)
    assert said in (tmp_path / "out" / "report.html").read_text()


def test_a_cancelled_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    table = read_table(cohort(tmp_path, 8))
    split = make_split(table, SplitSettings(folds=2))

    def run(out: Path, stop_after: int | None):
        seen: list[str] = []
        return train(
            table, split, out=out, architecture="abmil",
            use=Preset(dataclasses.replace(FIT, epochs=3)), config=TINY,
            final=False, scoring=UNCERTAIN, on_epoch=lambda model, epoch: seen.append(model),
            should_stop=lambda: stop_after is not None and len(seen) >= stop_after,
        )  # fmt: skip

    whole = run(tmp_path / "whole", None)
    with pytest.raises(Cancelled):
        run(tmp_path / "cut", 4)  # in the second fold
    rest = run(tmp_path / "cut", None)
    for one, two in zip(whole.checkpoints, rest.checkpoints, strict=True):
        a, b = (load_checkpoint(path).model.state_dict() for path in (one, two))
        assert all((a[name] == b[name]).all() for name in a)
    assert whole.evaluation is not None
    assert rest.evaluation is not None
    assert whole.evaluation.scores == rest.evaluation.scores
    assert read_training(tmp_path / "cut")["kind"] == "classification"


def test_leaks_and_other_features_stop_before_anything_is_trained(tmp_path: Path) -> None:
    table = read_table(cohort(tmp_path))
    (fold,) = make_split(table, SplitSettings(method="held-out")).folds
    leak = dataclasses.replace(fold, train=fold.train[1:], test=(*fold.test, fold.train[0]))
    with pytest.raises(TaskError, match="patients have slides in two parts"):
        train(table, Split((leak,), "by hand"), out=tmp_path / "out", use=Preset(FIT))
    bag = FeatureBag(np.zeros((3, 6), np.float32), 512 * np.eye(3, 2, dtype=int), 512, 256, 0.25,
                     encoder="made-up")  # fmt: skip
    write_features(bag, tmp_path / "features" / "s1a.h5")
    with pytest.raises(TaskError, match=r"1 slides have features of mpp 0.25"):
        train(table, out=tmp_path / "out", use=Preset(FIT))
    assert not (tmp_path / "out").exists()


def test_a_test_label_never_reaches_the_model(tmp_path: Path) -> None:
    """Turning the labels of the test part round changes no weight."""
    path = cohort(tmp_path, 8)
    table = read_table(path)
    split = make_split(table, SplitSettings(method="held-out"))
    tested = set(split.folds[0].test)
    turned = tuple(
        dataclasses.replace(s, label="ny"[s.label == "n"]) if s.name in tested else s
        for s in table.slides
    )
    models = []
    for number, one in enumerate((table, dataclasses.replace(table, slides=turned))):
        run = train(
            one, split, out=tmp_path / str(number), architecture="abmil",
            use=Preset(dataclasses.replace(FIT, epochs=2)),
            config=TINY, final=False, scoring=UNCERTAIN,
        )  # fmt: skip
        models.append(load_checkpoint(run.checkpoints[0]).model.state_dict())
    assert all((models[0][name] == models[1][name]).all() for name in models[0])


def test_a_table_of_another_question_is_not_evaluated(tmp_path: Path) -> None:
    table = read_table(cohort(tmp_path / "a", 8))
    run = train(
        table, make_split(table, SplitSettings(method="held-out")), out=tmp_path / "out",
        architecture="abmil", use=Preset(dataclasses.replace(FIT, epochs=1)), config=TINY,
        final=False, scoring=UNCERTAIN,
    )  # fmt: skip
    renamed = tuple(dataclasses.replace(s, label="x" + str(s.label)) for s in table.slides)
    other = dataclasses.replace(table, classes=("xn", "xy"), slides=renamed)
    with pytest.raises(EvaluationError, match="has the label 'xn'"):
        evaluate(run.checkpoints[0], other)
    with pytest.raises(EvaluationError, match="is about survival"):
        evaluate(run.checkpoints[0], read_table(cohort(tmp_path / "b", survival=True)))
    with pytest.raises(TrainingError, match="no preset"):
        preset("best", "abmil", "classification")
    with pytest.raises(TrainingError, match="holds no training"):
        read_training(tmp_path)


def test_slides_without_features_are_said_on_the_command_line(tmp_path: Path, capsys) -> None:
    (tmp_path / "t.csv").write_text("slide,patient,label\na.svs,p,0\nb.svs,q,1\n")
    command = ["train", str(tmp_path / "t.csv"), "--method", "all", "--validation-share", "0"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    assert "2 slides have no features file (first a)" in capsys.readouterr().err


def test_the_baselines_of_the_atlas() -> None:
    """The positive control can be learnt, and tissue area alone does worse."""
    from napari_2dmamba.evaluation.classification import auroc
    from napari_2dmamba.tasks import TableSettings
    from napari_2dmamba.training.baselines import baseline_predictions

    path = shared("atlas/labels.csv")
    table = read_table(path, TableSettings(label_column="label_gi_tract"))
    assert table.counts().startswith("44 slides of 40 patients")
    found = baseline_predictions(table, make_split(table, SplitSettings()))
    mean, area = (auroc(told.labels, told.values) for told in found.values())
    assert mean is not None
    assert area is not None
    assert 0.8 < mean < 0.99
    assert 0.5 < area < 0.85


def test_two_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    table = read_table(cohort(tmp_path, 2))
    with pytest.raises(TrainingError, match="two classes are called 'n'"):
        new_aggregator(
            "abmil", table, FeatureKind(6), preset("recommended", "abmil", table.kind),
            class_names={"y": "n"},
        )  # fmt: skip


def once(out: Path, table, split, *, seed: int = 0, **more):
    """Train an epoch, the quickest way."""
    use = Preset(dataclasses.replace(FIT, epochs=1, seed=seed))
    how = {"architecture": "abmil", "use": use, "config": TINY, "final": False, "logs": []}
    return train(table, split, out=out, **{**how, "scoring": UNCERTAIN, **more})


def test_a_fold_of_another_training_is_not_collected(tmp_path: Path) -> None:
    table = read_table(cohort(tmp_path / "c", 8))
    split = make_split(table, SplitSettings(folds=2))
    for machine, fold in (("a", 0), ("b", 1)):
        once(tmp_path / machine, table, split, only=[fold])
    once(tmp_path / "other", table, split, seed=7, only=[1])
    place = tmp_path / "a" / "fold-1"

    shutil.copytree(tmp_path / "other" / "fold-1", place)
    with pytest.raises(TrainingError, match="not fold 1 of this training, but of one with other"):
        once(tmp_path / "a", table, split)
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "a" / "fold-0", place)
    with pytest.raises(TrainingError, match="not fold 1 of this training"):
        once(tmp_path / "a", table, split)
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "b" / "fold-1", place)
    collected = once(tmp_path / "a", table, split).evaluation
    whole = once(tmp_path / "whole", table, split).evaluation
    assert collected.scores == whole.scores
    # Its predictions may be of another split of the same name
    text = (place / "predictions.csv").read_text()
    (place / "predictions.csv").write_text("\n".join(text.splitlines()[:-1]) + "\n")
    with pytest.raises(TrainingError, match="is of other slides than the test part of fold 1"):
        once(tmp_path / "a", table, split)


def test_a_final_model_of_another_training_is_not_taken(tmp_path: Path) -> None:
    table = read_table(cohort(tmp_path / "c", 8))
    split = make_split(table, SplitSettings(method="held-out"))
    for name, seed in (("a", 0), ("b", 1)):
        once(tmp_path / name, table, split, seed=seed, final=True)
    shutil.copyfile(
        tmp_path / "b" / "final" / "model.safetensors",
        tmp_path / "a" / "final" / "model.safetensors",
    )
    with pytest.raises(TrainingError, match="is not final of this training"):
        once(tmp_path / "a", table, split, final=True)


def test_other_features_of_the_same_size_are_another_training(tmp_path: Path) -> None:
    table = read_table(cohort(tmp_path / "c", 8))
    split = make_split(table, SplitSettings(folds=2))
    once(tmp_path / "out", table, split, only=[0])
    path = table.slides[3].features
    bag, size = read_features(path), path.stat().st_size
    write_features(dataclasses.replace(bag, features=bag.features[::-1].copy()), path)
    assert path.stat().st_size == size
    with pytest.raises(TrainingError, match="a training with other feature_files"):
        once(tmp_path / "out", table, split)


@pytest.mark.parametrize("share", [0.0, 0.34])
def test_the_final_model_chooses_its_epoch_as_the_folds_do(tmp_path: Path, share: float) -> None:
    table = read_table(cohort(tmp_path / "c", 12))
    split = make_split(table, SplitSettings(folds=2, validation_share=share))
    run = once(tmp_path / "out", table, split, final=True)
    said = read_header(run.final).training["split"]
    chose = round(share * 24 / 2) * 2
    assert said == f"all slides: {24 - chose} slides fitted, {chose} to choose the epoch, 0 tested"


def test_a_patient_spelt_otherwise_is_still_not_tested_on(tmp_path: Path) -> None:
    table = read_table(cohort(tmp_path / "c", 8))
    split = make_split(table, SplitSettings(folds=2))
    run = once(tmp_path / "out", table, split, only=[0])
    # Other slides of the same patients, in a table that writes them its own way
    spelt = tuple(
        dataclasses.replace(s, name=f"new {s.name}", patient=f" {s.patient.upper()}")
        for s in table.slides
    )
    problem = Problem("label", 3, "3 slides have no label and were left out")
    other = dataclasses.replace(table, slides=spelt).with_problems([problem])
    tested = table.by_name()[split.folds[0].test[0]].features
    write_features(dataclasses.replace(read_features(tested), encoder=None), tested)
    found = evaluate(run.checkpoints[0], other, UNCERTAIN)
    assert set(found.predictions.slides) == {f"new {name}" for name in split.folds[0].test}
    assert found.remarks == (
        problem.sentence,
        "8 slides are of patients the model was trained on or chosen on, and were left out",
        "of 1 slides the feature file does not state the encoder, so it was not compared",
    )


def test_grades_in_another_order_are_not_scored_as_grades(tmp_path: Path) -> None:
    table = read_table(cohort(tmp_path / "c", 8))
    names = {"n": "0", "y": "1"}
    slides = tuple(dataclasses.replace(s, label=names[s.label]) for s in table.slides)
    graded = dataclasses.replace(table, kind="ordinal", classes=("0", "1"), slides=slides)
    turned = dataclasses.replace(graded, kind="classification", classes=("1", "0"))
    split = make_split(table, SplitSettings(method="held-out"))
    model = once(tmp_path / "out", turned, split).checkpoints[0]
    with pytest.raises(EvaluationError, match="the model's classes 1, 0 are not those from 0 on"):
        evaluate(model, graded, UNCERTAIN)
    again = evaluate(model, turned, UNCERTAIN).scores
    assert again["auroc"].value == read_header(model).training["test"]["auroc"]


def test_time_bins_count_every_patient_once(tmp_path: Path) -> None:
    table = read_table(cohort(tmp_path / "c", 20, survival=True))
    # A patient with forty further slides would pull every quantile to its own time
    often = tuple(dataclasses.replace(table.slides[2], name=f"more {k}") for k in range(40))
    more = dataclasses.replace(table, slides=(*table.slides, *often))
    fold = Fold(tuple(s.name for s in more.slides))
    use = Preset(dataclasses.replace(FIT, time_bins=3))
    alone = {s.patient: s for s in table.slides}.values()
    expected = time_bins([s.time for s in alone], [bool(s.event) for s in alone], 3).tolist()
    assert time_edges(more, use, fold) == time_edges(table, use, fold) == expected


def test_bins_have_names_of_their_own_however_close_they_are(tmp_path: Path) -> None:
    table = read_table(cohort(tmp_path / "c", 8, survival=True))
    edges = [0.0, 123456.1, 123456.2, 123456.34]
    model = new_aggregator("abmil", table, FeatureKind(6), Preset(FIT), config=TINY, edges=edges)
    assert model.header.class_names == (
        "0 to 123456.1", "123456.1 to 123456.2", "from 123456.2 on"
    )  # fmt: skip


def test_bins_of_several_models_lend_each_other_no_names(tmp_path: Path) -> None:
    table = read_table(cohort(tmp_path / "c", 20, survival=True))
    split = make_split(table, SplitSettings(folds=2))
    once(
        tmp_path / "out", table, split,
        use=Preset(dataclasses.replace(FIT, epochs=1, time_bins=2)),
    )  # fmt: skip
    heads = [
        (tmp_path / "out" / name).read_text().partition("\n")[0].split(",")[7:9]
        for name in ("fold-0/predictions.csv", "fold-1/predictions.csv", "predictions.csv")
    ]
    assert heads[0] != heads[1]
    assert heads[2] == ["survival bin 1", "survival bin 2"]
