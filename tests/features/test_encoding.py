"""Looking ahead changes nothing but the time: order, resuming, stopping, errors, memory."""

import ctypes
import json
import math
import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from napari_2dmamba.errors import Cancelled, FeatureError, SlideError
from napari_2dmamba.features import FeatureSettings, encoding, extract_features
from napari_2dmamba.features.encoding import _Begun, encode_in_order
from napari_2dmamba.features.journal import Journal
from napari_2dmamba.features.patch_reader import PatchReader
from napari_2dmamba.features.stain_texture import StainTexture
from napari_2dmamba.features.transform import Transform, resized
from napari_2dmamba.slide import Slide, open_slide
from tests.features.conftest import full_grid, write_pyramid
from tests.features.test_extract import damage

SETTINGS = FeatureSettings(batch_size=3, device="cpu", threads=2)


class Means:
    """Mean colours, two of them; the batch ``fails`` (from 0 on) raises or gives no number."""

    name = identity = "means"
    precision = "float32"
    feature_size, input_size, mpp, licence, weights_from = 3, None, None, "mine", "here"
    device = torch.device("cpu")

    def __init__(self, fails: int | None = None, how: Exception | None = None) -> None:
        self.fails, self.how = fails, how
        self.begun = 0

    def encode(self, patches: torch.Tensor, mpp: float | None = None) -> torch.Tensor:
        number, self.begun = self.begun, self.begun + 1
        means = patches.double().mean((1, 2)).float()
        if number == self.fails and self.how is not None:
            raise self.how
        return torch.full_like(means, torch.nan) if number == self.fails else means


class LateLane:
    """Stands in for a GPU: one thread that copies a batch and encodes it a random while later."""

    refers = True
    """Whether it refers to the pixels until they are read; False is the fault to be noticed."""

    def __init__(self, device: torch.device, encode: Callable[[torch.Tensor], torch.Tensor]):
        self._encode, self._pool = encode, ThreadPoolExecutor(1)
        self._random = random.Random(0)

    def begin(self, pixels: np.ndarray) -> _Begun:
        seconds = self._random.uniform(0, 0.01)
        shape, memory = pixels.shape, (ctypes.c_uint8 * pixels.size).from_buffer(pixels)
        at = ctypes.addressof(memory)
        found = torch.empty(len(pixels), 3)
        del memory

        def later() -> None:
            time.sleep(seconds)
            there = (ctypes.c_uint8 * math.prod(shape)).from_address(at)  # refers to nothing
            found.copy_(self._encode(torch.frombuffer(there, dtype=torch.uint8).view(shape)))

        job = self._pool.submit(later)
        return _Begun(found, None, (job, pixels) if self.refers else (job,))

    def result(self, begun: _Begun) -> np.ndarray:
        job = begun.in_use[0]
        assert isinstance(job, Future)
        job.result()
        return begun.features.numpy().copy()

    def settle(self) -> None:
        self._pool.shutdown()


@pytest.fixture(params=[0, 1, 2, 5])
def ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """As many batches are begun before the first is fetched, as on a GPU."""
    monkeypatch.setattr(encoding, "batches_ahead", lambda device: request.param)
    return int(request.param)


def extract(slide: Slide, encoder: Any = None, side: int = 256, **options: Any) -> Any:
    settings = options.pop("settings", SETTINGS)
    grid = full_grid(slide, 128, side)
    return extract_features(slide, grid, settings, encoder=encoder or Means(), **options)


def kept_in(cache: Path, slide: Slide, side: int = 256, **options: Any) -> int:
    """How many patches the next run does not have to compute."""
    told: list[int] = []
    extract(slide, side=side, cache=cache, on_progress=lambda d, t, m: told.append(d), **options)
    return told[0]


def test_features_and_their_order_do_not_depend_on_looking_ahead(slide: Slide, ahead: int) -> None:
    grid = full_grid(slide, 128, 256)
    reader = PatchReader(slide, grid)
    told: list[int] = []
    bag = extract(slide, on_batch=lambda g, first, values, kept: told.append(first))
    assert told == list(range(0, len(grid), 3))
    truth = [reader.read(i).reshape(-1, 3).mean(0) for i in range(len(grid))]
    np.testing.assert_allclose(bag.features, truth, rtol=1e-6)


