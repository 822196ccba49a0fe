"""Read and write feature files: our own, and those of CLAM and TRIDENT."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_2dmamba import __version__
from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features import parquet
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.whole_files import written_whole

_OWN = "napari_2dmamba"
_FEATURE_KEYS = ("features", "feats")
_PICKLED = {".pt", ".pth"}
_SUFFIXES = ".h5, .hdf5, .pt or .parquet"


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
    if path.suffix not in {".h5", ".hdf5", parquet.SUFFIX}:
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
    if path.suffix == parquet.SUFFIX:
        with written_whole(path, FeatureError) as temporary:
            parquet.write_table(temporary, bag.features, bag.coords, {_OWN: json.dumps(known)})
        return path
    with written_whole(path, FeatureError) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("features", data=bag.features.astype(np.float32))
        coords = file.create_dataset("coords", data=bag.coords.astype(np.int64))
        file.attrs[_OWN] = json.dumps(known)
        coords.attrs["patch_size_level0"] = bag.patch_size_level0
        coords.attrs["patch_size"] = bag.patch_size or bag.patch_size_level0
        if bag.mpp is not None:
            coords.attrs["target_magnification"] = 10 / bag.mpp
        if bag.slide_mpp is not None:
            coords.attrs["level0_magnification"] = 10 / bag.slide_mpp
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
    """Read a features file of ours, CLAM's or TRIDENT's (``.h5``), a safe ``.pt`` or Parquet.

    Parameters
    ----------
    path
        HDF5 file with ``features`` (or ``feats``) ``(N, D)`` or ``(1, N, D)`` and ``coords``
        ``(N, 2)``, level-0 ``(x, y)``; or a file of `torch.save` that holds a dictionary of
        such tensors, read without executing anything; or a Parquet table as in `parquet`.
    patch_size_level0, patch_size, mpp, slide_mpp, encoder
        What the file does not say. Where it says otherwise, it is refused.

    Raises
    ------
    FeatureError
        Naming what was found, what is missing, and what to give.
    """
    path = Path(path)
    if not path.is_file():
        raise FeatureError(f"{path} is not there, or is no file")
    if path.suffix in _PICKLED:
        arrays, said = _read_pt(path)
    elif path.suffix in {".h5", ".hdf5"}:
        arrays, said = _read_h5(path)
    elif path.suffix == parquet.SUFFIX:
        arrays, attributes = parquet.read_table(path, _FEATURE_KEYS)
        said = _what_attributes_say(path, attributes)
    else:
        raise FeatureError(f"{path} is no features file: its name must end in {_SUFFIXES}")
    found = ", ".join(f"{key} {array.shape}" for key, array in arrays.items()) or "nothing"
    key = next((k for k in _FEATURE_KEYS if k in arrays), None)
    if key is None:
        raise FeatureError(f"{path} holds no 'features' (N, D): found {found}")
    if "coords" not in arrays:
        raise FeatureError(
            f"{path} holds no 'coords' (N, 2), so nobody can say where its patches lie: found "
            f"{found}; take the file that its maker wrote with coordinates"
        )
    features = _as_features(path, key, arrays[key])
    given = {
        "patch_size_level0": patch_size_level0,
        "patch_size": patch_size,
        "mpp": mpp,
        "slide_mpp": slide_mpp,
        "encoder": encoder,
    }
    for name, value in given.items():
        if value is None:
            continue
        if said.get(name) is not None and not _agree(said[name], value):
            raise FeatureError(
                f"{path} says {name} {said[name]}, but {value} was given; leave it out, or take "
                "the file that belongs to it"
            )
        said[name] = value
    coords = _as_coords(path, arrays["coords"], len(features), _um_to_pixels(path, said))
    if said.get("patch_size_level0") is None:
        raise FeatureError(
            f"{path} does not say how wide its patches are: found {found} without a patch size; "
            f"give patch_size_level0, in level-0 pixels{_spacing_hint(coords)}"
        )
    return FeatureBag(
        features,
        coords,
        patch_size_level0=int(said["patch_size_level0"]),
        patch_size=None if said.get("patch_size") is None else int(said["patch_size"]),
        mpp=said.get("mpp"),
        slide_mpp=said.get("slide_mpp"),
        encoder=said.get("encoder"),
        slide_id=said.get("slide_id"),
        source=said.get("source", {}),
        path=path,
    )


def describe_features(path: str | Path) -> dict[str, Any]:
    """Return ``feature_size, encoder, patch_size, mpp`` of a features file, without its features.

    What the file does not say is None. Of a ``.pt`` the features are read nevertheless.

    Raises
    ------
    FeatureError
        As `read_features`, but not for what only placing patches needs.
    """
    path = Path(path)
    if not path.is_file():
        raise FeatureError(f"{path} is not there, or is no file")
    if path.suffix not in {*_PICKLED, ".h5", ".hdf5"}:
        raise FeatureError(f"{path} is no features file: its name must end in {_SUFFIXES}")
    arrays, said = _read_pt(path) if path.suffix in _PICKLED else _read_h5(path, data=False)
    key = next((k for k in _FEATURE_KEYS if k in arrays), None)
    if key is None or not arrays[key].shape:
        found = ", ".join(f"{key} {array.shape}" for key, array in arrays.items()) or "nothing"
        raise FeatureError(f"{path} holds no 'features' (N, D): found {found}")
    wanted = {name: said.get(name) for name in ("encoder", "patch_size", "mpp")}
    return {"feature_size": int(arrays[key].shape[-1]), **wanted}


def _read_h5(path: Path, *, data: bool = True) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    try:
        with h5py.File(path, "r") as file:
            datasets = {k: v for k, v in file.items() if isinstance(v, h5py.Dataset)}
            groups = {k: v for k, v in file.items() if isinstance(v, h5py.Group)}
            if "features" in groups:
                raise FeatureError(
                    f"{path} holds features of several encoders ({', '.join(groups['features'])}) "
                    "as a group; write the one you want into a file of its own, as 'features'"
                )
            wanted = {
                k: np.asarray(v)
                for k, v in datasets.items()
                if data and k in {*_FEATURE_KEYS, "coords"}
            }
            # Only their shapes are asked for, so they are not read
            others = {k: np.empty(v.shape, "V0") for k, v in datasets.items() if k not in wanted}
            attributes: dict[str, Any] = dict(file.attrs)
            for dataset in datasets.values():
                attributes |= {k: v for k, v in dataset.attrs.items() if k != "name"}
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FeatureError(
            f"{path} cannot be read as HDF5 ({reason}); it may be cut short: copy or make it again"
        ) from error
    return {**wanted, **others}, _what_attributes_say(path, attributes)


def _what_attributes_say(path: Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Translate our, TRIDENT's and CLAM's attributes into ours."""
    if _OWN in attributes:
        try:
            return dict(json.loads(attributes[_OWN]))
        except (ValueError, TypeError) as error:
            raise FeatureError(f"{path} has a damaged attribute {_OWN!r}") from error
    said: dict[str, Any] = {}
    if attributes.get("unit") in ("um", b"um"):
        size, size_um = (_number(attributes.get(f"tile_size_{unit}")) for unit in ("px", "um"))
        said |= {"patch_size_um": size_um, "source": {"layout": "STAMP"}}
        if size and size_um:
            said |= {"patch_size": round(size), "mpp": size_um / size}
        extractor = attributes.get("extractor")
        return said | ({"encoder": str(extractor)} if extractor is not None else {})
    size = _number(attributes.get("patch_size"))
    level0 = _number(attributes.get("patch_size_level0"))
    magnification = _number(attributes.get("target_magnification"))
    slide_magnification = _number(attributes.get("level0_magnification"))
    downsample = _number(attributes.get("downsample"))
    if level0 is not None:
        said |= {"patch_size_level0": round(level0), "source": {"layout": "TRIDENT"}}
    elif size is not None and downsample is not None:
        said |= {"patch_size_level0": round(size * downsample), "source": {"layout": "CLAM"}}
    if size is not None:
        said["patch_size"] = round(size)
    # Magnification is a convention (40x is about 0.25 µm per pixel), good to a few percent
    if magnification:
        said["mpp"] = 10 / magnification
    if slide_magnification:
        said["slide_mpp"] = 10 / slide_magnification
    name = attributes.get("encoder", attributes.get("encoder_name"))
    if isinstance(name, bytes):
        name = name.decode(errors="replace")
    if isinstance(name, str):
        said["encoder"] = name
    return said


