"""Every catalogued architecture, built small; and the renaming of transformers' weights."""

import dataclasses
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.encoder import load_encoder
from napari_2dmamba.features.encoder_catalog import BY_FILE, CATALOG
from napari_2dmamba.features.encoder_facts import (
    Wanted,
    about_encoder,
    against,
    catalogued,
    facts_of,
)
from napari_2dmamba.features.encoder_names import Access, access_of, known_encoders, not_taken
from tests.features.networks import require_timm

PATCHES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8))


@cache
def shape_only(name: str) -> torch.nn.Module:
    """The catalogued network without memory for its weights."""
    require_timm()
    from napari_2dmamba.features.timm_encoder import _FirstStages, _with_layers, create

    entry = CATALOG[name]
    with torch.device("meta"):
        network = create(entry.architecture, **_with_layers(entry.arguments))
        return network if entry.stages is None else _FirstStages(network, entry.stages)


@pytest.mark.parametrize("name", CATALOG)
def test_the_network_gives_the_stated_number_of_features(name):
    entry = CATALOG[name]
    network = shape_only(name)
    size = entry.transform.size
    with torch.no_grad():
        out = network(torch.empty(1, 3, size, size, device="meta"))
    width = out.shape[-1]
    if entry.pooling == "none":
        assert out.ndim == 2
    else:
        assert out.ndim == 3
        assert out.shape[1] - entry.prefix_tokens in (14**2, 16**2)
    assert (2 * width if entry.pooling == "cls+mean" else width) == entry.feature_size
    assert name in known_encoders()


WIDTHS = {"S": (384,), "B": (768,), "L": (1024,), "H": (1280, 1536), "g": (1536,)}


@pytest.mark.parametrize("name", CATALOG)
def test_the_facts_that_are_shown_are_those_of_the_network(name):
    entry, network = CATALOG[name], shape_only(name)
    count = sum(p.numel() for p in network.parameters()) / 1e6
    assert entry.millions == pytest.approx(count, abs=0.06)
    assert entry.megabytes == pytest.approx(4 * count, abs=1)
    if entry.network.startswith("ViT"):
        kind, patch = entry.network.removeprefix("ViT-").split("/")
        assert network.patch_embed.patch_size == (int(patch), int(patch))
        assert network.embed_dim in WIDTHS[kind]
        assert network.patch_embed.img_size == (entry.input_size, entry.input_size)
        assert network.num_prefix_tokens == entry.prefix_tokens or entry.pooling == "none"
    else:
        assert entry.network == "ResNet-50, three stages"
    about = about_encoder(name)
    assert f"{entry.feature_size} features" in about
    assert entry.licence in about
    assert entry.page in about
    assert ("hf auth login" in about) == entry.gated
    assert access_of(name) is (Access.GATED if entry.gated else Access.PUBLIC)
    facts = facts_of(name)
    assert facts is not None
    assert "from the file you gave" in facts.needs(has_weights=True)
    assert facts.to_do(has_weights=True) == ""
    assert (facts.feature_size, facts.input_size) == (entry.feature_size, entry.transform.size)


def test_the_embedded_encoder_is_what_is_said_of_it():
    encoder = load_encoder(device="cpu")
    facts = facts_of(encoder.name)
    assert facts is not None
    assert f"{encoder.feature_size} features" in about_encoder(encoder.name)
    for name in ("feature_size", "input_size", "mpp", "licence"):
        assert getattr(facts, name) == getattr(encoder, name)
    assert (facts.millions, facts.to_do()) == (0, "")
    assert access_of(encoder.name) is Access.AT_ONCE
    assert known_encoders()[0] == encoder.name


@pytest.mark.parametrize("name", BY_FILE)
def test_an_encoder_with_code_of_its_own_says_what_to_do(name):
    assert name not in known_encoders()
    assert access_of(name) is Access.BY_FILE
    with pytest.raises(FeatureError, match="ONNX") as refused:
        load_encoder(name, device="cpu")
    assert BY_FILE[name].page in str(refused.value)
    assert str(refused.value) in not_taken(name)


