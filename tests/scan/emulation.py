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

import pytest

from napari_2dmamba.scan.cuda_compiler import source_folder
from napari_2dmamba.scan.cuda_launch import Argument, ScanArgument, Shape

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


def build(shape: Shape, sanitizer: str = "plain", kernels: Path | None = None) -> Path:
    """Return the emulation of the kernels for one shape, compiling it where need be."""
    kernels = source_folder() if kernels is None else kernels
    constants = shape.constants("forward") | shape.constants("backward")
    command = [compiler(), "-std=c++20", *SANITIZERS[sanitizer], "-Wno-unknown-pragmas"]
    command += [f"-D{name}={value}" for name, value in sorted(constants.items())]
    sources = sorted([*EMULATOR.iterdir(), *kernels.iterdir()])
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
    """

    seed: int = 1
    sanitizer: str = "plain"
    resident: int = 3
    multiprocessors: int = 1000
    shared_bytes: int = 227 * 1024
    kernels: Path | None = None

    def launch(
        self,
        shape: Shape,
        file: str,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared_bytes: int,
        argument: Argument,
    ) -> None:
        """Run one kernel in a process of its own and copy what it wrote back."""
        program = build(shape, self.sanitizer, self.kernels)
        tensors = argument.tensors
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors.values()}
        order = list(storages)
        pointers = b"".join(
            struct.pack(
                "<QQQ",
                getattr(ScanArgument, name).offset,
                order.index(t.untyped_storage().data_ptr()),
                t.data_ptr() - t.untyped_storage().data_ptr(),
            )
            for name, t in tensors.items()
        )
        assert ScanArgument.x.offset == 0
        struct_bytes = bytes(argument.struct)
        header = struct.pack(
            "<32s12I",
            kernel.encode(),
            *grid,
            *block,
            shared_bytes,
            self.resident,
            self.seed,
            len(struct_bytes),
            len(tensors),
            len(order),
        )
        sizes = b"".join(struct.pack("<Q", storages[p].nbytes()) for p in order)
        before = header + struct_bytes + pointers + sizes
        with tempfile.NamedTemporaryFile(suffix=".job") as job:
            job.write(before)
            for p in order:
                job.write(ctypes.string_at(p, storages[p].nbytes()))
            job.flush()
            result = subprocess.run(
                [program, job.name],
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
                env={"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"},
            )
            if result.returncode:
                raise EmulationFault(f"{kernel}: exit {result.returncode}\n{result.stderr[:4000]}")
            job.seek(len(before))
            for p in order:
                ctypes.memmove(p, job.read(storages[p].nbytes()), storages[p].nbytes())
