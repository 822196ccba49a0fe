"""Opening: which backend, which kind, which resolution, and one sentence for what is broken."""

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide import open_slide, tiff_layout, tifffile_backend
from tests.material import shared
from tests.slide.written import (
    halved,
    noise,
    write_ome_pyramid,
    write_pyramid,
    write_svs,
    write_tiff,
)

REAL = [
    "he/metaplasia-HE.svs",
    "he/CMU-1-Small-Region.svs",
    "he/lungSCC-HE2-half.tif",
    "ihc/metaplasia-trypsin-IHC.tif",
    "no_mpp/tcga-cr-7395-01a-01-ts1.svs",
    "odd/boxes.tiff",
    "odd/yb10kx5k.zstd.tiff",
]


@pytest.mark.parametrize("name", REAL)
def test_level_0_is_what_openslide_reads(name: str) -> None:
    path = shared(f"slides/{name}")
    other = openslide.OpenSlide(path)
    random = np.random.default_rng(1)
    with open_slide(path) as slide:
        assert slide.backend == "tifffile"
        assert slide.dimensions == other.dimensions
        assert len(slide.level_dimensions) == other.level_count
        width, height = slide.dimensions
        corners = [(0, 0), (width - 150, height - 130), (-40, -30)]
        corners += [tuple(map(int, random.integers(0, (width, height)))) for _ in range(4)]
        for x, y in corners:
            theirs = np.asarray(other.read_region((x, y), 0, (300, 260)))
            expected = np.where(theirs[..., 3:] == 0, 255, theirs[..., :3])
            np.testing.assert_array_equal(slide.read_region(x, y, 0, 300, 260), expected)


@pytest.mark.parametrize(
    ("name", "backend", "kind", "dimensions", "levels", "mpp"),
    [
        ("he/metaplasia-HE.svs", "tifffile", "brightfield", (13198, 11685), 3, 0.2528),
        ("he/lungSCC-HE2-half.tif", "tifffile", "brightfield", (11621, 10877), 6, 0.526036),
        ("he/CMU-1-Small-Region.svs", "tifffile", "brightfield", (2220, 2967), 1, 0.499),
        ("fluorescence/test3-DAPI-2-(387).ndpi", "OpenSlide", "fluorescence", (3968, 4864), 7,
         0.228175),
        ("odd/boxes_0.dcm", "OpenSlide", "brightfield", (16, 16), 1, 0.499),
        ("odd/grey10kx5k.tif", "tifffile", "greyscale", (10000, 5000), 1, None),
        ("odd/4D-series.ome.tiff", "tifffile", "greyscale", (439, 167), 1, None),
        ("odd/untiled-plain.tif", "tifffile", "brightfield", (1493, 901), 1, None),
        ("odd/small.svs", "tifffile", "brightfield", (16, 16), 1, 0.499),
    ],
)  # fmt: skip
def test_real_slides(
    name: str, backend: str, kind: str, dimensions: tuple[int, int], levels: int, mpp: float | None
) -> None:
    with open_slide(shared(f"slides/{name}")) as slide:
        assert (slide.backend, slide.kind, slide.dimensions) == (backend, kind, dimensions)
        assert len(slide.level_dimensions) == levels
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-5))


def _all(folder: str) -> list[Any]:
    try:
        return sorted(path.name for path in shared(f"slides/{folder}").iterdir())
    except pytest.skip.Exception:
        return []


