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

A TorchScript or ONNX file alone is taken as if the YAML held nothing else. A TorchScript file is a
program: it is run only after the user's consent, see `trust`.
"""

import hashlib
import io
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.model_encoder import ModelEncoder
from napari_2dmamba.features.transform import Transform
from napari_2dmamba.features.trust import read_program, refuse_untrusted
from napari_2dmamba.features.weights import fit_weights, missing_extra, read_weights

_KEYS = {
    "name", "network", "weights", "input_size", "mean", "std", "interpolation", "pooling",
    "prefix_tokens", "mpp", "licence", "feature_size",
}  # fmt: skip
_TEXTS = "name", "network", "weights", "interpolation", "pooling", "licence"
_YAML = ".yaml", ".yml"
_LARGEST_YAML = 64 * 2**10
_DEEPEST_YAML = 16
_LARGEST_INPUT = 4096


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
    UntrustedEncoderError
        For a TorchScript file that the user has not consented to run.
    """
    path = _there(path)
    said: dict[str, Any] = {"network": path.name, "name": path.stem}
    built_as = ""
    if path.suffix.lower() in _YAML:
        said = {"name": path.stem, **_read_yaml(path)}
    transform = _transform(path, said)
    network_name = str(said["network"])
    weights = weights or said.get("weights")
    if network_name.startswith("timm:"):
        from napari_2dmamba.features.timm_encoder import create

        built_as = network_name
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
    mpp, prefix_tokens, feature_size = _numbers(path, said)
    return ModelEncoder(
        network,
        name=str(said["name"]),
        transform=transform,
        device=device,
        licence=str(said.get("licence", "not stated")),
        weights_from=str(source),
        mpp=mpp,
        pooling=said.get("pooling", "none"),
        prefix_tokens=prefix_tokens,
        feature_size=feature_size,
        precision=precision,
        checksum=checksum,
        built_as=built_as,
    )


def network_of(path: Path) -> Path | None:
    """Return the network file that a YAML file names; None where it names one of timm.

    Raises
    ------
    FeatureError
        When the YAML file cannot be read.
    """
    path = _there(path)
    network = str(_read_yaml(path)["network"])
    return None if network.startswith("timm:") else path.parent / Path(network).expanduser()


def _there(path: Path) -> Path:
    try:
        path = path.expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError):  # a name too long for the file system, or an unknown user
        pass
    raise FeatureError(f"the encoder file {str(path)[:200]} is not there")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise missing_extra(error) from error
    if path.stat().st_size > _LARGEST_YAML:
        raise FeatureError(f"{path} has more than {_LARGEST_YAML} bytes, and a few lines are meant")
    try:
        text = path.read_text(encoding="utf-8-sig")
        depth = 0
        for event in yaml.parse(text):
            if isinstance(event, yaml.AliasEvent):
                raise FeatureError(f"{path} refers to its own parts by aliases; write them out")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST_YAML:  # PyYAML takes time by the square of it
                raise ValueError(f"it nests deeper than {_DEEPEST_YAML} levels")
        said = yaml.safe_load(text)
    except (yaml.YAMLError, OSError, ValueError, TypeError, RecursionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FeatureError(f"{path} is no YAML: {reason[:200]}") from error
    if not isinstance(said, dict) or "network" not in said:
        raise FeatureError(
            f"{path} does not name a 'network': a .ts or .onnx file, or timm:<model>"
        )
    unknown = sorted(set(map(str, said)) - _KEYS)
    if unknown:
        raise FeatureError(
            f"{path} holds {', '.join(unknown)}; understood are {', '.join(sorted(_KEYS))}"
        )
    if not all(isinstance(said.get(key, ""), str) for key in _TEXTS):
        raise FeatureError(f"{path}: {', '.join(_TEXTS)} must be text")
    if said.get("pooling", "none") not in ("none", "cls", "mean", "cls+mean"):
        raise FeatureError(f"{path}: pooling must be none, cls, mean or cls+mean")
    return said


def _transform(path: Path, said: dict[str, Any]) -> Transform:
    try:
        mean = tuple(float(v) for v in said.get("mean", Transform.mean))
        std = tuple(float(v) for v in said.get("std", Transform.std))
        size = int(said.get("input_size", Transform.size))
    except (TypeError, ValueError, OverflowError) as error:
        raise FeatureError(f"{path}: input_size, mean and std must be numbers ({error})") from error
    interpolation = said.get("interpolation", Transform.interpolation)
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise FeatureError(f"{path}: three numbers each are needed for mean and std, std above 0")
    if not 1 <= size <= _LARGEST_INPUT:
        raise FeatureError(
            f"{path}: input_size is {size}, but must be 1 to {_LARGEST_INPUT} pixels"
        )
    if interpolation not in ("bicubic", "bilinear"):
        raise FeatureError(f"{path}: interpolation must be bicubic or bilinear")
    return Transform(size, mean, std, interpolation)


def _numbers(path: Path, said: dict[str, Any]) -> tuple[float | None, int, int | None]:
    """Return mpp, prefix tokens and feature size."""
    mpp, prefix = said.get("mpp"), said.get("prefix_tokens", 1)
    features = said.get("feature_size")
    if mpp is not None and not (isinstance(mpp, int | float) and 0 < mpp < math.inf):
        raise FeatureError(f"{path}: mpp must be a number above 0")
    for name, value, least in (("prefix_tokens", prefix, 0), ("feature_size", features, 1)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (value is None or (whole and least <= value <= 10**6)):
            raise FeatureError(f"{path}: {name} must be a whole number from {least} on")
    return None if mpp is None else float(mpp), 1 if prefix is None else prefix, features


def _load_network(path: Path, device: torch.device) -> nn.Module:
    if path.suffix.lower() == ".onnx":
        return _Onnx(path, device)
    content = read_program(path)
    refuse_untrusted(path, content)
    try:  # the very bytes that were consented to
        return torch.jit.load(io.BytesIO(content), map_location=device)
    except (RuntimeError, ValueError) as error:
        raise FeatureError(
            f"{path} is no TorchScript file ({_first_line(error)}); save the "
            "network with torch.jit.save"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


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
                f"{path} is no ONNX file that runs here: {_first_line(error)}"
            ) from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise FeatureError(
                f"{path} takes {len(inputs)} inputs, and an encoder takes one: the patches"
            )
        self._input = inputs[0].name

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        out = self._session.run(None, {self._input: pixels.float().cpu().contiguous().numpy()})
        return torch.from_numpy(out[0]).to(pixels.device)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
