import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from napari_2dmamba.models.mamba2d import Mamba2DConfig, Mamba2DMIL
from napari_2dmamba.models.published import training_canvas
from napari_2dmamba.slide.grid import cells_of
from napari_2dmamba.training.losses import nll_survival
from tests.material import shared
from tests.models.golden_cases import CASES, case


def error(found: torch.Tensor, target: np.ndarray) -> float:
    """Largest difference relative to the largest value."""
    target = target.astype(np.float64)
    found = found.detach().double().numpy().reshape(target.shape)
    return float(np.abs(found - target).max() / np.abs(target).max())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_published_numbers_at_every_stage(name: str, dtype: torch.dtype) -> None:
    golden = case(name)
    stages: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        output = golden.model(dtype)(*golden.inputs(dtype), stages=stages)
    stages["logits"] = output.logits
    if golden.settings["survival"]:
        stages["hazards"] = torch.sigmoid(output.logits)
        stages["S"] = torch.cumprod(1 - stages["hazards"], 0)
        stages["risk"] = -stages["S"].sum()
    else:
        stages["probs"] = output.logits.softmax(0)
    single = golden.tolerance["float32"]
    compared = 0
    for key, target in golden.arrays.items():
        if key not in stages:
            continue
        compared += 1
        if dtype == torch.float64:
            # internal stages were stored in float32
            allowed = 1e-9 if target.dtype == np.float64 else 1e-7
        elif key in ("att_softmax", "att_logits"):
            allowed = single["att_softmax_rel_to_max"]
        elif key in ("logits", "probs", "hazards", "S", "risk"):
            allowed = single["logits_rel_to_max"]
        else:
            allowed = single["internals_rel_to_max"]
        assert error(stages[key], target) < allowed, key
    assert compared >= 5
    assert int(output.logits.argmax()) == int(golden.arrays["Y_hat"].item())


def test_attention_of_a_patch_is_that_of_its_cell_and_the_rest_is_background() -> None:
    golden = case("cls_small")
    with torch.inference_mode():
        output = golden.model(torch.float64)(*golden.inputs(torch.float64))
    on_canvas = golden.arrays["att_softmax"]
    cells = cells_of(golden.arrays["coords"], golden.patch_size)
    np.testing.assert_allclose(output.scores, on_canvas[cells[:, 0], cells[:, 1]], rtol=1e-9)
    assert output.background_mass is not None
    # measured with the published code
    assert float(output.background_mass) == pytest.approx(0.08528174017235177, rel=1e-9)


def test_attention_over_tissue_leaves_pads_out_of_the_softmax_only() -> None:
    golden = case("cls_small")
    model = golden.model(torch.float64)
    everywhere: dict[str, torch.Tensor] = {}
    tissue: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        model(*golden.inputs(torch.float64), stages=everywhere)
        output = model.with_options(attention_over="tissue")(
            *golden.inputs(torch.float64), stages=tissue
        )
    assert model.config.attention_over == "all"
    torch.testing.assert_close(tissue["h_norm"], everywhere["h_norm"], rtol=0, atol=0)
    weights = everywhere["att_softmax"].flatten()
    position = golden.inputs(torch.float64)[1] @ torch.tensor([golden.canvas[1], 1])
    expected = weights[position] / weights[position].sum()
    torch.testing.assert_close(output.scores, expected)
    assert float(output.background_mass) == 0
    torch.testing.assert_close(tissue["bag"][0], expected @ everywhere["h_norm"][position])


def plain_forward(
    model: Mamba2DMIL, features: torch.Tensor, cells: torch.Tensor, canvas: tuple[int, int]
) -> torch.Tensor:
    """The same network cell by cell, nothing shared between pads, the scan as a double loop."""
    height, width = canvas
    grid = model.layers.pad_token.repeat(height * width, 1)
    for value, (row, col) in zip(model._fc1(features), cells.tolist(), strict=True):
        grid = grid.clone()
        grid[row * width + col] = value
    for block in model.layers.layers:
        mixer = block.mixer
        rms = grid.pow(2).mean(1, keepdim=True).add(1e-5).rsqrt()
        x, z = mixer.in_proj(grid * rms * block.norm.weight).chunk(2, dim=1)
        padded = torch.cat([x.new_zeros(3, x.shape[1]), x])
        taps = mixer.conv1d.weight[:, 0]
        x = sum(padded[k : k + len(x)] * taps[:, k] for k in range(4)) + mixer.conv1d.bias
        x = torch.nn.functional.silu(x)
        n = model.config.d_state
        dt, B, C = mixer.x_proj(x).split([model.config.dt_rank, n, n], dim=1)
        dt = torch.nn.functional.softplus(mixer.dt_proj(dt))
        A = -mixer.A_log.exp()
        along_row = {}
        state = {}
        y = torch.empty_like(x)
        zero = x.new_zeros(x.shape[1], n)
        for i in range(height):
            for j in range(width):
                cell = i * width + j
                a = torch.exp(dt[cell, :, None] * A)
                along_row[i, j] = a * along_row.get((i, j - 1), zero) + (
                    (dt[cell] * x[cell])[:, None] * B[cell]
                )
                state[i, j] = a * state.get((i - 1, j), zero) + along_row[i, j]
                y[cell] = (state[i, j] * C[cell]).sum(1) + mixer.D * x[cell]
        grid = grid + mixer.out_proj(y * torch.nn.functional.silu(z))
    hidden = model.norm(grid)
    weights = model.attention(hidden).softmax(0)
    return model.classifier((weights * hidden).sum(0))


