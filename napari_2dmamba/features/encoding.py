"""Batches of patches on their way through an encoder, in order; on a GPU some are ahead.

A GPU computes while the host does something else, as long as it has something to do. So on a CUDA
device batches are begun before the results of those before them are fetched: there are always up to
`_AHEAD` waiting on the device while the host reads, writes and begins the next. Elsewhere the host
itself computes, and each batch is done before the next is taken.

What was begun is finished and handed over, whatever comes after it: an error, or a wish to stop, in
the batch after. So nothing that a caller would have had without looking ahead is lost.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.model_encoder import is_out_of_memory

if TYPE_CHECKING:
    from napari_2dmamba.features.encoder import Encoder

Label = TypeVar("Label")
"""What a caller knows a batch by."""

_AHEAD = 2
"""One is being computed and one waits, whatever holds up the host for as long as a batch takes."""

_log = logging.getLogger(__name__)


def batches_ahead(device: torch.device) -> int:
    """Return how many batches are begun before the result of the first is fetched."""
    return _AHEAD if device.type == "cuda" else 0


def encode_in_order(
    encoder: "Encoder",
    batches: Iterable[tuple[Label, NDArray[np.uint8]]],
    mpp: float | None,
    normalise: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Generator[tuple[Label, NDArray[np.float32]]]:
    """Yield the features ``(B, D)`` of each batch, in the order of the batches.

    Parameters
    ----------
    batches
        Pairs of a label and ``(B, H, W, 3)`` uint8 patches, from `patch_memory` for speed. Pixels
        must stay as they are while this generator holds the array.
    mpp
        µm per pixel of the patches.
    normalise
        What happens to patches on the encoder's device before it sees them.

    Raises
    ------
    FeatureError
        When the encoder or the device fails, or memory does not suffice. This, as any `Exception`
        of ``batches``, comes after the features of the batches before, as if none were ahead.
    """

    def encode(patches: torch.Tensor) -> torch.Tensor:
        if normalise is not None:
            patches = normalise(patches)
        return encoder.encode(patches, mpp).float()

    device = encoder.device
    lane = _lane(device, encode)
    ahead = batches_ahead(device)
    begun: deque[tuple[Label, _Begun]] = deque()
    failure: Exception | None = None
    source = iter(batches)
    ended = False
    try:
        while not ended or begun:
            if not ended:
                try:
                    batch = next(source, None)
                    if batch is None:
                        ended = True
                    else:
                        begun.append((batch[0], _begin(lane, batch[1], device)))
                except Exception as error:  # noqa: BLE001  # raised below, in its turn
                    failure, ended = error, True
            if begun and (ended or len(begun) > ahead):
                label, oldest = begun.popleft()
                features = lane.result(oldest)
                del oldest  # its memory is for the next batch
                yield label, features
        if failure is not None:
            raise failure
    finally:
        lane.settle()
        failure = None  # else the error and this frame keep each other, and the pixels


def patch_memory(device: torch.device) -> Callable[[tuple[int, ...]], NDArray[np.uint8]]:
    """Return what makes memory for batches that go to a device, given their shape.

    For a CUDA device it is page-locked, from which copies run beside everything else; where the
    system grants none of that, ordinary memory does, and the host waits for each copy.
    """
    if device.type != "cuda":
        return lambda shape: np.empty(shape, np.uint8)

    def pinned(shape: tuple[int, ...]) -> NDArray[np.uint8]:
        try:
            with torch.cuda.device(device):  # else a context is made on the first GPU as well
                return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
        except RuntimeError as error:
            _log.warning("patches go to %s from ordinary memory: %s", device, _first_line(error))
            return np.empty(shape, np.uint8)

    return pinned


class _Begun(NamedTuple):
    """A batch on its way, and all the memory it needs until its features are there."""

    features: torch.Tensor
    done: "torch.cuda.Event | None" = None
    in_use: tuple[object, ...] = ()


class _Lane(Protocol):
    """A place where batches are computed, one after the other."""

    def begin(self, pixels: NDArray[np.uint8]) -> _Begun:
        """Queue the encoding of patches."""
        ...

    def result(self, begun: _Begun) -> NDArray[np.float32]:
        """Wait for it, and return the features, in memory of their own."""
        ...

    def settle(self) -> None:
        """Wait until nothing under way uses memory that is about to be let go."""
        ...


class _HostLane:
    """Encodes at once."""

    def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._encode = encode

    def begin(self, pixels: NDArray[np.uint8]) -> _Begun:
        return _Begun(self._encode(torch.from_numpy(pixels)))

    def result(self, begun: _Begun) -> NDArray[np.float32]:
        return begun.features.cpu().numpy()

    def settle(self) -> None:
        """Nothing is under way."""


class _CudaLane:
    """Queues the copy in, the encoder and the copy out, and comes back before they have run.

    Copies in have a stream of their own and run while the batch before is computed.

    Why no memory is used again too early: of each batch the pixels on the host, the patches on the
    device and the features on the host are referred to (`_Begun`) until its event has passed, which
    lies behind everything that reads or writes them; torch's allocators and the reader give memory
    to others only when nobody refers to it. What the encoder allocates lives on the one stream that
    it computes on, where the allocator keeps the order.
    """

    def __init__(
        self, device: torch.device, encode: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        self._device, self._encode = device, encode
        self._copies = torch.cuda.Stream(device)
        self._computing = torch.cuda.current_stream(device)

    def begin(self, pixels: NDArray[np.uint8]) -> _Begun:
        with torch.cuda.device(self._device):
            with torch.cuda.stream(self._copies):
                patches = torch.from_numpy(pixels).to(self._device, non_blocking=True)
            self._computing.wait_stream(self._copies)
            found = self._encode(patches)
            features = torch.empty(found.shape, dtype=torch.float32, pin_memory=True)
            features.copy_(found, non_blocking=True)
            done = torch.cuda.Event(blocking=True)  # waits asleep: cores are for the decoders
            done.record(self._computing)
        return _Begun(features, done, (pixels, patches))

    def result(self, begun: _Begun) -> NDArray[np.float32]:
        assert begun.done is not None
        try:
            begun.done.synchronize()
        except RuntimeError as error:
            raise FeatureError(
                f"{self._device} failed while it encoded ({_first_line(error)}); restart the "
                "program, which goes on from the last batch that is kept"
            ) from error
        return begun.features.numpy().copy()  # page-locked memory is scarce, and used again

    def settle(self) -> None:
        with contextlib.suppress(RuntimeError):  # of a device that failed, which was told
            self._copies.synchronize()
            self._computing.synchronize()


def _lane(device: torch.device, encode: Callable[[torch.Tensor], torch.Tensor]) -> _Lane:
    return _CudaLane(device, encode) if device.type == "cuda" else _HostLane(encode)


def _begin(lane: _Lane, pixels: NDArray[np.uint8], device: torch.device) -> _Begun:
    try:
        return lane.begin(pixels)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise FeatureError(
            f"{len(pixels)} patches at once do not fit into the memory of {device}; choose a "
            f"smaller batch size{'' if device.type == 'cpu' else ', or the CPU'}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