SAYS = {
    "git-lfs-pointer.svs": "git lfs pull",
    "html-error-page.svs": "web page",
    "zero-byte.svs": "empty",
    "zero-height.tif": "2 x 0 pixels",
    "truncated-half.svs": "cut short",
    "truncated-last-64k.svs": "cut short",
    "unopenable.tiff": "52479",
    "not-a-tiff.svs": "neither a TIFF",
    "unreadable.svs": "none of the tiles tried can be decoded",
    "corrupt-tiles.svs": "the tile at x .* cannot be decoded",
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", _all("broken"))
def test_broken_files_get_one_sentence(name: str) -> None:
    path = shared(f"slides/broken/{name}")
    with pytest.raises(SlideError, match=SAYS[name]) as caught:  # noqa: PT012
        slide = open_slide(path)
        slide.read_region(0, 0, 0, *slide.dimensions, strict=True)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert len(message) < 300


def test_a_damaged_tile_shows_background_and_is_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = shared("slides/broken/corrupt-tiles.svs")
    sound = shared("slides/he/CMU-1-Small-Region.svs")
    with caplog.at_level(logging.WARNING), open_slide(path) as slide, open_slide(sound) as whole:
        ours = slide.read_region(0, 0, 0, *slide.dimensions)
        slide.read_region(0, 0, 0, *slide.dimensions)
        expected = whole.read_region(0, 0, 0, *whole.dimensions)
        tiles = [
            tuple(map(int, re.findall(r"\d+", problem)[:2])) for problem in slide.read_problems
        ]
        assert tiles
        assert len(tiles) == len(set(tiles))
        for row, column in tiles:
            assert (ours[row * 240 :, column * 240 :][:240, :240] == 255).all()
        # the damage lies in the middle of the file, which holds tile rows 4 to 9
        assert {row for row, _ in tiles} <= set(range(4, 10))
        np.testing.assert_array_equal(ours[: 4 * 240], expected[: 4 * 240])
        np.testing.assert_array_equal(ours[10 * 240 :], expected[10 * 240 :])
    assert len([r for r in caplog.records if "corrupt-tiles" in r.getMessage()]) == 1


def test_rotated_storage_is_refused() -> None:
    with pytest.raises(SlideError, match="orientation 5"):
        open_slide(shared("slides/odd/test_orient5.tif"))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="does not exist"):
        open_slide(tmp_path / "none.svs")
    with pytest.raises(SlideError, match="folder"):
        open_slide(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "secret.tif", noise(70, 70, 3))
    path.chmod(0)
    with pytest.raises(SlideError, match="permission"):
        open_slide(path)


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_any_truncation_is_a_sentence(tmp_path: Path, keep: float) -> None:
    whole = write_svs(tmp_path / "whole.svs", [noise(300, 400, 3), noise(75, 100, 3)])
    data = whole.read_bytes()
    path = tmp_path / "part.svs"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(SlideError, match=r"part\.svs") as caught:
        open_slide(path)
    assert "\n" not in str(caught.value)


def test_ome_pyramid_in_subifds_is_seen(tmp_path: Path) -> None:
    levels = [noise(300, 420, 3)]
    for _ in range(3):
        levels.append(halved(levels[-1]))
    metadata = {"axes": "YXS", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm",
                "PhysicalSizeY": 250.0, "PhysicalSizeYUnit": "nm"}  # fmt: skip
    path = write_ome_pyramid(tmp_path / "a.ome.tif", levels, metadata=metadata, photometric="rgb")
    with open_slide(path) as slide:
        assert slide.level_dimensions == ((420, 300), (210, 150), (105, 75), (53, 38))
        assert slide.level_downsamples == (1.0, 2.0, 4.0, 8.0)
        assert slide.kind == "brightfield"
        assert slide.mpp == pytest.approx(0.25)
        assert slide.mpp_source == "OME metadata"
        for index, level in enumerate(levels):
            height, width = level.shape[:2]
            np.testing.assert_array_equal(slide.read_region(0, 0, index, width, height), level)


def test_three_ome_planes_named_red_green_blue_are_brightfield(tmp_path: Path) -> None:
    planes = 255 - noise(3, 130, 170) // 8
    path = write_ome_pyramid(
        tmp_path / "rgb.ome.tif", [planes], photometric="minisblack",
        metadata={"axes": "CYX", "Channel": {"Name": ["Red", "Green", "Blue"]}},
    )  # fmt: skip
    with open_slide(path) as slide:
        assert slide.kind == "brightfield"
        pixels = slide.read_region(0, 0, 0, 170, 130)
        np.testing.assert_array_equal(pixels, np.moveaxis(planes, 0, -1))


