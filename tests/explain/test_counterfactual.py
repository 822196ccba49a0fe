import dataclasses
import itertools

import numpy as np
import pytest
import torch

from napari_2dmamba.errors import Cancelled, CheckpointError, FeatureError
from napari_2dmamba.explain.counterfactual import Counterfactuals, Edited, run_edited, smallest_set
from napari_2dmamba.explain.subject import patches_inside
from tests.explain.subjects import CORNER, SIDE, subject


def test_removing_puts_the_pad_token_and_leaves_all_else_in_place() -> None:
    of = subject()
    gone = np.array([0, 1, 2, 3, 4])  # the whole first row: the canvas must not shrink
    found = Counterfactuals(of).apply(gone, "remove")
    rest = np.arange(5, len(of))
    with torch.no_grad():
        output = of.model(of.features[rest], of.cells[rest], of.canvas)
    np.testing.assert_allclose(found.after.logits, output.logits, rtol=1e-12)
    np.testing.assert_allclose(found.attention[5:], output.scores, rtol=1e-12)
    assert np.isnan(found.attention[:5]).all()
    assert found.after.probabilities is not None
    np.testing.assert_allclose(
        found.change, found.after.probabilities - found.before.probabilities, rtol=1e-12
    )
    change = of.scores_of_map(found.attention_change)
    np.testing.assert_allclose(
        change[5:], found.attention[5:] - found.before.attention[5:], rtol=1e-5, atol=1e-9
    )
    padded = Counterfactuals(of).apply(gone, "pad")
    np.testing.assert_array_equal(padded.after.logits, found.after.logits)
    kept = Counterfactuals(of).apply(rest, "keep")
    np.testing.assert_array_equal(kept.after.logits, found.after.logits)


def test_edits_follow_each_other_and_are_undone() -> None:
    of = subject()
    edits = Counterfactuals(of)
    first = edits.apply(np.array([3]), "remove")
    second = edits.apply(np.array([7, 8]), "similar")
    assert len(edits) == 2
    assert not second.present[3]
    np.testing.assert_array_equal(edits.undo().after.logits, first.after.logits)
    untouched = edits.undo()
    np.testing.assert_array_equal(untouched.after.logits, edits.before.logits)
    assert np.nanmax(np.abs(untouched.attention_change.values)) == 0
    edits.undo()
    assert len(edits) == 0


def test_similar_patches_are_the_nearest_by_cosine_outside_the_choice() -> None:
    of = subject()
    found = Counterfactuals(of)
    found.apply(np.array([4, 5]), "similar", neighbours=3)
    features = found._states[-1].features.numpy()
    original = of.features.numpy()
    unit = original / np.linalg.norm(original, axis=1, keepdims=True)
    for patch in (4, 5):
        alike = unit @ unit[patch]
        alike[[4, 5]] = -2
        nearest = np.argsort(-alike)[:3]
        np.testing.assert_allclose(features[patch], original[nearest].mean(0), rtol=1e-12)
    untouched = np.setdiff1d(np.arange(len(of)), [4, 5])
    np.testing.assert_array_equal(features[untouched], original[untouched])


def test_what_cannot_be_done_is_refused_and_changes_nothing() -> None:
    edits = Counterfactuals(subject())
    everything = np.arange(len(edits.subject))
    for patches, action, words in (
        (everything, "remove", "leave no patch"),
        (everything[:0], "keep", "no patch that is still there"),
    ):
        with pytest.raises(FeatureError, match=words):
            edits.apply(patches, action)
    assert len(edits) == 0
    other = Counterfactuals(subject("abmil", hidden=8, attention_hidden=4))
    with pytest.raises(CheckpointError, match="ABMIL has no pad token"):
        other.apply(np.array([1]), "pad")
    assert np.isfinite(other.apply(np.array([1]), "remove").after.logits).all()


def test_survival_changes_its_curve() -> None:
    found = Counterfactuals(subject(task="survival")).apply(np.array([1, 2, 3]), "remove")
    assert found.after.survival is not None
    np.testing.assert_allclose(found.change, found.after.survival - found.before.survival)
    assert found.after.risk == pytest.approx(-found.after.survival.sum())


