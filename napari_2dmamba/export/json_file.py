"""Dataclasses, arrays and paths written as JSON."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from napari_2dmamba.atomic_files import atomic_write


def write_json(data: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write JSON for people and programs, whole or not at all.

    Raises
    ------
    ExportError
        When the file cannot be written.
    """
    # a name that is no text in Unicode comes back from the escapes of JSON as it was
    text = json.dumps(as_json(data), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as part:
        part.write_bytes((text + "\n").encode("utf-8", "backslashreplace"))
    return Path(path)


def as_json(value: Any) -> Any:
    """Turn dataclasses, arrays, paths and the like into what JSON can hold; NaN becomes null.

    Raises
    ------
    TypeError
        For an object that has no JSON form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: as_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return as_json(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} {value!r} has no place in a JSON record")