def _number(value: Any) -> float | None:
    """Return the first number of an attribute, or None."""
    try:
        number = float(np.asarray(value).ravel()[0])
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def _read_pt(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FeatureError(
            f"{path} cannot be read safely: it is damaged, or holds more than tensors ({reason})"
        ) from error
    if isinstance(content, torch.Tensor):
        content = {"features": content}
    if not isinstance(content, dict):
        raise FeatureError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    arrays = {
        str(k): (v.float() if v.is_floating_point() else v).numpy()
        for k, v in content.items()
        if isinstance(v, torch.Tensor)
    }
    plain = {str(k): v for k, v in content.items() if isinstance(v, str | int | float)}
    return arrays, _what_attributes_say(path, plain)


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
    features = np.ascontiguousarray(array, np.float32)
    bad = int((~np.isfinite(features)).any(1).sum())
    if bad:
        raise FeatureError(
            f"{path}: the features of {bad} of {len(features)} patches are not finite numbers; "
            "make them again"
        )
    return features


def _um_to_pixels(path: Path, said: dict[str, Any]) -> float | None:
    """Return level-0 pixels per unit of coordinates in µm, or None where they are pixels."""
    size_um = said.pop("patch_size_um", None)
    if size_um is None:
        return None
    if said.get("slide_mpp") is None:
        raise FeatureError(
            f"{path} gives its coordinates in µm (as STAMP does); give slide_mpp, the slide's µm "
            "per level-0 pixel, to place them"
        )
    said.setdefault("patch_size_level0", round(size_um / said["slide_mpp"]))
    return 1 / float(said["slide_mpp"])


def _as_coords(
    path: Path, array: NDArray[Any], count: int, scale: float | None
) -> NDArray[np.int64]:
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.dtype.kind not in "fiu" or array.shape != (count, 2):
        raise FeatureError(
            f"{path} holds 'coords' of shape {array.shape} and type {array.dtype}; numbers of "
            f"shape ({count}, 2), one (x, y) per feature row, are expected"
        )
    if scale is not None:
        array = np.round(array * scale)
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.round(array))).all():
        raise FeatureError(
            f"{path}: its coordinates are not whole numbers, so they are not level-0 pixels; "
            "convert them first"
        )
    coords = np.ascontiguousarray(array).astype(np.int64)
    if coords.min(initial=0) < 0:
        raise FeatureError(f"{path}: some coordinates are negative: {coords.min()}")
    return coords


def _spacing_hint(coords: NDArray[np.int64]) -> str:
    steps = np.concatenate([np.diff(np.unique(coords[:, axis])) for axis in (0, 1)])
    if not len(steps):
        return ""
    return f" (neighbouring patches lie {int(steps.min())} apart)"


def _agree(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return abs(a - b) <= 0.02 * max(abs(a), abs(b))
    return bool(a == b)
