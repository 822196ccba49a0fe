"""Memory of 2DMambaMIL: large canvases pass the scan a few channels at a time."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from napari_2dmamba.models import mamba2d_block
from napari_2dmamba.models.mamba2d import Mamba2DConfig, Mamba2DMIL
from napari_2dmamba.scan import backend_for

CANVAS = (100, 90)
VARIANTS = {
    "sparse": (Mamba2DConfig(feature_size=32, n_outputs=2), 0.1),
    "dense": (Mamba2DConfig(feature_size=32, n_outputs=2), 0.6),
    "layers": (Mamba2DConfig(feature_size=32, n_outputs=2, n_layers=2), 0.3),
    "corners": (Mamba2DConfig(feature_size=32, n_outputs=2, directions=4), 0.3),
    "norms": (Mamba2DConfig(feature_size=32, n_outputs=2, inner_norms=True), 0.2),
    "1d": (Mamba2DConfig(feature_size=32, n_outputs=2, scan="1d"), 0.3),
    "odd": (Mamba2DConfig(feature_size=32, n_outputs=2, d_model=24, expand=3), 0.2),
}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, made by any operator."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak, self.seen = 0, 0, set[int]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.seen:
                storage = tensor.untyped_storage()
                self.seen.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def forget(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def a_slide(
    name: str, dtype: torch.dtype, canvas: tuple[int, int] = CANVAS
) -> tuple[Mamba2DMIL, tuple[Tensor, Tensor, tuple[int, int]]]:
    config, share = VARIANTS[name]
    torch.manual_seed(3)
    model = Mamba2DMIL(config).to(dtype).eval()
    count = int(share * canvas[0] * canvas[1])
    place = torch.randperm(canvas[0] * canvas[1])[:count].sort().values
    cells = torch.stack([place // canvas[1], place % canvas[1]], dim=1)
    return model, (torch.randn(count, 32, dtype=dtype), cells, canvas)


@pytest.mark.parametrize("name", VARIANTS)
def test_few_channels_at_a_time_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = a_slide(name, torch.float64, (13, 11))
    with torch.inference_mode():
        whole = model(*inputs)
        monkeypatch.setattr(mamba2d_block, "SCAN_FLOATS", 0)
        monkeypatch.setattr(mamba2d_block, "LEAST_CHANNELS", 20)  # the last part is smaller
        assert mamba2d_block.channels_at_once(model.config, 143) == 20
        parts = model(*inputs)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.scores, whole.scores, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("floats", [0, 2**24])
@pytest.mark.parametrize("name", VARIANTS)
def test_memory_is_what_a_run_is_refused_by(
    name: str, floats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mamba2d_block, "SCAN_FLOATS", floats)
    model, inputs = a_slide(name, torch.float32)
    if backend_for(inputs[0]).name == "definition":
        pytest.skip("the definition keeps more than the kernels")
    patches, cells = len(inputs[0]), CANVAS[0] * CANVAS[1]
    with torch.inference_mode(), LiveBytes() as live:
        model(*inputs)
    promised = 4 * model.peak_floats(patches, cells)
    assert 0.5 * promised < live.peak <= promised


@pytest.mark.parametrize("name", VARIANTS)
def test_memory_of_a_training_step_is_what_it_is_refused_by(name: str) -> None:
    model, inputs = a_slide(name, torch.float32)
    if backend_for(inputs[0]).name == "definition":
        pytest.skip("the definition keeps more than the kernels")
    with LiveBytes() as live:
        model.train()(*inputs).logits.sum().backward()
    promised = 4 * model.kept_floats(len(inputs[0]), CANVAS[0] * CANVAS[1])
    assert 0.5 * promised < live.peak <= promised
