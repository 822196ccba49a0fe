"""One training on several devices: the bags of a lot are shared out among processes.

The calling process is number 0 and owns everything that changes: weights, optimiser, state file.
The others, a helper for each further device, are given the weights at the start of a lot and give
back the gradient of their bags. Position i of a lot belongs to process i modulo their number, and
gradients are added in the order of the processes, so that nothing depends on who is faster.

They talk over the pipes of a started program: no port of the machine is opened, nothing in the
calling process is changed for others in it (a viewer, a second training), a process that dies is
seen at once on its pipe, and GPUs take the path that is tested on CPUs. Weights and gradients pass
through the memory of the machine, which for models of slides is a few megabytes a lot. Helpers are
started as programs of their own rather than by `multiprocessing`, which would run the user's
script once more in each.
"""

import contextlib
import copy
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from napari_2dmamba.errors import BackendError, TrainingError
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.tasks.bags import LabelledBag
from napari_2dmamba.training.learner import Answer, Gradient, Learner
from napari_2dmamba.training.settings import FitSettings

_PROGRAM = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from napari_2dmamba.training.helper import help_in_training; help_in_training()"
)
_SECONDS_TO_END = 5.0


def devices_of(settings: FitSettings, first: str, gpus: int) -> tuple[str, ...]:
    """Return the device of each process, the calling one's first.

    Parameters
    ----------
    settings
        Of the training.
    first
        Where the calling process computes, such as ``"cuda:0"``.
    gpus
        How many this process sees.

    Raises
    ------
    BackendError
        When there are not as many.
    """
    count = settings.devices
    if count == 1:
        return (first,)
    if first == "cpu":
        if settings.device != "cpu":
            raise BackendError(
                f"{count} devices were asked for, but no CUDA device was found; choose device cpu "
                "to share the bags among processes there, or 1 device"
            )
        return ("cpu",) * count
    if count > gpus:
        raise BackendError(
            f"{count} devices were asked for, but this process sees {gpus} "
            f"GPU{'s' * (gpus != 1)}; ask for at most as many (CUDA_VISIBLE_DEVICES may hide some)"
        )
    mine = int(first.partition(":")[2] or 0)
    others = [index for index in range(gpus) if index != mine]
    return tuple(f"cuda:{index}" for index in [mine, *others][:count])


