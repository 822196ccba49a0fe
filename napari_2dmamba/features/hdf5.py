"""HDF5 feature files, read only after what their headers promise has been checked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import psutil
from numpy.typing import NDArray

from napari_2dmamba.errors import FeatureError

_MOST_NAMES = 1000
_MOST_ATTRIBUTES = 200
_LARGEST_ATTRIBUTE = 2**20
_LARGEST_CHUNK = 2**30
_SMALL = 2**26
_BEST_COMPRESSION = 1100
"""What deflate makes of zeros; more than that is no measurement."""

T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]
Attributes = dict[str, Any]


def read_hdf5(
    path: Path, wanted: tuple[str, ...], *, data: bool = True
) -> tuple[Arrays, Attributes, Attributes]:
    """Return the arrays of a file, all its attributes, and those of ``coords`` alone.

    Parameters
    ----------
    wanted
        Names of datasets that are read; of all others only the shape is told.
    data
        False tells the shape of all of them.

    Raises
    ------
    FeatureError
        When it is no HDF5 file, is cut short, or promises more than it can hold.
    """
    return read_safely(path, lambda file: _read(path, file, wanted if data else ()))


def read_safely(path: Path, read: Callable[[h5py.File], T]) -> T:
    """Return what ``read`` makes of an open HDF5 file; whatever goes wrong is one sentence.

    Raises
    ------
    FeatureError
        When it is no HDF5 file, or damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            return read(file)
    except FeatureError:
        raise
    # Each layer of HDF5 has errors of its own; none of them is one of ours
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise FeatureError(
            f"{path} cannot be read as HDF5 ({reason}); it may be cut short: copy or make it again"
        ) from error


def _read(
    path: Path, file: h5py.File, wanted: tuple[str, ...]
) -> tuple[Arrays, Attributes, Attributes]:
    if len(file) > _MOST_NAMES:
        raise FeatureError(
            f"{path} holds {len(file)} names; a features file of one slide has a few: give that"
        )
    datasets: dict[str, h5py.Dataset] = {}
    for name in file:
        if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
            raise FeatureError(
                f"{path}: {name!r} lies in another file, which is not followed; give that file"
            )
        found = file.get(name)
        if isinstance(found, h5py.Dataset):
            datasets[name] = found
        elif isinstance(found, h5py.Group) and name == "features":
            raise FeatureError(
                f"{path} holds features of several encoders ({', '.join(list(found)[:10])}) "
                "as a group; write the one you want into a file of its own, as 'features'"
            )
    arrays: Arrays = {}
    attributes = _attributes_of(path, file)
    of_coords: Attributes = {}
    for name, dataset in datasets.items():
        if name in wanted:
            check_size(path, name, dataset.shape, dataset.dtype, dataset)
            arrays[name] = np.asarray(dataset)
        else:  # a stand-in of no size, for its shape
            arrays[name] = np.broadcast_to(np.empty((), "V1"), dataset.shape or ())
        own = _attributes_of(path, dataset)
        if name == "coords":
            of_coords = own
        attributes |= {key: value for key, value in own.items() if key != "name"}
    return arrays, attributes, of_coords


def _attributes_of(path: Path, thing: h5py.File | h5py.Dataset) -> Attributes:
    if len(thing.attrs) > _MOST_ATTRIBUTES:
        raise FeatureError(f"{path} holds {len(thing.attrs)} attributes, which no tool writes")
    found: Attributes = {}
    for name in thing.attrs:
        if thing.attrs.get_id(name).get_storage_size() > _LARGEST_ATTRIBUTE:
            raise FeatureError(f"{path}: its attribute {name[:40]!r} is larger than a megabyte")
        try:
            found[name] = thing.attrs[name]
        except (OSError, TypeError, ValueError, UnicodeDecodeError):
            continue  # of a type that Python has not: it says nothing that is asked for
    return found


def check_size(
    path: Path,
    name: str,
    shape: tuple[int, ...] | None,
    kind: np.dtype[Any],
    dataset: h5py.Dataset | None,
) -> None:
    """Refuse what the file cannot hold, or this machine cannot, before it is read.

    Parameters
    ----------
    dataset
        Where an array of that shape and type lies; None for one that does not lie in HDF5.

    Raises
    ------
    FeatureError
        Saying which.
    """
    size = 0 if shape is None else int(np.prod(shape, dtype=np.float64)) * kind.itemsize
    if dataset is not None:
        _check_stored(path, name, size, dataset)
    free = psutil.virtual_memory().available
    if 2 * size > free:
        raise FeatureError(
            f"{path}: {name!r} takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are "
            "free; close other programs, or use larger patches"
        )


def _check_stored(path: Path, name: str, size: int, dataset: h5py.Dataset) -> None:
    if dataset.external or dataset.is_virtual:
        raise FeatureError(
            f"{path}: the numbers of {name!r} lie in other files, which are not followed; "
            "write them into one file"
        )
    stored = dataset.id.get_storage_size()
    if size > _SMALL and size > _BEST_COMPRESSION * (stored + 1):
        raise FeatureError(
            f"{path} is damaged: {name!r} claims {size / 1e9:.1f} GB and {stored} bytes of it are "
            "there; copy or make it again"
        )
    if dataset.chunks is not None:
        chunk = int(np.prod(dataset.chunks, dtype=np.float64)) * dataset.dtype.itemsize
        if chunk > max(_LARGEST_CHUNK, 2 * size):
            raise FeatureError(
                f"{path} is damaged: {name!r} is stored in pieces of {chunk / 1e9:.1f} GB; make "
                "it again with smaller ones"
            )
