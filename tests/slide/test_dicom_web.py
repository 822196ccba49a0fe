"""Slides on a DICOMweb server: stored pixels, few frames, no label, no secret in any word."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wsidicom", reason="the extra dicom is not installed")

import pydicom

from napari_2dmamba.cohort import find_slides
from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide import addresses, open_slide
from napari_2dmamba.slide.remote_file import DISK_CACHE_VARIABLE
from tests.material import shared
from tests.slide.dicomweb import multipart, serve_dicomweb
from tests.slide.served import Served
from tests.slide.written import halved, noise
from tests.slide.written_dicom import (
    HTJ2K,
    JPEG,
    JPEG_2000,
    JPEG_LS,
    PLAIN,
    RLE,
    TILE,
    write_dicom,
)

pytestmark = pytest.mark.usefixtures("own_network_cache")

_LEVELS = [noise(700, 900, 3)]
_LEVELS.append(halved(_LEVELS[0]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dicom(tmp_path / "in", _LEVELS, JPEG_LS, kinds=("LABEL", "OVERVIEW"))
    return tmp_path / "in"


@pytest.fixture
def server(folder: Path) -> Iterator[Any]:
    with serve_dicomweb(folder) as server:
        yield server


@pytest.mark.parametrize("states_syntax", [True, False])
@pytest.mark.parametrize("syntax", [JPEG, JPEG_2000, JPEG_LS, HTJ2K, RLE, PLAIN])
def test_pixels_are_those_of_the_files_and_each_frame_is_fetched_once(
    tmp_path: Path, syntax: str, states_syntax: bool
) -> None:
    paths = write_dicom(tmp_path / "in", _LEVELS, syntax, kinds=("LABEL", "OVERVIEW"))
    with serve_dicomweb(tmp_path / "in") as server:
        server.states_syntax = states_syntax
        with open_slide(server.series) as slide, open_slide(paths[0]) as same:
            assert (slide.backend, slide.mpp) == ("wsidicom", same.mpp)
            assert slide.level_dimensions == same.level_dimensions
            assert slide.level_downsamples == same.level_downsamples
            assert any("127.0.0.1" in remark for remark in slide.remarks)
            if same.backend == "wsidicom":
                assert slide.fingerprint == same.fingerprint
            for level, (width, height) in enumerate(same.level_dimensions):
                np.testing.assert_array_equal(
                    slide.read_region(0, 0, level, width, height, strict=True),
                    same.read_region(0, 0, level, width, height, strict=True),
                )
        assert {kind for kind, _, _ in server.frames} == {"VOLUME"}  # no label, no overview
        assert max(Counter(server.frames).values()) == 1


def test_the_shared_slide_is_the_same_from_a_server() -> None:
    files = sorted(shared("slides/dicom").glob("*.dcm"))
    with (
        serve_dicomweb(files[0].parent) as server,
        open_slide(server.series) as slide,
        open_slide(files[1]) as same,
    ):
        width, height = same.dimensions
        np.testing.assert_array_equal(
            slide.read_region(0, 0, 0, width, height, strict=True),
            same.read_region(0, 0, 0, width, height, strict=True),
        )


def test_only_what_is_looked_at_is_fetched_and_a_second_time_nothing(tmp_path: Path) -> None:
    large = noise(24 * TILE, 24 * TILE, 3)
    write_dicom(tmp_path / "in", [large, halved(halved(large))], JPEG)
    with serve_dicomweb(tmp_path / "in") as server:
        with open_slide(server.series) as slide:
            opening = len(server.frames)
            assert opening < 64  # of 612
            slide.read_region(10 * TILE + 5, 20 * TILE + 5, 0, TILE, TILE, strict=True)
            asked = {number for _, _, number in server.frames[opening:]}
            corners = {row * 24 + column + 1 for row in (20, 21) for column in (10, 11)}
            assert asked <= corners
        before = len(server.frames)
        with open_slide(server.series) as slide:
            slide.read_region(10 * TILE + 5, 20 * TILE + 5, 0, TILE, TILE, strict=True)
        assert len(server.frames) == before


def test_nothing_is_kept_on_disk_where_nothing_may_be(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DISK_CACHE_VARIABLE, "0")
    with open_slide(server.series) as slide:
        slide.read_region(0, 0, 0, 900, 700, strict=True)
    assert not (addresses.folder() / "blocks").exists()


_SECRETS = ("hunter2", "T0K3N", "DOE", "JANE", "P-1717", "ACC-99", "4711")


def test_secrets_are_sent_and_never_said(
    server: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    plain = server.series.removeprefix("http://")
    with caplog.at_level(logging.DEBUG):
        for given, sent in (("jane:hunter2", "Basic amFuZTpodW50ZXIy"), (":T0K3N", "Bearer T0K3N")):
            server.asked.clear()
            address = f"http://{given}@{plain}"
            with open_slide(address) as slide:
                said += [repr(slide), str(slide.path), repr(slide.properties), repr(slide.remarks)]
                assert slide.name == f"{plain.rpartition('/')[2]}.dcm"
            assert {headers["Authorization"] for _, headers in server.asked} == {sent}
            assert addresses.stand_in(server.series) == slide.path  # whoever opens it
            for status in (401, 403, 404, 500):

                def refuse(handler: Served, status: int = status) -> bool:
                    handler.answer(status, f"<p>{dict(handler.headers)}</p>".encode())
                    return True

                server.twist = refuse
                with pytest.raises(SlideError) as told:
                    open_slide(address)
                said += [str(told.value), repr(told.value), str(told.value.__cause__)]
            server.twist = None
    said += [caplog.text, *capfd.readouterr()]
    assert not any(secret in one for one in said for secret in _SECRETS)


def _answers(status: int, body: bytes = b"", kind: str = "", only: str = "") -> Any:
    def twist(handler: Served) -> bool:
        if only and only not in handler.path:
            return False
        handler.answer(status, body, {"Content-Type": kind})
        return True

    return twist


@pytest.mark.parametrize(
    ("twist", "words"),
    [
        (_answers(401), "refuses .*401"),
        (_answers(404), "there is no .* check it"),
        (_answers(204), "there is no .* check it"),
        (_answers(503), "busy or broken"),
        (_answers(200, b"<html>Sign in</html>", "text/html"), "not as DICOMweb does"),
        (_answers(200, b"[" * 10**6), "not as DICOMweb does"),
        (_answers(200, b"[]"), "not as DICOMweb does"),
        (_answers(200, b'[{"00080016": 5}]'), "not as DICOMweb does"),
        (_answers(406, only="/frames/"), "406"),
        (_answers(200, b"\xff\xd8", "image/jpeg", only="/frames/"), "not as DICOMweb does"),
        (
            _answers(200, b"--e\r\n\r\n", 'multipart/related; boundary="e"', only="/frames/"),
            "failed or was cut",
        ),
    ],
)
def test_a_server_that_does_something_else_gets_one_sentence(
    server: Any, twist: Any, words: str
) -> None:
    server.twist = twist
    with pytest.raises(SlideError, match=words) as told:
        open_slide(server.series)
    assert len(str(told.value)) < 400


def test_a_server_that_is_not_there_gets_one_sentence(folder: Path) -> None:
    with serve_dicomweb(folder) as server:
        address = server.series
    with pytest.raises(SlideError, match="failed or was cut; check the network"):
        open_slide(address)


def test_wrong_numbers_and_other_series_get_one_sentence(tmp_path: Path) -> None:
    def tomography(one: Any) -> None:
        one.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"

    write_dicom(tmp_path / "in", _LEVELS[:1], RLE, change=tomography)
    with serve_dicomweb(tmp_path / "in") as server:
        with pytest.raises(SlideError, match="without a whole slide image; give the series"):
            open_slide(server.series)
        with pytest.raises(SlideError, match=r"there is no 1\.2\.3\.dcm"):
            open_slide(server.series.rpartition("/")[0] + "/1.2.3")
        study = server.series.partition("/series")[0]
        for address in (study, study + "/", study + "/series"):
            with pytest.raises(SlideError, match="address of a DICOM study; add /series/"):
                open_slide(address)


def test_a_connection_lost_while_panning_shows_background_and_says_so(server: Any) -> None:
    def hang_up(handler: Served) -> bool:
        handler.close_connection = True
        return True

    with open_slide(server.series) as slide:
        seen = slide.read_region(0, 0, 0, TILE, TILE, strict=True)
        np.testing.assert_array_equal(seen, _LEVELS[0][:TILE, :TILE])
        finest = max(server.data, key=lambda one: one.TotalPixelMatrixColumns).SOPInstanceUID
        known = {number for _, instance, number in server.frames if instance == finest}
        unseen = min(set(range(1, 100)) - known)
        row, column = divmod(unseen - 1, -(-900 // TILE))
        server.twist = hang_up
        lost = slide.read_region(column * TILE, row * TILE, 0, TILE, TILE)
        assert (lost == 255).all()
        assert any("failed or was cut" in one for one in slide.read_problems)
        with pytest.raises(SlideError, match="failed or was cut"):
            slide.read_region(column * TILE, row * TILE, 0, TILE, TILE, strict=True)


def test_one_broken_answer_is_asked_for_again(server: Any) -> None:
    broken: list[str] = []

    def breaks_off(handler: Served) -> bool:
        if "/frames/" not in handler.path or handler.path in broken:
            return False
        broken.append(handler.path)
        one = next(o for o in server.data if o.SOPInstanceUID in handler.path)
        body, kind = multipart(one, int(handler.path.rpartition("/")[2]))
        handler.answer(200, body[: len(body) // 2],
                       {"Content-Type": kind, "Content-Length": str(len(body))})  # fmt: skip
        handler.close_connection = True
        return True

    server.twist = breaks_off
    with open_slide(server.series) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 900, 700, strict=True), _LEVELS[0])
    assert len(broken) > 100


def test_a_table_of_slides_takes_the_address_of_a_series(server: Any, tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(f"slide,mpp\n{server.series},0.25\n")
    (found,) = find_slides([table])
    with open_slide(found.path) as slide:
        assert slide.dimensions == (900, 700)
    told = json.loads(found.path.read_text())
    assert told["address"] == server.series


def test_a_dicom_map_of_a_slide_on_a_server_belongs_to_its_images(
    server: Any, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("highdicom", reason="the extra dicom-results is not installed")
    from napari_2dmamba.export.dicom_results import write_dicom_map
    from tests.export.material import attention_map
    from tests.export.test_record import record_of

    made = []
    for place in (server.series, folder):
        with open_slide(place) as slide:
            path = tmp_path / f"{len(made)}.dcm"
            write_dicom_map(
                slide, attention_map(), path, record=record_of(slide), with_patient=True
            )
        made.append(pydicom.dcmread(path))
    changing = ("UID", "Date", "Time")
    for element in made[1]:
        if not element.keyword.endswith(changing) and element.VR != "SQ":
            assert made[0][element.tag].value == element.value, element.keyword
    for name in ("SourceImageSequence", "TotalPixelMatrixOriginSequence"):
        assert made[0][name] == made[1][name]
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert made[0][name] == made[1][name]
