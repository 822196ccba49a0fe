"""Get weights: from a file, read without executing anything, or from the Hugging Face hub."""

import pickle
from pathlib import Path

import torch
from torch import nn

from napari_2dmamba import huggingface
from napari_2dmamba.errors import FeatureError, UserError
from napari_2dmamba.huggingface import explained, is_offline, network_left_alone, page_of

_WRAPPERS = ("state_dict", "model", "model_state_dict", "teacher", "student", "encoder")
_PREFIXES = ("module.", "backbone.", "model.", "encoder.", "trunk.", "visual.trunk.")
_HEADS = ("head.", "fc.", "classifier.")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dictionary from ``.safetensors``, or from a file of `torch.save`.

    Raises
    ------
    FeatureError
        When it is absent, damaged, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise FeatureError(f"the weights {path} are not there")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises its own
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in reason:
            reason = "it holds more than tensors, which could run code; save its state_dict"
        raise FeatureError(f"the weights {path} cannot be read: {reason}") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
        raise FeatureError(f"{path} holds a {type(content).__name__}, not a state dictionary")
    return {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}


def fit_weights(network: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    """Load a state dictionary into a network; only a classifier's head may be left over.

    Raises
    ------
    FeatureError
        Naming what is missing, left over, or of another shape.
    """
    wanted = network.state_dict()
    for prefix in ("", *_PREFIXES):
        stripped = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if wanted.keys() & stripped.keys():
            state = stripped
            break
    state = {k: v for k, v in state.items() if k in wanted or not k.startswith(_HEADS)}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in sorted(wanted.keys() & state.keys())
        if state[k].shape != wanted[k].shape
    ]
    found = []
    for what, names in (("missing", missing), ("left over", extra), ("other shapes", shapes)):
        if names:
            more = f" and {len(names) - 2} more" if len(names) > 2 else ""
            found.append(f"{what}: {', '.join(names[:2])}{more}")
    if found:
        raise FeatureError(
            f"the weights {where} do not fit {type(network).__name__} ({'; '.join(found)}); they "
            "are those of another model"
        )
    network.load_state_dict(state)


def hub_file(repo: str, names: tuple[str, ...], *, offline: bool, licence: str = "") -> Path:
    """Return the local path of the first of ``names`` that a Hugging Face repository holds.

    Raises
    ------
    FeatureError
        Saying how to get access, to log in, or what to fetch before going offline.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
    except ImportError as error:
        raise missing_extra(error) from error
    offline = offline or is_offline()
    for name in names:
        try:
            with network_left_alone(offline):
                return Path(hf_hub_download(repo, name, local_files_only=offline))
        except EntryNotFoundError as error:  # of the last name: not in the cache, or nowhere
            if name == names[-1] and isinstance(error, FileNotFoundError):
                raise FeatureError(explained(error, repo, offline=offline)) from error
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise FeatureError(explained(error, repo, offline=offline, licence=licence)) from error
    raise FeatureError(
        f"{page_of(repo)} holds none of {', '.join(names)}; give the weights as a file"
    )


def missing_extra(error: ImportError) -> UserError:
    """Say how to install what encoders need."""
    return huggingface.missing_extra(error, FeatureError, "this encoder")
