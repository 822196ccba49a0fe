"""The backbone against the published numbers, and against what its scans must obey."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from napari_2dmamba.errors import BackendError
from napari_2dmamba.scan import use_backend
from napari_2dmamba.vision.backbone import CrossScanBlock, VisionMamba
from napari_2dmamba.vision.cross_scan import SCANS, cross_scan
from napari_2dmamba.vision.weights import load_backbone
from tests.material import shared

HERE = Path(__file__).parent / "golden"
CASES = ("tiny16_64x64", "tiny8_64x96", "tiny8_70x50_b2", "ratio2_state4_64x64")


def golden(case: str, ending: str) -> Path:
    """A case of this folder, or of the shared material."""
    here = HERE / f"{case}.{ending}"
    return here if here.exists() else shared(f"golden/vmamba2d/{case}.{ending}")


def error(found: torch.Tensor, wanted: np.ndarray) -> float:
    return float(np.abs(found.double().numpy() - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_stages_are_the_published_ones(case: str, dtype: torch.dtype) -> None:
    wanted = np.load(golden(case, "npz"))
    network = load_backbone(golden(case, "safetensors"), "2d").to(dtype).eval()
    image = torch.from_numpy(wanted["image"]).to(dtype)
    with torch.inference_mode():
        logits, stages = network(image), network.forward_stages(image)
    exact = dtype == torch.float64
    assert error(logits, wanted["logits"]) < (1e-12 if exact else 5e-6)
    for i, stage in enumerate(stages):  # stored in float32
        assert error(stage, wanted[f"stage{i}_blocks"]) < (1e-7 if exact else 5e-6)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("tiny", {}), ("small", {"depths": (2, 2, 15, 2), "ssm_ratio": 2.0})],
)
def test_names_and_shapes_are_the_published_ones(name: str, arguments: dict) -> None:
    listed = json.loads(shared(f"golden/vmamba2d/keys_vmamba2d_{name}.json").read_text())
    with torch.device("meta"):
        network = VisionMamba(**arguments)
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == listed["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == listed["n_params"]


def test_a_plain_vmamba_is_another_function_of_the_same_weights() -> None:
    """The published code falls back to the 1D scan silently: logits 15 % away."""
    case = "tiny8_70x50_b2"
    wanted = np.load(golden(case, "npz"))
    network = load_backbone(golden(case, "safetensors"), "1d").eval()
    assert error(network(torch.from_numpy(wanted["image"])).detach(), wanted["logits"]) > 0.1


def inputs(height: int, width: int, channels: int = 3, states: int = 2) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(height * 100 + width)

    def of(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=made, dtype=torch.float64)

    x, dt = of(2, height, width, channels), of(2, height, width, 4, channels)
    B, C = of(2, height, width, 4, states), of(2, height, width, 4, states)
    return [x, dt, -of(4, channels, states).exp(), B, C, of(4, channels), of(4, channels)]


def vmamba(x, dt, A, B, C, D, bias) -> torch.Tensor:
    """VMamba's cross scan, written out cell by cell."""
    batch, height, width, channels = x.shape
    rows = [(i, j) for i in range(height) for j in range(width)]
    columns = [(i, j) for j in range(width) for i in range(height)]
    y = torch.zeros_like(x)
    for k, order in enumerate((rows, columns, rows[::-1], columns[::-1])):
        h = torch.zeros(batch, channels, A.shape[2], dtype=x.dtype)
        for i, j in order:
            step = functional.softplus(dt[:, i, j, k] + bias[k]).unsqueeze(-1)
            h = torch.exp(step * A[k]) * h + step * B[:, i, j, k, None] * x[:, i, j, :, None]
            y[:, i, j] += (h * C[:, i, j, k, None]).sum(-1) + D[k] * x[:, i, j]
    return y


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 3), (2, 5), (5, 2)])
def test_the_1d_scan_is_vmambas(height: int, width: int) -> None:
    given = inputs(height, width)
    torch.testing.assert_close(cross_scan(*given, scan="1d"), vmamba(*given))


@pytest.mark.parametrize(("height", "width"), [(1, 7), (7, 1), (1, 1)])
def test_on_one_row_or_column_both_scans_are_one(height: int, width: int) -> None:
    given = inputs(height, width)
    torch.testing.assert_close(cross_scan(*given, scan="2d"), cross_scan(*given, scan="1d"))


def exchanged(given: list[torch.Tensor], order: list[int]) -> list[torch.Tensor]:
    """The same inputs with the four directions in another order."""
    x, dt, A, B, C, D, bias = given
    return [x, dt[:, :, :, order], A[order], B[:, :, :, order], C[:, :, :, order], D[order],
            bias[order]]  # fmt: skip


