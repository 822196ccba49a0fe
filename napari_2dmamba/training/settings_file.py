"""Settings of a training in a file: what a search found, and `train` takes up again."""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import SettingsError, TrainingError
from napari_2dmamba.evaluation.scoring import known_by
from napari_2dmamba.settings import check_value
from napari_2dmamba.tasks.splits import Split
from napari_2dmamba.tasks.table import Problem, Table
from napari_2dmamba.training.presets import PRESETS, Preset, preset
from napari_2dmamba.training.settings import FitSettings


@dataclass(frozen=True)
class GivenSettings:
    """What differs from a preset.

    Attributes
    ----------
    architecture, preset
        Names.
    fit
        Fields of `FitSettings`.
    config
        Options of the architecture.
    found
        How they came about, for people.
    """

    architecture: str
    preset: str = PRESETS[0]
    fit: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)

    def of(self, kind: str) -> Preset:
        """Return the whole settings for a kind of task."""
        whole = preset(self.preset, self.architecture, kind)
        return dataclasses.replace(whole, fit=dataclasses.replace(whole.fit, **self.fit))

    def problems(self, table: Table, split: Split) -> tuple[Problem, ...]:
        """Return what a reader of scores must know of the search that found the settings."""
        marks = self.found.get("seen", ())
        tested = {name for fold in split.folds for name in fold.test}
        known = known_by(marks, (slide for slide in table.slides if slide.name in tested))
        if not known:
            return ()
        words = (
            f"{len(known)} of the {len(tested)} tested slides are of patients on whom the search "
            "chose these settings, so that the scores are biased; train with the split of the "
            "search"
        )
        return (Problem("searched", len(known), words, slides=tuple(known)),)


def write_settings_file(given: GivenSettings, path: str | os.PathLike[str]) -> Path:
    """Write settings as JSON.

    Raises
    ------
    TrainingError
        When the file system refuses.
    """
    path = Path(path)
    with atomic_write(path, TrainingError) as part:
        part.write_text(json.dumps(dataclasses.asdict(given), indent=1) + "\n", encoding="utf-8")
    return path


def read_settings_file(path: str | os.PathLike[str]) -> GivenSettings:
    """Read what `write_settings_file` wrote.

    Raises
    ------
    TrainingError
        When it cannot be read, or holds a setting that is none or is out of its range.
    """
    path = Path(path)
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        given = GivenSettings(**held)
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be read ({error.strerror or error}); check the name"
        ) from error
    except (ValueError, TypeError) as error:
        raise TrainingError(f"{path} is no settings file of a training ({error})") from error
    seen = given.found.get("seen", []) if isinstance(given.found, dict) else None
    if not (isinstance(seen, list) and all(isinstance(one, str) for one in seen)):
        raise TrainingError(f"{path} is no settings file of a training; let search write it")
    fields = {one.name: one for one in dataclasses.fields(FitSettings)}
    parts = (given.fit, given.config, given.found)
    names = (given.architecture, given.preset)
    if not all(isinstance(one, dict) for one in parts) or not all(
        isinstance(one, str) for one in names
    ):
        raise TrainingError(f"{path} is no settings file of a training; let search write it")
    for name, value in given.fit.items():
        if name not in fields:
            raise TrainingError(f"{path.name}: {name!r} is no setting of a training; delete it")
        default = fields[name].default
        fits = isinstance(value, type(default)) or (
            isinstance(default, float) and type(value) is int
        )
        if not fits or (type(value) is bool) != (type(default) is bool):
            raise TrainingError(
                f"{path.name}: {name} is {value!r}, but must be like {default!r}; correct it"
            )
        try:
            check_value(fields[name], value)
        except SettingsError as error:
            raise TrainingError(f"{path.name}: {error}") from error
    return given
