"""Features as a Parquet table, which pandas, Polars, DuckDB and R read.

One row per patch: ``x`` and ``y``, its corner in level-0 pixels, and ``features``, a list of
float32 that is as long in every row. What else is known stands as JSON in the table's metadata.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import FeatureError

SUFFIX = ".parquet"


def write_table(
    path: Path, features: NDArray[np.float32], coords: NDArray[np.int64], said: dict[str, str]
) -> None:
    """Write ``(N, D)`` features and ``(N, 2)`` coordinates; ``said`` becomes the metadata."""
    import pyarrow as pa
    import pyarrow.parquet

    rows = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    columns = {"x": pa.array(coords[:, 0]), "y": pa.array(coords[:, 1]), "features": rows}
    pyarrow.parquet.write_table(pa.table(columns).replace_schema_metadata(said), path)


def read_table(
    path: Path, feature_keys: tuple[str, ...]
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays of a table, ``coords`` put together from ``x`` and ``y``, and metadata.

    Parameters
    ----------
    feature_keys
        Names of columns of lists that are read; of all others only the shape is told.

    Raises
    ------
    FeatureError
        When it is no Parquet file, or a feature is missing in some row.
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise FeatureError(
            f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}); it may be cut "
            "short: copy or make it again"
        ) from error
    arrays: dict[str, NDArray[Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in feature_keys and _is_list(column.type):
            arrays[name] = _rows(path, name, column.combine_chunks())
        else:
            arrays[name] = np.empty(len(column), "V0")
    if {"x", "y"} <= set(table.column_names):
        del arrays["x"], arrays["y"]
        x, y = (np.asarray(table.column(name)) for name in ("x", "y"))
        arrays["coords"] = np.stack([x, y], axis=1)
    metadata = table.schema.metadata or {}
    return arrays, {k.decode(): v.decode(errors="replace") for k, v in metadata.items()}


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _rows(path: Path, name: str, column: Any) -> NDArray[Any]:
    values = column.flatten()
    lengths = column.value_lengths().unique()
    if column.null_count or values.null_count or len(lengths) > 1:
        raise FeatureError(
            f"{path}: the lists in the column {name!r} are not all of one length, or some numbers "
            "are missing; write one list of the same length for every patch"
        )
    return np.asarray(values).reshape(len(column), -1)
