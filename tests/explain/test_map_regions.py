"""A map above a threshold, against areas counted by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_2dmamba.errors import GridError
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.map_regions import MapThreshold, regions_above
from napari_2dmamba.slide import read_regions, write_regions

NAN = np.nan
RING = GridMap(
    np.array(
        [[9, 9, 9, NAN, 5], [9, 1, 8, 5, NAN], [9, 9, 9, NAN, NAN], [NAN, NAN, NAN, 7, 1]],
        dtype=np.float32,
    ),
    "attention", "m", 100, origin=(1000, 2000), mpp=0.5,
)  # fmt: skip


def test_a_ring_keeps_its_hole_and_a_corner_does_not_join() -> None:
    ring, single = regions_above(RING, 6.0, class_name="hot", colour=(1, 2, 3))
    assert ring.geometry.bounds == (1000, 2000, 1300, 2300)
    assert len(ring.geometry.interiors) == 1
    assert ring.geometry.interiors[0].bounds == (1100, 2100, 1200, 2200)
    assert len(ring.geometry.exterior.coords) == 5  # no corners along straight sides
    assert ring.properties["measurements"] == pytest.approx(
        # 8 patches of 50 µm: 8 * 0.0025 mm²
        {"Area mm²": 0.02, "Patches": 8, "attention: mean": 71 / 8, "attention: highest": 9}
    )
    assert single.geometry.bounds == (1300, 2300, 1400, 2400)
    assert (single.classification, single.colour) == ("hot", (1, 2, 3))


def test_percentiles_count_patches_and_not_glass() -> None:
    values = np.full((10, 20), NAN, dtype=np.float32)
    values[:, :10] = np.arange(100).reshape(10, 10)
    grid_map = replace(RING, values=values)
    found = regions_above(grid_map, MapThreshold.parse("90%"))
    # the 90th percentile of 0 to 99 is 89.1: the last row, 90 to 99
    assert sum(one.properties["measurements"]["Patches"] for one in found) == 10
    assert found.regions[0].geometry.bounds == (1000, 2900, 2000, 3000)


def test_patches_are_cut_at_the_edge_of_the_slide() -> None:
    whole = replace(RING, values=np.ones((1, 3), np.float32), mpp=None, origin=(0, 0))
    only = regions_above(whole, 0.5, dimensions=(250, 80)).regions[0]
    assert only.geometry.bounds == (0, 0, 250, 80)
    assert only.properties["measurements"]["Area level-0 px"] == 250 * 80


@given(arrays(np.float32, (6, 7), elements=st.sampled_from([0.0, 1.0, np.nan])))
def test_the_regions_cover_exactly_the_patches(values: np.ndarray) -> None:
    grid_map = replace(RING, values=values, origin=(0, 0))
    if not (values > 0.5).any():
        with pytest.raises(GridError, match="choose a lower threshold"):
            regions_above(grid_map, 0.5)
        return
    mask = regions_above(grid_map, 0.5).rasterize((6, 7), (700, 600))
    np.testing.assert_array_equal(mask, values > 0.5)


def test_quppath_gets_class_colour_and_measurements(tmp_path) -> None:
    found = regions_above(RING, 6.0, class_name="hot", colour=(1, 2, 3))
    write_regions(found, tmp_path / "r.geojson", offset=(1000, 2000))
    data = json.loads((tmp_path / "r.geojson").read_text())["features"][1]
    assert data["properties"]["classification"] == {"name": "hot", "color": [1, 2, 3]}
    assert data["properties"]["measurements"]["Patches"] == 1
    assert data["geometry"]["coordinates"][0][0] in ([300, 300], [300, 400], [400, 300], [400, 400])
    assert read_regions(tmp_path / "r.geojson", offset=(1000, 2000)).content_hash() == (
        found.content_hash()
    )


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "101%", "-1%", "%"])
def test_other_thresholds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        MapThreshold.parse(text)
