"""Fine-tune a segmenter on images and masks."""

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_2dmamba.atomic_files import atomic_write
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
    device: torch.device | str = "cpu",
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> TrainedSegmenter:
    """Train a segmenter on random crops; write it to ``out`` and its losses beside it.

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
    device
        Where.
    on_progress, should_stop
        Called for every step; a stopped training leaves nothing.

    Raises
    ------
    FeatureError
        When a pair cannot be read, no pixel has a class, or the loss is not a number.
    CheckpointError
        When weights cannot be read, or ``out`` cannot be written.
    """
    settings = settings or SegmentTraining()
    validate(settings)
    torch.manual_seed(settings.seed)
    draw = np.random.default_rng(settings.seed)
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
    made = TrainedSegmenter(network, classes, mpp=settings.image_mpp)
    normalise = normaliser(made.mean, made.std)
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    warmup = max(1, settings.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda n: min((n + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * n / settings.steps)),
    )
    losses = []
    for step in range(settings.steps):
        if should_stop is not None and should_stop():
            raise Cancelled(f"training was stopped after {step} steps; nothing was written")
        images, truth = _batch(pairs, settings, draw)
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
        if on_progress is not None:
            on_progress(step + 1, settings.steps, f"Loss {losses[-1]:.3f}")
    made.training = dataclasses.asdict(settings) | {"images": len(pairs), "last_loss": losses[-1]}
    made.network.eval()
    out = Path(out)
    made.save(out)
    with (
        atomic_write(out.with_suffix(".csv"), CheckpointError) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("step", "loss"))
        writer.writerows(enumerate(losses, start=1))
    return made


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
