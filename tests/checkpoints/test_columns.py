import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_2dmamba.checkpoints.columns import (
    COLUMNS,
    Row,
    column,
    file_size,
    matches,
    sort_key,
    sorted_rows,
)
from napari_2dmamba.checkpoints.fit import Fit, State
from napari_2dmamba.checkpoints.summary import CheckpointSummary

texts = st.text(max_size=8)
optional = st.none() | texts
numbers = st.none() | st.integers(1, 5000)
summaries = st.builds(
    CheckpointSummary,
    location=texts.map(lambda name: f"/models/{name}"),
    size=st.integers(0, 10**12),
    architecture=optional,
    task=optional,
    class_names=st.lists(texts, max_size=3).map(tuple),
    n_outputs=numbers,
    encoder=optional,
    feature_size=numbers,
    patch_size=numbers,
    mpp=st.none() | st.floats(),
    created=texts | st.datetimes(timezones=st.timezones()).map(lambda t: t.isoformat()),
    training=st.fixed_dictionaries(
        {"val": st.dictionaries(st.sampled_from(["auroc", "loss", "acc", "c_index"]), st.floats())}
    ),
)
rows = st.builds(
    Row, summaries, st.none() | st.builds(Fit, st.sampled_from(list(State)), texts), texts
)


@given(st.lists(rows, max_size=12), st.sampled_from(COLUMNS), st.booleans())
def test_sorting_orders_all_and_loses_none(some: list[Row], by, descending: bool) -> None:
    found = sorted_rows(some, by, descending=descending)
    assert sorted(map(id, found)) == sorted(map(id, some))
    keys = [sort_key(by, row) for row in found]
    stated = [key for key in keys if key is not None]
    assert keys == stated + [None] * (len(keys) - len(stated))  # what is not said comes last
    pairs = itertools.pairwise(stated)
    assert all(a >= b if descending else a <= b for a, b in pairs)
    # equal rows keep their order
    places = {id(row): place for place, row in enumerate(some)}
    for before, after in itertools.pairwise(found):
        if sort_key(by, before) == sort_key(by, after):
            assert places[id(before)] <= places[id(after)]


@given(st.lists(st.none() | st.floats(), max_size=10), st.booleans())
def test_numbers_are_sorted_as_numbers(values: list[float | None], descending: bool) -> None:
    some = [Row(CheckpointSummary(f"/{n}", mpp=value)) for n, value in enumerate(values)]
    found = [row.summary.mpp for row in sorted_rows(some, column("mpp"), descending=descending)]
    there = [value for value in values if value is not None and not math.isnan(value)]
    assert found[: len(there)] == sorted(there, reverse=descending)
    assert all(value is None or math.isnan(value) for value in found[len(there) :])


@given(st.lists(st.integers(0, 10**6), max_size=10))
def test_numbers_within_names_count_as_numbers(folds: list[int]) -> None:
    some = [Row(CheckpointSummary(f"/m/Fold{n}.pt")) for n in folds]
    found = [row.summary.name for row in sorted_rows(some, column("name"))]
    assert found == [f"Fold{n}.pt" for n in sorted(folds)]


@given(rows)
def test_every_text_is_one_line_of_text(row: Row) -> None:
    for one in COLUMNS:
        assert isinstance(one.text(row), str)


def test_scores_are_sorted_within_their_kind_and_low_losses_are_better() -> None:
    def row(**scores: float) -> Row:
        return Row(CheckpointSummary("/m", training={"validation": scores}))

    some = [
        row(loss=0.5),
        row(auroc=0.7),
        row(loss=0.1),
        row(auroc=0.9),
        Row(CheckpointSummary("")),
    ]
    best = sorted_rows(some, column("score"), descending=True)
    assert [one.summary.score for one in best] == [
        ("AUROC", 0.9), ("AUROC", 0.7), ("loss", 0.1), ("loss", 0.5), None,
    ]  # fmt: skip


def test_the_best_fit_comes_first() -> None:
    some = [Row(CheckpointSummary("/m"), Fit(state, "")) for state in reversed(State)]
    assert [row.fit.state for row in sorted_rows(some, column("fit"))] == list(State)  # type: ignore


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, ""), (999, "999 B"), (1000, "1 kB"), (196_412, "196 kB"), (4_360_000, "4.36 MB"),
     (999_900, "1 MB"), (12_345_678_901, "12.3 GB"), (999_999_999, "1 GB")],
)  # fmt: skip
def test_sizes(size: int, text: str) -> None:
    assert file_size(size) == text


def test_filter_words() -> None:
    row = Row(
        CheckpointSummary("/lab/FOLD1/m.pt", architecture="abmil", title="ABMIL"), note="Good"
    )
    assert matches(row, "")
    assert matches(row, "fold1 good abmil")
    assert not matches(row, "fold1 bad")
