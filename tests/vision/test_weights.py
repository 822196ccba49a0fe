"""Published files are read as data, and what does not fit is told."""

import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.vision.backbone import VisionMamba
from napari_2dmamba.vision.weights import load_backbone, read_state


def network(seed: int = 0, **arguments) -> VisionMamba:
    torch.manual_seed(seed)
    sizes = {"depths": (1, 2), "dims": (8, 24), "ssm_ratio": 2.0, "d_state": 3, "num_classes": 5}
    return VisionMamba(**{**sizes, **arguments})


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class called ``yacs.config.CfgNode``, as published training scripts store."""
    module = types.ModuleType("yacs.config")
    node = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    module.CfgNode = node
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    return node


def published(path: Path, settings: type, use_v2d: bool) -> tuple[Path, VisionMamba, VisionMamba]:
    """A checkpoint as VMamba's training script writes it, and the networks within."""
    model, average = network(0), network(1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 3, 16, 16)).sum().backward()
    optimizer.step()
    model_settings = settings({"VSSM": settings({"USE_V2D": use_v2d, "DEPTHS": [1, 2]})})
    model_settings.__dict__["__immutable__"] = True
    content = {
        "model": model.state_dict(),
        "model_ema": OrderedDict((f"module.{k}", v) for k, v in average.state_dict().items()),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"base_values": [5e-4], "t_in_epochs": False},
        "max_accuracy": 82.8,
        "epoch": 264,
        "config": settings({"MODEL": model_settings}),
    }
    torch.save(content, path)
    return path, model, average


def same(found: VisionMamba, wanted: VisionMamba) -> None:
    assert found.depths == wanted.depths
    for (name, a), b in zip(found.state_dict().items(), wanted.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_published_wrapper(tmp_path: Path, settings: type) -> None:
    path, model, average = published(tmp_path / "ckpt.pth", settings, use_v2d=True)
    same(load_backbone(path, "2d"), model)
    same(load_backbone(path, "2d", part="model_ema"), average)


@pytest.mark.parametrize(("use_v2d", "scan"), [(True, "1d"), (False, "2d")])
def test_weights_of_the_other_scan_are_refused(tmp_path, settings, use_v2d, scan) -> None:
    path, *_ = published(tmp_path / "ckpt.pth", settings, use_v2d)
    with pytest.raises(CheckpointError, match="trained with the"):
        load_backbone(path, scan)


def test_a_segmenters_file_with_its_histories(tmp_path: Path, monkeypatch) -> None:
    """What mmengine stores beside the weights holds numpy arrays and classes of its own."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    history = type("HistoryBuffer", (), {"__module__": module.__name__})
    module.HistoryBuffer = history
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    losses = history()
    losses._log_history = np.arange(5.0)
    losses._last = np.float64(3)
    model = network(num_classes=0)
    state = {f"backbone.{k}": v for k, v in model.state_dict().items()}
    path = tmp_path / "iter_160000.pth"
    torch.save(
        {"meta": {"iter": 160000}, "state_dict": state, "message_hub": {"loss": losses}}, path
    )
    same(load_backbone(path, "2d"), model)


def test_projections_stored_as_convolutions(tmp_path: Path) -> None:
    model = network()
    projections = ("in_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")
    state = {
        k: v[..., None, None] if k.endswith(projections) else v
        for k, v in model.state_dict().items()
    }
    torch.save(state, tmp_path / "m.pth")
    same(load_backbone(tmp_path / "m.pth", "1d"), model)


class Harm:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_is_executed(tmp_path: Path, capsys) -> None:
    torch.save({"model": network().state_dict(), "config": Harm()}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="refused"):
        load_backbone(tmp_path / "m.pth", "2d")
    assert capsys.readouterr().out == ""


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    state = network().state_dict()
    for change, told in (
        ({"extra.weight": torch.zeros(1)}, "left over: extra.weight"),
        ({"classifier.norm.bias": torch.zeros(7)}, r"other shapes: classifier.norm.bias \(7,\)"),
    ):
        torch.save(state | change, path)
        with pytest.raises(CheckpointError, match=told):
            load_backbone(path, "2d")
    torch.save({k: v for k, v in state.items() if "norm2.bias" not in k}, path)
    with pytest.raises(CheckpointError, match="missing"):
        load_backbone(path, "2d")
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match="no VMamba"):
        load_backbone(path, "2d")
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError, match="holds no 'model_ema'"):
        read_state(path, part="model_ema")
    with pytest.raises(CheckpointError, match="not there"):
        read_state(tmp_path / "absent.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"1234567890")
    with pytest.raises(CheckpointError, match="damaged"):
        read_state(tmp_path / "bad.safetensors")
