"""The Run widget in a real window with a tiny model, and how tests wait for it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from napari_2dmamba.features import load_encoder
from napari_2dmamba.models import CheckpointHeader, save_checkpoint
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.models.checkpoint import build_model
from napari_2dmamba.models.registry import architecture
from napari_2dmamba.plugin.layers.heatmap_layer import HeatmapLayer
from napari_2dmamba.plugin.run_widget import RunWidget
from napari_2dmamba.slide import Slide, open_slide
from tests.plugin.conftest import LONG, light_window, process_events

WARNING = "Made for a test, not for any medical use."


def make_checkpoint(folder: Path, seed: int = 1, **changes: Any) -> Path:
    import torch

    torch.manual_seed(seed)
    kind = architecture("2dmamba")
    feature_size = load_encoder(device="cpu").feature_size
    outputs = len(changes.get("class_names", ("normal", "tumour")))
    config = kind.config_class(  # type: ignore[call-arg]
        feature_size=feature_size, n_outputs=outputs, d_model=8, d_state=4
    )
    values: dict[str, Any] = {
        "task": "classification", "class_names": ("normal", "tumour"),
        "encoder": "stain-texture-v1", "patch_size": 256, "mpp": 0.5, "canvas": (10, 12),
        "intended_use": WARNING,
    }  # fmt: skip
    header = CheckpointHeader(
        architecture="2dmamba", config=dataclasses.asdict(config), **(values | changes)
    )
    path = folder / f"{header.task}.safetensors"
    save_checkpoint(Aggregator(build_model(header), header), path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs are kept: a preference of the user."""
    from napari.settings import get_plugin_settings

    folder = tmp_path / "runs"
    monkeypatch.setattr(get_plugin_settings("napari-2dmamba").analysis, "runs_folder", str(folder))
    return folder


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    return light_window(make_napari_viewer, 1300, 900)


@pytest.fixture
def widget(viewer: Any, runs: Path, checkpoint: Path) -> Iterator[RunWidget]:
    widget = RunWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Run 2DMamba", area="right")
    widget.model_section.add_checkpoint(checkpoint)
    yield widget
    widget.let_go()


@pytest.fixture
def slide(slide_path: Path) -> Iterator[Slide]:
    with open_slide(slide_path) as slide:
        yield slide


def finish(widget: RunWidget, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: not widget.is_running, timeout=LONG)
    process_events()


def map_layer(viewer: Any) -> HeatmapLayer:
    (layer,) = [layer for layer in viewer.layers if isinstance(layer, HeatmapLayer)]
    return layer
