"""One training in several processes, on the CPU; its truth is the same training in one.

Helpers are started as users have them in the tests of the command line and of a script, and in
those of GPUs; in the others they are forks, which spares each its imports (`born_warm`).
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from napari_2dmamba.cli import main
from napari_2dmamba.errors import BackendError, Cancelled, FeatureError, TrainingError
from napari_2dmamba.models import Aggregator, load_checkpoint
from napari_2dmamba.tasks import LabelledBag
from napari_2dmamba.training import Epoch, FitSettings, Step, fit
from napari_2dmamba.training.processes import devices_of
from tests.training.born_warm import _nursery, born_warm, helpers_of  # noqa: F401
from tests.training.test_fitting import QUICK, bags, untrained, weights
from tests.training.test_run import cohort

UNEVEN = replace(QUICK, accumulate=5, precision="64", weight_decay=0.01, clip=1.0)
"""Thirteen bags make lots of 5, 5 and 3."""


def with_times(examples: list[LabelledBag]) -> list[LabelledBag]:
    return [
        replace(one, label=number % 3, time=1.0 + number * 7 % 13, censored=number % 4 == 1)
        for number, one in enumerate(examples)
    ]


CASES: dict[str, dict[str, Any]] = {
    "classes weighted, dropout": {"settings": {"class_weights": True}, "devices": 2},
    "second loss": {"name": "clam", "settings": {"auxiliary_weight": 0.4}, "devices": 3},
    # CLAM's second classifiers have no gradient for survival, and must not decay
    "likelihood": {
        "name": "clam", "task": "survival", "outputs": 3, "settings": {}, "devices": 2,
    },
    # Not Adam: a bias without effect has a gradient of 0 in theory, and Adam divides its noise
    # by 1e-8
    "cox": {
        "task": "survival", "outputs": 1, "devices": 3,
        "settings": {"survival_loss": "cox", "optimiser": "sgd"},
    },
    "scan": {
        "name": "2dmamba", "settings": {"order": "balanced", "optimiser": "sgd"}, "devices": 2,
    },
}  # fmt: skip


@pytest.mark.usefixtures("born_warm")
@pytest.mark.parametrize("case", CASES)
def test_several_processes_fit_the_model_of_one(case: str) -> None:
    compare_with_one(CASES[case], "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
@pytest.mark.parametrize("case", ["classes weighted, dropout", "cox"])
def test_two_gpus_fit_the_model_of_one(case: str) -> None:
    compare_with_one(CASES[case] | {"devices": 2}, "cuda")


def compare_with_one(told: dict[str, Any], device: str) -> None:
    task = told.get("task", "classification")
    training, validation = bags(13, 1)[3:] + bags(3, 5), bags(5, 2)
    if task == "survival":
        training, validation = with_times(training), with_times(validation)
    found = []
    for devices in (1, told["devices"]):
        aggregator = untrained(task, told.get("outputs", 2), told.get("name", "abmil"))
        steps: list[Step] = []
        last: list[np.ndarray] = []

        def watch(step: Step, steps: list[Step] = steps, last: list[np.ndarray] = last,
                  aggregator: Aggregator = aggregator) -> None:  # fmt: skip
            steps.append(step)
            last[:] = [weights(aggregator).cpu().numpy()]

        threads = torch.get_num_threads()
        result = fit(
            aggregator, training, validation,
            replace(UNEVEN, device=device, devices=devices, **told["settings"]), on_step=watch,
        )  # fmt: skip
        assert torch.get_num_threads() == threads
        assert ("added up by" in " ".join(result.remarks)) == (devices > 1)
        assert not helpers_of(psutil.Process())
        found.append((last[0], steps, result.history))
    (one, first, history), (several, steps, told_history) = found
    np.testing.assert_allclose(several, one, rtol=1e-10, atol=1e-10)
    for a, b in zip(first, steps, strict=True):
        assert (a.number, a.epoch, a.name, a.stepped) == (b.number, b.epoch, b.name, b.stepped)
        np.testing.assert_allclose(b.logits.cpu(), a.logits.cpu(), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(b.loss, a.loss, rtol=1e-10)
    for a, b in zip(history, told_history, strict=True):
        for name in ("training_loss", "validation_loss", "validation_score"):
            np.testing.assert_allclose(getattr(b, name), getattr(a, name), rtol=1e-10)


@pytest.mark.usefixtures("born_warm")
def test_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    settings = replace(UNEVEN, devices=2, precision="32")

    def run(state: Path, stop_after: int) -> torch.Tensor:
        aggregator = untrained()
        done: list[Epoch] = []
        fit(
            aggregator, bags(9, 1), bags(3, 2), settings, state_file=state, on_epoch=done.append,
            should_stop=lambda: len(done) == stop_after,
        )  # fmt: skip
        return weights(aggregator)

    whole = run(tmp_path / "whole.pt", 9)
    with pytest.raises(Cancelled):
        run(tmp_path / "cut.pt", 1)
    assert not helpers_of(psutil.Process())
    assert torch.equal(run(tmp_path / "cut.pt", 9), whole)


@pytest.mark.usefixtures("born_warm")
def test_what_goes_wrong_in_another_process_is_the_sentence_of_one() -> None:
    broken = bags(6, 1)
    features = broken[3].bag.features.copy()
    features[0, 0] = np.nan
    broken[3] = replace(broken[3], bag=replace(broken[3].bag, features=features))
    told = []
    for devices in (1, 2):
        with pytest.raises(FeatureError, match="slide slide 3: the features of 1 of 10") as caught:
            fit(untrained(), broken, settings=replace(UNEVEN, order="given", devices=devices))
        told.append(str(caught.value))
    assert told[0] == told[1]


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
@pytest.mark.usefixtures("born_warm")
def test_a_process_that_is_killed_ends_the_training() -> None:
    aggregator = untrained()
    before = weights(aggregator)

    def kill(step: Step) -> None:
        if step.number == 2:
            for helper in helpers_of(psutil.Process()):
                helper.send_signal(signal.SIGKILL)

    with pytest.raises(TrainingError, match=r"process 2 of 2 \(cpu\) of this training was killed"):
        fit(aggregator, bags(9, 1), settings=replace(UNEVEN, devices=2), on_step=kill)
    assert torch.equal(weights(aggregator), before)  # of the best epoch so far: the first weights


_UNGUARDED = """
import sys, threading
print("begun", flush=True)
from dataclasses import replace
from tests.training.test_processes import UNEVEN, Epoch, bags, fit, helpers_of, untrained
import psutil

