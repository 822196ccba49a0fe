"""Make the pictures of docs/images from the running application.

Usage, where there is no screen:

    xvfb-run -a -s "-screen 0 1920x1200x24" python docs/screenshots.py

Without arguments the sample slide and the demo checkpoint are shown.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_folder = tempfile.TemporaryDirectory()
os.environ["NAPARI_CONFIG"] = str(Path(_folder.name) / "settings.yaml")
os.environ.pop("QT_QPA_PLATFORM", None)  # "offscreen" draws no slide

from napari.settings import get_plugin_settings, get_settings  # noqa: E402
from qtpy.QtWidgets import QApplication, QDockWidget, QWidget  # noqa: E402

from napari_2dmamba.plugin.app import Application, make_viewer  # noqa: E402
from napari_2dmamba.plugin.jobs import wait_for_jobs  # noqa: E402
from napari_2dmamba.plugin.section import Fold  # noqa: E402
from napari_2dmamba.sample import demo_checkpoint, sample_slide  # noqa: E402

SIZE = 1600, 1000
POINTED = 2450.0, 1900.0  # y and x of the cursor in µm, in the tumour of the sample
PATIENCE = 600.0  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    application = make_viewer([options.slide or sample_slide()])
    get_settings().application.save_window_geometry = False
    get_plugin_settings("napari-2dmamba").analysis.runs_folder = str(Path(_folder.name) / "runs")
    viewer, widget = application.viewer, application.run_widget
    widget.model_section.add_checkpoint(options.checkpoint or demo_checkpoint())
    viewer.window.resize(*SIZE)
    settle(application)
    viewer.fit_to_view()

    def shoot(name: str) -> None:
        settle(application)
        path = options.out / f"{name}.png"
        viewer.screenshot(str(path), canvas_only=False, flash=False)
        print(path)

    def crop(name: str, part: QWidget) -> None:
        settle(application)
        path = options.out / f"{name}.png"
        part.grab().save(str(path))
        print(path)

    sections = widget.slide_section
    wait_until(lambda: "patches" in sections.count.text())
    shoot("slide")

    sections.show_tissue.setChecked(True)
    sections.show_patches.setChecked(True)
    shoot("tissue-and-patches")
    for fold in sections.findChildren(Fold):
        fold.set_open(True)
    crop("section-slide", sections)
    crop("section-model", widget.model_section)
    crop("slide-overview", application.overview)

    widget.start_run()
    wait_until(lambda: not widget.is_running)
    assert widget.shown is not None, widget.footer.message.text()
    shoot("run")
    for fold in widget.result_section.findChildren(Fold):
        fold.set_open(True)
    crop("section-result", widget.result_section)
    for fold in widget.result_section.findChildren(Fold):
        fold.set_open(False)

    widget.result_section.gallery.buttons[0].click()
    shoot("patch")

    widget.result_section.set_open(False)
    widget.features_section.set_open(True)
    crop("section-features", widget.features_section)
    widget.export_section.set_open(True)
    crop("section-export", widget.export_section)

    inspect = application.inspect_widget
    raise_dock(inspect)
    inspect.mode.click()
    settle(application)
    wait_until(lambda: not inspect.is_busy)
    viewer.fit_to_view()
    viewer.scene.camera.zoom *= 1.6
    viewer.scene.camera.center = viewer.layers["Inspected patch"].data[0].mean(axis=0) * 0.5
    shoot("inspect")
    inspect.let_go()

    compare = application.compare_widget
    raise_dock(compare)
    crop("section-compare-models", compare.models_section)
    compare.start()
    wait_until(lambda: not compare.is_running)
    window = compare.window_
    assert window is not None, compare.footer.message.text()
    window.panel_list.second.setCurrentIndex(window.panel_list.second.count() - 1)
    wait_until(lambda: window.grid.is_loaded)
    window.grid.pointed.emit(*POINTED)
    wait_until(lambda: window.grid.is_loaded)
    crop("compare", window)
    crop("section-compare-agreement", compare.agreement)
    compare.let_go()
    widget.let_go()
    wait_for_jobs()
    viewer.close()


def raise_dock(widget: QWidget) -> None:
    """Bring a docked widget to the front of its tabs."""
    dock: QWidget | None = widget
    while dock is not None and not isinstance(dock, QDockWidget):
        dock = dock.parentWidget()
    assert dock is not None
    dock.raise_()


def settle(application: Application) -> None:
    """Wait until everything that loads in the background is drawn."""
    gallery = application.run_widget.result_section.gallery
    wait_until(lambda: all(layer.loaded for layer in application.viewer.layers))
    wait_until(lambda: not gallery.is_loading)
    for _ in range(20):
        QApplication.processEvents()
        time.sleep(0.05)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        QApplication.processEvents()
        time.sleep(0.02)
        if time.monotonic() > end:
            raise TimeoutError("the application did not get there")


if __name__ == "__main__":
    main()
