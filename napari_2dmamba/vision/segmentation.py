"""Segment a picture of any size window by window, blended, in bounded memory, resumable.

Windows lie on one lattice over the whole picture. Where they overlap, their probabilities are
averaged with weights that fall towards a window's edge. The picture is done in blocks; every
window that touches a block counts in it, so that the result does not depend on the blocks.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import Cancelled, CheckpointError, FeatureError
from napari_2dmamba.settings import ProgressCallback, StopCallback, validate
from napari_2dmamba.vision.class_facts import require_classes
from napari_2dmamba.vision.region import Picture, Place
from napari_2dmamba.vision.segment_settings import WindowSettings

_LABELS, _CERTAINTY, _STATE = "labels.npy", "certainty.npy", "segmentation.json"


@dataclass(frozen=True)
class Segmentation:
    """Classes of the pixels of a picture.

    Attributes
    ----------
    labels
        ``(h, w)`` uint16, k + 1 for class k; 0 is not used. A memory map where it lies in a file.
    certainty
        ``(h, w)`` uint8: probability of that class, of 255.
    classes
        K names.
    place
        Where it lies.
    colours
        Of the classes, where somebody chose them.
    remarks
        What is to be known of it, in sentences.
    """

    labels: NDArray[np.uint16]
    certainty: NDArray[np.uint8]
    classes: tuple[str, ...]
    place: Place
    colours: tuple[tuple[int, int, int], ...] = ()
    remarks: tuple[str, ...] = ()


def normaliser(mean: Sequence[float], std: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """Return what turns ``(B, 3, h, w)`` of 0 to 255 into a network's input."""
    m, s = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (mean, std))
    return lambda pixels: (pixels - m.to(pixels.device)) / s.to(pixels.device)


def segment(
    network: nn.Module,
    picture: Picture,
    classes: Sequence[str],
    settings: WindowSettings | None = None,
    *,
    normalise: Callable[[Tensor], Tensor],
    identity: str = "",
    out: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Segmentation:
    """Return the most probable class of every pixel.

    Parameters
    ----------
    network
        Takes ``(B, 3, h, w)``, returns logits ``(B, K, h, w)``; in evaluation mode, on its device.
    picture
        Read one window at a time.
    classes
        K names.
    settings
        How; defaults when absent.
    normalise
        See `normaliser`.
    identity
        What changes with the picture or the weights; a folder of another identity is refused.
    out
        Folder that gets ``labels.npy`` and ``certainty.npy`` block by block; the same call goes
        on where it was stopped. None keeps the result in memory.
    on_progress, should_stop
        Called for every batch of windows.

    Raises
    ------
    FeatureError
        When the network's answers have another shape than the classes, or are not numbers.
    CheckpointError
        When ``out`` holds something else, or cannot be written; for fewer than two classes.
    Cancelled
        When ``should_stop`` says so; finished blocks stay in ``out``.
    """
    settings = settings or WindowSettings()
    validate(settings)
    require_classes(classes)
    height, width = picture.shape
    starts = _starts(height, settings), _starts(width, settings)
    blocks = list(_blocks(picture.shape, len(classes), settings))
    windows = [_touching(block, starts, settings.window) for block in blocks]
    total, before = sum(map(len, windows)), 0
    store = _Store(
        picture, len(classes), None if out is None else Path(out),
        {
            "identity": identity, "classes": list(classes), "shape": list(picture.shape),
            "origin": list(picture.origin_level0), "step": picture.step,
            "windows": {k: v for k, v in asdict(settings).items() if k != "batch_size"},
        },
    )  # fmt: skip
    weights = _weights(settings)
    device = next(network.parameters()).device
    for number, (block, touching) in enumerate(zip(blocks, windows, strict=True)):
        if number in store.done:
            before += len(touching)
            continue
        top, left, bottom, right = block
        sums = np.zeros((len(classes), bottom - top, right - left), np.float32)
        norm = np.zeros((bottom - top, right - left), np.float32)
        for first in range(0, len(touching), settings.batch_size):
            if should_stop is not None and should_stop():
                raise Cancelled("the segmentation was stopped; finished blocks are kept")
            chosen = touching[first : first + settings.batch_size]
            answers = _answers(network, picture, chosen, settings, normalise, device, len(classes))
            for (y, x), answer in zip(chosen, answers, strict=True):
                # The part of the window in the block, in coordinates of both
                y0, y1 = max(y, top), min(y + settings.window, bottom)
                x0, x1 = max(x, left), min(x + settings.window, right)
                of_window = np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
                of_block = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
                sums[:, *of_block] += answer[:, *of_window] * weights[of_window]
                norm[of_block] += weights[of_window]
            if on_progress is not None:
                on_progress(before + first + len(chosen), total, "Segmenting")
        before += len(touching)
        best = sums.argmax(0)
        certainty = np.take_along_axis(sums, best[None], 0)[0] / norm
        store.put(number, block, best, certainty)
    place = Place(picture.origin_level0, picture.step, picture.mpp)
    return Segmentation(store.labels, store.certainty, tuple(classes), place)


class _Store:
    """Labels in memory, or in a folder with a note of which blocks are done."""

    def __init__(
        self, picture: Picture, count: int, folder: Path | None, record: dict[str, object]
    ) -> None:
        self.done: list[int] = []
        self._folder, self._record = folder, record
        if folder is None:
            self.labels: NDArray[np.uint16] = np.zeros(picture.shape, np.uint16)
            self.certainty: NDArray[np.uint8] = np.zeros(picture.shape, np.uint8)
            return
        kept = self._kept()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, dtype in ((_LABELS, np.uint16), (_CERTAINTY, np.uint8)):
                path = folder / name
                mode = "r+" if kept is not None and path.exists() else "w+"
                if mode == "w+":
                    kept = None
                mapped = np.lib.format.open_memmap(
                    path, mode=mode, dtype=dtype, shape=picture.shape
                )
                setattr(self, "labels" if name == _LABELS else "certainty", mapped)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder} cannot take the segmentation ({error}); choose another folder"
            ) from error
        self.done = kept or []

    def put(
        self,
        number: int,
        block: tuple[int, int, int, int],
        best: NDArray[np.intp],
        certainty: NDArray[np.float32],
    ) -> None:
        top, left, bottom, right = block
        self.labels[top:bottom, left:right] = best + 1
        self.certainty[top:bottom, left:right] = np.rint(certainty * 255).clip(0, 255)
        self.done.append(number)
        if self._folder is not None:
            for mapped in (self.labels, self.certainty):
                if isinstance(mapped, np.memmap):
                    mapped.flush()
            with atomic_write(self._folder / _STATE, CheckpointError) as part:
                part.write_text(json.dumps(self._record | {"done": self.done}))

    def _kept(self) -> list[int] | None:
        """Return the blocks that are done; None for a new folder."""
        assert self._folder is not None
        path = self._folder / _STATE
        if not path.exists():
            return None
        try:
            told = json.loads(path.read_text())
            done = [int(n) for n in told.pop("done")]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged; remove it to start again") from error
        if told != self._record:
            raise CheckpointError(
                f"{self._folder} holds the segmentation of another picture, network or setting; "
                "choose another folder, or remove it"
            )
        return done


