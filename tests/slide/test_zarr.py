"""OME-Zarr: pixels, levels, units and channels against what another program wrote."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_2dmamba.errors import SlideError
from napari_2dmamba.slide import open_slide
from tests.slide.written import halved, noise

zarr = pytest.importorskip("zarr", reason="the extra zarr is not installed")


def write(
    path: Path,
    levels: list[NDArray[Any]],
    *,
    version: str = "0.4",
    axes: str = "cyx",
    unit: str | None = "micrometer",
    mpp: float = 0.25,
    factors: list[float] | None = None,
    omero: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write an image by the letter of the specification, with zarr alone."""
    new = version == "0.5"
    group = zarr.open_group(path, mode="w", zarr_format=3 if new else 2)
    kinds = {"c": "channel", "t": "time"}
    described: list[dict[str, Any]] = [
        {"name": a, "type": kinds.get(a, "space")} | ({"unit": unit} if unit and a in "zyx" else {})
        for a in axes
    ]
    datasets = []
    for index, level in enumerate(levels):
        chunks = tuple(1 if a in "ctz" else 64 for a in axes)
        array = group.create_array(
            str(index), shape=level.shape, dtype=level.dtype, **({"chunks": chunks} | options)
        )
        array[...] = level
        factor = 2.0**index if factors is None else factors[index]
        scale = [mpp * factor if a in "yx" else 1.0 for a in axes]
        datasets.append(
            {
                "path": str(index),
                "coordinateTransformations": [{"type": "scale", "scale": scale}],
            }
        )
    stated: dict[str, Any] = {"multiscales": [{"axes": described, "datasets": datasets}]}
    if new:
        stated["version"] = version
    else:
        stated["multiscales"][0]["version"] = version
    if omero is not None:
        stated["omero"] = omero
    group.attrs.update({"ome": stated} if new else stated)
    return path


def colours(height: int = 300, width: int = 420) -> list[NDArray[np.uint8]]:
    """Return three levels of noise, channels first."""
    levels = [noise(height, width, 3)]
    for _ in range(2):
        levels.append(halved(levels[-1]))
    return [level.transpose(2, 0, 1) for level in levels]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("packed", [False, True])
def test_pixels_levels_and_resolution(tmp_path: Path, version: str, packed: bool) -> None:
    levels = colours()
    path = write(tmp_path / "a.zarr", levels, version=version)
    if packed:
        path = Path(shutil.make_archive(str(tmp_path / "b"), "zip", path))
        path = path.rename(path.with_suffix(".ozx"))
    with open_slide(path) as slide:
        assert slide.kind == "brightfield"
        assert slide.backend == "OME-Zarr"
        assert slide.mpp == pytest.approx(0.25)
        assert slide.mpp_source == "OME-Zarr scale"
        assert slide.level_downsamples == (1.0, 2.0, 4.0)
        for index, level in enumerate(levels):
            height, width = level.shape[1:]
            found = slide.read_region(0, 0, index, width, height)
            np.testing.assert_array_equal(found, level.transpose(1, 2, 0))
        window = slide.read_region(-10, 200, 0, 100, 150)
        np.testing.assert_array_equal(window[:100, 10:], levels[0].transpose(1, 2, 0)[200:300, :90])
        assert (window[:, :10] == 255).all()


def test_one_of_several_images_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", colours())
    group = zarr.open_group(path)
    images = dict(group.attrs)["multiscales"]
    group.attrs["multiscales"] = [*images, images[0] | {"name": "another"}]
    with open_slide(path) as slide:
        assert slide.remarks == ("image 1 of 2 in its multiscales is shown",)


def test_what_ome_zarr_itself_writes_is_read(tmp_path: Path) -> None:
    writer = pytest.importorskip("ome_zarr.writer", reason="ome-zarr is not installed")
    pixels = noise(3, 512, 640)
    group = zarr.open_group(tmp_path / "theirs.zarr", mode="w")
    writer.write_image(
        pixels,
        group,
        axes=[
            {"name": "c", "type": "channel"},
            {"name": "y", "type": "space"},
            {"name": "x", "type": "space"},
        ],
        scale_factors=[2, 4],
        scale={"c": 1.0, "y": 500.0, "x": 500.0},
    )
    with open_slide(tmp_path / "theirs.zarr") as slide:
        assert slide.mpp is None  # that program leaves the unit out
    stated = dict(group.attrs)
    for axis in stated["ome"]["multiscales"][0]["axes"][1:]:
        axis["unit"] = "nanometer"
    group.attrs.update(stated)
    with open_slide(tmp_path / "theirs.zarr") as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert slide.level_downsamples[:3] == (1.0, 2.0, 4.0)
        np.testing.assert_array_equal(
            slide.read_region(0, 0, 0, 640, 512), pixels.transpose(1, 2, 0)
        )


