"""Inspect right after a fresh run, of other models than the demo, in a real window."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qtpy.QtCore import Qt

from napari_2dmamba.explain.provenance import Provenance
from napari_2dmamba.models import Aggregator, CheckpointHeader, save_checkpoint
from napari_2dmamba.models.checkpoint import build_model
from napari_2dmamba.plugin.inspect_widget import InspectWidget
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.slide import open_slide
from tests.plugin.conftest import LONG, SLIDE_SIZE, TISSUE, add_slide, process_events
from tests.plugin.inspect_widget import click, settle, viewer, widgets
from tests.plugin.run_widget import runs
from tests.tiny import write_slide

__all__ = ["runs", "viewer", "widgets"]  # fixtures

pytestmark = pytest.mark.usefixtures("runs")

SIDE = 128  # of a patch in level-0 pixels
BINS = ("0-1 y", "1-3 y", "3+ y")


def checkpoint(folder: Path, architecture: str, task: str, **config: Any) -> Path:
    """Write a model with random weights that has something to say."""
    names = BINS if task == "survival" else ("benign", "malignant")
    header = CheckpointHeader(
        architecture, {"feature_size": 102, "n_outputs": len(names), **config}, task, names,
        encoder="stain-texture-v1", patch_size=SIDE, mpp=0.5,
    )  # fmt: skip
    torch.manual_seed(1)
    model = build_model(header)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    path = folder / f"{architecture}-{task}.safetensors"
    save_checkpoint(Aggregator(model, header), path)
    return path


def run_and_inspect(
    widgets: tuple[RunWidget, InspectWidget], checkpoint: Path, qtbot: Any
) -> InspectWidget:
    run_widget, inspect = widgets
    run_widget.model_section.add_checkpoint(checkpoint)
    run_widget.start_run()
    qtbot.waitUntil(lambda: not run_widget.is_running, timeout=LONG)
    assert run_widget.shown is not None, run_widget.footer.message.text()
    assert run_widget.shown.bag is not None  # fresh: nothing is read back from a file
    inspect.mode.click()
    settle(inspect, qtbot)
    return inspect


def heatmap(viewer: Any, name: str) -> HeatmapLayer:
    layer = viewer.layers[name]
    assert isinstance(layer, HeatmapLayer)
    return layer


def test_a_survival_model_with_another_slide_open(
    widgets: tuple[RunWidget, InspectWidget], viewer: Any, qtbot: Any, slide_path: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    path = checkpoint(tmp_path, "2dmamba", "survival", d_model=16, n_layers=2, canvas_mode="slide")
    with open_slide(write_slide(tmp_path / "other.tif")) as other, open_slide(slide_path) as slide:
        add_slide(viewer, other)
        add_slide(viewer, slide)
        inspect = run_and_inspect(widgets, path, qtbot)
        inspected = inspect.live.inspected
        assert inspected is not None
        assert inspect.live.shown.slide is slide  # type: ignore[union-attr]
        assert inspect.message.text() == ""

        # a click in the middle of the tissue; the map lies on the tissue of this slide
        x, y = 900.0, 800.0  # level-0 pixels
        click(viewer, qtbot, x / 2, y / 2)
        settle(inspect, qtbot)
        (patch,) = inspect.inspected_patches
        assert (inspected.subject.bag.coords[patch] == [896, 768]).all()
        layer = heatmap(viewer, "Provenance (state)")
        assert layer.visible
        (low, high), scale = layer.extent.world, layer.scale
        left, top = np.array(low)[::-1] / 0.5 + 0.5 - SIDE / 2  # napari tells centres
        right, bottom = np.array(high)[::-1] / 0.5 + 0.5 + SIDE / 2
        assert scale.tolist() == [64, 64]
        np.testing.assert_allclose((left, top, right, bottom), TISSUE, atol=1)
        assert right <= SLIDE_SIZE[0]

        # layer and channels: what the explanation itself says
        how, scan = inspect.how, Provenance(inspected.subject)
        assert how.layer.count() == 2
        how.layer.setCurrentIndex(1)
        how.channels.setCurrentIndex(how.channels.findData("one"))
        how.channel.setValue(5)
        settle(inspect, qtbot)
        found = heatmap(viewer, "Provenance (state)").grid_map
        expected = scan.on(patch, layer=0, channels=5)
        np.testing.assert_allclose(found.values, expected.values, rtol=1e-5, atol=1e-9)
        assert found.signed
        how.channels.setCurrentIndex(0)
        settle(inspect, qtbot)

        # without the inspected patch: old and new curve
        what_if = inspect.what_if_section
        what_if.set_open(True)
        what_if.apply.click()
        settle(inspect, qtbot)
        now = inspected.counterfactuals.current()
        assert now.before.survival is not None
        assert now.after.survival is not None
        (axes,) = what_if.chart.figure.axes
        drawn = [line.get_ydata() for line in axes.get_lines()]
        for curve, outcome in zip(drawn, (now.before, now.after), strict=True):
            np.testing.assert_allclose(curve, [1, *outcome.survival])
        assert not np.allclose(drawn[0], drawn[1], atol=1e-6)
        assert not what_if.chart.isHidden()
        assert f"1 of {len(inspected.subject)} patches gone" in what_if.words.text()
        assert heatmap(viewer, "Change of attention").visible
        what_if.apply.click()  # gone already
        settle(inspect, qtbot)
        assert inspect.message.kind == "error"
        assert len(inspected.counterfactuals) == 1
        what_if.reset.click()
        settle(inspect, qtbot)
        assert "With all patches" in what_if.words.text()
        assert "Change of attention" not in viewer.layers

        canvas = viewer.window._qt_viewer.canvas.native
        qtbot.keyClick(canvas, Qt.Key.Key_Escape)
        assert not inspect.mode.isChecked()
        assert "Inspected patch" not in viewer.layers
        assert "Provenance (state)" in viewer.layers


def test_abmil_sees_the_patch_itself_and_says_what_it_has_not(
    widgets: tuple[RunWidget, InspectWidget], viewer: Any, qtbot: Any, slide_path: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    path = checkpoint(tmp_path, "abmil", "classification", hidden=16, attention_hidden=8)
    with open_slide(slide_path) as slide:
        add_slide(viewer, slide)
        inspect = run_and_inspect(widgets, path, qtbot)
        assert inspect.message.text() == ""
        assert "Provenance (state)" not in viewer.layers
        assert inspect.map_list.ticked_names == ["erf"]
        assert inspect.map_list.current == "erf"
        greyed = inspect.map_list._items["provenance"]
        assert not greyed.flags() & Qt.ItemFlag.ItemIsEnabled
        assert "this model is ABMIL" in greyed.toolTip()
        assert not inspect.how.rows.isRowVisible(inspect.how.layer)

        field = heatmap(viewer, "Receptive field (jacobian)")
        assert field.visible
        assert int((field.grid_map.values > 0).sum()) == 1
        assert inspect.live.held == {50: 1, 90: 1, 99: 1}
        table = inspect.patch_section.extent.text()
        assert "100%" in table  # its own
        process_events()

        inspect.map_list.tick("gradient-x-input")
        settle(inspect, qtbot)
        assert heatmap(viewer, "Gradient x input").visible
        assert "Lines: 50, 90, 99 %" not in viewer.layers  # it is no map of a patch
        inspect.map_list.choose("erf")
        assert "Lines: 50, 90, 99 %" in viewer.layers
        inspect.lines.setChecked(False)
        assert "Lines: 50, 90, 99 %" not in viewer.layers
