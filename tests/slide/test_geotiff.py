"""GeoTIFFs made with GDAL (`geotiff/make.py`): metres of the ground, bands, exports that stay put.

Expected places are those of rasterio 1.4.4; metres per degree those of the WGS 84 ellipsoid.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from napari_2dmamba.cli import main
from napari_2dmamba.errors import FeatureError, SlideError
from napari_2dmamba.pixel_fields import FieldSettings, fields_on_slide
from napari_2dmamba.slide import GridSettings, Regions, detect_tissue, open_slide
from napari_2dmamba.slide.georeference import georeference
from napari_2dmamba.vision.backbone import VisionMamba
from napari_2dmamba.vision.region import SlidePicture
from napari_2dmamba.vision.segmenter_file import TrainedSegmenter
from napari_2dmamba.vision.upernet import Segmenter
from tests.features.networks import require_timm
from tests.slide.geotiff.make_bands import bands

FILES = Path(__file__).parent / "geotiff"
WEB = 0.6 * math.cos(math.atan(math.sinh((6130000 - 32 * 0.6) / 6378137)))


@pytest.mark.parametrize(
    ("name", "metres", "epsg", "corners"),
    [
        ("utm-16bit-4bands", 0.5, 32632, [(500000, 5250000), (500048, 5249968)]),
        ("feet", 0.3048006096, 2263, [(990000, 200000), (990064, 199936)]),
        ("webmercator", WEB, 3857, [(1280000, 6130000), (1280038.4, 6129961.6)]),
        ("rgb-nir", 0.5, 25832, [(690000, 5340000), (690044.8, 5339993.6)]),
        ("equator", (1.1131924 + 1.1057462) / 2, 4326, [(36.8, 0.3), (36.80064, 0.29936)]),
    ],
)  # fmt: skip
def test_pixels_are_metres_of_the_ground(
    name: str, metres: float, epsg: int, corners: list[tuple[float, float]]
) -> None:
    with open_slide(FILES / f"{name}.tif") as slide:
        ground = slide.georeference
        assert ground is not None
        assert ground.epsg == epsg
        assert slide.mpp == pytest.approx(1e6 * metres, rel=1e-5)
        ends = np.array([(0, 0), slide.dimensions], float)
        np.testing.assert_allclose(ground.coordinates(ends), corners, rtol=1e-12, atol=1e-9)


def test_degrees_are_not_metres() -> None:
    with open_slide(FILES / "geographic.tif") as slide:
        assert slide.mpp is None
        assert "0.7434 x 1.112 m" in slide.mpp_source
        assert "reproject" in slide.mpp_source
        with pytest.raises(SlideError, match="states no µm per pixel"):
            SlidePicture(slide, mpp=1e6)


def test_bands_are_chosen_by_name_and_scaled() -> None:
    raw = bands(64, 96, 4, np.uint16, 3000)
    raw[:, :8, :8] = 0
    with open_slide(FILES / "utm-16bit-4bands.tif") as slide:
        assert slide.kind == "georeferenced"
        assert any("3 (B04 red), 2 (B03 green), 1 (B02 blue)" in one for one in slide.remarks)
        found = slide.read_region(0, 0, 0, 96, 64)
        assert (found[:8, :8] == 255).all()
        with pytest.raises(SlideError, match=r"georeferenced.*tissue"):
            detect_tissue(slide)
    there = np.ones((64, 96), bool)
    there[:8, :8] = False
    for channel, band in enumerate((2, 1, 0)):
        low, high = np.percentile(raw[band][there].astype(float), (2, 98))
        wanted = np.rint(((raw[band] - low) / (high - low) * 255).clip(0, 255))
        assert np.abs(found[..., channel].astype(int) - wanted)[there].max() <= 1


def test_a_fourth_band_is_no_alpha() -> None:
    with open_slide(FILES / "rgb-nir.tif") as slide:
        found = slide.read_region(0, 0, 0, 64, 64)
    np.testing.assert_array_equal(found, bands(64, 64, 4, np.uint8, 255)[:3].transpose(1, 2, 0))


def test_tiffs_of_slides_lie_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, np.full((64, 64, 3), 255, np.uint8), tile=(64, 64), photometric="rgb")
    with open_slide(path) as slide:
        assert slide.georeference is None
    no_unit = tmp_path / "no-unit.tif"
    keys = (1, 1, 0, 2, 1024, 0, 1, 1, 1025, 0, 1, 1)  # projected, and no unit
    place = (0.5, 0, 0, 7, 0, -0.5, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1)
    tags = [(34264, "d", 16, place, True), (34735, "H", 12, keys, True)]
    tifffile.imwrite(no_unit, np.zeros((64, 64, 3), np.uint8), photometric="rgb", extratags=tags)
    with open_slide(no_unit) as slide:
        assert slide.georeference is not None
        assert slide.mpp is None
        assert "unit of its projection" in slide.mpp_source


@pytest.fixture
def segmenter(tmp_path: Path) -> Path:
    require_timm()
    torch.manual_seed(0)
    backbone = VisionMamba(depths=(1, 1), dims=8, num_classes=0, drop_path_rate=0.0)
    network = Segmenter(backbone, num_classes=2, channels=8, auxiliary_channels=4).eval()
    torch.nn.init.normal_(network.decode_head.conv_seg.weight)
    return TrainedSegmenter(network, ("field", "road")).save(tmp_path / "s.safetensors")


@pytest.mark.parametrize("name", ["utm-16bit-4bands", "rgb-nir"])
def test_what_is_segmented_stays_on_the_ground(
    tmp_path: Path, segmenter: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, source = tmp_path / "out", FILES / f"{name}.tif"
    use = ["segment", "slide", str(source), "--segmenter", str(segmenter), "--window", "32",
           "--out", str(out), "--region", "16,8,40,48", "--device", "cpu", "--json"]  # fmt: skip
    assert main(use) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 3
    with open_slide(source) as slide:
        ground = slide.georeference
    assert ground is not None
    with tifffile.TiffFile(out / "classes.ome.tif") as written:
        again = georeference(written.pages.first)
    assert again is not None
    assert again.epsg == ground.epsg
    region = np.array([(16.0, 8.0), (56.0, 56.0)])
    np.testing.assert_allclose(
        again.coordinates(np.array([(0.0, 0.0), (40.0, 48.0)])), ground.coordinates(region),
        rtol=1e-12,
    )  # fmt: skip
    pixels, placed = (
        json.loads((out / f"classes{suffix}").read_text())
        for suffix in (".geojson", ".crs.geojson")
    )
    assert placed["crs"]["properties"]["name"] == f"urn:ogc:def:crs:EPSG::{ground.epsg}"
    assert "crs" not in pixels
    for one, other in zip(pixels["features"], placed["features"], strict=True):
        ring = np.array(one["geometry"]["coordinates"][0])
        there = np.array(other["geometry"]["coordinates"][0])
        np.testing.assert_allclose(there, ground.coordinates(ring), atol=1e-6)


def test_a_segmenter_of_slides_is_refused(segmenter: Path) -> None:
    with (
        open_slide(FILES / "rgb-nir.tif") as slide,
        pytest.raises(SlideError, match=r"has 0\.5 m per pixel"),
    ):
        SlidePicture(slide, mpp=0.5)


def test_tiles_and_receptive_fields(tmp_path: Path) -> None:
    require_timm()
    from napari_2dmamba.features.timm_encoder import create
    from napari_2dmamba.features.transform import Transform
    from napari_2dmamba.tile_exports import write_tile_maps
    from napari_2dmamba.tiles.classifier import TileClassifier
    from napari_2dmamba.tiles.on_slide import classify_slide, tile_grid

    arguments = {"depths": [1], "dims": 8, "num_classes": 2}
    network = create("vmamba2d_tiny", **arguments)
    transform = Transform(size=16, mean=(0, 0, 0), std=(1, 1, 1))
    classifier = TileClassifier(network.eval(), "vmamba2d_tiny", arguments, ("a", "b"), transform)
    with open_slide(FILES / "utm-16bit-4bands.tif") as slide:
        grid = tile_grid(slide, GridSettings(patch_size=16))
        assert len(grid) == 6 * 4  # everything, in stored pixels
        found = classify_slide(slide, grid, classifier)
        names = [path.name for path in write_tile_maps(found, tmp_path, slide)]
        assert {"classes.geojson", "classes.crs.geojson"} <= set(names)
        from shapely import box

        part = tile_grid(
            slide, GridSettings(patch_size=16), regions=Regions.of([box(0, 0, 32, 16)])
        )
        assert part.coords.tolist() == [[0, 0], [16, 0]]
        classifier.mpp = 0.5
        with pytest.raises(FeatureError, match="trained on tiles"):
            classify_slide(slide, grid, classifier)
        with open_slide(FILES / "geographic.tif") as in_degrees:
            small = tile_grid(in_degrees, GridSettings(patch_size=16))
            with pytest.raises(FeatureError, match="states no µm per pixel"):
                classify_slide(in_degrees, small, classifier)
        classifier.save(tmp_path / "c")
        fields = fields_on_slide(
            slide, [f"local-dir:{tmp_path / 'c'}"], FieldSettings(crop=32, crops=1, device="cpu"),
            at=(48, 32),
        )  # fmt: skip
        assert fields.fields[0].place.scale == pytest.approx((5e5, 5e5))
        np.testing.assert_array_equal(fields.image, slide.read_region(32, 16, 0, 32, 32))