def test_stopped_anywhere_all_that_was_begun_is_kept_and_nothing_else(
    slide: Slide, tmp_path: Path, ahead: int
) -> None:
    whole = extract(slide)
    for stop_at in (0, 1, 2, 4):
        cache, polls, encoder = tmp_path / str(stop_at), iter(range(100)), Means()
        with pytest.raises(Cancelled, match=f"after {3 * stop_at} of"):
            extract(
                slide, encoder, cache=cache,
                should_stop=lambda polls=polls, at=stop_at: next(polls) >= at,
            )  # fmt: skip
        assert encoder.begun == stop_at
        told: list[int] = []
        resumed = extract(slide, cache=cache, on_progress=lambda d, t, m, to=told: to.append(d))
        assert told[0] == 3 * stop_at
        assert (resumed.features == whole.features).all()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (None, "not finite for patches 6 to 8 of pyramid.tif"),
        (FeatureError("it does not like them"), "does not like"),
        (torch.OutOfMemoryError("CUDA out of memory"), "3 patches at once do not fit into the mem"),
        (ValueError("what nobody foresaw"), "nobody foresaw"),
        (StopIteration("which is no end of the slide"), "StopIteration"),
    ],
)
def test_an_encoder_that_fails_loses_no_batch_before(
    slide: Slide, tmp_path: Path, ahead: int, how: Exception | None, says: str
) -> None:
    kinds: dict[type, type[Exception]] = {ValueError: ValueError, StopIteration: RuntimeError}
    kind = kinds.get(type(how), FeatureError)
    with pytest.raises(kind, match=says):
        extract(slide, Means(fails=2, how=how), cache=tmp_path)
    assert kept_in(tmp_path, slide) == 6


def test_of_two_failures_the_one_of_the_earlier_batch_is_told(
    slide: Slide, tmp_path: Path, ahead: int
) -> None:
    class Twice(Means):
        def encode(self, patches: torch.Tensor, mpp: float | None = None) -> torch.Tensor:
            if self.begun == 3:
                raise FeatureError("the later one")
            return super().encode(patches, mpp)

    with pytest.raises(FeatureError, match="not finite for patches 6 to 8"):
        extract(slide, Twice(fails=2), cache=tmp_path)
    assert kept_in(tmp_path, slide) == 6


def test_an_unreadable_patch_loses_no_batch_before(
    tmp_path: Path, pyramid_pixels: np.ndarray, ahead: int
) -> None:
    path = write_pyramid(tmp_path / "damaged.tif", pyramid_pixels, steps=0)
    damage(path, 40)  # rows 384-511, columns 896-1023: patch 10 of 230 px a side
    with open_slide(path) as slide:
        with pytest.raises(SlideError, match="keeps the 9 patches done so far"):
            extract(slide, side=230, cache=tmp_path / "c")
        (path,) = (tmp_path / "c").iterdir()
        header = json.loads(path.read_bytes().splitlines()[1])
        del header["batch_size"]
        with Journal(path, header, 3, lambda: 3) as journal:
            assert journal.done == 9


def test_a_caller_that_fails_is_left_at_once(slide: Slide, ahead: int) -> None:
    """A full disk, say: no further batch is begun, and what is under way is waited for."""
    encoder = Means()

    def full(*_: Any) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        extract(slide, encoder, on_batch=full)
    assert encoder.begun == ahead + 1


def test_dropped_patches_are_those_of_their_own_batch(
    tmp_path: Path, pyramid_pixels: np.ndarray, ahead: int
) -> None:
    pixels = pyramid_pixels.copy()
    pixels[256:512, 256:768] = 250
    with open_slide(write_pyramid(tmp_path / "part.tif", pixels, steps=0)) as slide:
        bag = extract(slide, settings=replace(SETTINGS, drop_blank=True))
        left = {tuple(xy) for xy in bag.coords.tolist()}
        gone = {tuple(xy) for xy in full_grid(slide, 128, 256).coords.tolist()} - left
        assert {(256, 256), (512, 256)} <= gone
        assert not gone & {(0, 0), (0, 256), (768, 256)}
        assert (bag.features.max(1) < 249).all()


class Memory:
    """Gives torch's memory, counts, and keeps it, so that what reads it too late may do so."""

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []

    def __call__(self, shape: tuple[int, ...]) -> np.ndarray:
        self._kept.append(torch.empty(shape, dtype=torch.uint8))
        return self._kept[-1].numpy()

    @property
    def given(self) -> int:
        return len(self._kept)


def late(slide: Slide, monkeypatch: pytest.MonkeyPatch, ahead: int, memory: Memory) -> np.ndarray:
    """Encode all patches on a device that is late; return the features."""
    monkeypatch.setattr(encoding, "_lane", LateLane)
    monkeypatch.setattr(encoding, "batches_ahead", lambda device: ahead)
    reader = PatchReader(slide, full_grid(slide, 64, 64))
    batches = ((b.start, b.pixels) for b in reader.batches(7, memory=memory))
    found = dict(encode_in_order(Means(), batches, 0.5))
    assert list(found) == sorted(found)
    return np.concatenate(list(found.values()))


