"""What every architecture must do: learn, explain itself, keep or ignore the order of patches."""

import dataclasses
import importlib.metadata
import math
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import (
    Aggregator,
    CheckpointHeader,
    ModelSettings,
    load_checkpoint,
    save_checkpoint,
)
from napari_2dmamba.models.architecture import Architecture
from napari_2dmamba.models.mamba2d import Mamba2DConfig, Mamba2DMIL
from napari_2dmamba.models.nystrom import NystromAttention
from napari_2dmamba.models.registry import architecture, architectures

SMALL = {
    "2dmamba": {"d_model": 16, "d_state": 4, "canvas_mode": "slide"},
    "2dmamba, 4 corners": {"d_model": 16, "d_state": 4, "directions": 4, "canvas_mode": "slide"},
    "2dmamba, 1d": {"d_model": 16, "d_state": 4, "scan": "1d"},
    "mambamil": {"d_model": 16, "n_layers": 1, "kind": "mamba", "d_state": 4},
    "mambamil, bi": {"d_model": 16, "n_layers": 1, "kind": "bimamba", "d_state": 4},
    "mambamil, sr": {"d_model": 16, "n_layers": 1, "kind": "srmamba", "d_state": 4, "rate": 3},
    "s4mil": {"d_model": 16, "d_state": 8},
    "transmil": {"dim": 16, "heads": 2},
    "dtfd": {"hidden": 16, "attention_hidden": 8, "pseudo_bags": 3},
    "dsmil": {"query_size": 8},
    "clam": {"hidden": 16, "attention_hidden": 8},
    "clam, mb": {"hidden": 16, "attention_hidden": 8, "branches": 2},
    "abmil": {"hidden": 16, "attention_hidden": 8},
}
ORDER_FREE = {"abmil", "clam", "clam, mb", "dsmil"}
SUMS_TO_ONE = ORDER_FREE | {"dtfd", "mambamil", "mambamil, bi", "mambamil, sr", "2dmamba, 1d"}
D = 8


def build(name: str) -> Architecture:
    torch.manual_seed(3)
    kind = architecture(name.split(",")[0])
    return kind(kind.config_class(D, 2, dropout=0.0, **SMALL[name]))


def a_bag(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, D, generator=generator)
    side = int(np.ceil(np.sqrt(1.5 * count)))
    flat = torch.randperm(side * side, generator=generator)[:count].sort().values
    return features, torch.stack([flat // side, flat % side], 1), (side, side)


def test_every_architecture_is_tried_here() -> None:
    assert {name.split(",")[0] for name in SMALL} == set(architectures())


@pytest.mark.parametrize("name", SMALL)
def test_learns_a_toy_task(name: str) -> None:
    """A slide is positive when three of its 8 patches carry a shift in half of the features.

    It is learnt when 19 of 20 new slides are told; how soon is not what is tested here.
    """

    def toy(seed: int) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int], torch.Tensor]:
        features, cells, canvas = a_bag(8, seed)
        features = 0.3 * features
        if seed % 2:
            features[torch.tensor([seed % 3, 4, 7]), :4] += 2
        return features, cells, canvas, torch.tensor([seed % 2])

    model = build(name).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def told() -> int:
        model.eval()
        right = 0
        with torch.inference_mode():
            for seed in range(1000, 1020):
                features, cells, canvas, label = toy(seed)
                right += int(model(features, cells, canvas).logits.argmax() == label)
        model.train()
        return right

    for step in range(200):
        if step and step % 20 == 0 and told() >= 19:
            return
        features, cells, canvas, label = toy(step)
        stages: dict[str, torch.Tensor] = {}
        output = model(features, cells, canvas, stages=stages)
        loss = torch.nn.functional.cross_entropy(output.logits[None], label)
        extra = model.auxiliary_loss(stages, label)
        optimiser.zero_grad()
        (loss if extra is None else loss + 0.5 * extra).backward()
        optimiser.step()
    pytest.fail(f"after 200 slides {told()} of 20 are told apart")


