"""Extraction on a GPU: the CPU's features, and none of the faults that looking ahead could have."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from napari_2dmamba.errors import Cancelled, FeatureError
from napari_2dmamba.features import FeatureSettings, extract_features
from napari_2dmamba.features.encoding import _CudaLane, encode_in_order, patch_memory
from napari_2dmamba.features.model_encoder import ModelEncoder
from napari_2dmamba.features.patch_reader import PatchReader
from napari_2dmamba.features.stain_texture import StainTexture
from napari_2dmamba.features.transform import Transform
from napari_2dmamba.slide import Slide
from tests.features.conftest import full_grid

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
CUDA = torch.device("cuda")
SETTINGS = FeatureSettings(batch_size=4, threads=4)


def network(device: str, precision: str = "float32") -> ModelEncoder:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 32, 8, 8), nn.GELU(), nn.Conv2d(32, 64, 4, 4), nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
    )  # fmt: skip
    return ModelEncoder(
        layers, name="small", transform=Transform(224), device=torch.device(device),
        licence="mine", weights_from="here", precision=precision,
    )  # fmt: skip


class Late:
    """Means of the colours, read when the GPU has been busy with nothing for some milliseconds."""

    name = identity = "late"
    precision = "float32"
    feature_size, input_size, mpp, licence, weights_from = 3, None, None, "mine", "here"
    device = CUDA

    def __init__(self, fails: int = -1) -> None:
        self.begun, self.fails = 0, fails

    def encode(self, patches: torch.Tensor, mpp: float | None = None) -> torch.Tensor:
        if self.begun == self.fails:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.begun += 1
        torch.cuda._sleep(5_000_000)
        return patches.double().mean((1, 2))


def extract(slide: Slide, encoder: Any, **options: Any) -> Any:
    settings = options.pop("settings", SETTINGS)
    return extract_features(slide, full_grid(slide, 64, 64), settings, encoder=encoder, **options)


@pytest.fixture
def truth(slide: Slide) -> np.ndarray:
    grid = full_grid(slide, 64, 64)
    reader = PatchReader(slide, grid)
    return np.array([reader.read(i).reshape(-1, 3).mean(0) for i in range(len(grid))])


def test_no_memory_is_used_again_before_a_late_gpu_has_read_it(
    slide: Slide, truth: np.ndarray
) -> None:
    for size in (1, 4, 7):
        bag = extract(slide, Late(), settings=replace(SETTINGS, batch_size=size))
        np.testing.assert_allclose(bag.features, truth, rtol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_s_features_are_those_of_the_cpu(slide: Slide, precision: str) -> None:
    on_cpu = extract(slide, network("cpu")).features
    on_gpu = extract(slide, network("cuda", precision)).features
    within = (3e-3 if precision == "float32" else 3e-2) * np.abs(on_cpu).max()
    assert np.abs(on_gpu - on_cpu).max() < within


@pytest.mark.parametrize("stains", ["none", "macenko"])
def test_the_embedded_encoder_s_features_are_those_of_the_cpu(slide: Slide, stains: str) -> None:
    if stains == "macenko":
        pytest.importorskip("torchstain", reason="torchstain is not installed")
    settings = replace(SETTINGS, stain_normalisation=stains)
    on_cpu = extract(slide, StainTexture("cpu"), settings=settings).features
    on_gpu = extract(slide, StainTexture("cuda"), settings=settings).features
    assert np.abs(on_gpu - on_cpu).max() < 0.1


@pytest.mark.parametrize("encoder", [lambda: network("cuda"), lambda: StainTexture("cuda")])
def test_a_batch_is_begun_without_waiting_for_the_gpu(encoder: Any) -> None:
    chosen = encoder()
    pixels = patch_memory(CUDA)((4, 256, 256, 3))
    assert torch.from_numpy(pixels).is_pinned()
    pixels[...] = 200
    lane = _CudaLane(CUDA, lambda patches: chosen.encode(patches, 0.5).float())
    first = lane.result(lane.begin(pixels))  # what only the first does
    torch.cuda.set_sync_debug_mode("error")
    try:
        begun = lane.begin(pixels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (lane.result(begun) == first).all()
    lane.settle()


def test_stopped_and_gone_on_with_the_bits_are_those_of_one_go(
    slide: Slide, tmp_path: Path
) -> None:
    encoder = network("cuda")
    whole = extract(slide, encoder)
    assert (extract(slide, encoder).features == whole.features).all()
    for stop_at in (0, 1, 3, 8):
        polls = iter(range(1000))
        with pytest.raises(Cancelled):
            extract(
                slide, encoder, cache=tmp_path,
                should_stop=lambda polls=polls, at=stop_at: next(polls) >= at,
            )  # fmt: skip
    told: list[int] = []
    resumed = extract(slide, encoder, cache=tmp_path, on_progress=lambda d, t, m: told.append(d))
    assert told[0] == 4 * (1 + 3 + 8)
    assert (resumed.features == whole.features).all()


def test_out_of_memory_is_said_and_loses_no_batch_before(
    slide: Slide, tmp_path: Path, truth: np.ndarray
) -> None:
    with pytest.raises(FeatureError, match="4 patches at once do not fit into the memory of cuda"):
        extract(slide, Late(fails=5), cache=tmp_path)
    told: list[int] = []
    bag = extract(slide, Late(), cache=tmp_path, on_progress=lambda d, t, m: told.append(d))
    assert told[0] == 20
    np.testing.assert_allclose(bag.features, truth, rtol=1e-6)


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    memory, taken = patch_memory(CUDA), 0
    encoder = network("cuda")

    def batches(count: int) -> Iterator[tuple[int, np.ndarray]]:
        for number in range(count):
            yield number, memory((8, 256, 256, 3))

    peaks = []
    for count in (6, 60):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        taken = sum(len(values) for _, values in encode_in_order(encoder, batches(count), 0.5))
        peaks.append(torch.cuda.max_memory_allocated())
    assert taken == 480
    assert peaks[1] <= peaks[0] * 1.01
