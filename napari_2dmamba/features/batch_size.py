"""How many patches an encoder is given at once: measured on patches of the slide at hand.

Batches are doubled while that makes the encoder faster and memory allows. What is found is kept
for the encoder, device, precision and size of patches (`encoder_speed`), and taken without
measuring from then on: the last bits of a network's features can depend on the size of the batches,
so it must not change from run to run.
"""

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import psutil
import torch

from napari_2dmamba.errors import Cancelled
from napari_2dmamba.features.encoding import batches_ahead
from napari_2dmamba.settings import StopCallback

if TYPE_CHECKING:
    from napari_2dmamba.features.encoder import Encoder

SAMPLE = 16
"""Patches that are measured on; larger batches hold them several times."""

WORTH = 512
"""Patches to come from which measuring pays; fewer are done in the time it takes."""

_FIRST = 4
_MOST_CPU, _MOST_GPU = 64, 512
_LEAST_GAIN = 1.05
_SECONDS = 20.0
"""No size is tried after that long; what was best by then is taken."""
_LONGEST_BATCH = 4.0
"""Seconds: a job that is paused or cancelled ends its batch first."""
_BATCHES_IN_HAND = 4
"""Two read ahead, one in use and the one before; `encoding` has more where it looks ahead."""


@dataclass(frozen=True)
class MeasuredBatchSize:
    """What measuring found.

    Attributes
    ----------
    batch_size
        The smallest size that is within 5 % of the fastest.
    patches_per_second
        Of the encoder alone, at this size.
    patches
        How many patches were encoded for that.
    tried
        Patches per second by batch size, in the order they were tried.
    """

    batch_size: int
    patches_per_second: float
    patches: int
    tried: dict[int, float]


def default_batch_size(device: torch.device) -> int:
    """Return the size of batches where nothing was measured."""
    return 64 if device.type == "cuda" else 16


def measure_batch_size(
    encoder: "Encoder",
    sample: torch.Tensor,
    mpp: float | None,
    should_stop: StopCallback | None = None,
) -> MeasuredBatchSize:
    """Encode batches of growing size and return the size to take.

    Parameters
    ----------
    sample
        ``(n, H, W, 3)`` uint8, real patches; their features are thrown away.
    mpp
        µm per pixel of the patches.

    Raises
    ------
    Cancelled
        When ``should_stop()`` said so.
    FeatureError
        As `Encoder.encode`.
    """
    began = time.monotonic()
    tried: dict[int, float] = {}
    patches = 0
    most = _MOST_CPU if encoder.device.type == "cpu" else _MOST_GPU
    size = _FIRST
    watch = _MemoryWatch(encoder.device)
    encoder.encode(_batch(sample, _FIRST), mpp).cpu()  # what only the first call does
    while size <= most:
        batch = _batch(sample, size)
        taken: list[float] = []
        with watch:
            while len(taken) < 2 or (len(taken) < 5 and sum(taken) < 0.2):
                if should_stop is not None and should_stop():
                    raise Cancelled("stopped before the first patch")
                start = time.perf_counter()
                encoder.encode(batch, mpp).cpu()
                taken.append(time.perf_counter() - start)
                if sum(taken) > 1:
                    break
        tried[size] = size / max(min(taken), 1e-9)
        patches += size * len(taken)
        earlier = list(tried.values())[:-2]
        if earlier and max(list(tried.values())[-2:]) < _LEAST_GAIN * max(earlier):
            break  # two doublings brought nothing: one may be the noise of a busy machine
        size *= 2
        in_hand = _BATCHES_IN_HAND + batches_ahead(encoder.device)
        waiting = in_hand * size * sample[0].numel()
        too_long = 2 * min(taken) > _LONGEST_BATCH or time.monotonic() - began > _SECONDS
        if too_long or not watch.has_room_for_twice(waiting):
            break
    good = max(tried.values()) / _LEAST_GAIN
    best = next(size for size, speed in tried.items() if speed >= good)
    return MeasuredBatchSize(best, tried[best], patches, tried)


def _batch(sample: torch.Tensor, size: int) -> torch.Tensor:
    return sample[torch.arange(size) % len(sample)]


class _MemoryWatch:
    """The most memory that batches took beyond what was in use before the first of them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._before = self._used()
        self._peak = 0
        self._ended = threading.Event()

    def has_room_for_twice(self, waiting: int) -> bool:
        """Whether twice of what the last batch took, and ``waiting`` bytes read ahead, fit.

        Half of what is free is left to others; on a GPU, a fifth.
        """
        free = psutil.virtual_memory().available
        if self._device.type == "cuda":
            free_there, _ = torch.cuda.mem_get_info(self._device)
            cached = torch.cuda.memory_reserved(self._device) - self._used()
            return 2 * self._peak < 0.8 * (free_there + cached) and waiting < free // 4
        return 2 * self._peak + waiting < free // 2

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return self
        self._ended.clear()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device) - self._before
            self._peak = max(self._peak, peak)
            return
        self._ended.set()
        self._thread.join()

    def _used(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return int(self._process.memory_info().rss)

    def _sample(self) -> None:
        """Look at what the process holds, for a device that keeps no peak itself."""
        while True:
            self._peak = max(self._peak, self._used() - self._before)
            if self._ended.wait(0.005):
                return