@pytest.mark.parametrize("name", SMALL)
def test_scores_and_gradients_reach_every_patch(name: str) -> None:
    model = build(name).double().eval()
    for count in (1, 2, 5, 23):
        features, cells, canvas = a_bag(count)
        features = features.double().requires_grad_()
        output = model(features, cells, canvas)
        assert output.logits.shape == (2,)
        assert output.scores.shape == (count,)
        assert bool(torch.isfinite(output.scores).all())
        gradient = torch.autograd.grad(output.logits[0], features)[0]
        assert bool(torch.isfinite(gradient).all())
        if not name.startswith("s4mil"):  # its maximum lets few patches through
            assert bool((gradient.abs().sum(1) > 0).all())
        if name in SUMS_TO_ONE:
            assert output.scores.sum().item() == pytest.approx(1)
        if name.startswith("2dmamba") and output.background_mass is not None:
            assert (output.scores.sum() + output.background_mass).item() == pytest.approx(1)


@pytest.mark.parametrize("name", SMALL)
def test_memory_is_linear_in_the_bag_and_the_canvas(name: str) -> None:
    model = build(name)
    one = model.peak_floats(10_000, 50_000)
    two = model.peak_floats(20_000, 100_000)
    assert one > 10_000 * D
    assert 1.5 * one < two < 2.2 * one or name == "s4mil"  # which has a fixed part
    assert two < 2.2 * one


def test_scores_of_s4mil_add_up_to_the_logit() -> None:
    model = build("s4mil").double().eval()
    output = model(a_bag(23)[0].double())
    top = int(output.logits.argmax())
    expected = output.logits[top] - model.classifier.bias[top]
    torch.testing.assert_close(output.scores.sum(), expected)


@pytest.mark.parametrize("name", SMALL)
def test_order_of_patches(name: str) -> None:
    model = build(name).double().eval()
    features, cells, canvas = a_bag(23)
    features = features.double()
    order = torch.randperm(23)
    with torch.inference_mode():
        before = model(features, cells, canvas)
        after = model(features[order], cells[order], canvas)
    same = torch.allclose(before.logits, after.logits, rtol=1e-9, atol=1e-12)
    on_grid = name in ("2dmamba", "2dmamba, 4 corners")  # cells, not order, place a patch
    assert same == (name in ORDER_FREE or on_grid)
    if same:
        torch.testing.assert_close(after.scores, before.scores[order])


