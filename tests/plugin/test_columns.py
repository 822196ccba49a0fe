"""Nothing in a widget is cut off at the width its dock begins with."""

from typing import Any

import pytest
from qtpy.QtWidgets import QScrollArea

from napari_2dmamba.plugin.cohort_widget import CohortWidget
from napari_2dmamba.plugin.compare_widget import CompareWidget
from napari_2dmamba.plugin.inspect_widget import InspectWidget
from napari_2dmamba.plugin.parts.section import Fold, Section
from napari_2dmamba.plugin.run_widget import RunWidget
from tests.plugin.conftest import process_events


@pytest.mark.parametrize("kind", [RunWidget, InspectWidget, CompareWidget, CohortWidget])
def test_all_sections_fit_when_all_are_open(make_napari_viewer: Any, kind: type) -> None:
    viewer = make_napari_viewer(show=True)
    widget = kind(viewer)
    dock = viewer.window.add_dock_widget(widget, area="right")
    for part in (*widget.findChildren(Section), *widget.findChildren(Fold)):
        part.set_open(True)
    process_events()
    columns = [
        area
        for area in widget.findChildren(QScrollArea)
        if area.isVisible() and area.widget() and area.widget().findChildren(Section)
    ]
    assert columns
    for area in columns:
        bar = area.verticalScrollBar().sizeHint().width()
        room = area.viewport().width() + bar * area.verticalScrollBar().isVisible()
        assert area.widget().minimumSizeHint().width() <= room - bar
    viewer.window.remove_dock_widget(dock)
    widget.let_go()