def test_memory_is_used_again_but_never_before_a_late_device_has_read_it(
    slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = full_grid(slide, 64, 64)
    reader = PatchReader(slide, grid)
    truth = np.array([reader.read(i).reshape(-1, 3).mean(0) for i in range(len(grid))], np.float32)
    for ahead in (0, 2, 4):
        memory = Memory()
        found = late(slide, monkeypatch, ahead, memory)
        np.testing.assert_allclose(found, truth, rtol=1e-6)
        # two read ahead, one in each hand (the caller's and this generator's), those begun
        assert memory.given <= 5 + ahead < len(grid) / 14
    monkeypatch.setattr(LateLane, "refers", False)
    memory = Memory()
    wrong = late(slide, monkeypatch, 2, memory)
    assert not np.allclose(wrong, truth, rtol=1e-6), "the emulation notices no fault"


def test_patches_that_nobody_holds_back_are_read_into_the_same_memory(slide: Slide) -> None:
    memory, held = Memory(), []
    reader = PatchReader(slide, full_grid(slide, 64, 64))
    for batch in reader.batches(4, memory=memory):
        assert len(batch.pixels)
    # Two read ahead, one in each hand, and one that a thread has not let go yet
    assert memory.given <= 5 < len(reader.grid) / 14
    kept = Memory()
    for number, batch in enumerate(reader.batches(4, memory=kept)):
        if number in (1, 2, 7):
            held.append((batch.pixels[1:], batch.pixels[1:].copy()))  # a part holds all of it
    assert kept.given <= 5 + 3
    for part, before in held:
        assert (part == before).all()


class FromTheHost(TorchDispatchMode):
    """Finds what a GPU would have the host wait for.

    That is a tensor on the device which neither was there before nor is the result of an operation
    there: torch made it of Python's numbers, or copied it; and an operation that reads a number.
    """

    def __init__(self, there: list[torch.Tensor]) -> None:
        super().__init__()
        self.known, self.found = list(there), []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        there = [t for t in tensors if t.device.type == "meta"]
        if any(all(t is not known for known in self.known) for t in there):
            self.found.append(f"{func} takes what came from the host")
        here = [t for t in tensors if t.device.type == "cpu" and t.dim()]  # numbers ride along
        if here and (there or any(t.device.type == "meta" for t in made)):
            self.found.append(f"{func} copies")
        if "_local_scalar_dense" in str(func) or "nonzero" in str(func):
            self.found.append(f"{func} reads a number")
        self.known += made
        return out


META = torch.device("meta")  # shapes without numbers, and every path of a GPU


@pytest.mark.parametrize(
    "fault", [lambda p: p[:, [0, 2]], lambda p: p.float() * torch.tensor([1.0, 2, 3], device=META)]
)
def test_the_look_for_waits_notices_them(fault: Callable[[torch.Tensor], Any]) -> None:
    patches = torch.zeros((2, 64, 64, 3), dtype=torch.uint8, device=META)
    with FromTheHost([patches]) as seen:
        fault(patches)
    assert seen.found


@pytest.mark.parametrize("size", [64, 224])
def test_on_a_device_nothing_before_the_network_waits_for_it(size: int) -> None:
    patches = torch.zeros((2, 224, 224, 3), dtype=torch.uint8, device=META)
    with FromTheHost([patches]) as seen:
        assert Transform(size)(patches, META).shape == (2, 3, size, size)
    assert seen.found == []


def test_on_a_device_the_embedded_encoder_waits_for_nothing() -> None:
    patches = torch.zeros((2, 256, 256, 3), dtype=torch.uint8, device=META)
    encoder = StainTexture(META)
    there = [v for v in vars(encoder).values() if isinstance(v, torch.Tensor)]
    with FromTheHost([patches, *there]) as seen:
        encoder.encode(patches, 0.5)
    assert seen.found == []


class NotHere(torch.Tensor):
    """Numbers on the CPU that say they are not, so that they take the way of a GPU."""

    device = torch.device("cuda")  # type: ignore[assignment]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("side", [512, 300, 256, 160])
def test_resizing_as_on_a_gpu_is_that_of_pillow(
    side: int, interpolation: str, pyramid_pixels: np.ndarray
) -> None:
    pixels = pyramid_pixels[:side, :side].copy()
    how = getattr(Image.Resampling, interpolation.upper())
    truth = np.asarray(Image.fromarray(pixels).resize((224, 224), how)).astype(int)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    found = resized(planes.as_subclass(NotHere), (224, 224), interpolation)
    found = found.as_subclass(torch.Tensor)
    assert found.dtype == torch.float32  # it went that way
    off = np.abs(found[0].permute(1, 2, 0).numpy() - truth)
    # 256 to 224 by bilinear weights, sevenths, is where 8-bit weights themselves are rounded most
    most, share = (2, 0.1) if (side, interpolation) == (256, "bilinear") else (1, 0.01)
    assert off.max() <= most
    assert (off > 0).mean() < share
