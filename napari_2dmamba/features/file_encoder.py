"""Encoders from the user's own files: TorchScript, ONNX, or a few lines of YAML.

A YAML file names the network and what its files do not say::

    name: my-encoder
    network: my_encoder.ts        # .ts or .onnx beside this file, or timm:<model>
    weights: my_weights.pth       # for timm:<model>
    input_size: 224
    mean: [0.485, 0.456, 0.406]
    std: [0.229, 0.224, 0.225]
    interpolation: bicubic
    pooling: none                 # or cls, mean, cls+mean
    prefix_tokens: 1
    mpp: 0.5
    licence: mine

A TorchScript or ONNX file alone is taken as if the YAML held nothing else. TorchScript runs
the maker's operators, as running any program does: open files only from people you trust.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.model_encoder import ModelEncoder, Transform
from napari_2dmamba.features.weights import fit_weights, missing_extra, read_weights

_LARGEST_YAML = 2**16
_KEYS = {
    "name", "network", "weights", "input_size", "mean", "std", "interpolation", "pooling",
    "prefix_tokens", "mpp", "licence", "feature_size",
}  # fmt: skip


def load_file(
    path: Path,
    weights: str | Path | None = None,
    *,
    device: torch.device,
    precision: str = "float32",
) -> ModelEncoder:
    """Load an encoder from a file; see the module.

    Raises
    ------
    FeatureError
        When the file is absent, damaged, or says something that is not understood.
    """
    path = path.expanduser()
    if not path.is_file():
        raise FeatureError(f"the encoder file {path} is not there")
    said: dict[str, Any] = {"network": path.name, "name": path.stem}
    if path.suffix in (".yaml", ".yml"):
        said = {"name": path.stem, **_read_yaml(path)}
    transform = _transform(path, said)
    network_name = str(said["network"])
    weights = weights or said.get("weights")
    if network_name.startswith("timm:"):
        from napari_2dmamba.features.timm_encoder import create

        network = create(network_name.removeprefix("timm:"))
        if weights is None:
            raise FeatureError(f"{path} names {network_name} but no 'weights' file for it")
        source = path.parent / Path(weights).expanduser()
        fit_weights(network, read_weights(source), str(source))
        checksum = None
    else:
        source = path.parent / Path(network_name).expanduser()
        if not source.is_file():
            raise FeatureError(f"the network {source} that {path.name} names is not there")
        network = _load_network(source, device)
        checksum = _checksum(source)
    mpp = said.get("mpp")
    return ModelEncoder(
        network,
        name=str(said["name"]),
        transform=transform,
        device=device,
        licence=str(said.get("licence", "not stated")),
        weights_from=str(source),
        mpp=None if mpp is None else float(mpp),
        pooling=said.get("pooling", "none"),
        prefix_tokens=int(said.get("prefix_tokens", 1)),
        feature_size=said.get("feature_size"),
        precision=precision,
        checksum=checksum,
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise missing_extra(error) from error
    try:
        if path.stat().st_size > _LARGEST_YAML:
            raise FeatureError(f"{path} is too large for a few lines of YAML; check its name")
        text = path.read_text(encoding="utf-8")
        # A few aliases of aliases unfold to more than memory holds
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise FeatureError(f"{path} holds YAML aliases (*name); write the values out")
        said = yaml.safe_load(text)
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise FeatureError(f"{path} is no YAML: {_first_line(error)}") from error
    if not isinstance(said, dict) or "network" not in said:
        raise FeatureError(
            f"{path} does not name a 'network': a .ts or .onnx file, or timm:<model>"
        )
    unknown = sorted(set(map(str, said)) - _KEYS)
    if unknown:
        raise FeatureError(
            f"{path} holds {', '.join(unknown)}; understood are {', '.join(sorted(_KEYS))}"
        )
    if said.get("pooling", "none") not in ("none", "cls", "mean", "cls+mean"):
        raise FeatureError(f"{path}: pooling must be none, cls, mean or cls+mean")
    return said


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _transform(path: Path, said: dict[str, Any]) -> Transform:
    try:
        mean = tuple(float(v) for v in said.get("mean", Transform.mean))
        std = tuple(float(v) for v in said.get("std", Transform.std))
        size = int(said.get("input_size", Transform.size))
    except (TypeError, ValueError) as error:
        raise FeatureError(f"{path}: input_size, mean and std must be numbers ({error})") from error
    interpolation = said.get("interpolation", Transform.interpolation)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or size < 1:
        raise FeatureError(f"{path}: three numbers each are needed for mean and std, std above 0")
    if interpolation not in ("bicubic", "bilinear"):
        raise FeatureError(f"{path}: interpolation must be bicubic or bilinear")
    return Transform(size, mean, std, interpolation)


def _load_network(path: Path, device: torch.device) -> nn.Module:
    if path.suffix == ".onnx":
        return _Onnx(path, device)
    try:
        return torch.jit.load(path, map_location=device)
    except (RuntimeError, ValueError) as error:
        raise FeatureError(
            f"{path} is no TorchScript file ({str(error).strip().splitlines()[0]}); save the "
            "network with torch.jit.save"
        ) from error


class _Onnx(nn.Module):
    """An ONNX network behind the face of a torch one."""

    def __init__(self, path: Path, device: torch.device) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_extra(error) from error
        providers = ["CPUExecutionProvider"]
        if device.type == "cuda":
            providers.insert(0, "CUDAExecutionProvider")
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=providers)
        except Exception as error:
            raise FeatureError(
                f"{path} is no ONNX file that runs here: {str(error).splitlines()[0]}"
            ) from error
        self._input = self._session.get_inputs()[0].name

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        out = self._session.run(None, {self._input: pixels.float().cpu().contiguous().numpy()})
        return torch.from_numpy(out[0]).to(pixels.device)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
