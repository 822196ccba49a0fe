import threading
import time
from pathlib import Path
from typing import Any

import pytest

from napari_2dmamba import last_net
from napari_2dmamba.errors import Cancelled, SlideError
from napari_2dmamba.plugin.parts.jobs import Job, LatestJob
from tests.plugin.conftest import LONG


def test_the_result_arrives_in_the_gui_thread(qtbot: Any) -> None:
    threads = {}

    def task(progress: Any, stop: Any) -> int:
        threads["task"] = threading.current_thread()
        return 42

    job = Job(task)
    got: list[Any] = []
    job.succeeded.connect(lambda value: got.append((value, threading.current_thread())))
    with qtbot.waitSignal(job.finished, timeout=LONG):
        job.start()
    assert got == [(42, threading.main_thread())]
    assert threads["task"] is not threading.main_thread()
    assert not job.is_running


def test_progress_is_throttled_but_stages_and_ends_get_through(qtbot: Any) -> None:
    def task(progress: Any, stop: Any) -> None:
        progress(0, 0, "stage one")
        for done in range(1, 1001):
            progress(done, 1000, f"{done} patches/s")

    job = Job(task)
    seen: list[tuple[int, int, str]] = []
    job.progressed.connect(lambda *report: seen.append(report))
    with qtbot.waitSignal(job.finished, timeout=LONG):
        job.start()
    assert seen[0] == (0, 0, "stage one")
    assert seen[-1] == (1000, 1000, "1000 patches/s")
    assert len(seen) < 100


def test_an_error_becomes_its_sentence(qtbot: Any) -> None:
    def task(progress: Any, stop: Any) -> None:
        raise SlideError("x.svs is damaged; copy it again")

    job = Job(task)
    with qtbot.waitSignal(job.failed, timeout=LONG) as failed:
        job.start()
    assert failed.args == ["x.svs is damaged; copy it again"]


def test_an_unforeseen_error_is_a_sentence_with_a_log(
    qtbot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(last_net, "log_folder", lambda: tmp_path)

    def task(progress: Any, stop: Any) -> None:
        raise KeyError("oops")

    job = Job(task)
    with qtbot.waitSignal(job.failed, timeout=LONG) as failed:
        job.start()
    (sentence,) = failed.args
    (log,) = tmp_path.glob("error-*.log")
    assert "KeyError" in sentence
    assert str(log) in sentence
    assert "in task" in log.read_text()
    assert "Traceback" not in sentence + "".join(capfd.readouterr())


def test_cancelling(qtbot: Any) -> None:
    def task(progress: Any, stop: Any) -> None:
        while not stop():
            time.sleep(0.005)
        raise Cancelled

    job = Job(task)
    ends: list[str] = []
    job.succeeded.connect(lambda _: ends.append("succeeded"))
    job.cancelled.connect(lambda: ends.append("cancelled"))
    job.start()
    with qtbot.waitSignal(job.finished, timeout=LONG):
        job.cancel()
    assert ends == ["cancelled"]


def test_a_result_that_comes_after_cancelling_is_dropped(qtbot: Any) -> None:
    go = threading.Event()
    job = Job(lambda progress, stop: go.wait(5))
    ends: list[str] = []
    job.succeeded.connect(lambda _: ends.append("succeeded"))
    job.cancelled.connect(lambda: ends.append("cancelled"))
    job.start()
    job.cancel()
    with qtbot.waitSignal(job.finished, timeout=LONG):
        go.set()
    assert ends == ["cancelled"]


def test_only_the_newest_request_is_delivered(qtbot: Any) -> None:
    latest = LatestJob(delay_ms=10)
    got: list[int] = []
    latest.succeeded.connect(got.append)
    begun = threading.Event()

    def slow(progress: Any, stop: Any) -> int:
        begun.set()
        while not stop():
            time.sleep(0.005)
        return 1

    latest.request(slow)
    qtbot.waitUntil(begun.is_set, timeout=LONG)
    latest.request(lambda progress, stop: 2)
    latest.request(lambda progress, stop: 3)
    qtbot.waitUntil(lambda: not latest.is_busy, timeout=LONG)
    assert got == [3]


def test_a_cancelled_request_never_arrives(qtbot: Any) -> None:
    latest = LatestJob(delay_ms=10)
    got: list[int] = []
    latest.succeeded.connect(got.append)
    latest.request(lambda progress, stop: 1)
    latest.cancel()
    qtbot.wait(60)
    assert got == []
    assert not latest.is_busy
