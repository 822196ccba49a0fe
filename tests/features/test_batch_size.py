"""Batch sizes that are measured, speeds that are kept, and the same bits whatever they are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_2dmamba.errors import Cancelled
from napari_2dmamba.features import FeatureSettings, batch_size, encoder_speed, extract_features
from napari_2dmamba.features.batch_size import WORTH, default_batch_size, measure_batch_size
from napari_2dmamba.features.encoder import load_encoder
from tests import warm
from tests.features.conftest import full_grid
from tests.features.networks import require_timm

CPU = torch.device("cpu")
AUTOMATIC = FeatureSettings(device="cpu", threads=2)
RANDOM = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (23, 96, 96, 3), np.uint8))


class Clock:
    """Stands in for the time of the measuring: only what is encoded takes any."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


CLOCK = Clock()


class Timed:
    """An encoder whose batches take a known time: ``fixed + each * patches`` seconds."""

    name, identity, precision = "timed", "timed", "float32"
    feature_size, input_size, mpp, licence, weights_from = 3, None, None, "mine", "here"
    device = CPU

    def __init__(self, fixed: float, each: float, most: int = 10**6) -> None:
        self.fixed, self.each, self.most = fixed, each, most
        self.sizes: list[int] = []

    def encode(self, patches: torch.Tensor, mpp: float | None = None) -> torch.Tensor:
        self.sizes.append(len(patches))
        CLOCK.now += self.fixed + self.each * len(patches)
        return patches.float().mean((1, 2))


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoder_speed, "speeds_file", lambda: tmp_path / "config" / "speeds.json")
    monkeypatch.setattr(encoder_speed, "_measured_here", {})
    monkeypatch.setattr(batch_size, "time", CLOCK)


def test_a_batch_grows_while_that_pays() -> None:
    none = measure_batch_size(Timed(0, 0.004), RANDOM[:16], 0.5)
    assert none.batch_size == 4  # a patch costs the same in every batch
    much = measure_batch_size(Timed(0.2, 0.0001), RANDOM[:16], 0.5)
    assert much.batch_size == 64  # nearly all of it is per batch: the largest that is tried
    assert much.patches_per_second == pytest.approx(64 / 0.2064)
    assert list(much.tried) == [4, 8, 16, 32, 64]


def test_what_would_not_fit_into_memory_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    class Free:
        available = 16 * 4 * RANDOM[0].numel() * 2  # batches of 16 read ahead, and no more

    monkeypatch.setattr("psutil.virtual_memory", Free)
    encoder = Timed(0.05, 0)
    found = measure_batch_size(encoder, RANDOM[:16], 0.5)
    assert max(encoder.sizes) <= 16
    assert found.batch_size == max(found.tried)


def test_measuring_stops_when_asked() -> None:
    with pytest.raises(Cancelled):
        measure_batch_size(Timed(0, 0), RANDOM[:16], 0.5, lambda: True)


def test_features_do_not_depend_on_the_batch_size_of_the_embedded_encoder() -> None:
    encoder = load_encoder(device="cpu")
    whole = encoder.encode(RANDOM, 0.5)
    for size in (1, 2, 3, 4, 8, 16):
        parts = torch.cat([encoder.encode(some, 0.5) for some in RANDOM.split(size)])
        assert torch.equal(parts, whole), size


def test_features_of_a_network_stay_near_over_batch_sizes(tmp_path: Path) -> None:
    """Its last bits may differ, which is why the record holds the size."""
    require_timm()
    import timm

    torch.manual_seed(0)
    save_file(timm.create_model("resnet50").state_dict(), tmp_path / "w.safetensors")
    encoder = load_encoder("resnet50-clam", tmp_path / "w.safetensors", device="cpu", offline=True)
    whole = encoder.encode(RANDOM[:8])
    for size in (1, 3, 4):
        parts = torch.cat([encoder.encode(some) for some in RANDOM[:8].split(size)])
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


def test_it_is_measured_once_where_that_pays_and_kept_for_later_runs(slide: Any) -> None:
    few, many = full_grid(slide, 16, 128), full_grid(slide, 16, 24)
    assert len(few) < WORTH <= len(many)
    encoder = Timed(0.005, 0)
    bag = extract_features(slide, few, AUTOMATIC, encoder=encoder)
    assert bag.source["batch_size"] == default_batch_size(CPU) == 16
    told: list[str] = []
    first = extract_features(
        slide, many, AUTOMATIC, encoder=encoder, on_progress=lambda d, t, m: told.append(m)
    )
    chosen = first.source["batch_size"]
    assert chosen == 64
    assert any("measuring" in message for message in told)
    assert extract_features(slide, few, AUTOMATIC, encoder=encoder).source["batch_size"] == chosen
    larger = full_grid(slide, 64, 128)  # patches of another size have a batch size of their own
    assert extract_features(slide, larger, AUTOMATIC, encoder=encoder).source["batch_size"] == 16
    given = replace(AUTOMATIC, batch_size=5)
    assert extract_features(slide, few, given, encoder=encoder).source["batch_size"] == 5

    encoder_speed._measured_here.clear()  # as in another process: the settings hold it
    told.clear()
    again = extract_features(
        slide, many, AUTOMATIC, encoder=encoder, on_progress=lambda d, t, m: told.append(m)
    )
    assert not any("measuring" in message for message in told)
    assert again.source["batch_size"] == chosen
    assert (again.features == first.features).all()
    other = Timed(0.005, 0)
    other.identity = "other weights"
    assert encoder_speed.speed_of(other, "float32", 16) is None


