"""Damaged descriptions and files of encoders; none of them is a program that was consented to."""

import json
from pathlib import Path

import torch

from napari_2dmamba.errors import UserError
from napari_2dmamba.features import trust
from napari_2dmamba.features.encoder import load_encoder
from tests.fuzz.mutate import Seed

ALLOWED = (UserError,)


class _Means(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def seeds(folder: Path) -> list[Seed]:
    """Write YAML, TorchScript, ONNX where it can be written, and a list of consents."""
    yaml = folder / "mine.yaml"
    yaml.write_text(
        "network: absent.onnx\nname: mine\ninput_size: 40\nmean: [0.1, 0.2, 0.3]\n"
        "std: [1, 1, 1]\npooling: none\nprefix_tokens: 2\nmpp: 0.5\nlicence: mine\n"
        "feature_size: 3\ninterpolation: bicubic\nweights: w.pth\n"
    )
    consents = folder / "consents.json"
    consents.write_text(
        json.dumps({"format": 1, "trusted": {"0" * 64: {"name": "a.ts", "when": "2026"}}})
    )
    program = folder / "means.ts"
    torch.jit.save(torch.jit.script(_Means()), program)
    made = [Seed(yaml, text=True), Seed(consents, text=True), Seed(program)]
    try:
        from onnx import TensorProto, helper, save
    except ImportError:
        return made
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 224, 224])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3, 1, 1])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    save(model, str(folder / "means.onnx"))
    return [*made, Seed(folder / "means.onnx")]


def drive(path: Path) -> None:
    """Load it as an encoder, which no damage may make a program that runs."""
    trust.consent_file = lambda: path.with_name("consents.json")
    name = path
    if path.suffix == ".json":
        name = path.with_name("other.ts")
        name.write_bytes(b"a program")
    trust.untrusted_program(str(name))
    load_encoder(str(name), device="cpu")
    if name.suffix == ".ts":
        raise AssertionError("a program ran without consent")