def _answers(
    network: nn.Module,
    picture: Picture,
    corners: list[tuple[int, int]],
    settings: WindowSettings,
    normalise: Callable[[Tensor], Tensor],
    device: torch.device,
    count: int,
) -> NDArray[np.float32]:
    """Return ``(B, K, window, window)`` probabilities of windows."""
    side = settings.window
    pixels = np.stack([picture.read(y, x, side, side) for y, x in corners])
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        logits = network(normalise(images))
    if logits.shape != (len(corners), count, side, side):
        raise FeatureError(
            f"the network answers {tuple(logits.shape)} for {count} classes and windows of {side} "
            "pixels; give the names of its classes"
        )
    probabilities = logits.float().softmax(1).cpu().numpy()
    if not np.isfinite(probabilities).all():
        raise FeatureError("the network's answers are not numbers; its weights are damaged")
    return probabilities


def _starts(length: int, settings: WindowSettings) -> list[int]:
    """Return where windows start along an axis; the last ends with it."""
    stride = max(1, round(settings.window * (1 - settings.overlap)))
    last = max(0, length - settings.window)
    return [*range(0, last, stride), last]


def _weights(settings: WindowSettings) -> NDArray[np.float32]:
    """Return ``(window, window)`` weights: 1 within, falling over the overlap to the edge."""
    ramp = max(1, round(settings.window * settings.overlap))
    away = np.arange(settings.window) + 0.5
    side = np.minimum(away, settings.window - away) / ramp
    line = np.minimum(side, 1.0).astype(np.float32)
    return line[:, None] * line[None]


def _blocks(
    shape: tuple[int, int], count: int, settings: WindowSettings
) -> Iterator[tuple[int, int, int, int]]:
    """Yield ``(top, left, bottom, right)`` of blocks whose sums fit the memory."""
    pixels = max(1, settings.memory * 2**20 // (4 * (count + 1)))
    height = max(1, min(shape[0], max(settings.window, math.isqrt(pixels)), pixels))
    width = max(1, min(shape[1], pixels // height))
    for top in range(0, shape[0], height):
        for left in range(0, shape[1], width):
            yield top, left, min(top + height, shape[0]), min(left + width, shape[1])


def _touching(
    block: tuple[int, int, int, int], starts: tuple[list[int], list[int]], window: int
) -> list[tuple[int, int]]:
    top, left, bottom, right = block
    return [
        (y, x)
        for y in starts[0]
        if y < bottom and y + window > top
        for x in starts[1]
        if x < right and x + window > left
    ]
