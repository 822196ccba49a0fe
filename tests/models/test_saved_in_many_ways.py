"""Checkpoints as people save them: the same weights come out, and nothing in them runs."""

import argparse
import collections
import datetime
import decimal
import enum
import pathlib
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from napari_2dmamba.checkpoints.summary import summarise
from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.models import Aggregator, MissingSettingsError, load_checkpoint
from napari_2dmamba.models.abmil import ABMIL, ABMILConfig
from napari_2dmamba.models.clam import CLAM, CLAMConfig
from napari_2dmamba.models.mamba2d import Mamba2DConfig, Mamba2DMIL
from tests.material import shared

GIVEN: dict[str, Any] = {
    "canvas": (3, 4), "patch_size": 256, "task": "classification",
    "class_names": ("normal", "tumour"), "encoder": None,
}  # fmt: skip


def loaded(path: Path) -> Aggregator:
    try:
        return load_checkpoint(path)
    except MissingSettingsError as error:
        return load_checkpoint(path, **{name: GIVEN[name] for name in error.missing})


@pytest.fixture(scope="module")
def network() -> Mamba2DMIL:
    torch.manual_seed(0)
    return Mamba2DMIL(Mamba2DConfig(6, 2, d_model=16, d_state=4))


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Colour(enum.Enum):
    RED = 1


class Settings:
    """A class of the script, which is not here when its checkpoint is read."""

    def __init__(self) -> None:
        self.lr = 1e-4


def beside() -> dict[str, Any]:
    """Return everything people keep beside weights."""
    names = argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/a/b"), seed=np.int64(3))
    return {
        "epoch": np.int64(3), "auc": np.float64(0.9), "best": np.float32(0.5),
        "scores": np.arange(6.0).reshape(2, 3).T, "names": np.array(["a", "b"]),
        "objects": np.array([1, "x"], dtype=object), "flags": np.array([True]),
        "big_endian": np.arange(3, dtype=">i4"), "empty": np.empty((0, 2)),
        "device": torch.device("cuda", 0), "dtype": torch.bfloat16, "size": torch.Size([1, 2]),
        "counts": collections.Counter("aab"), "lists": collections.defaultdict(list, a=[1]),
        "ordered": collections.OrderedDict(b=1), "queue": collections.deque([1], 3),
        "path": pathlib.PurePosixPath("/home/me/x"), "windows": pathlib.PureWindowsPath("C:/x"),
        "args": names, "settings": Settings(), "when": datetime.datetime(2026, 1, 1),
        "id": uuid.UUID(int=5), "number": decimal.Decimal("1.5"), "set": {1, 2},
        "frozen": frozenset({1}), "bytes": b"abc", "array": bytearray(b"abc"), "slice": slice(2),
        "complex": 1j, "memory": (1, [2, {"a": None}]), "kind": torch.optim.AdamW,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1}]},
        "rng": np.random.RandomState(0).get_state(), "torch_rng": torch.get_rng_state(),
        "keyed": {(1, "a"): 2, 3: 4},
    }  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("old", [False, True])
def test_what_lies_beside_the_weights_is_read_as_data(
    network: Mamba2DMIL, protocol: int, old: bool, tmp_path: Path
) -> None:
    path = tmp_path / "m.pt"
    torch.save(
        {**beside(), "model": network.state_dict()}, path, pickle_protocol=protocol,
        _use_new_zipfile_serialization=not old,
    )  # fmt: skip
    found = loaded(path)
    assert same(found.model, network)
    assert found.header.notes.startswith("In the file and not used: epoch, auc, best, ")
    assert "not used" in summarise(path).notes
    assert summarise(path).problem == ""


@pytest.mark.parametrize("old", [False, True])
def test_values_lie_where_strides_say(network: Mamba2DMIL, old: bool, tmp_path: Path) -> None:
    weights = {
        name: one.t().contiguous().t() if one.ndim == 2 else one[None].repeat(2, *[1] * one.ndim)[1]
        for name, one in network.state_dict().items()
    }
    path = tmp_path / "m.pt"
    torch.save({"rng": torch.get_rng_state(), "sd": weights}, path,
               _use_new_zipfile_serialization=not old)  # fmt: skip
    assert same(loaded(path).model, network)