@pytest.mark.parametrize("compression", ["zlib", None])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_stains_open_as_channels_and_are_refused(
    tmp_path: Path, dtype: Any, compression: str | None
) -> None:
    planes = noise(4, 130, 170, dtype=np.uint16).astype(dtype)
    names = ["DAPI", "CD3", "CD8", "PanCK"]
    path = write_ome_pyramid(
        tmp_path / "if.ome.tif", [planes, planes[:, ::2, ::2].copy()], photometric="minisblack",
        compression=compression, metadata={"axes": "CYX", "Channel": {"Name": names}},
    )  # fmt: skip
    with open_slide(path) as slide:
        assert slide.kind == "fluorescence"
        assert [channel.name for channel in slide.channels] == names
        pixels = slide.read_region(-10, 0, 0, 180, 130)
        assert pixels.dtype == dtype
        np.testing.assert_array_equal(pixels[:, 10:], np.moveaxis(planes, 0, -1))
        assert (pixels[:, :10] == 0).all()
        third = slide.pyramid(channel=2)[0]
        assert third.shape == (130, 170)
        np.testing.assert_array_equal(third[5:100, 7:160], planes[2, 5:100, 7:160])
        low, high = slide.contrast_limits(1)
        assert planes[1].min() <= low < high <= planes[1].max()
        with pytest.raises(SlideError, match=r"4 channels of .*not analysed"):
            slide.require_brightfield()


def test_of_a_stack_the_middle_plane_of_the_first_time_is_shown(tmp_path: Path) -> None:
    stack = noise(2, 5, 60, 70, dtype=np.uint16)
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "TZYX"}, photometric="minisblack")
    with open_slide(path) as slide:
        assert slide.kind == "greyscale"
        assert slide.remarks == ("time point 1 of 2 is shown", "focal plane 3 of 5 is shown")
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 70, 60)[..., 0], stack[0, 2])


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (64, 80)},
        {"tile": (64, 64), "planarconfig": "separate"},
        {"tile": (64, 64), "compression": "zstd", "predictor": True},
        {"tile": (64, 64), "compression": None},
        {"tile": (64, 64), "bigtiff": True, "byteorder": ">"},
        {"tile": None, "rowsperstrip": 1},
        {"tile": None, "rowsperstrip": 7, "compression": "lzw"},
        {"tile": None, "rowsperstrip": 211},
        {"tile": None, "compression": None},
        {"tile": None, "compression": None, "planarconfig": "separate", "byteorder": ">"},
    ],
    ids=str,
)
def test_every_layout_gives_the_pixels_written(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = noise(211, 333, 3)
    written = np.moveaxis(pixels, -1, 0).copy() if "planarconfig" in options else pixels
    path = write_tiff(tmp_path / "layout.tif", written, **options)
    with open_slide(path) as slide:
        assert slide.kind == "brightfield"
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 333, 211), pixels)
        np.testing.assert_array_equal(slide.read_region(97, 55, 0, 40, 90), pixels[55:145, 97:137])


@pytest.mark.parametrize("options", [{"tile": None, "rowsperstrip": 211}, {"tile": (224, 336)}])
def test_huge_segments_are_decoded_once_to_disk(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tifffile_backend, "_SPILLED_SEGMENT", 100_000)
    pixels = noise(211, 333, 3)
    with open_slide(write_tiff(tmp_path / "huge.tif", pixels, **options)) as slide:
        decoded = []
        segment = slide._backend._segment
        monkeypatch.setattr(
            slide._backend, "_segment", lambda *given: decoded.append(given) or segment(*given)
        )
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 333, 211), pixels)
        np.testing.assert_array_equal(slide.pyramid()[0][50:60, 20:30], pixels[50:60, 20:30])
        assert len(decoded) <= 1


def test_a_segment_of_more_than_1_gb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff_layout, "_LARGEST_SEGMENT", 100_000)
    path = write_tiff(tmp_path / "huge.tif", noise(211, 333, 3), tile=None, rowsperstrip=211)
    with pytest.raises(SlideError, match="convert it to a tiled pyramid"):
        open_slide(path)


def test_16_bit_colours_keep_their_values_and_are_refused(tmp_path: Path) -> None:
    pixels = noise(100, 120, 3, dtype=np.uint16)
    with open_slide(write_tiff(tmp_path / "deep.tif", pixels, byteorder=">")) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 120, 100), pixels)
        with pytest.raises(SlideError, match="uint16"):
            slide.require_brightfield()


