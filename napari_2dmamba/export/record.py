"""The record of a run: everything that made the result, in one JSON file.

The record holds no properties of the slide file and no label or macro image: apart from the
file's own name and place, nothing in it can identify a patient. What is exported holds names
of files and no places (`RunRecord.without_paths`); a saved run keeps places relative to its
own folder (`RunRecord.relative_to`).
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.export.json_file import as_json, write_json
from napari_2dmamba.export.typed_json import WrongTypeError, read_typed
from napari_2dmamba.redaction import names_in
from napari_2dmamba.slide.slide import GIVEN_BY_USER

SCHEMA = "napari-2dmamba run"
SCHEMA_VERSION = 2
"""Raised when older programs would misread a record; new fields alone do not raise it."""

LARGEST_RECORD = 64 * 2**20
"""Bytes; regions lie in a file of their own, and a record without them has some 10 kB."""

_EXTRACTED = re.compile(r"features-[0-9a-f]+\.h5")


@dataclass(frozen=True)
class SlideRecord:
    """The slide of a run; ``path`` is None in an exported record."""

    name: str
    fingerprint: str
    path: str | None = None
    backend: str = ""
    dimensions_level0_px: tuple[int, int] | None = None
    bounds_level0_px: tuple[int, int, int, int] | None = None
    mpp: float | None = None
    mpp_source: str = ""
    kind: str = ""

    def __post_init__(self) -> None:
        if self.mpp is not None and self.mpp <= 0:
            raise WrongTypeError(f"slide.mpp is {self.mpp}, but must be above 0")

    @property
    def given_mpp(self) -> float | None:
        """The µm per level-0 pixel that the user gave; None where they are those of the file."""
        return self.mpp if self.mpp_source == GIVEN_BY_USER else None


@dataclass(frozen=True)
class GridRecord:
    """The patches of a run."""

    patches: int = 0
    patch_size_px: int | None = None
    patch_size_level0_px: int | None = None
    mpp: float | None = None
    canvas_rows_cols: tuple[int, int] | None = None


@dataclass(frozen=True)
class FeaturesRecord:
    """The features of a run.

    ``given`` says that they came from a file of the user and were not extracted by the run.
    """

    path: str | None = None
    content_sha256: str | None = None
    patches: int = 0
    size: int | None = None
    encoder: str | None = None
    slide_fingerprint: str | None = None
    source: dict[str, Any] = field(default_factory=dict)
    given: bool = False


@dataclass(frozen=True)
class ModelRecord:
    """The model of a run.

    ``header`` is what the checkpoint says of itself (`models.header.CheckpointHeader`), and
    ``told`` what the user had to say because the file does not.
    """

    checkpoint: str | None = None
    checkpoint_path: str | None = None
    checkpoint_sha256: str | None = None
    device: str = ""
    backend: str = ""
    device_name: str = ""
    device_reason: str = ""
    told: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)

    @property
    def intended_use(self) -> str:
        """What the checkpoint says it is for."""
        return str(self.header.get("intended_use") or "")

    @property
    def name(self) -> str:
        """The checkpoint's file name without its suffix, or the architecture."""
        if self.checkpoint:
            return Path(self.checkpoint).stem
        return str(self.header.get("architecture") or "model")


