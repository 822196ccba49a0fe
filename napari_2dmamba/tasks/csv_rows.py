"""The rows of a CSV file, whatever parts its cells."""

import csv
import io
from pathlib import Path

from napari_2dmamba.errors import TaskError


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the header and the rows of a CSV file, whatever parts its cells.

    Raises
    ------
    TaskError
        Naming the line that cannot be read.
    """
    if path.suffix.lower() in {".xlsx", ".xls"}:
        raise TaskError(f"{path.name} is a spreadsheet; save it as CSV and give that")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TaskError(
            f"{path} cannot be read ({error.strerror or error}); check the name"
        ) from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is no CSV text in UTF-8; save it as such") from error
    lines = text.lstrip().splitlines()
    if lines and lines[0].lower().startswith("sep="):
        lines = lines[1:]
    if not lines:
        raise TaskError(f"{path} is empty; its first line must name the columns")
    separator = max(",;\t", key=lines[0].count)
    reader = csv.reader(io.StringIO("\n".join(lines), newline=""), delimiter=separator)
    header: list[str] = []
    rows: list[dict[str, str]] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [name.strip() or f"unnamed {number}" for number, name in enumerate(cells)]
                continue
            if len(cells) > len(header) and not any(c.strip() for c in cells[len(header) :]):
                cells = cells[: len(header)]
            if len(cells) != len(header):
                raise TaskError(
                    f"{path.name}, line {reader.line_num}: {len(cells)} cells, but the first "
                    f"line names {len(header)} columns; mend that line"
                )
            rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise TaskError(f"{path.name}, line {reader.line_num}: {error}") from error
    if not rows:
        raise TaskError(f"{path.name} names columns but has no row; add one row per slide")
    return header, rows
