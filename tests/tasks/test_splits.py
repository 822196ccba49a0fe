from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_2dmamba.errors import TaskError
from napari_2dmamba.tasks import (
    Fold,
    LabelledSlide,
    Split,
    SplitSettings,
    Table,
    make_split,
    read_split,
    write_split,
)
from napari_2dmamba.tasks.splits import check_split
from napari_2dmamba.tasks.time_bins import bin_of, time_bins
from tests.material import shared


def cohort(patients: int = 40, per_patient: int = 2, rare: int = 4) -> Table:
    slides = [
        LabelledSlide(f"s{p}_{k}", f"p{p}", "rare" if p % rare == 0 else "usual")
        for p in range(patients)
        for k in range(per_patient)
    ]
    return Table("classification", ("rare", "usual"), tuple(slides))


@settings(deadline=None, max_examples=12)
@given(
    st.integers(12, 40), st.integers(1, 3), st.integers(2, 4), st.integers(0, 9),
    st.sampled_from(["kfold", "held-out", "all"]),
)  # fmt: skip
def test_no_patient_is_on_two_sides(
    patients: int, per_patient: int, folds: int, seed: int, method: str
) -> None:
    table = cohort(patients, per_patient)
    split = make_split(table, SplitSettings(method=method, folds=folds, split_seed=seed))
    known = table.by_name()
    tested: Counter[str] = Counter()
    for fold in split.folds:
        sides = [
            {known[n].patient for n in part} for part in (fold.train, fold.validation, fold.test)
        ]
        assert sum(map(len, sides)) == len(set.union(*sides)) == patients
        tested.update(fold.test)
    if method == "kfold":
        assert len(split.folds) == folds
        assert set(tested.values()) == {1}
        assert len(tested) == len(table)
    assert split == make_split(table, SplitSettings(method=method, folds=folds, split_seed=seed))


def test_classes_are_spread_evenly_and_repeats_differ() -> None:
    table = cohort()
    split = make_split(table, SplitSettings(folds=5, repeats=2))
    known = table.by_name()
    for fold in split.folds:
        rare = sum(known[name].label == "rare" for name in fold.test)
        assert rare == 4  # of 20
    assert split.folds[:5] != split.folds[5:]


def test_events_are_spread_evenly() -> None:
    slides = tuple(
        LabelledSlide(f"s{i}", f"p{i}", time=float(i), event=i % 5 == 0) for i in range(50)
    )
    table = Table("survival", (), slides)
    for fold in make_split(table, SplitSettings(folds=5)).folds:
        assert sum(int(name[1:]) % 5 == 0 for name in fold.test) == 2


def test_a_split_comes_back_from_its_file(tmp_path: Path) -> None:
    split = make_split(cohort(), SplitSettings(folds=3))
    back = read_split(write_split(split, tmp_path / "split.csv"))
    assert [tuple(map(sorted, (f.train, f.validation, f.test))) for f in back.folds] == [
        tuple(map(sorted, (f.train, f.validation, f.test))) for f in split.folds
    ]


def test_clam_splits_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "splits_0.csv").write_text(",train,val,test\n0,a,c,d.svs\n1,b,,\n")
    (tmp_path / "splits_1.csv").write_text(",train,val,test\n0,12.0,c,d\n")
    (tmp_path / "splits_0_bool.csv").write_text(
        ",train,val,test\na,True ,False,False\nb,False,False,True\n"
    )
    split = read_split(tmp_path)
    assert split.folds == (Fold(("a", "b"), ("c",), ("d",)), Fold(("12",), ("c",), ("d",)))
    assert read_split(tmp_path / "splits_0_bool.csv").folds == (Fold(("a",), (), ("b",)),)
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TaskError, match="is no split"):
        read_split(tmp_path / "x.csv")


def test_a_tables_own_columns_are_taken() -> None:
    slides = [LabelledSlide(f"s{i}", f"p{i}", "ab"[i // 2 % 2], fold=i % 3) for i in range(30)]
    split = make_split(Table("classification", ("a", "b"), tuple(slides)))
    assert set(split.folds[1].test) == {f"s{i}" for i in range(1, 30, 3)}
    parts = ("train", "validation", "test")
    slides = [LabelledSlide(f"s{i}", f"p{i}", "ab"[i % 2], part=parts[i // 4]) for i in range(12)]
    (fold,) = make_split(Table("classification", ("a", "b"), tuple(slides))).folds
    assert fold.validation == ("s4", "s5", "s6", "s7")
    slides[3] = LabelledSlide("s3", "p3", "a")
    with pytest.raises(TaskError, match="1 slides are in no part"):
        make_split(Table("classification", ("a", "b"), tuple(slides)))


@pytest.mark.parametrize(
    ("fold", "what"),
    [
        (Fold(("s1_0", "s4_0"), (), ("s1_1",)), "patient in two parts"),
        (Fold(("s1_0", "s4_0"), (), ("s1_0",)), "slide in two parts"),
        (Fold(("s1_0", "s2_0"), (), ("s4_0",)), "one class"),
        (Fold((), (), ("s4_0",)), "empty"),
    ],
)
def test_leaks_and_empty_parts_stop(fold: Fold, what: str) -> None:
    _, problems = check_split(cohort(), Split((fold,), "by hand"))
    assert what in {problem.what for problem in problems if problem.stops}


def test_unknown_slides_are_left_out_and_counted() -> None:
    fold = Fold(("s0_0", "s1_0", "gone"), (), ("s2_0",))
    split, problems = check_split(cohort(), Split((fold,), "by hand"))
    assert split.folds[0].train == ("s0_0", "s1_0")
    counts = {problem.what: problem.count for problem in problems}
    assert counts["unknown slides"] == 1
    assert counts["unused slides"] == 77


def test_too_few_patients_are_said() -> None:
    with pytest.raises(TaskError, match="cannot be split into 5"):
        make_split(cohort(4, 3, 2))
    with pytest.raises(TaskError, match="folds is 1"):
        make_split(cohort(), SplitSettings(folds=1))


@pytest.mark.parametrize("sub", range(3))
def test_published_time_bins(sub: int) -> None:
    z = np.load(shared("golden/survival/bins.npz"))
    times, censored = z[f"b{sub}_time"], z[f"b{sub}_censorship"]
    edges = time_bins(times, censored == 0)
    np.testing.assert_allclose(edges, z[f"b{sub}_bins"], rtol=0, atol=1e-9)
    found = [bin_of(time, edges) for time in times]
    assert found == z[f"b{sub}_disc_label"].tolist()
    assert [2 * k + c for k, c in zip(found, censored, strict=True)] == z[
        f"b{sub}_joint_label"
    ].tolist()


def test_bins_without_events_or_different_times_are_said() -> None:
    with pytest.raises(TaskError, match="all patients are censored"):
        time_bins([1, 2], [False, False])
    with pytest.raises(TaskError, match="too few different times"):
        time_bins([1, 1, 1, 5], [True, True, True, False])
    assert bin_of(99.0, [0.0, 1.0, 2.0]) == 1
    assert bin_of(-9.0, [0.0, 1.0, 2.0]) == 0