def test_channels_planes_and_colours_as_stated(tmp_path: Path) -> None:
    stack = noise(2, 3, 4, 120, 90, dtype=np.uint16)
    omero = {"channels": [{"label": "DAPI", "color": "0000FF"}, {"label": "CD3"}]}
    path = write(
        tmp_path / "s.zarr",
        [stack.transpose(0, 2, 1, 3, 4)[:, :2]],
        axes="tczyx",
        omero=omero,
        chunks=(1, 1, 1, 40, 90),
    )
    with open_slide(path) as slide:
        assert slide.kind == "fluorescence"
        assert [c.name for c in slide.channels] == ["DAPI", "CD3"]
        assert slide.channels[0].color == (0.0, 0.0, 1.0)
        assert any("focal plane 2 of 3" in remark for remark in slide.remarks)
        assert any("time point 1 of 2" in remark for remark in slide.remarks)
        found = slide.read_region(0, 0, 0, 90, 120)
        np.testing.assert_array_equal(found, stack[0, 1, :2].transpose(1, 2, 0))


def test_three_channels_that_are_named_otherwise_are_no_colours(tmp_path: Path) -> None:
    omero = {"channels": [{"label": n, "color": c} for n, c in
                          (("DAPI", "0000FF"), ("CD3", "00FF00"), ("CD8", "FF0000"))]}  # fmt: skip
    with open_slide(write(tmp_path / "m.zarr", colours(), omero=omero)) as slide:
        assert slide.kind == "fluorescence"


def test_chunks_that_were_not_written_are_glass(tmp_path: Path) -> None:
    levels = [noise(3, 1024, 1024)]
    path = write(tmp_path / "sparse.zarr", levels, chunks=(3, 512, 512))
    next(
        p for p in (path / "0").rglob("*") if str(p.relative_to(path / "0")) in ("0.1.0", "0/1/0")
    ).unlink()
    with open_slide(path) as slide:
        assert (slide.read_region(0, 512, 0, 512, 512) == 255).all()
        assert not (slide.read_region(512, 512, 0, 512, 512) == 255).all()


def test_a_scale_that_contradicts_the_size_drops_the_level(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.zarr", colours(), factors=[1.0, 3.0, 4.0])
    with open_slide(path) as slide:
        assert slide.level_downsamples == (1.0, 4.0)
        assert any("contradict" in remark for remark in slide.remarks)


def test_a_level_of_other_pixels_is_left_out_with_a_remark(tmp_path: Path) -> None:
    levels = [np.kron(one, np.ones((1, 4, 4), np.uint8)) for one in colours()]
    levels[1] = levels[1][:, ::-1].copy()
    with open_slide(write(tmp_path / "bad.zarr", levels)) as slide:
        assert slide.level_downsamples == (1.0, 4.0)
        assert any("left out" in remark for remark in slide.remarks)


@pytest.mark.parametrize("unit", [None, "parsec", "pixel"])
def test_no_usable_unit_no_resolution(tmp_path: Path, unit: str | None) -> None:
    with open_slide(write(tmp_path / "u.zarr", colours(), unit=unit)) as slide:
        assert slide.mpp is None


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    one = write(tmp_path / "one.zarr", colours())
    two = Path(shutil.copytree(one, tmp_path / "elsewhere" / "two.zarr"))
    other = colours()
    other[0][0, 10, 10] ^= 1
    three = write(tmp_path / "three.zarr", other)
    prints = []
    for path in (one, two, three):
        with open_slide(path) as slide:
            prints.append(slide.fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_a_pickle_codec_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "evil.zarr", colours())
    meta = json.loads((path / "0" / ".zarray").read_text())
    meta["filters"] = [{"id": "pickle"}]
    (path / "0" / ".zarray").write_text(json.dumps(meta))
    witness = tmp_path / "ran"
    payload = b"cos\nsystem\n(S'touch " + os.fsencode(witness) + b"'\ntR."
    for chunk in [p for p in (path / "0").rglob("*") if p.is_file() and p.name[0] != "."]:
        chunk.write_bytes(payload)
    with pytest.raises(SlideError, match="pickle"):
        open_slide(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["multiscales"][0].pop("axes"), "states no multiscale image"),
        (lambda m: m["multiscales"][0]["datasets"][0].update(path="../other"), "outside itself"),
        (lambda m: m["multiscales"][0]["datasets"][0].update(path="none"), "cannot|can be read"),
        (lambda m: m["multiscales"][0]["datasets"][0].update(
            coordinateTransformations=[{"type": "scale", "scale": [1, -1, 1]}]), "scale"),
        (lambda m: m.clear(), "states no multiscale image"),
        (lambda m: m.update(plate={}), "plate"),
    ],
)  # fmt: skip
def test_damage_is_one_sentence(tmp_path: Path, change: Any, words: str) -> None:
    path = write(tmp_path / "d.zarr", colours())
    meta = json.loads((path / ".zattrs").read_text())
    change(meta)
    (path / ".zattrs").write_text(json.dumps(meta))
    with pytest.raises(SlideError, match=words):
        open_slide(path)


def test_a_damaged_chunk_is_background_in_a_viewer_and_an_error_in_analysis(tmp_path: Path) -> None:
    path = write(tmp_path / "c.zarr", colours(600, 600), chunks=(3, 256, 256))
    chunk = next(p for p in (path / "0").rglob("*") if p.is_file() and p.name in ("0", "0.0.0"))
    chunk.write_bytes(b"nothing that decodes")
    with open_slide(path) as slide:
        slide.read_region(0, 0, 0, 100, 100)
        assert slide.read_problems
        with pytest.raises(SlideError, match="damaged"):
            slide.read_region(0, 0, 0, 100, 100, strict=True)
