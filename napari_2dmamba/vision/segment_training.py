"""Fine-tune a segmenter on images and masks."""

import csv
import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_2dmamba.atomic_files import atomic_write, torch_save
from napari_2dmamba.errors import Cancelled, CheckpointError, FeatureError
from napari_2dmamba.settings import ProgressCallback, StopCallback, validate
from napari_2dmamba.vision.backbone import VisionMamba
from napari_2dmamba.vision.mask_folder import MaskFolder
from napari_2dmamba.vision.segment_settings import SegmentTraining
from napari_2dmamba.vision.segmentation import normaliser
from napari_2dmamba.vision.segmenter_file import TrainedSegmenter
from napari_2dmamba.vision.upernet import Segmenter
from napari_2dmamba.vision.weights import load_backbone

_AUXILIARY = 0.4


def fit_segmenter(
    pairs: MaskFolder,
    classes: tuple[str, ...],
    out: str | Path,
    settings: SegmentTraining | None = None,
    *,
    colours: tuple[tuple[int, int, int], ...] = (),
    save_every: int = 100,
    device: torch.device | str = "cpu",
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> TrainedSegmenter:
    """Train a segmenter on random crops; write it to ``out`` and its losses beside it.

    The same call goes on where it was stopped or killed, and ends with the same numbers (on a CPU;
    a GPU rounds in another order each time). Crops and dropout of a step follow from the seed and
    its number; the rest is in a file beside ``out`` until the training has ended.

    Parameters
    ----------
    pairs
        To train on.
    classes
        K names.
    out
        ``.safetensors`` file.
    settings
        How; defaults when absent.
    colours
        Red, green and blue of each class; kept with the segmenter.
    save_every
        Steps between two states that a killed training goes on from.
    device
        Where.
    on_progress, should_stop
        Called for every step; a stopped training keeps its state.

    Raises
    ------
    FeatureError
        When a pair cannot be read, a class has no pixel, or the loss is not a number.
    CheckpointError
        When weights cannot be read, ``out`` cannot be written, or the state beside it is damaged
        or of another training.
    """
    settings = settings or SegmentTraining()
    validate(settings)
    pairs.require_all(classes)
    torch.manual_seed(settings.seed)
    out = Path(out)
    scan: Any = settings.scan
    if settings.weights is None:
        backbone = VisionMamba(
            scan=scan, depths=[int(d) for d in settings.depths.split(",")], dims=settings.dims,
            num_classes=0,
        )  # fmt: skip
    else:
        backbone = load_backbone(settings.weights, scan)
    network = Segmenter(backbone, len(classes), settings.channels, settings.channels // 2)
    network.train().to(device)
    made = TrainedSegmenter(network, classes, mpp=settings.image_mpp, colours=colours)
    normalise = normaliser(made.mean, made.std)
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    warmup = max(1, settings.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda n: min((n + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * n / settings.steps)),
    )
    state = _State(out, _fingerprint(pairs, classes, settings), network, optimizer, schedule)
    losses = state.resume(device)
    for step in range(len(losses), settings.steps):
        if should_stop is not None and should_stop():
            state.save(losses)
            raise Cancelled(f"training was stopped after {step} steps, and goes on from there")
        torch.manual_seed(int(np.random.SeedSequence([settings.seed, step]).generate_state(1)[0]))
        images, truth = _batch(pairs, settings, np.random.default_rng([settings.seed, step]))
        logits, auxiliary = network.forward_training(normalise(images.to(device)))
        truth = truth.to(device)
        loss = _loss(logits, truth)
        if auxiliary is not None:
            loss = loss + _AUXILIARY * _loss(auxiliary, truth)
        if not torch.isfinite(loss):
            raise FeatureError(
                f"the loss of step {step + 1} is not a number; lower the learning rate "
                f"({settings.learning_rate:g})"
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % save_every == 0:
            state.save(losses)
        if on_progress is not None:
            on_progress(step + 1, settings.steps, f"Loss {losses[-1]:.3f}")
    made.training = dataclasses.asdict(settings) | {"images": len(pairs), "last_loss": losses[-1]}
    made.network.eval()
    made.save(out)
    with (
        atomic_write(out.with_suffix(".csv"), CheckpointError) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("step", "loss"))
        writer.writerows(enumerate(losses, start=1))
    state.path.unlink(missing_ok=True)
    return made


class _State:
    """What a stopped training goes on from, in a file beside the segmenter."""

    def __init__(
        self,
        out: Path,
        fingerprint: str,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self.path = out.with_suffix(".training-state.pt")
        self._fingerprint = fingerprint
        self._parts: dict[str, Any] = {
            "network": network, "optimizer": optimizer, "schedule": schedule
        }  # fmt: skip

    def resume(self, device: torch.device | str) -> list[float]:
        """Take up weights and optimiser; return the losses so far, none where nothing was kept."""
        if not self.path.is_file():
            return []
        advice = f"remove {self.path.name} to start again, or choose another file for the segmenter"
        try:
            kept = torch.load(self.path, map_location=device, weights_only=True)
            same = kept["fingerprint"] == self._fingerprint
            losses = [float(one) for one in kept["losses"]]
            if same:
                for name, part in self._parts.items():
                    part.load_state_dict(kept[name])
        except Exception as error:  # whatever a damaged file makes torch raise
            raise CheckpointError(
                f"{self.path.name} is damaged ({type(error).__name__}); {advice}"
            ) from error
        if not same:
            raise CheckpointError(
                f"{self.path.name} belongs to a training with other settings, classes or images; "
                f"{advice}"
            )
        return losses

    def save(self, losses: list[float]) -> None:
        """Write it whole or not at all."""
        kept = {name: part.state_dict() for name, part in self._parts.items()}
        with atomic_write(self.path, CheckpointError) as part:
            torch_save({"fingerprint": self._fingerprint, "losses": losses, **kept}, part)


def _fingerprint(pairs: MaskFolder, classes: tuple[str, ...], settings: SegmentTraining) -> str:
    """Return a hash of what the numbers of a training depend on: images by name and size."""
    files = [(path.name, path.stat().st_size) for path in (*pairs.images, *pairs.masks)]
    told = (classes, dataclasses.asdict(settings), files)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _loss(logits: Tensor, truth: Tensor) -> Tensor:
    return functional.cross_entropy(logits, truth, ignore_index=-1)


def _batch(
    pairs: MaskFolder, settings: SegmentTraining, draw: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return crops, mirrored at random, that hold at least one pixel with a class."""
    images, masks = [], []
    side = settings.crop
    for _ in range(20 * settings.batch_size):
        image, mask = pairs.pair(int(draw.integers(len(pairs))))
        down, right = (max(0, side - n) for n in mask.shape)
        image = np.pad(image, ((0, down), (0, right), (0, 0)), constant_values=255)
        mask = np.pad(mask, ((0, down), (0, right)), constant_values=-1)
        y, x = (int(draw.integers(n - side + 1)) for n in mask.shape)
        image, mask = image[y : y + side, x : x + side], mask[y : y + side, x : x + side]
        if (mask < 0).all():
            continue
        for axis in (0, 1):
            if draw.random() < 0.5:
                image, mask = np.flip(image, axis), np.flip(mask, axis)
        images.append(torch.from_numpy(image.copy()).permute(2, 0, 1).float())
        masks.append(torch.from_numpy(mask.copy()))
        if len(images) == settings.batch_size:
            return torch.stack(images), torch.stack(masks)
    raise FeatureError(
        "hardly a crop has a pixel with a class; label more of the masks (0 is no class)"
    )
