import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from napari_2dmamba.explain.display import (
    DisplaySettings,
    DisplayTransform,
    colour_table,
    format_value,
    percentiles,
    ranks,
    to_rgba,
    top_patches,
)
from napari_2dmamba.explain.grid_map import GridMap

NAN = np.nan


def a_map(values, **more) -> GridMap:
    array = np.asarray(values, dtype=np.float32)
    return GridMap(np.atleast_2d(array), "attention", "test", patch_size_level0=64, **more)


def shown(values, **how) -> np.ndarray:
    signed = how.pop("signed", False)
    display_range = how.pop("display_range", None)
    grid_map = a_map(values, signed=signed, display_range=display_range)
    return DisplayTransform(grid_map, DisplaySettings(**how))(grid_map.values)


def test_raw_is_linear_between_the_extremes() -> None:
    np.testing.assert_allclose(shown([2, 4, NAN, 6], transform="raw"), [[0, 0.5, NAN, 1]])


def test_display_range_is_used_until_the_user_clips() -> None:
    values = [2.0, 4.0, 6.0]
    got = shown(values, transform="raw", display_range=(0.0, 8.0))
    np.testing.assert_allclose(got, [[0.25, 0.5, 0.75]])
    got = shown(values, transform="raw", display_range=(0.0, 8.0), clip_high=50.0)
    np.testing.assert_allclose(got, [[0, 1, 1]])


def test_percentile_shares_ranks_among_ties() -> None:
    got = shown([1, 5, 5, 9, NAN], transform="percentile")
    np.testing.assert_allclose(got, [[0.125, 0.5, 0.5, 0.875, NAN]])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, 7.0, NAN]), min_size=1, max_size=30))
def test_percentiles_agree_with_scipy(scores) -> None:
    scores = np.array(scores)
    finite = scores[np.isfinite(scores)]
    expected = [
        NAN if np.isnan(s) else stats.percentileofscore(finite, s, kind="mean") for s in scores
    ]
    np.testing.assert_allclose(percentiles(scores), expected)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, 7.0]), min_size=1, max_size=30))
def test_ranks_agree_with_scipy(scores) -> None:
    np.testing.assert_array_equal(
        ranks(np.array(scores)), stats.rankdata(-np.array(scores), method="min")
    )


def test_ranks_leave_out_missing_scores() -> None:
    np.testing.assert_array_equal(ranks(np.array([NAN, 3.0, 5.0, 3.0])), [NAN, 2, 1, 2])


def test_log_shows_orders_of_magnitude_and_puts_zero_at_the_bottom() -> None:
    got = shown([1e-6, 1e-4, 1e-2, 0.0, -1.0, NAN], transform="log")
    np.testing.assert_allclose(got, [[0, 0.5, 1, 0, 0, NAN]], atol=1e-6)


def test_clipping_takes_percentiles_of_the_values() -> None:
    got = shown(np.arange(101), transform="raw", clip_low=10.0, clip_high=90.0)[0]
    assert (got[:11] == 0).all()
    assert (got[90:] == 1).all()
    assert got[50] == pytest.approx(0.5)


def test_gamma_bends_the_middle_and_keeps_the_ends() -> None:
    np.testing.assert_allclose(shown([0, 1, 4], transform="raw", gamma=0.5), [[0, 0.5, 1]])


@pytest.mark.parametrize("transform", ["raw", "percentile", "log"])
@pytest.mark.parametrize("signed", [False, True])
def test_constant_single_and_empty_maps_do_not_break(transform, signed) -> None:
    constant = shown([3, 3, NAN], transform=transform, signed=signed)
    assert constant[0, 0] == constant[0, 1]
    assert np.isfinite(constant[0, 0])
    assert np.isnan(constant[0, 2])
    if not signed:
        assert constant[0, 0] == 0.5
    nothing = a_map([NAN, NAN])
    transform_of = DisplayTransform(nothing, DisplaySettings(transform=transform))
    assert np.isnan(transform_of(nothing.values)).all()
    assert transform_of.ticks() == []
    assert to_rgba(nothing, DisplaySettings(transform=transform))[..., 3].max() == 0
    zeros = shown([0, 0], transform=transform, signed=signed)
    assert np.isfinite(zeros).all()


