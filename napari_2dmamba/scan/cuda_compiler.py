"""Compiles the CUDA kernels for one GPU architecture with NVRTC, and keeps the result on disk.

Nothing here needs a GPU. NVRTC and its Python interface come with a CUDA build of torch
(``cuda-bindings`` on Linux since torch 2.10, an ordinary dependency of ours elsewhere).
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from napari_2dmamba.errors import BackendError

OLDEST_ARCHITECTURE = 75
"""Compute capability 7.5 (Turing): what current NVRTC still compiles for."""

_DIGEST_BYTES = 32
_log = logging.getLogger(__name__)


def source_folder() -> Path:
    """Return the folder of the CUDA sources: in the wheel, or beside the package in a checkout."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "csrc" / "cuda", here.parents[2] / "csrc" / "cuda"):
        if (folder / "scan.cuh").is_file():
            return folder
    raise BackendError(
        f"The CUDA sources are missing: no csrc/cuda/scan.cuh in {here.parents[1]} or"
        f" {here.parents[2]}; reinstall napari-2dmamba."
    )


def default_cache() -> Path:
    """Return the folder of this user that keeps compiled kernels."""
    return user_cache_path("napari-2dmamba") / "kernels"


@functools.cache
def load_nvrtc() -> Any:
    """Return the module ``cuda.bindings.nvrtc`` with its library loaded.

    Raises
    ------
    BackendError
        Where the Python interface or the library cannot be found.
    """
    _load_nvrtc_of_torch_on_windows()
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"NVRTC, which compiles the CUDA kernels, cannot be loaded ({error}); install"
            " cuda-bindings and a CUDA build of torch, or use the CPU."
        ) from error
    return nvrtc


def _load_nvrtc_of_torch_on_windows() -> None:
    """Load the NVRTC of a Windows wheel of torch, which cuda-bindings then finds loaded."""
    if sys.platform != "win32":
        return
    import ctypes

    import torch

    for library in sorted((Path(torch.__file__).parent / "lib").glob("nvrtc64_*_0.dll")):
        ctypes.WinDLL(str(library))


def nvrtc_version() -> tuple[int, int]:
    """Return the version of NVRTC, as ``(13, 0)``."""
    nvrtc = load_nvrtc()
    _, major, minor = nvrtc.nvrtcVersion()
    return major, minor


def compile_kernels(
    name: str, constants: dict[str, int], architecture: int, *, cache: Path | None = None
) -> bytes:
    """Return a cubin of ``csrc/cuda/<name>.cu``, or PTX for an architecture newer than NVRTC.

    Parameters
    ----------
    name
        ``"forward"`` or ``"backward"``.
    constants
        Shape constants, passed as ``-DNAME=value``.
    architecture
        Compute capability times ten, such as 90.
    cache
        Folder of compiled kernels; by default that of the user. An entry is written whole
        under a temporary name and carries its own checksum, so that several processes may
        share the folder and a damaged entry is compiled again.

    Raises
    ------
    BackendError
        Where NVRTC is missing or refuses the source.
    """
    folder = source_folder()
    sources = {n: (folder / n).read_text() for n in (f"{name}.cu", "scan.cuh")}
    options = _options(constants, architecture)
    key = {"sources": sources, "options": options, "nvrtc": nvrtc_version()}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    entry = (default_cache() if cache is None else cache) / f"{name}-{digest}.cubin"
    image = _read_entry(entry)
    if image is None:
        image = _compile(sources, f"{name}.cu", options)
        _write_entry(entry, image)
    return image


def _options(constants: dict[str, int], architecture: int) -> list[str]:
    nvrtc = load_nvrtc()
    _, count = nvrtc.nvrtcGetNumSupportedArchs()
    _, supported = nvrtc.nvrtcGetSupportedArchs()
    known = [a for a in supported[:count] if a <= architecture]
    if architecture < OLDEST_ARCHITECTURE or not known:
        raise BackendError(
            f"The CUDA kernels need a GPU of compute capability 7.5 or newer; this one has"
            f" {architecture // 10}.{architecture % 10}. Use the CPU."
        )
    # A cubin runs on later GPUs of the same major architecture; beyond it, the driver compiles PTX.
    kind = "sm" if known[-1] // 10 == architecture // 10 else "compute"
    defines = [f"-D{name}={value}" for name, value in sorted(constants.items())]
    return [f"--gpu-architecture={kind}_{known[-1]}", "-std=c++17", *defines]


def _compile(sources: dict[str, str], name: str, options: list[str]) -> bytes:
    nvrtc = load_nvrtc()
    headers = [n for n in sources if n != name]
    status, program = nvrtc.nvrtcCreateProgram(
        sources[name].encode(),
        name.encode(),
        len(headers),
        [sources[n].encode() for n in headers],
        [n.encode() for n in headers],
    )
    _check(status, "create a program")
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            _, size = nvrtc.nvrtcGetProgramLogSize(program)
            log = b" " * size
            nvrtc.nvrtcGetProgramLog(program, log)
            first = log.decode(errors="replace").strip("\0 \n")[:2000]
            raise BackendError(f"NVRTC cannot compile {name} with {' '.join(options)}:\n{first}")
        cubin = "=sm_" in options[0]
        status, size = (nvrtc.nvrtcGetCUBINSize if cubin else nvrtc.nvrtcGetPTXSize)(program)
        _check(status, "give the size of the result")
        image = b" " * size
        (status,) = (nvrtc.nvrtcGetCUBIN if cubin else nvrtc.nvrtcGetPTX)(program, image)
        _check(status, "give the result")
        return image
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _check(status: Any, what: str) -> None:
    nvrtc = load_nvrtc()
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        _, text = nvrtc.nvrtcGetErrorString(status)
        raise BackendError(f"NVRTC cannot {what}: {text.decode()}.")


def _read_entry(entry: Path) -> bytes | None:
    try:
        content = entry.read_bytes()
    except OSError:
        return None
    digest, image = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if image and hashlib.sha256(image).digest() == digest:
        return image
    _log.warning("the compiled kernel %s is damaged; compiling it again", entry)
    return None


def _write_entry(entry: Path, image: bytes) -> None:
    """Keep ``image``; a folder that cannot be written costs time at the next start, no more."""
    temporary = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=entry.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(image).digest() + image)
        os.replace(temporary, entry)
    except OSError as error:
        _log.warning("cannot keep the compiled kernel in %s: %s", entry.parent, error)
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
