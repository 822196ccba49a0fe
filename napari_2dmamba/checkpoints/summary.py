"""What is known of one checkpoint without loading it."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.models.header import (
    CheckpointHeader,
    header_of,
    read_safetensors_header,
    refuse_what_is_no_checkpoint,
)

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
"""Names of files that may hold a checkpoint; everything else in a folder is left alone."""

_VALIDATION = ("validation", "val", "held_out", "test")
_SCORES = (
    (("auroc", "auc"), "AUROC"),
    (("concordance", "c_index", "cindex"), "C-index"),
    (("accuracy", "acc"), "accuracy"),
    (("loss",), "loss"),
)


@dataclass(frozen=True)
class CheckpointSummary:
    """One checkpoint as its file describes it; None or empty where the file does not say.

    Attributes
    ----------
    location
        Path of the file, or ``hub:owner/name@revision:file`` of one on Hugging Face.
    size
        Bytes of the file.
    architecture, title
        Name in the registry, and for people.
    stated
        True for this project's own files, which say everything; False for weights of published
        code, whose architecture and sizes were told from names and shapes of the weights.
    task, class_names, n_outputs, encoder, feature_size, patch_size, mpp
        See `CheckpointHeader`. ``n_outputs`` is the number of classes or time bins.
    created
        ISO date and time, UTC; of weights without one when the file was last changed.
    config, training, intended_use, notes
        See `CheckpointHeader`.
    missing
        Settings that have to be given to load it: see `published.ASKED_FOR`.
    problem
        One sentence: why it cannot be used.
    """

    location: str
    size: int = 0
    architecture: str | None = None
    title: str | None = None
    stated: bool = False
    task: str | None = None
    class_names: tuple[str, ...] = ()
    n_outputs: int | None = None
    encoder: str | None = None
    feature_size: int | None = None
    patch_size: int | None = None
    mpp: float | None = None
    created: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    intended_use: str = ""
    notes: str = ""
    missing: tuple[str, ...] = ()
    problem: str = ""

    @property
    def name(self) -> str:
        """Name of the file."""
        last = self.location.replace("\\", "/").rpartition("/")[2]
        return last.rpartition(":")[2] if self.on_hub else last

    @property
    def on_hub(self) -> bool:
        """Whether it lies on Hugging Face, not here."""
        return self.location.startswith(HUB_PREFIX)

    @property
    def score(self) -> tuple[str, float] | None:
        """Name and value of the score on slides the model was not trained on, if it says one."""
        return validation_score(self.training)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CheckpointSummary":
        """Return what `to_dict` gave."""
        lists = {key: tuple(values[key]) for key in ("class_names", "missing")}
        return cls(**{**values, **lists})


HUB_PREFIX = "hub:"


def validation_score(training: Any) -> tuple[str, float] | None:
    """Find the score on other slides in a training summary, whose layout is its maker's.

    That of the epoch whose weights were kept is preferred to later tests, and a ranking score
    to accuracy and loss.
    """
    for part in _parts(training):
        numbers = {
            str(key).lower(): float(value)
            for key, value in part.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for names, title in _SCORES:
            for name in names:
                if name in numbers:
                    return title, numbers[name]
    return None


def _parts(training: Any) -> list[dict[Any, Any]]:
    """Return the dicts under names such as ``validation``, the outermost of each name first."""
    found: list[tuple[int, int, dict[Any, Any]]] = []

    def walk(value: Any, depth: int) -> None:
        if not isinstance(value, dict) or depth > 5:
            return
        for key, below in value.items():
            if str(key).lower() in _VALIDATION and isinstance(below, dict):
                found.append((_VALIDATION.index(str(key).lower()), depth, below))
            walk(below, depth + 1)

    walk(training, 0)
    return [part for _, _, part in sorted(found, key=lambda entry: entry[:2])]


def summarise(path: Path) -> CheckpointSummary:
    """Read the header of a checkpoint, or the structure of one of published code.

    A file that cannot be used is no error: its summary says why.
    """
    try:
        stat = path.stat()
    except OSError as error:
        return CheckpointSummary(
            str(path), problem=f"{path.name} cannot be read: {error.strerror or error}"
        )
    changed = datetime.fromtimestamp(stat.st_mtime, UTC).isoformat(timespec="seconds")
    bare = CheckpointSummary(str(path), size=stat.st_size, created=changed)
    try:
        refuse_what_is_no_checkpoint(path)
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:9] == b"{":
            metadata, shapes = read_safetensors_header(path)
            return of_safetensors(bare, metadata, shapes)
        return _of_torch_file(bare, path)
    except CheckpointError as error:
        return dataclasses.replace(bare, problem=str(error))
    except OSError as error:
        sentence = f"{path.name} cannot be read: {error.strerror or error}"
        return dataclasses.replace(bare, problem=sentence)


def of_safetensors(
    bare: CheckpointSummary, metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> CheckpointSummary:
    """Complete a summary that knows place and size with what a safetensors header says.

    Raises
    ------
    CheckpointError
        When it is of no known architecture, or its header is damaged.
    """
    header = header_of(dict(metadata), bare.name)
    if header is not None:
        return _of_header(bare, header)
    import torch

    try:
        weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{bare.name} is damaged: it states a shape that no weights have ({error}); copy or "
            "download it again"
        ) from error
    return _of_weights(bare, weights, {})


def _of_header(bare: CheckpointSummary, header: CheckpointHeader) -> CheckpointSummary:
    from napari_2dmamba.models.registry import architectures

    kind = architectures().get(header.architecture)
    stated: dict[str, Any] = {
        part.name: getattr(header, part.name)
        for part in dataclasses.fields(CheckpointHeader)
        if part.name not in ("canvas", "created")
    }
    try:
        feature_size, outputs = header.feature_size, int(header.config["n_outputs"])
        json.dumps(stated)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the header of {bare.name} is damaged ({type(error).__name__}: {error}); copy or "
            "download the file again"
        ) from error
    unknown = (
        ""
        if kind is not None
        else f"{bare.name} is of the architecture {header.architecture!r}, which is not known "
        "here; update napari-2dmamba, or install the package that brings it"
    )
    return dataclasses.replace(
        bare,
        **stated,
        title=None if kind is None else kind.title,
        stated=True,
        n_outputs=outputs,
        feature_size=feature_size,
        created=header.created or bare.created,
        problem=unknown,
    )


def _of_torch_file(bare: CheckpointSummary, path: Path) -> CheckpointSummary:
    from napari_2dmamba.models import published

    weights, held = published.read(path, data=False)
    return _of_weights(bare, weights, held)


def _of_weights(
    bare: CheckpointSummary, weights: Mapping[str, Any], held: Mapping[str, Any]
) -> CheckpointSummary:
    from napari_2dmamba.models import published
    from napari_2dmamba.models.wrapped import is_no_part

    kind, config, weights = published.recognised(weights, None, bare.name)
    aside = [name for name in weights if is_no_part(name)]
    values = dataclasses.asdict(config)
    options = {key: value for key, value in held.items() if key in values}
    return dataclasses.replace(
        bare,
        architecture=kind.name,
        title=kind.title,
        task=held.get("task"),
        n_outputs=config.n_outputs,
        feature_size=config.feature_size,
        patch_size=held.get("patch_size"),
        config={**values, **options},
        training=dict(held.get("training", {})),
        notes=" ".join(
            filter(None, (held.get("notes", ""), published.not_used(aside) if aside else ""))
        ),
        missing=published.missing_settings(kind, config, held),
    )
