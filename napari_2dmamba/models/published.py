"""Checkpoints of published code: their weights, and the settings they leave out."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.inert.limits import clipped
from napari_2dmamba.inert.torch_pickle import Record, read_torch_file
from napari_2dmamba.models.architecture import Architecture, ArchitectureConfig
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.models.registry import architecture, architectures
from napari_2dmamba.models.wrapped import unwrapped, weights_in

ASKED_FOR = {
    "canvas": "canvas the model was trained on, as (rows, cols) of cells; from the published "
    "mamba_2d_max_w and mamba_2d_max_h see training_canvas()",
    "patch_size": "side of a training patch in pixels, published as mamba_2d_patch_size",
    "task": "classification or survival",
    "class_names": "one name per class, or per time bin, in the order of the outputs; for a model "
    "of one logit the positive class, or the negative and the positive one",
    "encoder": "encoder whose features the model was trained on, or None when nobody knows",
}
"""What a file may leave out, with its meaning."""

ALSO_TAKEN = {
    "mpp": "µm per pixel of the training patches",
    "training": "summary of the training, for the record",
    "intended_use": "a warning or a purpose, shown with the results",
    "notes": "free text",
    "architecture": "name of the architecture, where the names of the weights leave it open",
}
"""What may be given besides; options of the architecture's configuration may be given too."""


class MissingSettingsError(CheckpointError):
    """A checkpoint leaves settings out; `missing` lists their names."""

    def __init__(self, name: str, missing: tuple[str, ...]) -> None:
        self.missing = missing
        wanted = "; ".join(f"{key} ({ASKED_FOR[key]})" for key in missing)
        super().__init__(f"{name} holds weights but not all settings; please give: {wanted}")


def training_canvas(max_w: int, max_h: int, patch_size: int) -> tuple[int, int]:
    """Return the canvas ``(rows, cols)`` of published code for a largest slide in pixels."""
    return max_h // patch_size + 1, max_w // patch_size + 1


