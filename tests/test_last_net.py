"""What nobody foresaw is one sentence and a log without names; escapes steer no terminal."""

import re
import threading
from pathlib import Path

import pytest

from napari_2dmamba import last_net
from napari_2dmamba.cli import main
from napari_2dmamba.cli.output import print_summary
from napari_2dmamba.errors import UserError
from napari_2dmamba.redaction import file_names_only, names_in
from napari_2dmamba.terminal import printable


@pytest.fixture(autouse=True)
def _logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_net, "log_folder", lambda: tmp_path / "logs")


def broken() -> None:
    path = "/home/erika/cases/Mustermann_1954.svs"
    try:
        raise KeyError(path)
    except KeyError as error:
        raise RuntimeError(f"token=hf_abcdefgh1234 in {path} at https://u:pw@host/x") from error


def test_the_command_line_shows_a_sentence_and_no_traceback(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("napari_2dmamba.doctor.examine", broken)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"napari-2dmamba: doctor failed: it is an error in the program \(RuntimeError\); what was "
        r"finished is kept\. Please send .*error-[-\w]+\.log with a report: .*\n",
        said,
    )
    log = next((tmp_path / "logs").glob("*.log")).read_text()
    assert "tests.test_last_net, line" in log
    assert "in broken" in log
    assert "KeyError" in log  # the cause as well
    for secret in ("erika", "Mustermann", "hf_abc", "pw@", "/home"):
        assert secret not in log


def test_a_thread_that_fails_prints_nothing(capfd, monkeypatch, tmp_path) -> None:
    def examine() -> None:
        thread = threading.Thread(target=broken)
        thread.start()
        thread.join()
        raise UserError("a thread failed")

    before = threading.excepthook
    monkeypatch.setattr("napari_2dmamba.doctor.examine", examine)
    assert main(["doctor"]) == 1
    assert capfd.readouterr().err == "napari-2dmamba: a thread failed\n"
    assert "in broken" in next((tmp_path / "logs").glob("*.log")).read_text()
    assert threading.excepthook is before


def test_only_the_newest_logs_are_kept(tmp_path) -> None:
    (tmp_path / "logs").mkdir()
    for number in range(30):
        (tmp_path / "logs" / f"error-2020010{number % 10}-{number:06d}-aa.log").touch()
    last_net.sentence_for(ValueError("x"))
    assert len(list((tmp_path / "logs").iterdir())) == 20


def test_without_a_place_for_the_log_there_is_still_a_sentence(monkeypatch, tmp_path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(last_net, "log_folder", lambda: tmp_path / "file" / "logs")
    assert last_net.sentence_for(MemoryError(), "run").startswith(
        "run failed: the memory of this machine is full"
    )


def test_escapes_in_names_are_shown_and_not_obeyed(capsys) -> None:
    print_summary(
        {"slide": "a\x1b[31m\x9bH\u202egpj", "classes": ["\x07b"], "p": {"\x1b]0;t": 0.5}}
    )
    out = capsys.readouterr().out
    assert out == "slide: a\\x1b[31m\\x9bH\\u202egpj\nclasses: \\x07b\np:\n    0.5000  \\x1b]0;t\n"
    assert printable("two\nlines\tµm/px 10 × 20") == "two\nlines\tµm/px 10 × 20"


def test_a_missing_slide_with_escapes_in_its_name(capsys, tmp_path) -> None:
    assert main(["run", str(tmp_path / "a\x1b[2Jb.svs"), "--out", str(tmp_path / "out")]) != 0
    captured = capsys.readouterr()
    assert "\x1b[2J" not in captured.err + captured.out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/erika/Case 7/a b.svs", "a b.svs"),
        ("see /home/erika/x/y.svs for it", "see y.svs for it"),
        ("timm:local-dir:/mnt/erika/x", "timm:local-dir:x"),
        (r"C:\Users\erika\a.svs", "a.svs"),
        ("~/models/uni.pt", "uni.pt"),
        ("https://huggingface.co/a/b", "https://huggingface.co/a/b"),
        ("0.5 µm/px and/or 1/2", "0.5 µm/px and/or 1/2"),
        ("hf-hub:owner/name", "hf-hub:owner/name"),
        ("/srv/case 12/x.h5 says mpp 0.5 µm/px and/or 3/4", "x.h5 says mpp 0.5 µm/px and/or 3/4"),
        ("/srv/x.h5 is not that of /srv/y.svs", "x.h5 is not that of y.svs"),
        (r"C:\Users\ana\x.svs is no slide", "x.svs is no slide"),
    ],
)
def test_paths_become_names(text: str, expected: str) -> None:
    assert file_names_only(text) == expected
    known = file_names_only("see /mnt/case 12/x y/z", "/mnt/case 12")
    assert known == "see x y/z"
    assert names_in({"a": [text, 1, None]}) == {"a": [expected, 1, None]}
