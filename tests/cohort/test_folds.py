"""Folds of a training on the workers of Dask.

The worker is a thread of this process, which saves the minutes that processes take to import.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_2dmamba.cohort import train_side_by_side
from napari_2dmamba.errors import Cancelled, TaskError, TrainingError
from napari_2dmamba.models import load_checkpoint
from napari_2dmamba.tasks import SplitSettings, make_split, read_table
from napari_2dmamba.training import Epoch, Preset, train
from tests.training.test_run import FIT, TINY, UNCERTAIN
from tests.training.test_run import cohort as labelled

pytest.importorskip("distributed")


@pytest.fixture
def client() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_folds_of_workers_are_those_of_one_after_another(client: Any, tmp_path: Path) -> None:
    table = read_table(labelled(tmp_path, 8))
    split = make_split(table, SplitSettings(folds=2))
    how: dict[str, Any] = {
        "architecture": "abmil", "use": Preset(dataclasses.replace(FIT, epochs=3)),
        "config": TINY, "final": False, "logs": (), "scoring": UNCERTAIN,
    }  # fmt: skip
    told: list[tuple[str, Epoch]] = []
    alone = train(table, split, out=tmp_path / "alone", **how)
    beside = train_side_by_side(
        table, split, out=tmp_path / "beside", client=client,
        on_epoch=lambda model, epoch: told.append((model, epoch)), **how,
    )  # fmt: skip
    assert sorted({model for model, _ in told}) == ["fold 0", "fold 1"]
    for one, two in zip(alone.checkpoints, beside.checkpoints, strict=True):
        a, b = (load_checkpoint(path).model.state_dict() for path in (one, two))
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert alone.evaluation is not None
    assert beside.evaluation is not None
    assert alone.evaluation.scores == beside.evaluation.scores
    assert not list((tmp_path / "beside").glob(".at-work*"))

    # What goes wrong on a worker is the same sentence; a stop reaches the workers
    (tmp_path / "features" / "s1a.h5").unlink()
    with pytest.raises(TaskError, match="1 slides have no features file"):
        train_side_by_side(table, split, out=tmp_path / "broken", client=client, **how)
    with pytest.raises(Cancelled):
        train_side_by_side(
            table, split, out=tmp_path / "stopped", client=client, should_stop=lambda: True,
            **how,
        )  # fmt: skip
    assert not (tmp_path / "stopped" / "fold-0" / "model.safetensors").exists()


def test_one_fold_alone_is_taken_up_by_the_whole(tmp_path: Path) -> None:
    table = read_table(labelled(tmp_path, 8))
    split = make_split(table, SplitSettings(folds=2))
    how: dict[str, Any] = {
        "architecture": "abmil", "use": Preset(dataclasses.replace(FIT, epochs=1)),
        "config": TINY, "final": False, "logs": (), "scoring": UNCERTAIN,
    }  # fmt: skip
    part = train(table, split, out=tmp_path / "out", only=(1,), **how)
    assert part.evaluation is None
    (made,) = part.checkpoints
    before = made.stat().st_mtime_ns
    whole = train(table, split, out=tmp_path / "out", **how)
    assert whole.checkpoints[1] == made
    assert made.stat().st_mtime_ns == before
    assert whole.evaluation is not None
    with pytest.raises(TrainingError, match="no fold 2; the split has the folds 0 to 1"):
        train(table, split, out=tmp_path / "out", only=(2,), **how)