def moved(given: list[torch.Tensor], move) -> list[torch.Tensor]:
    return [move(t) if i in (0, 1, 3, 4) else t for i, t in enumerate(given)]


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5)])
@pytest.mark.parametrize(
    ("scan", "move", "order"),
    [
        # Half a turn exchanges the scans from the two corners
        ("2d", lambda t: t.flip(1, 2), [2, 3, 0, 1]),
        ("1d", lambda t: t.flip(1, 2), [2, 3, 0, 1]),
        # Transposing exchanges rows first and columns first
        ("2d", lambda t: t.transpose(1, 2), [1, 0, 3, 2]),
        ("1d", lambda t: t.transpose(1, 2), [1, 0, 3, 2]),
        # A mirror exchanges neighbouring corners
        ("2d-four-corners", lambda t: t.flip(2), [1, 0, 3, 2]),
        ("2d-four-corners", lambda t: t.flip(1), [3, 2, 1, 0]),
    ],
)
def test_turning_the_map_exchanges_directions(scan, move, order, height, width) -> None:
    given = inputs(height, width)
    turned = cross_scan(*exchanged(moved(given, move), order), scan=scan)
    torch.testing.assert_close(turned, move(cross_scan(*given, scan=scan)))


@pytest.mark.parametrize(
    ("scan", "seen"),
    [
        ("2d", [[1, 0], [0, 1]]),
        ("1d", [[1, 1], [1, 1]]),
        ("2d-four-corners", [[1, 1], [1, 1]]),
    ],
)
def test_which_quadrants_a_cell_sees(scan, seen) -> None:
    given = inputs(5, 6)
    given[0].requires_grad_()
    cross_scan(*given, scan=scan)[0, 2, 3].sum().backward()
    gradient = given[0].grad[0].abs().sum(-1)
    quadrants = [[gradient[:2, :3], gradient[:2, 4:]], [gradient[3:, :3], gradient[3:, 4:]]]
    assert [[int(bool(q.all())) for q in pair] for pair in quadrants] == seen
    if seen == [[1, 0], [0, 1]]:
        assert not gradient[:2, 4:].any()
        assert not gradient[3:, :3].any()


@pytest.mark.parametrize("scan", SCANS)
def test_gradients_are_those_of_the_function(scan) -> None:
    torch.manual_seed(0)
    block = CrossScanBlock(2, scan, 1.0, 2).double()
    names, parameters = zip(*block.named_parameters(), strict=True)

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), x)

    x = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


def small(scan="2d", **arguments) -> VisionMamba:
    torch.manual_seed(0)
    sizes = {"depths": (1, 2), "dims": 8, "num_classes": 3, "drop_path_rate": 0.0}
    return VisionMamba(scan=scan, **{**sizes, **arguments})


@pytest.mark.parametrize("size", [(1, 1), (5, 33), (64, 64)])
def test_any_size(size) -> None:
    stages = small().forward_stages(torch.randn(1, 3, *size))
    for i, stage in enumerate(stages):
        stride = 4 * 2**i
        assert stage.shape == (1, 8 * 2**i, *(-(-n // stride) for n in size))


def gradients(network: VisionMamba, image: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return list(torch.autograd.grad(network(image).square().sum(), network.parameters()))


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.5])
def test_checkpointing_changes_no_gradient(drop_path_rate) -> None:
    network, image = small(drop_path_rate=drop_path_rate), torch.randn(4, 3, 24, 20)
    plain = gradients(network, image)
    network.set_grad_checkpointing()
    for found, wanted in zip(gradients(network, image), plain, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_stochastic_depth_only_in_training() -> None:
    network, image = small(drop_path_rate=0.9), torch.randn(2, 3, 16, 16)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_compiled_it_is_the_same_function() -> None:
    network, image = small(depths=(1,)).eval(), torch.randn(2, 3, 24, 20)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), network(image), rtol=1e-4, atol=1e-5)


def test_bfloat16_under_autocast_stays_near() -> None:
    network, image = small().eval(), torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = network(image).float()
    torch.testing.assert_close(found, network(image).detach(), rtol=0.1, atol=0.01)


def test_a_backend_that_cannot_run_is_an_error_and_no_other_scan() -> None:
    with use_backend("cuda"), pytest.raises(BackendError, match="cuda"):
        small()(torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"scan": "3d"}, "scan"),
        ({"dims": (8, 16, 32)}, "dims"),
        ({"global_pool": "max"}, "global_pool"),
    ],
)
def test_what_cannot_be_built(arguments, named) -> None:
    with pytest.raises(ValueError, match=named):
        VisionMamba(**{"depths": (1, 1), "dims": 8, **arguments})


def test_the_first_dt_lies_where_mamba_puts_it() -> None:
    block = CrossScanBlock(32, "2d", 1.0, 1)
    dt = functional.softplus(block.dt_projs_bias.detach())
    assert 1e-4 <= float(dt.min()) < 0.01 < float(dt.max()) <= 0.1001
