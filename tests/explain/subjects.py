"""Small models and bags to explain."""

import dataclasses
from typing import Any

import numpy as np
import torch

from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import Aggregator, CheckpointHeader
from napari_2dmamba.models.registry import architecture

SIDE = 100
CORNER = (37, 11)
"""Level-0 corner of the lattice, no multiple of the side."""


def subject(
    name: str = "2dmamba",
    *,
    rows: int = 5,
    cols: int = 6,
    left_out: tuple[int, ...] = (2, 9, 17),
    task: str = "classification",
    double: bool = True,
    seed: int = 0,
    mpp: float | None = 0.5,
    **config: Any,
) -> Subject:
    """A random model on a grid of which some cells, by raster number, hold no patch."""
    torch.manual_seed(seed)
    kind = architecture(name)
    if name == "2dmamba":
        config = {"d_model": 8, "d_state": 3, "canvas_mode": "slide"} | config
    made = kind.config_class(feature_size=4, n_outputs=3, **config)
    model = kind(made)
    for parameter in model.parameters():  # biases and step sizes away from their zeros
        parameter.data += 0.1 * torch.randn_like(parameter)
    rng = np.random.default_rng(seed)
    raster = np.setdiff1d(np.arange(rows * cols), left_out)
    cells = np.stack(np.divmod(raster, cols), axis=1)
    bag = FeatureBag(
        rng.normal(size=(len(cells), 4)).astype(np.float32),
        cells[:, ::-1].astype(np.int64) * SIDE + np.array(CORNER),
        SIDE,
        slide_mpp=mpp,
    )
    header = CheckpointHeader(
        name, dataclasses.asdict(made), task, ("a", "b", "c"), canvas=config.pop("canvas", None)
    )
    of = Subject.of(Aggregator(model, header), bag)
    if double:
        of = dataclasses.replace(of, model=of.model.double(), features=of.features.double())
    return of
