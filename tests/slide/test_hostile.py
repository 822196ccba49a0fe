"""Inputs that the program got wrong once, and their siblings: right values, or one sentence."""

import errno
import os
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tifffile

from napari_2dmamba.errors import SlideError
from napari_2dmamba.features.resample import TileResampler, area_weights
from napari_2dmamba.slide.backend import on_background
from napari_2dmamba.slide.jpeg_marks import end_of_jpeg, has_colour_transform
from napari_2dmamba.slide.level import SlideLevel
from napari_2dmamba.slide.slide import open_slide
from napari_2dmamba.slide.tiff_metadata import stated_number, um_per
from napari_2dmamba.slide.tile_cache import TileCache
from napari_2dmamba.slide.tissue import detect_tissue
from tests.material import shared
from tests.slide.written import noise, write_pyramid, write_svs, write_tiff


@pytest.mark.parametrize(
    ("name", "mpp"),
    [("svs_mpp_comma.svs", 0.499), ("ome_greekmu.ome.tif", 0.5), ("imagej_um.tif", 0.5)],
)
def test_resolution_is_read_however_it_is_written(name: str, mpp: float) -> None:
    with open_slide(shared(f"cases/slides/{name}")) as slide:
        assert slide.mpp == pytest.approx(mpp)


@pytest.mark.parametrize(
    ("unit", "um"),
    [("μm", 1), ("µm", 1), ("um", 1), ("UM", 1), ("micron", 1), ("microns", 1), ("nm", 1e-3),
     ("micrometer", 1), ("Micrometre", 1), ("mm", 1e3), ("\\u00B5m", 1), ("inch", 25400),
     ("pixel", None), ("reference frame", None), ("", None)],
)  # fmt: skip
def test_units_are_told_however_they_are_written(unit: str, um: float | None) -> None:
    assert um_per(unit) == um


@pytest.mark.parametrize(
    ("text", "number"), [("0,4990", 0.499), ("0.25", 0.25), ("0.25,", 0.25), ("1,2,3", None)]
)
def test_numbers_may_have_a_decimal_comma(text: str, number: float | None) -> None:
    assert stated_number(text) == number


@pytest.mark.parametrize("given", [{"PhysicalSizeX": 0.5}, {"PhysicalSizeY": 0.5}])
def test_one_axis_of_ome_is_enough(tmp_path: Path, given: dict[str, Any]) -> None:
    axis = next(iter(given))
    metadata = {"axes": "YXS", **given, f"{axis}Unit": "micron"}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", noise(64, 64, 3), photometric="rgb", metadata=metadata, ome=True
    )
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.mpp == 0.5
        assert "one axis" in slide.mpp_source


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m"])
def test_imagejs_units(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(64, 64, 3), imagej=True, resolution=(4, 4),
                     metadata={"unit": unit, "axes": "YXS"})  # fmt: skip
    with open_slide(path) as slide:
        assert slide.mpp == 0.25


def test_planes_below_one_another_are_red_green_blue() -> None:
    with open_slide(shared("cases/slides/v_ome_roll.ome.tif")) as slide:
        assert slide.rgb
        assert slide.kind == "brightfield"
        assert slide.level_downsamples == (1, 2, 4, 8)
        pixels = slide.read_region(1000, 1000, 0, 300, 300).reshape(-1, 3).mean(0)
    assert pixels == pytest.approx([212, 152.7, 194.3], abs=1)  # pink


def test_jpeg_2000_in_ycbcr_has_the_colours_of_its_twin() -> None:
    with (
        open_slide(shared("cases/slides/j2k_34712_ycbcr.tif")) as slide,
        open_slide(shared("cases/slides/v_ome_roll.ome.tif")) as twin,
    ):
        pair = [s.read_region(1000, 1000, 0, 300, 300).astype(int) for s in (slide, twin)]
    assert np.abs(pair[0] - pair[1]).mean() < 6  # two lossy codecs
    assert np.abs(pair[0].mean((0, 1)) - pair[1].mean((0, 1))).max() < 1


@pytest.mark.parametrize("compression", [33003, 33005, 34712])
def test_jpeg_2000_by_any_of_its_numbers(tmp_path: Path, compression: int) -> None:
    """Written as YCbCr without a transform, then the tag of the compression is exchanged."""
    rgb = np.broadcast_to(np.array((190, 120, 170), np.uint8), (128, 128, 3))
    r, g, b = (int(v) for v in rgb[0, 0])
    y = 0.299 * r + 0.587 * g + 0.114 * b
    ycc = np.round([y, 128 + (b - y) / 1.772, 128 + (r - y) / 1.402]).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.broadcast_to(ycc, rgb.shape).copy(), tile=(64, 64), compression="jpeg2000",
        photometric="ycbcr", compressionargs={"level": 0, "mct": False},
    )  # fmt: skip
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<HHIH", 259, 3, 1, 34712),
                                  struct.pack("<HHIH", 259, 3, 1, compression)))  # fmt: skip
    with open_slide(path) as slide:
        assert np.abs(slide.read_region(0, 0, 0, 64, 64).astype(int) - rgb[:64, :64]).max() <= 2


