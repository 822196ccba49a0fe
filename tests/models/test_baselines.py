"""Published comparison models against their stored numbers."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from napari_2dmamba.models.architecture import Architecture, ModelOutput
from napari_2dmamba.models.checkpoint import load_checkpoint
from napari_2dmamba.models.clam import CLAM
from napari_2dmamba.models.dtfd import DTFD
from napari_2dmamba.models.mambamil import SequenceMamba
from napari_2dmamba.models.nystrom import NystromAttention
from tests.material import shared
from tests.models.test_mamba2d import error

GIVEN = {"patch_size": 256, "class_names": ("a", "b", "c"), "encoder": None}
F64, F32 = torch.float64, torch.float32


def arrays(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(shared(f"golden/baselines/{name}.npz")))


def weights(name: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    loaded = load_file(shared(f"golden/baselines/{name}.safetensors"))
    return {key: value.to(dtype) for key, value in loaded.items()}


def network(name: str, dtype: torch.dtype, **given: Any) -> Architecture:
    path = shared(f"golden/baselines/{name}.safetensors")
    task = "survival" if "surv" in name else "classification"
    return load_checkpoint(path, **GIVEN, task=task, **given).model.to(dtype).eval()


def outcome(
    name: str, dtype: torch.dtype, **given: Any
) -> tuple[Architecture, ModelOutput, dict[str, torch.Tensor], dict[str, np.ndarray]]:
    model, z = network(name, dtype, **given), arrays(name)
    stages: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        output = model(torch.from_numpy(z["features"]).to(dtype), stages=stages)
    stages["logits"] = output.logits
    stages["probs"] = output.logits.softmax(0)
    stages["hazards"] = torch.sigmoid(output.logits)
    stages["S"] = torch.cumprod(1 - stages["hazards"], 0)
    return model, output, stages, z


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize(
    ("name", "kind", "compared", "allowed"),
    [
        ("abmil", "abmil", 3, (1e-8, 2e-4)),
        ("clam_sb", "clam", 4, (1e-8, 2e-4)),
        ("dsmil", "dsmil", 5, (1e-8, 2e-4)),
        ("transmil", "transmil", 5, (1e-6, 1e-3)),
        ("s4mil", "s4mil", 2, (1e-8, 2e-4)),
        ("s4mil_surv", "s4mil", 2, (1e-8, 2e-4)),
        ("mambamil_sr", "mambamil", 3, (1e-8, 2e-4)),
        ("mambamil_sr_l2", "mambamil", 3, (1e-8, 2e-4)),
        ("mambamil_bi_asis", "mambamil", 3, (1e-8, 2e-4)),
    ],
)
def test_published_numbers(
    name: str, kind: str, compared: int, allowed: tuple[float, float], dtype: torch.dtype
) -> None:
    model, output, stages, z = outcome(name, dtype)
    assert model.name == kind
    shown = [key for key in z if key in stages and key != "features"]
    assert len(shown) == compared, shown
    for key in shown:
        # stages of TransMIL were stored in float32
        least = 1e-7 if z[key].dtype == np.float32 else 0.0
        assert error(stages[key], z[key]) < max(allowed[dtype == F32], least), key
    assert int(output.logits.argmax()) == int(z["Y_hat"].item())
    assert output.scores.shape == (len(z["features"]),)


def test_clam_instance_loss() -> None:
    model, _, stages, z = outcome("clam_sb", F64)
    assert isinstance(model, CLAM)
    for label in range(3):
        loss, predictions, targets = model.instance_loss(stages, label)
        assert loss.item() == pytest.approx(float(z[f"inst_loss_label{label}"]), rel=1e-9)
        assert predictions.tolist() == z[f"inst_preds_label{label}"].tolist()
        assert targets.tolist() == z[f"inst_targets_label{label}"].tolist()
        assert model.auxiliary_loss(stages, torch.tensor([label])) == loss


@pytest.mark.parametrize("dtype", [F64, F32])
def test_dtfd_parts(dtype: torch.dtype) -> None:
    allowed = 1e-8 if dtype == F64 else 2e-4
    # one pseudo-bag is what the published parts were run on
    model, _, stages, z = outcome("dtfd_parts", dtype, pseudo_bags=1)
    assert isinstance(model, DTFD)
    mid = stages["mid"]
    with torch.inference_mode():
        stages["att"] = torch.softmax(stages["att_raw"], dim=1)
        stages["tier2_logits"], _ = model.attCls(mid)
        w = weights("dtfd_parts", dtype)
        plain = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 1)).to(dtype)
        plain.load_state_dict(
            {k.removeprefix("attention2.attention."): v for k, v in w.items() if "n2.a" in k}
        )
        stages["att2"] = torch.softmax(plain(mid), dim=0)
    for key in ("mid", "att_raw", "att", "att2", "tier1_logits", "tier2_logits"):
        assert error(stages[key], z[key]) < allowed, key


@pytest.mark.parametrize("dtype", [F64, F32])
def test_nystrom_attention(dtype: torch.dtype) -> None:
    z = arrays("nystrom_attention")
    attention = NystromAttention(32, 8, 4, 8).eval()
    attention.load_state_dict(weights("nystrom_attention", dtype), assign=True)
    x = torch.from_numpy(z["features"][:, :32]).to(dtype)
    with torch.inference_mode():
        assert error(attention(x), z["out"]) < (1e-7 if dtype == F64 else 1e-3)
        zeros = attention.zeros_in_front(len(x))
        found = attention.attention_of(x, torch.arange(len(x) + zeros))
    assert error(found, z["attn"]) < (1e-7 if dtype == F64 else 1e-3)


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("mamba1d_module", "mamba"), ("bimamba_module", "bimamba"), ("srmamba_module", "srmamba")],
)
def test_mamba_modules(name: str, kind: str, dtype: torch.dtype) -> None:
    z = arrays(name)
    module = SequenceMamba(32, kind, d_state=16, d_conv=4, expand=2, rate=5)
    module.load_state_dict(weights(name, dtype), assign=True)
    with torch.inference_mode():
        found = module(torch.from_numpy(z["features"][:, :32]).to(dtype))
    assert error(found, z["out"]) < (1e-8 if dtype == F64 else 2e-4)


def test_configurations_are_read_off_the_weights() -> None:
    assert dataclasses.asdict(network("clam_sb", F32).config) | {"k_sample": 8} == {
        "feature_size": 64, "n_outputs": 3, "dropout": 0.25, "hidden": 512,
        "attention_hidden": 256, "gate": True, "branches": 1, "dropout_layer": True,
        "k_sample": 8, "subtyping": True,
    }  # fmt: skip
    config = network("mambamil_sr_l2", F32).config
    assert (config.n_layers, config.kind, config.d_model) == (2, "srmamba", 128)
    assert network("mambamil_sr", F32, kind="bimamba").config.kind == "bimamba"
    assert network("transmil", F32).config.landmarks == 256
    assert network("s4mil", F32).config.d_state == 16
    assert network("dtfd_parts", F32).config.residual_blocks == 1
