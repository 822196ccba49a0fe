import dataclasses

import numpy as np
import pytest
import torch

from napari_2dmamba.errors import Cancelled
from napari_2dmamba.explain.faithfulness import (
    FLIPS_AND_ROTATIONS,
    Curve,
    agreement,
    faithfulness,
    stability_under_dropout,
    stability_under_turns,
    turned,
)
from tests.explain.subjects import subject
from tests.explain.test_counterfactual import decisive_subject


def test_area_of_a_curve() -> None:
    assert Curve(np.array([0, 0.5, 1]), np.array([1, 0.5, 0])).area == pytest.approx(0.5)


def test_a_map_that_knows_the_truth_beats_random_and_its_opposite_does_not() -> None:
    of = decisive_subject()
    truth = np.zeros(12)
    truth[[2, 5, 9]] = [3, 2, 1]
    found = faithfulness(of, {"truth": truth, "opposite": -truth}, steps=11, random_orders=4)
    assert found.target == 0
    curve = found.deletion["truth"]
    assert curve.share[0] == 0
    assert curve.share[-1] == pytest.approx(11 / 12)
    # by hand: after the three, class a has exp(0) of exp(0) + exp(0.5) + exp(0)
    assert curve.answer[3] == pytest.approx(1 / (2 + np.exp(0.5)), rel=1e-9)
    whole = np.exp(2) / (np.exp(2) + np.exp(0.5) + 1)  # 4 * 6 / 12
    assert curve.answer[0] == pytest.approx(whole, rel=1e-9)
    insertion = found.insertion["truth"]
    assert insertion.share[0] == pytest.approx(1 / 12)
    assert insertion.answer[-1] == pytest.approx(whole, rel=1e-9)
    first = np.exp(12) / (np.exp(12) + np.exp(0.5) + 1)  # the first patch alone: 4 * 3
    assert insertion.answer[0] == pytest.approx(first, rel=1e-9)
    fell, rose = found.advantage("truth")
    assert fell > 0
    assert rose > 0
    assert found.advantage("opposite")[0] < 0
    assert found.verdict("truth").startswith("The truth map finds patches")
    assert "no better than 4 random orders" in found.verdict("opposite")


def test_maps_are_taken_patch_by_patch_whatever_their_box() -> None:
    of = subject()
    scores = np.arange(len(of), dtype=float)
    grid_map = of.map_of_patches(scores, "m", "m")
    a = faithfulness(of, {"m": scores}, steps=3, random_orders=1)
    b = faithfulness(of, {"m": grid_map}, steps=3, random_orders=1)
    np.testing.assert_array_equal(a.deletion["m"].answer, b.deletion["m"].answer)
    with pytest.raises(Cancelled):
        faithfulness(of, {"m": scores}, should_stop=lambda: True)


def test_agreement_against_scipy_and_by_hand() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=40), rng.integers(0, 5, 40).astype(float)
    found = agreement(a, b)
    assert found.spearman == pytest.approx(spearmanr(a, b).statistic)
    assert found.k == 4
    assert found.expected_overlap == pytest.approx(0.1)
    assert agreement(a, a).overlap == 1
    assert agreement(a, -a).spearman == pytest.approx(-1)
    assert agreement(np.arange(10.0), np.arange(10.0)[::-1], k=3).overlap == 0
    a[3] = np.nan
    assert agreement(a, a).spearman == pytest.approx(1)
    assert np.isnan(agreement(np.ones(5), np.arange(5.0)).spearman)


def test_turns_are_the_eight_of_a_square() -> None:
    picture = np.arange(12).reshape(3, 4)
    cells = np.argwhere(picture >= 0)
    for _, turns, mirrored in FLIPS_AND_ROTATIONS:
        expected = np.rot90(picture[:, ::-1] if mirrored else picture, turns)
        moved = turned(cells + np.array([5, 7]), turns, mirrored) - np.array([5, 7])
        found = np.full(expected.shape, -1)
        found[moved[:, 0], moved[:, 1]] = picture.ravel()
        np.testing.assert_array_equal(found, expected)


def test_a_model_without_places_is_stable_and_a_causal_scan_is_not() -> None:
    alone = stability_under_turns(subject("abmil", hidden=8, attention_hidden=4))
    assert len(alone.names) == 8
    assert alone.same_answer == 1
    assert np.nanmax(alone.spread.values) < 1e-12
    assert "both may be relied on" in alone.verdict()
    of = subject(rows=4, cols=6)
    scan = stability_under_turns(of)
    assert np.nanmin(scan.spread.values) > 0
    np.testing.assert_allclose(of.scores_of_map(scan.spread), scan.attention.std(axis=0), rtol=1e-5)
    # by hand: rotated by 180 degrees, cell (r, c) lies at (3 - r, 5 - c)
    cells = torch.tensor([3, 5]) - of.cells
    with torch.no_grad():
        output = of.model(of.features, cells, of.canvas)
    np.testing.assert_allclose(scan.attention[2], output.scores, rtol=1e-9)
    np.testing.assert_allclose(scan.outcomes[2].logits, output.logits, rtol=1e-9)


def test_turns_that_leave_a_training_canvas_are_left_out() -> None:
    of = subject(rows=3, cols=6, left_out=())
    tight = dataclasses.replace(of, canvas=(4, 8))
    found = stability_under_turns(tight)
    assert len(found.names) == 4
    assert all("90" not in name and "270" not in name for name in found.names)
    assert len(stability_under_turns(dataclasses.replace(of, canvas=(8, 8))).names) == 8


def test_sequences_are_given_row_by_row_after_a_turn() -> None:
    of = subject("mambamil", d_model=8, kind="mamba", n_layers=1, d_state=3, attention_hidden=4,
                 rows=3, cols=4, left_out=())  # fmt: skip
    found = stability_under_turns(of)
    with torch.no_grad():
        flipped = of.model(of.features.flip(0))
    np.testing.assert_allclose(found.outcomes[2].logits, flipped.logits, rtol=1e-9)
    np.testing.assert_allclose(found.attention[2], flipped.scores.flip(0), rtol=1e-9)


def test_dropout_leaves_that_share_out_and_spreads() -> None:
    of = subject()
    found = stability_under_dropout(of, share=0.25, runs=5)
    gone = np.isnan(found.attention).sum(axis=1)
    assert gone.tolist() == [0, *[round(0.25 * len(of))] * 5]
    expected = np.nanstd(found.attention, axis=0)
    np.testing.assert_allclose(of.scores_of_map(found.spread), expected, rtol=1e-5)
    again = stability_under_dropout(of, share=0.25, runs=5)
    np.testing.assert_array_equal(found.attention, again.attention)
    assert "changed slides" in found.verdict()