def test_the_transform_of_a_jpeg_2000_is_read_from_its_header() -> None:
    import imagecodecs

    pixels = noise(64, 64, 3)
    for mct in (True, False):
        data = imagecodecs.jpeg2k_encode(pixels, level=0, mct=mct)
        assert has_colour_transform(data) is mct
    assert not has_colour_transform(b"")


def test_premultiplied_alpha_is_not_multiplied_again() -> None:
    rgba = np.array([[[100, 50, 25, 128], [0, 0, 0, 0], [9, 8, 7, 255]]], np.uint8)
    straight = on_background(rgba, (255, 255, 255))
    ready = on_background(rgba, (255, 255, 255), premultiplied=True)
    assert straight[0, 0].tolist() == [177, 152, 140]
    assert ready[0, 0].tolist() == [227, 177, 152]
    assert ready[0, 1].tolist() == [255, 255, 255]
    assert ready[0, 2].tolist() == [9, 8, 7]


def test_alpha_is_what_the_file_says(tmp_path: Path) -> None:
    rgba = np.full((64, 64, 4), (100, 50, 25, 128), np.uint8)
    for extra, expected in (("assocalpha", [227, 177, 152]), ("unassalpha", [177, 152, 140])):
        with open_slide(write_tiff(tmp_path / f"{extra}.tif", rgba, extrasamples=[extra])) as slide:
            assert slide.read_region(0, 0, 0, 1, 1)[0, 0].tolist() == expected


def test_a_file_of_empty_tiles_opens_with_a_remark_and_is_not_analysed() -> None:
    with open_slide(shared("cases/slides/v_zstd.tif")) as slide:
        assert "holds no picture data" in slide.remarks[0]
        with pytest.raises(SlideError, match="holds no picture data"):
            detect_tissue(slide)


@pytest.mark.parametrize(
    ("name", "says"),
    [("planarconfig0.svs", "planar configuration"), ("lying-height.tif", "lists 1"),
     ("ifd-cycle.tif", "circle")],
)  # fmt: skip
def test_damage_gets_a_sentence_at_once(name: str, says: str) -> None:
    with pytest.raises(SlideError, match=says):
        open_slide(shared(f"cases/damaged/{name}"))


_LIES: dict[tuple[int, int], str] = {
    (256, 0): "damaged", (256, 64): "more pixels than its size takes",
    (256, 4_000_000): "lists 4", (256, 2**31 - 1): "more than any slide has",
    (257, 0): "damaged", (257, 64): "more pixels than its size takes",
    (257, 4_000_000): "lists 4", (257, 2**32 - 1): "more than any slide has",
    (258, 0): "damaged", (258, 100): "100-bit", (277, 0): "damaged",
    (277, 100): "can be decoded", (277, 2**31 - 1): "channels, which no slide has",
    (278, 0): "no rows", (278, 1): "lists 8", (278, 2**32 - 1): "can be decoded",
    (322, 0): "no rows", (322, 1): "lists 4", (322, 4_000_000): "larger than its picture",
    (322, 2**32 - 1): "larger than its picture", (323, 0): "no size", (323, 1): "lists 4",
    (323, 100): "can be decoded", (323, 4_000_000): "larger than its picture",
    (323, 2**31 - 1): "larger than its picture",
}  # fmt: skip
"""Tags of a TIFF of 128 x 128 pixels (width, height, bits, samples, rows of strips, sides of
tiles), what they claim, and what is said of it."""


@pytest.mark.parametrize(("tag", "value"), _LIES)
def test_lies_about_size_get_a_sentence(tmp_path: Path, tag: int, value: int) -> None:
    strips = {"tile": None, "rowsperstrip": 16} if tag == 278 else {}
    path = with_tag(write_tiff(tmp_path / "a.tif", noise(128, 128, 3), **strips), tag, value)
    began = time.process_time()
    tracemalloc.start()
    try:
        with open_slide(path) as slide:
            slide.thumbnail(64)
            said = "; ".join(slide.remarks)
    except SlideError as error:
        said = str(error)
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert _LIES[tag, value] in said
    assert time.process_time() - began < 2
    assert most < 2**26


@pytest.mark.parametrize(
    ("options", "tag", "value"),
    [({"compression": None, "tile": None}, 256, 100),
     ({"compression": "lzw", "tile": None, "rowsperstrip": 16}, 256, 120),
     ({"compression": "jpeg"}, 256, 64), ({"compression": None}, 277, 1)],
)  # fmt: skip
def test_a_picture_that_another_width_puts_together_wrongly_is_told(
    tmp_path: Path, options: dict[str, Any], tag: int, value: int
) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(128, 128, 3), **options)
    with open_slide(path) as slide:
        assert slide.remarks == ()
    with open_slide(with_tag(path, tag, value)) as slide:
        assert "more pixels than its size takes" in slide.remarks[0]


