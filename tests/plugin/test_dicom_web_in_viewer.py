"""A slide on a DICOMweb server in a real window: frames come as they are looked at."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wsidicom", reason="the extra dicom is not installed")

from napari_2dmamba.slide import open_slide
from tests.plugin.conftest import add_slide, canvas_picture, process_events
from tests.slide.dicomweb import serve_dicomweb
from tests.slide.written import halved, noise
from tests.slide.written_dicom import JPEG, TILE, write_dicom

_TILES = 32


def test_only_the_frames_that_the_window_shows_are_fetched(
    make_napari_viewer: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    finest = noise(_TILES * TILE, _TILES * TILE, 3)
    coarse = halved(halved(finest))
    write_dicom(tmp_path / "in", [finest, coarse], JPEG, mpp=0.5, kinds=("LABEL",))
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(700, 600)
    with serve_dicomweb(tmp_path / "in") as server, open_slide(server.series) as slide:
        of_finest = str(server.data[1].SOPInstanceUID)  # after the label
        opened = len(server.frames)
        add_slide(viewer, slide)
        process_events()
        assert canvas_picture(viewer).std() > 5  # the coarse level is shown
        fetched = [number for _, instance, number in server.frames if instance == of_finest]
        assert len(fetched) < 60  # of 1024: those that opening compares levels by
        assert len(server.frames) > opened
        seen = set(server.frames)
        viewer.scene.camera.center = (8 * TILE * 0.5, 8 * TILE * 0.5)
        viewer.scene.camera.zoom = 4.0  # two screen pixels for one of the slide
        for _ in range(100):
            canvas_picture(viewer)
            if set(server.frames) > seen:
                break
            qtbot.wait(50)
        process_events()
        new = {number - 1 for _, one, number in set(server.frames) - seen if one == of_finest}
        rows, columns = {one // _TILES for one in new}, {one % _TILES for one in new}
        assert new
        assert max(rows | columns) < 24  # far corners were not asked for
        assert {kind for kind, _, _ in server.frames} == {"VOLUME"}
        viewer.layers.clear()
        process_events()
