"""Levels for a viewer: area means, slicing, laziness, the shared cache."""

import itertools
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide import open_slide
from napari_2dmamba.slide.backend import whole_downsample
from napari_2dmamba.slide.jpeg_marks import LIBRARY, end_of_jpeg, end_of_jpeg_in_python
from napari_2dmamba.slide.level import halve
from napari_2dmamba.slide.opening import open_backend
from napari_2dmamba.slide.slide import Slide
from napari_2dmamba.slide.tile_cache import TileCache
from tests.material import shared
from tests.slide.written import halved, noise, write_pyramid, write_tiff


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("size", [(8, 6), (7, 9), (1, 1), (1, 4)])
def test_halving_is_the_mean_of_four(dtype: Any, size: tuple[int, int]) -> None:
    pixels = noise(*size, 3, dtype=np.int16)
    pixels = pixels.astype(dtype) if dtype is np.float32 else (pixels // 300).astype(dtype)
    np.testing.assert_allclose(halve(pixels), halved(pixels), rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "whole"),
    [((3300, 2922, 13198, 11685), 4.0), ((825, 731, 13198, 11685), 16.0),
     ((364, 340, 11621, 10877), 32.0), ((312, 625, 5000, 10000), 16.0),
     ((40, 30, 100, 75), 2.5)],
)  # fmt: skip
def test_downsamples_are_whole_where_rounding_explains_the_rest(
    sizes: tuple[int, int, int, int], whole: float
) -> None:
    assert whole_downsample(*sizes) == whole


def test_synthetic_levels_are_exact_area_means(tmp_path: Path) -> None:
    level0 = noise(1030, 3301, 3)
    level1 = halve(halve(level0)) // 8 * 8  # told from what would be computed, and of this slide
    with open_slide(write_pyramid(tmp_path / "a.tif", [level0, level1])) as slide:
        levels = slide.pyramid()
        assert [level.shape for level in levels] == [
            (1030, 3301, 3), (515, 1651, 3), (258, 826, 3),
        ]  # fmt: skip
        assert [level.stored for level in levels] == [True, False, True]
        assert [level.downsample for level in levels] == [1, 2, 4]
        np.testing.assert_array_equal(levels[1][:], halve(level0))
        np.testing.assert_array_equal(levels[2][:], level1)


def test_a_large_single_level_gets_a_small_last_level(tmp_path: Path) -> None:
    pixels = noise(700, 6001, 3)
    with open_slide(write_tiff(tmp_path / "a.tif", pixels)) as slide:
        levels = slide.pyramid()
        assert max(levels[-1].shape[:2]) <= 1500
        expected = halve(halve(halve(pixels)))
        np.testing.assert_array_equal(np.asarray(levels[3]), expected)
        for finer, coarser in itertools.pairwise(levels):
            assert 1 < coarser.downsample / finer.downsample <= 3


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pixels = noise(173, 601, 3)
    path = write_tiff(tmp_path_factory.mktemp("level") / "a.tif", pixels, tile=(64, 80))
    with open_slide(path) as slide:
        yield pixels, slide


_bound = st.none() | st.integers(-700, 700)
_step = st.none() | st.sampled_from([1, 2, 3, 7, 100, -1, -2, -5])
_slices = st.builds(slice, _bound, _bound, _step)


@settings(max_examples=150, deadline=None)
@given(
    rows=_slices | st.integers(-173, 172),
    columns=_slices | st.integers(-601, 600),
    rest=st.sampled_from([(), (slice(None),), (1,), (slice(0, 2),), (Ellipsis,)]),
)
def test_slicing_is_numpys(written: Any, rows: Any, columns: Any, rest: Any) -> None:
    pixels, slide = written
    index = (rows, columns, *rest)
    np.testing.assert_array_equal(slide.pyramid()[0][index], pixels[index])


@settings(max_examples=100, deadline=None)
@given(
    x=st.integers(-300, 900), y=st.integers(-300, 500),
    width=st.integers(1, 700), height=st.integers(1, 400),
)  # fmt: skip
def test_regions_are_the_pixels_written_with_white_around(
    written: Any, x: int, y: int, width: int, height: int
) -> None:
    pixels, slide = written
    expected = np.full((height, width, 3), 255, np.uint8)
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, 601), min(y + height, 173)
    if left < right and top < bottom:
        expected[top - y : bottom - y, left - x : right - x] = pixels[top:bottom, left:right]
    np.testing.assert_array_equal(slide.read_region(x, y, 0, width, height), expected)