def with_tag(path: Path, tag: int, value: int) -> Path:
    """Let a tag of the first page hold one number."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.tags[tag].offset
    data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
    path.write_bytes(data)
    return path


def test_a_piece_of_an_endless_level_takes_no_memory() -> None:
    class Endless:
        key, width, height, downsample = ("endless",), 2**32, 2**32, 1.0
        tile_width = tile_height = 64
        background = np.full(3, 255, np.uint8)
        depth = 0
        failed: ClassVar[dict[tuple[int, int], str]] = {}

        def load(self, row: int, column: int) -> Any:
            return np.full((64, 64, 3), row % 251, np.uint8)

    level = SlideLevel(Endless(), TileCache(2**20))
    assert level[2**31 : 2**31 + 64, :8].shape == (64, 8, 3)
    assert level[-1, -1, 0] == (2**26 - 1) % 251


def test_a_file_that_shrinks_is_a_sentence_not_the_end_of_the_process(tmp_path: Path) -> None:
    pixels = noise(1024, 1024, 3)
    path = write_tiff(tmp_path / "a.tif", pixels, tile=None, compression=None)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_region(0, 0, 0, 1024, 512), pixels[:512])
        os.truncate(path, 1024 * 1024)
        with pytest.raises(SlideError, match="ends before"):
            slide.read_region(0, 512, 0, 1024, 512, strict=True)


def test_a_reader_that_crashes_is_met_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(128, 128, 3))
    with open_slide(path, apart=True) as slide:
        assert slide.dimensions == (128, 128)
    crash = [sys.executable, "-c", "import os; os.abort()"]
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **options: real(crash, **options))
    with pytest.raises(SlideError, match="process apart"):
        open_slide(path, apart=True)


def test_the_resampler_refuses_what_was_not_promised() -> None:
    weights = area_weights(0.0, 64.0, 32, 0, 64)
    out = np.empty((32, 32, 3), np.uint8)
    grey, deep, short = (64, 64), np.zeros((64, 64, 3), np.uint16), (63, 64, 3)
    gaps = np.zeros((64, 128, 3), np.uint8)[:, ::2]
    for tile in (np.zeros(grey, np.uint8), deep, np.zeros(short, np.uint8), gaps):
        with pytest.raises(ValueError, match="promised"):
            TileResampler((64, 64), 1, 1, weights, weights, out).add(tile)
    with pytest.raises(ValueError, match="weights"):
        TileResampler((32, 32), 1, 1, weights, weights, out)
    with pytest.raises(ValueError, match="out"):
        TileResampler((64, 64), 1, 1, weights, weights, np.empty((32, 32), np.uint8))
    with pytest.raises(TypeError):
        end_of_jpeg(np.zeros(10, np.uint8))  # type: ignore[arg-type]


def test_planar_configurations_that_do_not_exist(tmp_path: Path) -> None:
    for make in (write_svs, write_pyramid):
        path = make(tmp_path / f"{make.__name__}.svs", [noise(128, 128, 3)])
        data = bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as tiff:
            at = tiff.pages.first.tags[284].valueoffset
        for value in (0, 3, 77):
            data[at : at + 2] = struct.pack("<H", value)
            copy = tmp_path / f"{value}.svs"
            copy.write_bytes(data)
            with pytest.raises(SlideError):
                open_slide(copy)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("hacettepe-com-case-14", 0.20, 0.225), ("hacettepe-com-case-19", 0.18, 0.20),
     ("glycogenstorage", 0.235, 0.26)],
)  # fmt: skip
def test_pale_tissue_is_in_and_tinted_glass_is_out(name: str, low: float, high: float) -> None:
    with open_slide(shared(f"cases/tissue/{name}_HE_4um.tif")) as slide:
        assert low < detect_tissue(slide).fraction < high


@pytest.mark.parametrize("fourth", [0, 255])
def test_a_fourth_channel_of_no_stated_meaning_is_no_transparency(
    tmp_path: Path, fourth: int
) -> None:
    pixels = np.full((128, 128, 4), [180, 90, 140, fourth], np.uint8)
    path = write_tiff(tmp_path / "x.tif", pixels, extrasamples=["unspecified"])
    with open_slide(path) as slide:
        assert slide.read_region(0, 0, 0, 1, 1).ravel().tolist() == [180, 90, 140]
        assert "fourth channel" in slide.remarks[0]


def test_a_full_folder_for_temporary_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pixels = np.full((4900, 4600, 3), 200, np.uint8)
    path = write_tiff(tmp_path / "one-strip.tif", pixels, tile=None, rowsperstrip=4900)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with (
        pytest.raises(SlideError, match=r"temporary files cannot hold .*No space left.*TMPDIR"),
        open_slide(path) as slide,
    ):
        slide.read_region(0, 0, 0, 8, 8)
