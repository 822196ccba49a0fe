"""Read and write feature files: our own, and those of other tools (see `file_facts`)."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_2dmamba import __version__
from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import FeatureError, UserError
from napari_2dmamba.features import parquet, stores
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.features.file_facts import OWN_ATTRIBUTE, FileFacts, facts_of
from napari_2dmamba.features.hdf5 import read_hdf5
from napari_2dmamba.file_suffixes import FEATURE_SUFFIXES

_FEATURE_KEYS = ("features", "feats")
_HDF5 = (".h5", ".hdf5")
_PICKLED = (".pt", ".pth")
_SUFFIXES = ".h5, .hdf5, .pt, .parquet, .h5ad or .zarr"
_LARGEST_COORDINATE = 2**40


@dataclass(frozen=True)
class FeatureFile:
    """A features file as it was read, not yet placed on a slide.

    Attributes
    ----------
    path
        The file.
    features
        ``(N, D)`` float32, finite.
    coords
        ``(N, 2)`` finite numbers ``(x, y)``, in the unit and the meaning that `facts` states.
    facts
        What the file says.
    found
        The names and shapes of what it holds, for messages.
    """

    path: Path
    features: NDArray[np.float32]
    coords: NDArray[Any]
    facts: FileFacts
    found: str = ""


def write_features(bag: FeatureBag, path: str | Path) -> Path:
    """Write a bag to ``.h5`` or ``.parquet``, whole or not at all; return the path.

    An HDF5 file is in the CLAM layout (``features``, ``coords``) with the attributes TRIDENT
    gives ``coords``, so both read it; everything else that is known stands as JSON in the
    attribute ``napari_2dmamba`` of the file. A Parquet table is described in `parquet`.

    Raises
    ------
    FeatureError
        When the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in {*_HDF5, parquet.SUFFIX}:
        raise FeatureError(
            f"{path} does not end in .h5 or .parquet, the kinds of features file that are written"
        )
    known = {
        "written_by": f"napari-2dmamba {__version__}",
        "encoder": bag.encoder,
        "patch_size": bag.patch_size,
        "patch_size_level0": bag.patch_size_level0,
        "mpp": bag.mpp,
        "slide_mpp": bag.slide_mpp,
        "slide_id": bag.slide_id,
        "source": bag.source,
    }
    if suffix == parquet.SUFFIX:
        with atomic_write(path, FeatureError) as temporary:
            parquet.write_table(
                temporary, bag.features, bag.coords, {OWN_ATTRIBUTE: json.dumps(known)}
            )
        return path
    # Made in memory: where a disk is full, the HDF5 library takes the process down with it
    whole = io.BytesIO()
    with h5py.File(whole, "w") as file:
        file.create_dataset("features", data=bag.features.astype(np.float32))
        coords = file.create_dataset("coords", data=bag.coords.astype(np.int64))
        file.attrs[OWN_ATTRIBUTE] = json.dumps(known)
        coords.attrs["patch_size_level0"] = bag.patch_size_level0
        coords.attrs["patch_size"] = bag.patch_size or bag.patch_size_level0
        if bag.mpp is not None:
            coords.attrs["target_magnification"] = 10 / bag.mpp
        if bag.slide_mpp is not None:
            coords.attrs["level0_magnification"] = 10 / bag.slide_mpp
    with atomic_write(path, FeatureError) as temporary:
        temporary.write_bytes(whole.getbuffer())
    return path


def read_features(
    path: str | Path,
    *,
    patch_size_level0: int | None = None,
    patch_size: int | None = None,
    mpp: float | None = None,
    slide_mpp: float | None = None,
    encoder: str | None = None,
) -> FeatureBag:
    """Read a features file without its slide; `on_slide.features_on` reads it with one.

    Parameters
    ----------
    path
        See `read_feature_file`.
    patch_size_level0, patch_size, mpp, slide_mpp, encoder
        What the file does not say. Where it says otherwise, it is refused.

    Raises
    ------
    FeatureError
        Naming what was found, what is missing, and what to give.
    """
    from napari_2dmamba.features.file_facts import FeatureFileSettings
    from napari_2dmamba.features.on_slide import placed

    given = FeatureFileSettings(patch_size, mpp, patch_size_level0)
    return placed(read_feature_file(path), given=given, slide_mpp=slide_mpp, encoder=encoder)


