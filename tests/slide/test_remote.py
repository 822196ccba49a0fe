"""Slides on the network: the bytes of one version, little of them, and no secret in any word."""

import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_2dmamba.cohort import find_slides
from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide import addresses, open_slide, remote
from napari_2dmamba.slide.remote_file import BLOCK, DISK_CACHE_VARIABLE, BlockCache
from tests.slide.served import Served, serve
from tests.slide.written import halved, noise, write_ome_pyramid, write_pyramid, write_svs

pytest.importorskip("requests", reason="the extra remote is not installed")

pytestmark = pytest.mark.usefixtures("own_network_cache")

_LEVELS = [noise(700, 900, 3)]
_LEVELS.append(halved(_LEVELS[0]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


def test_a_slide_is_read_in_parts_and_is_the_same_as_the_file(root: Path) -> None:
    write_svs(root / "a.svs", _LEVELS)
    stated = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    write_ome_pyramid(root / "b.ome.tif", _LEVELS, photometric="rgb", metadata=stated)
    write_pyramid(root / "c c.tif", _LEVELS, compression=None, tile=None)
    with serve(root) as server:
        for name in ("a.svs", "b.ome.tif", "c%20c.tif"):
            local = root / name.replace("%20", " ")
            with open_slide(f"{server.address}/{name}") as slide, open_slide(local) as same:
                assert slide.name == name.replace("%20", "_")
                assert slide.mpp == same.mpp
                assert slide.level_dimensions == same.level_dimensions
                assert slide.fingerprint == same.fingerprint
                assert any("127.0.0.1" in remark for remark in slide.remarks)
                for level, (width, height) in enumerate(same.level_dimensions):
                    np.testing.assert_array_equal(
                        slide.read_region(0, 0, level, width, height, strict=True),
                        same.read_region(0, 0, level, width, height, strict=True),
                    )


def test_little_is_fetched_once_and_a_second_time_nothing(root: Path) -> None:
    write_pyramid(root / "big.tif", [noise(2048, 3072, 3)], compression=None, tile=(256, 256))
    size = (root / "big.tif").stat().st_size
    with serve(root) as server:
        with open_slide(f"{server.address}/big.tif") as slide:
            slide.read_region(1000, 1000, 0, 100, 100, strict=True)
        assert size / 3 > server.sent > 0
        before = server.sent
        with open_slide(f"{server.address}/big.tif") as slide:
            slide.read_region(1000, 1000, 0, 100, 100, strict=True)
        assert server.sent - before == BLOCK  # what tells that it is still the same file


def test_the_copy_on_disk_stays_within_its_bound(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BlockCache(tmp_path / "blocks", 10 * BLOCK)
    for index in range(40):
        cache.put(f"{index:064x}", bytes([index]) * BLOCK)
        kept = sum(one.stat().st_size for one in (tmp_path / "blocks").rglob("*") if one.is_file())
        assert kept <= 11 * BLOCK
    assert cache.get(f"{39:064x}", BLOCK) == bytes([39]) * BLOCK
    assert cache.get(f"{0:064x}", BLOCK) is None
    write_pyramid(root / "a.tif", _LEVELS)
    monkeypatch.setenv(DISK_CACHE_VARIABLE, "0")
    with serve(root) as server, open_slide(f"{server.address}/a.tif") as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 900, 700), _LEVELS[0])
    assert not (addresses.folder() / "blocks").exists()


_SECRETS = ("hunter2", "SIGNED", "T0K3N")


def _with_secrets(address: str) -> str:
    host = address.removeprefix("http://")
    return f"http://jane:hunter2@{host}/a.svs?X-Amz-Signature=SIGNED&x-amz-security-token=T0K3N"


def test_secrets_are_sent_and_never_said(
    root: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    write_svs(root / "a.svs", _LEVELS)
    said: list[str] = []
    with caplog.at_level(logging.INFO), serve(root) as server:
        address = _with_secrets(server.address)
        with open_slide(address) as slide:
            path = slide.path
            said += [repr(slide), str(path), repr(slide.properties), repr(slide.remarks)]
        asked, headers = server.asked[0]
        assert "X-Amz-Signature=SIGNED" in asked
        assert headers["Authorization"].startswith("Basic ")
        signed_again = address.replace("SIGNED", "OTHER")
        assert addresses.stand_in(signed_again) == path  # the same slide, signed again
        assert addresses.stand_in(address + "&id=2") != path  # another one
        for status in (403, 404, 500):

            def refuse(handler: Served, status: int = status) -> bool:
                handler.answer(status, f"<p>{handler.path}</p>".encode())
                return True

            server.twist = refuse
            with pytest.raises(SlideError) as told:
                open_slide(address)
            said += [str(told.value), repr(told.value), str(told.value.__cause__)]
    with pytest.raises(SlideError) as told:  # nobody listens any more
        open_slide(address)
    said += [str(told.value), caplog.text, *capfd.readouterr()]
    assert not any(secret in one for one in said for secret in _SECRETS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "refuses"), (403, "refuses"), (404, "neither a file nor"), (503, "busy"), (418, "418")],
)
def test_a_refusal_is_one_sentence(root: Path, status: int, words: str) -> None:
    def refuse(handler: Served) -> bool:
        handler.answer(status)
        return True

    with serve(root, refuse) as server, pytest.raises(SlideError, match=words):
        open_slide(f"{server.address}/a.svs")


