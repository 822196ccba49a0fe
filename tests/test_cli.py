import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from napari_2dmamba import doctor
from napari_2dmamba.cli import main
from napari_2dmamba.cli import view as view_module
from napari_2dmamba.cli.exit_codes import FAILED, INTERRUPTED, OK
from napari_2dmamba.cli.main import COMMANDS
from tests.material import SHARED, shared
from tests.tiny import write_checkpoint, write_slide

BROKEN = sorted((SHARED / "slides" / "broken").glob("*")) if SHARED.exists() else []


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slide") / "tiny.tif")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_run_and_export(
    slide: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    assert (
        main(["run", str(slide), "--checkpoint", str(checkpoint), "--out", str(out), "--json"])
        == OK
    )
    (answer,) = lines(capsys.readouterr().out)
    assert answer["slide"] == "tiny.tif"
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert Path(answer["folder"]) == out / "tiny"
    assert main(["export", str(out / "tiny"), "--json"]) == OK
    (exported,) = lines(capsys.readouterr().out)
    suffixes = [Path(file).name.split("tiny-")[1] for file in exported["files"]]
    assert suffixes == [
        "attention.png",
        "attention-overlay.ome.tif",
        "attention.ome.tif",
        "patches.geojson",
        "patches.csv",
        "patches.parquet",
        "record.json",
    ]
    assert all(Path(file).stat().st_size > 100 for file in exported["files"])


def test_one_bad_slide_does_not_stop_the_rest(
    slide: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, odd = tmp_path / "bad.svs", tmp_path / "odd.tif"
    bad.write_bytes(b"")
    odd.write_bytes(slide.read_bytes())
    grey = np.full((288, 352), 200, np.uint8)
    tifffile.imwrite(odd, grey, append=True, subfiletype=1, tile=(64, 64), metadata=None)
    code = main(
        ["run", str(bad), str(odd), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "o")]
    )
    said = capsys.readouterr()
    assert code == FAILED
    assert "bad.svs is empty (0 bytes)" in said.err
    assert "1 of 2 slides failed" in said.err
    assert "malignant" in said.out
    assert "odd.tif: a level of the file (352 x 288 pixels) is left out" in said.out
    assert "is left out" in (tmp_path / "o" / "summary.csv").read_text()


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.name)
def test_a_broken_slide_is_one_sentence(
    path: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main(["run", str(path), "--checkpoint", str(checkpoint), "--out", str(tmp_path)])
    said = capfd.readouterr()
    assert code == FAILED
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert path.name in said.err
    assert "Traceback" not in said.err


def test_extract_writes_features_others_can_read(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import h5py

    arguments = ["extract", str(slide), "--patch-size", "64", "--out", str(tmp_path), "--json"]
    assert main(arguments) == OK
    (answer,) = lines(capsys.readouterr().out)
    with h5py.File(answer["file"]) as file:
        assert file["features"].shape == (answer["patches"], answer["feature_size"])
        assert file["coords"].attrs["patch_size_level0"] == 64


def test_a_value_out_of_range_ends_with_usage(
    slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["extract", str(slide), "--min-tissue", "2"])
    assert end.value.code == 2
    assert "min_tissue is 2.0, but must be at most 1.0" in capsys.readouterr().err


def test_a_checkpoint_that_is_none_is_one_sentence(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "model.safetensors"
    page.write_text("<html>log in</html>")
    assert main(["run", str(slide), "--checkpoint", str(page)]) == FAILED
    assert "model.safetensors is a web page" in capsys.readouterr().err


def test_interrupting_keeps_finished_batches(slide: Path, tmp_path: Path) -> None:
    arguments = ["extract", str(slide), "--patch-size", "32", "--out", str(tmp_path)]
    arguments += [
        "--batch-size",
        "1",
        "--threads",
        "1",
    ]  # time to interrupt it
    command = [sys.executable, "-m", "napari_2dmamba.cli", *arguments]
    # a shell tells the children of its background jobs to ignore interrupts
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("tiny/*.journal")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED
    assert said == "napari-2dmamba: stopped; what was finished is kept\n"
    assert not list(tmp_path.glob("tiny/*.h5"))
    assert main(arguments) == OK


def test_doctor_reports_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    findings = {f["subject"]: f for f in json.loads(capsys.readouterr().out)}
    assert findings["torch"]["state"] == "ok"
    assert findings["2D scan on the CPU"]["found"].split(":")[0] in ("cpu", "definition")


def test_doctor_says_how_to_add_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor, "has_nvidia_driver", lambda: False)
    assert doctor.how_to_use_the_gpu() == ""
    monkeypatch.setattr(doctor, "has_nvidia_driver", lambda: True)
    advice = doctor.how_to_use_the_gpu()
    assert f"torch=={torch.__version__.partition('+')[0]}" in advice
    assert f'"{sys.executable}" -m pip install' in advice
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert doctor.how_to_use_the_gpu() == ""


def test_a_saved_run_is_known_by_its_record(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    record = tmp_path / "run" / "run.json"
    record.touch()
    slide = tmp_path / "run.svs"
    told = view_module._told_apart([slide, record, tmp_path / "run"], None)
    assert told == ([slide], [record, tmp_path / "run"])
    assert view_module._told_apart([slide], record) == ([slide], [record])


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_parser(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: napari-2dmamba {name} ")


def test_an_option_of_no_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--no-such-option"])
    assert ended.value.code == 2
    assert "--no-such-option" in capsys.readouterr().err


def test_without_a_screen_no_arguments_print_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform in ("win32", "darwin"):
        pytest.skip("there is always a screen, and the viewer would open")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert main([]) == OK
    assert "napari-2dmamba SLIDE..." in capsys.readouterr().out


def test_the_real_slide_runs_from_the_command_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shared("slides/he/CMU-1-Small-Region.svs")
    arguments = ["run", str(path), "--checkpoint", str(checkpoint), "--out", str(tmp_path)]
    assert main([*arguments, "--json"]) == OK
    (answer,) = lines(capsys.readouterr().out)
    assert 500 < answer["patches"] <= 46 * 35


def test_logging_is_left_as_it_was() -> None:
    remarks = logging.getLogger("napari_2dmamba.slide")
    before = remarks.level
    assert main(["export", "no-such-run"]) == FAILED
    assert remarks.level == before
