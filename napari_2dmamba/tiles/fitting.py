"""Fine-tune a timm model on a folder of tiles, with timm's augmentation and schedule."""

import csv
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from napari_2dmamba.atomic_files import atomic_write, torch_save
from napari_2dmamba.errors import Cancelled, CheckpointError, FeatureError
from napari_2dmamba.features.encoder import choose_device
from napari_2dmamba.features.timm_encoder import create, load_network
from napari_2dmamba.features.transform import Transform
from napari_2dmamba.settings import ProgressCallback, StopCallback, validate
from napari_2dmamba.tiles.classifier import TileClassifier
from napari_2dmamba.tiles.evaluation import evaluate
from napari_2dmamba.tiles.folder import TileFolder
from napari_2dmamba.tiles.settings import TileTraining

_STATE, _LOG = "training-state.pt", "training.csv"


def fit_tiles(
    tiles: TileFolder,
    out: str | Path,
    settings: TileTraining | None = None,
    *,
    validation: TileFolder | None = None,
    arguments: dict[str, Any] | None = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> TileClassifier:
    """Train a classifier; ``out`` gets the one of the best epoch, a log, and what resumes it.

    The same call goes on where it was stopped, at the last finished epoch.

    Parameters
    ----------
    tiles
        To train on.
    out
        Folder.
    settings
        How; defaults when absent.
    validation
        To choose the epoch by; None holds back a share of ``tiles``.
    arguments
        More arguments of ``timm.create_model``, such as ``{"depths": [1, 1], "dims": 16}``.
    on_progress, should_stop
        Called for every batch.

    Returns
    -------
    TileClassifier
        The one of the epoch with the highest balanced accuracy.

    Raises
    ------
    FeatureError
        When there is one class only, the validation folder has other classes, an image cannot be
        decoded, or the loss is not a number.
    CheckpointError
        When ``out`` holds a training with other settings, or cannot be written.
    Cancelled
        When ``should_stop`` says so; finished epochs stay in ``out``.
    """
    settings = settings or TileTraining()
    validate(settings)
    out, arguments = Path(out), dict(arguments or {})
    if len(tiles.classes) < 2:
        raise FeatureError(f"{tiles.path} has one class only; a classifier needs two or more")
    size = tiles.tile_size()
    remarks = []
    if validation is None:
        tiles, validation = tiles.split(settings.held_back, settings.seed)
        remarks.append(
            "single tiles were held back: tiles of one slide may be on both sides, so that the "
            "balanced accuracy flatters; give a validation folder of other slides"
        )
    if again := validation.also_in(tiles):
        remarks.append(
            f"{len(again)} of {len(validation)} validation tiles (first {again[0].name}) are in "
            "the training too, so that their accuracy is no test"
        )
    if validation.classes != tiles.classes:
        raise FeatureError(
            f"{validation.path} was opened with the classes {', '.join(validation.classes)}, and "
            f"{tiles.path} has {', '.join(tiles.classes)}; open it with these, in this order"
        )
    _seed(settings.seed, 0)
    network, transform = _start(settings, len(tiles.classes), arguments)
    record = {
        **{k: v for k, v in dataclasses.asdict(settings).items() if k not in ("device", "workers")},
        "arguments": arguments, "classes": list(tiles.classes), "tiles": len(tiles),
        "validation_tiles": len(validation), "files": tiles.digest(), "validation_files":
        validation.digest(),
    }  # fmt: skip
    device = choose_device(settings.device)
    network.to(device)
    steps = -(-len(tiles) // settings.batch_size)
    run = _Run(network, settings, out, json.dumps(record, sort_keys=True), steps)
    first = run.resume(device)
    classifier = TileClassifier(
        network, settings.model, arguments, tiles.classes, transform, settings.tile_mpp,
        patch_size=size,
    )  # fmt: skip
    tiles.transform = _augmentation(settings, transform)
    for epoch in range(first, settings.epochs):
        started = time.perf_counter()
        _seed(settings.seed, epoch + 1)
        loss = run.train(tiles, epoch, device, on_progress, should_stop)
        scores = evaluate(
            classifier, validation, batch_size=settings.batch_size, device=settings.device,
            should_stop=should_stop,
        ).summary()  # fmt: skip
        accuracy = scores["balanced_accuracy"]
        if accuracy > run.best:
            run.best = accuracy
            classifier.training = record | {
                "epoch": epoch + 1, "balanced_accuracy": accuracy, "remarks": remarks,
            }  # fmt: skip
            classifier.save(out)
        run.finish_epoch(
            epoch,
            {
                "epoch": epoch + 1, "loss": loss, "balanced_accuracy": accuracy,
                "top1": scores["top1"], "seconds": round(time.perf_counter() - started, 2),
            },
        )  # fmt: skip
    return TileClassifier.load(out)


class _Run:
    """Optimiser, schedule and log of one training, and what is kept to resume it."""

    def __init__(
        self, network: nn.Module, settings: TileTraining, out: Path, record: str, steps: int
    ) -> None:
        from timm.optim import create_optimizer_v2
        from timm.scheduler import create_scheduler_v2

        self.network, self.settings, self.out, self.record = network, settings, out, record
        self.best = -1.0
        self.log: list[dict[str, Any]] = []
        self.optimizer = create_optimizer_v2(
            network, "adamw", lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.schedule, _ = create_scheduler_v2(
            self.optimizer,
            "cosine",
            num_epochs=settings.epochs,
            warmup_epochs=min(settings.warmup_epochs, settings.epochs - 1),
            warmup_lr=settings.learning_rate / 100,
            min_lr=settings.learning_rate / 100,
            step_on_epochs=False,
            updates_per_epoch=steps,
        )

    def resume(self, device: torch.device) -> int:
        """Take up a stopped training; return the first epoch to do."""
        path = self.out / _STATE
        if not path.exists():
            return 0
        try:
            kept = torch.load(path, map_location=device, weights_only=True)
            same = kept["record"] == self.record
        except Exception as error:
            raise CheckpointError(
                f"{path} is damaged ({type(error).__name__}); remove it to start again"
            ) from error
        if not same:
            raise CheckpointError(
                f"{self.out} holds a training with other settings, classes or tiles; "
                "choose another folder, or remove it to start again"
            )
        self.network.load_state_dict(kept["network"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.best, self.log = kept["best"], kept["log"]
        return int(kept["epoch"]) + 1

    def train(
        self,
        tiles: TileFolder,
        epoch: int,
        device: torch.device,
        on_progress: ProgressCallback | None,
        should_stop: StopCallback | None,
    ) -> float:
        """Train for an epoch; return the mean loss."""
        self.network.train()
        loader: DataLoader[Any] = DataLoader(
            tiles,  # type: ignore[arg-type]
            self.settings.batch_size,
            shuffle=True,
            num_workers=self.settings.workers,
        )
        total = 0.0
        for number, (images, labels) in enumerate(loader):
            if should_stop is not None and should_stop():
                raise Cancelled(f"training was stopped in epoch {epoch + 1}")
            self.schedule.step_update(epoch * len(loader) + number)
            logits = self.network(images.to(device))
            loss = functional.cross_entropy(
                logits, labels.to(device), label_smoothing=self.settings.label_smoothing
            )
            if not torch.isfinite(loss):
                raise FeatureError(
                    f"the loss of epoch {epoch + 1} is not a number; lower the learning rate "
                    f"({self.settings.learning_rate:g})"
                )
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self.optimizer.step()
            total += loss.item() * len(labels)
            if on_progress is not None:
                done = epoch * len(loader) + number + 1
                message = f"Epoch {epoch + 1}, loss {loss.item():.3f}"
                on_progress(done, self.settings.epochs * len(loader), message)
        return total / len(tiles)

    def finish_epoch(self, epoch: int, row: dict[str, Any]) -> None:
        """Write the log and what resumes the training."""
        self.log.append(row)
        state = {
            "record": self.record, "epoch": epoch, "best": self.best, "log": self.log,
            "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        with atomic_write(self.out / _STATE, CheckpointError) as part:
            torch_save(state, part)
        with (
            atomic_write(self.out / _LOG, CheckpointError) as part,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, self.log[0].keys())
            writer.writeheader()
            writer.writerows(self.log)


def _start(
    settings: TileTraining, classes: int, arguments: dict[str, Any]
) -> tuple[nn.Module, Transform]:
    """Return the network with a new head, and its transform."""
    from napari_2dmamba.features.timm_encoder import LoadedNetwork, require_timm

    told = require_timm().get_pretrained_cfg(settings.model, allow_unregistered=True)
    if told is not None and told.fixed_input_size:
        arguments.setdefault("img_size", settings.input_size)
    if settings.weights is None:
        network = create(settings.model, **arguments)
        loaded = LoadedNetwork(network, dict(vars(network)["pretrained_cfg"]), "")
    else:
        file = None if settings.weights == "pretrained" else settings.weights
        loaded = load_network(settings.model, file, **arguments)
    reset = getattr(loaded.network, "reset_classifier", None)
    if reset is None:
        raise FeatureError(f"{settings.model} has no classifier to train; choose another model")
    reset(classes)
    if settings.checkpointing:
        enable = getattr(loaded.network, "set_grad_checkpointing", None)
        if enable is None:
            raise FeatureError(f"{settings.model} cannot compute blocks again; leave that out")
        enable(True)
    return loaded.network, dataclasses.replace(loaded.transform, size=settings.input_size)


def _augmentation(settings: TileTraining, transform: Transform) -> Any:
    """Return timm's transform of training images."""
    from timm.data import create_transform

    size = (3, transform.size, transform.size)
    given: dict[str, Any] = {"mean": transform.mean, "std": transform.std}
    if settings.augmentation == "none":
        return create_transform(size, interpolation=transform.interpolation, crop_pct=1.0, **given)
    more: dict[str, Any] = {"scale": (0.7, 1.0), "vflip": 0.5, "color_jitter": 0.2}
    if settings.augmentation == "randaugment":
        more = {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "re_mode": "pixel"}
    return create_transform(
        size, is_training=True, interpolation=transform.interpolation, **given, **more
    )


def _seed(seed: int, epoch: int) -> None:
    import random

    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    torch.manual_seed(mixed)
    random.seed(mixed)
    np.random.seed(mixed)  # noqa: NPY002  (timm's augmentation draws from it)