def test_a_server_without_ranges_is_told(root: Path) -> None:
    write_pyramid(root / "a.tif", _LEVELS)

    def whole(handler: Served) -> bool:
        handler.answer(200, (root / "a.tif").read_bytes(), {"ETag": '"1"'})
        return True

    with serve(root, whole) as server, pytest.raises(SlideError, match="does not send parts"):
        open_slide(f"{server.address}/a.tif")


def test_a_connection_that_is_cut_is_tried_again_and_then_told(root: Path) -> None:
    write_pyramid(root / "a.tif", _LEVELS)
    cuts = [2]

    def cut(handler: Served) -> bool:
        if not cuts[0]:
            return False
        cuts[0] -= 1
        size = (root / "a.tif").stat().st_size
        handler.answer(206, b"II*\0" * 50, {
            "Content-Length": str(BLOCK), "ETag": '"1"', "Connection": "close",
            "Content-Range": f"bytes 0-{BLOCK - 1}/{size}",
        })  # fmt: skip
        handler.close_connection = True
        return True

    with serve(root, cut) as server, open_slide(f"{server.address}/a.tif") as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 900, 700), _LEVELS[0])
        cuts[0] = 99
        with pytest.raises(SlideError, match="cut"):
            open_slide(f"{server.address}/a.tif")


@pytest.mark.parametrize("states", ["etag", "modified"])
def test_two_versions_are_never_mixed(root: Path, states: str) -> None:
    path = write_pyramid(root / "a.tif", [noise(1024, 1024, 3)], compression=None, tile=(256, 256))
    with serve(root) as server:
        server.headers = {"ETag": ""} if states == "modified" else {"Last-Modified": ""}
        with open_slide(f"{server.address}/a.tif") as slide:
            write_pyramid(path, [255 - noise(1024, 1024, 3)], compression=None, tile=(256, 256))
            os.utime(path, (1e9, 1e9))
            with pytest.raises(SlideError, match="changed on the server"):
                slide.read_region(0, 0, 0, 1024, 1024, strict=True)
            write_pyramid(path, [noise(1024, 1024, 3)], compression=None, tile=(256, 256))
        with open_slide(f"{server.address}/a.tif") as slide:
            np.testing.assert_array_equal(
                slide.read_region(0, 0, 0, 1024, 1024, strict=True), noise(1024, 1024, 3)
            )


def test_a_server_that_states_no_version_is_remarked_and_nothing_is_kept(root: Path) -> None:
    path = write_pyramid(root / "a.tif", _LEVELS)
    with serve(root) as server:
        server.headers = {"ETag": "", "Last-Modified": ""}
        with open_slide(f"{server.address}/a.tif") as slide:
            assert any("no version" in remark for remark in slide.remarks)
            slide.read_region(0, 0, 0, 900, 700, strict=True)
        size = path.stat().st_size
        other = [255 - level for level in _LEVELS]
        write_pyramid(path, other)
        assert abs(path.stat().st_size - size) < size
        with open_slide(f"{server.address}/a.tif") as slide:
            np.testing.assert_array_equal(slide.read_region(0, 0, 0, 900, 700), other[0])


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://x/", "//"])
def test_no_redirect_leads_off_the_web(root: Path, place: str) -> None:
    def away(handler: Served) -> bool:
        handler.answer(302, b"", {"Location": place})
        return True

    with serve(root, away) as server, pytest.raises(SlideError, match=r"sends on|connection"):
        open_slide(f"{server.address}/a.tif")


