"""The state of a training between epochs: what makes it go on to the same numbers."""

import hashlib
import json
import pickle
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_2dmamba.atomic_files import atomic_write, torch_save
from napari_2dmamba.errors import TrainingError

VERSION = 2


@dataclass(frozen=True)
class Saved:
    """A training after a whole epoch; random numbers follow from seed, epoch and position.

    Attributes
    ----------
    fingerprint
        Of settings, model and bags.
    history
        One dict per epoch.
    best
        Number of the best epoch.
    steps
        Bags seen.
    weights, best_weights, optimiser
        Their ``state_dict``.
    """

    fingerprint: str
    history: list[dict[str, Any]]
    best: int | None
    steps: int
    weights: dict[str, Tensor]
    best_weights: dict[str, Tensor]
    optimiser: dict[str, Any]


def fingerprint(told: Any) -> str:
    """Return a hash of JSON-able data."""
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write(path: Path, saved: Saved) -> None:
    """Write it whole or not at all.

    Raises
    ------
    TrainingError
        When the file system refuses.
    """
    values = {field.name: getattr(saved, field.name) for field in fields(Saved)}
    with atomic_write(path, TrainingError) as part:
        torch_save({"version": VERSION, **values}, part)


def read(path: Path, expected: str) -> Saved | None:
    """Return what was saved, or None where nothing was.

    Nothing in the file is executed.

    Raises
    ------
    TrainingError
        When it is damaged, or of a training with other settings, slides or model.
    """
    if not path.is_file():
        return None
    advice = f"delete {path.name} to start again, or choose another folder"
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        version = held.pop("version")
        saved = Saved(**held)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError,
            TypeError, AttributeError) as error:  # fmt: skip
        raise TrainingError(f"{path} is damaged; {advice}") from error
    if version != VERSION:
        raise TrainingError(f"{path} was written by another version; {advice}")
    if saved.fingerprint != expected:
        raise TrainingError(
            f"{path} belongs to a training with other settings, slides or model; {advice}"
        )
    return saved
