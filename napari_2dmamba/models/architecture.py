"""What every aggregator of the project is: one class, one configuration, one output."""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.models.scan_layer import ScanLayer


@dataclass(frozen=True)
class ArchitectureConfig:
    """Numbers that fix the shape of a network; JSON-able, one subclass per architecture.

    Attributes
    ----------
    feature_size
        D, features per patch.
    n_outputs
        K, logits: classes or time bins.
    dropout
        Share of activations dropped while training.
    """

    feature_size: int
    n_outputs: int
    dropout: float = 0.25

    def __post_init__(self) -> None:
        self.check(feature_size=(1, 10**6), n_outputs=(1, 4096))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, but must be at least 0 and below 1")

    def check(self, **limits: tuple[int, int]) -> None:
        """Refuse whole numbers outside their limits, before a network is built of them.

        Raises
        ------
        ValueError
            Naming the number and its limits.
        """
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and least <= value <= most):
                raise ValueError(
                    f"{name} is {value!r}, but must be a whole number, {least} to {most}"
                )


@dataclass
class ModelOutput:
    """What a network says about one bag.

    Attributes
    ----------
    logits
        ``(K,)``.
    scores
        ``(N,)`` one score per patch, in the order of the bag.
    background_mass
        Scalar in 0..1, attention on cells without tissue; None where there are none.
    """

    logits: Tensor
    scores: Tensor
    background_mass: Tensor | None = None


