"""Which implementation of the scan runs, why, and how to force one."""

import functools
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan import cpu

NAMES = ("definition", "cpu", "cuda")
VARIABLE = "NAPARI_2DMAMBA_SCAN"

_forced: ContextVar[str | None] = ContextVar("forced scan backend", default=None)


class Backend(NamedTuple):
    """An implementation of the scan.

    Attributes
    ----------
    name
        ``"definition"`` (torch, slow), ``"cpu"`` or ``"cuda"`` (kernels).
    reason
        Why this one runs: a sentence.
    """

    name: str
    reason: str


def backend_for(x: Tensor) -> Backend:
    """Return which backend scans ``x`` and why.

    A backend can be forced with `use_backend`, or with the environment variable
    ``NAPARI_2DMAMBA_SCAN`` set to ``definition``, ``cpu`` or ``cuda``.

    Raises
    ------
    BackendError
        Where a forced backend is unknown or cannot scan ``x``.
    """
    return choose(x.device.type, x.dtype)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Force a backend, ``definition``, ``cpu`` or ``cuda``, within a ``with`` block.

    Raises
    ------
    BackendError
        Where the name is unknown. Whether the backend can run is seen when it scans.
    """
    token = _forced.set(_known(name, "use_backend"))
    try:
        yield
    finally:
        _forced.reset(token)


def choose(device: str, dtype: torch.dtype) -> Backend:
    """Return the backend for tensors of ``dtype`` on a ``device`` type; see `backend_for`."""
    name, source = _forced.get(), "use_backend"
    if name is None and os.environ.get(VARIABLE):
        source = f"the environment variable {VARIABLE}"
        name = _known(os.environ[VARIABLE], source)
    if name is None:
        return _best(device, dtype)
    obstacle = _obstacle(name, device, dtype)
    if obstacle is not None:
        raise BackendError(f"The scan backend {name!r}, forced by {source}, cannot run: {obstacle}.")
    return Backend(name, f"forced by {source}")


def _known(name: str, source: str) -> str:
    if name not in NAMES:
        raise BackendError(
            f"{source} names the scan backend {name!r}, but must name one of {', '.join(NAMES)}."
        )
    return name


def _best(device: str, dtype: torch.dtype) -> Backend:
    if device not in ("cpu", "cuda"):
        return Backend("definition", f"there are no kernels for {device} devices")
    obstacle = _obstacle(device, device, dtype)
    if obstacle is None:
        return Backend(device, _praise(device))
    if dtype != torch.float64:
        _warn_once(f"The scan runs on its slow torch definition: {obstacle}.")
    return Backend("definition", obstacle)


def _obstacle(name: str, device: str, dtype: torch.dtype) -> str | None:
    """Say why backend ``name`` cannot scan; None if it can."""
    if name == "definition":
        return None
    if device != name:
        return f"the tensors are on {device}; move them to {name}"
    if dtype == torch.float64:
        return "the kernels compute in float32, and float64 was asked for; only the definition can"
    return cpu.why_not() if name == "cpu" else _cuda_obstacle()


@functools.cache
def _cuda_obstacle() -> str | None:
    if importlib.util.find_spec("napari_2dmamba.scan.cuda") is None:
        return "this version of the package has no CUDA kernels"
    from napari_2dmamba.scan import cuda

    available, why = cuda.availability()
    return None if available else why


def _praise(device: str) -> str:
    if device == "cpu":
        return f"CPU kernels, {cpu.instruction_sets()[-1]} instructions"
    from napari_2dmamba.scan import cuda

    return f"CUDA kernels on {cuda.availability()[1]}"


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)
