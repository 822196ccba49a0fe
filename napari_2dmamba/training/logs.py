"""Where the epochs of a training are written beside ``history.csv``; nothing leaves the machine.

What is written: losses, learning rate, seconds and validation score of each epoch, and the
settings. Names of slides and patients, and labels, are not.
"""

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from napari_2dmamba.errors import TrainingError
from napari_2dmamba.training.fitting import Epoch

Write = Callable[[int, dict[str, float]], None]
"""``write(epoch, values)``."""

TOLD = ("architecture", "preset", "kind", "counts", "split")
"""What a log is told of a training's record, beside its settings."""


def available_logs(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the logs that are asked for; without a wish TensorBoard's, where it is installed.

    Raises
    ------
    TrainingError
        For an unknown log, or one whose package is not installed.
    """
    if names is None:
        return ("tensorboard",) if importlib.util.find_spec("tensorboard") else ()
    for name in names:
        if name not in LOGS:
            raise TrainingError(f"there is no log {name!r}; choose among {', '.join(LOGS)}")
        if importlib.util.find_spec(name) is None:
            raise TrainingError(
                f"the log {name} needs the package {name}; run pip install "
                f'"napari-2dmamba[{_EXTRA[name]}]"'
            )
    return tuple(dict.fromkeys(names))


@contextlib.contextmanager
def open_logs(
    names: Sequence[str], folder: Path, model: str, record: Mapping[str, Any]
) -> Iterator[Callable[[Epoch], None]]:
    """Open logs for one model; yield what takes its epochs.

    Parameters
    ----------
    names
        Of `LOGS`.
    folder
        Of the training.
    model
        Name of the model (``fold 0``).
    record
        Of the training; only what `TOLD` names and the settings are written.
    """
    told = {name: record[name] for name in TOLD if name in record}
    told |= dict(record.get("settings", {}))
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(LOGS[name](folder, model, told)) for name in names]

        def log(epoch: Epoch) -> None:
            values = {
                name: float(value)
                for name, value in asdict(epoch).items()
                if value is not None and name != "epoch"
            }
            with _in_a_sentence(folder):
                for write in writers:
                    write(epoch.epoch, values)

        yield log


@contextlib.contextmanager
def _in_a_sentence(folder: Path) -> Iterator[None]:
    """Say what the file system refuses; a log's package passes it on as it is."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"a log in {folder} cannot be written ({error.strerror or error}); free some space: "
            "the same call goes on from the last epoch"
        ) from error


@contextlib.contextmanager
def _tensorboard(folder: Path, model: str, told: Mapping[str, Any]) -> Iterator[Write]:
    from torch.utils.tensorboard import SummaryWriter

    opened: list[SummaryWriter] = []
    where = folder / "tensorboard" / model.replace(" ", "-")

    def write(epoch: int, values: dict[str, float]) -> None:
        if not opened:
            # Epochs of a training that was cut off after its last saved state are not shown twice
            opened.append(SummaryWriter(str(where), purge_step=epoch))
            opened[0].add_text("settings", _as_text(told))
        for name, value in values.items():
            opened[0].add_scalar(name, value, epoch)
        opened[0].flush()

    try:
        yield write
    except BaseException:
        for one in opened:
            with contextlib.suppress(OSError):  # what ended the training is said
                one.close()
        raise
    for one in opened:
        with _in_a_sentence(folder):
            one.close()


@contextlib.contextmanager
def _wandb(folder: Path, model: str, told: Mapping[str, Any]) -> Iterator[Write]:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    # Without these, W&B stores user, machine, command line and code beside the numbers
    quiet = wandb.Settings(
        console="off", disable_git=True, save_code=False, disable_job_creation=True,
        x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True, silent=True,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project="napari-2dmamba",
        name=model,
        id=_id_of(folder, model),
        resume="allow",
        dir=str(folder),
        mode="online" if os.environ.get("WANDB_MODE") == "online" else "offline",
        config=dict(told),
        settings=quiet,
    )

    def write(epoch: int, values: dict[str, float]) -> None:
        run.log(values, step=epoch)

    try:
        yield write
    finally:
        run.finish()


@contextlib.contextmanager
def _mlflow(folder: Path, model: str, told: Mapping[str, Any]) -> Iterator[Write]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    folder.mkdir(parents=True, exist_ok=True)
    where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute()}/mlflow.db"
    client = MlflowClient(tracking_uri=where)
    name = "napari-2dmamba"
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known is not None else client.create_experiment(name)
    run = client.create_run(experiment, run_name=model).info.run_id
    for key, value in told.items():
        client.log_param(run, key, value)

    def write(epoch: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            client.log_metric(run, key, value, step=epoch)

    try:
        yield write
    except BaseException:
        client.set_terminated(run, "KILLED")
        raise
    client.set_terminated(run)


def _id_of(folder: Path, model: str) -> str:
    return hashlib.sha256(f"{folder.absolute()} {model}".encode()).hexdigest()[:12]


def _as_text(told: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in told.items())


LOGS: dict[
    str, Callable[[Path, str, Mapping[str, Any]], contextlib.AbstractContextManager[Write]]
] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
"""Logs by name, which is also the name of the package that each needs."""
_EXTRA = {"tensorboard": "training", "wandb": "wandb", "mlflow": "mlflow"}
