"""Extraction: cached, cancelled, resumed, killed, refused."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from napari_2dmamba.errors import Cancelled, FeatureError, SlideError
from napari_2dmamba.features import FeatureBag, FeatureSettings, extract_features, read_features
from napari_2dmamba.features.encoder import load_encoder
from napari_2dmamba.features.extract import UnreadablePatchesWarning
from napari_2dmamba.features.journal import Journal
from napari_2dmamba.features.patch_reader import PatchReader
from napari_2dmamba.slide import Slide, open_slide
from tests import warm
from tests.features.conftest import full_grid, write_pyramid
from tests.material import shared

SETTINGS = FeatureSettings(batch_size=4, device="cpu", threads=2)


def extract(slide: Slide, side: int = 256, **options) -> FeatureBag:
    settings = options.pop("settings", SETTINGS)
    return extract_features(slide, full_grid(slide, 128, side), settings, **options)


def test_features_are_those_of_the_patches_in_the_grid_s_order(slide):
    grid = full_grid(slide, 128, 256)
    bag = extract(slide)
    assert (bag.coords == grid.coords).all()
    encoder = load_encoder(device="cpu")
    for index in (0, len(grid) - 1):
        patch = torch.from_numpy(PatchReader(slide, grid).read(index))[None]
        assert (encoder.encode(patch, grid.mpp).numpy()[0] == bag.features[index]).all()
    assert bag.features.dtype == np.float32
    assert bag.encoder == "stain-texture-v1"
    assert (bag.patch_size, bag.patch_size_level0, bag.mpp) == (128, 256, grid.mpp)
    assert bag.slide_id == slide.fingerprint
    assert bag.source["made_of"]["patches"] == len(grid)


def test_settings_load_without_torch():
    code = (
        "import sys; from napari_2dmamba.features import FeatureSettings; FeatureSettings();"
        "import napari_2dmamba.features.extract; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_progress_counts_every_patch_and_says_how_fast(slide):
    told: list[tuple[int, int, str]] = []
    bag = extract(slide, on_progress=lambda *args: told.append(args))
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[0][0] == 0
    assert told[-1][:2] == (len(bag), len(bag))
    assert "patches/s" in told[-1][2]
    assert "left" in told[-1][2]


def test_same_slide_grid_and_encoder_are_taken_from_the_cache_whatever_the_names(
    slide, pyramid_path, tmp_path
):
    first = extract(slide, cache=tmp_path / "cache")
    (stored,) = (tmp_path / "cache").iterdir()
    before = stored.stat().st_mtime_ns
    elsewhere = tmp_path / "another name.tif"
    elsewhere.write_bytes(pyramid_path.read_bytes())
    told: list[str] = []
    with open_slide(elsewhere) as copy:
        again = extract(
            copy, cache=tmp_path / "cache", on_progress=lambda d, t, message: told.append(message)
        )
    assert stored.stat().st_mtime_ns == before
    assert "reused" in told[-1]
    assert (first.features == again.features).all()


def test_another_grid_slide_or_encoder_is_computed_anew(slide, tmp_path, pyramid_pixels):
    class Halved:
        """The embedded encoder with other weights, as far as anyone can tell."""

        def __init__(self) -> None:
            self._inner = load_encoder(device="cpu")
            self.identity = "halved"

        def __getattr__(self, name: str):
            return getattr(self._inner, name)

        def encode(self, patches, mpp=None):
            return self._inner.encode(patches, mpp) / 2

    cache = tmp_path / "cache"
    whole = extract(slide, cache=cache)
    extract(slide, side=300, cache=cache)
    assert len(list(cache.iterdir())) == 2
    halved = extract(slide, cache=cache, encoder=Halved())
    assert len(list(cache.iterdir())) == 3
    assert (halved.features == whole.features / 2).all()
    other_pixels = pyramid_pixels.copy()
    other_pixels[400:420, 400:420] ^= 3
    with open_slide(write_pyramid(tmp_path / "pyramid.tif", other_pixels)) as other:
        extract(other, cache=cache)
    assert len(list(cache.iterdir())) == 4


def test_a_damaged_cache_is_made_again(slide, tmp_path):
    first = extract(slide, cache=tmp_path)
    (stored,) = tmp_path.iterdir()
    stored.write_bytes(stored.read_bytes()[: stored.stat().st_size // 2])
    again = extract(slide, cache=tmp_path)
    assert (first.features == again.features).all()
    assert len(read_features(stored)) == len(first)


def test_a_stopped_job_keeps_its_batches_and_goes_on_to_the_same_bits(slide, tmp_path):
    whole = extract(slide)
    done = 0
    for stop_after in (2, 1, 0, 2):
        polls = iter(range(100))
        with pytest.raises(Cancelled, match=f"after {done + 4 * stop_after} of"):
            extract(slide, cache=tmp_path, should_stop=lambda p=polls, n=stop_after: next(p) >= n)
        done += 4 * stop_after
        (journal,) = tmp_path.iterdir()
        assert journal.suffix == ".journal"
    told: list[int] = []
    # another batch size is asked for, but batches go on as they were begun
    resumed = extract(
        slide,
        cache=tmp_path,
        settings=replace(SETTINGS, batch_size=7, threads=4),
        on_progress=lambda d, t, m: told.append(d),
    )
    assert told[0] == done
    assert (resumed.features == whole.features).all()
    assert [path.suffix for path in tmp_path.iterdir()] == [".h5"]


_VICTIM = """
import sys
from napari_2dmamba.features import extract_features
from napari_2dmamba.slide import open_slide
from tests.features.conftest import full_grid
from tests.features.test_extract import SETTINGS
with open_slide(sys.argv[1]) as slide:
    extract_features(slide, full_grid(slide, 128, 100), SETTINGS, cache=sys.argv[2])
