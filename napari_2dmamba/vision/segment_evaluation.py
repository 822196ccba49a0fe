"""Mean intersection over union of a segmenter on images and masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from napari_2dmamba.errors import Cancelled, FeatureError
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.vision.mask_folder import MaskFolder
from napari_2dmamba.vision.segmentation import normaliser
from napari_2dmamba.vision.segmenter_file import TrainedSegmenter

SINGLE_SCALE = (1.0,)
MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def evaluate_segmenter(
    segmenter: TrainedSegmenter,
    pairs: MaskFolder,
    *,
    short_side: int | None = 512,
    long_side: int = 2048,
    scales: Sequence[float] = SINGLE_SCALE,
    flip: bool = False,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> dict[str, Any]:
    """Return pixel accuracy, mean IoU and the IoU of each class that is there.

    Parameters
    ----------
    segmenter
        On its device.
    pairs
        Images, each seen as a whole.
    short_side, long_side
        Images are resized until the first is met or the second reached, whichever comes first,
        as on ADE20K; answers are compared at the masks' own size. None keeps images as they are.
    scales, flip
        Sizes whose probabilities are averaged, and whether mirrored images count too;
        `MULTI_SCALE` with ``flip`` is the usual multi-scale figure.
    on_progress, should_stop
        Called for every image.

    Raises
    ------
    FeatureError
        When a pair cannot be read, or answers are not numbers.
    """
    network = segmenter.network.eval()
    device = next(network.parameters()).device
    normalise = normaliser(segmenter.mean, segmenter.std)
    count = len(segmenter.classes)
    confusion = np.zeros((count, count), np.int64)
    for index in range(len(pairs)):
        if should_stop is not None and should_stop():
            raise Cancelled("the evaluation was stopped")
        image, truth = pairs.pair(index)
        pixels = torch.tensor(image, device=device).permute(2, 0, 1)[None].float()
        factor = 1.0
        if short_side is not None:
            height, width = truth.shape
            factor = min(short_side / min(height, width), long_side / max(height, width))
        total: Tensor | None = None
        for scale in scales:
            for mirrored in (False, True) if flip else (False,):
                found = _probabilities(network, pixels, normalise, factor * scale, mirrored)
                total = found if total is None else total + found
        assert total is not None
        if not bool(torch.isfinite(total).all()):
            raise FeatureError("the network's answers are not numbers; its weights are damaged")
        answer = total.argmax(1)[0].cpu().numpy()
        told = truth >= 0
        np.add.at(confusion, (truth[told], answer[told]), 1)
        if on_progress is not None:
            on_progress(index + 1, len(pairs), "Segmenting images")
    return iou(confusion, segmenter.classes)


def iou(confusion: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Return the measures of ``(K, K)`` counts, rows the truth; classes never seen are left out."""
    both = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - both
    there = union > 0
    if not there.any():
        raise FeatureError("no pixel of the masks has a class; 0 is no class")
    found = both[there] / union[there]
    return {
        "pixel_accuracy": float(both.sum() / confusion.sum()),
        "mean_iou": float(found.mean()),
        "classes_seen": int(there.sum()),
        "iou": dict(zip(np.asarray(classes)[there].tolist(), found.tolist(), strict=True)),
    }


@torch.inference_mode()
def _probabilities(
    network: torch.nn.Module, pixels: Tensor, normalise: Any, factor: float, mirrored: bool
) -> Tensor:
    height, width = pixels.shape[2:]
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    resized = pixels
    if size != (height, width):
        resized = functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
    logits = network(normalise(resized.flip(3) if mirrored else resized))
    logits = logits.flip(3) if mirrored else logits
    logits = functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
    return logits.float().softmax(1)
