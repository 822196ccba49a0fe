"""Weights of published backbones: read as data, fitted by name, their sizes read off shapes."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.inert.torch_pickle import Record, read_torch_file
from napari_2dmamba.vision.backbone import VisionMamba
from napari_2dmamba.vision.cross_scan import Scan

PARTS = ("model", "state_dict", "model_ema")
"""Names under which training programs store weights, in the order they are looked for."""
_PREFIXES = ("module.", "backbone.", "model.")
_PROJECTIONS = ("in_proj.weight", "out_proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
_SWITCH = "USE_V2D"


def read_state(
    path: str | Path, *, part: str | None = None, scan: Scan | None = None
) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint; nothing in it is executed.

    Parameters
    ----------
    path
        ``.safetensors``, or a file of ``torch.save``: a state dict, or what VMamba and
        mmsegmentation wrap around it (optimiser, settings, moving average).
    part
        ``"model"``, ``"state_dict"`` or ``"model_ema"`` (the moving average of training) of a
        wrapped file; None for the first that is there.
    scan
        What the weights are for. Shapes do not tell; the settings in published files do.

    Raises
    ------
    CheckpointError
        When the file cannot be read, holds no weights, or says it was trained with another scan.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"the weights {path} are not there; check the name")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _flat(load_file(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path.name} is damaged or no safetensors file ({error}); download it again"
            ) from error
    content = read_torch_file(path)
    if scan is not None:
        _refuse_other_scan(content, scan, path)
    if isinstance(content, dict):
        wrappers = [p for p in PARTS if isinstance(content.get(p), dict)]
        if part is not None and part not in wrappers:
            there = ", ".join(wrappers) or "bare weights"
            raise CheckpointError(f"{path.name} holds no {part!r}; it holds {there}")
        if wrappers:
            content = content[part or wrappers[0]]
        content = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if not isinstance(content, dict) or not content:
        raise CheckpointError(
            f"{path.name} holds no weights by name; give a file of a model's state_dict"
        )
    return _flat(content)


def _flat(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return projections that are stored as 1 x 1 convolutions as the matrices they are."""
    return {
        k: v.flatten(1) if v.ndim == 4 and k.endswith(_PROJECTIONS) else v for k, v in state.items()
    }


def load_backbone(
    path: str | Path, scan: Scan, *, part: str | None = None, **arguments: Any
) -> VisionMamba:
    """Return the backbone of a published checkpoint, with the sizes its weights have.

    Parameters
    ----------
    path, part
        As of `read_state`.
    scan
        ``"2d"`` for 2DVMamba, ``"1d"`` for VMamba: shapes and names are the same.
    arguments
        More arguments of `VisionMamba`, such as ``drop_path_rate``.

    Raises
    ------
    CheckpointError
        As of `read_state`, or when the weights are those of another network.
    """
    state = backbone_names(read_state(path, part=part, scan=scan))
    name = Path(path).name
    network = VisionMamba(scan=scan, **(sizes_of(state, name) | arguments))
    load_whole(network, state, name)
    return network


def backbone_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state with the names of `VisionMamba`: without what wrappers put before them."""
    for prefix in _PREFIXES:
        if "patch_embed.0.weight" not in state and f"{prefix}patch_embed.0.weight" in state:
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state


def load_whole(network: nn.Module, state: dict[str, torch.Tensor], name: str) -> None:
    """Load a state into a network, all of it.

    Raises
    ------
    CheckpointError
        Naming what is missing, left over or of another shape.
    """
    wanted = network.state_dict()
    wrong = [
        f"{k} {tuple(v.shape)} instead of {tuple(wanted[k].shape)}"
        for k, v in state.items()
        if k in wanted and v.shape != wanted[k].shape
    ]
    missing = sorted(wanted.keys() - state.keys())
    extra = sorted(state.keys() - wanted.keys())
    found = [
        f"{what}: {', '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''}"
        for what, names in (("missing", missing), ("left over", extra), ("other shapes", wrong))
        if names
    ]
    if found:
        raise CheckpointError(
            f"{name} does not fit the network ({'; '.join(found)}); it is of another model"
        )
    network.load_state_dict(state)


def sizes_of(state: dict[str, torch.Tensor], name: str) -> dict[str, Any]:
    """Return the arguments of `VisionMamba` that the shapes of a state dict tell.

    Raises
    ------
    CheckpointError
        When it is of another network.
    """
    try:
        depths: list[int] = []
        while f"layers.{len(depths)}.blocks.0.norm.weight" in state:
            depth = 0
            while f"layers.{len(depths)}.blocks.{depth}.norm.weight" in state:
                depth += 1
            depths.append(depth)
        dims = [len(state[f"layers.{i}.blocks.0.norm.weight"]) for i in range(len(depths))]
        first = "layers.0.blocks.0."
        inner = state[f"{first}op.in_proj.weight"].shape[0]
        head = state.get("classifier.head.weight")
        return {
            "depths": depths,
            "dims": dims,
            "ssm_ratio": inner / dims[0],
            "d_state": state[f"{first}op.A_logs"].shape[1],
            "mlp_ratio": state[f"{first}mlp.fc1.weight"].shape[0] / dims[0],
            "in_chans": state["patch_embed.0.weight"].shape[1],
            "num_classes": 0 if head is None else head.shape[0],
        }
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"{name} holds no VMamba or 2DVMamba: {error} is not among its {len(state)} names"
        ) from error


def _refuse_other_scan(content: Any, scan: Scan, path: Path) -> None:
    told = _find(content, _SWITCH)
    if isinstance(told, bool) and told != (scan != "1d"):
        trained, other = ("2D", "VMamba (1d)") if told else ("1D", "2DVMamba (2d)")
        raise CheckpointError(
            f"{path.name} was trained with the {trained} scan, but the weights are asked for "
            f"as {other}; load them as {'2DVMamba' if told else 'VMamba'}"
        )


def _find(content: Any, key: str, depth: int = 6) -> Any:
    """Return what nested settings hold under a key, or None."""
    if isinstance(content, Record):
        content = content.items
    if not isinstance(content, dict) or depth == 0:
        return None
    if key in content:
        return content[key]
    found = (_find(value, key, depth - 1) for value in content.values())
    return next((value for value in found if value is not None), None)
