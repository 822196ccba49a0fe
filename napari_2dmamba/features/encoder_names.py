"""The names of encoders, in groups, and what each asks of the user. Loads no torch."""

import sys
from enum import Enum
from functools import lru_cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

from napari_2dmamba.features.encoder_catalog import BY_FILE, CATALOG

ENTRY_POINT_GROUP = "napari_2dmamba.encoders"
"""Under which installed packages offer encoders."""

EMBEDDED_ENCODER = "stain-texture-v1"
FILE_SUFFIXES = (".ts", ".onnx", ".yaml", ".yml")


class Access(Enum):
    """What it takes to use an encoder; the value is a heading."""

    AT_ONCE = "Work at once, without a network"
    PUBLIC = "Public: fetched at first use"
    GATED = "Behind a licence: accept it and log in first"
    BY_FILE = "Export to a file first"


def offered_encoders() -> EntryPoints:
    """Return the entry points of the encoders that installed packages offer.

    Forms ask often, and reading the metadata of all packages takes a while each time.
    """
    return _offered_on(tuple(sys.path))


@lru_cache(maxsize=1)
def _offered_on(path: tuple[str, ...]) -> EntryPoints:
    return entry_points(group=ENTRY_POINT_GROUP)


def grouped_encoders() -> dict[Access, tuple[str, ...]]:
    """Return the names to offer, by what they take; the embedded encoder first.

    Those that installed packages offer count as working at once.
    """
    offered = sorted(offered_encoders().names)
    return {
        Access.AT_ONCE: (EMBEDDED_ENCODER, *offered),
        Access.PUBLIC: tuple(name for name, entry in CATALOG.items() if not entry.gated),
        Access.GATED: tuple(name for name, entry in CATALOG.items() if entry.gated),
        Access.BY_FILE: tuple(BY_FILE),
    }


def access_of(name: str) -> Access | None:
    """Return what an encoder takes; None for names that are not in the list."""
    return next((access for access, names in grouped_encoders().items() if name in names), None)


def is_known(name: str) -> bool:
    """Whether an encoder comes with this package, its catalogue or an installed package.

    Only such names are taken from files of others, such as the header of a checkpoint. Anything
    else may name a program or a place, and is for the user to choose.
    """
    return name in known_encoders()


def not_taken(name: str) -> str:
    """Say why an encoder that a checkpoint states is not chosen for the user."""
    if name in BY_FILE:
        return f"the checkpoint wants {BY_FILE[name].how}"
    shown = "".join(c if c.isprintable() else " " for c in name[:120])
    kind = "a file that may be a program" if Path(name).suffix.lower() in FILE_SUFFIXES else (
        "a model of timm or a place to load one from" if name.startswith("timm:") else
        "no encoder known here"
    )  # fmt: skip
    return (
        f"the checkpoint states the encoder {shown!r}, {kind}; it was not chosen for you, because "
        "the file that says so may be from anyone: if you know and trust it, choose it yourself "
        "under Encoder (--encoder)"
    )


def known_encoders() -> list[str]:
    """Return the names `load_encoder` knows, the embedded one first."""
    groups = grouped_encoders()
    return [name for access, names in groups.items() if access is not Access.BY_FILE
            for name in names]  # fmt: skip
