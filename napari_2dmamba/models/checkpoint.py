"""Save and load checkpoints: the project's own, and those of published code."""

import dataclasses
import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.inert.limits import clipped
from napari_2dmamba.models import published
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.models.architecture import Architecture
from napari_2dmamba.models.header import (
    METADATA_KEY,
    CheckpointHeader,
    header_of,
    read_safetensors_header,
    refuse_what_is_no_checkpoint,
)
from napari_2dmamba.models.registry import architecture
from napari_2dmamba.models.wrapped import is_no_part


def build_model(header: CheckpointHeader) -> Architecture:
    """Return the network a header describes, freshly initialised.

    Raises
    ------
    CheckpointError
        For an unknown architecture or a configuration it does not take.
    """
    kind = architecture(header.architecture)
    try:
        return kind(kind.config_class(**header.config))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"{kind.title} cannot be built from the configuration in the header: {clipped(error)}"
        ) from error


def save_checkpoint(aggregator: Aggregator, path: str | os.PathLike[str]) -> None:
    """Write a model as safetensors with its header, whole or not at all.

    Raises
    ------
    ExportError
        When the file cannot be written.
    """
    path = Path(path)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    header = dataclasses.replace(
        aggregator.header,
        architecture=aggregator.model.name,
        config=dataclasses.asdict(aggregator.config),
        created=aggregator.header.created or now,
    )
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in aggregator.model.state_dict().items()
    }
    # As bytes first: the library's own writer hides the reason when a disk is full
    whole = save(tensors, metadata={METADATA_KEY: header.to_json()})
    with atomic_write(path) as temporary:
        temporary.write_bytes(whole)


def checkpoint_header(path: str | os.PathLike[str], **given: Any) -> CheckpointHeader:
    """Return what a checkpoint says of itself; one without a header is loaded for it.

    Parameters and errors are those of `load_checkpoint`. The weights of this project's own
    files stay unread.
    """
    path = Path(path)
    refuse_what_is_no_checkpoint(path)
    with path.open("rb") as file:
        has_json = file.read(9)[8:9] == b"{"
    own = header_of(read_safetensors_header(path)[0], path.name) if has_json else None
    return load_checkpoint(path, **given).header if own is None else own


def load_checkpoint(path: str | os.PathLike[str], **given: Any) -> Aggregator:
    """Load a checkpoint of this project, or one of published code.

    Parameters
    ----------
    path
        A safetensors file of this project; a ``state_dict`` (``.pt``, or bare safetensors);
        or a pickled whole model of the published 2DMambaMIL, which is read as data: nothing
        in it is executed.
    **given
        What the file does not hold, by name: see `published.ASKED_FOR`.

    Raises
    ------
    MissingSettingsError
        A `CheckpointError` whose ``missing`` lists exactly the names still to be given.
    CheckpointError
        When the file is damaged, unsafe, or of no known architecture.
    """
    path = Path(path)
    refuse_what_is_no_checkpoint(path)
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:9] == b"{":
        metadata, _ = read_safetensors_header(path)
        header = header_of(metadata, path.name)
        tensors = _safetensors(path)
        if header is not None:
            if given:
                raise CheckpointError(
                    f"{path.name} states its own settings, so {', '.join(sorted(given))} cannot "
                    "be given as well"
                )
            return _assemble(header, tensors, path)
        return _assemble(*published.with_settings(tensors, {}, given, path.name), path, given)
    tensors, held = published.read(path)
    return _assemble(*published.with_settings(tensors, held, given, path.name), path, given)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path.name} is damaged ({clipped(error)}); copy or download it again"
        ) from error


def _assemble(
    header: CheckpointHeader,
    tensors: Mapping[str, Tensor],
    path: Path,
    told: Mapping[str, Any] | None = None,
) -> Aggregator:
    with torch.device("meta"):  # no memory and no random numbers before the shapes are right
        model = build_model(header)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    aside = [key for key in tensors if key not in expected and is_no_part(key)]
    if aside:
        notes = f"{header.notes} {published.not_used(aside)}".strip()
        header = dataclasses.replace(header, notes=notes)
        tensors = {key: value for key, value in tensors.items() if key not in aside}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if expected != found:
        raise CheckpointError(
            f"the weights in {path.name} do not fit {model.title}: {_difference(expected, found)}"
        )
    whole = [key for key, value in tensors.items() if not value.is_floating_point()]
    if whole:
        raise CheckpointError(
            f"{path.name} holds {whole[0]!r} in {tensors[whole[0]].dtype}, and floating-point "
            "weights are expected; save the model before it is quantised"
        )
    tensors = {key: value.float() for key, value in tensors.items()}
    broken = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CheckpointError(
            f"{path.name} holds weights that are not finite numbers (first {broken[0]!r}); the "
            "training that made it failed"
        )
    model.load_state_dict(tensors, assign=True)
    return Aggregator(model, header, path, told)


def _difference(expected: Mapping[str, tuple], found: Mapping[str, tuple]) -> str:
    absent = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    differing = [key for key in expected if key in found and expected[key] != found[key]]
    parts = []
    if absent:
        parts.append(f"{len(absent)} are absent (first {clipped(absent[0])})")
    if extra:
        parts.append(f"{len(extra)} are not part of it (first {clipped(extra[0])})")
    if differing:
        key = differing[0]
        parts.append(f"{key!r} has shape {found[key]} instead of {expected[key]}")
    return ", ".join(parts)
