"""What a checkpoint says about itself, read without loading its weights or torch.

Checkpoints of this project are safetensors files whose metadata hold one JSON text under
``napari_2dmamba``; see `CheckpointHeader` for its fields.
"""

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.inert.limits import MOST_TENSORS, clipped

METADATA_KEY = "napari_2dmamba"
FORMAT_VERSION = 1
TASKS = ("classification", "survival")
_LARGEST_HEADER = 16 * 2**20
_LARGEST_OWN_HEADER = 4 * 2**20
_LONGEST = {"architecture": 100, "encoder": 500, "created": 100, "intended_use": 5000}
_LONGEST_NAME = 500
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
        Classes, or time bins, in the order of the logits. A classification model of one logit
        has two, the negative and the positive class; where one name is given it is that of the
        positive class, and the other is called "not ...".
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
        for name in ("feature_size", "n_outputs"):
            if not _is_whole(self.config.get(name), 10**6):
                raise CheckpointError(
                    f"the config's {name} is {clipped(self.config.get(name))}, but must be a whole "
                    "number from 1 to a million"
                )
        outputs = self.config["n_outputs"]
        names = self.class_names
        if outputs == 1 and self.task == "classification" and len(names) == 1:
            names = f"not {names[0]}", names[0]
            object.__setattr__(self, "class_names", names)
        if outputs == 1 and self.task == "classification":
            if len(names) != 2:
                raise CheckpointError(
                    f"{len(names)} class names were given for a model of one logit, which tells "
                    "two classes apart; give the name of the positive class, or those of the "
                    "negative and the positive one"
                )
        elif len(names) != outputs:
            raise CheckpointError(
                f"{len(names)} class names were given for a model of {outputs} "
                "outputs; give one name per class or time bin"
            )
        if len(set(names)) != len(names):
            raise CheckpointError(
                "two classes have the same name; give each class or time bin a name of its own"
            )
        if self.patch_size is not None and not _is_whole(self.patch_size, 10**6):
            raise CheckpointError(
                f"the patch size is {clipped(self.patch_size)}, but must be a whole number of "
                "pixels from 1 to a million"
            )
        if self.mpp is not None and not 0 < self.mpp <= 1000:
            raise CheckpointError(
                f"the resolution is {clipped(self.mpp)} µm/px, but must be above 0 and at most 1000"
            )
        if self.canvas is not None and not all(_is_whole(side, 10**6) for side in self.canvas):
            raise CheckpointError(
                f"the canvas is {clipped(self.canvas)}, but must be (rows, cols) from 1 to a "
                "million each"
            )

    @property
    def scored_output(self) -> str:
        """The output that a patch's score is about, where a model has several, for a sentence."""
        if self.task == "survival":
            return "the time bin of highest hazard"
        if self.config["n_outputs"] == 1:
            return f"the positive class, {self.class_names[1]}"
        return "the predicted class"

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
        if len(entries) > MOST_TENSORS:
            raise CheckpointError(
                f"{path.name} is refused: it names {len(entries)} tensors, and no checkpoint has "
                f"more than {MOST_TENSORS}"
            )
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        if not isinstance(metadata, dict):
            raise TypeError("its metadata are no dict")
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if not isinstance(end, int):
            raise TypeError("an offset is no whole number")
    except (
        ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{path.name} is damaged: its safetensors header cannot be read ({clipped(error)}); "
            "copy or download it again"
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
        if len(metadata[METADATA_KEY]) > _LARGEST_OWN_HEADER:
            raise CheckpointError(
                f"it has {len(metadata[METADATA_KEY])} characters, and no more than "
                f"{_LARGEST_OWN_HEADER} are read"
            )
        values = json.loads(metadata[METADATA_KEY])
        version = values.pop("format")
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"it has checkpoint format {clipped(version)}, and this version of "
                f"napari-2dmamba reads format {FORMAT_VERSION}; update napari-2dmamba"
            )
        names = values["class_names"]
        if not (isinstance(names, list) and all(isinstance(one, str) for one in names)):
            raise TypeError("its class_names are no list of names")
        values["class_names"] = tuple(one[:_LONGEST_NAME] for one in names)
        if values.get("canvas") is not None:
            rows, cols = values["canvas"]
            values["canvas"] = (rows, cols)
        for key, value in values.items():
            if key in _TYPES and not isinstance(value, _TYPES[key]):
                raise TypeError(f"its {key} is {clipped(value)}")
            if isinstance(value, str) and len(value) > _LONGEST.get(key, 100_000):
                raise ValueError(f"its {key} has {len(value)} characters")
        _refuse_absurd(values["config"])
        return CheckpointHeader(**values)
    except CheckpointError as error:
        raise CheckpointError(f"the header of {name} is not usable: {error}") from error
    except (
        ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"the header of {name} is damaged ({type(error).__name__}: {clipped(error)}); copy or "
            "download the file again"
        ) from error


def _is_whole(value: object, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= largest


def _refuse_absurd(config: dict[str, Any]) -> None:
    """Refuse numbers that no configuration holds, before anything is built of them."""
    for key, value in config.items():
        if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= 10**6):
            raise ValueError(f"the config's {clipped(key)} is {clipped(value)}")
        if isinstance(value, str) and len(value) > _LONGEST_NAME:
            raise ValueError(f"the config's {clipped(key)} has {len(value)} characters")


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
