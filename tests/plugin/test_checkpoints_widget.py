import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QEvent, QMimeData, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDropEvent

from napari_2dmamba.checkpoints.columns import COLUMNS, Row, sorted_rows
from napari_2dmamba.checkpoints.fit import State
from napari_2dmamba.plugin.checkpoints_widget import CheckpointsWidget
from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.parts.checkpoint_chooser import CheckpointChooser
from napari_2dmamba.plugin.parts.checkpoint_model import (
    LOCATION,
    CheckpointModel,
    shared_checkpoints,
)
from napari_2dmamba.plugin.parts.checkpoint_view import CheckpointView, Shown
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.plugin.window.commands import show_checkpoints
from napari_2dmamba.sample import (
    demo_checkpoint,
    demo_checkpoints,
    demo_survival_checkpoint,
)
from napari_2dmamba.slide import open_slide
from tests.checkpoints.material import (
    BAD,
    GOOD,
    install_documented_example,
    mixed_folder,
    own,
)
from tests.plugin.conftest import LONG, add_slide, light_window, process_events

DEMOS = {path.name for path in demo_checkpoints()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return mixed_folder(tmp_path / "models")


@pytest.fixture
def widget(make_napari_viewer: Any, qtbot: Any) -> Iterator[CheckpointsWidget]:
    viewer = light_window(make_napari_viewer, 1400, 900)
    widget = docks.show(viewer, docks.CHECKPOINTS)
    assert isinstance(widget, CheckpointsWidget)
    show_checkpoints(viewer)
    assert docks.docked(viewer, docks.CHECKPOINTS) is widget  # raised, and not made twice
    yield widget
    widget.let_go()


def settle(widget: CheckpointsWidget, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: not widget.checkpoints.is_reading, timeout=LONG)
    qtbot.waitUntil(lambda: not widget._held_against.is_busy, timeout=LONG)
    process_events()


def lines(view: CheckpointView) -> list[Row]:
    return [view.row(view.index(line, 0)) for line in range(view.rowCount())]


def drop(widget: CheckpointsWidget, *paths: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    widget.dropEvent(QDropEvent(
        QPointF(5, 5), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier, QEvent.Type.Drop,
    ))  # fmt: skip


def test_a_dropped_folder_is_listed_and_nothing_in_it_changes(
    widget: CheckpointsWidget, folder: Path, qtbot: Any, own_list_of_checkpoints: Path
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    drop(widget, folder)
    settle(widget, qtbot)
    names = {row.summary.name for row in lines(widget.table.view)}
    assert names == GOOD | set(BAD) | DEMOS
    assert f"{len(names)} checkpoints" in widget.about.full_text
    widget.table.shown.setCurrentIndex(list(Shown).index(Shown.USABLE))
    assert {row.summary.name for row in lines(widget.table.view)} == GOOD | DEMOS
    assert f"{len(GOOD | DEMOS)} of {len(names)} checkpoints" in widget.about.full_text
    widget.table.words.setText("2dmamba cls")
    assert {row.summary.name for row in lines(widget.table.view)} == {
        name for name in GOOD if name.startswith("cls")
    }
    widget.table.words.clear()
    widget.table.select(str(folder / "good.safetensors"))
    widget._remove()
    settle(widget, qtbot)
    assert "good.safetensors" not in {row.summary.name for row in lines(widget.table.view)}
    assert {path: path.read_bytes() for path in before} == before
    widget.places.restore.click()
    settle(widget, qtbot)
    assert "good.safetensors" in {row.summary.name for row in lines(widget.table.view)}
    kept = json.loads((own_list_of_checkpoints / "checkpoints.json").read_text())
    assert kept["sources"] == [str(folder)]
    widget.places.list.item(0).setSelected(True)
    widget.places.remove.click()
    settle(widget, qtbot)
    assert {row.summary.name for row in lines(widget.table.view)} == DEMOS


def test_details_and_notes(widget: CheckpointsWidget, folder: Path, qtbot: Any) -> None:
    widget.add([str(folder)])
    settle(widget, qtbot)
    details = widget.details
    assert "Select a checkpoint" in details.heading.text()
    assert not widget.use.isEnabled()
    widget.table.select(str(folder / "good.safetensors"))
    assert "good.safetensors" in details.heading.text()
    for part in ("ABMIL", "normal, tumour", "256 px at 0.5 µm/px", "AUROC 0.900"):
        assert part in details.facts.text()
    assert "best › validation › loss" in details.training.text()
    assert json.loads(details.header.toPlainText())["config"]["feature_size"] == 6
    assert widget.use.isEnabled()
    qtbot.keyClicks(details.note, "trained on scanner B")
    widget.table.select(str(folder / "hostile.pt"))  # at once, before the pause
    assert "nothing in it was run" in details.fit.text()
    assert details.note.toPlainText() == ""
    assert not widget.use.isEnabled()
    again = CheckpointModel()
    qtbot.waitUntil(lambda: not again.is_reading, timeout=LONG)
    row = again.row_of(str(folder / "good.safetensors"))
    assert row is not None
    assert row.note == "trained on scanner B"
    widget.table.words.setText("scanner b")
    (found,) = lines(widget.table.view)
    assert found.summary.name == "good.safetensors"


def test_what_fits_the_slide_is_marked_and_the_rest_says_why(
    widget: CheckpointsWidget, folder: Path, qtbot: Any, slide_path: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from napari.settings import get_plugin_settings

    monkeypatch.setattr(
        get_plugin_settings("napari-2dmamba").analysis, "runs_folder", str(tmp_path / "runs")
    )
    own(folder / "unknown encoder.safetensors", encoder="ours")
    widget.add([str(folder)])
    settle(widget, qtbot)
    assert "No slide is open" in widget.about.full_text

    def states() -> dict[str, Any]:
        return {row.summary.name: row.fit and row.fit.state for row in lines(widget.table.view)}

    assert states()["good.safetensors"] is None
    assert states()["hostile.pt"] is State.UNUSABLE
    with open_slide(slide_path) as slide:
        add_slide(widget._viewer, slide)
        settle(widget, qtbot)
        assert states()["good.safetensors"] is State.EXTRACT
        assert states()["bare.safetensors"] is State.UNSURE
        assert states()["unknown encoder.safetensors"] is State.NO
        run = docks.show(widget._viewer, docks.RUN)
        run.model_section.add_checkpoint(demo_checkpoint())
        run.start_run()
        qtbot.waitUntil(lambda: not run.is_running, timeout=LONG)
        assert run.shown is not None, run.footer.message.text()
        widget._look_at_slide()  # the Run widget was docked after this one
        settle(widget, qtbot)
        assert "pink.tif (stain-texture-v1, 102 features, 256 px at 0.5 µm/px)" in (
            widget.about.full_text
        )
        assert states()[demo_checkpoint().name] is State.FITS
        assert states()["bare.safetensors"] is State.NO
        widget.table.select(str(folder / "bare.safetensors"))
        assert "expects 64 features per patch" in widget.details.fit.text()
        fit = next(n for n, column in enumerate(COLUMNS) if column.name == "fit")
        widget.table.table.sortByColumn(fit, Qt.SortOrder.AscendingOrder)
        assert lines(widget.table.view)[0].fit.state is State.FITS  # type: ignore[union-attr]
        # features from a file are what counts when they are chosen
        features = next((tmp_path / "runs").rglob("*.h5"))
        run.features_section.file.set(features)
        run.features_section.from_file.setChecked(True)
        settle(widget, qtbot)
        assert features.name in widget.about.full_text
        assert states()["good.safetensors"] is State.NO  # nothing is extracted then
        run.let_go()
        widget._viewer.layers.clear()


@pytest.mark.parametrize("how", ["double click", "Enter", "button"])
def test_use_in_run(widget: CheckpointsWidget, folder: Path, qtbot: Any, how: str) -> None:
    path = folder / "good.safetensors"
    widget.add([str(path)])
    settle(widget, qtbot)
    widget.table.select(str(path))
    table = widget.table.table
    if how == "button":
        widget.use.click()
    elif how == "Enter":
        qtbot.keyClick(table, Qt.Key.Key_Return)
    else:
        place = table.visualRect(table.currentIndex()).center()
        qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
        qtbot.mouseDClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    run = docks.show(widget._viewer, docks.RUN)
    assert run.model_section.path == path
    assert run.model_section.header is not None
    assert run.model_section.header.class_names == ("normal", "tumour")
    assert "is chosen in Run 2DMamba" in widget.message.text()
    run.let_go()


def test_the_run_widget_lists_the_same_checkpoints(
    widget: CheckpointsWidget, folder: Path, qtbot: Any
) -> None:
    run = RunWidget(widget._viewer)
    chooser = run.model_section.checkpoints
    assert chooser.currentText() == "Demo (synthetic slides)"
    assert run.model_section.path == demo_checkpoint()
    header = run.model_section.header
    chosen: list[str] = []
    chooser.chosen.connect(chosen.append)
    widget.add([str(folder)])
    settle(widget, qtbot)
    names = [chooser.itemText(line) for line in range(chooser.count())]
    demos = names[: -len(GOOD)]
    assert len(demos) == len(demo_checkpoints())
    real = "Demo, gastrointestinal tract or not (real slides)"
    kinds = ("ABMIL", "CLAM-SB", "DSMIL", "MambaMIL", "SRMambaMIL", "survival", "TransMIL")
    others = sorted([real, *(f"Demo, {k} (synthetic slides)" for k in kinds)], key=str.casefold)
    assert demos == ["Demo (synthetic slides)", *others]
    assert chooser.itemData(demos.index("Demo, survival (synthetic slides)"), LOCATION) == str(
        demo_survival_checkpoint()
    )
    assert names[len(demos) :] == sorted(GOOD)
    assert chosen == []  # the choice stayed
    assert run.model_section.header is header
    # what is browsed for there stands in the table, and removing it takes it away here
    other = own(folder.parent / "other" / "another.safetensors")
    run.model_section.add_checkpoint(other)
    assert run.model_section.path == other
    settle(widget, qtbot)
    assert widget.checkpoints.row_of(str(other)) is not None
    widget.checkpoints.remove([str(other)])
    settle(widget, qtbot)
    assert chooser.findText("another.safetensors") == -1
    assert run.model_section.path != other
    run.let_go()
    run.deleteLater()


def test_delete_and_copy_with_the_keyboard(
    widget: CheckpointsWidget, folder: Path, qtbot: Any
) -> None:
    from qtpy.QtWidgets import QApplication

    widget.add([str(folder)])
    settle(widget, qtbot)
    table = widget.table
    table.words.setText("cls_small")
    assert table.view.rowCount() == 2
    table.table.selectAll()
    assert "2 checkpoints are selected" in widget.details.heading.text()
    qtbot.keyClick(table.table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    clipboard = QApplication.clipboard()
    assert clipboard is not None
    copied = [line.split("\t") for line in clipboard.text().split("\n")]
    assert copied[0] == [column.title for column in COLUMNS]
    assert [line[0] for line in copied[1:]] == [
        "cls_small.full_model.pt", "cls_small.state_dict_cudarun.pt",
    ]  # fmt: skip
    qtbot.keyClick(table.table, Qt.Key.Key_Delete)
    settle(widget, qtbot)
    assert table.view.rowCount() == 0
    assert (folder / "cls_small.full_model.pt").is_file()


def test_the_table_sorts_as_the_terminal_does(qtbot: Any, folder: Path) -> None:
    checkpoints = shared_checkpoints()
    checkpoints.add(folder)
    view = CheckpointView(checkpoints)
    qtbot.waitUntil(lambda: not checkpoints.is_reading, timeout=LONG)
    process_events()
    for place, column in enumerate(COLUMNS):
        for order in (Qt.SortOrder.AscendingOrder, Qt.SortOrder.DescendingOrder):
            view.sort(place, order)
            shown = lines(view)
            descending = order == Qt.SortOrder.DescendingOrder
            expected = sorted_rows(shown, column, descending=descending)
            assert [column.text(row) for row in shown] == [column.text(row) for row in expected]


def test_many_files_do_not_hold_the_window_up(
    widget: CheckpointsWidget, tmp_path: Path, qtbot: Any
) -> None:
    for number in range(3000):
        (tmp_path / f"{number}.pt").write_bytes(b"not one")
    ticks = []
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(widget.checkpoints.rowCount()))
    timer.start(0)
    widget.add([str(tmp_path)])
    settle(widget, qtbot)
    timer.stop()
    assert widget.table.view.rowCount() == 3000 + len(DEMOS)
    # the window drew in between, and the table grew bit by bit
    assert len({count for count in ticks if 100 < count < 3000}) >= 3
    widget.add([str(tmp_path / "0.pt")])
    widget.checkpoints.refresh()
    widget.stop.click()
    settle(widget, qtbot)
    assert widget.table.view.rowCount() == 3000 + len(DEMOS)  # stopped: what was read stays


def test_a_damaged_list_is_said_and_kept(
    make_napari_viewer: Any, own_list_of_checkpoints: Path
) -> None:
    own_list_of_checkpoints.mkdir()
    (own_list_of_checkpoints / "checkpoints.json").write_bytes(b"{")
    widget = CheckpointsWidget(make_napari_viewer())
    assert "is damaged" in widget.message.text()
    assert len(list(own_list_of_checkpoints.glob("*damaged*"))) == 1
    widget.let_go()
    widget.deleteLater()


def test_a_wrong_name_of_a_repository_is_refused(widget: CheckpointsWidget) -> None:
    widget.places.add_repository("not a repository")
    assert "no name of a Hugging Face repository" in widget.message.text()
    assert widget.checkpoints.library.sources == ()


def test_a_checkpoint_on_the_hub_is_fetched_when_it_is_used(
    widget: CheckpointsWidget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qtbot: Any
) -> None:
    pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
    from huggingface_hub import constants

    from tests.checkpoints.hub_server import running_hub

    with running_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE",
            server.address + "/{repo_id}/resolve/{revision}/{filename}",
        )  # fmt: skip
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        model = own(tmp_path / "m.safetensors").read_bytes()
        server.repositories["lab/models"] = {"model.safetensors": model}
        widget.places.add_repository("lab/models")
        settle(widget, qtbot)
        location = "hub:lab/models:model.safetensors"
        widget.table.select(location)
        assert not widget.open_folder.isEnabled()
        widget.use.click()
        section = docks.show(widget._viewer, docks.RUN).model_section
        qtbot.waitUntil(lambda: section.header is not None, timeout=LONG)
        assert section.path is not None
        assert section.path.read_bytes() == model
        assert section.checkpoints.currentText() == "model.safetensors"
        docks.show(widget._viewer, docks.RUN).let_go()


def test_an_architecture_of_another_package_is_listed_and_runs(
    widget: CheckpointsWidget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qtbot: Any,
    slide_path: Path,
) -> None:  # fmt: skip
    """The documented example, installed as packages are: found by its metadata."""
    from napari.settings import get_plugin_settings

    from napari_2dmamba.models.registry import architectures

    runs = str(tmp_path / "runs")
    monkeypatch.setattr(get_plugin_settings("napari-2dmamba").analysis, "runs_folder", runs)
    monkeypatch.syspath_prepend(str(install_documented_example(tmp_path / "site")))
    architectures.cache_clear()
    config = {"feature_size": 102, "n_outputs": 2}
    path = own(tmp_path / "theirs.safetensors", architecture="mean", config=config)
    widget.add([str(path)])
    settle(widget, qtbot)
    widget.table.select(str(path))
    assert "Mean pooling" in widget.details.facts.text()
    with open_slide(slide_path) as slide:
        add_slide(widget._viewer, slide)
        widget.use.click()
        run = docks.show(widget._viewer, docks.RUN)
        run.start_run()
        qtbot.waitUntil(lambda: not run.is_running, timeout=LONG)
        assert run.shown is not None, run.footer.message.text()
        assert run.shown.prediction.attention_meaning.startswith("how much the patch adds")
        run.let_go()
        widget._viewer.layers.clear()
    architectures.cache_clear()


def test_several_can_be_picked_from_the_same_list(qtbot: Any, folder: Path) -> None:
    """What a widget that compares models is built from."""
    checkpoints = shared_checkpoints()
    checkpoints.add(folder)
    first, second = CheckpointChooser(checkpoints), CheckpointChooser(checkpoints)
    qtbot.addWidget(first)
    qtbot.addWidget(second)
    qtbot.waitUntil(lambda: not checkpoints.is_reading, timeout=LONG)
    process_events()
    first.choose(str(folder / "good.safetensors"))
    second.choose(str(folder / "hostile.pt"))
    assert first.location == str(folder / "good.safetensors")
    assert second.location == str(folder / "hostile.pt")
    assert first.findText("hostile.pt") == -1
