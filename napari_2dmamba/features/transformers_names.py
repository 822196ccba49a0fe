"""Weights with the names of Hugging Face's transformers, renamed for timm's vision transformers.

Makers publish ViT and DINOv2 encoders in either layout; with the names changed both run on
timm alone, and no code of the repository is executed.
"""

import re
from typing import Any

import torch
from torch import nn

_ONCE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_IN_BLOCK = {
    "attention.output.dense": "attn.proj",
    "norm1": "norm1",
    "norm2": "norm2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
}
_LAYER = re.compile(r"(?:encoder\.)?layers?\.(\d+)\.(.+)")
_QKV = re.compile(r"attention\.attention\.(query|key|value)\.(weight|bias)")
_DROPPED = ("embeddings.mask_token", "pooler.", "classifier.")


def to_timm(state: dict[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """Rename a ViT, DINOv2 or DINOv2-with-registers for a timm `VisionTransformer`.

    What is not understood keeps its name, so that `fit_weights` can name it.
    """
    renamed: dict[str, torch.Tensor] = {}
    qkv: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for name, value in state.items():
        name = re.sub(r"^(vit|dinov2|dinov2_with_registers|model)\.", "", name)
        if name.startswith(_DROPPED):
            continue
        if name in _ONCE:
            renamed[_ONCE[name]] = value
            continue
        layer = _LAYER.fullmatch(name)
        if layer is None:
            renamed[name] = value
            continue
        block, rest = layer.groups()
        part = _QKV.fullmatch(rest)
        if part is not None:
            qkv.setdefault((block, part[2]), {})[part[1]] = value
        elif rest in ("layer_scale1.lambda1", "layer_scale2.lambda1"):
            renamed[f"blocks.{block}.ls{rest[11]}.gamma"] = value
        else:
            stem, _, kind = rest.rpartition(".")
            renamed[f"blocks.{block}.{_IN_BLOCK.get(stem, stem)}.{kind}"] = value
    for (block, kind), parts in qkv.items():
        joined = [parts[which] for which in ("query", "key", "value") if which in parts]
        renamed[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(joined)
    return _positions(renamed, network)


def _positions(state: dict[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """Bring position embeddings into timm's form and to the network's grid."""
    from timm.layers import resample_abs_pos_embed

    wanted: Any = getattr(network, "pos_embed", None)
    positions = state.get("pos_embed")
    if positions is None or wanted is None:
        return state
    embed: Any = network.patch_embed
    grid = embed.grid_size
    patches = grid[0] * grid[1]
    if wanted.shape[1] == patches:  # the class token's own position is part of the token
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        positions, prefix = positions[:, 1:], 0
    else:
        prefix = 1
    if positions.shape[1] != patches + prefix:
        positions = resample_abs_pos_embed(positions, list(grid), num_prefix_tokens=prefix)
    state["pos_embed"] = positions
    return state
