"""Helpers of a training that need not import torch anew: forks of one process that has.

A helper's imports take seconds of a processor, its work in a test takes milliseconds. What a fork
runs is the program of a helper that is started, over pipes of its own, and its death is its own.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from napari_2dmamba.training import processes

_ROOT = Path(__file__).parents[2]
_MARK = "napari-2dmamba-nursery"
_NURSERY = """
import os, socket, sys

sys.path.insert(0, sys.argv[3])
import napari_2dmamba.training.helper
from napari_2dmamba.torchvision_compat import import_needing_torchvision

import_needing_torchvision("lightning_fabric")
line = socket.socket(fileno=int(sys.argv[2]))
while True:
    asked, pipes, _, _ = socket.recv_fds(line, 64, 2)
    if not asked:
        break
    if pipes:
        pid = os.fork()
        if pid == 0:
            line.close()
            os.setsid()
            for number, pipe in enumerate(pipes):
                os.dup2(pipe, number)
                os.close(pipe)
            code = 1
            try:
                exec(sys.argv[4], {"__name__": "__main__"})
                code = 0
            finally:
                os._exit(code)
        for pipe in pipes:
            os.close(pipe)
        line.send(b"%d" % pid)
    else:
        line.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(int(asked), 0)[1]))
"""


class _Helper:
    """As much of `subprocess.Popen` as the training asks of a helper."""

    def __init__(self, line: socket.socket) -> None:
        (theirs_in, ours_in), (ours_out, theirs_out) = os.pipe(), os.pipe()
        socket.send_fds(line, [b"helper"], [theirs_in, theirs_out])
        os.close(theirs_in)
        os.close(theirs_out)
        self.pid = int(line.recv(64))
        self.stdin, self.stdout = os.fdopen(ours_in, "wb"), os.fdopen(ours_out, "rb")
        self.returncode: int | None = None
        self._line = line

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)  # nobody else has waited for it: the id is its own

    def wait(self, timeout: float) -> int:
        if self.returncode is None:
            self._line.send(b"%d" % self.pid)
            self.returncode = int(self._line.recv(64))
        return self.returncode


@pytest.fixture(scope="module")
def _nursery() -> Iterator[socket.socket | None]:
    if sys.platform != "linux":
        yield None
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-c", _NURSERY, _MARK, str(theirs.fileno()), str(_ROOT)]
    process = subprocess.Popen(
        [*command, processes._PROGRAM],
        pass_fds=[theirs.fileno()],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    theirs.close()
    with ours:
        yield ours
    assert process.wait(60) == 0


@pytest.fixture
def born_warm(_nursery: socket.socket | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the helpers of this test be forks, where there are forks."""
    if _nursery is not None:
        monkeypatch.setattr(processes, "_started", lambda: _Helper(_nursery))


def helpers_of(process: psutil.Process) -> list[psutil.Process]:
    """Return the living helpers that a process started, or that were forked for it."""
    found = []
    for child in process.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            words = child.cmdline()
            if _MARK in words:
                found += child.children()
            elif "help_in_training" in " ".join(words):
                found.append(child)
    return found
