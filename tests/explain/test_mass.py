import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from napari_2dmamba.explain.mass import border, fewest_cells


def test_fewest_cells_by_hand() -> None:
    values = np.array([[4.0, 3.0, np.nan], [2.0, 1.0, 0.0]])
    found = fewest_cells(values, (40, 50, 90, 99, 100))
    assert found[40].tolist() == [[True, False, False], [False, False, False]]
    assert found[50].tolist() == [[True, True, False], [False, False, False]]
    assert found[90].tolist() == [[True, True, False], [True, False, False]]
    assert found[99].tolist() == found[100].tolist() == [[True, True, False], [True, True, False]]
    assert not fewest_cells(np.zeros((2, 2)))[50].any()


@given(arrays.arrays(np.float64, (4, 5), elements=st.floats(0, 9)), st.integers(1, 100))
def test_no_fewer_cells_hold_the_share(values: np.ndarray, percent: int) -> None:
    chosen = fewest_cells(values, (percent,))[percent]
    if values.sum() == 0:
        assert not chosen.any()
        return
    share = values[chosen].sum() / values.sum()
    assert share >= percent / 100 - 1e-9
    fewer = np.sort(values.ravel())[::-1][: chosen.sum() - 1].sum() / values.sum()
    assert fewer < percent / 100 + 1e-9


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_the_border_is_that_of_the_union_of_the_cells(inside: np.ndarray) -> None:
    lines = border(inside)
    cells = shapely.union_all([shapely.box(c, r, c + 1, r + 1) for r, c in np.argwhere(inside)])
    drawn = [shapely.LineString(line[:, ::-1]) for line in lines]
    assert sum(line.length for line in drawn) == pytest.approx(cells.length)
    boundary = cells.boundary if inside.any() else cells
    assert shapely.symmetric_difference(shapely.union_all(drawn), boundary).length < 1e-9
    assert all((a == b).sum() == 1 for a, b in lines)  # along the lattice


def test_straight_borders_are_single_lines() -> None:
    inside = np.zeros((5, 6), bool)
    inside[1:4, 2:6] = True
    assert len(border(inside)) == 4
    assert sorted(map(tuple, border(inside).reshape(-1, 4).tolist())) == [
        (1, 2, 1, 6), (1, 2, 4, 2), (1, 6, 4, 6), (4, 2, 4, 6),
    ]  # fmt: skip