def test_names_and_facts_cost_no_torch():
    code = (
        "import sys; from napari_2dmamba.features.encoder_names import known_encoders; "
        "from napari_2dmamba.features.encoder_facts import about_encoder, catalogued; "
        "from napari_2dmamba.features.encoder_speed import latest_speed; known_encoders(); "
        "assert about_encoder('uni'); assert catalogued(); latest_speed('uni', 'auto', 'float32'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_encoder_that_is_offered_has_its_facts_once():
    names = [facts.name for group in catalogued().values() for facts in group]
    assert len(set(names)) == len(names)
    assert set(known_encoders()) | set(BY_FILE) == set(names)
    for access, group in catalogued().items():
        assert all(access_of(facts.name) is access for facts in group)


@pytest.mark.parametrize(
    ("stated", "agrees", "said"),
    [
        (("uni", 1024, 0.5), True, "match: trained on uni, on patches at 0.5 µm/px"),
        (("phikon-v2", 1024, 0.5), False, "mismatch: trained on phikon-v2"),
        (("uni", 512, None), False, "takes 512 features, and uni gives 1024"),
        ((None, 1024, None), None, "states no encoder; its 1024 features agree"),
        ((None, 768, 0.5), False, "mismatch: takes 768 features, and uni gives 1024"),
        ((None, None, None), None, "states neither"),
        (("mal\x1bicious", 1024, None), False, "mismatch: trained on mal icious"),
    ],
)
def test_match_or_mismatch_with_a_checkpoint_is_named(stated, agrees, said):
    verdict, words = against("uni", Wanted(*stated))
    assert verdict is agrees
    assert said in words


def test_other_slides_are_spoken_of_as_such():
    assert against("uni", Wanted("phikon", 768, 0.5, "slides")) == (
        False, "mismatch: computed by phikon",
    )  # fmt: skip
    assert against("uni", Wanted(None, 1024, None, "slides"))[1] == (
        "state no encoder; their 1024 features agree"
    )


PARAMETERS = {  # as their makers state them, in millions
    "uni": 303,
    "uni2-h": 681,
    "virchow": 632,
    "virchow2": 632,
    "prov-gigapath": 1135,
    "h-optimus-0": 1135,
    "phikon": 86,
    "phikon-v2": 303,
    "hibou-b": 86,
    "hibou-l": 304,
    "midnight": 1136,
    "h0-mini": 86,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_are_as_large_as_their_makers_say(name):
    count = sum(p.numel() for p in shape_only(name).parameters()) / 1e6
    np.testing.assert_allclose(count, PARAMETERS[name], rtol=0.02)


@pytest.mark.parametrize("name", ["resnet50-clam", "lunit-vits16"])
def test_random_weights_saved_to_a_file_run_through(name, tmp_path):
    require_timm()
    import timm

    torch.manual_seed(0)
    entry = CATALOG[name]
    network = timm.create_model(entry.architecture, num_classes=7).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    encoder = load_encoder(name, tmp_path / "w.safetensors", device="cpu", offline=True)
    found = encoder.encode(PATCHES)
    assert found.shape == (2, entry.feature_size)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (entry.transform.mean, entry.transform.std))
    pixels = (PATCHES.permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        if entry.stages is None:
            truth = network.forward_head(network.forward_features(pixels), pre_logits=True)
        else:
            stages = network.forward_intermediates(pixels, intermediates_only=True)
            truth = stages[entry.stages].mean((2, 3))
    # Ours runs channels last, which must not change features beyond this
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=1e-4)
    assert entry.licence == encoder.licence
    narrow = load_encoder(name, tmp_path / "w.safetensors", device="cpu", precision="bfloat16")
    error = (narrow.encode(PATCHES) - truth).norm(dim=1) / truth.norm(dim=1)
    assert error.max() < 0.02
    assert narrow.identity != encoder.identity


def test_gated_weights_say_offline_how_to_get_them(monkeypatch, tmp_path):
    require_timm()
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FeatureError, match=r"hf download 1aurent/vit_small_patch16_224.lunit_dino"):
        load_encoder("lunit-vits16", offline=True, device="cpu")


