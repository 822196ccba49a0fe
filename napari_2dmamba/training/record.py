"""The record of a training in its folder, by which another training there is known and refused."""

import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from napari_2dmamba import __version__
from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import TrainingError
from napari_2dmamba.evaluation.settings import EvaluationSettings
from napari_2dmamba.models import load_checkpoint
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.tasks.bags import FeatureKind
from napari_2dmamba.tasks.splits import Split, write_split
from napari_2dmamba.tasks.table import Table
from napari_2dmamba.training.presets import Preset
from napari_2dmamba.training.state import fingerprint

RECORD, MODEL = "training.json", "model.safetensors"


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that one model of a training is made of."""

    table: Table
    split: Split
    features: FeatureKind
    feature_files: str
    architecture: str
    preset: Preset
    preset_name: str
    config: dict[str, Any]
    class_names: dict[str, str]
    intended_use: str
    scoring: EvaluationSettings
    logs: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return what decides the numbers, as JSON-able data without names of slides."""
        return {
            "kind": self.table.kind,
            "table": self.table.digest(),
            "counts": self.table.counts(),
            "split": self.split.method,
            "split_digest": fingerprint([asdict(fold) for fold in self.split.folds]),
            "architecture": self.architecture,
            "preset": self.preset_name,
            "settings": asdict(self.preset.fit),
            "config": {**self.preset.config, **self.config},
            "outputs": self.preset.outputs,
            "bins_of_all": self.preset.bins_of_all,
            "features": asdict(self.features),
            "feature_files": self.feature_files,
            "class_names": self.class_names,
        }

    @cached_property
    def digest(self) -> str:
        """Hash of `record`, by which a model knows the training it is of."""
        return fingerprint(self.record())


def claim(out: Path, plan: TrainingPlan) -> None:
    """Mark the folder as this training's, or refuse the folder of another."""
    record = json.loads(json.dumps(plan.record(), default=str))
    if (out / RECORD).is_file():
        held = read_training(out)
        differing = [key for key in record if held.get(key) != record[key]]
        if differing:
            raise TrainingError(
                f"{out} holds a training with other {', '.join(differing)}; choose another "
                "folder, or delete that one"
            )
    with atomic_write(out / RECORD, TrainingError) as part:
        told = {**record, "version": __version__}
        part.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    write_split(plan.split, out / "split.csv")


def read_training(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the record of a training in a folder.

    Raises
    ------
    TrainingError
        When there is none.
    """
    path = Path(folder) / RECORD
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"{folder} holds no training ({RECORD} is missing or damaged)"
        ) from error


def finished(plan: TrainingPlan, called: str, folder: Path) -> CheckpointHeader | None:
    """Return the header of a model that is there already, or None.

    Raises
    ------
    TrainingError
        When it is of another training: folds may be collected from the folders of many machines.
    """
    if not (folder / MODEL).is_file():
        return None
    header = load_checkpoint(folder / MODEL).header
    if (header.training.get("model"), header.training.get("training")) != (called, plan.digest):
        raise TrainingError(
            f"{folder / MODEL} is not {called} of this training, but of one with other settings, "
            f"slides or features; delete {folder.name}, or put the right one there"
        )
    return header