def test_level_is_an_array_to_a_viewer(written: Any) -> None:
    pixels, slide = written
    level = slide.pyramid()[0]
    assert (level.shape, level.ndim, level.dtype) == (pixels.shape, 3, pixels.dtype)
    assert level.size == pixels.size
    assert level.chunks == (512, 512, 3)
    assert len(level) == 173
    np.testing.assert_array_equal(np.asarray(level), pixels)
    np.testing.assert_array_equal(level[5], pixels[5])
    plane = level.channel(1)
    assert (plane.shape, plane.chunks) == ((173, 601), (512, 512))
    np.testing.assert_array_equal(np.asarray(plane, dtype=np.float32), pixels[..., 1])
    with pytest.raises(IndexError):
        level[173]
    with pytest.raises(IndexError, match="whole numbers and slices"):
        level[[1, 2]]
    with pytest.raises(IndexError, match="4 indices"):
        level[0, 0, 0, 0]


def test_thumbnail_is_an_area_mean(tmp_path: Path) -> None:
    pixels = noise(400, 800, 3)
    with open_slide(write_tiff(tmp_path / "a.tif", pixels)) as slide:
        small = slide.thumbnail(200)
        assert small.shape == (100, 200, 3)
        expected = pixels.reshape(100, 4, 200, 4, 3).mean(axis=(1, 3))
        assert np.abs(small - expected).max() <= 1
        np.testing.assert_array_equal(slide.thumbnail(5000), pixels)


def test_coarse_reads_lie_where_level_0_says() -> None:
    with open_slide(shared("slides/he/metaplasia-HE.svs")) as slide:
        x, y = 4000, 6000
        fine = slide.read_region(x, y, 0, 1024, 1024).astype(float)
        fine = fine.reshape(256, 4, 256, 4, 3).mean(axis=(1, 3))
        shifts = {
            (dx, dy): np.abs(slide.read_region(x + 4 * dx, y + 4 * dy, 1, 256, 256) - fine).mean()
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
        }
        assert min(shifts, key=lambda shift: shifts[shift]) == (0, 0)