WRAPPED: dict[str, Any] = {
    "plain": lambda w: w,
    "compile": lambda w: {f"_orig_mod.{k}": v for k, v in w.items()},
    "parallel": lambda w: {f"module.{k}": v for k, v in w.items()},
    "both": lambda w: {f"module._orig_mod.{k}": v for k, v in w.items()},
    "lightning": lambda w: {
        "state_dict": {f"model.{k}": v for k, v in w.items()} | {"criterion.weight": torch.ones(2)},
        "loops": {}, "pytorch-lightning_version": "2",
    },
    "lightning, own name": lambda w: {"state_dict": {f"mil_net.{k}": v for k, v in w.items()}},
    "lightning, compiled": lambda w: {
        "state_dict": {f"model._orig_mod.{k}": v for k, v in w.items()}
    },
    "metrics": lambda w: {
        "state_dict": {
            **{f"net.{k}": v for k, v in w.items()}, "val_auroc.tp": torch.ones(1),
            "train_metrics.Accuracy.tp": torch.ones(1), "loss_fn.pos_weight": torch.ones(1),
        }
    },
    "deep": lambda w: {f"model.net.module.model._orig_mod.{k}": v for k, v in w.items()},
    "inside": lambda w: {
        (k.replace("layers.", "layers.module.", 1) if k.startswith("layers.") else k): v
        for k, v in w.items()
    },
    "compiled inside": lambda w: {
        (k.replace("layers.", "layers._orig_mod.", 1) if k.startswith("layers.") else k): v
        for k, v in w.items()
    },
    "average": lambda w: {"n_averaged": torch.tensor(3)} | {f"module.{k}": w[k] for k in w},
    "config": lambda w: {"model": {"name": "x", "dim": 3}, "weights": w},
    "tuple": lambda w: (w, 3),
    "numpy": lambda w: {k: v.numpy() for k, v in w.items()},
    "parameters": lambda w: {k: nn.Parameter(v) for k, v in w.items()},
    "own key": lambda w: {"fold_3": w, "epoch": 3},
    "nested": lambda w: {"model": {"state_dict": {"module": w}}},
    **{
        key: (lambda w, key=key: {key: w, "epoch": 3})
        for key in ("params", "weights", "model_state", "model_state_dict", "net", "network")
    },
}  # fmt: skip


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.parametrize("protocol", [2, 5])
def test_wrapped_weights_are_those_of_the_network(
    network: Mamba2DMIL, how: str, protocol: int, tmp_path: Path
) -> None:
    path = tmp_path / "m.pt"
    torch.save(WRAPPED[how](network.state_dict()), path, pickle_protocol=protocol)
    assert same(loaded(path).model, network)
    assert summarise(path).architecture == "2dmamba"


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod.", "net.module."])
def test_wrapped_safetensors(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = ABMIL(ABMILConfig(6, 2, hidden=8, attention_hidden=4))
    path = tmp_path / "m.safetensors"
    save_file({prefix + k: v.contiguous() for k, v in network.state_dict().items()}, path)
    assert same(loaded(path).model, network)


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("branches", [1, 2])
def test_clam_as_published(gate: bool, branches: int, tmp_path: Path) -> None:
    """Its attention is run in parallel, and its loss keeps the labels."""
    torch.manual_seed(2)
    network = CLAM(CLAMConfig(6, 2, hidden=8, attention_hidden=4, gate=gate, branches=branches))
    weights = {
        k.replace("attention_net.", "attention_net.module.", 1): v
        for k, v in network.state_dict().items()
    }
    path = tmp_path / "s_0_checkpoint.pt"
    torch.save({**weights, "instance_loss_fn.labels": torch.ones(3, dtype=torch.int64)}, path)
    found = loaded(path)
    assert same(found.model, network)
    assert "instance_loss_fn.labels" in found.header.notes


def test_a_part_that_would_be_dropped_is_refused(network: Mamba2DMIL, tmp_path: Path) -> None:
    """A layer before the network is no wrapper: without it the answer would be another."""
    path = tmp_path / "m.pt"
    torch.save({**network.state_dict(), "projector.weight": torch.ones(6, 6)}, path)
    with pytest.raises(CheckpointError, match=r"projector\.weight"):
        loaded(path)
    wrapped = {f"model.{k}": v for k, v in network.state_dict().items()}
    torch.save({**wrapped, "projector.weight": torch.ones(6, 6)}, path)
    with pytest.raises(CheckpointError):
        loaded(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_no_numbers_are_named(
    network: Mamba2DMIL, value: float, tmp_path: Path
) -> None:
    weights = {k: v.double() for k, v in network.state_dict().items()}
    weights["classifier.weight"][0, 0] = value
    torch.save(weights, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"classifier\.weight"):
        loaded(tmp_path / "m.pt")


def test_the_cases_load_with_the_same_weights() -> None:
    folder = shared("cases/checkpoints")
    files = sorted(folder.glob("m2d_*"))
    assert len(files) == 7
    first = loaded(files[0]).model
    for file in files[1:]:
        assert same(loaded(file).model, first), file.name
    assert loaded(folder / "abmil_module.safetensors").model.name == "abmil"
    for file in folder.glob("clam_pub_*.pt"):
        assert loaded(file).model.name == "clam"


def test_weights_under_any_one_name_are_found(network: Mamba2DMIL, tmp_path: Path) -> None:
    weights = network.state_dict()
    optimiser = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1.0}]}
    path = tmp_path / "c.pt"
    torch.save({"checkpoint": {"best": {"epoch_9": weights}}, "optimizer": optimiser}, path)
    assert same(loaded(path).model, network)


def test_of_two_sets_of_weights_none_is_chosen_silently(
    network: Mamba2DMIL, tmp_path: Path
) -> None:
    weights = network.state_dict()
    other = {name: value + 1 for name, value in weights.items()}
    path = tmp_path / "c.pt"
    torch.save({"student": weights, "teacher": other}, path)
    with pytest.raises(CheckpointError, match=r"several times, as 'teacher' and 'student'"):
        loaded(path)
    torch.save({"model": weights, "teacher": other}, path)
    assert same(loaded(path).model, network)