"""


def test_killed_at_random_moments_the_next_run_gives_the_same_bits(slide, pyramid_path, tmp_path):
    """NAPARI_2DMAMBA_KILLS=50 kills more often than the 5 of every day."""
    kills = int(os.environ.get("NAPARI_2DMAMBA_KILLS", "5"))
    rng = random.Random(kills)
    grid = full_grid(slide, 128, 100)
    whole = extract_features(slide, grid, SETTINGS)
    cache = tmp_path / "cache"
    kept = whole.features.nbytes

    def written() -> int:
        sizes = 0
        for path in cache.glob("*.journal"):
            with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
                sizes += path.stat().st_size
        return sizes

    killed = 0
    for _ in range(kills):
        moment = rng.uniform(0, kept)  # in bytes of the journal, whatever the machine's speed

        def kill(pid: int, out: Path, moment: float = moment) -> None:
            while psutil.pid_exists(pid) and written() < moment:
                time.sleep(0.002)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        victim = warm.python("-c", _VICTIM, str(pyramid_path), str(cache), while_running=kill)
        killed += victim.returncode == -signal.SIGKILL
        files = {path.suffix for path in cache.iterdir()} if cache.exists() else set()
        assert files <= {".journal", ".h5"}
        if ".h5" in files:  # finished before the kill: begin again
            for path in cache.iterdir():
                path.unlink()
    print(f"{killed} of {kills} runs were killed before they were done")
    assert killed > kills / 2
    resumed = extract_features(slide, grid, SETTINGS, cache=cache)
    assert (resumed.features == whole.features).all()


@pytest.mark.parametrize("cut", [1, 30, 5000])
def test_a_journal_cut_anywhere_gives_back_its_whole_records(tmp_path, cut):
    path, header = tmp_path / "a.journal", {"of": "something"}
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, 4, 300)).astype(np.float32)
    verdicts = rng.integers(0, 4, (6, 4), np.uint8)
    with Journal(path, header, 300, lambda: 4) as journal:
        for f, k in zip(features, verdicts, strict=True):
            journal.append(f, k)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Journal(path, header, 300, lambda: 4) as journal:
        assert journal.done == 4 * (5 if cut < 5000 else 4)
        assert (np.array(journal.features) == features[: journal.done // 4]).all()
        assert (np.array(journal.verdicts) == verdicts[: journal.done // 4]).all()
    path.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    with Journal(path, header, 300, lambda: 4) as journal:
        assert journal.done == 0  # the first record is damaged, so all are computed again
    path.write_bytes(whole)
    with Journal(path, {"of": "something else"}, 300, lambda: 4) as journal:
        assert journal.done == 0


def test_two_runs_do_not_write_one_journal(tmp_path):
    path, header = tmp_path / "a.journal", {"of": "something"}
    with (
        Journal(path, header, 3, lambda: 4),
        pytest.raises(FeatureError, match="being written by another run"),
    ):
        Journal(path, header, 3, lambda: 4)


def damage(path: Path, tile: int) -> None:
    """Overwrite one tile of level 0 with noise."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offset, size = page.dataoffsets[tile], page.databytecounts[tile]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x00" * size)