def test_a_password_is_not_taken_to_another_server(root: Path) -> None:
    write_pyramid(root / "a.tif", _LEVELS)
    with serve(root) as other:

        def away(handler: Served) -> bool:
            handler.answer(307, b"", {"Location": f"{other.address}/a.tif"})
            return True

        with serve(root, away) as server:
            address = server.address.replace("http://", "http://jane:hunter2@") + "/a.tif"
            with open_slide(address) as slide:
                np.testing.assert_array_equal(slide.read_region(0, 0, 0, 900, 700), _LEVELS[0])
            assert all("Authorization" in headers for _, headers in server.asked)
        assert other.asked
        assert not any("Authorization" in headers for _, headers in other.asked)


def test_only_what_the_user_named_is_asked_for(root: Path, tmp_path: Path) -> None:
    """A file that looks like a stand-in but lies elsewhere makes no request."""
    write_pyramid(root / "a.tif", _LEVELS)
    with serve(root) as server:
        planted = tmp_path / "downloads" / "x" / "a.tif"
        planted.parent.mkdir(parents=True)
        planted.write_text(json.dumps({"address": f"{server.address}/a.tif"}))
        with pytest.raises(SlideError):
            open_slide(planted)
        assert not server.asked


@pytest.mark.parametrize(
    "text",
    [
        "https://",
        "http://[",
        "s3://",
        "http://a b/c",
        "https://x:99999/a",
        "http://" + "a" * 9000,
    ],
)
def test_what_is_no_address_is_one_sentence(text: str) -> None:
    with pytest.raises(SlideError):
        open_slide(text)


def test_what_chooses_the_slide_is_not_taken_for_a_signature() -> None:
    def same(one: str, other: str) -> bool:
        return addresses.stand_in(one) == addresses.stand_in(other)

    assert same("https://h/a.svs?sv=1&sig=A&se=9", "https://h/a.svs?sv=1&sig=B&se=10")
    assert not same("https://h/get?token=1", "https://h/get?token=2")
    assert not same("https://h/get?sp=1", "https://h/get?sp=2")
    assert not same("https://h/a.svs", "http://h/a.svs")
    assert not same("s3://b/a.svs#1", "s3://b/a.svs#2")
    assert same("https://jane:pw@h/a.svs", "https://H/a.svs#part")


def test_a_file_written_a_moment_ago_is_not_kept_by_its_time_alone() -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
    assert remote.Version("", "Thu, 01 Jan 2026 00:01:00 GMT", 9).is_firm(now)
    assert not remote.Version("", "Thu, 01 Jan 2026 00:04:30 GMT", 9).is_firm(now)
    assert not remote.Version('W/"1"', "", 9).is_firm(now)
    assert remote.Version('"1"', "", 9).is_firm(None)


@pytest.mark.parametrize("text", ["/data/a.svs", "a.svs", "C:\\a.svs", "https_notes/a.svs", "s3/a"])
def test_a_path_is_no_address(text: str) -> None:
    assert not addresses.is_address(text)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_over_http(root: Path, version: str) -> None:
    pytest.importorskip("zarr", reason="the extra zarr is not installed")
    from tests.slide.test_zarr import colours, write

    levels = colours()
    write(root / "a.zarr", levels, version=version)
    for path in (root / "a.zarr").rglob("*"):
        os.utime(path, (1e9, 1e9))
    with serve(root) as server:
        with open_slide(f"{server.address}/a.zarr/") as slide, open_slide(root / "a.zarr") as same:
            assert slide.fingerprint == same.fingerprint
            for index, level in enumerate(levels):
                height, width = level.shape[1:]
                found = slide.read_region(0, 0, index, width, height, strict=True)
                np.testing.assert_array_equal(found, level.transpose(1, 2, 0))
        with open_slide(f"{server.address}/a.zarr") as slide:
            for path in (root / "a.zarr").rglob("*"):  # written again while it is open
                os.utime(path, (4e9, 4e9))
            with pytest.raises(SlideError, match="changed on the server"):
                slide.read_region(0, 0, 0, 420, 300, strict=True)
        with pytest.raises(SlideError, match="neither a file nor"):
            open_slide(f"{server.address}/none.zarr")


