"""JPEG and PNG as small slides: pixels as they are, no µm per pixel from a screen's dpi."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide import open_slide
from tests.slide.written import noise


def test_a_png_is_read_exactly_and_states_no_resolution(tmp_path: Path) -> None:
    pixels = noise(700, 900, 3)
    Image.fromarray(pixels).save(tmp_path / "field.png", dpi=(72, 72))
    with open_slide(tmp_path / "field.png") as slide:
        assert slide.dimensions == (900, 700)
        assert slide.mpp is None
        np.testing.assert_array_equal(
            slide.read_region(100, 50, 0, 600, 640), pixels[50:690, 100:700]
        )
    with open_slide(tmp_path / "field.png", mpp=0.5) as slide:
        assert slide.mpp == 0.5


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    pixels = noise(64, 64, 4)
    pixels[..., 3] = 255
    pixels[:32, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        found = slide.read_region(0, 0, 0, 64, 64)
    assert (found[:32] == 255).all()
    np.testing.assert_array_equal(found[32:], pixels[32:, :, :3])


def test_a_jpeg_turned_by_its_exif_is_upright_and_says_so(tmp_path: Path) -> None:
    pixels = np.full((40, 80, 3), 255, np.uint8)
    pixels[:, :40] = (200, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(pixels).save(tmp_path / "t.jpg", exif=exif, quality=95, subsampling=0)
    with open_slide(tmp_path / "t.jpg") as slide:
        assert slide.dimensions == (40, 80)
        assert any("EXIF" in remark for remark in slide.remarks)
        red = slide.read_region(0, 0, 0, 40, 80)[..., 1] < 100
    assert red[:35].all()
    assert not red[45:].any()


def test_sixteen_bits_are_grey_and_keep_their_values(tmp_path: Path) -> None:
    pixels = noise(50, 60, dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "g.png")
    with open_slide(tmp_path / "g.png") as slide:
        assert slide.kind == "greyscale"
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 60, 50)[..., 0], pixels)


@pytest.mark.parametrize("keep", [10, 60, 200])
def test_a_picture_cut_short_is_one_sentence(tmp_path: Path, keep: int) -> None:
    Image.fromarray(noise(90, 90, 3)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:keep])
    with pytest.raises(SlideError, match=r"cut\.png is damaged"):
        open_slide(tmp_path / "cut.png")


def test_a_picture_that_claims_too_much_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (21000, 20000)).save(path)
    with pytest.raises(SlideError, match="too many"):
        open_slide(path)
