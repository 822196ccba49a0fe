"""Macenko stain normalisation with one pair of stains per slide (torchstain).

The slide's own stains are estimated once, by torchstain, on sixteen patches spread over its
grid; every patch is unmixed with them and mixed again with torchstain's reference stains. The
estimate is made from the same patches however often a job is interrupted.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.weights import missing_extra

if TYPE_CHECKING:
    from napari_2dmamba.features.patch_reader import PatchReader

_SAMPLE = 16
_LIGHT = 240.0
_PATCHES_AT_ONCE_ON_GPU = 16
"""A pixel takes some fifty bytes meanwhile, for which an encoder's batch may leave no room."""


class MacenkoNormaliser:
    """Changes the stains of one slide to the reference's.

    Parameters
    ----------
    reader
        Of the slide and grid whose stains are estimated.
    device
        Where the patches to change will be; the estimate is made on the CPU.

    Raises
    ------
    FeatureError
        When torchstain is not installed, or no two stains are found on the slide.
    """

    def __init__(self, reader: "PatchReader", device: torch.device) -> None:
        try:
            from torchstain.torch.normalizers import TorchMacenkoNormalizer
        except ImportError as error:
            raise missing_extra(error) from error
        indices = np.unique(np.linspace(0, len(reader.grid) - 1, _SAMPLE).astype(int))
        patches = np.concatenate([reader.read(int(i))[::4, ::4] for i in indices])
        macenko = TorchMacenkoNormalizer()
        self._reference, reference_most = macenko.HERef.float(), macenko.maxCRef.float()
        try:
            macenko.fit(torch.from_numpy(patches).permute(2, 0, 1).float(), Io=_LIGHT)
        except (RuntimeError, IndexError) as error:
            raise FeatureError(
                f"no two stains can be told apart on {reader.slide.name}; extract its features "
                "without stain normalisation"
            ) from error
        stains, most = macenko.HERef.float(), macenko.maxCRef.float()
        if not (stains.isfinite().all() and most.isfinite().all() and (most > 0).all()):
            raise FeatureError(
                f"no two stains can be told apart on {reader.slide.name}; extract its features "
                "without stain normalisation"
            )
        change = torch.diag((reference_most / most).flatten())
        self._mix = (self._reference @ change @ torch.linalg.pinv(stains)).to(device)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Return ``(B, H, W, 3)`` uint8 patches with the reference's stains."""
        patches = patches.to(self._mix.device)
        if patches.device.type != "cuda":
            return self._changed(patches)
        return torch.cat([self._changed(some) for some in patches.split(_PATCHES_AT_ONCE_ON_GPU)])

    def _changed(self, patches: torch.Tensor) -> torch.Tensor:
        density = -torch.log((patches.float() + 1) / _LIGHT)
        normalised = _LIGHT * torch.exp(-(density @ self._mix.T)) - 1
        return normalised.round_().clamp_(0, 255).to(torch.uint8)
