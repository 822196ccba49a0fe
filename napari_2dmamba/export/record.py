"""The record of a run: everything that made the result, in one JSON file.

The record holds no properties of the slide file and no label or macro image: apart from the
file's own name and place, nothing in it can identify a patient.
"""

import dataclasses
import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_2dmamba import __version__
from napari_2dmamba.errors import ExportError
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.slide.grid import PatchGrid
from napari_2dmamba.whole_files import written_whole

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide

SCHEMA = "napari-2dmamba run"
SCHEMA_VERSION = 1

_PACKAGES = (
    "torch", "numpy", "scipy", "scikit-image", "openslide-python", "openslide-bin", "tifffile",
    "imagecodecs", "h5py", "safetensors", "timm", "napari",
)  # fmt: skip

_NEEDED: dict[str, set[str]] = {
    "slide": {"name", "path", "fingerprint"},
    "features": set(),
    "model": set(),
    "settings": set(),
}


def make_record(
    *,
    slide: "Slide",
    grid: PatchGrid,
    bag: FeatureBag,
    prediction: SlidePrediction,
    settings: Mapping[str, Any],
    checkpoint: str | os.PathLike[str] | None = None,
    features: str | os.PathLike[str] | None = None,
    model: Mapping[str, Any] | None = None,
    device_reason: str = "",
    warnings: Sequence[str] = (),
    started: datetime | None = None,
) -> dict[str, Any]:
    """Gather what made a result; every value can be written as JSON.

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
    model
        What the model says of itself: architecture, training, intended use.
    device_reason
        Why this device and backend were chosen.
    warnings
        Sentences that were shown to the user.
    started
        When the run began, with time zone; now when absent.
    """
    now = datetime.now(UTC)
    started = started or now
    record = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
        "finished": now.isoformat(timespec="seconds"),
        "seconds": (now - started).total_seconds(),
        "software": software(),
        "slide": {
            "name": slide.path.name,
            "path": str(slide.path.resolve()),
            "fingerprint": slide.fingerprint,
            "backend": slide.backend,
            "dimensions_level0_px": slide.dimensions,
            "bounds_level0_px": slide.bounds,
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source,
            "kind": slide.kind,
        },
        "grid": {
            "patches": len(grid),
            "patch_size_px": grid.patch_size,
            "patch_size_level0_px": grid.patch_size_level0,
            "mpp": grid.mpp,
            "canvas_rows_cols": grid.canvas,
        },
        "features": {
            "path": None if features is None else str(Path(features).resolve()),
            "content_sha256": features_hash(bag),
            "patches": len(bag),
            "size": bag.feature_size,
            "encoder": bag.encoder,
            "slide_fingerprint": bag.slide_id,
            "source": bag.source,
        },
        "model": {
            "checkpoint": None if checkpoint is None else Path(checkpoint).name,
            "checkpoint_path": None if checkpoint is None else str(Path(checkpoint).resolve()),
            "checkpoint_sha256": None if checkpoint is None else file_hash(checkpoint),
            "device": prediction.device,
            "backend": prediction.backend,
            "device_name": _device_name(prediction.device),
            "device_reason": device_reason,
            **(model or {}),
        },
        "settings": dict(settings),
        "result": {
            "task": prediction.task,
            "class_names": prediction.class_names,
            "logits": prediction.logits,
            "probabilities": prediction.probabilities,
            "hazards": prediction.hazards,
            "survival": prediction.survival,
            "risk": prediction.risk,
            "attention_meaning": prediction.attention_meaning,
            "background_mass": prediction.background_mass,
        },
        "warnings": list(warnings),
    }
    return dict(as_json(record))


def write_record(record: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a record as JSON.

    Raises
    ------
    ExportError
        When the file cannot be written.
    """
    text = json.dumps(as_json(record), indent=2, ensure_ascii=False, allow_nan=False)
    with written_whole(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
    return Path(path)


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a record.

    Raises
    ------
    ExportError
        When the file is absent, damaged, not a record, or from a newer version.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read ({error.strerror}); choose the folder of a saved run"
        ) from error
    except ValueError as error:  # JSON and UTF-8 alike
        raise ExportError(
            f"{path} is damaged (no JSON: {error}); run the slide again, or restore the file"
        ) from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ExportError(f"{path} is not the record of a run ({SCHEMA!r} is not its schema)")
    version = record.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ExportError(
            f"{path} has schema version {version}, and this program knows up to "
            f"{SCHEMA_VERSION}; update napari-2dmamba to open it"
        )
    for section, needed in _NEEDED.items():
        if not isinstance(record.get(section), dict) or not needed <= record[section].keys():
            raise ExportError(
                f"{path} is damaged (its section {section!r} lacks what a run has); restore the "
                "file from a copy, or run the slide again"
            )
    return record


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
    """Return the SHA-256 of a file.

    Raises
    ------
    ExportError
        When it cannot be read.
    """
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
