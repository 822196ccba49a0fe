"""The grid: absolute cells, exact shares of tissue, edges, and errors."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from napari_2dmamba.errors import GridError, TissueError
from napari_2dmamba.slide import GridSettings, TissueMask, detect_tissue, make_grid, open_slide
from napari_2dmamba.slide.grid import check_cells
from tests.material import shared


def slide_of(width: int, height: int, mpp: float | None = None) -> Any:
    """Stand for a slide of which only size and resolution matter."""
    return SimpleNamespace(name="a.svs", dimensions=(width, height), mpp=mpp)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(3, 40), cols=st.integers(3, 40), factor=st.integers(1, 9),
    side=st.integers(16, 70), least=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 99),
)  # fmt: skip
@example(rows=18, cols=23, factor=9, side=17, least=0.0, seed=3)  # an area of rounding only
def test_shares_are_those_of_the_mask_blown_up(
    rows: int, cols: int, factor: int, side: int, least: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((rows, cols)) < 0.6
    full = np.kron(mask, np.ones((factor, factor), bool))
    height, width = full.shape
    expected = {}
    for row in range(math.ceil(height / side)):
        for column in range(math.ceil(width / side)):
            cell = full[row * side : (row + 1) * side, column * side : (column + 1) * side]
            tissue = cell.sum() / side**2
            if cell.size >= side**2 / 2 and tissue > 0 and tissue >= least - 1e-12:
                expected[column * side, row * side] = tissue
    given = GridSettings(patch_size=side, min_tissue=least)
    tissue_mask = TissueMask(mask, (width, height))
    if not expected:
        with pytest.raises((TissueError, GridError)):
            make_grid(slide_of(width, height), tissue_mask, given)
        return
    grid = make_grid(slide_of(width, height), tissue_mask, given)
    assert [tuple(corner) for corner in grid.coords] == list(expected)
    np.testing.assert_allclose(grid.tissue_fraction, list(expected.values()), rtol=1e-5)
    assert grid.canvas == (math.ceil(height / side), math.ceil(width / side))
    np.testing.assert_array_equal(grid.coords % side, 0)
    check_cells(grid.cells, grid.canvas)


def test_mask_pixels_need_not_divide_the_slide() -> None:
    # a mask of 10 x 10 over 1003 x 997: its left half is tissue, up to x = 501.5
    mask = np.zeros((10, 10), bool)
    mask[:, :5] = True
    grid = make_grid(
        slide_of(1003, 997), TissueMask(mask, (1003, 997)), GridSettings(100, min_tissue=0.001)
    )
    last = grid.tissue_fraction[grid.coords[:, 0] == 500]
    np.testing.assert_allclose(last[:-1], 0.015, rtol=1e-4)


def test_resolution_is_what_whole_pixels_make_it() -> None:
    mask = TissueMask(np.ones((10, 10), bool), (10_000, 8_000))
    grid = make_grid(slide_of(10_000, 8_000, 0.2528), mask, GridSettings(512, 0.5))
    assert grid.patch_size_level0 == 1013
    assert grid.mpp == pytest.approx(1013 * 0.2528 / 512)
    assert (grid.patch_size, grid.slide_mpp, grid.canvas) == (512, 0.2528, (8, 10))
    plain = make_grid(slide_of(10_000, 8_000), mask, GridSettings(512, 0.5))
    assert (plain.patch_size_level0, plain.mpp, plain.slide_mpp) == (512, None, None)


def test_edge_patches_count_when_half_lies_on_the_slide() -> None:
    mask = TissueMask(np.ones((10, 10), bool), (250, 149))
    grid = make_grid(slide_of(250, 149), mask, GridSettings(100))
    assert [tuple(corner) for corner in grid.coords] == [(0, 0), (100, 0), (200, 0)]
    np.testing.assert_allclose(grid.tissue_fraction, [1, 1, 0.5])


def test_too_small_and_too_empty_are_said() -> None:
    with pytest.raises(GridError, match=r"a\.svs is 60 x 60 pixels, less than half a patch"):
        make_grid(slide_of(60, 60), TissueMask(np.ones((6, 6), bool), (60, 60)), GridSettings(100))
    mask = np.zeros((100, 100), bool)
    mask[0, 0] = True
    with pytest.raises(TissueError, match=r"the fullest holds 1\.0%"):
        make_grid(slide_of(1000, 1000), TissueMask(mask, (1000, 1000)), GridSettings(100))


def test_a_large_grid_is_laid_whole() -> None:
    mask = TissueMask(np.ones((2500, 3000), bool), (120_000, 100_000))
    grid = make_grid(slide_of(120_000, 100_000), mask, GridSettings(240))
    assert len(grid) == 500 * 417 - 0
    assert grid.canvas == (417, 500)


def test_metaplasia() -> None:
    with open_slide(shared("slides/he/metaplasia-HE.svs")) as slide:
        grid = make_grid(slide, detect_tissue(slide))
        assert grid.canvas == (12, 14)
        check_cells(grid.cells, grid.canvas)
        assert 100 < len(grid) <= 12 * 14
        # patches that are all tissue are no glass, to look at
        for x, y in grid.coords[grid.tissue_fraction > 0.99][:5]:
            pixels = slide.read_region(int(x), int(y), 1, 253, 253, strict=True)
            assert pixels.mean() < 220
