"""The record of a run: everything that made the result, in one JSON file.

The record holds no properties of the slide file and no label or macro image: apart from the
file's own name and place, nothing in it can identify a patient. What is exported holds names
of files and no places (`RunRecord.without_paths`); a saved run keeps places relative to its
own folder (`RunRecord.relative_to`).
"""

import dataclasses
import hashlib
import json
import math
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_2dmamba import __version__
from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import ExportError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.export.finite import refuse_not_finite
from napari_2dmamba.export.typed_json import WrongTypeError, read_typed
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.redaction import names_in
from napari_2dmamba.slide.grid import PatchGrid
from napari_2dmamba.slide.regions import Regions

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

SCHEMA = "napari-2dmamba run"
SCHEMA_VERSION = 2
"""Raised when older programs would misread a record; new fields alone do not raise it."""

LARGEST_RECORD = 64 * 2**20
"""Bytes; regions lie in a file of their own, and a record without them has some 10 kB."""

_PACKAGES = (
    "torch", "numpy", "scipy", "scikit-image", "openslide-python", "openslide-bin", "tifffile",
    "imagecodecs", "h5py", "safetensors", "timm", "napari",
)  # fmt: skip

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


def make_record(
    *,
    slide: "Slide",
    grid: PatchGrid,
    bag: FeatureBag,
    prediction: SlidePrediction,
    settings: Mapping[str, Any],
    checkpoint: str | os.PathLike[str] | None = None,
    features: str | os.PathLike[str] | None = None,
    features_given: bool = False,
    model: Mapping[str, Any] | None = None,
    told: Mapping[str, Any] | None = None,
    regions: Regions | None = None,
    device_reason: str = "",
    warnings: Sequence[str] = (),
    started: datetime | None = None,
) -> RunRecord:
    """Gather what made a result.

    Parameters
    ----------
    slide, grid, bag, prediction
        What went through the pipeline.
    settings
        One settings dataclass per stage, by the stage's name.
    checkpoint
        File of the model; its SHA-256 goes into the record.
    features
        File that the features were read from or are cached in.
    features_given
        Whether that file was the user's.
    model
        What the model says of itself: architecture, training, intended use.
    told
        What the user said of the model because its file does not.
    regions
        What the run was restricted to.
    device_reason
        Why this device and backend were chosen.
    warnings
        Sentences that were shown to the user.
    started
        When the run began, with time zone; now when absent.

    Raises
    ------
    ExportError
        When the prediction holds what is no finite number.
    """
    refuse_not_finite(prediction)
    now = datetime.now(UTC).replace(microsecond=0)
    begun = (started or now).astimezone(UTC)
    return RunRecord(
        started=begun.replace(microsecond=0),
        finished=now,
        seconds=(datetime.now(UTC) - begun).total_seconds(),
        software=software(),
        slide=SlideRecord(
            name=slide.path.name,
            path=str(slide.path.resolve()),
            fingerprint=slide.fingerprint,
            backend=slide.backend,
            dimensions_level0_px=_integers(slide.dimensions),
            bounds_level0_px=_integers(slide.bounds),
            mpp=slide.mpp,
            mpp_source=slide.mpp_source,
            kind=slide.kind,
        ),
        grid=GridRecord(
            patches=len(grid),
            patch_size_px=int(grid.patch_size),
            patch_size_level0_px=int(grid.patch_size_level0),
            mpp=None if grid.mpp is None else float(grid.mpp),
            canvas_rows_cols=_integers(grid.canvas),
        ),
        features=FeaturesRecord(
            path=None if features is None else str(Path(features).resolve()),
            content_sha256=features_hash(bag),
            patches=len(bag),
            size=bag.feature_size,
            encoder=bag.encoder,
            slide_fingerprint=bag.slide_id,
            source=as_json(bag.source),
            given=features_given,
        ),
        model=ModelRecord(
            checkpoint=None if checkpoint is None else Path(checkpoint).name,
            checkpoint_path=None if checkpoint is None else str(Path(checkpoint).resolve()),
            checkpoint_sha256=None if checkpoint is None else file_hash(checkpoint),
            device=prediction.device,
            backend=prediction.backend,
            device_name=_device_name(prediction.device),
            device_reason=device_reason,
            told=as_json(told or {}),
            header=as_json(model or {}),
        ),
        settings=as_json(settings),
        result=read_typed(ResultRecord, as_json(vars(prediction)), "result"),
        regions=regions_record(regions),
        warnings=tuple(warnings),
    )


def regions_record(regions: Regions | None) -> RegionsRecord | None:
    """Return what a record says of regions; None for none, as notes change nothing."""
    roles = [region.role for region in regions or ()]
    included, excluded = roles.count("include"), roles.count("exclude")
    if regions is None or not included + excluded:
        return None
    return RegionsRecord(included, excluded, regions.content_hash())


def _integers(values: Sequence[Any]) -> Any:
    return tuple(int(value) for value in values)


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


def write_json(data: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write JSON for people and programs, whole or not at all.

    Raises
    ------
    ExportError
        When the file cannot be written.
    """
    # a name that is no text in Unicode comes back from the escapes of JSON as it was
    text = json.dumps(as_json(data), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as part:
        part.write_bytes((text + "\n").encode("utf-8", "backslashreplace"))
    return Path(path)


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


def software() -> dict[str, Any]:
    """Return versions of what computes, and the kind of machine, without names of people."""
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "napari-2dmamba": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "executable": Path(sys.executable).name,
    }


def _device_name(device: str) -> str:
    """Return the model of a GPU, or the processor family."""
    if device.startswith("cuda"):
        import torch

        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return platform.processor() or platform.machine()


def file_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file; of a store, that of the files in it with their names.

    Raises
    ------
    ExportError
        When it cannot be read.
    """
    if os.path.isdir(path):
        whole = hashlib.sha256()
        for part in sorted(one for one in Path(path).rglob("*") if one.is_file()):
            whole.update(f"{part.relative_to(path).as_posix()} {file_hash(part)}\n".encode())
        return whole.hexdigest()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read for its checksum ({error.strerror}); put it back in place"
        ) from error


def features_hash(bag: FeatureBag) -> str:
    """Return the SHA-256 of features and coordinates, whatever file they came from."""
    digest = hashlib.sha256(f"{bag.features.shape}".encode())
    digest.update(np.ascontiguousarray(bag.features, dtype="<f4").data)
    digest.update(np.ascontiguousarray(bag.coords, dtype="<i8").data)
    return digest.hexdigest()


def as_json(value: Any) -> Any:
    """Turn dataclasses, arrays, paths and the like into what JSON can hold; NaN becomes null.

    Raises
    ------
    TypeError
        For an object that has no JSON form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: as_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return as_json(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} {value!r} has no place in a JSON record")
