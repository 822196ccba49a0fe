"""A crash in compiled code leaves a log without names, and the next start says where."""

import faulthandler
import subprocess
import sys
from pathlib import Path

import pytest

from napari_2dmamba import crash_log, last_net

CRASHES = """
import ctypes, sys
sys.path.insert(0, {here!r})
from napari_2dmamba import crash_log, last_net
from pathlib import Path
crash_log.log_folder = lambda: Path({logs!r})
import secret_case_Mustermann
with crash_log.crashes_logged():
    secret_case_Mustermann.call(lambda: ctypes.string_at(0) if {crash} else None)
"""


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "logs"
    for module in (crash_log, last_net):
        monkeypatch.setattr(module, "log_folder", lambda: folder)
    crash_log.sentence_for_last_crash.cache_clear()
    yield folder
    crash_log.sentence_for_last_crash.cache_clear()


def in_a_process(logs: Path, crash: bool) -> int:
    here = logs.parent / "Dr Who"
    here.mkdir(exist_ok=True)
    (here / "secret_case_Mustermann.py").write_text("def call(function):\n    function()\n")
    program = CRASHES.format(here=str(here), logs=str(logs), crash=crash)
    return subprocess.run([sys.executable, "-c", program], check=False).returncode


def test_a_crash_is_told_once_and_the_log_names_nobody(logs: Path) -> None:
    assert in_a_process(logs, crash=True) != 0
    said = crash_log.sentence_for_last_crash()
    (log,) = logs.glob("*")
    assert str(log) in said
    text = log.read_text()
    assert text.startswith("napari-2dmamba ")
    assert "ctypes.__init__, line" in text
    assert "a module elsewhere, line 2 in call" in text
    assert "Mustermann" not in text
    assert "Dr Who" not in text
    assert crash_log.sentence_for_last_crash() == said  # the window says it too
    crash_log.sentence_for_last_crash.cache_clear()
    assert crash_log.sentence_for_last_crash() == ""


def test_an_ordinary_end_leaves_nothing(logs: Path) -> None:
    assert in_a_process(logs, crash=False) == 0
    assert list(logs.glob("*")) == []


def test_a_process_that_still_runs_has_not_crashed(logs: Path) -> None:
    logs.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (logs / f"crash-{other.pid}.txt").write_text("Fatal Python error\n")
        assert crash_log.sentence_for_last_crash() == ""
        assert len(list(logs.glob("crash-*"))) == 1
        other.communicate(b"\n")


def test_no_folder_for_logs_is_no_reason_to_fail(logs: Path) -> None:
    logs.write_text("a file")
    was_on = faulthandler.is_enabled()
    faulthandler.disable()
    try:
        with crash_log.crashes_logged():
            assert not faulthandler.is_enabled()
    finally:
        if was_on:
            faulthandler.enable()
    assert crash_log.sentence_for_last_crash() == ""
