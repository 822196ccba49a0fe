import pickle
import threading
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from napari_2dmamba.errors import Cancelled, TaskError
from napari_2dmamba.features import write_features
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.tasks import LabelledSlide, Table, TableBags, read_table
from napari_2dmamba.tasks.bags import check_features, prefetched


def cohort(folder: Path, count: int = 6, **others) -> Table:
    slides = []
    for i in range(count):
        coords = 64 * np.stack([np.arange(4) + i, np.full(4, i)], 1)
        bag = FeatureBag(np.full((4, 8), i, np.float32), coords, 64, 256, 0.5, encoder="e")
        bag = replace(bag, **others.get(f"s{i}", {}))
        write_features(bag, folder / f"s{i}.h5")
        slides.append(LabelledSlide(f"s{i}", f"p{i}", "ab"[i % 2], features=folder / f"s{i}.h5"))
    return Table("classification", ("a", "b"), tuple(slides))


def test_bags_are_kept_up_to_the_bound(tmp_path: Path, monkeypatch) -> None:
    table = cohort(tmp_path)
    names = [slide.name for slide in table.slides]
    bags = TableBags(table, names, memory_mb=0)
    assert [bag.label for bag in bags] == [0, 1, 0, 1, 0, 1]
    assert bags[-1].name == "s5"
    assert not bags._kept
    size = bags[0].bag.features.nbytes + bags[0].bag.coords.nbytes
    some = TableBags(table, names, memory_mb=1)
    some._room = 2 * size
    for index in (0, 1, 2, 3, 0):
        assert some[index].bag.features[0, 0] == index
    assert list(some._kept) == [0, 1]


def test_bags_come_in_order_from_a_thread_that_ends(tmp_path: Path) -> None:
    table = cohort(tmp_path)
    bags = TableBags(table, [slide.name for slide in table.slides])
    before = threading.active_count()
    for depth in (0, 2, 9):
        found = [bag.bag.features[0, 0] for bag in prefetched(bags, [3, 1, 1, 5], depth)]
        assert found == [3, 1, 1, 5]
    ahead = prefetched(bags, range(6), 2)
    next(ahead)
    ahead.close()
    assert threading.active_count() == before


def test_an_unreadable_bag_is_an_error_in_its_turn(tmp_path: Path) -> None:
    table = cohort(tmp_path)
    (tmp_path / "s2.h5").write_bytes(b"no")
    bags = prefetched(TableBags(table, [s.name for s in table.slides]), range(6), 3)
    assert next(bags).name == "s0"
    assert next(bags).name == "s1"
    with pytest.raises(Exception, match="s2"):
        next(bags)


def test_features_are_compared_and_counted(tmp_path: Path) -> None:
    kind, found = check_features(cohort(tmp_path), canvas=True)
    assert (kind.feature_size, kind.encoder, kind.patch_size, kind.mpp) == (8, "e", 256, 0.5)
    assert kind.canvas == (6, 9)
    assert not found
    table = cohort(tmp_path, s1={"encoder": "other"}, s4={"mpp": 0.25})
    (tmp_path / "s0.h5").unlink()
    (tmp_path / "s3.h5").write_bytes(b"no")
    _, found = check_features(table)
    stops = {problem.what: problem.slides for problem in found if problem.stops}
    assert stops == {
        "no features": ("s0",), "damaged features": ("s3",), "other encoder": ("s1",),
        "other mpp": ("s4",),
    }  # fmt: skip
    with pytest.raises(Cancelled):
        check_features(table, should_stop=lambda: True)
    nothing = replace(table, slides=(LabelledSlide("x", "x", "a"),))
    with pytest.raises(TaskError, match="no features file"):
        check_features(nothing)


def test_one_slide_under_two_names_is_found(tmp_path: Path) -> None:
    table = cohort(tmp_path)
    first = table.slides[0]
    assert first.features is not None
    (tmp_path / "copy.h5").write_bytes(first.features.read_bytes())
    copy = replace(first, name="copy", features=tmp_path / "copy.h5")

    def found(slide: LabelledSlide) -> dict[str, bool]:
        _, problems = check_features(replace(table, slides=(*table.slides, slide)))
        return {problem.what: problem.stops for problem in problems}

    assert found(copy) == {"same content": False}
    assert found(replace(copy, patient="other")) == {"same content": True}
    assert found(replace(copy, label="b")) == {"same content": True}
    assert found(replace(copy, features=first.features)) == {"same content": False}


def test_another_process_gets_the_bags_without_what_was_read(tmp_path: Path) -> None:
    table = cohort(tmp_path)
    bags = TableBags(table, [slide.name for slide in table.slides], memory_mb=1)
    assert bags[4].bag.features[0, 0] == 4
    told = pickle.dumps(bags)
    assert len(told) < 4096
    again = pickle.loads(told)
    assert not again._kept
    assert again._room == 2**20
    assert again.labels == bags.labels
    assert again[4].bag.features[0, 0] == 4


def test_a_nominal_magnification_is_no_resolution(tmp_path: Path) -> None:
    """TRIDENT calls a scan of 0.325 µm per pixel 20x; a model of it must not state 0.5."""
    lines = ["features,patient,label"]
    for number in range(2):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["features"] = np.random.default_rng(number).normal(size=(3, 4))
            file["coords"] = np.array([[0, 0], [256, 0], [512, 0]])
            file["coords"].attrs.update(
                patch_size=256, patch_size_level0=256, level0_magnification=20,
                target_magnification=20,
            )  # fmt: skip
        lines.append(f"{number}.h5,p{number},{number}")
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines))
    kind, problems = check_features(read_table(path))
    assert kind.mpp == 0.5
    (said,) = (one for one in problems if one.what == "nominal resolution")
    assert said.count == 2
    path.write_text("\n".join([lines[0] + ",mpp", *(line + ",0.325" for line in lines[1:])]))
    table = read_table(path)
    kind, problems = check_features(table)
    assert kind.mpp == pytest.approx(0.325)
    assert not any(one.what == "nominal resolution" for one in problems)
    assert TableBags(table, ["0"])[0].bag.mpp == pytest.approx(0.325)