def read_feature_file(path: str | Path) -> FeatureFile:
    """Read the features and coordinates of a file of ours, CLAM's, TRIDENT's, STAMP's or others.

    Parameters
    ----------
    path
        HDF5 file with ``features`` (or ``feats``) ``(N, D)`` or ``(1, N, D)`` and ``coords``
        ``(N, 2)``; or a file of `torch.save` that holds a dictionary of such tensors or arrays,
        read without executing anything, or a Slideflow bag (see `pt`); or a Parquet table as in
        `parquet`; or AnnData, SpatialData or LazySlide's store as in `stores`.

    Raises
    ------
    FeatureError
        Naming what was found, or what is wrong.
    """
    path = require_features(path)
    arrays, facts = _arrays(path)
    key = _features_key(path, arrays)
    if "coords" not in arrays:
        raise FeatureError(
            f"{path} holds no 'coords' (N, 2), so nobody can say where its patches lie: found "
            f"{_found(arrays)}; take the file that its maker wrote with coordinates"
        )
    features = _as_features(path, key, arrays[key])
    coords = _as_coords(path, arrays["coords"], len(features))
    return FeatureFile(path, features, coords, facts, _found(arrays))


def require_features(path: str | Path, *, or_folder: bool = False) -> Path:
    """Return the path of a features file that is there and has a name that is known.

    Parameters
    ----------
    or_folder
        Whether a folder of such files is as good.

    Raises
    ------
    FeatureError
        Otherwise; also where a folder is meant that is not there.
    """
    path = Path(path).expanduser()
    if stores.is_store(path) or (or_folder and path.is_dir()):
        return path
    if not path.is_file():
        raise FeatureError(f"{path} is not there, or is no file; check the path of the features")
    if path.suffix.lower() not in FEATURE_SUFFIXES:
        raise FeatureError(f"{path} is no features file: its name must end in {_SUFFIXES}")
    return path


def are_features(path: Path) -> bool:
    """Tell whether there is a file or a store to read features from."""
    return path.is_file() or stores.is_store(path)


def holds_features(path: Path) -> bool:
    """Tell features from what has the same suffix: image networks (``.pt``), slides (``.zarr``)."""
    if stores.is_store(path) and (path / "tables").is_dir():
        return True
    try:
        describe_features(path)
    except UserError:
        return False
    return True


