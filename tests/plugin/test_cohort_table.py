"""The cohort's table against a list that is sorted and filtered afresh each time."""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from qtpy.QtCore import QPersistentModelIndex, Qt

from napari_2dmamba.cohort import SlideStatus
from napari_2dmamba.plugin.cohort_widget.slide_rows import SlideRows
from napari_2dmamba.plugin.cohort_widget.table_model import CohortTable, Column
from napari_2dmamba.plugin.parts.row_table import ROW_ROLE
from tests.calls import python_calls

SORTED_BY = st.sampled_from([-1, Column.SLIDE, Column.PATCHES])
ORDERS = {False: Qt.SortOrder.AscendingOrder, True: Qt.SortOrder.DescendingOrder}
NUMBERS = st.integers(0, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("row"), st.integers(0, 12), NUMBERS, st.sampled_from(["done", "failed"])),
        st.tuples(st.just("sort"), SORTED_BY, st.booleans()),
        st.tuples(st.just("filter"), st.sampled_from(["", "1", "failed"])),
        st.tuples(st.just("states"), st.sampled_from([(), ("done",), ("failed", "waiting")])),
        st.tuples(st.just("reset"), NUMBERS),
    ),
    max_size=25,
)


def slide(number: int, patches: int = 0, state: str = "waiting") -> SlideStatus:
    return SlideStatus(f"/s/{number}.svs", state, result={"patches": patches})


def shown(model: CohortTable) -> list[SlideStatus]:
    return [model.index(row, 0).data(ROW_ROLE) for row in range(model.rowCount())]


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_what_is_shown_is_sorted_and_filtered(steps: list[Any]) -> None:
    table = SlideRows()
    model = CohortTable(table)
    rows: dict[str, SlideStatus] = {}
    column, falling, text = -1, False, ""
    wanted: tuple[str, ...] = ()
    for step, *given_ in steps:
        before = shown(model)
        chosen = QPersistentModelIndex(model.index(0, 1)) if before else None
        if step == "row":
            row = slide(*given_)
            rows[row.slide] = row
            table.update([row])
        elif step == "sort":
            column, falling = given_
            model.sort(column, ORDERS[falling])
        elif step == "filter":
            (text,) = given_
            model.set_filter(text)
        elif step == "states":
            (wanted,) = given_
            model.set_states(wanted)
        else:
            rows = {row.slide: row for row in map(slide, range(given_[0]))}
            table.set_rows(rows.values())
        expected = [
            row
            for row in rows.values()
            if text in f"{row.name} {row.state}" and (not wanted or row.state in wanted)
        ]
        if column == Column.SLIDE:
            expected.sort(key=lambda row: row.name, reverse=falling)
        elif column == Column.PATCHES:
            expected.sort(key=lambda row: row.result["patches"], reverse=falling)
        assert shown(model) == expected
        assert table.rows == tuple(rows.values())
        assert table.count("failed") == sum(row.state == "failed" for row in rows.values())
        if chosen is not None and step != "reset":
            # a chosen slide stays chosen wherever it goes
            place = chosen.row()
            still = [row.slide for row in expected]
            assert (still[place] if place >= 0 else None) == (
                before[0].slide if before[0].slide in still else None
            )


def test_ten_thousand_slides_cost_no_more_to_update_and_ten_times_to_sort() -> None:
    def work(count: int) -> tuple[int, int, int]:
        table = SlideRows()
        model = CohortTable(table)
        rows = [slide(number) for number in range(count)]
        table.set_rows(rows)
        news = [replace(row, state="done", result={"patches": 7}) for row in rows[::-1][:20]]
        sorting = python_calls(lambda: model.sort(Column.PATCHES, ORDERS[True]))
        model.set_states(("done", "waiting"))
        filtering = python_calls(lambda: model.set_filter("svs"))
        return python_calls(lambda: table.update(news)), sorting, filtering

    few, many = work(1000), work(10_000)
    assert many[0] == few[0] < 1000
    assert many[1] <= 10 * few[1] < 10 * 5000
    assert many[2] <= 10 * few[2] < 10 * 20_000
