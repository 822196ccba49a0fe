"""Factors of levels whose sizes do not tell them: padded, cut, shifted, of another slide."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from napari_2dmamba.sample import sample_slide
from napari_2dmamba.slide.grid import GridSettings, make_grid
from napari_2dmamba.slide.openslide_backend import OpenSlideBackend
from napari_2dmamba.slide.slide import Slide, open_slide
from napari_2dmamba.slide.tissue import detect_tissue
from tests.material import shared
from tests.slide.written import write_ome_pyramid, write_pyramid

Pixels = NDArray[Any]


@pytest.fixture(scope="module")
def picture() -> Pixels:
    """``(1792, 2304, 3)``: the sample at 2 µm/px."""
    with open_slide(sample_slide()) as slide:
        return slide.read_region(0, 0, 2, 2304, 1792)


def shrunk(pixels: Pixels, factor: float) -> Pixels:
    height, width = pixels.shape[:2]
    size = math.ceil(width / factor), math.ceil(height / factor)
    box = (0, 0, size[0] * factor, size[1] * factor)
    more = (math.ceil(box[3]) - height, math.ceil(box[2]) - width)
    wide = np.pad(pixels, ((0, more[0]), (0, more[1]), (0, 0)), mode="edge")
    return np.asarray(Image.fromarray(wide).resize(size, Image.Resampling.BOX, box=box))


def padded(pixels: Pixels, tile: int, axes: str, value: int | str) -> Pixels:
    up = [-pixels.shape[axis] % tile if name in axes else 0 for axis, name in enumerate("yx")]
    width = ((0, up[0]), (0, up[1]), (0, 0))
    if value == "edge":
        return np.pad(pixels, width, "edge")
    if value == "reflect":
        return np.pad(pixels, width, "symmetric")
    return np.pad(pixels, width, constant_values=int(value))


def pyramid(
    picture: Pixels, factors: list[float], tile: int, axes: str = "xy", value: int | str = 255
) -> list[Pixels]:
    return [padded(shrunk(picture, f), tile, axes, value) for f in factors]


def require_aligned(
    slide: Slide, picture: Pixels, factors: list[float], unpadded: tuple[int, int]
) -> None:
    """Each level must show at each place what level 0 shows there."""
    assert slide.level_downsamples == pytest.approx(tuple(factors), rel=1e-3)
    for index, factor in enumerate(factors[1:], 1):
        expected = shrunk(picture, factor).astype(float)
        width, height = slide.level_dimensions[index]
        assert (width, height) == (expected.shape[1], expected.shape[0])
        height, width = (int(length / factor) for length in unpadded)
        x, y = width // 2, height // 2  # far from the corner, where errors are large
        side = min(64, width - x, height - y)
        read = slide.read_region(round(x * factor), round(y * factor), index, side, side)
        at = round(round(y * factor) / factor), round(round(x * factor) / factor)
        cut = expected[at[0] : at[0] + side, at[1] : at[1] + side]
        assert np.abs(read - cut).mean() < 3, (index, factor)


@pytest.mark.parametrize(
    ("tile", "axes", "factors", "cut", "value"),
    [
        (512, "xy", [1, 2, 4, 8], (1700, 2176), 0),
        (256, "xy", [1, 2, 4, 8, 16], (1500, 2200), 255),
        (240, "xy", [1, 2, 4, 8], (1700, 2300), 0),
        (250, "xy", [1, 2, 4, 8], (1701, 2201), 255),  # strips
        (256, "x", [1, 2, 4, 8], (1700, 2201), 255),
        (256, "y", [1, 2, 4, 8], (1701, 2200), 0),
        (256, "xy", [1, 4, 16], (1700, 2201), 255),
        (512, "xy", [1, 4, 16], (1790, 2300), 0),
        (256, "xy", [1, 3, 9], (1700, 2201), "reflect"),
        (100, "xy", [1, 2, 4, 8], (1700, 2200), "edge"),
        (128, "xy", [1, 2**0.5, 2, 8**0.5, 4], (1700, 2200), 243),
        (256, "xy", [1, 2, 4, 8], (1536, 1536), 255),  # 1536, 768, 512 (like 3), 256 (like 6)
        (512, "xy", [1, 4, 8], (1536, 1536), 0),  # 1536, 512 (looks like 3), 512
    ],
)  # fmt: skip
def test_levels_padded_to_whole_tiles_lie_where_level_0_says(
    tmp_path: Path, picture: Pixels, tile: int, axes: str, factors: list[float],
    cut: tuple[int, int], value: int | str,
) -> None:  # fmt: skip
    own = picture[: cut[0], : cut[1]]
    levels = pyramid(own, factors, tile, axes, value)
    path = write_pyramid(tmp_path / "p.tif", levels, tile=(tile, tile) if tile % 16 == 0 else None)
    with open_slide(path) as slide:
        require_aligned(slide, levels[0], factors, cut)


def test_the_same_in_subifds_of_ome(tmp_path: Path, picture: Pixels) -> None:
    levels = pyramid(picture[:1700, :2200], [1, 2, 4, 8], 256)
    path = write_ome_pyramid(
        tmp_path / "p.ome.tif", levels, metadata={"axes": "YXS"}, photometric="rgb",
        tile=(256, 256),
    )  # fmt: skip
    with open_slide(path) as slide:
        require_aligned(slide, levels[0], [1, 2, 4, 8], (1700, 2200))


def test_the_same_through_openslide(tmp_path: Path, picture: Pixels) -> None:
    levels = pyramid(picture[:1700, :2200], [1, 2, 4, 8], 256)
    path = write_pyramid(tmp_path / "p.tif", levels, tile=(256, 256))
    with Slide(path, OpenSlideBackend(path)) as slide:
        require_aligned(slide, levels[0], [1, 2, 4, 8], (1700, 2200))


def test_factors_that_are_not_whole(tmp_path: Path, picture: Pixels) -> None:
    levels = pyramid(picture[:1700, :2200], [1, 2.5, 6.25], 1)
    with open_slide(write_pyramid(tmp_path / "p.tif", levels)) as slide:
        assert slide.level_downsamples == pytest.approx((1, 2.5, 6.25), rel=2e-3)
        assert slide.remarks == ()


def _other(picture: Pixels, how: str) -> Pixels:
    half = shrunk(picture, 2)
    if how == "another slide":
        half = half[::-1, ::-1].copy()
    elif how == "a shift of the stage":
        half = np.roll(half, (9, 14), (0, 1))
    elif how == "another aspect":
        return np.asarray(Image.fromarray(half).resize((700, 700)))
    elif how == "a part":
        return half[:600, :800].copy()
    elif how == "padding around it":
        return np.pad(half, ((87, 87), (90, 90), (0, 0)), constant_values=255)
    elif how == "swapped colours":
        half = half[..., ::-1].copy()
    return padded(half, 512, "xy", 255)


@pytest.mark.parametrize(
    "how",
    [
        "another slide", "a shift of the stage", "another aspect", "a part", "padding around it",
        "swapped colours",
    ],
)  # fmt: skip
def test_a_level_that_contradicts_is_left_out_with_a_remark(
    tmp_path: Path, picture: Pixels, how: str
) -> None:
    own = picture[:1700, :2200]
    levels = [own, _other(own, how), shrunk(own, 4)]
    with open_slide(write_pyramid(tmp_path / "p.tif", levels, tile=(256, 256))) as slide:
        assert slide.level_downsamples == (1, 4)
        assert len(slide.remarks) == 1
        assert "left out" in slide.remarks[0]


@pytest.mark.parametrize(
    "how", ["mirrored", "rolled", "another slide", "blank", "inverted", "swapped", "paler green"]
)
def test_a_level_of_the_right_size_that_shows_something_else_is_left_out(
    tmp_path: Path, picture: Pixels, how: str
) -> None:
    own = picture[:1700, :2200]
    half = shrunk(own, 2)
    others = {
        "mirrored": half[:, ::-1].copy(), "rolled": np.roll(half, (40, 60), (0, 1)),
        "another slide": shrunk(picture[-1700:, -2200:], 2), "blank": np.full_like(half, 255),
        "inverted": 255 - half, "swapped": half[..., ::-1].copy(),
        "paler green": half // np.array([1, 2, 1], np.uint8),
    }  # fmt: skip
    levels = [own, others[how], shrunk(own, 4)]
    with open_slide(write_pyramid(tmp_path / "p.tif", levels, tile=(256, 256))) as slide:
        assert slide.level_downsamples == (1, 4)
        seen = "colours" if how in ("swapped", "paler green") else "pixels"
        assert f"its {seen} are not those of the finer levels" in slide.remarks[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_levels_of_pictures_of_the_ground_are_compared_too(
    tmp_path: Path, picture: Pixels, dtype: Any
) -> None:
    ground = [
        (33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0, 0, 0, 5e5, 5e6, 0), True),
        (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32632), True),
    ]  # fmt: skip
    own = picture[:1700:2, :2200:2].astype(dtype) * (1 if dtype == np.uint8 else dtype(4))
    half = own[::2, ::2].copy()
    levels = [own, np.roll(half, (40, 60), (0, 1)), own[::4, ::4].copy()]
    for given, kept in ((levels, (1, 4)), ([own, half, levels[2]], (1, 2, 4))):
        path = write_pyramid(tmp_path / "p.tif", given, tile=(256, 256), extratags=ground, mpp=None)
        with open_slide(path) as slide:
            assert slide.georeference is not None
            assert slide.level_downsamples == kept
            assert sum("left out" in one for one in slide.remarks) == 3 - len(kept)


def test_no_level_goes_without_a_word(tmp_path: Path, picture: Pixels) -> None:
    own = picture[:1700, :2200]
    options: dict[str, Any] = {"tile": (256, 256), "metadata": None, "compression": "zlib"}
    path = tmp_path / "p.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(own, photometric="rgb", **options)
        for level in (shrunk(own, 2).mean(-1), shrunk(own, 4).astype(np.uint16)):
            kind = "rgb" if level.ndim == 3 else "minisblack"
            writer.write(level.astype(level.dtype), photometric=kind, subfiletype=1, **options)
        writer.write(shrunk(own, 8)[..., 0], photometric="minisblack", subfiletype=1, **options)
        writer.write(None, shape=(107, 138, 3), dtype=np.uint8, subfiletype=1, photometric="rgb",
                     tile=(64, 64), metadata=None)  # fmt: skip
    with open_slide(path) as slide:
        assert slide.level_downsamples == (1,)
        assert sum("left out" in one for one in slide.remarks) == 4


def test_a_level_thinned_out_without_averaging_is_kept(tmp_path: Path, picture: Pixels) -> None:
    grain = np.random.default_rng(0).normal(0, 15, (1700, 2200, 1))
    own = np.clip(picture[:1700, :2200] + grain, 0, 255).astype(np.uint8)
    levels = [own, own[::4, ::4].copy(), own[::8, ::8].copy()]
    with open_slide(write_pyramid(tmp_path / "p.tif", levels, tile=(256, 256))) as slide:
        assert slide.level_downsamples == (1, 4, 8)
        assert slide.remarks == ()


def test_blank_padded_levels_are_left_out(tmp_path: Path) -> None:
    blank = np.full((1700, 2200, 3), 243, np.uint8)
    levels = pyramid(blank, [1, 2, 4], 512, value=243)
    with open_slide(write_pyramid(tmp_path / "p.tif", levels, tile=(512, 512))) as slide:
        assert slide.level_downsamples[0] == 1
        assert all(f in (1, 2, 4) for f in slide.level_downsamples)


def test_sizes_without_doubt_read_little(tmp_path: Path, picture: Pixels) -> None:
    levels = pyramid(picture[:1700, :2200], [1, 2, 4, 8], 1)
    path = write_pyramid(tmp_path / "p.tif", levels)
    from napari_2dmamba.slide.tifffile_backend import TifffileBackend

    class Counting(TifffileBackend):
        read = 0

        def read_tile(self, level: int, row: int, column: int) -> Pixels:
            Counting.read += 1
            return super().read_tile(level, row, column)

    Counting(path).close()
    assert 0 < Counting.read < 150
    Counting.read = 0
    big = pyramid(picture[:1700, :2200], [1, 2, 4, 8], 256)
    Counting(write_pyramid(tmp_path / "q.tif", big, tile=(64, 64))).close()
    assert 0 < Counting.read < 400


def test_the_case_finds_the_patches_of_the_unpadded_file() -> None:
    settings = GridSettings(patch_size=256)
    with open_slide(sample_slide()) as slide:
        plain = make_grid(slide, detect_tissue(slide), settings).coords.tolist()
    with open_slide(shared("cases/slides/camelyon_padded.tif")) as slide:
        assert slide.level_downsamples == (1, 2, 4, 8, 16)
        found = make_grid(slide, detect_tissue(slide), settings).coords.tolist()
    assert len(plain) == 446
    assert len({*map(tuple, found)} & {*map(tuple, plain)}) >= 443
