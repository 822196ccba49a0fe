"""CZI: pixels, places, levels and units against what libCZI's own writer was given."""

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide import open_slide
from tests.slide.written import halved, noise

czi = pytest.importorskip("pylibCZIrw.czi", reason="the extra czi is not installed")

_BASE = noise(700, 900, 3)


def write_czi(
    path: Path,
    scenes: list[tuple[NDArray[Any], tuple[int, int]]],
    *,
    mpp: float = 0.25,
    names: dict[int, str] | None = None,
    block: int = 256,
    compression: str | None = None,
) -> Path:
    """Write ``(h, w, 3)`` colours, or ``(h, w)`` planes ``[z][c]``, in blocks of 256 pixels."""
    with czi.create_czi(str(path), compression_options=compression) as writer:
        for scene, (pixels, (left, top)) in enumerate(scenes):
            planes = {(0, 0): pixels} if pixels.ndim == 3 else {
                (z, c): pixels[z, c][..., None]
                for z in range(pixels.shape[0]) for c in range(pixels.shape[1])
            }  # fmt: skip
            for (z, c), plane in planes.items():
                for y in range(0, plane.shape[0], block):
                    for x in range(0, plane.shape[1], block):
                        part = plane[y : y + block, x : x + block, ::-1]
                        writer.write(
                            np.ascontiguousarray(part), location=(left + x, top + y),
                            plane={"Z": z, "C": c}, scene=scene,
                        )  # fmt: skip
        writer.write_metadata(
            document_name="Doe, Jane", channel_names=names, scale_x=mpp * 1e-6, scale_y=mpp * 1e-6
        )
    return path


@pytest.mark.parametrize("compression", [None, "zstd1:ExplicitLevel=3"])
def test_pixels_place_and_resolution(tmp_path: Path, compression: str | None) -> None:
    path = write_czi(tmp_path / "a.czi", [(_BASE, (1000, -50))], compression=compression)
    with open_slide(path) as slide:
        assert (slide.backend, slide.kind) == ("libCZI", "brightfield")
        assert slide.dimensions == (900, 700)
        assert slide.mpp == pytest.approx(0.25)
        assert slide.mpp_source == "CZI scaling"
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 900, 700, strict=True), _BASE)
        assert "Doe" not in repr((slide, slide.properties, slide.remarks))


def test_scenes_lie_where_they_were_scanned(tmp_path: Path) -> None:
    one, two = noise(100, 120, 3), noise(90, 80, 3, seed=1)
    path = write_czi(tmp_path / "s.czi", [(one, (0, 0)), (two, (300, 50))])
    with open_slide(path) as slide:
        assert slide.dimensions == (380, 140)
        assert any("2 scenes" in remark for remark in slide.remarks)
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 120, 100), one)
        np.testing.assert_array_equal(slide.read_region(300, 50, 0, 80, 90), two)
        assert (slide.read_region(120, 0, 0, 180, 140) == 255).all()  # glass between them
    path = write_czi(tmp_path / "over.czi", [(one, (0, 0)), (two, (50, 50))])
    with pytest.raises(SlideError, match="lie over one another"):
        open_slide(path)


def test_channels_and_focal_planes(tmp_path: Path) -> None:
    stack = noise(3, 2, 120, 90, dtype=np.uint16)
    path = write_czi(tmp_path / "f.czi", [(stack, (0, 0))], names={0: "DAPI", 1: "CD3"})
    with open_slide(path) as slide:
        assert slide.kind == "fluorescence"
        assert [one.name for one in slide.channels] == ["DAPI", "CD3"]
        assert any("focal plane 2 of 3" in remark for remark in slide.remarks)
        found = slide.read_region(0, 0, 0, 90, 120)
        np.testing.assert_array_equal(found, stack[1].transpose(1, 2, 0))


def test_a_stored_level_is_read_as_it_is(tmp_path: Path) -> None:
    """The writer makes no pyramid, so blocks of half the size are told to cover the whole."""
    small = 255 - halved(_BASE[:512, :512])  # no mean of the finest level: proves what was read
    path = tmp_path / "p.czi"
    with czi.create_czi(str(path)) as writer:
        for y in range(0, 512, 128):
            for x in range(0, 512, 128):
                part = _BASE[y : y + 128, x : x + 128, ::-1]
                writer.write(np.ascontiguousarray(part), location=(x, y))
        writer.write(np.ascontiguousarray(small[..., ::-1]), location=(0, 0))
        writer.write_metadata(scale_x=2.5e-7, scale_y=2.5e-7)
    data = path.read_bytes()
    for axis in (b"X", b"Y"):
        told = struct.pack("<iifi", 0, 256, 0.0, 256)
        assert data.count(axis + b"\0\0\0" + told) == 2  # in the block, and in the directory
        covers = struct.pack("<iifi", 0, 512, 0.0, 256)
        data = data.replace(axis + b"\0\0\0" + told, axis + b"\0\0\0" + covers)
    path.write_bytes(data)
    with open_slide(path) as slide:
        assert slide.level_downsamples == (1, 2)
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 512, 512), _BASE[:512, :512])
        np.testing.assert_array_equal(slide.read_region(0, 0, 1, 256, 256), small)


def test_no_scaling_no_resolution(tmp_path: Path) -> None:
    with open_slide(write_czi(tmp_path / "n.czi", [(_BASE, (0, 0))], mpp=0)) as slide:
        assert slide.mpp is None


_HURT = """
import sys
from pathlib import Path
import numpy as np
from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide import open_slide
import resource
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
data, path = Path(sys.argv[1]).read_bytes(), Path(sys.argv[1]).with_name("hurt.czi")
with open_slide(sys.argv[1]) as slide:
    right = slide.read_region(0, 0, 0, 300, 300)
places = np.random.default_rng(0)
for turn in range(30):
    hurt = bytearray(data)
    if turn % 3 == 0:
        hurt = hurt[: int(places.integers(1, len(data)))]
    else:
        header = turn % 3 == 1
        for _ in range(4):
            hurt[int(places.integers(0, 2000 if header else len(data)))] = int(places.integers(256))
    path.write_bytes(hurt)
    try:
        with open_slide(path) as slide:
            slide.read_region(0, 0, 0, 300, 300, strict=True)
    except SlideError as error:
        assert "Doe" not in str(error)
print("lived")
"""


def test_damage_is_one_sentence_and_no_crash(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", [(noise(300, 300, 3), (0, 0))], compression="zstd1:")
    done = subprocess.run(
        [sys.executable, "-c", _HURT, str(path)], capture_output=True, text=True, timeout=200,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == "lived", done.stderr[-2000:]


def test_a_size_that_no_slide_has_is_refused(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", [(noise(100, 100, 3), (0, 0))])
    data = path.read_bytes()
    told, lies = (struct.pack("<iifi", 0, n, 0.0, 100) for n in (100, 2**30))
    path.write_bytes(data.replace(b"X\0\0\0" + told, b"X\0\0\0" + lies))
    with pytest.raises(SlideError, match=r"no slide has|damaged"):
        open_slide(path)