@pytest.mark.parametrize("name", SMALL)
def test_saved_loaded_and_run(name: str, tmp_path: Path) -> None:
    model = build(name)
    header = CheckpointHeader(
        model.name, dataclasses.asdict(model.config), "classification", ("no", "yes"), "made-up"
    )
    save_checkpoint(Aggregator(model, header), tmp_path / "m.safetensors")
    loaded = load_checkpoint(tmp_path / "m.safetensors")
    features, cells, _ = a_bag(23)
    bag = FeatureBag(features.numpy(), cells.numpy()[:, ::-1] * 256, 256, encoder="made-up")
    prediction = loaded.predict(bag, ModelSettings(device="cpu"))
    with torch.inference_mode():
        low = cells.amin(0)
        size = (cells.amax(0) - low + 1).tolist()
        expected = model.eval()(features, cells - low, (size[0], size[1]))
    np.testing.assert_allclose(prediction.logits, expected.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(prediction.attention, expected.scores, rtol=1e-4, atol=1e-6)
    assert prediction.attention_meaning == model.score_meaning


def test_four_corners_see_the_whole_canvas_and_one_corner_a_quadrant() -> None:
    def reached(directions: int) -> torch.Tensor:
        torch.manual_seed(0)
        config = Mamba2DConfig(D, 2, d_model=8, d_state=2, directions=directions)
        model = Mamba2DMIL(config).double().eval()
        rows, cols = torch.meshgrid(torch.arange(5), torch.arange(6), indexing="ij")
        cells = torch.stack([rows.flatten(), cols.flatten()], 1)
        features = torch.randn(30, D, dtype=torch.float64, requires_grad=True)
        stages: dict[str, torch.Tensor] = {}
        model(features, cells, (5, 6), stages=stages)
        centre = stages["mixer0_y"][2, 3].sum()
        return (torch.autograd.grad(centre, features)[0].abs().sum(1) > 0).view(5, 6)

    one = reached(1)
    assert not bool(one[3:].any())
    assert not bool(one[2, 4:].any())
    assert bool(one[:3, :4].all())
    # The convolution runs on from row to row, so it brings in the ends of the rows above.
    assert bool(one[:2, 4:].all())
    assert bool(reached(4).all())


def test_four_corners_turn_with_the_canvas() -> None:
    """Swapping the weights of opposite corners undoes turning the scan's input by 180 degrees."""
    torch.manual_seed(0)
    block = Mamba2DMIL(Mamba2DConfig(D, 2, d_model=8, d_state=2, directions=4)).double()
    mixer = block.layers.layers[0].mixer
    opposite = mixer.other_corners[2]
    arrays = {
        name: torch.randn(1, 3, 4, size, dtype=torch.float64)
        for name, size in (("x", 16), ("dt", 16), ("B", 2), ("C", 2), ("z", 16))
    }
    turned = {name: value.flip(1, 2) for name, value in arrays.items()}
    torch.testing.assert_close(
        opposite.scan(arrays, (1, 2)), opposite.scan(turned).flip(1, 2), rtol=0, atol=0
    )


def test_clam_branches_by_hand() -> None:
    """One branch per class: each class is pooled with its own attention."""
    model = build("clam, mb").double().eval()
    features = a_bag(9)[0].double()
    hidden = torch.relu(model.attention_net[0](features))
    gate = model.attention_net[-1]
    a = torch.tanh(gate.attention_a[0](hidden)) * torch.sigmoid(gate.attention_b[0](hidden))
    weights = gate.attention_c(a).softmax(0)
    expected = torch.stack([model.classifiers[k](weights[:, k] @ hidden)[0] for k in range(2)])
    output = model(features)
    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(output.scores, weights[:, int(expected.argmax())])


def test_clam_instance_loss_of_a_small_bag() -> None:
    """Fewer patches than the loss asks for; published code fails here."""
    model = build("clam").eval()
    stages: dict[str, torch.Tensor] = {}
    model(a_bag(3)[0], stages=stages)
    loss = model.auxiliary_loss(stages, torch.tensor([1]))
    assert loss is not None
    assert bool(torch.isfinite(loss))


def test_dtfd_pools_pseudo_bags() -> None:
    model = build("dtfd").double().eval()
    features = a_bag(8)[0].double()
    output = model(features)
    mid = model.dimReduction(features)
    pooled = torch.stack([model.attention(mid[k::3]).softmax(0) @ mid[k::3] for k in range(3)])
    between = model.attCls.attention(pooled).softmax(0)
    torch.testing.assert_close(output.logits, model.attCls.classifier(between @ pooled))
    expected = model.attention(mid[1::3]).softmax(0) * between[1]
    torch.testing.assert_close(output.scores[1::3], expected)


def test_nystrom_is_plain_attention_when_every_token_is_a_landmark() -> None:
    torch.manual_seed(0)
    attention = NystromAttention(8, 4, 2, landmarks=12, iterations=30).double().eval()
    x = torch.randn(12, 8, dtype=torch.float64)
    q, k, v = (p.view(12, 2, 4).transpose(0, 1) for p in attention.to_qkv(x).chunk(3, -1))
    weights = (q @ k.transpose(1, 2) / 2).softmax(-1)
    out = (weights @ v + attention.res_conv(v[None])[0]).transpose(0, 1).reshape(12, 8)
    torch.testing.assert_close(attention(x), attention.to_out(out), rtol=1e-5, atol=1e-7)


def test_other_repositories_layouts(tmp_path: Path) -> None:
    given = {
        "patch_size": 256, "class_names": ("a", "b"), "encoder": None, "task": "classification",
    }  # fmt: skip
    transmil = build("transmil").state_dict()
    renamed = {k.replace("classifier.", "_fc2."): v for k, v in transmil.items()}
    torch.save({"state_dict": {f"model.{k}": v for k, v in renamed.items()}}, tmp_path / "t.pt")
    found = load_checkpoint(tmp_path / "t.pt", **given).model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in transmil.items())

    dtfd = build("dtfd").state_dict()
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in dtfd.items():
        part, _, rest = key.partition(".")
        part = {"dimReduction": "dim_reduction", "attCls": "att_classifier"}.get(part, part)
        parts.setdefault(part, {})[f"module.{rest}"] = value
    torch.save(parts, tmp_path / "d.pt")
    found = load_checkpoint(tmp_path / "d.pt", **given).model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in dtfd.items())


