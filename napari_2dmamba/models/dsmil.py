"""DSMIL: dual-stream MIL (Li et al., CVPR 2021, arXiv 2011.08939).

One stream scores every patch and finds the critical patch of each class; the other weighs
all patches by their likeness to it. The slide's logits are those of the second stream, as in
the published comparison; the first enters the training loss through `DSMIL.auxiliary_loss`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_2dmamba.models.answer import class_logits
from napari_2dmamba.models.architecture import (
    Architecture,
    ArchitectureConfig,
    ModelOutput,
    keep,
    score_of_class,
    xavier_init,
)


@dataclass(frozen=True)
class DSMILConfig(ArchitectureConfig):
    """Shape of a DSMIL.

    Attributes
    ----------
    query_size
        Width of the queries.
    project_values
        Whether features are projected before they are added up.
    """

    query_size: int = 128
    project_values: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(query_size=(1, 65536))


class InstanceStream(nn.Module):
    """One logit per patch and class."""

    def __init__(self, config: DSMILConfig) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(config.feature_size, config.n_outputs))


class BagStream(nn.Module):
    """Queries, values, and the convolution that mixes the classes' bags."""

    def __init__(self, config: DSMILConfig) -> None:
        super().__init__()
        size = config.feature_size
        self.q = nn.Sequential(
            nn.Linear(size, config.query_size),
            nn.ReLU(),
            nn.Linear(config.query_size, config.query_size),
            nn.Tanh(),
        )
        self.v = (
            nn.Sequential(nn.Dropout(config.dropout), nn.Linear(size, size), nn.ReLU())
            if config.project_values
            else nn.Identity()
        )
        self.fcc = nn.Conv1d(config.n_outputs, config.n_outputs, kernel_size=size)


class DSMIL(Architecture):
    """Instance stream and bag stream."""

    name: ClassVar[str] = "dsmil"
    title: ClassVar[str] = "DSMIL"
    paper: ClassVar[str] = "Li et al., CVPR 2021, arXiv 2011.08939"
    config_class: ClassVar[type[ArchitectureConfig]] = DSMILConfig
    score_meaning: ClassVar[str] = (
        "likeness of the patch to the critical patch of the predicted class, as softmax "
        "attention; over all patches it sums to 1"
    )

    config: DSMILConfig

    def __init__(self, config: DSMILConfig) -> None:
        super().__init__()
        self.config = config
        self.i_classifier = InstanceStream(config)
        self.b_classifier = BagStream(config)
        xavier_init(self)

    def forward(
        self,
        features: Tensor,
        cells: Tensor | None = None,
        canvas: tuple[int, int] | None = None,
        *,
        stages: dict[str, Tensor] | None = None,
    ) -> ModelOutput:
        """Run one bag; stages: ``instance_logits`` and ``att (N, K)``, ``bag (1, K, D)``."""
        instance_logits = self.i_classifier.fc(features)
        critical = features[instance_logits.argmax(dim=0)]
        stream = self.b_classifier
        queries, keys = stream.q(features), stream.q(critical)
        att = torch.softmax(queries @ keys.t() / self.config.query_size**0.5, dim=0)
        bag = att.t() @ stream.v(features)
        logits = stream.fcc(bag[None])[0, :, 0]
        keep(stages, instance_logits=instance_logits, att=att, bag=bag[None])
        return ModelOutput(logits, score_of_class(att, logits))

    def auxiliary_loss(self, stages: dict[str, Tensor], label: Tensor) -> Tensor | None:
        """Return the cross entropy of each class's critical patch."""
        critical = class_logits(stages["instance_logits"].amax(0)[None])
        return functional.cross_entropy(critical, label)

    def peak_floats(self, patches: int, cells: int) -> int:
        """See `Architecture.peak_floats`."""
        return patches * (3 * self.config.feature_size + 4 * self.config.query_size)

    @classmethod
    def recognises(cls, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """See `Architecture.recognises`."""
        return "i_classifier.fc.0.weight" in shapes and "b_classifier.fcc.weight" in shapes

    @classmethod
    def config_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> DSMILConfig:
        """See `Architecture.config_of`."""
        n_outputs, feature_size = shapes["i_classifier.fc.0.weight"]
        return DSMILConfig(
            feature_size,
            n_outputs,
            query_size=shapes["b_classifier.q.0.weight"][0],
            project_values="b_classifier.v.1.weight" in shapes,
        )
