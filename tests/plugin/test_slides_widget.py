import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox

from napari_2dmamba.plugin.layers.region_layers import ensure_region_layer
from napari_2dmamba.plugin.parts import docks
from napari_2dmamba.plugin.parts import recent_slides as recent
from napari_2dmamba.plugin.parts.closing import what_would_be_lost
from napari_2dmamba.plugin.parts.dropped import Thing, intake_of, sort_paths
from napari_2dmamba.plugin.session import Session
from napari_2dmamba.plugin.slides_widget import SlidesWidget
from napari_2dmamba.plugin.slides_widget.widget import WHAT
from napari_2dmamba.slide import open_slide
from tests.plugin.conftest import LONG, process_events
from tests.slide.served import serve
from tests.slide.written import noise
from tests.slide.written_dicom import write_dicom


@pytest.fixture(autouse=True)
def own_recent_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recent, "recent_file", lambda: tmp_path / "settings" / "recent.json")
    return tmp_path / "settings" / "recent.json"


@pytest.fixture
def two(slide_path: Path, tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "first.tif", tmp_path / "second.tif"]
    for path in paths:
        shutil.copy(slide_path, path)
    return paths


@pytest.fixture
def widget(make_napari_viewer: Any, qtbot: Any) -> Iterator[SlidesWidget]:
    viewer = make_napari_viewer()
    widget = SlidesWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Slides", area="left")
    yield widget
    widget.let_go()


def listed(widget: SlidesWidget) -> list[str]:
    rows = range(widget.list.count())
    return [widget.list.item(row).text().splitlines()[0] for row in rows]


def click(widget: SlidesWidget, name: str) -> None:
    row = listed(widget).index(name)
    widget.list.setCurrentRow(row)
    widget.list.itemClicked.emit(widget.list.item(row))
    process_events()


def drop(viewer: Any, *paths: Path | str) -> bool:
    """Drop files on the canvas as a file manager does, and links as a browser does."""
    data = QMimeData()
    data.setUrls(
        [QUrl(path) if isinstance(path, str) else QUrl.fromLocalFile(str(path)) for path in paths]
    )
    how = Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    canvas = viewer.window._qt_viewer.canvas.native
    dropping = QDropEvent(QPointF(5, 5), *how)
    QApplication.sendEvent(canvas, QDragEnterEvent(QPoint(5, 5), *how))
    QApplication.sendEvent(canvas, dropping)
    process_events()
    return bool(dropping.isAccepted())


def wait_for_drop(qtbot: Any, session: Session) -> None:
    process_events()
    qtbot.waitUntil(lambda: not intake_of(session).is_busy, timeout=LONG)
    process_events()


def test_a_click_shows_a_slide_and_opens_a_recent_one(
    widget: SlidesWidget, two: list[Path], qtbot: Any
) -> None:
    session = widget.session
    assert not session.open(two)
    first, second = session.slides
    assert listed(widget) == ["first.tif", "second.tif"]
    assert widget.list.currentItem().data(WHAT) is second
    click(widget, "first.tif")
    assert session.current is first
    assert widget.list.currentItem().data(WHAT) is first
    qtbot.waitUntil(lambda: not widget.thumbnails.is_busy, timeout=LONG)
    pixels = widget.list.item(0).icon().pixmap(56, 56).toImage().pixelColor(28, 28)
    assert pixels.red() > pixels.green() + 40  # the pink tissue in its middle

    session.close(first)
    assert listed(widget) == ["second.tif", "Recent", "first.tif"]
    click(widget, "first.tif")
    wait_for_drop(qtbot, session)
    assert session.current is not None
    assert session.current.slide.path == two[0]
    assert listed(widget) == ["second.tif", "first.tif"]

    click(widget, "second.tif")
    session.close(second)
    click(widget, "second.tif")  # not opened yet: the click only starts it
    wait_for_drop(qtbot, session)
    session.close(session.current)
    widget.list.setCurrentRow(listed(widget).index("second.tif"))
    assert widget.close_slide.text() == "Forget"
    widget.close_slide.click()
    assert listed(widget) == ["first.tif"]
    assert two[1].exists()