def test_a_bucket_is_read_with_the_configured_keys(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("botocore", reason="the extra remote is not installed")
    (root / "bucket" / "case 1").mkdir(parents=True)
    write_svs(root / "bucket" / "case 1" / "a.svs", _LEVELS)
    with serve(root) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with (
            open_slide("s3://bucket/case 1/a.svs") as slide,
            open_slide(root / "bucket" / "case 1" / "a.svs") as same,
        ):
            assert slide.fingerprint == same.fingerprint
            np.testing.assert_array_equal(
                slide.read_region(0, 0, 0, 900, 700, strict=True),
                same.read_region(0, 0, 0, 900, 700, strict=True),
            )
            assert "AWS4-HMAC-SHA256" in server.asked[0][1]["Authorization"]
        with open_slide("s3://bucket/case 1/a.svs") as slide:
            write_svs(root / "bucket" / "case 1" / "a.svs", _LEVELS[::-1])
            for key in list((addresses.folder() / "blocks").rglob("*")):
                if key.is_file():
                    key.unlink()
            slide._backend.stored._memory.clear()  # type: ignore[attr-defined]
            with pytest.raises(SlideError, match="changed on the server"):
                slide.read_region(0, 0, 0, 900, 700, strict=True)
        with pytest.raises(SlideError, match="neither a file nor"):
            open_slide("s3://bucket/none.svs")


def test_threads_share_one_slide(root: Path) -> None:
    write_pyramid(root / "a.tif", [noise(1024, 1024, 3)], compression=None, tile=(64, 64))
    wrong: list[Any] = []
    with serve(root) as server, open_slide(f"{server.address}/a.tif") as slide:

        def read(corner: int) -> None:
            found = slide.read_region(corner, 0, 0, 200, 1024, strict=True)
            if not np.array_equal(found, noise(1024, 1024, 3)[:, corner : corner + 200]):
                wrong.append(corner)

        threads = [threading.Thread(target=read, args=(100 * i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_cohort_takes_addresses_beside_files(root: Path, tmp_path: Path) -> None:
    write_svs(root / "a.svs", _LEVELS)
    listed = tmp_path / "list.csv"
    listed.write_text("slide,label\nhttps://server.example/b.svs?X-Amz-Signature=S,tumour\n")
    slides = find_slides(["https://server.example/a.svs", str(root), str(listed)])
    assert [one.path.name for one in slides] == ["a.svs", "a.svs", "b.svs"]
    assert addresses.address_of(slides[0].path) == "https://server.example/a.svs"
    assert slides[2].label == "tumour"


def test_the_command_line_takes_an_address(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """`extract` has workers, records and tables: in none of them is the secret."""
    from napari_2dmamba.cli import main
    from tests.slide.painted import picture, piece

    tissue = picture((piece(500, 700, 300, 0), (190, 120, 170)))
    write_pyramid(root / "a.tif", [tissue], mpp=0.5)
    with serve(root) as server:
        address = server.address.replace("http://", "http://jane:hunter2@")
        code = main([
            "extract", f"{address}/a.tif?X-Amz-Signature=SIGNED&x-amz-security-token=T0K3N",
            "--out", str(tmp_path / "runs"), "--json",
        ])  # fmt: skip
    printed = capfd.readouterr()
    assert code == 0, printed
    assert next((tmp_path / "runs").rglob("*.h5")).parent.name.startswith("a")
    written = [p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    said = "\n".join([*printed, caplog.text, *(data.decode("latin-1") for data in written)])
    assert not any(secret in said for secret in _SECRETS)


def test_logs_lose_what_signs_an_address() -> None:
    from napari_2dmamba.redaction import without_people_and_secrets

    said = without_people_and_secrets(
        "GET https://jane:hunter2@host/a.svs?X-Amz-Signature=SIGNED&t=T0K3N failed"
    )
    assert not any(secret in said for secret in _SECRETS)
