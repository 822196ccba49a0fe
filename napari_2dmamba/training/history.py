"""The epochs of a training in a folder, those of models that are not finished included."""

import csv
import os
import pickle
from pathlib import Path

import torch

from napari_2dmamba.training.fitting import Epoch


def read_history(folder: str | os.PathLike[str]) -> dict[str, tuple[Epoch, ...]]:
    """Return the epochs so far by the name of the model (``fold 0``).

    What cannot be read is left out: whoever goes on with the training is told of it there.
    Nothing in the files is executed.
    """
    found = {}
    for inside in sorted(Path(folder).glob("*/"), key=lambda path: (len(path.name), path.name)):
        epochs = _of_state(inside / "state.pt") or _of_table(inside / "history.csv")
        if epochs:
            found[inside.name.replace("-", " ")] = epochs
    return found


def _of_table(path: Path) -> tuple[Epoch, ...]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return tuple(
                Epoch(
                    int(row["epoch"]),
                    float(row["training_loss"]),
                    float(row["validation_loss"]) if row["validation_loss"] else None,
                    float(row["learning_rate"]),
                    float(row["seconds"]),
                    float(row["validation_score"]) if row.get("validation_score") else None,
                )
                for row in csv.DictReader(file)
            )
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return ()


def _of_state(path: Path) -> tuple[Epoch, ...]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        return tuple(Epoch(**epoch) for epoch in held["history"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError,
            TypeError, AttributeError):  # fmt: skip
        return ()
