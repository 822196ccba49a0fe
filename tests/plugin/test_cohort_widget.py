"""The cohort widget in a real window, with workers in processes of their own."""

import csv
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from qtpy.QtCore import QEvent, QMimeData, QPoint, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDropEvent, QGuiApplication
from qtpy.QtWidgets import QApplication, QDialog, QPlainTextEdit
from shapely import box

from napari_2dmamba.cohort import (
    CohortSettings,
    CohortSlide,
    SlideStatus,
    extract_cohort,
    read_cohort,
)
from napari_2dmamba.cohort.dask_cluster import local_cluster
from napari_2dmamba.cohort.folders import worked_on
from napari_2dmamba.cohort.following import Following
from napari_2dmamba.cohort.pace import in_words, time_left
from napari_2dmamba.features import FeatureSettings
from napari_2dmamba.pipeline import RunSettings, run
from napari_2dmamba.plugin.cohort_widget import CohortWidget
from napari_2dmamba.plugin.cohort_widget.table_model import Column
from napari_2dmamba.plugin.layers.region_layers import show_regions
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.slide import GridSettings, Region, Regions
from tests.plugin.conftest import LONG, light_window, process_events
from tests.tiny import write_checkpoint, write_slide

pytest.importorskip("distributed")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """Address of a cluster with one worker, which spares a test the start of its own."""
    with local_cluster(1, gpus=[]) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two slides, and between them one that is broken."""
    folder = tmp_path / "scans"
    folder.mkdir()
    write_slide(folder / "a.tif", seed=1)
    (folder / "broken.svs").write_bytes(b"")
    write_slide(folder / "c.tif", seed=2)
    return folder


@pytest.fixture
def widget(
    make_napari_viewer: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CohortWidget]:
    from napari.settings import get_plugin_settings

    monkeypatch.setattr(
        get_plugin_settings("napari-2dmamba").analysis, "runs_folder", str(tmp_path / "runs")
    )
    viewer = light_window(make_napari_viewer, 1500, 950)
    widget = CohortWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Cohort 2DMamba", area="bottom")
    widget.model_section.add_checkpoint(checkpoint)
    process_events()
    yield widget
    for docked in list(viewer.window.dock_widgets.values()):
        if isinstance(docked, RunWidget):
            docked.let_go()
    job = widget._job
    widget.let_go()
    if job is not None:
        job.stop_and_wait(60)


def name_slides(widget: CohortWidget, qtbot: Any, *inputs: Path) -> None:
    widget.add_inputs(inputs)
    qtbot.waitUntil(lambda: not widget.slides_section.is_looking, timeout=LONG)
    process_events()


def finish(widget: CohortWidget, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: not widget.is_running, timeout=2 * LONG)
    process_events()


def cells(widget: CohortWidget, *columns: Column) -> list[tuple[str, ...]]:
    """What the table shows, from top to bottom."""
    shown = widget.view.shown
    return [
        tuple(shown.index(row, column).data() for column in columns)
        for row in range(shown.rowCount())
    ]


def work_slowly(widget: CohortWidget) -> None:
    """Some 400 batches of one patch: time enough to be interrupted in the middle."""
    widget.patches_section.grid_form.editor("patch_size").set(36)
    widget.features_section.encoder_form.form.editor("batch_size").set(1)
    widget.features_section.encoder_form.form.editor("threads").set(1)


def wait_for_patches(widget: CohortWidget, qtbot: Any) -> SlideStatus:
    """Return the row of a slide in the middle of its patches."""
    found: list[SlideStatus] = []

    def look() -> bool:
        found[:] = [row for row in widget.table.rows if 0 < row.patches_done < row.patches_total]
        return bool(found)

    qtbot.waitUntil(look, timeout=2 * LONG)
    return found[0]


def test_a_folder_with_a_broken_slide(
    widget: CohortWidget, scans: Path, qtbot: Any, checkpoint: Path, tmp_path: Path, scheduler: str
) -> None:
    widget.output_section.form.editor("dask").set(scheduler)
    assert not widget.footer.run.isEnabled()
    name_slides(widget, qtbot, scans)
    assert cells(widget, Column.SLIDE, Column.STATE) == [
        ("a.tif", "waiting"), ("broken.svs", "waiting"), ("c.tif", "waiting"),
    ]  # fmt: skip
    assert widget.footer.run.text() == "Run 2DMamba on 3 slides"
    assert widget.output_section.folder == tmp_path / "runs" / "cohort scans"
    qtbot.mouseClick(widget.footer.run, Qt.MouseButton.LeftButton)
    assert widget.footer.run.text() == "Running…"
    finish(widget, qtbot)

    # what the table says is what Python says, and what is in the folder's own table
    alone = run(scans / "a.tif", checkpoint).prediction
    assert alone.probabilities is not None
    name = alone.class_names[alone.top_class]
    rows = cells(widget, Column.SLIDE, Column.STATE, Column.PATCHES, Column.FINDING)
    finding = f"{name} {alone.probabilities[alone.top_class]:.3f}"
    assert rows[0] == ("a.tif", "done", "130", finding)
    assert rows[1] == ("broken.svs", "failed", "", "")
    assert [row[1] for row in rows] == ["done", "failed", "done"]
    (reason,) = cells(widget, Column.REASON)[1]
    assert "broken.svs is empty (0 bytes)" in reason
    speeds = [cell for (cell,) in cells(widget, Column.SPEED)]
    assert float(speeds[0]) > 0
    assert not speeds[1]
    out = tmp_path / "runs" / "cohort scans"
    with (out / "summary.csv").open(newline="") as file:
        table = {row["slide"]: row for row in csv.DictReader(file)}
    assert [table[row[0]]["state"] for row in rows] == [row[1] for row in rows]
    assert "2 done, 1 failed" in widget.footer.message.text()
    assert {row.worker.rsplit(":")[-1] for row in widget.table.rows} & {str(os.getpid())} == set()

    # a state is told by text and by the shape of its picture
    pictures = []
    for row in range(3):
        index = widget.view.shown.index(row, Column.STATE)
        icon = index.data(Qt.ItemDataRole.DecorationRole)
        pictures.append(icon.pixmap(32, 32).toImage())
    assert pictures[0] == pictures[2] != pictures[1]

    broken, view = widget.table.rows[1], widget.view
    actions = {action.text(): action for action in view.menu_for(broken).actions()}
    actions["Copy the reason"].trigger()
    assert QGuiApplication.clipboard().text() == broken.reason
    actions["Show the log"].trigger()
    (window,) = widget.findChildren(QDialog)
    assert broken.reason in window.findChild(QPlainTextEdit).toPlainText()
    window.close()
    good = {action.text() for action in view.menu_for(widget.table.rows[0]).actions()}
    assert "Open the result" in good

    view.group.setCurrentIndex(1)
    assert view.group.currentText() == "Failed (1)"
    assert cells(widget, Column.SLIDE) == [("broken.svs",)]
    view.group.setCurrentIndex(0)
    view.search.setText("DONE c.t")
    assert cells(widget, Column.SLIDE) == [("c.tif",)]
    view.search.clear()

    # only what failed is done again
    write_slide(scans / "broken.svs", seed=3)
    made = Path(widget.table.rows[0].folder, "run.json").stat().st_mtime_ns
    assert widget.footer.retry.isEnabled()
    widget.footer.retry.click()
    assert [row.state for row in widget.table.rows] == ["done", "waiting", "done"]
    finish(widget, qtbot)
    assert [row.state for row in widget.table.rows] == ["done", "done", "done"]
    assert Path(widget.table.rows[0].folder, "run.json").stat().st_mtime_ns == made
    assert not widget.footer.retry.isEnabled()
    assert widget.footer.message.kind == "good"

    # a double click shows the saved run of that slide
    index = view.shown.index(2, Column.SLIDE)
    place = view.view.visualRect(index).center()
    port = view.view.viewport()
    qtbot.mouseClick(port, Qt.MouseButton.LeftButton, pos=place)
    qtbot.mouseDClick(port, Qt.MouseButton.LeftButton, pos=place)
    docked = widget._viewer.window.dock_widgets["Run 2DMamba (2DMamba)"]
    qtbot.waitUntil(lambda: docked.shown is not None, timeout=LONG)
    assert docked.shown.slide.path == scans / "c.tif"
    found = widget.table.rows[2].result["probabilities"]
    np.testing.assert_allclose(docked.shown.prediction.probabilities, list(found.values()))
    qtbot.waitUntil(lambda: not docked.is_running, timeout=LONG)

    # and says, as the list of runs does, what is not as it was when the run was made
    assert not docked.result_section.remarks.text()
    show_regions(docked.session, docked.session.current, Regions((Region(box(0, 0, 500, 500)),)))
    widget.open_result(widget.table.rows[2])
    said = "regions drawn on c.tif are not those of this run (all tissue)"
    qtbot.waitUntil(lambda: said in docked.result_section.remarks.text(), timeout=LONG)


def test_pause_resume_and_a_killed_worker(
    widget: CohortWidget, scans: Path, qtbot: Any, scheduler: str
) -> None:
    work_slowly(widget)
    widget.output_section.form.editor("dask").set(scheduler)
    name_slides(widget, qtbot, scans / "a.tif")
    blocks: list[int] = []
    timer = QTimer()
    timer.timeout.connect(lambda: blocks.append(1))
    timer.start(10)
    widget.footer.extract.click()
    row = wait_for_patches(widget, qtbot)
    widget.footer.pause.click()
    assert cells(widget, Column.STATE) == [("paused",)]
    assert widget.footer.pause.text() == "Resume"
    before = -1
    while widget.table.rows[0].patches_done != before:  # the batch at hand, and the news of it
        before = widget.table.rows[0].patches_done
        qtbot.wait(1000)
    ticks = len(blocks)
    qtbot.wait(1000)
    assert widget.table.rows[0].patches_done == before < row.patches_total
    assert "paused" in widget.footer.detail.text()
    assert len(blocks) > ticks  # the window lives
    widget.footer.pause.click()
    assert cells(widget, Column.STATE) == [("running",)]

    row = wait_for_patches(widget, qtbot)
    os.kill(int(row.worker.rsplit(":")[-1]), signal.SIGKILL)
    finish(widget, qtbot)
    (done,) = widget.table.rows
    assert done.state == "done"
    assert done.worker != row.worker
    assert "going on from" in Path(done.folder, "log.txt").read_text()
    assert cells(widget, Column.FINDING) == [("102 features per patch",)]

    # there is no run to open: the slide is shown
    widget.open_result(done)
    assert [layer.name for layer in widget._viewer.layers] == ["a.tif"]
    widget.view.view.selectRow(0)
    qtbot.keyClick(widget.view.view, Qt.Key.Key_Return)
    assert len(widget._viewer.layers) == 1


def test_cancel_and_going_on(widget: CohortWidget, scans: Path, qtbot: Any, scheduler: str) -> None:
    work_slowly(widget)
    widget.output_section.form.editor("dask").set(scheduler)
    name_slides(widget, qtbot, scans / "a.tif", scans / "c.tif")
    widget.footer.extract.click()
    wait_for_patches(widget, qtbot)
    widget.footer.pause.click()  # it can be cancelled out of a pause
    widget.footer.cancel.click()
    assert "Stopping" in widget.footer.detail.text()
    finish(widget, qtbot)
    assert [row.state for row in widget.table.rows] == ["stopped", "waiting"]
    assert "kept" in widget.footer.message.text()
    out = widget.output_section.folder
    assert out is not None
    assert not list(out.glob(".at-work-*"))
    assert list(out.glob("a/*.journal"))
    assert widget.footer.extract.isEnabled()
    widget.footer.extract.click()
    finish(widget, qtbot)
    assert [row.state for row in widget.table.rows] == ["done", "done"]
    assert "going on from" in (out / "a" / "log.txt").read_text()


def test_closing_the_dock_in_the_middle_stops_cleanly(
    widget: CohortWidget, scans: Path, qtbot: Any, notifications: Callable[[], list[str]]
) -> None:
    work_slowly(widget)
    name_slides(widget, qtbot, scans / "a.tif")
    widget.footer.extract.click()
    row = wait_for_patches(widget, qtbot)
    worker = psutil.Process(int(row.worker.rsplit(":")[-1]))
    out = widget.output_section.folder
    widget._viewer.window.remove_dock_widget(widget)
    assert "goes on from there" in notifications()[-1]
    finish(widget, qtbot)
    assert out is not None
    assert [row.state for row in read_cohort(out).rows] == ["stopped"]
    worker.wait(120)  # nothing is left behind
    assert not list(out.glob(".at-work-*"))


def test_a_cohort_that_is_there_is_shown_and_followed(
    widget: CohortWidget, scans: Path, qtbot: Any, tmp_path: Path, scheduler: str
) -> None:
    out = tmp_path / "made before"
    (tmp_path / "list.csv").write_text("slide,label,mpp\nscans/a.tif,tumour,0.5\nscans/c.tif,,\n")
    settings = RunSettings(
        grid=GridSettings(patch_size=96), features=FeatureSettings(device="cpu", drop_blank=True)
    )
    alone = CohortSettings(workers=1)
    extract_cohort([tmp_path / "list.csv"], settings, out=out, cohort=alone)
    assert widget.view.view.isColumnHidden(Column.LABEL)
    drop(widget, out)
    qtbot.waitUntil(lambda: len(widget.table.rows) == 2, timeout=LONG)
    assert cells(widget, Column.SLIDE, Column.LABEL, Column.STATE) == [
        ("a.tif", "tumour", "done"), ("c.tif", "", "done"),
    ]  # fmt: skip
    assert not widget.view.view.isColumnHidden(Column.LABEL)
    assert widget.output_section.folder == out
    assert [slide.mpp for slide in widget.slides_section.slides] == [0.5, None]
    assert not widget.is_running
    # it can be gone on with as it was made
    now = widget._run_settings()
    assert now.grid == settings.grid
    assert now.features.drop_blank
    assert widget._with_model is False

    # another run takes up one of the slides
    status = (out / "a" / "status.json").read_text()
    with worked_on(out / "a"):
        running = status.replace('"state": "done"', '"state": "running"')
        (out / "a" / "status.json").write_text(running)
        widget.open_cohort(out)
        qtbot.waitUntil(lambda: widget.table.rows[0].state == "running", timeout=LONG)
        assert "worked on by another run" in widget.footer.detail.text()

        # our own run leaves it alone, and says so
        widget.output_section.form.editor("dask").set(scheduler)
        widget.patches_section.grid_form.editor("patch_size").set(256)
        widget.footer.extract.click()
        qtbot.waitUntil(lambda: widget.table.rows[0].state == "elsewhere", timeout=2 * LONG)
        (said,) = cells(widget, Column.REASON)[0]
        assert "another run" in said
    finish(widget, qtbot)
    assert [row.state for row in widget.table.rows] == ["done", "done"]


def drop(widget: CohortWidget, *paths: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    event = QDropEvent(
        QPointF(5, 5), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier, QEvent.Type.Drop,
    )  # fmt: skip
    widget.dropEvent(event)


def test_what_cannot_begin_is_one_sentence(
    widget: CohortWidget, scans: Path, qtbot: Any, tmp_path: Path
) -> None:
    section, footer = widget.slides_section, widget.footer
    (tmp_path / "bad.csv").write_text("slide,mpp\na.tif,quarter\n")
    drop(widget, tmp_path / "bad.csv")
    qtbot.waitUntil(lambda: section.message.kind == "error", timeout=LONG)
    assert "line 2: mpp is 'quarter'" in section.message.text()
    assert not footer.run.isEnabled()
    section.remove_chosen()
    assert section.message.text() == ""
    name_slides(widget, qtbot, tmp_path / "runs-not-there")
    assert len(widget.table.rows) == 1  # it is found out when its turn comes
    section.remove_chosen()
    assert widget.table.rows == ()

    name_slides(widget, qtbot, scans)
    widget.output_section.out.set(scans / "broken.svs" / "out")
    footer.extract.click()
    finish(widget, qtbot)
    assert "cannot be written" in footer.message.text()
    assert footer.message.kind == "error"
    assert {row.state for row in widget.table.rows} == {"waiting"}
    widget.features_section.from_file.setChecked(True)
    footer.extract.click()
    assert "choose Compute from the slides" in footer.message.text()
    footer.run.click()
    assert "no folder of features" in footer.message.text().lower()
    widget.output_section.cohort_wanted.emit(str(tmp_path / "scans"))
    qtbot.waitUntil(lambda: "holds no cohort" in footer.message.text(), timeout=LONG)
    assert not widget.is_running


def test_columns_sort_as_numbers_and_the_table_moves_beside(
    widget: CohortWidget, qtbot: Any
) -> None:
    rows = [
        SlideStatus(f"/s/{n}.svs", "done", result={"patches": n, "feature_size": 3}, seconds=n)
        for n in (9, 100, 20)
    ]
    widget.table.set_rows(rows)
    widget.view.view.sortByColumn(Column.PATCHES, Qt.SortOrder.DescendingOrder)
    assert cells(widget, Column.PATCHES) == [("100",), ("20",), ("9",)]
    widget.table.update([SlideStatus("/s/9.svs", "running", patches_done=5, patches_total=500)])
    assert cells(widget, Column.SLIDE)[0] == ("9.svs",)
    assert cells(widget, Column.PROGRESS)[0] == ("5 of 500",)
    widget.view.view.sortByColumn(-1, Qt.SortOrder.AscendingOrder)
    assert [name for (name,) in cells(widget, Column.SLIDE)] == ["9.svs", "100.svs", "20.svs"]

    process_events()
    left = widget.sections.mapTo(widget, QPoint(0, 0))
    table = widget.view.mapTo(widget, QPoint(0, 0))
    assert table.x() > left.x() + 300  # wide: side by side
    widget._viewer.window.remove_dock_widget(widget)
    alone = CohortWidget(widget._viewer)
    qtbot.addWidget(alone)
    alone.resize(460, 900)
    alone.show()
    QApplication.processEvents()
    assert alone.view.mapTo(alone, QPoint(0, 0)).y() > 200  # narrow: one below the other
    alone.let_go()


def test_a_slide_without_a_result_opens_as_the_list_says(widget: CohortWidget, scans: Path) -> None:
    widget.open_result(SlideStatus(str(scans / "a.tif"), "failed", mpp=0.3))
    (on,) = widget.session.slides
    assert on.slide.mpp == 0.3
    widget.session.close(on)


def test_time_left_counts_work_and_not_what_was_there() -> None:
    slides = [CohortSlide(Path(name)) for name in "abcd"]
    following = Following(len(slides))
    assert following.progress() is None
    for name, state, done in (
        ("a", "running", 10), ("a", "reused", 0), ("b", "done", 0), ("c", "running", 50),
    ):  # fmt: skip
        total = 100 if done else 0
        following.put(SlideStatus(name, state, patches_done=done, patches_total=total))
        following.take()
    share, words = following.progress() or (0, "")
    assert share == pytest.approx(2.5 / 4)
    assert words.startswith("2 of 4 slides · 1 at work")
    assert [(row.slide, row.state) for row in following.ended()] == [("c", "stopped")]
    assert time_left(0, 4, 10.0) is None
    assert time_left(1.5, 3, 30.0) == pytest.approx(30.0)  # 1.5 of 3 slides in 30 s
    assert time_left(2, 2, 5.0) == 0.0
    assert time_left(4.9, 10_000, 5.0) is None
    assert time_left(5, 10_000, 5.0) == pytest.approx(9995)
    words = [in_words(seconds) for seconds in (0.2, 8.4, 200, 7500)]
    assert words == ["< 1 s", "8 s", "3 min 20 s", "2 h 05 min"]


def test_the_run_widget_leads_here(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    run_widget = RunWidget(viewer)
    viewer.window.add_dock_widget(run_widget, name="Run 2DMamba")
    run_widget.slide_section.many.click()
    run_widget.slide_section.many.click()
    (cohort,) = [w for w in viewer.window.dock_widgets.values() if isinstance(w, CohortWidget)]
    assert cohort.isVisibleTo(cohort.parentWidget())
    for docked in (cohort, run_widget):
        docked.let_go()


def test_results_that_moved_are_found_by_their_folder(
    widget: CohortWidget, scans: Path, qtbot: Any, tmp_path: Path
) -> None:
    extract_cohort([scans / "a.tif"], out=tmp_path / "out", cohort=CohortSettings(workers=1))
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    widget.open_cohort(tmp_path / "elsewhere")
    qtbot.waitUntil(lambda: bool(widget.table.rows), timeout=LONG)
    assert widget.table.rows[0].folder == str(tmp_path / "elsewhere" / "a")
    process_events()
    assert "Features, patches and regions are set again" in widget.footer.message.text()
    (tmp_path / "elsewhere" / "cohort.json").write_text('{"settings": []}')
    widget.open_cohort(tmp_path / "elsewhere")
    qtbot.waitUntil(lambda: widget.footer.message.kind == "warning", timeout=LONG)
    assert "does not say with which settings" in widget.footer.message.text()
