"""What an encoder is, and how one is found by its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from napari_2dmamba.errors import BackendError, FeatureError
from napari_2dmamba.features.encoder_catalog import BY_FILE, CATALOG
from napari_2dmamba.features.encoder_names import (
    EMBEDDED_ENCODER,
    FILE_SUFFIXES,
    known_encoders,
    offered_encoders,
)


@runtime_checkable
class Encoder(Protocol):
    """Turns patches into feature vectors.

    Attributes
    ----------
    name
        As `load_encoder` takes it.
    feature_size
        D, the number of features per patch.
    input_size
        Side in pixels that `encode` resizes patches to, or None when it works at a
        physical scale and takes any side.
    mpp
        µm per pixel the encoder was made for, or None when it does not say.
    licence
        Licence of the weights, in a few words.
    weights_from
        Where the weights came from: a file, a repository, or the package itself.
    identity
        Text that changes whenever the features of the same patch would change: name,
        transform and a checksum of the weights. Caches are keyed by it.
    device
        Where `encode` runs.
    """

    name: str
    feature_size: int
    input_size: int | None
    mpp: float | None
    licence: str
    weights_from: str
    identity: str
    device: torch.device

    def encode(self, patches: torch.Tensor, mpp: float | None = None) -> torch.Tensor:
        """Return ``(B, D)`` float32 features on `device`.

        On a GPU best without waiting for it: the next batch is begun meanwhile. Work belongs on
        torch's current stream.

        Parameters
        ----------
        patches
            ``(B, H, W, 3)`` uint8 RGB, on any device.
        mpp
            µm per pixel of the patches; only encoders that work at a physical scale look at
            it, and take their own `mpp` when it is None.
        """
        ...


EncoderFactory = Callable[..., Encoder]
"""What an entry point offers: ``factory(name, *, weights, offline, device, precision)``."""


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device asked for; ``"auto"`` takes CUDA, then Apple's MPS, then the CPU.

    Raises
    ------
    BackendError
        When the device asked for is not there.
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BackendError(
            f"the device {str(device)!r} cannot be used here; choose 'auto' or 'cpu' "
            f"({str(error).splitlines()[0]})"
        ) from error
    return chosen


def load_encoder(
    name: str = EMBEDDED_ENCODER,
    weights: str | Path | None = None,
    *,
    offline: bool = False,
    device: str | torch.device = "auto",
    precision: str = "float32",
) -> Encoder:
    """Return the encoder of a name, ready to encode.

    Parameters
    ----------
    name
        ``"stain-texture-v1"`` (in the package), a name of `encoder_catalog.CATALOG` such as
        ``"uni"``, ``"timm:<model>"`` (any timm model, also ``"timm:hf-hub:<owner>/<model>"``),
        the path of a TorchScript (``.ts``), ONNX (``.onnx``) or YAML (``.yaml``) file, see
        `file_encoder`, or a name that an installed package offers under the entry point group
        ``napari_2dmamba.encoders``.
    weights
        File with the weights, where they shall not be downloaded.
    offline
        Never touch the network; ``HF_HUB_OFFLINE=1`` has the same effect.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
    precision
        ``"bfloat16"`` runs networks in mixed precision; the embedded encoder stays in float32.

    Raises
    ------
    FeatureError
        When no such encoder is known, or its weights cannot be had; says what to do.
    UntrustedEncoderError
        For a TorchScript file that nobody consented to run: see `trust`.
    BackendError
        When the device is not there.
    """
    chosen = choose_device(device)
    if not name or "\0" in name:
        raise FeatureError("the encoder has no name; choose one, such as " + EMBEDDED_ENCODER)
    if name == EMBEDDED_ENCODER:
        from napari_2dmamba.features.stain_texture import StainTexture

        if weights is not None:
            raise FeatureError(
                f"the encoder {name!r} has no weights, but {str(weights)!r} was given for it; "
                "leave the weights out, or name the encoder they belong to"
            )
        return StainTexture(chosen)
    if name.startswith("timm:"):
        from napari_2dmamba.features.timm_encoder import load_timm

        return load_timm(name, weights, offline=offline, device=chosen, precision=precision)
    if name in CATALOG:
        from napari_2dmamba.features.timm_encoder import load_catalogued

        return load_catalogued(name, weights, offline=offline, device=chosen, precision=precision)
    if Path(name).suffix.lower() in FILE_SUFFIXES:
        from napari_2dmamba.features.file_encoder import load_file

        return load_file(Path(name), weights, device=chosen, precision=precision)
    offered = offered_encoders()
    if name in offered.names:
        factory: EncoderFactory = offered[name].load()
        return factory(name, weights=weights, offline=offline, device=chosen, precision=precision)
    if name in BY_FILE:
        raise FeatureError(BY_FILE[name].how)
    raise FeatureError(
        f"no encoder is called {name[:120]!r}; known are {', '.join(known_encoders())}, "
        f"timm:<model>, and files that end in {', '.join(FILE_SUFFIXES)}"
    )
