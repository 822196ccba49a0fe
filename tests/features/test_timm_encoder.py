"""Real architectures with random weights saved to files, so that every loading path runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.encoder import Encoder, load_encoder
from napari_2dmamba.features.transform import Transform
from tests.features.networks import require_timm

PATCHES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 300, 300, 3), np.uint8))


@pytest.fixture(scope="module")
def network():
    require_timm()
    import timm

    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=0).eval()


def by_hand(network: torch.nn.Module, size: int, mean: tuple, std: tuple) -> np.ndarray:
    """What timm's own users would do: Pillow, then numpy, one patch at a time."""
    rows = []
    for patch in PATCHES.numpy():
        resized = Image.fromarray(patch).resize((size, size), Image.Resampling.BICUBIC)
        pixels = (np.asarray(resized) / 255 - mean) / std
        with torch.no_grad():
            rows.append(network(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())[0].numpy())
    return np.array(rows)


@pytest.fixture
def weights(network, tmp_path) -> Path:
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_local_weights_give_what_timm_and_pillow_give(network, weights):
    encoder = load_encoder("timm:test_vit", weights, device="cpu", offline=True)
    assert isinstance(encoder, Encoder)
    config = network.pretrained_cfg
    assert encoder.input_size == config["input_size"][1]
    truth = by_hand(network, encoder.input_size, config["mean"], config["std"])
    found = encoder.encode(PATCHES)
    assert found.dtype == torch.float32
    assert encoder.feature_size == found.shape[1] == network.num_features
    np.testing.assert_allclose(found.numpy(), truth, atol=1e-2)
    assert encoder.weights_from == str(weights)


@pytest.mark.parametrize("wrap", ["state_dict", "module", "head", "plain"])
def test_torch_files_are_read_however_they_are_wrapped(network, tmp_path, wrap):
    state = dict(network.state_dict())
    content: dict = state
    if wrap == "state_dict":
        content = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}
    elif wrap == "module":
        content = {f"module.{k}": v for k, v in state.items()}
    elif wrap == "head":
        content = {**state, "head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}
    torch.save(content, tmp_path / "w.pth")
    encoder = load_encoder("timm:test_vit", tmp_path / "w.pth", device="cpu")
    save_file(state, tmp_path / "w.safetensors")
    plain = load_encoder("timm:test_vit", tmp_path / "w.safetensors", device="cpu")
    assert (encoder.encode(PATCHES) == plain.encode(PATCHES)).all()
    assert encoder.identity == plain.identity  # by content, not by file


def test_other_weights_have_another_identity(network, weights, tmp_path):
    first = load_encoder("timm:test_vit", weights, device="cpu")
    state = {k: v.clone() for k, v in network.state_dict().items()}
    state["cls_token"][0, 0, 0] += 1e-3
    save_file(state, tmp_path / "other.safetensors")
    second = load_encoder("timm:test_vit", tmp_path / "other.safetensors", device="cpu")
    assert first.identity != second.identity


def test_a_folder_as_the_hub_gives_it(network, weights, tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights.read_bytes())
    config = {
        "architecture": "test_vit",
        "num_classes": 0,
        "model_args": {},
        "pretrained_cfg": {
            "input_size": [3, 160, 160],
            "mean": [0.1, 0.2, 0.3],
            "std": [0.5, 0.6, 0.7],
            "interpolation": "bicubic",
            "license": "mit",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name, given in ((f"timm:local-dir:{folder}", None), ("timm:test_vit", folder)):
        encoder = load_encoder(name, given, device="cpu", offline=True)
        truth = by_hand(network, 160, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
        np.testing.assert_allclose(encoder.encode(PATCHES).numpy(), truth, atol=1e-2)
        assert encoder.licence == "mit"


def test_offline_stays_offline_and_says_what_to_fetch(network, monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FeatureError, match=r"hf download MahmoodLab/UNI"):
        load_encoder("timm:hf-hub:MahmoodLab/UNI", offline=True, device="cpu")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FeatureError, match="we are offline"):
        load_encoder("timm:resnet18.a1_in1k", device="cpu")


def test_weights_that_do_not_fit_are_refused_by_name(network, tmp_path):
    state = dict(network.state_dict())
    state.pop("cls_token")
    state["extra"] = torch.zeros(1)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(FeatureError, match=r"missing: cls_token.*left over: extra"):
        load_encoder("timm:test_vit", tmp_path / "w.safetensors", device="cpu")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:999])
    with pytest.raises(FeatureError, match="cannot be read"):
        load_encoder("timm:test_vit", tmp_path / "cut.safetensors", device="cpu")
    with pytest.raises(FeatureError, match="are not there"):
        load_encoder("timm:test_vit", tmp_path / "absent.pth", device="cpu")


def test_pickled_code_in_weights_is_not_run(network, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "flag",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(FeatureError, match="could run code"):
        load_encoder("timm:test_vit", tmp_path / "evil.pth", device="cpu")
    assert not (tmp_path / "flag").exists()


def test_unknown_names_get_close_ones(network):
    with pytest.raises(FeatureError, match="stain-texture-v1"):
        load_encoder("uniform", device="cpu")
    with pytest.raises(FeatureError, match="knows no model 'vit_smalll"):
        load_encoder("timm:vit_smalll", device="cpu")


def test_without_timm_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(FeatureError, match=r'pip install "napari-2dmamba\[encoders\]"'):
        load_encoder("timm:resnet50", device="cpu")


def test_resizing_is_pillow_s():
    ours = Transform(size=100, mean=(0, 0, 0), std=(1, 1, 1))(PATCHES, torch.device("cpu"))
    theirs = [
        np.asarray(Image.fromarray(p).resize((100, 100), Image.Resampling.BICUBIC)) / 255
        for p in PATCHES.numpy()
    ]
    assert np.abs(ours.permute(0, 2, 3, 1).numpy() - theirs).max() < 1.01 / 255


def test_out_of_memory_halves_the_batch_and_goes_on(network, weights):
    encoder = load_encoder("timm:test_vit", weights, device="cpu")
    truth = encoder.encode(PATCHES.repeat(3, 1, 1, 1))
    sizes = []
    real = encoder._network.forward

    def forward(pixels):
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(pixels)

    encoder._network.forward = forward
    found = encoder.encode(PATCHES.repeat(3, 1, 1, 1))
    assert sizes[:4] == [9, 4, 2, 2]
    assert max(sizes[2:]) == 2
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-5)
    encoder._network.forward = lambda pixels: (_ for _ in ()).throw(torch.OutOfMemoryError("no"))
    with pytest.raises(FeatureError, match="even for one patch"):
        encoder.encode(PATCHES)


def test_bfloat16_stays_near_float32(network, weights):
    exact = load_encoder("timm:test_vit", weights, device="cpu").encode(PATCHES)
    mixed = load_encoder("timm:test_vit", weights, device="cpu", precision="bfloat16")
    assert "bfloat16" in mixed.identity
    cosine = torch.nn.functional.cosine_similarity(exact, mixed.encode(PATCHES))
    assert cosine.min() > 0.999