@pytest.mark.parametrize("kind", ["vit", "dinov2", "registers", "swiglu"])
def test_transformers_weights_run_alike_in_timm(kind, tmp_path):
    """Against transformers itself, with random weights."""
    require_timm()
    pytest.importorskip("transformers", reason="transformers is not installed")
    import timm

    from napari_2dmamba.features.timm_encoder import _with_layers
    from napari_2dmamba.features.transformers_names import to_timm
    from napari_2dmamba.features.weights import fit_weights, read_weights

    torch.manual_seed(0)
    common = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 16,
    }
    ours = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 4}
    if kind == "vit":
        from transformers.models.vit.modeling_vit import ViTConfig, ViTModel

        theirs = ViTModel(ViTConfig(**common, intermediate_size=192, layer_norm_eps=1e-6))
    elif kind == "registers":
        from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers as m

        theirs = m.Dinov2WithRegistersModel(
            m.Dinov2WithRegistersConfig(**common, num_register_tokens=4)
        )
        ours |= {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True}
    else:
        from transformers.models.dinov2.modeling_dinov2 import Dinov2Config, Dinov2Model

        theirs = Dinov2Model(Dinov2Config(**common, use_swiglu_ffn=kind == "swiglu"))
        ours["init_values"] = 1e-5
        if kind == "swiglu":
            swiglu = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU", "mlp_ratio": 2 * 128 / 48}
            ours |= _with_layers(swiglu)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network = timm.create_model("vit_base_patch16_224", num_classes=0, **ours).eval()
    theirs.save_pretrained(tmp_path)
    state = read_weights(tmp_path / "model.safetensors")
    assert any("attention.attention.query" in key for key in state)
    fit_weights(network, to_timm(state, network), "file")
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        truth = theirs.eval()(pixels).last_hidden_state
        found = network.forward_features(pixels)
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=1e-3)


def _kinds_of_pooling() -> list[str]:
    """Return the smallest transformer of each way that the catalogue's are pooled."""
    large_first = sorted(CATALOG, key=lambda name: -CATALOG[name].millions)
    kinds = {
        (CATALOG[name].pooling, CATALOG[name].prefix_tokens > 1): name
        for name in large_first
        if CATALOG[name].network.startswith("ViT")
    }
    return sorted(kinds.values())


@pytest.mark.parametrize("name", _kinds_of_pooling())
def test_the_real_architecture_is_pooled_as_its_makers_say(name, tmp_path, monkeypatch):
    """With one block instead of up to forty, random weights, and pooling written out here."""
    require_timm()
    from napari_2dmamba.features.timm_encoder import _with_layers, create

    entry = dataclasses.replace(
        CATALOG[name], arguments=CATALOG[name].arguments | {"depth": 1}, layout="timm"
    )
    monkeypatch.setitem(CATALOG, name, entry)
    torch.manual_seed(0)
    network = create(entry.architecture, **_with_layers(entry.arguments)).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    encoder = load_encoder(name, tmp_path / "w.safetensors", device="cpu", offline=True)
    found = encoder.encode(PATCHES[:1])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (entry.transform.mean, entry.transform.std))
    with torch.no_grad():
        tokens = network.forward_features((PATCHES[:1].permute(0, 3, 1, 2) / 255 - mean) / std)
    own, rest = tokens[:, 0], tokens[:, entry.prefix_tokens :].mean(1)
    truth = torch.cat([own, rest], 1) if entry.pooling == "cls+mean" else own
    assert found.shape == (1, entry.feature_size)
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=1e-3)
