"""Dask workers on this machine, and connections to schedulers that run elsewhere."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari_2dmamba.errors import CohortError

_CORES_PER_WORKER = 4
_GB_PER_WORKER = 2
_SECONDS_TO_CONNECT = 20
_LONGER_THAN_ANY_RESTART = "1 hour"


@contextmanager
def dask_client(
    workers: int, scheduler: str | None, device: str, gpus_each: int = 1
) -> Iterator[Any]:
    """Yield a client of a running scheduler, or of workers on this machine.

    Parameters
    ----------
    workers
        On this machine; 0 takes as many as fit.
    scheduler
        Address or scheduler file, instead of workers on this machine.
    device
        That was asked for; GPUs are shared out only where it may be one.
    gpus_each
        How many of them a worker gets.

    Raises
    ------
    CohortError
        When Dask is not installed, or the scheduler does not answer.
    """
    if scheduler is not None:
        with connected(scheduler) as client:
            yield client
        return
    distributed = distributed_package()
    gpus = gpus_here() if device in ("auto", "cuda") else []
    count = workers or as_many_as_fit(gpus, gpus_each)
    with local_cluster(count, gpus, gpus_each) as cluster, distributed.Client(cluster) as client:
        yield client


def threads_each(workers: int) -> int:
    """Return a worker's share of this machine's cores."""
    return max(1, (os.cpu_count() or 1) // workers)


def distributed_package() -> Any:
    """Return Dask's package, or say how to get it."""
    try:
        import distributed
    except ImportError as error:
        raise CohortError(
            f"several workers need Dask, which is not installed ({error}); run pip install "
            '"napari-2dmamba[cohort]", or use --workers 1'
        ) from error
    return distributed


def connected(address: str) -> Any:
    """Return a client of a running scheduler, named by its address or its file."""
    distributed = distributed_package()
    where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    if address.endswith(".json") and not Path(address).is_file():
        raise CohortError(f"the scheduler file {address} does not exist; start the scheduler first")
    try:
        return distributed.Client(**where, timeout=_SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise CohortError(
            f"no Dask scheduler answers at {address} "
            f"({str(error).partition(chr(10))[0] or type(error).__name__}); check the address "
            "that the scheduler printed, and that this machine may reach it"
        ) from error


def gpus_here() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES names the GPUs of this process."""
    import torch

    named = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return named[:count] if named != [""] else [str(index) for index in range(count)]


def dealt(gpus: list[str], worker: int, each: int = 1) -> list[str]:
    """Return the GPUs of a worker; with too few for all, they are dealt again from the first.

    Parameters
    ----------
    gpus
        As `gpus_here` names them.
    worker
        Its number, from 0.
    each
        How many a worker gets, at most all.
    """
    first = worker * each
    return [gpus[(first + number) % len(gpus)] for number in range(min(each, len(gpus)))]


def as_many_as_fit(gpus: list[str], gpus_each: int = 1) -> int:
    """Return how many workers this machine has room for."""
    import importlib.util

    import psutil

    if importlib.util.find_spec("distributed") is None:
        return 1
    if gpus:
        return max(1, len(gpus) // gpus_each)
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else 0
    memory = psutil.virtual_memory().available / 1e9
    by_cores = (cores or os.cpu_count() or 1) // _CORES_PER_WORKER
    return max(1, min(by_cores, int(memory / _GB_PER_WORKER)))


def local_cluster(workers: int, gpus: list[str], gpus_each: int = 1) -> Any:
    """Return a Dask cluster of worker processes on this machine, one slide each at a time.

    Each worker sees the GPUs that are `dealt` to it; CPU cores are shared out evenly. Memory
    is not limited by Dask: reading and encoding bound it themselves.
    """
    import logging

    distributed = distributed_package()
    import dask

    threads = str(threads_each(workers))
    described = {}
    for index in range(workers):
        limited = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = dict.fromkeys(limited, threads)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(dealt(gpus, index, gpus_each))
        described[index] = {
            "cls": distributed.Nanny,
            "options": {
                "host": "127.0.0.1",
                "nthreads": 1,
                "memory_limit": 0,
                "env": environment,
                "dashboard": False,
                "silence_logs": logging.CRITICAL,
            },
        }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {
            "host": "127.0.0.1",
            "port": 0,
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
        },
    }
    dask.config.set(
        {
            # Else a worker that takes longer than 15 s to come back is given up for good
            "distributed.deploy.lost-worker-timeout": _LONGER_THAN_ANY_RESTART,
            # Dask keeps a profile of each second of the last hour: +150 MB in 24 min were seen
            "distributed.worker.profile.enabled": False,
        }
    )
    with _interrupts_kept_from_children():
        return distributed.SpecCluster(
            workers=described, scheduler=scheduler, silence_logs=logging.CRITICAL, name="cohort"
        )


@contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; the workers are told to stop by us instead."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
