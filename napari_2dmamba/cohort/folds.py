"""The folds of a training side by side, on the workers of a Dask cluster."""

import dataclasses
import os
import platform
import queue
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from napari_2dmamba.atomic_files import process_mark, sweep
from napari_2dmamba.cohort.stop_file import StopFile, StopFileReader
from napari_2dmamba.errors import Cancelled, TrainingError, UserError
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.tasks.settings import SplitSettings
from napari_2dmamba.tasks.splits import Split, make_split
from napari_2dmamba.tasks.table import Table
from napari_2dmamba.training.fitting import Epoch, sentence
from napari_2dmamba.training.run import TrainingRun, train

_A_MOMENT = 0.2


def train_side_by_side(
    table: Table,
    split: Split | None = None,
    *,
    out: str | os.PathLike[str],
    client: Any,
    on_progress: ProgressCallback | None = None,
    on_epoch: Callable[[str, Epoch], None] | None = None,
    should_stop: StopCallback | None = None,
    **how: Any,
) -> TrainingRun:
    """Train one model per fold on workers, then score them and train the final one here.

    Every fold is computed as `train` alone would: with as many threads, its weights are the same
    bits.

    Parameters
    ----------
    table, split, out, on_progress, on_epoch, should_stop
        As of `train`; every worker must see `out` and the features under the same path.
    client
        A connected `distributed.Client`.
    how
        Everything else that `train` takes.

    Raises
    ------
    UserError
        As `train`; the other folds then stop after their last whole epoch, and go on next time.
    Cancelled
        When ``should_stop()`` said so.
    """
    out = Path(os.path.abspath(out))
    table.require_usable()
    split = make_split(table, SplitSettings()) if split is None else split
    out.mkdir(parents=True, exist_ok=True)
    sweep(out)
    topic = f"training-{secrets.token_hex(4)}"
    go_on = StopFile(out / f".at-work-{process_mark()}-{topic}")
    news: queue.Queue[tuple[str, Any]] = queue.Queue()
    client.subscribe_topic(topic, lambda event: news.put(("epoch", event[1])))
    open_ = {}
    try:
        for number in range(len(split.folds)):
            future = client.submit(
                _train_fold, _with_whole_paths(table), split, str(out), number,
                str(go_on.path), topic, how, key=f"{topic}-fold-{number}", pure=False,
            )  # fmt: skip
            open_[future.key] = future
            future.add_done_callback(lambda done: news.put(("done", done)))
        _until_done(client, open_, news, len(split.folds), on_progress, on_epoch, should_stop)
    finally:
        go_on.stop()
        with suppress(Exception):  # a scheduler that is gone has nothing left to release
            client.unsubscribe_topic(topic)
            client.cancel(list(open_.values()))
    return train(
        table, split, out=out, on_progress=on_progress, on_epoch=on_epoch,
        should_stop=should_stop, **how,
    )  # fmt: skip


def _until_done(
    client: Any,
    open_: dict[str, Any],
    news: "queue.Queue[tuple[str, Any]]",
    folds: int,
    on_progress: ProgressCallback | None,
    on_epoch: Callable[[str, Epoch], None] | None,
    should_stop: StopCallback | None,
) -> None:
    """Hand epochs on, on this thread, until every fold is done."""
    while open_:
        if should_stop is not None and should_stop():
            raise Cancelled
        if client.status not in ("running", "connecting"):
            raise TrainingError(
                "the Dask scheduler cannot be reached any more; start it again and run the same "
                "command: what is done is kept"
            )
        with suppress(queue.Empty):
            kind, told = news.get(timeout=_A_MOMENT)
            if kind == "epoch":
                model, epoch = told[0], Epoch(**told[1])
                if on_epoch is not None:
                    on_epoch(model, epoch)
                if on_progress is not None:
                    on_progress(folds - len(open_), folds, f"{model}: {sentence(epoch)}")
            elif open_.pop(told.key, None) is not None:
                _raise_what_happened(told)
                if on_progress is not None:
                    on_progress(folds - len(open_), folds, "a fold is done")


def _raise_what_happened(future: Any) -> None:
    if future.status == "finished":
        return
    error = future.exception() if future.status == "error" else None
    if isinstance(error, UserError | Cancelled):
        raise error
    if isinstance(error, ImportError):
        raise TrainingError(
            f"a worker cannot import {error.name or 'a package'}; install "
            "napari-2dmamba[training] on the workers, in the version that runs here"
        ) from error
    raise TrainingError(
        f"a fold failed on its worker ({type(error).__name__}: {error}); run the same command "
        "again: what is done is kept"
    ) from error


def _train_fold(
    table: Table, split: Split, out: str, number: int, go_on: str, topic: str, how: dict[str, Any]
) -> None:
    """Train one fold on a Dask worker."""
    from distributed import get_worker

    if not os.path.exists(go_on):
        raise TrainingError(
            f"the worker {platform.node()} does not see {out}; let every worker mount that "
            "folder, and the features, under the same path"
        )
    worker = get_worker()

    def tell(model: str, epoch: Epoch) -> None:
        worker.log_event(topic, (model, dataclasses.asdict(epoch)))

    train(
        table, split, out=out, only=(number,), on_epoch=tell,
        should_stop=StopFileReader(Path(go_on)).should_stop, **how,
    )  # fmt: skip


def _with_whole_paths(table: Table) -> Table:
    """Return the table as workers in other folders understand it."""
    slides = tuple(
        dataclasses.replace(
            slide,
            slide=None if slide.slide is None else Path(os.path.abspath(slide.slide)),
            features=None if slide.features is None else Path(os.path.abspath(slide.features)),
        )
        for slide in table.slides
    )
    return dataclasses.replace(table, slides=slides)
