"""Which architectures there are."""

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.models.architecture import Architecture
from napari_2dmamba.models.mamba2d import Mamba2DMIL

_OWN: tuple[type[Architecture], ...] = (Mamba2DMIL,)


def architectures() -> dict[str, type[Architecture]]:
    """Return all architectures by name."""
    return {kind.name: kind for kind in _OWN}


def architecture(name: str) -> type[Architecture]:
    """Return one architecture.

    Raises
    ------
    CheckpointError
        Naming what there is.
    """
    known = architectures()
    if name not in known:
        raise CheckpointError(
            f"the architecture {name!r} is not known here (known: {', '.join(known)}); update "
            "napari-2dmamba, or install the package that brings it"
        )
    return known[name]