@dataclass(frozen=True)
class ResultRecord:
    """The answer of a run, as in `models.prediction.SlidePrediction`."""

    task: Literal["classification", "survival"] = "classification"
    class_names: tuple[str, ...] = ()
    logits: tuple[float, ...] = ()
    probabilities: tuple[float, ...] | None = None
    hazards: tuple[float, ...] | None = None
    survival: tuple[float, ...] | None = None
    risk: float | None = None
    attention_meaning: str = ""
    background_mass: float | None = None

    def __post_init__(self) -> None:
        for name in ("probabilities", "hazards", "survival"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != len(self.class_names):
                raise WrongTypeError(
                    f"result.{name} has {len(values)} values for {len(self.class_names)} classes"
                )
            if not all(-1e-6 <= value <= 1 + 1e-6 for value in values):
                raise WrongTypeError(f"result.{name} is not within 0 and 1")
        if self.task == "survival" and len(self.class_names) == 1 and self.survival is not None:
            # An earlier version took the sigmoid of a Cox model's logit for its hazard
            risk = self.logits[0] if len(self.logits) == 1 else None
            for name, value in (("hazards", None), ("survival", None), ("risk", risk)):
                object.__setattr__(self, name, value)

    @property
    def verdict(self) -> str:
        """The answer in a few words, for lists."""
        if self.probabilities:
            best = max(range(len(self.probabilities)), key=lambda k: self.probabilities[k])  # type: ignore[index]
            return f"{self.class_names[best]} {self.probabilities[best]:.1%}"
        return "" if self.risk is None else f"risk {self.risk:.3f}"


@dataclass(frozen=True)
class RegionsRecord:
    """The regions of a run, which lie in ``regions.geojson`` beside a saved record."""

    included: int = 0
    excluded: int = 0
    content_sha256: str | None = None


@dataclass(frozen=True)
class ExplainedMap:
    """A map that was computed of a run."""

    title: str
    meaning: str = ""


@dataclass(frozen=True)
class ExplainedPatch:
    """A patch that maps are about.

    ``extents`` tells by the map's name how far a map of the patch reaches: the fields of
    `explain.receptive_field.FieldSize`, and ``own_share``, the share on the patch itself.
    """

    patch: int
    x: int
    y: int
    row: int
    col: int
    extents: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanations:
    """The maps beside the attention of a run, and what was asked for.

    Attributes
    ----------
    target
        Class or time bin by name or number, ``"risk"``, or None for the model's answer.
    layer
        Layer of the model that maps of a patch are about, from 1.
    channels
        See `explain.provenance.Channels`.
    maps
        By their names in `explain.maps.MAPS`.
    queries
        The patches that maps of a patch are about.
    """

    target: int | str | None = None
    layer: int | None = None
    channels: int | str = "absolute"
    maps: dict[str, ExplainedMap] = field(default_factory=dict)
    queries: tuple[ExplainedPatch, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """Everything that made a result.

    Attributes
    ----------
    started, finished
        With time zone.
    seconds
        Wall time.
    software
        Versions, and the kind of machine.
    slide, grid, features, model, result, regions
        What went in and came out.
    settings
        By stage, the fields of its settings dataclass; see `pipeline.settings_of`.
    explanations
        What the further maps are, or None where there are none.
    display
        How the maps are shown.
    warnings
        Sentences that were shown to the user.
    title, notes
        What the user calls the run and says of it.
    """

    started: datetime
    finished: datetime
    slide: SlideRecord
    grid: GridRecord
    features: FeaturesRecord
    model: ModelRecord
    settings: dict[str, dict[str, Any] | Any]
    result: ResultRecord
    seconds: float | None = None
    software: dict[str, Any] = field(default_factory=dict)
    regions: RegionsRecord | None = None
    explanations: Explanations | None = None
    display: DisplaySettings = field(default_factory=DisplaySettings)
    warnings: tuple[str, ...] = ()
    title: str = ""
    notes: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON, with schema and version."""
        return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **as_json(self)}

    @classmethod
    def from_json(cls, data: Any, folder: Path | None = None) -> "RunRecord":
        """Return the record that JSON holds; fields of newer versions are left aside.

        Parameters
        ----------
        folder
            What paths are relative to: the folder of the saved run.

        Raises
        ------
        ExportError
            When it is no record, of a version that cannot be read, or has a value of a wrong
            type: one sentence without the file's name, for the caller to put it before.
        """
        version = _version_of(data)
        try:
            if version == 1:
                data = _from_version_1(data, folder)
            record = read_typed(cls, data)
        except WrongTypeError as error:
            raise ExportError(
                f"is damaged ({error}); restore the file from a copy, or run the slide again"
            ) from error
        if folder is None:
            return record
        home = folder.resolve()
        return record.with_paths(lambda path: os.path.normpath(home / path))

    def with_paths(self, change: Callable[[str], str | None]) -> "RunRecord":
        """Return the record with the places of slide, features and checkpoint changed."""

        def changed(path: str | None) -> str | None:
            return None if path is None else change(path)

        return dataclasses.replace(
            self,
            slide=dataclasses.replace(self.slide, path=changed(self.slide.path)),
            features=dataclasses.replace(self.features, path=changed(self.features.path)),
            model=dataclasses.replace(
                self.model, checkpoint_path=changed(self.model.checkpoint_path)
            ),
        )

    def relative_to(self, folder: Path) -> "RunRecord":
        """Return the record with places relative to a folder, absolute on another drive."""
        home = folder.resolve()

        def relative(path: str) -> str:
            try:
                return Path(os.path.relpath(path, home)).as_posix()
            except ValueError:  # another drive of Windows
                return path

        return self.with_paths(relative)

    def without_paths(self) -> "RunRecord":
        """Return the record as it is exported: names of files, and no places, anywhere."""
        bare = self.with_paths(lambda path: None)
        return RunRecord.from_json(names_in(bare.to_json()))


def _version_of(data: Any) -> int:
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ExportError(f"is not the record of a run ({SCHEMA!r} is not its schema)")
    version = data.get("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ExportError(f"is damaged (schema version {str(version)[:20]}); run the slide again")
    if version > SCHEMA_VERSION:
        raise ExportError(
            f"has schema version {version}, and this program knows up to {SCHEMA_VERSION}; "
            "update napari-2dmamba to open it"
        )
    return version


def _from_version_1(data: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Return a record of version 1 in the form of version 2."""
    data = dict(data)
    for section in ("slide", "features", "model", "settings"):
        if not isinstance(data.get(section), dict):
            raise WrongTypeError(f"its section {section!r} is missing or no object")
    model = data["model"]
    own = {one.name for one in dataclasses.fields(ModelRecord)} - {"header", "told"}
    data["model"] = {name: model[name] for name in own if name in model}
    data["model"]["header"] = {name: model[name] for name in model.keys() - own}
    path = data["features"].get("path")
    extracted = isinstance(path, str) and _EXTRACTED.fullmatch(re.split(r"[/\\]", path)[-1])
    data["features"] = {**data["features"], "given": bool(path) and not extracted}
    saved = data.get("saved")
    if isinstance(saved, dict) and "display" in saved:
        data["display"] = saved["display"]
    told = data.get("explanations")
    if isinstance(told, dict) and isinstance(told.get("query"), dict):
        maps = told.get("maps")
        sizes = {
            name: one["size"]
            for name, one in (maps.items() if isinstance(maps, dict) else ())
            if isinstance(one, dict) and "size" in one
        }
        data["explanations"] = {**told, "queries": [{**told["query"], "extents": sizes}]}
    _take_over_relative_paths(data, folder)
    return data


def _take_over_relative_paths(data: dict[str, Any], folder: Path | None) -> None:
    """Version 1 held every place twice: the relative one counts where something lies there."""
    relative = data.get("relative_paths")
    if folder is None or not isinstance(relative, dict):
        return
    for section in ("slide", "features"):
        path = relative.get(section)
        if isinstance(path, str) and "\0" not in path and (folder / path).exists():
            data[section] = {**data[section], "path": path}


def write_record(
    record: RunRecord, path: str | os.PathLike[str], *, full_paths: bool = False
) -> Path:
    """Write a record as JSON, with names of files and without their places.

    Parameters
    ----------
    full_paths
        Write the places of slide, features and checkpoint on this machine as well.

    Raises
    ------
    ExportError
        When the file cannot be written.
    """
    return write_json((record if full_paths else record.without_paths()).to_json(), path)


def read_record(path: str | os.PathLike[str]) -> RunRecord:
    """Read a record.

    Raises
    ------
    ExportError
        When the file is absent, damaged, not a record, or from a newer version.
    """
    path = Path(path)
    return record_in(read_json(path), path)


def record_in(data: dict[str, Any], path: Path) -> RunRecord:
    """Return the record in the JSON of a file, whose name stands in the messages.

    Raises
    ------
    ExportError
        As `read_record`.
    """
    try:
        return RunRecord.from_json(data, path.parent)
    except ExportError as error:
        raise ExportError(f"{path} {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON of a record as it is.

    Raises
    ------
    ExportError
        When the file is absent, too large or no JSON object.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_RECORD:
            raise ExportError(
                f"{path} is no record of a run ({size:,} bytes, and {LARGEST_RECORD:,} are the "
                "most); restore the file from a copy"
            )
        data = json.loads(path.read_bytes().decode("utf-8", "surrogateescape"))
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read ({error.strerror}); choose the folder of a saved run"
        ) from error
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 alike
        reason = str(error).partition("\n")[0][:100]
        raise ExportError(
            f"{path} is damaged (no JSON: {reason}); run the slide again, or restore the file"
        ) from error
    if not isinstance(data, dict):
        raise ExportError(f"{path} is not the record of a run ({SCHEMA!r} is not its schema)")
    return data
