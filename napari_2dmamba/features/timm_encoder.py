"""Encoders from timm: any of its models, from its own weights, a hub repository or a file."""

import importlib
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.encoder_catalog import CATALOG
from napari_2dmamba.features.model_encoder import ModelEncoder
from napari_2dmamba.features.transform import Transform
from napari_2dmamba.features.transformers_names import to_timm
from napari_2dmamba.features.weights import (
    WEIGHT_FILES,
    fit_weights,
    hub_file,
    missing_extra,
    read_weights,
)
from napari_2dmamba.torchvision_compat import import_needing_torchvision
from napari_2dmamba.vision.backbone import VisionMamba
from napari_2dmamba.vision.weights import backbone_names, read_state

_HUB = ("hf-hub:", "hf_hub:")
_PLACES = frozenset(
    {"pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir",
     "model_name"}
)  # fmt: skip
"""Arguments by which a configuration could make timm load something else."""


class LoadedNetwork(NamedTuple):
    """A timm model with its weights, and what is known of both.

    Attributes
    ----------
    network
        Without classifier.
    data
        timm's ``pretrained_cfg``: mean, std, input size, licence.
    weights_from
        Where the weights came from.
    built_as
        Architecture and arguments that a ``config.json`` gave; empty where the name tells them.
    """

    network: nn.Module
    data: dict[str, Any]
    weights_from: str
    built_as: str = ""

    @property
    def transform(self) -> Transform:
        """What happens to an image before the network sees it."""
        return _transform(self.data)


def load_timm(
    name: str,
    weights: str | Path | None = None,
    *,
    offline: bool = False,
    device: torch.device,
    precision: str = "float32",
) -> ModelEncoder:
    """Load ``"timm:<model>"``.

    Parameters
    ----------
    name
        ``"timm:resnet50.a1_in1k"``, ``"timm:hf-hub:<owner>/<repository>"``, or
        ``"timm:local-dir:<folder>"`` with ``config.json`` and the weights.
    weights
        File or folder with the weights; nothing is fetched then but, for a repository, its
        ``config.json``, unless the folder holds one.
    offline, device, precision
        As for `load_encoder`.

    Raises
    ------
    FeatureError
        As for `load_encoder`.
    """
    loaded = load_network(name.removeprefix("timm:"), weights, offline=offline)
    licence = loaded.data.get("license") or "not stated: see where the weights came from"
    return ModelEncoder(
        loaded.network,
        name=name,
        transform=loaded.transform,
        device=device,
        licence=str(licence),
        weights_from=loaded.weights_from,
        precision=precision,
        built_as=loaded.built_as,
    )


def load_network(
    model: str, weights: str | Path | None = None, *, offline: bool = False, **more: Any
) -> LoadedNetwork:
    """Build a timm model and load its weights; arguments and errors as of `load_timm`.

    Parameters
    ----------
    model
        As timm names it.
    weights, offline
        As of `load_timm`.
    more
        More arguments of ``timm.create_model``.
    """
    config_file: Path | None = None
    weights = Path(weights).expanduser() if weights is not None else None
    folder = Path(model.removeprefix("local-dir:")) if model.startswith("local-dir:") else None
    if weights is not None and weights.is_dir():
        folder = weights
    repo = next((model.removeprefix(p) for p in _HUB if model.startswith(p)), None)
    if folder is not None:
        weights = _weights_in(folder)
        if (folder / "config.json").is_file():
            config_file = folder / "config.json"
    if config_file is None and repo is not None:
        config_file = hub_file(repo, ("config.json",), offline=offline)
    if config_file is None and folder is not None and model.startswith("local-dir:"):
        raise FeatureError(f"{folder} holds no config.json that names a timm architecture")

    built_as = ""
    if config_file is not None:
        architecture, arguments, data = read_config(config_file)
        built_as = f"{architecture} {json.dumps(arguments, sort_keys=True)}"
    else:
        architecture, arguments, data = model, {}, None
    network = create(architecture, **(arguments | more))
    if data is None:
        data = dict(vars(network)["pretrained_cfg"])
    if weights is None:
        repo = repo or data.get("hf_hub_id")
        if not repo:
            raise FeatureError(
                f"timm has no weights for {model!r}; give them as a file, or choose a model with "
                "weights, such as one of timm.list_pretrained()"
            )
        weights = hub_file(repo, WEIGHT_FILES, offline=offline, licence=data.get("license") or "")
        weights_from = f"https://huggingface.co/{repo}"
    else:
        weights_from = str(weights)
    if isinstance(network, VisionMamba):  # published files hold more than torch.load will read
        state = backbone_names(read_state(weights, scan=network.scan))
    else:
        state = _filtered(network, read_weights(weights))
    fit_weights(network, state, str(weights))
    return LoadedNetwork(network, data, weights_from, built_as)


def load_catalogued(
    name: str,
    weights: str | Path | None = None,
    *,
    offline: bool = False,
    device: torch.device,
    precision: str = "float32",
) -> ModelEncoder:
    """Load an encoder of `CATALOG`; parameters and errors as for `load_timm`."""
    entry = CATALOG[name]
    require_timm()
    network = create(entry.architecture, **_with_layers(entry.arguments))
    if entry.stages is not None:
        network = _FirstStages(network, entry.stages)
    if weights is None:
        licence = entry.licence if entry.gated else ""
        path = hub_file(entry.repository, WEIGHT_FILES, offline=offline, licence=licence)
        weights_from = f"https://huggingface.co/{entry.repository}"
    else:
        path = Path(weights).expanduser()
        path = _weights_in(path) if path.is_dir() else path
        weights_from = str(path)
    state = read_weights(path)
    if entry.layout == "transformers" and "cls_token" not in state:
        state = to_timm(state, network)
    if entry.stages is not None:
        kept = network.state_dict().keys()
        state = {k: v for k, v in state.items() if k in kept}
    fit_weights(network, state, str(path))
    return ModelEncoder(
        network,
        name=name,
        transform=entry.transform,
        device=device,
        licence=entry.licence,
        weights_from=weights_from,
        mpp=entry.mpp,
        pooling=entry.pooling,
        prefix_tokens=entry.prefix_tokens,
        feature_size=entry.feature_size,
        precision=precision,
    )


