"""The widget of docs/extend.md in a real window."""

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QTableWidget

from napari_2dmamba.plugin.run_widget import RunWidget
from tests.plugin.conftest import add_slide
from tests.plugin.run_widget import (
    checkpoint,
    finish,
    runs,
    slide,
    viewer,
    widget,
)
from tests.test_extend import python_of

__all__ = ["checkpoint", "runs", "slide", "viewer", "widget"]  # fixtures


def test_the_patches_that_count_most_are_listed(
    widget: RunWidget, viewer: Any, qtbot: Any, slide: Any, runs: Path
) -> None:
    form = python_of("A widget of one's own")["top_patches_table"]()
    viewer.window.add_dock_widget(form, name="Top patches")
    answers: list[list[list[float]]] = []
    form.called.connect(answers.append)
    assert form() == []
    assert "No run" in viewer.status
    add_slide(viewer, slide)
    widget.start_run()
    finish(widget, qtbot)
    state = widget.session.current
    assert state is not None
    assert state.run is not None
    form.number.value = 3
    qtbot.mouseClick(form.call_button.native, Qt.MouseButton.LeftButton)
    rows = answers[-1]
    scores = state.run.prediction.attention
    np.testing.assert_allclose([row[2] for row in rows], np.sort(scores)[::-1][:3], rtol=1e-6)
    assert state.patch == tuple(rows[0][:2])
    best = np.flatnonzero((state.run.grid.coords == rows[0][:2]).all(1))
    np.testing.assert_allclose(scores[best], rows[0][2], rtol=1e-6)
    shown = form.native.findChild(QTableWidget)
    assert shown.rowCount() == 3
    assert [float(shown.item(0, column).text()) for column in (0, 1)] == rows[0][:2]