def test_white_is_zero_is_turned_round(tmp_path: Path) -> None:
    pixels = noise(100, 120)
    with open_slide(write_tiff(tmp_path / "w.tif", pixels, photometric="miniswhite")) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 120, 100)[..., 0], 255 - pixels)


def test_palette_colours_are_looked_up(tmp_path: Path) -> None:
    pixels, colors = noise(100, 120), noise(3, 256, dtype=np.uint16)
    path = write_tiff(tmp_path / "p.tif", pixels, photometric="palette", colormap=colors)
    with open_slide(path) as slide:
        expected = np.moveaxis((colors >> 8).astype(np.uint8)[:, pixels], 0, -1)
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 120, 100), expected)


def test_transparency_is_composited_on_white(tmp_path: Path) -> None:
    pixels = noise(100, 120, 4)
    path = write_tiff(tmp_path / "rgba.tif", pixels, extrasamples=["unassalpha"])
    with open_slide(path) as slide:
        ours = slide.read_region(0, 0, 0, 120, 100)
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(ours - expected).max() <= 0.5 + 1e-9


def test_label_and_macro_are_no_levels_and_not_told(tmp_path: Path) -> None:
    levels = [noise(256, 400, 3), noise(64, 100, 3)]
    with open_slide(write_svs(tmp_path / "a.svs", levels, mpp=0.25)) as slide:
        assert slide.level_dimensions == ((400, 256), (100, 64))
        assert slide.level_downsamples == (1.0, 4.0)
        assert slide.objective_power == 40
        assert (slide.mpp, slide.mpp_source) == (0.25, "Aperio metadata")
        told = repr(slide) + repr(slide.properties)
        assert "Doe" not in told
        assert "B-17" not in told


@pytest.mark.parametrize(
    ("mpp", "source"),
    [(352.8, "352.8 µm/px, which no microscope gives"), (0.001, "no microscope"),
     (None, "states no resolution")],
)  # fmt: skip
def test_absurd_resolutions_count_as_absent(tmp_path: Path, mpp: float | None, source: str) -> None:
    path = write_pyramid(tmp_path / "a.tif", [noise(80, 90, 3)], mpp=mpp)
    with open_slide(path) as slide:
        assert slide.mpp is None
        assert source in slide.mpp_source
    with open_slide(path, mpp=0.3) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.3, "given by the user")


def test_pixels_that_are_not_square_have_no_mpp(tmp_path: Path) -> None:
    path = write_tiff(
        tmp_path / "a.tif", noise(80, 90, 3), resolution=(20000, 40000),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    with open_slide(path) as slide:
        assert slide.mpp is None
        assert "square" in slide.mpp_source


@pytest.mark.parametrize("mpp", [0.0, -1.0, 352.8, float("nan")])
def test_an_absurd_mpp_is_not_taken(tmp_path: Path, mpp: float) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(80, 90, 3))
    with pytest.raises(SlideError, match="slide lies between"):
        open_slide(path, mpp=mpp)


def test_fingerprint_follows_content_not_name(tmp_path: Path) -> None:
    first = write_pyramid(tmp_path / "a.tif", [noise(600, 700, 3)])
    copy = shutil.copy(first, tmp_path / "b.tif")
    other = write_pyramid(tmp_path / "c.tif", [noise(600, 700, 3, seed=1)])
    prints = [open_slide(path).fingerprint for path in (first, copy, other)]
    assert prints[0] == prints[1] != prints[2]
    assert re.fullmatch("[0-9a-f]{32}", prints[0])


def test_dicom_slide_has_one_fingerprint_from_any_of_its_files() -> None:
    files = sorted(shared("slides/dicom").glob("*.dcm"))
    assert len({open_slide(path).fingerprint for path in files}) == 1


def test_slide_room_imports_neither_torch_nor_napari() -> None:
    code = (
        "import sys, napari_2dmamba.slide;"
        "print([m for m in ('torch', 'napari', 'qtpy', 'skimage', 'shapely') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
