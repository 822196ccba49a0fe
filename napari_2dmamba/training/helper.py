"""What the process of a further device does: gradients of its share of each lot (`processes`)."""

import contextlib
import os
import pickle
import queue
import sys
import threading
from typing import IO, Any

import torch
from torch import Tensor

from napari_2dmamba.errors import TrainingError, UserError
from napari_2dmamba.tasks.bags import prefetched
from napari_2dmamba.training.determinism import determinism
from napari_2dmamba.training.learner import Answer, Learner
from napari_2dmamba.training.processes import (
    CANNOT_BE_HANDED_OVER,
    EpochTask,
    Failure,
    Part,
    lots,
    owner,
)


def help_in_training() -> None:
    """Compute gradients for the process that started this one, until that one is gone."""
    incoming, outgoing = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no message
    try:
        part: Part = pickle.load(incoming)
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001 - whatever the user's classes raise
        _send(outgoing, Failure(TrainingError(CANNOT_BE_HANDED_OVER.format(error=error))))
        return
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, inbox), daemon=True).start()
    helper = None
    try:
        helper = _Helper(part, inbox, outgoing)
        helper.work()
    except UserError as error:
        _send(outgoing, Failure(error))
    except Exception as error:  # noqa: BLE001 - told in the process that the user sees
        at = f" at slide {helper.slide}" if helper is not None and helper.slide else ""
        words = (
            f"process {part.number + 1} of this training ({part.device}) failed{at} "
            f"({type(error).__name__}: {error}); train on one device to see whether it fails too"
        )
        _send(outgoing, Failure(TrainingError(words)))


def _listen(incoming: IO[bytes], inbox: "queue.SimpleQueue[Any]") -> None:
    """Put what comes into the inbox; when the other end is gone, end this process at once."""
    try:
        while True:
            inbox.put(pickle.load(incoming))
    finally:
        os._exit(1)


def _send(outgoing: IO[bytes], message: Any) -> None:
    pickle.dump(message, outgoing, protocol=pickle.HIGHEST_PROTOCOL)
    outgoing.flush()


class _Helper:
    """The work of one helper."""

    def __init__(self, part: Part, inbox: "queue.SimpleQueue[Any]", outgoing: IO[bytes]) -> None:
        self.part, self.settings = part, part.settings
        self.slide = ""
        self._inbox, self._outgoing = inbox, outgoing
        torch.set_num_threads(part.threads)
        if part.device != "cpu":
            torch.cuda.set_device(part.device)

    def work(self) -> None:
        """Do what comes, for ever: the other process ends this one."""
        part = self.part
        with determinism(part.settings.deterministic, part.device):
            self.learner = Learner(part.aggregator, part.settings, part.class_weights, part.device)
            while True:
                task = self._inbox.get()
                if isinstance(task, EpochTask):
                    self._learn(task)
                else:
                    self._validate()

    def _mine(self, positions: range) -> list[int]:
        return [p for p in positions if owner(p, self.settings) == self.part.number]

    def _learn(self, epoch: EpochTask) -> None:
        s, learner, count = self.settings, self.learner, len(epoch.order)
        learner.model.train()
        indices = [epoch.order[position] for position in self._mine(range(count))]
        with contextlib.closing(prefetched(self.part.training, indices, s.prefetch)) as bags:
            for lot in lots(count, s.accumulate):
                learner.take_vector(self._inbox.get())
                before = [buffer.clone() for buffer in learner.model.buffers()]
                for position in self._mine(lot):
                    example = next(bags)
                    self.slide = example.name
                    self._answer(learner.learn(example, epoch.number, position, len(lot)))
                if learner.is_cox:
                    learner.learn_lot(self._inbox.get(), epoch.number)
                self._refuse_statistics(before)
                _send(self._outgoing, learner.take_gradient())

    def _refuse_statistics(self, before: list[Tensor]) -> None:
        """Refuse a model that keeps more of the bags it saw than their gradient."""
        now = self.learner.model.buffers()
        if not all(torch.equal(old, new) for old, new in zip(before, now, strict=True)):
            raise TrainingError(
                f"{self.learner.model.title} keeps running statistics of its bags, which several "
                "devices would each have of their own; train it on one device"
            )

    def _validate(self) -> None:
        learner, bags = self.learner, self.part.validation
        learner.take_vector(self._inbox.get())
        learner.model.eval()
        mine = self._mine(range(len(bags)))
        with contextlib.closing(prefetched(bags, mine, self.settings.prefetch)) as examples:
            for example in examples:
                self.slide = example.name
                self._answer(learner.answer(example))

    def _answer(self, answer: Answer) -> None:
        _send(self._outgoing, answer.on_cpu())
