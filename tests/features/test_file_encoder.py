"""The user's own networks: TorchScript, ONNX, YAML."""

import numpy as np
import pytest
import torch

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features import trust
from napari_2dmamba.features.encoder import load_encoder

PATCHES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8))


class Means(torch.nn.Module):
    """Mean of each channel: what it should be is plain."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Tokens(torch.nn.Module):
    """Two prefix tokens of ones and twos, then the pixels of each quarter."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quarters = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(2).transpose(1, 2)
        first = torch.ones_like(quarters[:, :1])
        return torch.cat([first, 2 * first, quarters], 1)


@pytest.fixture(autouse=True)
def consents(tmp_path, monkeypatch):
    """Keep what is consented to apart from the user's own."""
    monkeypatch.setattr(trust, "consent_file", lambda: tmp_path / "config" / "trusted.json")


def save(network: torch.nn.Module, path) -> None:
    torch.jit.save(torch.jit.script(network), path)
    trust.trust(path)


def test_torchscript_alone_takes_imagenet_s_normalisation(tmp_path):
    save(Means(), tmp_path / "means.ts")
    encoder = load_encoder(str(tmp_path / "means.ts"), device="cpu")
    assert (encoder.name, encoder.feature_size, encoder.input_size) == ("means", 3, 224)
    mean = PATCHES.float().mean((1, 2)) / 255
    truth = (mean - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(encoder.encode(PATCHES), truth, atol=0.02, rtol=0)


def test_yaml_says_what_the_file_cannot(tmp_path):
    save(Tokens(), tmp_path / "tokens.ts")
    (tmp_path / "mine.yaml").write_text(
        "network: tokens.ts\nname: my tokens\ninput_size: 40\nmean: [0, 0, 0]\nstd: [1, 1, 1]\n"
        "pooling: cls+mean\nprefix_tokens: 2\nmpp: 0.5\nlicence: mine\nfeature_size: 6\n"
    )
    encoder = load_encoder(str(tmp_path / "mine.yaml"), device="cpu")
    assert (encoder.name, encoder.mpp, encoder.licence) == ("my tokens", 0.5, "mine")
    truth = torch.cat([torch.ones(3, 3), PATCHES.float().mean((1, 2)) / 255], 1)
    torch.testing.assert_close(encoder.encode(PATCHES), truth, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:You are using the legacy:DeprecationWarning")
def test_onnx(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    torch.onnx.export(
        Means(),
        torch.zeros(1, 3, 224, 224),
        tmp_path / "means.onnx",
        input_names=["x"],
        dynamic_axes={"x": {0: "batch"}},
        dynamo=False,
    )
    save(Means(), tmp_path / "means.ts")
    found = load_encoder(str(tmp_path / "means.onnx"), device="cpu").encode(PATCHES)
    truth = load_encoder(str(tmp_path / "means.ts"), device="cpu").encode(PATCHES)
    torch.testing.assert_close(found, truth)


def test_another_file_is_another_encoder(tmp_path):
    save(Means(), tmp_path / "a.ts")
    first = load_encoder(str(tmp_path / "a.ts"), device="cpu").identity
    save(torch.nn.Sequential(Means(), torch.nn.Linear(3, 3)), tmp_path / "a.ts")
    assert load_encoder(str(tmp_path / "a.ts"), device="cpu").identity != first


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is no YAML"),
        ("name: x", "does not name a 'network'"),
        ("network: absent.ts", "is not there"),
        ("network: t.ts\ncolour: red", "holds colour; understood are"),
        ("network: t.ts\nmean: [1, 2]", "three numbers"),
        ("network: t.ts\npooling: max", "pooling must be"),
        ("network: t.ts\ninterpolation: nearest", "interpolation must be"),
        ("network: t.ts\nfeature_size: 7", "gives 3 features .* but 7"),
        ("network: tokens.ts", "tokens"),
        ("network: bad.ts", "is no TorchScript file"),
    ],
)
def test_what_is_wrong_with_a_yaml_is_said(tmp_path, text, sentence):
    save(Means(), tmp_path / "t.ts")
    save(Tokens(), tmp_path / "tokens.ts")
    (tmp_path / "bad.ts").write_bytes(b"nothing of the kind")
    trust.trust(tmp_path / "bad.ts")
    (tmp_path / "e.yaml").write_text(text)
    with pytest.raises(FeatureError, match=sentence) as error:
        load_encoder(str(tmp_path / "e.yaml"), device="cpu")
    assert "\n" not in str(error.value)
    with pytest.raises(FeatureError, match="not there"):
        load_encoder(str(tmp_path / "absent.ts"), device="cpu")


def test_an_installed_package_offers_an_encoder(tmp_path, monkeypatch):
    (tmp_path / "their_package.py").write_text(
        "from napari_2dmamba.features.encoder import load_encoder\n"
        "def make(name, *, weights, offline, device, precision):\n"
        "    encoder = load_encoder(device=device)\n"
        "    encoder.name = name\n"
        "    return encoder\n"
    )
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[napari_2dmamba.encoders]\ntheirs = their_package:make\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_encoder("theirs", device="cpu").name == "theirs"
    with pytest.raises(FeatureError, match="theirs"):
        load_encoder("nobody's", device="cpu")
