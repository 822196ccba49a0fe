"""Run damaged inputs, each in a process of its own with bounds on time and memory."""

import contextlib
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import Seed, mutated

SECONDS = 20
"""Processor time of one input, which other work on the machine does not use up; good inputs take
well under a second."""
ASLEEP = 600.0
"""Wall time after which an input that uses no processor time is given up: it waits for ever."""
MEMORY = 3 * 2**30
"""Address space beyond what the parent holds; good inputs take a few hundred MB with threads."""


@dataclass(frozen=True)
class Finding:
    """An input that did anything but work or get its sentence."""

    number: int
    seed: str
    what: str
    kept: Path | None


@dataclass
class Result:
    """How a campaign ended."""

    opened: int = 0
    refused: int = 0
    sentences: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    slowest: float = 0.0
    """Most processor time of a process, in seconds."""
    largest: int = 0
    """Most resident memory of a process, in bytes."""


@dataclass
class _Child:
    number: int
    seed: Seed
    folder: Path
    mutant: Path
    answer: int
    begun: float


def run(
    name: str,
    count: int,
    seed: int = 0,
    *,
    first: int = 0,
    jobs: int = 2,
    keep: Path | None = None,
    seconds: int = SECONDS,
) -> Result:
    """Run mutants ``first`` to ``first + count`` of a target; the same seed gives the same ones.

    Parameters
    ----------
    keep
        Folder into which mutants that are findings are copied.
    """
    target = importlib.import_module(f"tests.fuzz.targets.{name}")
    result = Result()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        seeds = _seeds(target, Path(scratch) / "seeds")
        numbers: Iterator[int] = iter(range(first, first + count))
        running: dict[int, _Child] = {}
        while True:
            while len(running) < jobs and (number := next(numbers, None)) is not None:
                folder = Path(scratch) / f"mutant-{number}"
                pid, child = _start(target, name, number, seed, seeds, folder, seconds)
                running[pid] = child
            if not running:
                break
            _collect(running, result, keep)
    return result


def _seeds(target: Any, folder: Path) -> list[Seed]:
    """Have the good inputs written by a process that goes, so that ours starts no threads."""
    import pickle

    folder.mkdir(parents=True)
    listed = folder.parent / "seeds.pickle"
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            listed.write_bytes(pickle.dumps(list(target.seeds(folder))))
            status = 0
        except BaseException:  # noqa: BLE001 - printed here; the parent says it failed
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the good inputs could not be written")
    seeds: list[Seed] = pickle.loads(listed.read_bytes())
    assert seeds, "a target needs good inputs"
    return seeds


def _start(
    target: Any,
    name: str,
    number: int,
    seed: int,
    seeds: list[Seed],
    folder: Path,
    seconds: int,
) -> tuple[int, _Child]:
    chance = random.Random(f"{name}:{seed}:{number}")
    chosen = chance.choice(seeds)
    folder.mkdir()
    mutant = folder / chosen.path.name
    damaged = mutant
    if chosen.inside is not None:
        shutil.copytree(chosen.path, mutant)
        damaged = mutant / chosen.inside
    source = chosen.path if chosen.inside is None else chosen.path / chosen.inside
    damaged.write_bytes(mutated(source.read_bytes(), chance, chosen))
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(target, mutant, folder, writing, seconds)
    os.close(writing)
    return pid, _Child(number, chosen, folder, mutant, reading, time.monotonic())


def _child(target: Any, mutant: Path, folder: Path, answer: int, seconds: int) -> None:
    """Drive one input and tell the parent; never returns."""
    try:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        held = 4 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # SIGXCPU, then SIGKILL
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    os.chdir(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    warnings.simplefilter("ignore")
    try:
        target.drive(mutant)
        said = "opened"
    except target.ALLOWED as error:
        said = f"refused {error}"
        if "Traceback" in said or not str(error).strip():
            said = f"finding no sentence: {type(error).__name__} {said[:300]!r}"
    except BaseException as error:  # noqa: BLE001 - this is what a campaign looks for
        where = traceback.extract_tb(error.__traceback__)
        ours = [f for f in where if "napari_2dmamba" in f.filename] or list(where)
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        said = f"finding {type(error).__name__} at {place}: {str(error)[:300]}"
    with contextlib.suppress(OSError):
        os.write(answer, said.encode("utf-8", "replace")[:4000])
    os._exit(0)


def _collect(running: dict[int, _Child], result: Result, keep: Path | None) -> None:
    """Wait for one child, or end those that wait for ever."""
    pid, status, used = os.wait4(-1, os.WNOHANG)
    if pid == 0:
        for other, child in running.items():
            if time.monotonic() - child.begun > ASLEEP:
                os.kill(other, signal.SIGKILL)
        time.sleep(0.002)
        return
    child = running.pop(pid, None)
    if child is None:
        return
    with os.fdopen(child.answer, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    result.slowest = max(result.slowest, used.ru_utime + used.ru_stime)
    result.largest = max(result.largest, used.ru_maxrss * 1024)
    if os.WIFSIGNALED(status):
        killed = signal.Signals(os.WTERMSIG(status))
        asleep = killed == signal.SIGKILL and time.monotonic() - child.begun > ASLEEP
        late = killed == signal.SIGXCPU or asleep
        said = f"finding {'took too long' if late else 'crashed'} ({killed.name})"
    elif not said:
        said = f"finding ended without a word (status {os.WEXITSTATUS(status)})"
    if said == "opened":
        result.opened += 1
    elif said.startswith("refused "):
        result.refused += 1
        result.sentences[said[8:].replace(child.mutant.name, "NAME")[:160]] += 1
    else:
        kept = None
        if keep is not None:
            kept = keep / f"{child.number}-{child.mutant.name}"
            keep.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if child.mutant.is_dir() else shutil.copy
            copy(child.mutant, kept)
        result.findings.append(Finding(child.number, child.seed.path.name, said[8:], kept))
    shutil.rmtree(child.folder, ignore_errors=True)


def report(name: str, count: int, seed: int, result: Result) -> str:
    """Return a campaign's result in words."""
    lines = [
        f"{name}: {count} mutants of seed {seed}: {result.opened} went through, {result.refused} "
        f"got a sentence, {len(result.findings)} findings; slowest {result.slowest:.1f} s, "
        f"most memory {result.largest / 2**20:.0f} MB"
    ]
    for finding in result.findings:
        kept = f" [{finding.kept}]" if finding.kept else ""
        lines.append(f"  {finding.number} ({finding.seed}): {finding.what}{kept}")
    return "\n".join(lines)


def supported() -> bool:
    """Whether processes can be forked and bounded here."""
    return hasattr(os, "fork") and sys.platform == "linux"