class _FirstStages(nn.Module):
    """A ResNet cut after some stages and averaged, as CLAM uses ResNet-50 (after the third)."""

    def __init__(self, resnet: nn.Module, stages: int) -> None:
        super().__init__()
        names = ["conv1", "bn1", "act1", "maxpool", *(f"layer{i + 1}" for i in range(stages))]
        for name in names:
            setattr(self, name, getattr(resnet, name))
        self._names = names

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        for name in self._names:
            pixels = getattr(self, name)(pixels)
        return pixels.mean((2, 3))


def _with_layers(arguments: dict[str, Any]) -> dict[str, Any]:
    """Replace the names of layer classes by the classes."""
    from timm.layers import SwiGLUPacked

    classes: dict[str, Any] = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}
    return {
        k: classes.get(v, v) if k in ("mlp_layer", "act_layer") else v for k, v in arguments.items()
    }


def create(architecture: str, **arguments: Any) -> nn.Module:
    """Build a timm model without weights and without classifier."""
    timm = require_timm()
    if not timm.is_model(architecture.partition(".")[0]):
        # a name of a place ("hf-hub:", "local-dir:") is none of an architecture
        close = timm.list_models(f"*{re.sub(r'[^a-z0-9_]', '', architecture.split('.')[0])}*")[:5]
        hint = f"; close to it are {', '.join(close)}" if close else ""
        raise FeatureError(f"timm {timm.__version__} knows no model {architecture[:120]!r}{hint}")
    try:
        return timm.create_model(architecture, pretrained=False, **{"num_classes": 0, **arguments})
    except Exception as error:  # the arguments may come from a file, and timm checks few of them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise FeatureError(
            f"timm {timm.__version__} cannot build {architecture!r}: {reason}; a newer timm may"
        ) from error


def require_timm() -> Any:
    """Import timm.

    Raises
    ------
    FeatureError
        When timm, or the torchvision it imports, is absent or too far from the installed torch.
    """
    try:
        timm = import_needing_torchvision("timm")
        importlib.import_module("napari_2dmamba.vision.timm_models")  # registers them
        return timm
    except ImportError as error:
        raise missing_extra(error) from error
    except RuntimeError as error:
        raise FeatureError(
            "timm does not start, because torchvision does not belong to the installed torch "
            f"({error}); install the torchvision made for torch {torch.__version__}"
        ) from error


def _filtered(network: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Apply the renaming that timm does for weights of a model's older layouts."""
    import inspect
    import sys

    module = sys.modules[type(network).__module__]
    rename = getattr(module, "checkpoint_filter_fn", None)
    if rename is None or set(state) >= set(network.state_dict()):
        return state
    try:
        if "model" in inspect.signature(rename).parameters:
            renamed = rename(dict(state), network)
        else:
            renamed = rename(dict(state))
    except (KeyError, RuntimeError, ValueError, TypeError):
        return state
    return {k: v for k, v in renamed.items() if isinstance(v, torch.Tensor)}


def _weights_in(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise FeatureError(f"{folder} holds no weights: none of {', '.join(WEIGHT_FILES)} is there")


def read_config(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return architecture, arguments and ``pretrained_cfg`` of a ``config.json`` in timm's layout.

    Raises
    ------
    FeatureError
        When it is none, or could make timm load something else.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        architecture = config["architecture"]
        arguments = dict(config.get("model_args") or {})
        data = dict(config.get("pretrained_cfg") or {})
        if not isinstance(architecture, str):
            raise TypeError("the architecture is no name")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FeatureError(
            f"{path} is no description of a timm model: it has no 'architecture'; give the timm "
            "name of the architecture, and the weights as a file"
        ) from error
    places = sorted(_PLACES & arguments.keys())
    if places:
        raise FeatureError(
            f"{path} gives timm {', '.join(places)}, with which it would load other files; take "
            "that out"
        )
    if config.get("global_pool") is not None:
        arguments.setdefault("global_pool", config["global_pool"])
    return architecture, arguments, data


def _transform(data: dict[str, Any]) -> Transform:
    interpolation = data.get("interpolation") or "bicubic"
    try:
        channels, height, width = (int(side) for side in data.get("input_size") or (3, 224, 224))
        mean = tuple(float(v) for v in data.get("mean") or Transform.mean)
        std = tuple(float(v) for v in data.get("std") or Transform.std)
    except (TypeError, ValueError, OverflowError) as error:
        raise FeatureError(
            f"the configuration of the encoder states no input size, mean and std ({error})"
        ) from error
    if channels != 3 or height != width or not 1 <= width <= 4096:
        raise FeatureError(
            f"the encoder takes images of {channels}, {height}, {width}, not square RGB of at most "
            "4096 px"
        )
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise FeatureError("the configuration of the encoder has no three numbers as mean and std")
    return Transform(
        size=width,
        mean=mean,
        std=std,
        interpolation="bilinear" if interpolation == "bilinear" else "bicubic",
    )
