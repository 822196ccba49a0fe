"""Runs the CUDA kernels of csrc/cuda on the host, as csrc/emulation describes."""

import ctypes
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from torch import Tensor

from napari_2dmamba.scan.cuda_compiler import source_folder
from napari_2dmamba.scan.cuda_launch import PLACES, POINTERS, STRIDED, Launch, Plan, Shape

EMULATOR = Path(__file__).parents[2] / "csrc" / "emulation"
BUILDS = Path(tempfile.gettempdir()) / f"napari-2dmamba-emulation-{os.getuid()}"
"""Compiled emulations, kept between sessions under a hash of what they were made from."""

SANITIZERS = {
    "plain": ["-O1"],
    "thread": ["-O1", "-g", "-fsanitize=thread"],
    "address": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}


class EmulationFault(AssertionError):
    """The emulation or a sanitizer found a fault in a kernel."""


def compiler() -> str:
    """Return a C++ compiler that can build the emulation, or skip the test."""
    if os.uname().machine != "x86_64":
        pytest.skip("the emulation switches stacks with x86-64 instructions")
    for name in ("g++", "clang++"):
        if path := shutil.which(name):
            return path
    pytest.skip("no g++ or clang++ to build the emulation with")


def build(shape: Shape, file: str, sanitizer: str = "plain", kernels: Path | None = None) -> Path:
    """Return the emulation of ``<file>.cu`` for one shape, compiling it where need be."""
    kernels = source_folder() if kernels is None else kernels
    command = [compiler(), "-std=c++20", *SANITIZERS[sanitizer], "-Wno-unknown-pragmas"]
    command += [f"-D{name}={value}" for name, value in sorted(shape.constants(file).items())]
    sources = [*sorted(EMULATOR.iterdir()), kernels / "scan.cuh", kernels / f"{file}.cu"]
    content = [*command, *(f"{s.name}\n{s.read_text()}" for s in sources)]
    digest = hashlib.sha256("\0".join(content).encode()).hexdigest()[:32]
    program = BUILDS / digest
    if not program.exists():
        BUILDS.mkdir(mode=0o700, exist_ok=True)
        temporary = BUILDS / f"{digest}.{os.getpid()}"
        command += [f"-I{kernels}", str(EMULATOR / "run_kernel.cpp"), "-o", str(temporary)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        os.replace(temporary, program)
    return program


class _Memory(NamedTuple):
    """What becomes an allocation of its own in the emulation: a tensor, or an array of a layout."""

    address: int
    size: int


@dataclass
class Emulation:
    """A launcher for `scan.cuda.forward` and `backward` on CPU tensors.

    Attributes
    ----------
    seed
        Of the random schedule; 0 runs threads in order.
    sanitizer
        ``"plain"``, ``"thread"`` or ``"address"``.
    resident
        Blocks that run at once, interleaved.
    kernels
        Folder of the sources, if not those of the package.
    fault
        Which of the faults that a test has put into them.
    """

    seed: int = 1
    sanitizer: str = "plain"
    resident: int = 3
    multiprocessors: int = 1000
    shared_bytes: int = 227 * 1024
    kernels: Path | None = None
    fault: int = 0

    def run(
        self,
        plan: Plan,
        tensors: dict[str, Tensor | None],
        kept: Tensor | None,
        work: Tensor | None,
    ) -> None:
        """Run each launch in a process of its own and copy what it wrote back."""
        places: dict[str, tuple[_Memory, int]] = {}  # by field: what it points into, and how far
        for name, t in tensors.items():
            if t is not None:
                storage = t.untyped_storage()
                memory = _Memory(storage.data_ptr(), storage.nbytes())
                places[name] = memory, t.data_ptr() - storage.data_ptr()
        for allocation, layout in ((kept, plan.kept), (work, plan.work)):
            for name, span in layout.spans.items():
                assert allocation is not None
                places[name] = _Memory(allocation.data_ptr() + span.offset, span.size), 0
        arguments = plan.arguments(tensors, kept, work)
        for launch, argument in zip(plan.launches, arguments, strict=True):
            if launch.zeroed is not None:
                address, size = places[launch.zeroed][0]
                ctypes.memset(address, 0, size)
            self._launch(build(plan.shape, plan.file, self.sanitizer, self.kernels), launch,
                         argument, places)  # fmt: skip

    def _launch(
        self,
        program: Path,
        launch: Launch,
        argument: bytes,
        places: dict[str, tuple[_Memory, int]],
    ) -> None:
        memories = list(dict.fromkeys(memory for memory, _ in places.values()))
        pointers = b"".join(
            struct.pack("<QQQ", _offset(name), memories.index(memory), offset)
            for name, (memory, offset) in places.items()
        )
        header = struct.pack(
            "<32s12I",
            launch.kernel.encode(),
            *launch.grid,
            *launch.block,
            launch.shared_bytes,
            self.resident,
            self.seed,
            len(argument),
            len(places),
            len(memories),
        )
        sizes = b"".join(struct.pack("<Q", m.size) for m in memories)
        before = header + argument + pointers + sizes
        with tempfile.NamedTemporaryFile(suffix=".job") as job:
            job.write(before)
            for m in memories:
                job.write(ctypes.string_at(m.address, m.size))
            job.flush()
            result = subprocess.run(
                [program, job.name],
                capture_output=True,
                text=True,
                check=False,
                timeout=240,
                env={
                    "TSAN_OPTIONS": "halt_on_error=1",
                    "ASAN_OPTIONS": "detect_leaks=0",
                    "SCAN_FAULT": str(self.fault),
                },
            )
            if result.returncode:
                raise EmulationFault(
                    f"{launch.kernel}: exit {result.returncode}\n{result.stderr[:4000]}"
                )
            job.seek(len(before))
            for m in memories:
                ctypes.memmove(m.address, job.read(m.size), m.size)


def _offset(name: str) -> int:
    """Return where in the argument the pointer of a field is."""
    place = PLACES[name]
    return 40 * (place // 2) if name in STRIDED else 40 * len(STRIDED) + 8 * POINTERS.index(name)
