"""What a checkpoint says about itself, read without loading its weights or torch.

Checkpoints of this project are safetensors files whose metadata hold one JSON text under
``napari_2dmamba``; see `CheckpointHeader` for its fields.
"""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_2dmamba.errors import CheckpointError

METADATA_KEY = "napari_2dmamba"
FORMAT_VERSION = 1
TASKS = ("classification", "survival")
_LARGEST_HEADER = 16 * 2**20
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("architecture", "task", "intended_use", "notes", "created"), str),
    **dict.fromkeys(("config", "training"), dict),
    "encoder": str | None,
    "patch_size": int | None,
    "mpp": int | float | None,
}


@dataclass(frozen=True)
class CheckpointHeader:
    """Everything about a model but its weights.

    Attributes
    ----------
    architecture
        Name in the registry, such as ``"2dmamba"``.
    config
        The architecture's own numbers and options, as JSON.
    task
        ``"classification"`` or ``"survival"``.
    class_names
        One per logit: classes, or time bins.
    encoder
        Name of the encoder whose features the model was trained on; None when nobody knows.
    patch_size
        Side of a patch in pixels at `mpp`; None where it does not matter or nobody knows.
    mpp
        µm per pixel of the patches, or None when nobody knows.
    canvas
        ``(rows, cols)`` of the training canvas; None for models without one.
    training
        Summary of how it was trained: data, seed, scores.
    intended_use
        A warning or a purpose, shown wherever the model's results are.
    notes
        Free text.
    created
        ISO date and time, UTC.
    """

    architecture: str
    config: dict[str, Any]
    task: str
    class_names: tuple[str, ...]
    encoder: str | None = None
    patch_size: int | None = None
    mpp: float | None = None
    canvas: tuple[int, int] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    intended_use: str = ""
    notes: str = ""
    created: str = ""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise CheckpointError(f"the task is {self.task!r}, but must be one of {TASKS}")
        outputs = self.config.get("n_outputs")
        if len(self.class_names) != outputs:
            raise CheckpointError(
                f"{len(self.class_names)} class names were given for a model of {outputs} "
                "outputs; give one name per class or time bin"
            )
        if self.canvas is not None and min(self.canvas) < 1:
            raise CheckpointError(f"the canvas is {self.canvas}, but must be (rows, cols) above 0")

    @property
    def feature_size(self) -> int:
        """D, features per patch the model expects."""
        return int(self.config["feature_size"])

    def to_json(self) -> str:
        """Return the text stored in the file."""
        return json.dumps(
            {"format": FORMAT_VERSION, **dataclasses.asdict(self)}, ensure_ascii=False, indent=1
        )


def read_header(path: str | os.PathLike[str]) -> CheckpointHeader:
    """Read the header of one of this project's checkpoints, and nothing else of the file.

    Raises
    ------
    CheckpointError
        When there is no such file, or it is damaged, or it is not of this project.
    """
    path = Path(path)
    metadata, _ = read_safetensors_header(path)
    header = header_of(metadata, path.name)
    if header is None:
        raise CheckpointError(
            f"{path.name} is a safetensors file without a napari-2dmamba header; load it with "
            "the settings it does not hold, and save it to add one"
        )
    return header


def read_safetensors_header(path: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Return the metadata of a safetensors file, and the shape of each tensor.

    Raises
    ------
    CheckpointError
        When the file is not a whole safetensors file; its message says what it is instead.
    """
    size = path.stat().st_size if path.is_file() else 0
    refuse_what_is_no_checkpoint(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
            raise CheckpointError(f"{path.name} is not a checkpoint: it has no safetensors header")
        text = file.read(length)
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        if not isinstance(metadata, dict):
            raise TypeError("its metadata are no dict")
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} is damaged: its safetensors header cannot be read ({error}); copy or "
            "download it again"
        ) from error
    if end != size - 8 - length:
        raise CheckpointError(
            f"{path.name} is damaged or cut short: its header announces {end} bytes of weights, "
            f"and {size - 8 - length} are there; copy or download it again"
        )
    return metadata, shapes


def header_of(metadata: dict[str, str], name: str) -> CheckpointHeader | None:
    """Return the header in safetensors metadata, or None when it has none of ours."""
    if METADATA_KEY not in metadata:
        return None
    try:
        values = json.loads(metadata[METADATA_KEY])
        version = values.pop("format")
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"it has checkpoint format {version}, and this version of napari-2dmamba reads "
                f"format {FORMAT_VERSION}; update napari-2dmamba"
            )
        values["class_names"] = tuple(str(name) for name in values["class_names"])
        if values.get("canvas") is not None:
            rows, cols = values["canvas"]
            values["canvas"] = (int(rows), int(cols))
        for key, value in values.items():
            if key in _TYPES and not isinstance(value, _TYPES[key]):
                raise TypeError(f"its {key} is {value!r}")
        return CheckpointHeader(**values)
    except CheckpointError as error:
        raise CheckpointError(f"the header of {name} is not usable: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"the header of {name} is damaged ({type(error).__name__}: {error}); copy or "
            "download the file again"
        ) from error


def refuse_what_is_no_checkpoint(path: Path) -> None:
    """Name the usual things that are mistaken for a checkpoint.

    Raises
    ------
    CheckpointError
        For a missing or empty file, a folder, a web page, a Git LFS pointer.
    """
    if path.is_dir():
        raise CheckpointError(f"{path.name} is a folder; choose the checkpoint file inside it")
    try:
        with path.open("rb") as file:
            start = file.read(512).lstrip().lower()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path.name} is empty (0 bytes); copy or download it again")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path.name} is a Git LFS pointer, not the weights; fetch them with `git lfs pull` "
            "or download the file itself"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path.name} is a web page, not a checkpoint; the download probably asked for a "
            "login or led to a page about the file"
        )