def test_closing_asks_only_where_something_would_be_lost(
    widget: SlidesWidget, two: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = widget.session
    asked: list[str] = []
    answer = [QMessageBox.StandardButton.Cancel]

    def ask(box: QMessageBox) -> Any:
        asked.append(box.text())
        return answer[0]

    monkeypatch.setattr(QMessageBox, "exec", ask)
    session.open(two)
    widget.close_slide.click()
    assert not asked
    (slide,) = session.slides
    layer = ensure_region_layer(session, slide, "include")
    layer.add_polygons([np.array([[10, 10], [10, 90], [90, 90.0]])])
    widget.close_slide.click()
    assert session.slides == (slide,)
    assert "first.tif" in asked[0]
    assert "regions" in asked[0]
    answer[0] = QMessageBox.StandardButton.Close
    widget.close_slide.click()
    assert session.slides == ()

    class Endless:
        def cancel(self) -> None:
            pass

    session.open(two[:1])
    session.begin(session.slides[0], Endless())
    assert "running…" in widget.list.item(0).text()
    (sentence,) = what_would_be_lost(session, session.slides[0])
    assert "stopped" in sentence


def test_recent_slides(tmp_path: Path, own_recent_list: Path) -> None:
    names = [tmp_path / f"{number}.tif" for number in range(recent.MOST + 3)]
    recent.remember(names)
    assert recent.recent_slides() == names[::-1][: recent.MOST]
    recent.remember([names[5]])
    assert recent.recent_slides()[0] == names[5]
    assert len(set(recent.recent_slides())) == recent.MOST
    recent.forget(names[5])
    assert names[5] not in recent.recent_slides()
    assert own_recent_list.stat().st_mode & 0o077 == 0
    for damage in ("", "{}", "[1, null]", "[[["):
        own_recent_list.write_text(damage)
        assert recent.recent_slides() == []


def test_dropped_things_are_told_apart(tmp_path: Path, two: list[Path]) -> None:
    import h5py
    import torch

    folder = tmp_path / "some slides"
    folder.mkdir()
    shutil.copy(two[0], folder / "inside.tif")
    empty = tmp_path / "empty"
    empty.mkdir()
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    with h5py.File(tmp_path / "bag.h5", "w") as file:
        file["features"] = np.zeros((3, 4), np.float32)
    torch.save(torch.zeros(3, 4), tmp_path / "bag.pt")
    torch.save({"layer.weight": torch.zeros(3, 4)}, tmp_path / "model.pt")
    (tmp_path / "areas.geojson").write_text("{}")
    found = sort_paths(
        [
            two[0], folder, empty, run, run / "run.json", tmp_path / "bag.h5", tmp_path / "bag.pt",
            tmp_path / "model.pt", tmp_path / "areas.geojson", tmp_path / "a.safetensors",
        ]
    )  # fmt: skip
    assert found.things == (
        Thing("slide", two[0]),
        Thing("slide", folder / "inside.tif"),
        Thing("run", run),
        Thing("run", run),
        Thing("features", tmp_path / "bag.h5"),
        Thing("features", tmp_path / "bag.pt"),
        Thing("checkpoint", tmp_path / "model.pt"),
        Thing("regions", tmp_path / "areas.geojson"),
        Thing("checkpoint", tmp_path / "a.safetensors"),
    )
    (problem,) = found.problems
    assert problem.startswith("empty holds no slide")


def test_what_is_dropped_is_opened_or_explained(
    widget: SlidesWidget, two: list[Path], tmp_path: Path, qtbot: Any
) -> None:
    session = widget.session
    said: list[str] = []
    session.events.said.connect(lambda sentence, kind: said.append(sentence))
    notes = tmp_path / "notes.txt"
    notes.write_text("nothing of use")
    areas = tmp_path / "areas.geojson"
    areas.write_text(
        '{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates":'
        " [[[600, 600], [900, 600], [900, 900], [600, 600]]]}}"
    )
    assert drop(session.viewer, areas)
    wait_for_drop(qtbot, session)
    assert "none is open" in said[-1]
    assert drop(session.viewer, notes, two[0], areas)
    wait_for_drop(qtbot, session)
    assert [one.name for one in session.slides] == ["first.tif"]
    assert "notes.txt" in said[-1]
    assert what_would_be_lost(session, session.slides[0])  # the regions are there
    features = tmp_path / "bag.h5"
    features.write_bytes(b"")
    assert drop(session.viewer, features)
    wait_for_drop(qtbot, session)
    assert session.choices.feature_file == features
    assert session.choices.from_file


def test_a_link_is_opened_from_its_server(
    widget: SlidesWidget, two: list[Path], tmp_path: Path, qtbot: Any, monkeypatch: Any
) -> None:
    pytest.importorskip("requests", reason="the extra remote is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    session = widget.session
    said: list[str] = []
    session.events.said.connect(lambda sentence, kind: said.append(sentence))
    with serve(tmp_path) as server:
        assert drop(session.viewer, f"{server.address}/first.tif?X-Amz-Signature=SIGNED")
        wait_for_drop(qtbot, session)
        assert listed(widget) == ["first.tif"]
        assert "SIGNED" not in session.viewer.title + repr(session.viewer.layers)
        assert session.current is not None
        with open_slide(two[0]) as same:
            assert session.current.slide.fingerprint == same.fingerprint
        assert drop(session.viewer, f"{server.address}/third.tif?X-Amz-Signature=SIGNED")
        wait_for_drop(qtbot, session)
        assert "third.tif" in said[-1]
        assert "SIGNED" not in said[-1]
        session.close(session.current)
    assert "SIGNED" not in recent.recent_file().read_text()


@pytest.mark.parametrize("kind", ["zarr", "dicom"])
@pytest.mark.parametrize("where", ["slides", "run"])
def test_a_slide_that_is_a_folder_is_opened_by_the_mouse_alone(
    kind: str, where: str, widget: SlidesWidget, qtbot: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    pixels = noise(200, 300, 3)
    if kind == "zarr":
        pytest.importorskip("zarr")
        from tests.slide.test_zarr import write

        folder = write(tmp_path / "case.zarr", [pixels.transpose(2, 0, 1)])
    else:
        folder = tmp_path / "case"
        for number, path in enumerate(write_dicom(folder, [pixels])):
            path.rename(folder / f"IM{number:04}")  # as on discs
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *args: str(folder))
    session = widget.session
    button = widget.open
    if where == "run":
        button = docks.show(session.viewer, docks.RUN).slide_section.open
    button.folder.trigger()
    wait_for_drop(qtbot, session)
    assert session.current is not None
    slide = session.current.slide
    np.testing.assert_array_equal(slide.read_region(0, 0, 0, 300, 200), pixels)
    session.close(session.current)


def test_a_store_of_features_is_told_from_a_slide(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    pytest.importorskip("anndata")
    from tests.features.test_stores import lazyslide_store
    from tests.slide.test_zarr import write

    one = lazyslide_store(tmp_path / "one.zarr")
    several = lazyslide_store(tmp_path / "several.zarr", names=("mine", "uni"))
    slide = write(tmp_path / "slide.zarr", [noise(64, 64, 3).transpose(2, 0, 1)])
    assert sort_paths([one, several, slide]).things == (
        Thing("features", one),
        Thing("features", several),  # which table is asked for when it is read
        Thing("slide", slide),
    )
