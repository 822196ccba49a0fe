"""Which architectures there are: the project's own, and those other packages bring.

A package adds one by subclassing `Architecture` and naming the class in its metadata::

    [project.entry-points."napari_2dmamba.aggregators"]
    mine = "my_package.my_module:MyArchitecture"
"""

import functools
import importlib.metadata
import warnings

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.models import ENTRY_POINTS
from napari_2dmamba.models.abmil import ABMIL
from napari_2dmamba.models.architecture import Architecture
from napari_2dmamba.models.clam import CLAM
from napari_2dmamba.models.dsmil import DSMIL
from napari_2dmamba.models.dtfd import DTFD
from napari_2dmamba.models.mamba2d import Mamba2DMIL
from napari_2dmamba.models.mambamil import MambaMIL
from napari_2dmamba.models.s4mil import S4MIL
from napari_2dmamba.models.transmil import TransMIL

_OWN: tuple[type[Architecture], ...] = (
    Mamba2DMIL,
    MambaMIL,
    S4MIL,
    TransMIL,
    DTFD,
    DSMIL,
    CLAM,
    ABMIL,
)


@functools.cache
def architectures() -> dict[str, type[Architecture]]:
    """Return all architectures by name.

    A package whose architecture cannot be used is left out with a warning that names it.
    """
    known = {kind.name: kind for kind in _OWN}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            kind = entry.load()
        except Exception as error:  # noqa: BLE001 - a foreign package must not stop the others
            warnings.warn(f"the aggregator {entry.value} cannot be loaded: {error}", stacklevel=2)
            continue
        if not (isinstance(kind, type) and issubclass(kind, Architecture)):
            warnings.warn(
                f"the aggregator {entry.value} is left out: it is not a subclass of Architecture",
                stacklevel=2,
            )
        elif kind.name in known:
            warnings.warn(
                f"the aggregator {entry.value} is left out: {kind.name!r} is taken", stacklevel=2
            )
        else:
            known[kind.name] = kind
    return known


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