class FeatureFolder:
    """A folder of features files, listed once.

    Parameters
    ----------
    folder
        Need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[tuple[str, str], list[Path]] = {}
        if not folder.is_dir():
            return
        try:
            for path in folder.iterdir():
                self._files.setdefault((path.stem, path.suffix.lower()), []).append(path)
        except OSError as error:
            raise FeatureError(f"{folder} cannot be read ({error.strerror}); check it") from error

    def find(self, *stems: str) -> Path | None:
        """Return the features called by the first of several names that has any.

        Suffixes may be in small letters or capitals, and are taken in the order of
        `FEATURE_SUFFIXES`.

        Raises
        ------
        FeatureError
            When two differ by capitals only.
        """
        for stem in stems:
            for suffix in FEATURE_SUFFIXES:
                found = self._files.get((stem, suffix), [])
                if len(found) > 1:
                    named = " and ".join(sorted(path.name for path in found))
                    raise FeatureError(
                        f"{self.folder} holds both {named}; leave the right one there"
                    )
                if found and are_features(found[0]):
                    return found[0]
        return None


def features_named_like(slide: Path, folder: Path) -> Path:
    """Return the file of a folder that holds the features of a slide, by its name.

    For ``x.svs`` that is ``x.h5`` or with another suffix; for ``x.ome.tif`` also ``x.h5`` beside
    ``x.ome.h5``.

    Raises
    ------
    FeatureError
        When there is none, or two differ by capitals only.
    """
    stems = dict.fromkeys((slide.stem, slide.name, slide.stem.removesuffix(".ome")))
    found = FeatureFolder(folder).find(*stems)
    if found is None:
        raise FeatureError(
            f"{folder} holds no features of {slide.name} ({slide.stem}.h5, .pt or .parquet); put "
            "them there, or leave the folder out to compute them"
        )
    return found


def describe_features(path: str | Path) -> dict[str, Any]:
    """Return ``feature_size, encoder, patch_size, mpp`` of a features file, without its features.

    What the file does not say is None. Of a ``.pt`` the features are read nevertheless.

    Raises
    ------
    FeatureError
        As `read_feature_file`, but not for what only placing patches needs.
    """
    return described(path)[0]


def described(path: str | Path) -> tuple[dict[str, Any], FileFacts]:
    """Return what `describe_features` does, and all that the file says of itself."""
    path = require_features(path)
    arrays, facts = _arrays(path, data=False)
    key = _features_key(path, arrays)
    if not arrays[key].shape:
        raise FeatureError(f"{path} holds no 'features' (N, D): found {_found(arrays)}")
    mpp = facts.mpp
    if mpp is None and facts.magnification is not None:
        mpp = 10 / facts.magnification
    told = {
        "feature_size": int(arrays[key].shape[-1]),
        "encoder": facts.encoder,
        "patch_size": facts.patch_size,
        "mpp": mpp,
    }
    return told, facts


def _arrays(path: Path, *, data: bool = True) -> tuple[dict[str, NDArray[Any]], FileFacts]:
    suffix = path.suffix.lower()
    if stores.is_store(path):
        return stores.read_store(path, data=data)
    if suffix == stores.H5AD:
        return stores.read_h5ad(path, data=data)
    if suffix in _PICKLED:
        from napari_2dmamba.features.pt import read_pt

        arrays, attributes = read_pt(path)
        return arrays, facts_of(path, attributes)
    if suffix == parquet.SUFFIX:
        arrays, metadata = parquet.read_table(path, _FEATURE_KEYS)
        return arrays, facts_of(path, metadata)
    arrays, attributes, of_coords = read_hdf5(path, (*_FEATURE_KEYS, "coords"), data=data)
    return arrays, facts_of(path, attributes, of_coords)


def _features_key(path: Path, arrays: dict[str, NDArray[Any]]) -> str:
    key = next((k for k in _FEATURE_KEYS if k in arrays), None)
    if key is None:
        raise FeatureError(f"{path} holds no 'features' (N, D): found {_found(arrays)}")
    return key


def _found(arrays: dict[str, NDArray[Any]]) -> str:
    named = [f"{key[:40]} {array.shape}" for key, array in list(arrays.items())[:12]]
    return ", ".join(named) or "nothing"


def _as_features(path: Path, key: str, array: NDArray[Any]) -> NDArray[np.float32]:
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:  # bfloat16 as raw bytes
        array = (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise FeatureError(
            f"{path} holds {key!r} of shape {array.shape} and type {array.dtype}; numbers of "
            "shape (N, D) are expected"
        )
    if 0 in array.shape:
        raise FeatureError(f"{path} holds {key!r} of shape {array.shape}: there is no patch in it")
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(array, np.float32)
    broken = ~np.isfinite(features).all(1)
    if broken.any():
        first = int(np.argmax(broken))
        why = "not finite numbers"
        if np.isfinite(array[first]).all():
            why = "too large for float32, in which models compute"
        raise FeatureError(
            f"{path}: the features of {int(broken.sum())} of {len(features)} patches are {why}, "
            f"the first of patch {first}; make them again"
        )
    return features


def _as_coords(path: Path, array: NDArray[Any], count: int) -> NDArray[Any]:
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.dtype.kind not in "fiu" or array.shape != (count, 2):
        raise FeatureError(
            f"{path} holds 'coords' of shape {array.shape} and type {array.dtype}; numbers of "
            f"shape ({count}, 2), one (x, y) per feature row, are expected"
        )
    if not (np.abs(array.astype(np.float64)) <= _LARGEST_COORDINATE).all():  # NaN included
        raise FeatureError(f"{path}: some coordinates are no numbers, or lie on no slide")
    return np.ascontiguousarray(array)
