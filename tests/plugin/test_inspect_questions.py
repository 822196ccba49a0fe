"""What is asked of an inspected run: what if, which patches decide, how far to trust it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from napari.layers import Shapes

from napari_2dmamba.explain.counterfactual import Counterfactual, Counterfactuals
from napari_2dmamba.explain.faithfulness import stability_under_turns
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.outcome import Outcome
from napari_2dmamba.explain.receptive_field import average_field, field_size
from napari_2dmamba.plugin.inspect_widget import InspectWidget
from napari_2dmamba.plugin.inspect_widget.what_if_section import INSPECTED, WhatIfSection
from napari_2dmamba.sample import sample_slide
from napari_2dmamba.slide import open_slide
from tests.plugin.conftest import add_slide
from tests.plugin.inspect_widget import (
    click,
    folder,
    heatmaps,
    inspect,
    sample_run,
    settle,
    viewer,
    widgets,
    world,
)

__all__ = ["folder", "inspect", "sample_run", "viewer", "widgets"]  # fixtures

pytestmark = pytest.mark.timeout(900)  # the first test extracts the features of the sample


def test_answers_of_a_survival_model(qtbot: Any) -> None:
    def outcome(hazards: list[float]) -> Outcome:
        survival = np.cumprod(1 - np.array(hazards))
        return Outcome(
            "survival", ("early", "late"), np.zeros(2), np.ones(3) / 3,
            hazards=np.array(hazards), survival=survival, risk=-float(survival.sum()),
        )  # fmt: skip

    nothing = GridMap(np.zeros((1, 3), np.float32), "change of attention", "", 256)
    present = np.array([True, True, False])
    found = Counterfactual(outcome([0.5, 0.5]), outcome([0.2, 0.5]), present, np.ones(3), nothing)
    section = WhatIfSection()
    qtbot.addWidget(section)
    section.show_change(found, 1)
    # 0.5 + 0.25 survived bins before, 0.8 + 0.4 after
    assert "risk is <b>-1.200</b> instead of -0.750 (-0.450)" in section.words.text()
    assert "1 of 3 patches gone" in section.words.text()
    (axes,) = section.chart.figure.axes
    drawn = [line.get_ydata() for line in axes.get_lines()]
    np.testing.assert_allclose(drawn, [[1, 0.5, 0.25], [1, 0.8, 0.4]])
    assert section.undo.isEnabled()


def test_what_if(inspect: InspectWidget, viewer: Any, qtbot: Any) -> None:
    truth = tifffile.imread(sample_slide().with_name("synthetic-he-truth.tif"))
    slide = inspect.live.shown.slide  # type: ignore[union-attr]
    step = slide.dimensions[0] / truth.shape[1]
    rows, cols = np.nonzero(truth)
    area = shapely.MultiPoint(np.column_stack([cols, rows]) * step).convex_hull.buffer(150)
    section = inspect.what_if_section
    section.draw.click()
    layer = viewer.layers["What if"]
    assert isinstance(layer, Shapes)
    assert layer.mode == "add_polygon"
    before = inspect.inspected_patches
    click(viewer, qtbot, *world(inspect, 0))  # draws, and inspects nothing
    assert inspect.inspected_patches == before
    layer.mode = "pan_zoom"
    layer.data = [np.asarray(area.exterior.coords)[:-1, ::-1] - 0.5]
    section.apply.click()
    settle(inspect, qtbot)
    assert "instead of 1.000" in section.words.text()
    edits = inspect.live.inspected.counterfactuals  # type: ignore[union-attr]
    found = edits.current()
    tumour = found.before.class_names.index("tumour (synthetic)")
    assert found.before.probabilities[tumour] > 0.9 > 0.5 > found.after.probabilities[tumour]
    assert "The prediction becomes" in section.words.text()
    change = heatmaps(viewer)["Change of attention"]
    assert change.visible
    assert change.grid_map.signed
    bag = inspect.live.inspected.subject.bag  # type: ignore[union-attr]
    centres = bag.coords + 128
    gone = shapely.contains_xy(area, centres[:, 0], centres[:, 1])
    assert (found.present == ~gone).all()

    section.undo.click()
    settle(inspect, qtbot)
    assert "Change of attention" not in heatmaps(viewer)
    assert not section.undo.isEnabled()
    assert edits.current().after.probabilities == pytest.approx(found.before.probabilities)

    # nothing to do is one sentence, not a traceback
    layer.data = []
    section.apply.click()
    settle(inspect, qtbot)
    assert "no patch" in inspect.message.text().lower()

    section.where.setCurrentText(INSPECTED)
    section.action.setCurrentIndex(section.action.findData("similar"))
    section.apply.click()
    settle(inspect, qtbot)
    assert "With all patches" in section.words.text()  # replaced, not removed


def test_what_if_says_which_canvas_it_means(inspect: InspectWidget, qtbot: Any) -> None:
    inspected, section = inspect.live.inspected, inspect.what_if_section
    assert inspected is not None
    rows = inspected.subject.cells_of_patches[:, 0]
    inspect._inspect(np.flatnonzero(rows == rows.min()).tolist())  # a whole outer row
    settle(inspect, qtbot)
    section.set_open(True)
    assert not section.canvas.isVisibleTo(section)
    section.apply.click()
    assert not inspect.trust_section.stability.isEnabled()  # one thing at a time
    assert not section.apply.isEnabled()
    settle(inspect, qtbot)
    assert inspect.trust_section.stability.isEnabled()
    assert "The canvas was kept" in section.about_canvas.text()
    edits = inspected.counterfactuals
    kept = edits.current().after.logits
    section.canvas.setCurrentIndex(1)
    section.canvas.activated.emit(1)  # as a click does
    settle(inspect, qtbot)
    assert "The canvas is that of the patches left" in section.about_canvas.text()
    assert not np.array_equal(edits.current().after.logits, kept)
    section.reset.click()
    settle(inspect, qtbot)
    assert not section.canvas.isVisibleTo(section)


def test_average_field_and_two_layers_of_stability(
    inspect: InspectWidget, viewer: Any, qtbot: Any
) -> None:
    subject = inspect.live.inspected.subject  # type: ignore[union-attr]
    inspect.map_list.tick("erf-average")
    settle(inspect, qtbot)
    (patch,) = inspect.inspected_patches
    found = heatmaps(viewer)["Average receptive field"].grid_map
    average = average_field(subject, count=16)
    scores = subject.scores_of_map(found)
    assert scores[patch] == pytest.approx(average[tuple(np.array(average.shape) // 2)], rel=1e-4)
    size = field_size(average, tuple(np.array(average.shape) // 2), 128.0)
    assert f"<b>{size.radii[99]:,.0f}</b>" in inspect.patch_section.extent.text()

    trust = inspect.trust_section
    trust.stability.click()
    settle(inspect, qtbot)
    assert "Flips and rotations" in trust.steadiness.text()
    spread = heatmaps(viewer)["Spread of attention (turns)"].grid_map
    expected = stability_under_turns(subject).spread
    np.testing.assert_allclose(spread.values, expected.values, rtol=1e-5, atol=1e-9)
    assert "Spread of attention (dropout)" in heatmaps(viewer)


def test_few_patches_that_decide_and_cancel(
    inspect: InspectWidget, viewer: Any, qtbot: Any
) -> None:
    section, footer = inspect.what_if_section, inspect.footer
    seen: list[str] = []
    section.search.click()
    assert not footer.cancel.isHidden()
    footer.cancel.click()
    settle(inspect, qtbot)
    assert "nothing was changed" in footer.message.text()
    assert "Decisive patches" not in heatmaps(viewer)

    inspect._jobs.start(lambda progress, stop: None, seen.append, "")  # what comes next may run
    settle(inspect, qtbot)
    section.search.click()
    settle(inspect, qtbot)
    marked = heatmaps(viewer)["Decisive patches"]
    subject = inspect.live.inspected.subject  # type: ignore[union-attr]
    chosen = np.flatnonzero(subject.scores_of_map(marked.grid_map) == 1)
    assert f"Removing {len(chosen)} patch" in section.words.text()
    edits = Counterfactuals(subject)
    assert edits.apply(chosen, "remove").flipped


def test_trust_while_another_slide_is_open(
    inspect: InspectWidget, viewer: Any, qtbot: Any, slide_path: Path
) -> None:
    with open_slide(slide_path) as other:
        session = inspect.session
        (sample,) = session.slides
        add_slide(viewer, other)  # it is looked at now, and nothing of the sample is
        assert not inspect.mode.isChecked()
        assert not any(layer.visible for layer in session.layers_of(sample))
        session.show(sample)
        inspect.mode.click()
        settle(inspect, qtbot)
        trust = inspect.trust_section
        # a handful of steps and patches would do, but the sample is what users try first
        trust.maps.setCurrentText("Attention")
        trust.check.click()
        settle(inspect, qtbot)
        assert "finds patches the model's answer depends on" in trust.verdict.text()
        table = trust.agreement.text()
        for text in ("Provenance (state)", "deletion", "insertion", "random", "ranks", "top 45"):
            assert text in table
        assert not trust.chart.isHidden()
        trust.stability.click()
        settle(inspect, qtbot)
        assert "Flips and rotations" in trust.steadiness.text()