def read(path: Path, *, data: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights in a ``torch.save`` file, and the settings it holds.

    Without ``data`` only shapes and types are read: see `read_torch_file`.

    Raises
    ------
    CheckpointError
        When it is damaged or unsafe, or holds no weights.
    """
    content = read_torch_file(path, data=data)
    held = _settings_of(content) if isinstance(content, Record) else {}
    try:
        tensors, beside = weights_in(content)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is damaged: {clipped(error)}") from error
    if not tensors:
        raise CheckpointError(f"{path.name} holds no weights; choose a checkpoint of a model")
    if beside:
        held["notes"] = not_used(beside)
    return tensors, held


def not_used(names: Sequence[str]) -> str:
    """Say what of a file is left alone."""
    shown = ", ".join(clipped(name, 60).strip("'") for name in names[:8])
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"In the file and not used: {shown}{more}."


def _settings_of(model: Record) -> dict[str, Any]:
    """Read what the arguments pickled with a published 2DMambaMIL say."""
    arguments = model.state.get("args")
    values = arguments.state if isinstance(arguments, Record) else {}
    held: dict[str, Any] = {}
    patch_size = values.get("mamba_2d_patch_size")
    if isinstance(patch_size, int) and patch_size > 0:
        held["patch_size"] = patch_size
        max_w, max_h = values.get("mamba_2d_max_w"), values.get("mamba_2d_max_h")
        if isinstance(max_w, int) and isinstance(max_h, int) and min(max_w, max_h) >= 0:
            held["canvas"] = training_canvas(max_w, max_h, patch_size)
    if isinstance(values.get("survival"), bool):
        held["task"] = "survival" if values["survival"] else "classification"
    if isinstance(values.get("drop_out"), float):
        held["dropout"] = values["drop_out"]
    if values.get("mamba_2d_pad_token") in ("trainable", "zero"):
        held["pad"] = values["mamba_2d_pad_token"]
    if isinstance(values.get("model_type"), str):
        held["scan"] = "2d" if values["model_type"] == "2DMambaMIL" else "1d"
    told = ("task", "input_type", "max_epochs", "lr", "reg", "seed", "opt", "exp_code", "fold")
    held["training"] = {
        key: values[key] for key in told if isinstance(values.get(key), str | int | float)
    }
    return held


def with_settings(
    tensors: dict[str, Tensor], held: Mapping[str, Any], given: Mapping[str, Any], name: str
) -> tuple[CheckpointHeader, dict[str, Tensor]]:
    """Join weights with settings, of which ``given`` override none that the file holds.

    Raises
    ------
    MissingSettingsError
        Listing what is still missing.
    CheckpointError
        For weights of no known architecture, or settings that make no sense.
    """
    given = dict(given)
    kind, config, tensors = recognised(tensors, given.pop("architecture", None), name)
    options = {field.name for field in dataclasses.fields(config)} - {"feature_size", "n_outputs"}
    unknown = given.keys() - ASKED_FOR.keys() - ALSO_TAKEN.keys() - options
    if unknown:
        raise CheckpointError(f"{', '.join(sorted(unknown))} cannot be given for {kind.title}")
    clashes = [k for k in given if k in held and k not in ALSO_TAKEN and given[k] != held[k]]
    if clashes:
        key = clashes[0]
        raise CheckpointError(
            f"{name} states {key} = {held[key]!r}, and {given[key]!r} was given; leave it out"
        )
    settings = {**held, **given}
    config = dataclasses.replace(config, **{k: v for k, v in settings.items() if k in options})
    on_canvas = _on_canvas(kind, config)
    missing = missing_settings(kind, config, settings)
    if missing:
        raise MissingSettingsError(name, missing)
    header = CheckpointHeader(
        architecture=kind.name,
        config=dataclasses.asdict(config),
        task=settings["task"],
        class_names=_names(settings["class_names"]),
        encoder=settings["encoder"],
        patch_size=_positive("patch_size", settings["patch_size"], whole=True),
        mpp=_positive("mpp", settings.get("mpp"), whole=False),
        canvas=_size(settings.get("canvas")) if on_canvas else None,
        training=settings.get("training", {}),
        intended_use=settings.get("intended_use", ""),
        notes=settings.get("notes", ""),
    )
    return header, tensors


def missing_settings(
    kind: type[Architecture], config: ArchitectureConfig, held: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return which of `ASKED_FOR` a model needs besides those ``held``."""
    own_canvas = not _on_canvas(kind, config) or config_uses_own_canvas(config)
    return tuple(
        key for key in ASKED_FOR if key not in held and not (key == "canvas" and own_canvas)
    )


def _on_canvas(kind: type[Architecture], config: ArchitectureConfig) -> bool:
    return kind.uses_grid and getattr(config, "scan", "2d") == "2d"


def recognised(
    tensors: Mapping[str, Tensor], wanted: str | None, name: str
) -> tuple[type[Architecture], ArchitectureConfig, dict[str, Tensor]]:
    """Find architecture and configuration by the names and shapes of the weights.

    Parameters
    ----------
    tensors
        The weights; of those on the ``meta`` device only shapes are known, which is enough.
    wanted
        Name of the architecture, to narrow the search.
    name
        Of the file, for errors.

    Raises
    ------
    CheckpointError
        For weights of no known architecture, or too few of them.
    """
    kinds = architectures() if wanted is None else {wanted: architecture(wanted)}
    reasons: list[str] = []
    for candidate in unwrapped(tensors):
        for kind in kinds.values():
            adapted = kind.adapt(candidate)
            shapes = {key: tuple(value.shape) for key, value in adapted.items()}
            if not kind.recognises(shapes):
                continue
            try:
                return kind, kind.config_of(shapes), adapted
            except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:
                reasons.append(
                    f"{name} looks like {kind.title} but lacks or misshapes some weights "
                    f"({clipped(error)})"
                )
    if reasons:
        raise CheckpointError(reasons[0])
    titles = ", ".join(kind.title for kind in kinds.values())
    raise CheckpointError(
        f"{name} is of no architecture known here ({titles}): its {len(tensors)} weights are "
        f"named {', '.join(clipped(key, 60).strip(chr(39)) for key in sorted(tensors)[:3])}, ..."
    )


def _names(given: Any) -> tuple[str, ...]:
    if isinstance(given, str):  # one name: of the positive class, or of the only bin
        return (given,)
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise CheckpointError(f"class_names is {given!r}, but must be a list of names")
    return tuple(given)


def _positive(name: str, given: Any, whole: bool) -> Any:
    """Return None, or a number above 0."""
    if given is None:
        return None
    fits = isinstance(given, int if whole else int | float) and not isinstance(given, bool)
    if not (fits and 0 < given < 1e9):
        raise CheckpointError(f"{name} is {given!r}, but must be a number above 0")
    return given


def _size(given: Any) -> tuple[int, int] | None:
    match given:
        case None:
            return None
        case (int(rows), int(cols)):
            return rows, cols
    raise CheckpointError(f"canvas is {given!r}, but must be two whole numbers, rows and columns")


def config_uses_own_canvas(config: Any) -> bool:
    """Whether the model was told to use each slide's own canvas, so none need be known."""
    return getattr(config, "canvas_mode", "slide") == "slide"