def tell(epoch):
    print(*[helper.pid for helper in helpers_of(psutil.Process())], flush=True)

thread = threading.Thread(target=fit, args=(untrained(), bags(9, 1)), kwargs={
    "settings": replace(UNEVEN, devices=2, epochs=10**6), "on_epoch": tell})
thread.start()
thread.join()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_from_a_thread_of_a_script_and_gone_with_it(tmp_path: Path) -> None:
    """The script has no guard of its main part, which runs once; killed, it leaves nobody."""
    script = tmp_path / "script.py"
    script.write_text(_UNGUARDED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        helper = psutil.Process(int(process.stdout.readline()))
        process.kill()
        psutil.wait_procs([helper], timeout=10)
        assert not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE
        assert "begun" not in process.stdout.read()


@pytest.mark.usefixtures("born_warm")
def test_a_cancel_is_heard_within_a_bag() -> None:
    steps: list[Step] = []
    heard = []

    def stop() -> bool:
        if len(steps) < 7:
            return False
        heard.append(time.monotonic())
        return True

    with pytest.raises(Cancelled):
        fit(
            untrained(), bags(9, 1), settings=replace(UNEVEN, devices=2), on_step=steps.append,
            should_stop=stop,
        )  # fmt: skip
    assert len(steps) == 7
    assert len(heard) == 1
    assert not helpers_of(psutil.Process())


def test_devices_that_are_not_there_are_refused() -> None:
    two, three = (FitSettings(devices=count) for count in (2, 3))
    assert devices_of(FitSettings(), "cuda:1", 4) == ("cuda:1",)
    assert devices_of(three, "cuda:1", 4) == ("cuda:1", "cuda:0", "cuda:2")
    assert devices_of(replace(two, device="cpu"), "cpu", 0) == ("cpu", "cpu")
    with pytest.raises(BackendError, match="3 devices were asked for, but this process sees 2 GPU"):
        devices_of(three, "cuda:0", 2)
    with pytest.raises(BackendError, match="no CUDA device was found; choose device cpu"):
        devices_of(two, "cpu", 0)


@pytest.mark.parametrize(("count", "accumulate", "most"), [(9, 1, 1), (2, 8, 2)])
def test_devices_without_a_bag_in_a_lot_are_refused(count: int, accumulate: int, most: int) -> None:
    settings = replace(QUICK, devices=3, accumulate=accumulate)
    with pytest.raises(TrainingError, match=f"3 devices cannot share a lot .* at most {most}"):
        fit(untrained(), bags(count, 1), settings=settings)


@pytest.mark.usefixtures("born_warm")
def test_a_model_that_no_other_process_can_import_is_refused() -> None:
    aggregator = untrained()

    class Local(type(aggregator.model)):  # type: ignore[misc]
        pass

    aggregator.model.__class__ = Local
    with pytest.raises(TrainingError, match="cannot be handed to the processes of other devices"):
        fit(aggregator, bags(9, 1), settings=replace(UNEVEN, devices=2))
    assert not helpers_of(psutil.Process())


class Counting(torch.nn.Module):
    """Keeps count of its calls, as layers with running statistics do."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
        return self.inner(x)


@pytest.mark.usefixtures("born_warm")
def test_running_statistics_are_refused() -> None:
    aggregator = untrained()
    name, part = next(
        (n, m) for n, m in aggregator.model.named_modules() if isinstance(m, torch.nn.Linear)
    )
    aggregator.model.set_submodule(name, Counting(part))
    fit(aggregator, bags(9, 1), settings=replace(UNEVEN, epochs=1))
    with pytest.raises(TrainingError, match="keeps running statistics"):
        fit(aggregator, bags(9, 1), settings=replace(UNEVEN, devices=2))


@dataclass(frozen=True)
class Unlucky:
    """A bag whose features cannot be had, for a reason that nobody foresaw."""

    label: int = 0
    name: str = "slide 3"

    @property
    def bag(self) -> Any:
        raise ZeroDivisionError("by nobody")


@pytest.mark.usefixtures("born_warm")
def test_what_nobody_foresaw_is_a_sentence_with_the_slide() -> None:
    examples: list[Any] = bags(6, 1)
    examples[3] = Unlucky()
    says = r"process 2 of this training \(cpu\) failed at slide slide 3 \(ZeroDivisionError"
    with pytest.raises(TrainingError, match=says):
        fit(untrained(), examples, settings=replace(UNEVEN, order="given", devices=2))


def test_the_whole_way_from_the_command_line(tmp_path: Path, capsys) -> None:
    """Helpers read their bags themselves, from paths as the user gave them."""
    table = cohort(tmp_path, 8)
    for devices in (1, 2):
        command = [
            "train", str(table), "--out", str(tmp_path / str(devices)), "--method", "held-out",
            "--architecture", "abmil", "--epochs", "2", "--accumulate", "4", "--device", "cpu",
            "--model-option", "hidden=8", "--model-option", "attention_hidden=4", "--no-final",
            "--resamples", "0", "--precision", "64", "--log", "none", "--devices", str(devices),
        ]  # fmt: skip
        assert main(command) == 0
    one, two = (
        load_checkpoint(tmp_path / str(devices) / "fold-0" / "model.safetensors")
        for devices in (1, 2)
    )
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], value, rtol=1e-6, atol=1e-7)
    assert two.header.training["settings"]["devices"] == 2
    assert "those of one device up to rounding" in " ".join(two.header.training["remarks"])
    assert main([*command, "--devices", "3"]) == 1
    assert "training with other settings" in capsys.readouterr().err