def test_unknown_architecture_lists_what_there_is() -> None:
    with pytest.raises(CheckpointError, match=r"'resnet' is not known here \(known: 2dmamba, "):
        architecture("resnet")


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch):
    """Install entry points for one test."""

    def install(**values: str) -> None:
        found = [
            importlib.metadata.EntryPoint(name, value, "napari_2dmamba.aggregators")
            for name, value in values.items()
        ]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)
        architectures.cache_clear()

    yield install
    architectures.cache_clear()


def test_the_documented_example_adds_an_architecture(
    entry_points, tmp_path: Path, monkeypatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "new_aggregator.md"
    code = re.search(r"```python\n(.*?)```", page.read_text(), re.S)
    assert code is not None
    assert len(code[1].splitlines()) < 40
    module = types.ModuleType("mean_pooling")
    exec(compile(code[1], str(page), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "mean_pooling", module)
    entry_points(mean="mean_pooling:MeanPooling")
    kind = architecture("mean")
    model = kind(kind.config_class(D, 2))
    header = CheckpointHeader(
        "mean", dataclasses.asdict(model.config), "classification", ("a", "b")
    )
    save_checkpoint(Aggregator(model, header), tmp_path / "m.safetensors")
    features, cells, _ = a_bag(5)
    bag = FeatureBag(features.numpy(), cells.numpy()[:, ::-1] * 256, 256)
    prediction = load_checkpoint(tmp_path / "m.safetensors").predict(bag)
    assert prediction.attention.shape == (5,)


def test_the_docs_table_has_every_architecture() -> None:
    page = (Path(__file__).parents[2] / "docs" / "new_aggregator.md").read_text()
    assert re.findall(r"^\| `(.+?)` \|", page, re.M) == list(architectures())


def test_a_broken_package_does_not_stop_the_others(entry_points) -> None:
    entry_points(bad="no_such_package:X", number="math:pi", twice="collections:OrderedDict")
    with pytest.warns(UserWarning, match="the aggregator") as told:
        assert "2dmamba" in architectures()
    said = " ".join(str(warning.message) for warning in told)
    assert "no_such_package:X cannot be loaded" in said
    assert "math:pi is left out: it is not a subclass of Architecture" in said
    assert "collections:OrderedDict is left out: it is not a subclass" in said


def test_a_patch_that_transmil_repeats_scores_no_more_for_it() -> None:
    """Five patches make a square of nine tokens: four of them are there twice."""
    model = build("transmil").double().eval()
    for parameter in model.pos_layer.parameters():  # what is left tells no position from another
        torch.nn.init.zeros_(parameter)
    features = torch.randn(1, D, dtype=torch.float64).expand(5, -1)
    with torch.inference_mode():
        scores = model(features).scores
    # The attention's own convolution along the sequence still tells places apart, a little.
    torch.testing.assert_close(scores, scores.mean().expand(5), rtol=0.02, atol=0)
    assert scores.abs().min() > 0.01


def test_the_kernel_of_s4_holds_its_phase_over_a_long_bag() -> None:
    """Against the sum of damped oscillations in float64, at phases of 1e4 radians."""
    from napari_2dmamba.models.s4mil import S4DKernel

    torch.manual_seed(0)
    kernel = S4DKernel(4, 32)
    kernel.log_dt.data.fill_(math.log(0.1))
    found = kernel(4000).detach()
    twin = S4DKernel(4, 32).double()
    twin.load_state_dict({k: v.double() for k, v in kernel.state_dict().items()})
    A = torch.complex(-torch.exp(twin.log_A_real), twin.A_imag).detach()
    step = A * torch.exp(twin.log_dt.detach())[:, None]
    C = torch.view_as_complex(twin.C.detach().contiguous())
    weight = 2 * C * (torch.exp(step) - 1) / A
    time = torch.arange(4000, dtype=torch.float64)
    truth = (weight[:, :, None] * torch.exp(step[:, :, None] * time)).sum(1).real
    torch.testing.assert_close(found.double(), truth, rtol=1e-6, atol=1e-7)