@pytest.mark.parametrize("transform", ["raw", "percentile", "log"])
def test_signed_maps_keep_zero_in_the_middle(transform) -> None:
    got = shown([-4, -1, 0, 1, 2], transform=transform, signed=True)[0]
    assert got[2] == 0.5
    assert got[1] == pytest.approx(1 - got[3], abs=1e-6)
    assert (np.diff(got) >= 0).all()
    assert got[0] < got[4]


def test_infinite_values_are_shown_at_the_ends() -> None:
    np.testing.assert_allclose(
        shown([1, 2, np.inf, -np.inf, 3], transform="raw"), [[0, 0.5, 1, 0, 1]]
    )


@pytest.mark.parametrize("transform", ["raw", "percentile", "log"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_ticks_carry_the_value_that_is_shown_there(transform, signed, gamma) -> None:
    rng = np.random.default_rng(3)
    values = rng.lognormal(-5, 2, size=(40, 50))
    if signed:
        values = values * rng.choice([-1, 1], size=values.shape)
    grid_map = a_map(values, signed=signed)
    how = DisplaySettings(transform=transform, gamma=gamma, clip_low=1.0, clip_high=99.0)
    display = DisplayTransform(grid_map, how)
    for position in (0.02, 0.3, 0.7, 0.95):
        if signed and transform != "raw" and abs(position - 0.5) < 0.02:
            continue
        back = display(np.array([display.value_at(position)]))[0]
        assert back == pytest.approx(position, abs=0.01)
    positions = [tick.position for tick in display.ticks()]
    assert positions == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("transform", ["raw", "log"])
def test_a_constant_map_has_one_tick_where_its_colour_is(transform) -> None:
    for value, signed in ((3.0, False), (3.0, True), (-3.0, True), (0.0, True)):
        grid_map = a_map([value, value], signed=signed)
        display = DisplayTransform(grid_map, DisplaySettings(transform=transform))
        at = {tick.label: tick.position for tick in display.ticks()}
        if value > 0:
            assert at["3.00"] == display(grid_map.values)[0, 0]
        assert all(0 <= position <= 1 for position in at.values())
    zeros = DisplayTransform(a_map([0.0, 0.0]), DisplaySettings(transform="log"))
    assert zeros.ticks() == []
    np.testing.assert_array_equal(zeros(np.zeros((1, 2))), [[0, 0]])


def test_the_data_are_never_changed() -> None:
    grid_map = a_map([[1, 2], [NAN, 4]])
    before = grid_map.values.copy()
    for transform in ("raw", "percentile", "log"):
        to_rgba(grid_map, DisplaySettings(transform=transform, clip_high=90.0, gamma=2.0))
    np.testing.assert_array_equal(grid_map.values, before)


def test_rgba_has_the_ends_of_the_colour_map_and_is_clear_without_value() -> None:
    rgba = to_rgba(a_map([0, 1, NAN]), DisplaySettings(transform="raw", opacity=0.4))
    table = colour_table("viridis")
    np.testing.assert_array_equal(rgba[0, 0], [*table[0], 102])
    np.testing.assert_array_equal(rgba[0, 1], [*table[255], 102])
    assert rgba[0, 2, 3] == 0


def test_unknown_colours_are_named() -> None:
    with pytest.raises(ValueError, match="no colour map 'purpleish'"):
        colour_table("purpleish")


def test_top_patches_are_stable_and_skip_missing_scores() -> None:
    scores = np.array([0.2, 0.9, NAN, 0.9, 0.1, 0.2])
    np.testing.assert_array_equal(top_patches(scores, 3), [1, 3, 0])
    np.testing.assert_array_equal(top_patches(scores, 3, lowest=True), [4, 0, 5])
    np.testing.assert_array_equal(top_patches(scores, 99), [1, 3, 0, 5, 4])
    assert len(top_patches(scores, 0)) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.5, "0.500"), (12.345, "12.3"), (1234.0, "1 230"), (0.00123, "0.00123"),
     (3.21e-6, "3.21·10⁻⁶"), (-2e9, "-2.00·10⁹"), (NAN, "none")],
)  # fmt: skip
def test_numbers_are_written_for_people(value, text) -> None:
    assert format_value(value) == text
