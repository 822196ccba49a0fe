"""Stores as the library of the OME-Zarr format reads them."""

import warnings

import numpy as np
import pytest
import tifffile

from napari_2dmamba.errors import Cancelled, ExportError
from napari_2dmamba.export.ome_tiff import PyramidSettings, write_overlay_tiff
from napari_2dmamba.export.ome_zarr import write_map_zarr, write_overlay_zarr
from napari_2dmamba.slide import Slide, open_slide

from .material import ATTENTION, COORDS, SIZE, attention_map

pytest.importorskip("zarr")

FINE = PyramidSettings(mpp=0.25, tile_size=128, compression="zlib")


def levels_of(path):
    """Arrays and metadata, by ome-zarr's own reader."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (node,) = list(Reader(parse_url(path))())
        return [np.asarray(level) for level in node.data], node.metadata


def test_the_overlay_has_the_pixels_of_the_tiff_and_its_place(slide: Slide, tmp_path) -> None:
    path = write_overlay_zarr(slide, attention_map(), tmp_path / "a.ome.zarr", FINE)
    levels, metadata = levels_of(path)
    tiff = write_overlay_tiff(slide, attention_map(), tmp_path / "a.ome.tif", FINE)
    with tifffile.TiffFile(tiff) as file:
        expected = [np.moveaxis(level.asarray(), -1, 0) for level in file.series[0].levels]
    assert len(levels) == len(expected) == 2
    for found, wanted in zip(levels, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert [axis["unit"] for axis in metadata["axes"][1:]] == ["micrometer"] * 2
    for number, transforms in enumerate(metadata["coordinateTransformations"]):
        scale, place = transforms[0]["scale"], transforms[1]["translation"]
        step = 0.25 * 2**number
        assert scale == pytest.approx([1, step, step], rel=2e-3)  # whole pixels of the slide
        # centre of the first pixel, from the centre of the slide's first pixel of 0.5 µm
        assert place == pytest.approx([0, (step - 0.5) / 2, (step - 0.5) / 2], abs=2e-3)
    with open_slide(path) as again:
        assert again.mpp == pytest.approx(0.25, rel=1e-3)
        np.testing.assert_array_equal(
            np.moveaxis(again.read_region(0, 0, 0, 300, 200), -1, 0), expected[0][:, :200, :300]
        )


def test_the_map_keeps_its_values_and_no_chunk_without_any(slide: Slide, tmp_path) -> None:
    settings = PyramidSettings(mpp=0.5, tile_size=50)
    path = write_map_zarr(attention_map(), tmp_path / "m.ome.zarr", settings, slide=slide)
    (values,), _ = levels_of(path)
    expected = np.full((333, 437), np.nan, dtype=np.float32)
    for (x, y), value in zip(COORDS, ATTENTION, strict=True):
        expected[y : y + SIZE, x : x + SIZE] = value
    np.testing.assert_array_equal(values, expected)
    chunks = {(int(f.parent.name), int(f.name)) for f in (path / "0").glob("[0-9]*/[0-9]*")}
    filled = {(y // 50, x // 50) for y, x in np.argwhere(np.isfinite(expected))}
    assert chunks == filled
    assert len(chunks) < 7 * 9


def test_older_stores_are_replaced_and_other_folders_are_not(slide: Slide, tmp_path) -> None:
    path = tmp_path / "m.ome.zarr"
    coarse = PyramidSettings(mpp=4.0)
    write_map_zarr(attention_map(), path, slide=slide)
    before = levels_of(path)[0]
    with pytest.raises(Cancelled):
        write_map_zarr(attention_map(), path, coarse, slide=slide, should_stop=lambda: True)
    np.testing.assert_array_equal(levels_of(path)[0][0], before[0])
    write_map_zarr(attention_map(), path, coarse, slide=slide)
    assert levels_of(path)[0][0].shape != before[0].shape
    mine = tmp_path / "letters.ome.zarr"
    mine.mkdir()
    (mine / "letter.txt").write_text("Dear all")
    with pytest.raises(ExportError, match="holds something else"):
        write_map_zarr(attention_map(), mine, slide=slide)
    assert (mine / "letter.txt").read_text() == "Dear all"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["letters.ome.zarr", "m.ome.zarr"]


def test_a_full_disk_is_one_sentence(slide: Slide, tmp_path, monkeypatch) -> None:
    import errno

    import zarr

    def full(*given, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(ExportError, match=r"No space left.*free some space"):
        write_map_zarr(attention_map(), tmp_path / "m.ome.zarr", slide=slide)
    assert not list(tmp_path.iterdir())