def test_an_interrupted_job_goes_on_with_its_batches_whatever_is_measured_meanwhile(
    slide: Any, tmp_path: Path
) -> None:
    grid, encoder = full_grid(slide, 16, 24), Timed(0.002, 0)
    polls = iter(range(100))
    with pytest.raises(Cancelled, match="after 14 of"):
        extract_features(
            slide, grid, replace(AUTOMATIC, batch_size=7), encoder=encoder, cache=tmp_path / "c",
            should_stop=lambda: next(polls) >= 2,
        )  # fmt: skip
    encoder.sizes.clear()
    bag = extract_features(slide, grid, AUTOMATIC, encoder=encoder, cache=tmp_path / "c")
    assert bag.source["batch_size"] == 7
    assert set(encoder.sizes[:-1]) == {7}  # and nothing was measured
    assert sum(encoder.sizes) == len(grid) - 14


def test_stopped_while_measuring_nothing_is_left_that_would_count(
    slide: Any, tmp_path: Path
) -> None:
    grid, encoder = full_grid(slide, 16, 24), Timed(0.002, 0)
    with pytest.raises(Cancelled):
        extract_features(
            slide, grid, AUTOMATIC, encoder=encoder, cache=tmp_path / "c", should_stop=lambda: True
        )
    assert encoder_speed.speed_of(encoder, "float32", 16) is None
    bag = extract_features(slide, grid, AUTOMATIC, encoder=encoder, cache=tmp_path / "c")
    assert bag.source["batch_size"] == 64


def keep(
    encoder: Any, speed: float = 10.0, automatic: int | None = None, size: int = 8
) -> encoder_speed.EncoderSpeed:
    return encoder_speed.keep_speed(
        encoder, "float32", patches_per_second=speed, patches=100, patch_size=256, batch_size=size,
        automatic=automatic,
    )  # fmt: skip


def test_what_is_kept_names_no_place_and_the_newest_counts(tmp_path: Path) -> None:
    mine = Timed(0, 0)
    mine.name = mine.identity = "timm:local-dir:/home/someone/Anna Maier"
    embedded = load_encoder(device="cpu")
    keep(mine)
    keep(embedded, 20.0, automatic=32, size=32)
    keep(embedded, 30.0, size=4)  # of an extraction, whose size was given
    text = encoder_speed.speeds_file().read_text()
    assert "Maier" not in text
    assert "home" not in text
    held = json.loads(text)["speeds"]
    assert {one["encoder"] for one in held} == {"", "stain-texture-v1"}
    found = encoder_speed.latest_speed("stain-texture-v1", "auto", "bfloat16")
    assert found is not None
    assert (found.patches_per_second, found.batch_size, found.automatic) == (30.0, 4, 32)
    assert "reading included" in found.words
    keep(embedded, 25.0, automatic=16, size=16)  # by another worker: the first stays, and so does
    found = encoder_speed.speed_of(embedded, "float32", 256)  # what an extraction took
    assert found is not None
    assert (found.patches_per_second, found.automatic) == (30.0, 32)
    assert encoder_speed.speed_of(embedded, "float32", 512) is None
    assert encoder_speed.latest_speed("stain-texture-v1", "cuda:1", "float32") is None
    assert encoder_speed.latest_speed("uni", "auto", "float32") is None


_WORKERS = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
import torch
from napari_2dmamba.features import encoder_speed

encoder_speed.speeds_file = lambda: Path(sys.argv[1])

def keep(identity, automatic=None):
    return encoder_speed.keep_speed(
        SimpleNamespace(name="mine", identity=identity, device=torch.device("cpu")), "float32",
        patches_per_second=9.0, patches=100, patch_size=256, batch_size=8, automatic=automatic,
    )

for worker in (8, 9, 10):
    if os.fork() == 0:
        for number in range(12):
            keep(f"{worker} {number}")
            encoder_speed._measured_here.clear()
            print(keep("common", worker).automatic, flush=True)
        os._exit(0)
for _ in range(3):
    assert os.wait()[1] == 0
"""


def test_workers_that_keep_speeds_at_once_drop_none_of_the_others_(tmp_path: Path) -> None:
    path = tmp_path / "config" / "speeds.json"
    done = warm.python("-c", _WORKERS, str(path))
    assert done.returncode == 0, done.stderr
    held = json.loads(path.read_text())["speeds"]
    assert len({one["identity"] for one in held}) == len(held) == 3 * 12 + 1
    (of_all,) = [one for one in held if one["automatic"]]
    assert done.stdout.split() == 36 * [str(of_all["automatic"])]  # the first, for everybody


@pytest.mark.parametrize(
    "change",
    [
        {"patches_per_second": "fast"}, {"patches_per_second": -1.0}, {"automatic": -3},
        {"batch_size": 0}, {"date": None}, {"more": 1}, {"patches_per_second": float("nan")},
    ],
)  # fmt: skip
def test_damaged_speeds_are_no_speeds(change: dict[str, Any]) -> None:
    embedded = load_encoder(device="cpu")
    keep(embedded, automatic=32)
    path = encoder_speed.speeds_file()
    whole = json.loads(path.read_text())
    whole["speeds"][0] |= change
    path.write_text(json.dumps(whole))
    encoder_speed._measured_here.clear()
    assert encoder_speed.speed_of(embedded, "float32", 256) is None
    path.write_text("{")
    assert encoder_speed.speed_of(embedded, "float32", 256) is None
    keep(embedded)
    assert json.loads(path.read_text())["speeds"][0]["automatic"] == 0


def test_settings_that_cannot_be_written_fail_no_extraction(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("in the way")
    embedded = load_encoder(device="cpu")
    keep(embedded, automatic=32)
    found = encoder_speed.speed_of(embedded, "float32", 256)
    assert found is not None
    assert found.automatic == 32  # for this session
