"""With what a cohort was made: kept in its folder, so that it can be gone on with."""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.cohort.status import relative
from napari_2dmamba.errors import CohortError
from napari_2dmamba.export.json_file import as_json
from napari_2dmamba.features import FeatureFileSettings, FeatureSettings
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.settings import validate
from napari_2dmamba.slide import GridSettings, TissueSettings

SETTINGS_FILE = "cohort.json"
_PATHS = ("checkpoint", "features", "regions")
_STAGES: dict[str, Any] = {
    "tissue": TissueSettings,
    "grid": GridSettings,
    "features": FeatureSettings,
    "model": ModelSettings,
    "feature_file": FeatureFileSettings,
}


@dataclass(frozen=True)
class SavedSettings:
    """What the latest run in a cohort's folder was given.

    Attributes
    ----------
    settings
        Complete: the grid is not left to the checkpoint.
    checkpoint
        Path, or None where only features were computed.
    checkpoint_settings
        What was given because the file does not hold it.
    features
        File or folder of features that were read, or None.
    regions
        File or folder of regions, or None.
    """

    settings: RunSettings
    checkpoint: str | None = None
    checkpoint_settings: dict[str, Any] = field(default_factory=dict)
    features: str | None = None
    regions: str | None = None


def write_settings(made: SavedSettings, out: Path) -> None:
    """Write it into a cohort's folder, whole or not at all; its paths are relative to there.

    Raises
    ------
    CohortError
        When the file system refuses.
    """
    told = as_json(made)
    for name in _PATHS:
        if told[name] is not None:
            told[name] = relative(told[name], out)
    weights = told["settings"]["features"]["weights"]
    if weights is not None and Path(weights).exists():
        told["settings"]["features"]["weights"] = relative(weights, out)
    with atomic_write(out / SETTINGS_FILE, CohortError) as part:
        part.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read_settings(out: Path) -> SavedSettings | None:
    """Return it, or None where there is none that can be understood.

    Settings that this version does not know are passed over.
    """
    try:
        told = json.loads((out / SETTINGS_FILE).read_text(encoding="utf-8"))
        for name in _PATHS:
            if told.get(name) is not None:
                told[name] = os.path.normpath(Path(os.path.abspath(out), told[name]))
        weights = told["settings"]["features"].get("weights")
        if weights is not None and (there := Path(os.path.abspath(out), weights)).exists():
            told["settings"]["features"]["weights"] = os.path.normpath(there)
        told["settings"] = _settings(told["settings"])
        given = dict(told["checkpoint_settings"])
        told["checkpoint_settings"] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
        }
        return SavedSettings(**{name: told[name] for name in _names(SavedSettings) & told.keys()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _settings(told: dict[str, Any]) -> RunSettings:
    stages = {
        name: kind(**{key: told[name][key] for key in _names(kind) & told.get(name, {}).keys()})
        for name, kind in _STAGES.items()
    }
    for stage in stages.values():
        validate(stage)
    return RunSettings(**stages, in_pixels=bool(told["in_pixels"]))


def _names(kind: Any) -> set[str]:
    return {one.name for one in dataclasses.fields(kind)}