@pytest.mark.parametrize(
    ("canvas", "count", "layers"),
    [((1, 1), 1, 1), ((5, 7), 3, 2), ((4, 3), 12, 1), ((3, 6), 17, 2)],
)
def test_sharing_pads_changes_nothing(canvas: tuple[int, int], count: int, layers: int) -> None:
    torch.manual_seed(0)
    model = Mamba2DMIL(Mamba2DConfig(6, 3, d_model=8, n_layers=layers, d_state=4)).double().eval()
    features = torch.randn(count, 6, dtype=torch.float64)
    flat = torch.randperm(canvas[0] * canvas[1])[:count]
    cells = torch.stack([flat // canvas[1], flat % canvas[1]], 1)
    with torch.no_grad():
        expected = plain_forward(model, features, cells, canvas)
        found = model(features, cells, canvas).logits
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_gradients_are_true() -> None:
    torch.manual_seed(1)
    model = Mamba2DMIL(Mamba2DConfig(3, 2, d_model=4, d_state=2)).double().eval()
    features = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    cells = torch.tensor([[0, 0], [1, 2], [2, 1], [2, 3]])

    def run(features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = model(features, cells, (3, 4))
        return output.logits, output.scores, output.background_mass

    assert torch.autograd.gradcheck(run, (features,), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["sgd_cls", "adam_cls", "adamw_cls_l2", "adam_surv", "adamw_zero_pad"]
)
def test_five_published_optimiser_steps(name: str) -> None:
    folder = shared("golden/train2d")
    entry = next(
        e for e in json.loads((folder / "index.json").read_text())["cases"] if e["case"] == name
    )
    s, z = entry["config"], np.load(folder / f"{name}.npz")
    config = Mamba2DConfig(
        s["in_dim"], s["n_classes"], d_model=s["mambamil_dim"], n_layers=s["mambamil_layer"],
        d_state=s["mambamil_state_dim"], pad=s["mamba_2d_pad_token"],
    )  # fmt: skip
    model = Mamba2DMIL(config)
    model.load_state_dict(load_file(folder / entry["weights_before"]))
    model = model.double().eval()  # dropout was inactive
    canvas = training_canvas(s["mamba_2d_max_w"], s["mamba_2d_max_h"], s["mamba_2d_patch_size"])
    o = entry["optimizer"]
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[o["name"]]
    extra = {} if o["momentum"] is None else {"momentum": o["momentum"]}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = kind(parameters, lr=o["lr"], weight_decay=o["weight_decay"], **extra)
    labels, censored = torch.from_numpy(z["labels"]), torch.from_numpy(z["censorship"])
    for step, bag in enumerate(entry["bag_order"]):
        cells = torch.from_numpy(cells_of(z[f"coords{bag}"], s["mamba_2d_patch_size"]))
        logits = model(torch.from_numpy(z[f"features{bag}"]).double(), cells, canvas).logits[None]
        if s["survival"]:
            loss = nll_survival(logits, labels[bag : bag + 1], censored[bag : bag + 1])
            backward = loss / 32
        else:
            loss = backward = torch.nn.functional.cross_entropy(logits, labels[bag : bag + 1])
        optimiser.zero_grad()
        backward.backward()
        if step == 0:
            for key, parameter in model.named_parameters():
                # the bias before a softmax has gradient zero but for rounding
                if parameter.requires_grad and key != "attention.2.bias":
                    assert error(parameter.grad, z[f"grad0/{key}"]) < 1e-7, key
        optimiser.step()
        assert loss.item() == pytest.approx(float(z["loss"][step]), rel=1e-9)
    for key, value in model.state_dict().items():
        target = z[f"final/{key}"]
        if key != "attention.2.bias" and np.abs(target).max() > 0:
            assert error(value, target) < 1e-7, key


def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    model = Mamba2DMIL(Mamba2DConfig(64, 2, d_state=16))
    model.requires_grad_(False)
    mixer = model.layers.layers[0].mixer
    assert mixer.dt_proj.bias.detach().abs().max() == 0
    assert float(mixer.D.min()) == float(mixer.D.max()) == 1
    torch.testing.assert_close(mixer.A_log[3].exp(), torch.arange(1.0, 17))
    token = model.layers.pad_token
    assert 0 <= float(token.min()) <= float(token.max()) < 1
    std = (2 / (128 + 512)) ** 0.5  # Xavier-normal of a 128 -> 512 projection
    assert float(mixer.in_proj.weight.std()) == pytest.approx(std, rel=0.02)
    bound = 0.5  # torch's default of a depthwise convolution of four taps
    assert float(mixer.conv1d.weight.abs().max()) <= bound
    assert float(mixer.conv1d.weight.abs().max()) > 0.9 * bound


def test_published_size() -> None:
    model = Mamba2DMIL(Mamba2DConfig(1024, 5))
    assert sum(p.numel() for p in model.parameters()) == 265_478
