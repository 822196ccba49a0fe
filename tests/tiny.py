"""A slide and a checkpoint small enough for tests that go through the whole pipeline."""

from pathlib import Path

import numpy as np
import tifffile
import torch

from napari_2dmamba.models import Aggregator, CheckpointHeader, save_checkpoint
from napari_2dmamba.models.checkpoint import build_model

PATCH, MPP = 64, 0.5
TISSUE = (slice(256, 896), slice(320, 1152))
"""Rows and columns of level 0 that are tissue: 10 x 13 cells from row 4, column 5."""


def write_slide(path: Path, *, mpp: float | None = MPP, seed: int = 0) -> Path:
    """Write a 1408 x 1152 slide: white glass, one rectangle of pink and purple noise."""
    rng = np.random.default_rng(seed)
    pixels = np.full((1152, 1408, 3), 243, np.uint8)
    rows, cols = (s.stop - s.start for s in TISSUE)
    stain = np.array([200, 120, 170]) - rng.integers(0, 80, (rows // 8, cols // 8, 1))
    pixels[TISSUE] = np.repeat(np.repeat(stain, 8, 0), 8, 1)
    resolution = {} if mpp is None else {"resolution": (1e4 / mpp,) * 2, "resolutionunit": 3}
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2):
            file.write(
                pixels[::step, ::step],
                tile=(256, 256),
                compression="zlib",
                photometric="rgb",
                subfiletype=int(step > 1),
                **resolution,
            )
    return path


def write_checkpoint(path: Path, *, task: str = "classification", seed: int = 0) -> Path:
    """Write an untrained 2DMambaMIL for the embedded encoder."""
    torch.manual_seed(seed)
    names = ("benign", "malignant") if task == "classification" else ("0-1 y", "1-3 y", "3+ y")
    header = CheckpointHeader(
        architecture="2dmamba",
        config={
            "feature_size": 102,
            "n_outputs": len(names),
            "d_model": 16,
            "canvas_mode": "slide",
        },
        task=task,
        class_names=names,
        encoder="stain-texture-v1",
        patch_size=PATCH,
        mpp=MPP,
        intended_use="random weights, for tests",
    )
    save_checkpoint(Aggregator(build_model(header), header), path)
    return path
