import json
from dataclasses import replace

import numpy as np
import pytest

from napari_2dmamba.compare.ensemble import ensemble
from napari_2dmamba.errors import CheckpointError
from tests.compare.cases import SIDE, bag_of, comparison_of, entry_of

CELLS = [(0, 0), (0, 2), (1, 1), (1, 2), (2, 0)]
BAG = bag_of(CELLS)


def on_cells(*values: float) -> np.ndarray:
    expected = np.full((3, 3), np.nan)
    for (row, col), value in zip(CELLS, values, strict=True):
        expected[row, col] = value
    return expected


def test_difference_is_first_minus_second_in_percentile_ranks() -> None:
    # of five patches the lowest has percentile 10, the highest 90
    a = entry_of(BAG, "A", [0.0, 1.0, 2.0, 3.0, 100.0])
    b = entry_of(BAG, "B", [5.0, 4.0, 3.0, 2.0, 1.0])
    comparison = comparison_of(BAG, a, b)
    found = comparison.difference(0, 1)
    np.testing.assert_allclose(found.values, on_cells(-80, -40, 0, 40, 80), atol=1e-4)
    assert found.signed
    assert found.display_range == (-100, 100)
    assert found.quantity == "difference of percentile ranks"
    assert found.origin == (300, 200)
    assert found.patch_size_level0 == SIDE
    assert "percentile rank of the patch in A minus that in B" in found.meaning
    np.testing.assert_allclose(
        comparison.difference(1, 0).values, -found.values, atol=1e-4, equal_nan=True
    )


def test_raw_difference_says_when_it_means_nothing() -> None:
    a = entry_of(BAG, "A", [0.0, 1.0, 2.0, 3.0, 4.0])
    b = entry_of(BAG, "B", [1.0, 1.0, 1.0, 1.0, 1.0])
    c = entry_of(BAG, "C", [1.0] * 5, meaning="gradient")
    comparison = comparison_of(BAG, a, b, c)
    np.testing.assert_allclose(comparison.difference(0, 1, "raw").values, on_cells(-1, 0, 1, 2, 3))
    assert "different things" not in comparison.difference(0, 1, "raw").meaning
    assert "different things" in comparison.difference(0, 2, "raw").meaning


def test_rank_correlation_is_spearmans() -> None:
    a = entry_of(BAG, "A", [1.0, 2.0, 3.0, 4.0, 5.0])
    b = entry_of(BAG, "B", [1.0, 10.0, 100.0, 1e4, 1e5])
    c = entry_of(BAG, "C", [2.0, 1.0, 3.0, 4.0, 5.0])  # sum of squared rank differences: 2
    flat = entry_of(BAG, "flat", [7.0] * 5)
    found = comparison_of(BAG, a, b, c, flat).rank_correlation()
    by_hand = 1 - 6 * 2 / (5 * 24)
    np.testing.assert_allclose(found[:3, :3], [[1, 1, by_hand], [1, 1, by_hand], [by_hand, by_hand, 1]])  # fmt: skip  # noqa: E501
    assert np.isnan(found[3]).all()


