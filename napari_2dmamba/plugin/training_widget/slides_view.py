"""The table of slides: label, prediction and error, in the order the user wants."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, ClassVar

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QStyle

from napari_2dmamba.plugin.parts.row_table import RowTable
from napari_2dmamba.plugin.parts.row_view import RowView
from napari_2dmamba.plugin.training_widget.rows import SlideRow


class Column(IntEnum):
    """The columns from left to right."""

    SLIDE = 0
    LABEL = 1
    MODEL = 2
    PREDICTION = 3
    ERROR = 4
    PROBLEM = 5


_WIDTHS = {
    Column.SLIDE: 200, Column.LABEL: 110, Column.MODEL: 80, Column.PREDICTION: 150,
    Column.ERROR: 70,
}  # fmt: skip


class SlideTable(RowTable):
    """The slides of a table in its order."""

    titles: ClassVar = {
        Column.SLIDE: "Slide",
        Column.LABEL: "Label",
        Column.MODEL: "Tested by",
        Column.PREDICTION: "Prediction",
        Column.ERROR: "Error",
        Column.PROBLEM: "Remarks",
    }
    help: ClassVar = {
        Column.MODEL: "The model that did not see this slide while it was trained",
        Column.PREDICTION: "The answer of that model, and its probability or risk",
        Column.ERROR: "0 is best: 1 minus the probability of the right class, or the share of "
        "pairs that the risk orders wrongly",
    }
    numbers = (Column.ERROR,)

    def __init__(self) -> None:
        super().__init__()
        self.rows: tuple[SlideRow, ...] = ()

    def set_rows(self, rows: Iterable[SlideRow]) -> None:
        """Show other rows."""
        self.rows = tuple(rows)
        self.start_again()

    def all_rows(self) -> tuple[SlideRow, ...]:
        """Return every slide, in the order of its table."""
        return self.rows

    def text(self, row: SlideRow, column: Column) -> str:
        """Return what a cell says."""
        if column == Column.SLIDE:
            return row.name
        if column == Column.LABEL:
            return row.label
        if column == Column.MODEL:
            return row.model
        if column == Column.PREDICTION:
            return row.prediction
        if column == Column.ERROR:
            return f"{row.error:.3f}" if row.has_error else ""
        return row.problem

    def key(self, row: SlideRow, column: Column) -> Any:
        """Return what a column is sorted by."""
        if column == Column.ERROR:
            return row.error if row.has_error else -1.0
        return super().key(row, column)

    def picture(self, row: SlideRow, column: Column) -> Any:
        """Return the sign of a problem."""
        return problem_icon(stops=row.stops) if column == Column.PROBLEM and row.problem else None


def problem_icon(*, stops: bool) -> Any:
    """Return the sign of what must be mended, or of what is only to be known."""
    style = QApplication.style()
    assert style is not None
    kind = QStyle.StandardPixmap
    return style.standardIcon(kind.SP_MessageBoxCritical if stops else kind.SP_MessageBoxWarning)


class SlidesView(RowView):
    """Shows a `SlideTable`."""

    def __init__(self, table: SlideTable) -> None:
        super().__init__(table, _WIDTHS, "Filter by slide, label, prediction or remark")
        self.view.setToolTip(
            "A double click opens the slide, with its map where a run of it is saved"
        )

    def worst_first(self) -> None:
        """Show the largest errors on top."""
        self.view.sortByColumn(Column.ERROR, Qt.SortOrder.DescendingOrder)