def test_an_unreadable_patch_stops_or_is_dropped_and_counted(tmp_path, pyramid_pixels):
    path = write_pyramid(tmp_path / "damaged.tif", pyramid_pixels, steps=0)
    damage(path, 15)  # columns 512-639, rows 128-255
    with open_slide(path) as slide:
        named = r"patch 2 of 24 \(at x 460, y 0\) of damaged.tif"
        with pytest.raises(SlideError, match=named) as error:
            extract(slide, side=230, cache=tmp_path / "stop")
        assert "drop" in str(error.value)
    with open_slide(path) as slide:
        drop = replace(SETTINGS, unreadable="drop")
        with pytest.warns(UnreadablePatchesWarning, match="of .* patches of damaged.tif"):
            bag = extract(slide, side=230, cache=tmp_path / "drop", settings=drop)
        grid = full_grid(slide, 128, 230)
        x, y = grid.coords.T
        hit = (x < 640) & (x + 230 > 512) & (y < 256) & (y + 230 > 128)
        assert hit.any()
        assert (bag.coords == grid.coords[~hit]).all()
        assert bag.source["unreadable_patches"] == hit.sum()


def test_a_folder_that_cannot_be_made_is_named(slide, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FeatureError, match="cannot be made") as error:
        extract(slide, cache=tmp_path / "file" / "cache")
    assert str(tmp_path / "file" / "cache") in str(error.value)


def test_a_full_disk_gives_a_sentence_and_keeps_what_is_done(pyramid_path, tmp_path):
    """A limit on the size of files is a full disk that needs no disk."""
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))\n"
        "from napari_2dmamba.errors import FeatureError\n"
        "try:\n"
        + "".join(f"    {line}\n" for line in _VICTIM.strip().splitlines())
        + "except FeatureError as error:\n    print(error)\n"
    )
    done = warm.python("-c", code, str(pyramid_path), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout
    assert "patches are kept" in done.stdout
    (journal,) = tmp_path.iterdir()
    assert 0 < journal.stat().st_size <= 20000
    with open_slide(pyramid_path) as slide:
        grid = full_grid(slide, 128, 100)
        told: list[int] = []
        resumed = extract_features(
            slide, grid, SETTINGS, cache=tmp_path, on_progress=lambda d, t, m: told.append(d)
        )
        assert told[0] > 0
        assert (resumed.features == extract_features(slide, grid, SETTINGS).features).all()


def test_a_real_slide_with_damaged_tiles_is_refused_with_the_patch():
    with (
        open_slide(shared("slides/broken/corrupt-tiles.svs")) as slide,
        pytest.raises(SlideError, match=r"patch .* of corrupt-tiles.svs cannot be read"),
    ):
        extract(slide)


def test_fluorescence_is_refused():
    with (
        open_slide(shared("slides/odd/grey10kx5k.tif")) as slide,
        pytest.raises(SlideError, match="bright field"),
    ):
        extract(slide)


def test_blank_patches_are_dropped_when_asked_and_counted(tmp_path, pyramid_pixels):
    pixels = pyramid_pixels.copy()
    pixels[:256] = 250
    with open_slide(write_pyramid(tmp_path / "half.tif", pixels, steps=0)) as slide:
        assert len(extract(slide)) == len(full_grid(slide, 128, 256))
        settings = replace(SETTINGS, drop_blank=True)
        bag = extract(slide, settings=settings, cache=tmp_path / "cache")
        assert bag.coords[:, 1].min() == 256
        first_row = full_grid(slide, 128, 256).canvas[1]
        assert bag.source["dropped_patches"]["blank"] >= first_row
        again = extract(slide, settings=settings, cache=tmp_path / "cache")
        assert again.source == bag.source


def test_normalised_stains_are_recorded_and_bring_slides_together(tmp_path):
    pytest.importorskip("torchstain", reason="torchstain is not installed")
    from scipy.ndimage import gaussian_filter

    from tests.features.test_stain_texture import stained

    rng = np.random.default_rng(0)
    h, e = (gaussian_filter(rng.normal(size=(1024, 1024)), 4) for _ in range(2))
    h, e = (0.5 + 0.5 * (x - x.min()) / np.ptp(x) for x in (h, e))
    patches = {}
    for name, strength in (("pale", 0.9), ("strong", 1.5)):
        rgb = stained(strength * h, strength * e)[0].numpy()
        patches[name] = write_pyramid(tmp_path / f"{name}.tif", rgb, mpp=0.5, steps=0)
    found = {}
    for how in ("none", "macenko"):
        settings = replace(SETTINGS, stain_normalisation=how)
        bags = []
        for path in patches.values():
            with open_slide(path) as slide:
                bags.append(extract(slide, side=256, settings=settings))
        assert bags[0].source["made_of"]["stain_normalisation"] == how
        found[how] = np.abs(bags[0].features.mean(0) - bags[1].features.mean(0)).mean()
    assert found["macenko"] < 0.5 * found["none"]