class Architecture(nn.Module):
    """A network from one bag of features to logits and one score per patch.

    A subclass is registered in `registry` under its `name`, and is all that loading,
    predicting, training and explaining need to know.
    """

    name: ClassVar[str]
    """Name in headers, on the command line and in the widget."""
    title: ClassVar[str]
    """Name for people."""
    paper: ClassVar[str]
    """Where it was published."""
    config_class: ClassVar[type[ArchitectureConfig]]
    score_meaning: ClassVar[str]
    """One sentence: what the score of a patch is."""
    uses_grid: ClassVar[bool] = False
    """True when the position of a patch on the canvas matters."""
    uses_scan: ClassVar[bool] = False
    """True when the selective scan runs in it, so that the record names the scan's backend."""
    tells_scans: ClassVar[bool] = False
    """True when `scan_layers` tells its scans, so that provenance can follow them."""

    config: Any

    @property
    def variant(self) -> str:
        """Name for people of what this configuration makes of the architecture."""
        return self.title

    @property
    def depth(self) -> int:
        """Layers whose `patch_states` can be asked for."""
        return 1

    def with_options(self, **options: Any) -> Self:
        """Return the same network, sharing its weights, with other options of its config."""
        twin = copy.copy(self)
        twin.config = dataclasses.replace(self.config, **options)
        return twin

    def forward(
        self,
        features: Tensor,
        cells: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
        *,
        stages: dict[str, Tensor] | None = None,
    ) -> ModelOutput:
        """Run one bag.

        Parameters
        ----------
        features
            ``(N, D)``.
        cells
            ``(N, 2)`` int64 ``(row, col)``; needed where `uses_grid`.
        canvas
            ``(rows, cols)``; needed where `uses_grid`.
        stages
            A dict that receives internal results by name, at the cost of keeping them.
        """
        raise NotImplementedError

    def scan_layers(
        self,
        features: Tensor,
        cells: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
    ) -> list[ScanLayer]:
        """Run one bag, as `forward`, and return the selective scans of each layer.

        Raises
        ------
        CheckpointError
            Where `tells_scans` is not set.
        """
        raise CheckpointError(
            f"provenance follows a 2D selective scan, and this model is {self.title}; choose the "
            "receptive field, which is there for every model"
        )

    def patch_states(
        self,
        features: Tensor,
        cells: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
        *,
        layer: int = -1,
    ) -> Tensor:
        """Run one bag, as `forward`, and return the vector each patch has after a layer.

        Here it is what enters the module ``attention``, whichever ``layer`` is asked for.

        Returns
        -------
        ``(N, width)``, differentiable.

        Raises
        ------
        CheckpointError
            When there are no such vectors.
        """
        attention = getattr(self, "attention", None)
        seen: list[Tensor] = []
        if isinstance(attention, nn.Module):
            handle = attention.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
            try:
                self(features, cells, canvas)
            finally:
                handle.remove()
        vectors = seen[0].reshape(-1, seen[0].shape[-1]) if seen else None
        if vectors is None or len(vectors) != len(features):
            raise CheckpointError(
                f"{self.title} keeps no vector per patch that could be asked where it comes from; "
                "choose the receptive field of the slide's answer, or of the patch's score"
            )
        return vectors

    @property
    def entrance(self) -> nn.Linear | None:
        """The linear layer by which alone features enter, each patch for itself, or None.

        What it makes of the features is kept between the questions about one bag, and gradients
        are followed to it and no further. A network that has one takes its output in `states_of`.
        """
        return None

    def states_of(
        self,
        patches: Tensor,
        entered: Tensor,
        cells: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
        *,
        layer: int = -1,
    ) -> Tensor:
        """Return the rows of `patch_states` of a few patches, differentiable with ``entered``.

        Here they are picked from those of all patches. A network that knows from which part of the
        canvas they come computes that part alone.

        Parameters
        ----------
        patches
            ``(Q,)`` int64, numbers of patches.
        entered
            ``(N, D)`` features; where there is an `entrance`, what it made of them.
        cells, canvas, layer
            As of `patch_states`.

        Returns
        -------
        ``(Q, width)``.

        Raises
        ------
        CheckpointError
            As `patch_states`.
        """
        return self.patch_states(entered, cells, canvas, layer=layer)[patches]

    def peak_floats(self, patches: int, cells: int) -> int:
        """Estimate how many float32 numbers inference holds at its peak, weights left out.

        A bag that needs more than there is free is refused before it runs. 0 is no estimate.
        ``cells`` is the size of the canvas.
        """
        return 0

    def kept_floats(self, patches: int, cells: int) -> int:
        """Estimate the same where a forward pass keeps its stages, or what its gradients need."""
        return self.peak_floats(patches, cells)

    def auxiliary_loss(self, stages: dict[str, Tensor], label: Tensor) -> Tensor | None:
        """Return what the paper adds to the loss of the slide while training, or None.

        Parameters
        ----------
        stages
            Filled by the forward pass of the same bag.
        label
            ``(1,)`` int64, class or time bin of the slide.
        """
        return None

    @classmethod
    def adapt(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return published weights under the names used here, without those never used.

        Papers' own repositories differ from the published comparison in some names.
        """
        return dict(weights)

    @classmethod
    def recognises(cls, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether a published ``state_dict`` of these names and shapes is of this kind."""
        return False

    @classmethod
    def config_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> ArchitectureConfig:
        """Read the configuration off the shapes of a published ``state_dict``."""
        raise NotImplementedError


def keep(stages: dict[str, Tensor] | None, **results: Tensor) -> None:
    """Store internal results where the caller asked for them."""
    if stages is not None:
        stages.update(results)


def activation(name: str) -> nn.Module:
    """Return ``relu`` or exact ``gelu``, the choice published MIL code offers.

    Raises
    ------
    ValueError
        For another name.
    """
    if name not in ("relu", "gelu"):
        raise ValueError(f"the activation is {name!r}, but must be relu or gelu")
    return nn.ReLU() if name == "relu" else nn.GELU()


def counted(count: int, first: int = 0) -> Tensor:
    """Return ``first``, ``first + 1``, ... as ``count`` floats.

    An ``arange`` or a sum on torch's ``meta`` device would import its compiler, for seconds.
    """
    return torch.tensor([float(first + number) for number in range(count)])


def score_of_class(scores: Tensor, logits: Tensor) -> Tensor:
    """Pick from ``(N, K)`` scores those of the class with the largest of ``(K,)`` logits."""
    return scores[:, int(logits.detach().argmax())]


def xavier_init(module: nn.Module) -> None:
    """Draw Xavier-normal weights and zero biases for every Linear, as published MIL code does.

    It runs over the whole network after construction, so it also replaces what a Mamba block
    set up for its step size: published models start with ``dt_proj.bias = 0``.
    """
    if any(weight.is_meta for weight in module.parameters()):
        return  # loaded weights follow; torch would import its compiler to draw none
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