def test_overlap_is_the_shared_part_of_the_highest() -> None:
    bag = bag_of([(0, col) for col in range(20)])
    rising = [float(n) for n in range(20)]
    shifted = [float((n + 1) % 20) for n in range(20)]  # the highest is now patch 18
    comparison = comparison_of(
        bag, entry_of(bag, "A", rising), entry_of(bag, "B", shifted), entry_of(bag, "C", rising)
    )
    assert comparison.top_count(0.01) == 1
    np.testing.assert_allclose(comparison.overlap(0.01), [[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    # of the four highest (16 to 19 and 15 to 18) three are the same
    assert comparison.overlap(0.2)[0, 1] == pytest.approx(3 / 4)
    with pytest.raises(ValueError, match="between 0 and 1"):
        comparison.overlap(0)


def test_maps_that_are_zero_nearly_everywhere_do_not_overlap_by_the_order_of_the_patches() -> None:
    bag = bag_of([(0, col) for col in range(20)])
    sparse = [0.0] * 18 + [1.0, 1.0]
    other = [0.0] * 16 + [1.0, 1.0, 0.0, 0.0]
    comparison = comparison_of(bag, entry_of(bag, "A", sparse), entry_of(bag, "B", other))
    found = comparison.overlap(0.2)
    # k = 4: two for certain, two of 18 zeros by lot. A's two certain ones are zeros of B, each
    # chosen with chance 2/18, and the other way round; of 16 zeros of both each with (2/18)**2
    by_hand = (4 * (2 / 18) + 16 * (2 / 18) ** 2) / 4
    assert found[0, 1] == pytest.approx(by_hand)
    np.testing.assert_allclose(np.diag(found), 1)


def test_all_values_are_read_at_once() -> None:
    a = entry_of(BAG, "A", [0.1, 0.2, 0.3, 0.4, 0.5])
    b = entry_of(BAG, "B", [9.0, 8.0, 7.0, 6.0, 5.0])
    comparison = comparison_of(BAG, a, b)
    cell = comparison.cell_at(300 + 2 * SIDE + 1, 200 + 99)
    assert cell == (0, 2)
    first, second = comparison.values_at(cell)
    assert (first.title, first.value, first.percentile, first.rank) == ("A", 0.2, 30.0, 4.0)
    assert (second.title, second.value, second.percentile, second.rank) == ("B", 8.0, 70.0, 2.0)
    assert comparison.values_at((0, 1)) == ()
    assert comparison.values_at(comparison.cell_at(0, 0)) == ()
    assert comparison.values_at((3, 0)) == ()


def test_predictions_of_different_tasks_are_not_mixed() -> None:
    a = entry_of(BAG, "A", [1.0] * 5, probabilities=(0.9, 0.1))
    b = entry_of(
        BAG,
        "B",
        [1.0] * 5,
        task="survival",
        class_names=("early", "late"),
        probabilities=(0.5, 0.25),
    )
    first, second = comparison_of(BAG, a, b).predictions_table()
    assert first.keys() == second.keys()
    assert (first["answer"], first["probability"], first["risk"]) == ("no", 0.9, None)
    assert (second["answer"], second["probability"], second["risk"]) == (None, None, -0.75)
    assert second["survival"] == [0.5, 0.25]
    json.dumps([first, second], allow_nan=False)


def test_an_ensemble_by_hand() -> None:
    a = entry_of(BAG, "A", [0.0, 1.0, 2.0, 3.0, 4.0], probabilities=(0.2, 0.8))
    b = entry_of(BAG, "B", [0.0, 1.0, 2.0, 4.0, 3.0], probabilities=(0.4, 0.6))
    c = entry_of(BAG, "C", [0.0, 1.0, 2.0, 3.0, 40.0], probabilities=(0.6, 0.4))
    found = ensemble(comparison_of(BAG, a, b, c))
    np.testing.assert_allclose(found.mean.values, on_cells(10, 30, 50, 230 / 3, 250 / 3), rtol=1e-6)
    spread = np.std([70, 90, 70], ddof=1)
    np.testing.assert_allclose(found.spread.values, on_cells(0, 0, 0, spread, spread), atol=1e-5)
    np.testing.assert_allclose(found.probabilities, [0.4, 0.6])
    np.testing.assert_allclose(found.probabilities_spread, [0.2, 0.2])
    assert found.same_answer == pytest.approx(2 / 3)
    raw = ensemble(comparison_of(BAG, a, b, c), [0, 1], scale="raw")
    assert raw.members == ("A", "B")
    np.testing.assert_allclose(raw.mean.values, on_cells(0, 1, 2, 3.5, 3.5))
    np.testing.assert_allclose(raw.spread.values, on_cells(0, 0, 0, 0.5**0.5, 0.5**0.5), rtol=1e-6)


def test_an_ensemble_of_survival_models() -> None:
    def member(label: str, curve: tuple[float, float]):
        return entry_of(
            BAG,
            label,
            [1.0] * 5,
            task="survival",
            class_names=("early", "late"),
            probabilities=curve,
        )

    found = ensemble(comparison_of(BAG, member("A", (0.5, 0.25)), member("B", (0.7, 0.05))))
    assert found.probabilities is None
    np.testing.assert_allclose(found.survival, [0.6, 0.15])
    assert found.risk == pytest.approx(-0.75)
    assert found.risk_spread == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "clam"}, "the architecture of B is clam and that of A is abmil"),
        ({"class_names": ("yes", "no")}, "B has the classes yes, no and A has no, yes"),
        ({"task": "survival"}, "the task of B is survival and that of A is classification"),
    ],
)
def test_what_is_no_ensemble_is_refused(changes: dict, words: str) -> None:
    comparison = comparison_of(BAG, entry_of(BAG, "A", [1.0] * 5), entry_of(BAG, "B", [1.0] * 5, **changes))  # fmt: skip  # noqa: E501
    with pytest.raises(CheckpointError, match=words):
        ensemble(comparison)


@pytest.mark.parametrize("meaning", ["attention of the predicted class", "attention"])
def test_maps_of_the_own_answer_are_averaged_where_models_answer_alike(meaning: str) -> None:
    scores = [0.0, 1.0, 2.0, 3.0, 4.0]
    a, b, c = (
        entry_of(BAG, label, scores, meaning=meaning, probabilities=answer)
        for label, answer in (("A", (0.2, 0.8)), ("B", (0.4, 0.6)), ("C", (0.6, 0.4)))
    )
    assert ensemble(comparison_of(BAG, a, b)).members == ("A", "B")
    if meaning == "attention":
        assert ensemble(comparison_of(BAG, a, c)).members == ("A", "C")
        return
    with pytest.raises(CheckpointError, match=r"explain different answers \(C: no\)"):
        ensemble(comparison_of(BAG, a, c))


def test_contributions_to_two_classes_are_not_averaged() -> None:
    a, b = (
        replace(entry, grid_map=replace(entry.grid_map, quantity=f"part of the logit of {name}"))
        for name, entry in (
            ("yes", entry_of(BAG, "A", [1.0] * 5)),
            ("no", entry_of(BAG, "B", [1.0] * 5)),
        )
    )
    with pytest.raises(CheckpointError, match="B: part of the logit of no"):
        ensemble(comparison_of(BAG, a, b))


def test_one_model_is_no_ensemble() -> None:
    comparison = comparison_of(BAG, entry_of(BAG, "A", [1.0] * 5))
    with pytest.raises(CheckpointError, match="needs two members, and 1 was chosen"):
        ensemble(comparison)