class Counted:
    """A backend that counts the tiles it reads."""

    def __init__(self, path: Path) -> None:
        self._backend = open_backend(path)
        self.read: list[tuple[int, int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def read_tile(self, level: int, row: int, column: int) -> Any:
        self.read.append((level, row, column))
        return self._backend.read_tile(level, row, column)


def test_opening_reads_nothing_and_each_tile_is_decoded_once(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(640, 1280, 3))
    backend = Counted(path)
    slide = Slide(path, backend, cache=TileCache(2**30))
    levels = slide.pyramid()
    assert backend.read == []
    threads = [threading.Thread(target=lambda: levels[0][:]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(backend.read) == len(set(backend.read)) == 10 * 20
    slide.thumbnail(100)
    assert len(backend.read) == 10 * 20


def test_strips_are_decoded_once_for_all_levels_together(tmp_path: Path) -> None:
    pixels = noise(640, 3001, 3)
    path = write_tiff(tmp_path / "a.tif", pixels, tile=None, rowsperstrip=20)
    backend = Counted(path)
    slide = Slide(path, backend, cache=TileCache(2 * 60 * 3001 * 3))
    levels = slide.pyramid()
    np.testing.assert_array_equal(np.asarray(levels[2]), halve(halve(pixels)))
    assert len(backend.read) == len(set(backend.read)) == 11


def test_cache_keeps_to_its_bytes_and_drops_the_oldest() -> None:
    cache, loaded = TileCache(1000), []

    def load(key: int) -> Callable[[], Any]:
        def tile() -> Any:
            loaded.append(key)
            return np.full(300, key, np.uint8)

        return tile

    for key in (1, 2, 3, 1, 4, 1):
        assert cache.get([(key, load(key))])[0][0] == key
        assert cache.nbytes <= 1000
    assert loaded == [1, 2, 3, 4]
    cache.get([(2, load(2))])
    assert loaded == [1, 2, 3, 4, 2]
    cache.max_bytes = 400
    assert cache.nbytes <= 400
    cache.forget(lambda key: True)
    assert cache.nbytes == 0


def test_deep_tiles_outlive_a_flood_of_those_they_are_made_of() -> None:
    cache, loaded = TileCache(1600), []

    def load(key: Any) -> Any:
        loaded.append(key)
        return np.zeros(100, np.uint8)

    def get(key: Any, depth: int) -> None:
        cache.get([(key, partial(load, key))], depth=depth)
        assert cache.nbytes <= 1600

    for deep in range(4):
        for middle in range(4):
            for plain in range(4):
                get(("plain", deep, middle, plain), 0)
            get(("middle", deep, middle), 1)
        get(("deep", deep), 2)
    made = len(loaded)
    for deep in range(4):
        get(("deep", deep), 2)
    get(("middle", 3, 3), 1)
    get(("plain", 3, 3, 3), 0)
    assert len(loaded) == made == 64 + 16 + 4
    for number in range(50):
        get(("other", number), 2)
    get(("plain", 9, 9, 9), 0)
    assert cache.nbytes == 1600


def test_cache_hands_an_error_to_all_who_wait_and_tries_again() -> None:
    cache, calls = TileCache(1000), []

    def fail() -> Any:
        calls.append(1)
        time.sleep(0.05)
        raise ValueError("no tile")

    def ask() -> None:
        with pytest.raises(ValueError, match="no tile"):
            cache.get([("a", fail)])

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    before = len(calls)
    ask()
    assert len(calls) == before + 1


def test_tiles_made_of_tiles_do_not_lock_up() -> None:
    cache = TileCache(10**6)

    def made(depth: int, number: int) -> Callable[[], Any]:
        def load() -> Any:
            if depth == 0:
                return np.full(1, number, np.int64)
            parts = cache.get(
                [((depth - 1, n), made(depth - 1, n)) for n in range(4 * number, 4 * number + 4)]
            )
            return np.sum(parts, axis=0)

        return load

    results: list[int] = []

    def ask() -> None:
        results.append(int(cache.get([((5, 0), made(5, 0))])[0][0]))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == [sum(range(4**5))] * 6


def test_a_closed_slide_says_so_and_its_levels_show_background(tmp_path: Path) -> None:
    slide = open_slide(write_tiff(tmp_path / "a.tif", noise(600, 700, 3)))
    level = slide.pyramid()[0]
    level[:100, :100]
    slide.close()
    slide.close()
    with pytest.raises(SlideError, match="closed"):
        slide.read_region(0, 0, 0, 10, 10)
    assert (level[:100, :100] == 255).all()


def test_closing_while_others_read_is_quiet(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(1500, 1500, 3))
    for _ in range(5):
        slide = open_slide(path)
        level, errors = slide.pyramid()[0], []

        def read(level: Any = level, errors: list[Any] = errors) -> None:
            try:
                for start in range(0, 1400, 100):
                    level[start : start + 100]
            except Exception as error:  # noqa: BLE001 - whatever it is, it fails the test
                errors.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        slide.close()
        for thread in threads:
            thread.join()
        assert errors == []


def test_jpeg_damage_that_decoders_hide_is_seen() -> None:
    import imagecodecs

    data = imagecodecs.jpeg8_encode(noise(64, 64, 3), level=90)
    assert end_of_jpeg(data) == end_of_jpeg(data + b"\0\0") == len(data) - 2
    assert end_of_jpeg(data[:-2]) is None
    assert end_of_jpeg(data[: len(data) // 2]) is None
    middle = data.index(b"\xff\xda") + 400
    assert end_of_jpeg(data[:middle] + b"\xff\x0b" + data[middle + 2 :]) is None
    assert end_of_jpeg(b"") is None


MARKS = st.sampled_from([b"\xff\xda", b"\xff\xc4", b"\xff\xd9", b"\xff\x00", b"\xff\xd3", b"\xff"])


@pytest.mark.skipif(LIBRARY is None, reason="the library of JPEG marks is not built here")
@given(st.lists(MARKS | st.binary(max_size=4) | st.just(b"\x00\x03\x01"), max_size=14))
def test_the_library_finds_the_end_that_the_definition_finds(pieces):
    data = b"".join(pieces)
    assert end_of_jpeg(data) == end_of_jpeg_in_python(data)


def test_a_jpeg_that_runs_out_of_bits_is_refused_and_a_grey_one_is_not(tmp_path: Path) -> None:
    import imagecodecs

    pixels = noise(128, 128, 3)
    pixels[64:, 64:] = 128
    path = tmp_path / "a.tif"
    options = {"tile": (64, 64), "compression": "jpeg", "compressionargs": {"level": 90}}
    write_tiff(path, pixels, **options)
    with tifffile.TiffFile(path) as tiff:
        offset, size = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    with open_slide(path) as slide:
        assert (slide.read_region(64, 64, 0, 64, 64, strict=True) == 128).all()
        slide.read_region(0, 0, 0, 64, 64, strict=True)
    data = bytearray(path.read_bytes())
    half = offset + size // 2
    data[half : half + 2] = b"\xff\xd9"
    path.write_bytes(data)
    assert imagecodecs.jpeg8_decode(bytes(data[offset : half + 2])).shape == (64, 64, 3)
    with open_slide(path) as slide, pytest.raises(SlideError, match="ends before its pixels"):
        slide.read_region(0, 0, 0, 64, 64, strict=True)
