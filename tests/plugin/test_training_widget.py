"""The training widget in a real window, on a tiny table."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel

from napari_2dmamba.evaluation import Predictions, compare_models, read_predictions
from napari_2dmamba.evaluation.predictions import write_predictions
from napari_2dmamba.export.run_library import new_run_folder
from napari_2dmamba.models import read_header
from napari_2dmamba.models.registry import architecture, architectures
from napari_2dmamba.pipeline import run
from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.parts.checkpoint_model import shared_checkpoints
from napari_2dmamba.plugin.parts.encoder_facts_view import WANTED
from napari_2dmamba.plugin.session.opened_run import OpenedRun
from napari_2dmamba.plugin.training_widget import TrainingWidget
from napari_2dmamba.plugin.training_widget.architecture_options import ArchitectureOptions
from napari_2dmamba.plugin.training_widget.comparison import ComparisonView
from napari_2dmamba.plugin.training_widget.opening import Opened
from napari_2dmamba.plugin.training_widget.plan import Checked
from napari_2dmamba.plugin.training_widget.progress import WithTimeLeft, in_words
from napari_2dmamba.plugin.training_widget.rows import rows_of
from napari_2dmamba.plugin.training_widget.sections import FitSection, TaskSection
from napari_2dmamba.plugin.training_widget.slides_view import Column
from napari_2dmamba.slide import open_slide
from napari_2dmamba.tasks import SplitSettings, TableSettings, read_table
from napari_2dmamba.training import PRESETS, preset
from tests import tiny
from tests.plugin.conftest import LONG, process_events, write_slide
from tests.training.test_run import FIT, cohort


@pytest.fixture
def widget(
    make_napari_viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TrainingWidget]:
    from napari.settings import get_plugin_settings

    monkeypatch.setattr(
        get_plugin_settings("napari-2dmamba").analysis, "runs_folder", str(tmp_path / "runs")
    )
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1400, 900)
    widget = TrainingWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Train 2DMamba", area="bottom")
    yield widget
    job = widget._work.job
    run_widget = docks.docked(viewer, docks.RUN)
    for one in (widget, run_widget):
        if one is not None:
            one.let_go()
    if job is not None:
        job.stop_and_wait(60)


_OF_PRESETS = ("2dmamba", "abmil", "clam")


def choose(widget: TrainingWidget, qtbot: Any, table: Path) -> None:
    """Choose a table; ABMIL and few epochs, so that it takes a second."""
    qtbot.waitUntil(lambda: not widget._looking.is_busy, timeout=LONG)
    widget.fit_section.architecture.set("abmil")
    widget.fit_section.form.set_settings(dataclasses.replace(FIT, epochs=3))
    widget.split_section.form.set_settings(SplitSettings(folds=2, validation_share=0.5))
    widget.output_section.scoring.editor("resamples").set(50)
    widget.set_table(table)
    qtbot.waitUntil(lambda: not widget.is_looking, timeout=LONG)
    process_events()


def finish(widget: TrainingWidget, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: not widget.is_running, timeout=2 * LONG)
    process_events()


def column(widget: TrainingWidget, which: Column) -> list[str]:
    shown = widget.view.shown
    return [shown.index(row, which).data() for row in range(shown.rowCount())]


def test_from_a_table_to_a_checkpoint_and_a_map(
    widget: TrainingWidget, qtbot: Any, tmp_path: Path
) -> None:
    table = cohort(tmp_path)
    pixels = np.full((1536, 2560, 3), 200, np.uint8)
    name = write_slide(tmp_path / "s3a.svs", mpp=0.25, pixels=pixels).stem
    choose(widget, qtbot, table)
    widget.task_section.classes.editor("y").set("ill")
    options = widget.fit_section.options
    options.form.editor("hidden").set(8)
    options.form.editor("attention_hidden").set(4)
    assert "24 slides of 12 patients: 12 'n', 12 'y'" in widget.task_section.about.text()
    assert "fold 1" in widget.split_section.about.text()
    assert column(widget, Column.PREDICTION) == [""] * 24
    assert widget.output_section.folder == tmp_path / "runs" / "training t"
    assert widget.footer.run.isEnabled()
    assert not widget.use.isEnabled()

    qtbot.mouseClick(widget.footer.run, Qt.MouseButton.LeftButton)
    assert widget.is_running
    assert not widget.task_section.isEnabled()
    finish(widget, qtbot)
    assert widget.footer.message.kind == "good", widget.footer.message.text()
    assert "AUROC" in widget.footer.message.text()
    assert set(widget.curves.history) == {"fold 0", "fold 1", "final"}
    assert sorted(widget.curves.history["fold 0"]) == [0, 1, 2]
    losses, scores = widget.curves.chart.figure.axes
    assert len(losses.lines) == 6
    told = scores.lines[0].get_ydata()
    first = widget.curves.history["fold 0"]
    assert list(told) == [first[epoch].validation_score for epoch in range(3)]

    # The worst first, and every number that of the file
    errors = [float(text) for text in column(widget, Column.ERROR)]
    assert errors == sorted(errors, reverse=True)
    assert widget.run is not None
    predictions = widget.run.evaluation.predictions
    rows = {row.name: row for row in widget.table.rows}
    for place, slide in enumerate(predictions.slides):
        row = rows[slide]
        assert row.model == predictions.models[place]
        assert row.error == 1 - predictions.values[place, predictions.labels[place]]
    widget.view.view.sortByColumn(Column.SLIDE, Qt.SortOrder.AscendingOrder)
    assert column(widget, Column.SLIDE) == sorted(rows)
    widget.view.search.setText("s3")
    assert column(widget, Column.SLIDE) == ["s3a", "s3b"]
    widget.view.search.clear()

    # In Checkpoints, and chosen on a click
    final = widget.run.final
    assert final is not None
    header = read_header(final)
    assert header.class_names == ("n", "ill")
    assert header.training["labels"] == ["n", "y"]
    assert (header.config["hidden"], header.config["attention_hidden"]) == (8, 4)
    assert {row.label for row in rows.values()} == {"n", "y (ill)"}
    assert {row.prediction.split()[0] for row in rows.values()} <= {"n", "ill"}
    assert widget.comparison.folders[0].get() == widget.run.folder
    assert widget.comparison.reports[0].isEnabled()
    listed = shared_checkpoints().row_of(str(final))
    assert listed is not None
    assert listed.note == "final of training t"
    widget.use_checkpoint()
    assert widget.session.choices.checkpoint.location == str(final)

    # A double click: first the slide, with the model that tested it chosen
    row = rows[name]
    widget.open_slide(row)
    qtbot.waitUntil(lambda: widget.session.current is not None, timeout=LONG)
    process_events()
    assert "press Run" in widget.footer.message.text()
    tester = widget.run.folder / row.model.replace(" ", "-") / "model.safetensors"
    assert widget.session.choices.checkpoint.location == str(tester)
    assert widget.session.choices.feature_file == tmp_path / "features" / f"{name}.h5"
    assert widget.session.current.run is None
    widget.use_checkpoint()
    assert "proves nothing" in widget.footer.message.text()

    # Then with the map of that model, and not of another one
    with open_slide(tmp_path / "s3a.svs") as slide:
        for model in (final, tester, final):
            folder = new_run_folder(tmp_path / "runs", slide, model.stem)
            run(slide, model, features=row.features, out=folder)
    widget.open_slide(row)
    current = widget.session.current
    qtbot.waitUntil(lambda: current.run is not None, timeout=LONG)
    process_events()
    assert "with its saved run of fold" in widget.footer.message.text()
    assert widget.session.runs.maps_of(current)
    np.testing.assert_allclose(current.run.prediction.probabilities, row.values, atol=1e-6)
    other = dataclasses.replace(row, values=(0.9, 0.1))
    saved = OpenedRun(current.run, current.display, {}, ())
    assert Opened(other, current.slide, saved).differs
    assert not Opened(row, current.slide, saved).differs

    # Another table has none of these numbers beside it
    choose(widget, qtbot, cohort(tmp_path / "b"))
    assert column(widget, Column.ERROR) == [""] * 24
    assert not widget.use.isEnabled()
    assert not widget.curves.history
    assert all(widget.checkpoint_of(row) is None for row in widget.table.rows)


def test_problems_are_marked_and_stop(
    widget: TrainingWidget, qtbot: Any, tmp_path: Path, notifications: Callable[[], list[str]]
) -> None:
    table = cohort(tmp_path)
    (tmp_path / "features" / "s1a.h5").unlink()
    text = table.read_text().replace("s2b.svs,features/s2b.h5,p2,n", "s2b.svs,features/s2b.h5,p2,")
    table.write_text(text)
    choose(widget, qtbot, table)
    told = [widget.task_section.problems.item(i).text() for i in range(2)]
    assert told[0].startswith("1 slides have no features file (first s1a), nor a slide file")
    assert told[1] == "1 slides have no label and were left out"
    assert "1 problem must be mended" in widget.task_section.message.text()
    assert not widget.footer.run.isEnabled()
    marked = {row.name: row.stops for row in widget.table.rows if row.problem}
    assert marked == {"s1a": True, "s2b": False}
    icon = widget.view.shown.index(0, Column.PROBLEM).data(Qt.ItemDataRole.DecorationRole)
    assert icon is None
    widget.start()
    assert "must be mended" in notifications()[-1]
    assert not widget.output_section.folder.exists()

    table.write_text("nothing,of,use\n1,2,3\n")
    widget.task_section.again.click()
    qtbot.waitUntil(lambda: not widget.is_looking, timeout=LONG)
    assert widget.task_section.message.kind == "error"
    assert not widget.table.rows
    assert not widget.footer.run.isEnabled()


def test_a_training_waits_stops_and_goes_on(
    widget: TrainingWidget, qtbot: Any, tmp_path: Path
) -> None:
    choose(widget, qtbot, cohort(tmp_path, 8))
    widget.fit_section.form.editor("epochs").set(25)
    widget.output_section.final.set(False)
    widget.start()
    qtbot.waitUntil(lambda: len(widget.curves.history.get("fold 0", ())) > 2, timeout=LONG)
    widget.footer.pause.click()
    qtbot.waitUntil(lambda: "paused" in widget.footer.detail.text(), timeout=LONG)
    process_events()
    known = dict(widget.curves.history["fold 0"])
    qtbot.wait(400)
    assert widget.curves.history["fold 0"] == known
    widget.footer.pause.click()
    qtbot.waitUntil(lambda: len(widget.curves.history["fold 0"]) > len(known), timeout=LONG)
    widget.footer.cancel.click()
    finish(widget, qtbot)
    assert "goes on in this folder" in widget.footer.message.text()
    before = dict(widget.curves.history["fold 0"])
    assert not (widget.output_section.folder / "scores.json").exists()

    widget.start()
    finish(widget, qtbot)
    assert widget.footer.message.kind == "good", widget.footer.message.text()
    after = widget.curves.history["fold 0"]
    assert sorted(after) == list(range(25))
    shared = [epoch for epoch in before if epoch in after]
    assert shared
    assert all(before[epoch] == after[epoch] for epoch in shared)  # taken up, not done again

    # Another training is refused in this folder
    widget.fit_section.form.editor("seed").set(5)
    widget.start()
    finish(widget, qtbot)
    assert widget.footer.message.kind == "error"
    assert "other settings" in widget.footer.message.text()
    assert all(not row.prediction for row in widget.table.rows)
    assert not widget.curves.history


def test_what_was_changed_stays_when_the_task_becomes_known(
    widget: TrainingWidget, qtbot: Any, tmp_path: Path
) -> None:
    section = widget.fit_section
    section.preset.set("published")
    assert section.form.settings().epochs == 20
    section.form.editor("epochs").set(7)
    widget.set_table(cohort(tmp_path, survival=True))
    qtbot.waitUntil(lambda: widget.checked is not None, timeout=LONG)
    assert section.form.settings().epochs == 7
    assert section.form.settings().loss_divisor == 32  # as published for survival
    assert section.about.text() == "Changed: epochs"
    assert not section.form.editor("survival_loss").isHidden()
    rows = rows_of(widget.checked)
    assert {row.label.split()[1] for row in rows} == {"(event)", "(censored)"}


@pytest.mark.parametrize("kind", ["classification", "ordinal", "survival"])
def test_the_form_holds_every_digit_of_every_preset(qtbot: Any, kind: str) -> None:
    section = FitSection()
    qtbot.addWidget(section)
    section.set_architectures({name: architecture(name).config_class for name in _OF_PRESETS})
    section.set_kind(kind)
    for model in _OF_PRESETS:
        section.architecture.set(model)
        for name in PRESETS:
            section.preset.set(name)
            assert section.form.settings() == preset(name, model, kind).fit
            assert section.about.text() == ""


def test_the_time_left_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    tell = WithTimeLeft(lambda done, total, message: told.append(message))
    tell(0, 10, "Looking at features")
    tell(2, 10, "fold 0: epoch 3, bag 1 of 2")
    now[0] = 130.0
    tell.wait_for(100.0)
    tell(4, 10, "fold 0: epoch 5, bag 1 of 2")
    assert told[0] == "Looking at features"
    assert told[-1] == "fold 0: epoch 5, bag 1 of 2 · at most 2 min left"
    assert [in_words(s) for s in (0.1, 59, 3900)] == ["1 s", "59 s", "1 h 05 min"]


def test_names_belong_to_the_classes_of_one_table(qtbot: Any, tmp_path: Path) -> None:
    section = TaskSection()
    qtbot.addWidget(section)
    (tmp_path / "t.csv").write_text("slide,patient,label\n1,p,2\n2,q,0\n3,r,1\n4,s,0\n")
    table = read_table(tmp_path / "t.csv", TableSettings(kind="ordinal"))
    section.show_checked(Checked(table))
    section.classes.editor("1").set("one")
    assert section.classes.names == {"1": "one"}
    shown = [label.text() for label in section.classes.findChildren(QLabel)]
    assert shown[1:] == ["0: 0", "1: 1", "2: 2"]
    assert "from lowest to highest" in shown[0]
    section.classes.editor("2").set("one")
    section.classes.changed.emit()
    assert "Two classes are called 'one'" in section.message.text()
    section.show_checked(Checked(dataclasses.replace(table, classes=("0", "1"))))
    assert section.classes.names == {}
    assert section.message.text() == ""
    section.show_checked(Checked(dataclasses.replace(table, kind="survival", classes=())))
    assert "how early the event comes" in section.classes.asked.text()
    assert section.classes.names == {}


@pytest.mark.parametrize("name", sorted(architectures()))
def test_every_option_of_every_architecture(qtbot: Any, name: str) -> None:
    options = ArchitectureOptions()
    qtbot.addWidget(options)
    config_class = architecture(name).config_class
    given = preset("recommended", name, "classification").config
    options.show_options(config_class, given)
    shown = dataclasses.asdict(options.form.settings())
    truth = dataclasses.asdict(config_class(feature_size=7, n_outputs=2, **given))
    assert {**shown, "feature_size": 7, "n_outputs": 2} == truth
    assert options.changes == {}
    for field in dataclasses.fields(options.form.settings()):
        assert field.metadata["help"] != field.name, field.name  # the docstring tells of it
    options.form.editor("dropout").set(0.5)
    assert options.changes == {"dropout": 0.5}
    assert options.problem == ""
    options.form.editor("dropout").set(1.5)
    assert "Dropout is 1.5" in options.message.text()


def test_slides_without_features_are_extracted_first(
    widget: TrainingWidget, qtbot: Any, tmp_path: Path
) -> None:
    lines = ["slide,patient,label"]
    for number in range(2):
        tiny.write_slide(tmp_path / f"s{number}.tif", seed=number)
        lines.append(f"s{number}.tif,p{number},{'ny'[number % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    choose(widget, qtbot, tmp_path / "t.csv")
    widget.split_section.form.set_settings(SplitSettings(method="all", validation_share=0))
    qtbot.waitUntil(lambda: widget.checked is not None, timeout=LONG)
    process_events()
    section = widget.extraction_section
    assert "2 of 2 slides have no features: Train extracts them first" in section.message.text()
    assert section.encoder_form.facts.text(WANTED) == ""  # nothing to be alike to
    section.grid_form.editor("patch_size").set(tiny.PATCH)
    widget.fit_section.form.editor("epochs").set(1)
    widget.output_section.final.set(False)
    told: list[str] = []
    widget.start()
    widget._work.job.progressed.connect(lambda done, total, message: told.append(message))
    qtbot.waitUntil(lambda: bool(told), timeout=LONG)
    widget.footer.cancel.click()
    finish(widget, qtbot)
    assert "slides that are extracted and whole epochs are kept" in widget.footer.message.text()
    assert widget.run is None

    widget.start()
    finish(widget, qtbot)
    assert widget.footer.message.kind == "good", widget.footer.message.text()
    assert told[0].startswith("extracting features")
    header = read_header(widget.run.checkpoints[0])
    assert (header.encoder, header.patch_size) == ("stain-texture-v1", tiny.PATCH)
    assert not widget.checked.to_extract
    assert section.isHidden()
    made = {row.features for row in widget.table.rows}
    assert all(path.is_relative_to(widget.run.folder / "features") for path in made)
    assert len(made) == 2

    # Some have features now: the others are extracted alike, or it is said
    first = min(made)
    (tmp_path / "t.csv").write_text(
        "\n".join([lines[0] + ",features", *(line + "," for line in lines[1:])]).replace(
            "s0.tif,p0,n,", f"s0.tif,p0,n,{first}"
        )
    )
    section.grid_form.editor("patch_size").set(256)
    widget.task_section.again.click()
    qtbot.waitUntil(lambda: not widget.is_looking, timeout=LONG)
    process_events()
    assert "1 of 2 slides has no features" in section.message.text()
    assert section.grid_form.settings().patch_size == tiny.PATCH
    assert "differ" not in section.message.text()
    facts = section.encoder_form.facts
    assert facts.text("Size") == "no weights, nothing to download"
    assert facts.text(WANTED).startswith("match: computed by stain-texture-v1")
    section.encoder_form.form.editor("encoder").set("uni")
    section.encoder_form.form.changed.emit()
    assert facts.text(WANTED) == "mismatch: computed by stain-texture-v1"
    assert "hf auth login" in section.encoder_form.to_do.text()
    section.encoder_form.form.editor("encoder").set("stain-texture-v1")
    section.encoder_form.form.changed.emit()
    section.grid_form.editor("patch_size").set(256)
    section.grid_form.changed.emit()
    assert f"patch size 256 here, {tiny.PATCH} there" in section.message.text()


def test_two_trainings_are_compared(qtbot: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(30) % 2
    for name, noise, count in (("good", 0.5, 30), ("poor", 4.0, 30), ("fewer", 4.0, 20)):
        score = 1 / (1 + np.exp(-(labels - 0.5 + noise * rng.standard_normal(30))))
        said = Predictions(
            "classification", ("n", "y"), tuple(f"s{i}" for i in range(30)), np.arange(30),
            ("fold 0",) * 30, np.stack([1 - score, score], 1), labels,
        )  # fmt: skip
        (tmp_path / name).mkdir()
        write_predictions(said.take(np.arange(count)), tmp_path / name / "predictions.csv")
    (tmp_path / "poor" / "report.html").write_text("<p>")
    view = ComparisonView(permutations=50)
    qtbot.addWidget(view)

    def wait() -> None:
        qtbot.waitUntil(lambda: not view.is_busy, timeout=LONG)
        process_events()

    view.set_first(tmp_path / "good")
    assert view.message.text() == ""
    view.set_second(tmp_path / "poor")
    wait()
    truth = compare_models(
        *(read_predictions(tmp_path / name / "predictions.csv") for name in ("good", "poor")),
        permutations=50,
    )
    assert truth[0].test == "DeLong"
    shown = [
        [view.table.item(row, column).text() for column in range(6)]
        for row in range(view.table.rowCount())
    ]
    assert shown[0] == [
        "AUROC", f"{truth[0].first:.3f}", f"{truth[0].second:.3f}",
        f"{truth[0].first - truth[0].second:+.3f}", f"{truth[0].p_value:.2g}", "DeLong",
    ]  # fmt: skip
    assert len(shown) == len(truth)
    assert "of good against" in view.message.text()
    assert "30 slides of 30 patients" in view.message.text()
    assert [report.isEnabled() for report in view.reports] == [False, True]
    with qtbot.waitSignal(view.report_wanted) as told:
        view.reports[1].click()
    assert told.args == [tmp_path / "poor" / "report.html"]

    view.set_second(tmp_path / "fewer")
    wait()
    assert view.message.kind == "warning"
    assert "tested 30 and 20 slides" in view.message.text()
    view.set_second(tmp_path / "good")
    wait()
    assert "same training" in view.message.text()
    assert view.table.isHidden()
    view.set_second(tmp_path / "nothing")
    wait()
    assert "Nothing holds no scored training" in view.message.text()
