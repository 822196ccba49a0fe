"""Tables of per-patch scores: CSV for people, Parquet for programs."""

import os
from pathlib import Path

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.errors import ExportError
from napari_2dmamba.export.patches import PatchScores


def write_table(scores: PatchScores, path: str | os.PathLike[str]) -> Path:
    """Write one row per patch; the suffix ``.csv`` or ``.parquet`` chooses the format.

    Columns are those of `PatchScores.columns`. A missing score is an empty field in CSV and a
    null in Parquet.

    Raises
    ------
    ExportError
        For another suffix, or when the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    path = Path(path)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ExportError(f"{path.name} is no table this program writes; use .csv or .parquet")
    columns = {
        name: pa.array(values, from_pandas=True) for name, values in scores.columns().items()
    }
    columns["rank"] = columns["rank"].cast(pa.int64())
    table = pa.table(columns)
    with atomic_write(path) as part:
        if path.suffix.lower() == ".csv":
            pyarrow.csv.write_csv(table, part)
        else:
            pyarrow.parquet.write_table(table, part)
    return path
