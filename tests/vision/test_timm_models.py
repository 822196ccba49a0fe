"""The backbones as timm's models, and as encoders of patches."""

from pathlib import Path

import pytest
import torch

from napari_2dmamba.errors import CheckpointError, FeatureError
from napari_2dmamba.features import load_encoder
from napari_2dmamba.torchvision_compat import import_needing_torchvision
from napari_2dmamba.vision.backbone import VisionMamba

timm = pytest.importorskip("napari_2dmamba.vision.timm_models") and import_needing_torchvision(
    "timm"
)
SIZES = {"depths": (1, 1, 1, 1), "dims": 8}


def test_names_and_parameters() -> None:
    with torch.device("meta"):
        tiny, small = (timm.create_model(f"vmamba2d_{size}") for size in ("tiny", "small"))
    assert sum(p.numel() for p in tiny.parameters()) == 30_249_064
    assert sum(p.numel() for p in small.parameters()) == 50_147_752
    assert {"vmamba2d_tiny", "vmamba_tiny"} <= set(timm.list_models("*vmamba*"))
    assert [timm.create_model(n, **SIZES).scan for n in
            ("vmamba2d_tiny", "vmamba_tiny", "vmamba2d_tiny_corners")] == [
        "2d", "1d", "2d-four-corners"]  # fmt: skip


def test_features_only() -> None:
    torch.manual_seed(0)
    whole = timm.create_model("vmamba2d_tiny", **SIZES).eval()
    torch.manual_seed(0)
    features = timm.create_model("vmamba2d_tiny", features_only=True, out_indices=(0, 2), **SIZES)
    features.eval()
    image = torch.randn(1, 3, 50, 70)
    maps, stages = features(image), whole.forward_stages(image)
    for found, wanted in zip(maps, (stages[0], stages[2]), strict=True):
        assert torch.equal(found, wanted)
    assert features.feature_info.channels() == [8, 32]
    assert features.feature_info.reduction() == [4, 16]
    assert len(features.model.layers) == 3  # what is not needed is gone


def test_heads() -> None:
    network = timm.create_model("vmamba2d_tiny", num_classes=0, **SIZES).eval()
    image = torch.randn(2, 3, 32, 32)
    pooled = network(image)
    assert pooled.shape == (2, 64)
    last = network.forward_features(image)
    torch.testing.assert_close(network.forward_head(last), pooled)
    network.reset_classifier(5)
    assert network(image).shape == (2, 5)
    assert torch.equal(network.forward_head(last, pre_logits=True), pooled)
    network.reset_classifier(0, "")
    torch.testing.assert_close(network(image).mean((2, 3)), pooled)
    assert network.default_cfg["classifier"] == "classifier.head"
    last_again, maps = network.forward_intermediates(image, indices=2, norm=True)
    assert torch.equal(last_again, last)
    torch.testing.assert_close(maps[1].mean((2, 3)), pooled)
    with pytest.raises(ValueError, match="stages"):
        network.forward_intermediates(image, indices=[4])


def test_timms_optimiser_groups_hold_every_parameter_once() -> None:
    from timm.optim import param_groups_layer_decay

    network = timm.create_model("vmamba2d_tiny", **SIZES)
    groups = param_groups_layer_decay(network, 0.05, network.no_weight_decay())
    names = [id(p) for group in groups for p in group["params"]]
    assert sorted(names) == sorted(id(p) for p in network.parameters())
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert id(network.layers[0].blocks[0].op.A_logs) not in decayed


def test_as_an_encoder_with_local_weights(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = VisionMamba(depths=(2, 2, 8, 2))
    torch.save({"model": network.state_dict(), "epoch": 3}, tmp_path / "tiny.pth")
    encoder = load_encoder("timm:vmamba2d_tiny", tmp_path / "tiny.pth", device="cpu")
    patches = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    features = encoder.encode(patches)
    network.reset_classifier(0)
    with torch.inference_mode():
        wanted = network.eval()(encoder.transform(patches, torch.device("cpu")))
    torch.testing.assert_close(features, wanted)


def test_an_encoder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="no weights"):
        load_encoder("timm:vmamba2d_tiny", device="cpu", offline=True)
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises((FeatureError, CheckpointError), match="do not fit"):
        load_encoder("timm:vmamba2d_tiny", tmp_path / "x.pth", device="cpu")
