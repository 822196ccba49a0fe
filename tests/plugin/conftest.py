"""A real window: pytest-xvfb starts Xvfb; QT_QPA_PLATFORM=offscreen draws no image layers."""

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["NAPARI_CONFIG"] = ""  # in memory: napari writes a file at every change

import numpy as np
import pytest
import tifffile
from napari.layers import Layer
from napari.settings import get_settings
from napari.utils.notifications import notification_manager
from npe2 import PluginManager, PluginManifest
from qtpy.QtWidgets import QApplication

import napari_2dmamba
from napari_2dmamba.checkpoints.library import FOLDER_VARIABLE
from napari_2dmamba.plugin.parts import checkpoint_model
from napari_2dmamba.plugin.parts.jobs import wait_for_jobs
from napari_2dmamba.plugin.session import Session, SlideState
from napari_2dmamba.slide import Slide, open_slide

# our own files beside napari's settings: never the user's
os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")

MANIFEST = Path(napari_2dmamba.__file__).parent / "napari.yaml"
PINK, WHITE = (205, 120, 180), (255, 255, 255)
SLIDE_SIZE = 2048, 1536  # width, height
TISSUE = 512, 512, 1536, 1280  # left, top, right, bottom in level-0 pixels
MPP = 0.5
LONG = 180_000  # ms to wait at most; other processes may keep the machine busy


@pytest.fixture(autouse=True, scope="session")
def manifest() -> Iterator[PluginManifest]:
    """The plugin as napari knows it, also where the package is not installed."""
    # napari's fixture looks for plugins at every viewer, and all their YAML takes most of a second
    found = list(PluginManifest.discover())
    manager = PluginManager.instance()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManifest, "discover", lambda paths=(): iter(found))
        manager.discover()
        if "napari-2dmamba" not in manager:
            manager.register(PluginManifest.from_file(MANIFEST))
        gc.collect()
        gc.freeze()  # what is imported stays: napari's fixture collects garbage at every viewer
        yield manager.get_manifest("napari-2dmamba")


@pytest.fixture(autouse=True)
def no_job_left() -> Iterator[None]:
    yield
    wait_for_jobs()


@pytest.fixture(autouse=True)
def own_list_of_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The list of checkpoints lies in a folder of the test, and is read anew."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "list"))
    checkpoint_model._shared.clear()
    yield tmp_path / "list"
    wait_for_jobs()
    checkpoint_model._shared.clear()


@pytest.fixture
def notifications() -> Iterator[Callable[[], list[str]]]:
    """What the user was told since the test began."""
    notification_manager.records.clear()
    yield lambda: [str(record.message) for record in notification_manager.records]
    notification_manager.records.clear()


def tissue_pixels() -> np.ndarray:
    """White glass with a pink, finely textured rectangle."""
    width, height = SLIDE_SIZE
    pixels = np.full((height, width, 3), 255, np.uint8)
    left, top, right, bottom = TISSUE
    noise = np.random.default_rng(0).integers(-25, 26, (bottom - top, right - left, 1))
    pixels[top:bottom, left:right] = np.clip(np.array(PINK) + noise, 0, 255)
    return pixels


def write_slide(path: Path, mpp: float | None = MPP, pixels: np.ndarray | None = None) -> Path:
    pixels = tissue_pixels() if pixels is None else pixels
    options: dict[str, Any] = {}
    if mpp is not None:
        options = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    grey = pixels.ndim == 2
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="minisblack" if grey else "rgb",
        compression="zlib", **options,
    )  # fmt: skip
    return path


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "pink.tif")


@pytest.fixture(scope="session")
def no_mpp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "no-mpp.tif", mpp=None)


def add_slide(viewer: Any, slide: Slide) -> list[Layer]:
    """Open a slide in the viewer, as the widgets and the reader do; returns its layers."""
    session = Session.of(viewer)
    return session.pyramid_of(session.add(slide))


def process_events(times: int = 3) -> None:
    for _ in range(times):
        QApplication.processEvents()


def canvas_picture(viewer: Any) -> np.ndarray:
    """What the canvas shows, ``(h, w, 3)``."""
    process_events()
    picture = viewer.screenshot(canvas_only=True, flash=False)
    assert picture.mean() > 5, "the canvas is dead"
    return picture[..., :3]


def on_canvas(viewer: Any, picture: np.ndarray, x: float, y: float) -> tuple[int, int]:
    """Row and column of the picture where the world point ``x, y`` is drawn."""
    camera = viewer.scene.camera
    ratio = picture.shape[0] / viewer.canvas.size[0]
    center_y, center_x = camera.center[-2:]
    row = picture.shape[0] / 2 + (y - center_y) * camera.zoom * ratio
    col = picture.shape[1] / 2 + (x - center_x) * camera.zoom * ratio
    return round(row), round(col)


def colour_at(viewer: Any, picture: np.ndarray, x: float, y: float, radius: int = 3) -> np.ndarray:
    """Mean colour of the picture around the world point ``x, y``."""
    row, col = on_canvas(viewer, picture, x, y)
    patch = picture[row - radius : row + radius + 1, col - radius : col + radius + 1]
    return patch.reshape(-1, 3).mean(axis=0)


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    """A window that is shown, so that it can be clicked."""
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1300, 800)
    return viewer


def light_window(make_napari_viewer: Any, width: int, height: int) -> Any:
    """Return the viewer of a shown window in the light theme, as the pictures of the docs are.

    Set before, it spares the window a second style sheet.
    """
    get_settings().appearance.theme = "light"  # until `make_napari_viewer` resets it
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(width, height)
    return viewer


@pytest.fixture
def slide(viewer: Any, slide_path: Path) -> Iterator[SlideState]:
    """The pink slide, open in that window."""
    with open_slide(slide_path) as opened:
        yield Session.of(viewer).add(opened)


def docked_beside(viewer: Any, widget: Any) -> Any:
    """Dock a widget, with the slide in full view beside it."""
    viewer.window.add_dock_widget(widget, area="right")
    process_events()
    Session.of(viewer).fit()
    process_events()
    return widget
