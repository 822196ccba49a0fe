"""Epochs in the logs of other programs: right, and without names."""

import shutil
from pathlib import Path

import pytest

from napari_2dmamba.errors import TrainingError
from napari_2dmamba.training import Epoch
from napari_2dmamba.training.logs import available_logs, open_logs

EPOCHS = [Epoch(n, 1.0 / (n + 1), None if n == 0 else 0.5, 1e-3, 0.1) for n in range(3)]
RECORD = {
    "architecture": "abmil", "preset": "recommended", "settings": {"epochs": 3},
    "table": "a-hash", "class_names": {"x": "Smith"}, "counts": "4 slides of 2 patients",
}  # fmt: skip


def written(name: str, folder: Path) -> None:
    with open_logs((name,), folder, "fold 0", RECORD) as log:
        for epoch in EPOCHS[:2]:
            log(epoch)


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is an extra"
    )
    written("tensorboard", tmp_path)
    with open_logs(("tensorboard",), tmp_path, "fold 0", RECORD) as log:
        log(EPOCHS[1])  # again, after a cut
        log(EPOCHS[2])
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "fold-0"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("training_loss")] == [
        (n, pytest.approx(1 / (n + 1))) for n in range(3)
    ]
    assert [event.step for event in found.Scalars("validation_loss")] == [1, 2]
    for file in (tmp_path / "tensorboard").rglob("*events*"):
        assert b"Smith" not in file.read_bytes()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is an extra")
    says = "a log in .* cannot be written .*the same call goes on"

    def cut_off() -> None:
        with open_logs(("tensorboard",), tmp_path, "fold 0", RECORD) as log:
            log(EPOCHS[0])
            shutil.rmtree(tmp_path / "tensorboard")
            for epoch in EPOCHS[1:]:
                log(epoch)

    with pytest.raises(TrainingError, match=says):
        cut_off()
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(TrainingError, match=says):
        written("tensorboard", tmp_path)


def test_logs_that_are_not_there() -> None:
    with pytest.raises(TrainingError, match="no log 'paper'"):
        available_logs(["paper"])
    assert available_logs([]) == ()
    assert set(available_logs(None)) <= {"tensorboard"}
