"""Settings chosen on the validation part, by Optuna."""

import dataclasses
import json
from pathlib import Path

import pytest

from napari_2dmamba.cli import main
from napari_2dmamba.errors import Cancelled, TrainingError
from napari_2dmamba.tasks import SplitSettings, make_split, read_table
from napari_2dmamba.training import SearchResult, read_settings_file, search
from tests.training.test_run import TINY, cohort

pytest.importorskip("optuna", reason="Optuna is an extra")
FIXED = {"epochs": 2, "patience": 0, "device": "cpu"}


def found(table, split, out: Path, trials: int, **others) -> SearchResult:
    return search(
        table, split, out=out, architecture="abmil", fixed=FIXED, config=TINY, trials=trials,
        seed=5, **others,
    )  # fmt: skip


def test_a_search_goes_on_where_it_was_cut_off_and_never_looks_at_the_test_part(
    tmp_path: Path,
) -> None:
    table = read_table(cohort(tmp_path, 8))
    split = make_split(table, SplitSettings(method="held-out"))
    whole = found(table, split, tmp_path / "whole", 4)
    assert len(whole.trials) == 4
    assert whole.validation_loss == min(loss for _, loss in whole.trials)

    # Cut off in its third trial; and tested slides whose answers and features are others
    seen: list[str] = []
    for name in split.folds[0].test:
        (tmp_path / "features" / f"{name}.h5").write_bytes(b"no features")
    tested = set(split.folds[0].test)
    turned = tuple(
        dataclasses.replace(s, label="ny"[s.label == "n"]) if s.name in tested else s
        for s in table.slides
    )
    blind = dataclasses.replace(table, slides=turned)
    with pytest.raises(Cancelled):
        found(
            blind, split, tmp_path / "cut", 4, on_progress=lambda *told: seen.append(told[2]),
            should_stop=lambda: any(words.startswith("trial 3") for words in seen),
        )  # fmt: skip
    rest = found(blind, split, tmp_path / "cut", 4)
    assert rest.trials == whole.trials

    given = read_settings_file(rest.file)
    assert given.fit["epochs"] == 2
    assert 1e-5 <= given.fit["learning_rate"] <= 1e-2
    assert given.config["hidden"] == 8
    assert given.of("classification").fit.learning_rate == given.fit["learning_rate"]
    with pytest.raises(TrainingError, match="search of other slides or settings"):
        search(table, split, out=tmp_path / "cut", architecture="clam", trials=1)


def test_a_search_where_every_slide_is_tested_is_refused(tmp_path: Path) -> None:
    table = read_table(cohort(tmp_path, 8))
    with pytest.raises(TrainingError, match="has 2 folds, each of whose slides is tested"):
        found(table, make_split(table, SplitSettings(folds=2)), tmp_path / "out", 1)
    none = make_split(table, SplitSettings(method="held-out", validation_share=0.0))
    with pytest.raises(TrainingError, match="no validation part"):
        found(table, none, tmp_path / "out", 1)


def test_from_the_command_line_to_a_model(tmp_path: Path, capsys) -> None:
    table, out = cohort(tmp_path, 8), tmp_path / "search"
    command = ["search", str(table), "--out", str(out), "--method", "held-out", "--trials", "1",
               "--architecture", "abmil", "--epochs", "1", "--device", "cpu"]  # fmt: skip
    assert main(command) == 0
    assert f"--settings {out / 'settings.json'}" in capsys.readouterr().out
    train = ["train", str(table), "--settings", str(out / "settings.json"), "--split-file",
             str(out / "split.csv"), "--out", str(tmp_path / "out"), "--no-final", "--log", "none",
             "--resamples", "0", "--accumulate", "3"]  # fmt: skip
    assert main(train) == 0
    held = json.loads((out / "settings.json").read_text())
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    assert told["architecture"] == "abmil"
    assert told["settings"]["learning_rate"] == held["fit"]["learning_rate"]
    assert told["settings"]["accumulate"] == 3
    assert "search" not in (tmp_path / "out" / "report.html").read_text()

    # On any other split, slides that helped to choose are tested
    capsys.readouterr()
    again = [*train[:4], "--folds", "2", "--out", str(tmp_path / "all"), *train[8:]]
    assert main(again) == 0
    said = "of the 16 tested slides are of patients on whom the search chose these settings"
    assert said in capsys.readouterr().err
    assert said in (tmp_path / "all" / "report.html").read_text()
    names = [s.name for s in read_table(table).slides]
    assert not any(name in (out / "settings.json").read_text() for name in names)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no settings file"),
        ('{"architecture": "abmil", "fit": {"speed": 3}}', "'speed' is no setting"),
        ('{"architecture": "abmil", "fit": {"epochs": -3}}', "epochs is -3, but must be at least"),
        ('{"architecture": "abmil", "fit": {"epochs": true}}', "epochs is True, but must be like"),
        ('{"architecture": "abmil", "fit": {"order": "any"}}', "order is 'any'"),
        ('{"architecture": 3}', "no settings file"),
        ('{"architecture": "abmil", "found": {"seen": 3}}', "no settings file"),
        ("[1]", "no settings file"),
    ],
)
def test_settings_files_that_are_none(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(TrainingError, match=says):
        read_settings_file(tmp_path / "s.json")