def lots(count: int, size: int) -> list[range]:
    """Return the positions of each lot of an epoch; the last lot may be smaller."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def owner(position: int, settings: FitSettings) -> int:
    """Return the number of the process that a position of an epoch belongs to."""
    return position % settings.accumulate % settings.devices


def remarks_on(settings: FitSettings) -> list[str]:
    """Return what several devices do not promise."""
    count, lot = settings.devices, settings.accumulate
    if count == 1:
        return []
    found = [
        f"gradients are added up by {count} devices, so the numbers are those of one device up to "
        "rounding; the same bits twice need as many devices"
    ]
    if lot % count:
        found.append(
            f"lots of {lot} bags do not divide evenly among {count} devices, some of which wait"
        )
    return found


@dataclass(frozen=True)
class Part:
    """What a helper is given at its start.

    Attributes
    ----------
    number
        Its own, from 1.
    device
        Where it computes.
    threads
        Of the CPU, that it may use.
    aggregator, training, validation, settings, class_weights
        As the calling process has them.
    """

    number: int
    device: str
    threads: int
    aggregator: Aggregator
    training: Sequence[LabelledBag]
    validation: Sequence[LabelledBag]
    settings: FitSettings
    class_weights: Tensor | None


@dataclass(frozen=True)
class EpochTask:
    """Learn from your share of the bags, in this order."""

    number: int
    order: list[int]


@dataclass(frozen=True)
class ValidationTask:
    """Say what the model makes of your share of the validation bags."""


@dataclass(frozen=True)
class Failure:
    """What went wrong in a helper."""

    error: Exception


class Helpers:
    """The other processes of a training, as the calling process sees them.

    Parameters
    ----------
    learner
        Of the calling process.
    training, validation
        Bags, which are handed over once; those of a table are read by whoever needs them.
    devices
        Of all processes, the calling one's first; with one there are no helpers.

    Raises
    ------
    TrainingError
        When no process can be started, or model or bags cannot be handed over.
    """

    def __init__(
        self,
        learner: Learner,
        training: Sequence[LabelledBag],
        validation: Sequence[LabelledBag],
        devices: Sequence[str],
    ) -> None:
        self._devices = devices
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads = torch.get_num_threads()
        if len(devices) == 1:
            return
        threads = max(1, self._threads // len(devices))
        if learner.device == "cpu":
            torch.set_num_threads(threads)
        try:
            for _ in devices[1:]:  # all before the first part: each takes seconds to import
                self._processes.append(_started())
                _write(self._processes[-1], list(sys.path))
            handed = _on_cpu(learner.aggregator)
            for number, process in enumerate(self._processes, 1):
                part = Part(
                    number, devices[number], threads, handed, training, validation,
                    learner.settings, learner.class_weights,
                )  # fmt: skip
                _write(process, part)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            self.close()
            raise TrainingError(CANNOT_BE_HANDED_OVER.format(error=error)) from error
        except OSError as error:
            self.close()
            raise TrainingError(
                f"no process can be started for another device ({error.strerror or error}); close "
                "other programs, or train on one device"
            ) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Helpers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the helpers at once; they hold nothing that could be lost."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_END)
        self._processes = []
        if len(self._devices) > 1:
            torch.set_num_threads(self._threads)

    def begin_epoch(self, number: int, order: list[int]) -> None:
        """Say which bags come, and in which order."""
        self._tell(EpochTask(number, order))

    def begin_validation(self, learner: Learner) -> None:
        """Hand out the weights, to be validated."""
        self._tell(ValidationTask())
        self.hand_out_weights(learner)

    def hand_out_weights(self, learner: Learner) -> None:
        """Give every helper the weights of the calling process."""
        if self._processes:
            self._tell(learner.vector())

    def hand_out(self, answers: list[Answer]) -> None:
        """Give every helper the answers of a whole lot, which Cox's loss compares."""
        self._tell([one.on_cpu() for one in answers])

    def answer(self, number: int) -> Answer:
        """Return the next answer of a process.

        Raises
        ------
        UserError
            What went wrong there, or that the process is gone.
        """
        told: Answer = self._next(number)
        return told

    def gradients(self) -> Iterator[Gradient]:
        """Yield the gradient of each helper's share of a lot, in their order."""
        for number in range(1, len(self._processes) + 1):
            gradient: Gradient = self._next(number)
            yield gradient

    def _tell(self, message: Any) -> None:
        for process in self._processes:
            _write(process, message)

    def _next(self, number: int) -> Any:
        process = self._processes[number - 1]
        assert process.stdout is not None
        try:
            told = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise TrainingError(self._epitaph(number, process)) from error
        if isinstance(told, Failure):
            raise told.error
        return told

    def _epitaph(self, number: int, process: "subprocess.Popen[bytes]") -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)
        code = process.returncode
        who = f"process {number + 1} of {len(self._devices)} ({self._devices[number]})"
        what = f"ended with code {code}"
        if code is not None and code < 0:
            what = "was killed, as happens when memory runs out"
            if code != -9:
                what = f"crashed ({signal.Signals(-code).name})"
        return (
            f"{who} of this training {what}; train on fewer devices, or keep fewer features in "
            "memory (memory_mb)"
        )


CANNOT_BE_HANDED_OVER = (
    "the model or its bags cannot be handed to the processes of other devices ({error}); define "
    "their classes in a module that can be imported, or train on one device"
)


def _started() -> "subprocess.Popen[bytes]":
    """Start a helper that waits for its part; Ctrl-C in a terminal does not reach it."""
    more: dict[str, Any] = {}
    if sys.platform == "win32":
        more["creationflags"] = subprocess.CREATE_NO_WINDOW
    else:
        more["start_new_session"] = True
    # -P: what lies in the folder it is started in is not imported
    command = [sys.executable, "-P", "-c", _PROGRAM]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more)


def _write(process: "subprocess.Popen[bytes]", message: Any) -> None:
    assert process.stdin is not None
    # Of a process that is gone, its last message or the lack of one tells more
    with contextlib.suppress(OSError):
        pickle.dump(message, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()


def _on_cpu(aggregator: Aggregator) -> Aggregator:
    """Return a copy that opens no device in the process that unpickles it."""
    return Aggregator(copy.deepcopy(aggregator.model).cpu(), aggregator.header)