def test_patches_in_a_region_by_their_centres() -> None:
    of = subject()
    x, y = CORNER
    box = [(x, y), (x + 1.6 * SIDE, y), (x + 1.6 * SIDE, y + 0.6 * SIDE), (x, y + 0.6 * SIDE)]
    assert patches_inside(of.bag, box).tolist() == [0, 1]


def decisive_subject() -> object:
    """An ABMIL on 12 patches of which three carry the class, weight by weight."""
    of = subject("abmil", hidden=8, attention_hidden=4, rows=3, cols=4, left_out=())
    model = of.model
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        model.feature[0].weight[:4, :4] = torch.eye(4, dtype=torch.float64)
        model.classifier[0].weight[0, 0] = 4.0  # the first feature speaks for a
        model.classifier[0].bias[1] = 0.5  # without it, b
    features = torch.zeros_like(of.features)
    features[[2, 5, 9], 0] = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    return dataclasses.replace(of, features=features)


@pytest.mark.parametrize("goal", ["flip", "halve"])
def test_the_search_finds_the_smallest_set_of_a_model_made_by_hand(goal: str) -> None:
    of = decisive_subject()
    found = smallest_set(of, goal)
    assert found.found

    def reaches(patches: tuple[int, ...]) -> bool:
        present = np.ones(12, bool)
        present[list(patches)] = False
        after = run_edited(of, Edited(present, of.features))
        if goal == "flip":
            return after.top_class != found.before.top_class
        return after.probabilities[0] <= found.before.probabilities[0] / 2

    assert found.before.top_class == 0
    assert reaches(tuple(found.patches))
    size = next(n for n in range(1, 12) if any(map(reaches, itertools.combinations(range(12), n))))
    assert len(found.patches) == size
    assert set(found.patches) <= {2, 5, 9}
    marked = of.scores_of_map(found.map)
    assert set(np.flatnonzero(marked)) == set(found.patches)
    assert "a smaller set may exist" in found.verdict


def test_the_search_says_when_there_is_none_and_stops_when_told() -> None:
    of = decisive_subject()
    with torch.no_grad():
        of.model.classifier[0].weight.zero_()
    nothing = smallest_set(of, "flip")
    assert not nothing.found
    assert len(nothing.patches) == 0
    assert nothing.verdict.startswith("No set of patches was found")
    with pytest.raises(Cancelled):
        smallest_set(of, should_stop=lambda: True)
    with pytest.raises(ValueError, match="no class to flip"):
        smallest_set(subject(task="survival"), "flip")


def test_the_search_on_a_scan_reaches_its_goal() -> None:
    of = subject(task="survival")
    found = smallest_set(of, "halve", target="a", rounds=6, trims=4)
    if found.found:
        assert found.after.hazards[0] <= found.before.hazards[0] / 2
    else:
        assert found.after is found.before


def test_both_canvases_are_offered_where_they_differ() -> None:
    """Without its first row the bag alone has a smaller canvas, and another answer."""
    of = subject(rows=4, cols=5, left_out=())
    first_row = np.arange(5)
    kept = Counterfactuals(of).apply(first_row, "remove")
    own = Counterfactuals(of, canvas="own").apply(first_row, "remove")
    rest = np.arange(5, 20)
    alone = of.model(of.features[rest], of.cells[rest] - of.cells[rest].amin(0), (3, 5))
    np.testing.assert_allclose(own.after.logits, alone.logits.detach().numpy(), rtol=1e-12)
    assert np.abs(own.after.logits - kept.after.logits).max() > 1e-6
    assert kept.canvases_differ
    assert own.canvases_differ
    assert "canvas was kept" in kept.about_canvas
    assert "patches left" in own.about_canvas
    inner = Counterfactuals(of, canvas="own").apply(np.array([7]), "remove")
    assert inner.about_canvas == ""
    np.testing.assert_array_equal(
        inner.after.logits, Counterfactuals(of).apply(np.array([7]), "remove").after.logits
    )


def test_without_a_canvas_there_is_one_answer() -> None:
    of = subject("abmil", rows=4, cols=5, left_out=())
    assert Counterfactuals(of, canvas="own").apply(np.arange(5), "remove").about_canvas == ""
