"""Feature files of `torch.save`, read as data: nothing in them is executed."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_2dmamba.errors import FeatureError

INDEX_SUFFIX = ".index.npz"
_BAGS_CONFIG = "bags_config.json"
_LARGEST_CONFIG = 2**20


def read_pt(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the tensors and arrays of a file, and what plain values stand beside them.

    A file that is one tensor is a Slideflow bag; its coordinates lie beside it, in
    ``<name>.index.npz``, and its patch size in ``bags_config.json``.

    Raises
    ------
    FeatureError
        When it is damaged, or holds more than numbers.
    """
    import torch

    _check_size(path)
    try:
        with torch.serialization.safe_globals(_numpy_arrays()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    # The reader of pickles has no errors of its own: it fails with whatever happens to it
    except Exception as error:
        raise FeatureError(
            f"{path} cannot be read safely: it is damaged, or holds more than tensors and arrays; "
            "save a dictionary of 'features' and 'coords' with torch.save"
        ) from error
    if isinstance(content, torch.Tensor | np.ndarray):
        content = {"features": content}
    if not isinstance(content, dict):
        raise FeatureError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    arrays = {str(key): _as_array(path, key, value) for key, value in content.items()
              if isinstance(value, torch.Tensor | np.ndarray)}  # fmt: skip
    plain: dict[str, Any] = {
        str(key): value
        for key, value in content.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
    if "coords" not in arrays and path.with_suffix(INDEX_SUFFIX).is_file():
        arrays["coords"] = _slideflow_index(path.with_suffix(INDEX_SUFFIX))
        plain |= _slideflow_config(path.parent / _BAGS_CONFIG)
        plain["slideflow"] = 1
    return arrays, plain


def _numpy_arrays() -> list[Any]:
    """Return what a pickled array of numbers is made with, under the names of numpy 1 and 2."""
    from numpy._core import multiarray

    rebuild = multiarray._reconstruct
    scalar = multiarray.scalar
    types = [type(np.dtype(code)) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8",
                                               "u1", "u2", "u4", "u8", "?")]  # fmt: skip
    named = [
        (made, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name, made in (("_reconstruct", rebuild), ("scalar", scalar))
    ]
    return [*named, np.ndarray, np.dtype, *types]


def _as_array(path: Path, key: Any, value: Any) -> NDArray[Any]:
    import torch

    if isinstance(value, np.ndarray):
        return value
    try:
        value = value.detach().cpu()
        if value.layout != torch.strided or value.is_quantized:
            value = value.to_dense() if not value.is_quantized else value.dequantize()
        return np.asarray((value.float() if value.is_floating_point() else value).numpy())
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise FeatureError(
            f"{path}: {key!r} is a tensor that cannot be read ({type(error).__name__}); save it "
            "as a plain one"
        ) from error


def _check_size(path: Path) -> None:
    """Refuse an archive that unpacks to more than memory holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(one.file_size for one in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        size = path.stat().st_size  # the format before torch 1.6, or damaged
    free = psutil.virtual_memory().available
    if 2 * size > free:
        raise FeatureError(
            f"{path} holds {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free; it may "
            "be damaged: make it again, with larger patches"
        )


def _slideflow_index(path: Path) -> NDArray[Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(one.file_size for one in archive.infolist())
        if size > psutil.virtual_memory().available // 2:
            raise FeatureError(f"{path} claims {size / 1e9:.1f} GB of coordinates; make it again")
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays["arr_0"])
    except FeatureError:
        raise
    except Exception as error:  # as many kinds as a damaged archive has
        raise FeatureError(
            f"{path} cannot be read as Slideflow's coordinates ({type(error).__name__}); copy or "
            "make it again"
        ) from error


def _slideflow_config(path: Path) -> dict[str, Any]:
    """Return what Slideflow says of all bags in a folder; a folder without it says nothing."""
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            return {}
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    said = {name: told[name] for name in ("tile_px", "tile_um") if name in told}
    extractor = told.get("extractor")
    if isinstance(extractor, dict):
        extractor = extractor.get("class")
    return said | ({"extractor": extractor} if isinstance(extractor, str) else {})
