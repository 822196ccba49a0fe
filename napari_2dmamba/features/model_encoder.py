"""An encoder around a network: resize, normalise, run, pool, in torch."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from napari_2dmamba.errors import FeatureError, UserError
from napari_2dmamba.features.transform import Pooling, Transform


class ModelEncoder:
    """Runs a network on patches; see `Encoder` for the attributes.

    Parameters
    ----------
    network
        Takes ``(B, 3, size, size)``; returns ``(B, D)``, or tokens ``(B, T, D)`` when `pooling`
        says how to pool them.
    pooling
        ``"none"``; ``"cls"``: the first token; ``"mean"``: mean of the patch tokens;
        ``"cls+mean"``: both, one after the other.
    prefix_tokens
        Tokens before the patch tokens: class token and registers.
    precision
        ``"bfloat16"`` runs the network in automatic mixed precision.
    checksum
        Of the weights; computed here when None.
    built_as
        Architecture and arguments, where ``name`` does not tell them: the same weights may fit
        several networks, such as scans of VMamba, whose features differ.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        transform: Transform,
        device: torch.device,
        licence: str,
        weights_from: str,
        mpp: float | None = None,
        pooling: Pooling = "none",
        prefix_tokens: int = 1,
        feature_size: int | None = None,
        precision: str = "float32",
        checksum: str | None = None,
        built_as: str = "",
    ) -> None:
        self.name, self.mpp = name, mpp
        self.licence, self.weights_from = licence, weights_from
        self.device, self.transform = device, transform
        self.input_size: int | None = transform.size
        self._pooling, self._prefix_tokens = pooling, prefix_tokens
        self.precision = precision
        checksum = checksum or checksum_of_weights(network.state_dict())
        self.identity = f"{name} {checksum} {transform} {pooling} {precision}"
        if built_as:
            self.identity += f" {built_as}"
        self._network = network.eval().to(device)
        self._most = 2**31  # patches that fit into memory at once, as far as is known
        blank = torch.full((1, 16, 16, 3), 255, dtype=torch.uint8)
        self.feature_size = int(self.encode(blank).shape[1])
        if feature_size is not None and self.feature_size != feature_size:
            raise FeatureError(
                f"the encoder {name!r} gives {self.feature_size} features from these weights, but "
                f"{feature_size} are expected; the weights are those of another model"
            )

    def encode(self, patches: torch.Tensor, mpp: float | None = None) -> torch.Tensor:
        """Return ``(B, D)`` float32; see `Encoder.encode`. Out of memory, it halves the batch."""
        done: list[torch.Tensor] = []
        start = 0
        while start < len(patches):
            count = min(self._most, len(patches) - start)
            try:
                done.append(self._encode(patches[start : start + count]))
            except UserError:
                raise
            except Exception as error:  # networks are others' programs and raise what they like
                if not is_out_of_memory(error):
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                    raise FeatureError(
                        f"the encoder {self.name!r} does not take patches of "
                        f"{self.transform.size} px ({reason}); see its input size and pooling"
                    ) from error
                if count == 1:
                    raise FeatureError(
                        f"the encoder {self.name!r} does not fit into the memory of "
                        f"{self.device} even for one patch; choose a smaller encoder, or the CPU"
                    ) from error
                self._most = count // 2
            else:
                start += count
                continue
            # Outside the except block, whose traceback would keep the batch alive
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return torch.cat(done)

    @torch.inference_mode()
    def _encode(self, patches: torch.Tensor) -> torch.Tensor:
        pixels = self.transform(patches, self.device)
        mixed = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            out = self._network(pixels)
        return self._pool(out).float()

    def _pool(self, out: Any) -> torch.Tensor:
        if not isinstance(out, torch.Tensor):
            raise FeatureError(
                f"the encoder {self.name!r} returns a {type(out).__name__}, not one tensor"
            )
        if self._pooling == "none" and out.ndim == 4 and out.shape[2:] == (1, 1):
            out = out.flatten(1)
        if out.ndim != (2 if self._pooling == "none" else 3):
            raise FeatureError(
                f"the encoder {self.name!r} returns shape {tuple(out.shape)}; (B, D) is expected, "
                "or tokens (B, T, D) with a pooling of 'cls', 'mean' or 'cls+mean'"
            )
        if self._pooling == "none":
            return out
        first, patch_tokens = out[:, 0], out[:, self._prefix_tokens :]
        if self._pooling == "cls":
            return first
        mean = patch_tokens.float().mean(1)
        return mean if self._pooling == "mean" else torch.cat([first.float(), mean], 1)


def checksum_of_weights(state: Mapping[str, Any]) -> str:
    """Return 16 hex digits that depend on every name and number of a state dictionary."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key]
        if isinstance(value, torch.Tensor):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            data = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(data.numpy().data)
    return digest.hexdigest()[:16]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or this machine, had not enough memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    said = "DefaultCPUAllocator", "not enough memory", "CUDA error: out of memory"
    return any(words in str(error) for words in said)
