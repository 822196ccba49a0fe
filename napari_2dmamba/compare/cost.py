"""What a forward pass costs: memory and time."""

import time
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from napari_2dmamba.models.aggregator import ModelInputs

ON_CPU = (
    "most bytes of tensors held at once by the forward pass on the CPU; weights, features and "
    "what a kernel needs within one operation are not counted"
)
ON_CUDA = (
    "torch.cuda.max_memory_allocated during the forward pass, above what weights and features "
    "take before it"
)


def peak_of_forward(inputs: ModelInputs) -> tuple[int | None, str]:
    """Run a model once and return the most memory its results took at one time, in bytes.

    The size of a process says little here: it keeps what earlier models have freed, and counts
    what other threads do. So tensors are counted, on the CPU by following every operation.

    Returns
    -------
    Bytes, and one sentence that says what was counted; None where memory ran out.
    """
    on_cuda = inputs.device.startswith("cuda")
    how = ON_CUDA if on_cuda else ON_CPU
    try:
        with torch.inference_mode():
            if on_cuda:
                torch.cuda.synchronize(inputs.device)
                torch.cuda.reset_peak_memory_stats(inputs.device)
                before = torch.cuda.memory_allocated(inputs.device)
                inputs.model(inputs.features, inputs.cells, inputs.canvas)
                torch.cuda.synchronize(inputs.device)
                return torch.cuda.max_memory_allocated(inputs.device) - before, how
            with _TensorsHeld() as held:
                inputs.model(inputs.features, inputs.cells, inputs.canvas)
            return held.peak, how
    except (torch.OutOfMemoryError, MemoryError):
        return None, "n/a: memory ran out"


def fastest_pass(inputs: ModelInputs, seconds: float) -> float:
    """Return the wall time of the fastest of up to five passes, in seconds.

    ``seconds`` is what one pass took; passes are repeated only while all of them together take
    less than two seconds, for short ones are told apart from what else the machine does by
    the fastest only.
    """
    taken = [seconds]
    with torch.inference_mode():
        while len(taken) < 5 and sum(taken) < 2.0:
            started = time.perf_counter()
            # the copy waits for a GPU
            inputs.model(inputs.features, inputs.cells, inputs.canvas).logits.cpu()
            taken.append(time.perf_counter() - started)
    return min(taken)


class _TensorsHeld(TorchDispatchMode):
    """Follows which tensors' memory was made in a block and is still there."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        # a storage is known by its identity: it has neither hash nor equality of its own
        self._known: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._meet(tensor, made_here=False)
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            self._meet(tensor, made_here=True)
        self.peak = max(self.peak, self._now)
        return result

    def _meet(self, tensor: Tensor, *, made_here: bool) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self._known:
            return
        size = storage.nbytes() if made_here else 0
        self._now += size
        self._known[id(storage)] = weakref.finalize(storage, self._gone, id(storage), size)

    def _gone(self, number: int, size: int) -> None:
        self._now -= size
        self._known.pop(number, None)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
