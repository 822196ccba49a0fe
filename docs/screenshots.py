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
os.environ["NAPARI_2DMAMBA_DATA"] = str(Path(_folder.name) / "list")
os.environ.pop("QT_QPA_PLATFORM", None)  # "offscreen" draws no slide

import numpy as np  # noqa: E402
import tifffile  # noqa: E402
import torch  # noqa: E402
from napari.settings import get_plugin_settings, get_settings  # noqa: E402
from PIL import Image  # noqa: E402
from qtpy.QtCore import Qt  # noqa: E402
from qtpy.QtGui import QImage  # noqa: E402
from qtpy.QtWidgets import QApplication, QDockWidget, QWidget  # noqa: E402
from shapely import MultiPoint  # noqa: E402

from napari_2dmamba.models import Aggregator, CheckpointHeader, save_checkpoint  # noqa: E402
from napari_2dmamba.models.checkpoint import build_model  # noqa: E402
from napari_2dmamba.plugin.parts import docks  # noqa: E402
from napari_2dmamba.plugin.parts.docks import CHECKPOINTS, COHORT, dock_of, raise_dock, show  # noqa: E402
from napari_2dmamba.plugin.parts.jobs import wait_for_jobs  # noqa: E402
from napari_2dmamba.plugin.parts.section import Fold  # noqa: E402
from napari_2dmamba.plugin.window.app import Application, make_viewer  # noqa: E402
from napari_2dmamba.sample import demo_checkpoint, sample_slide  # noqa: E402
from napari_2dmamba.slide import open_slide  # noqa: E402

SIZE = 1600, 1000
POINTED = 2450.0, 1900.0  # y and x of the cursor in µm, in the tumour of the sample
PATIENCE = 600.0  # seconds
MOST_BYTES = 150_000  # of one picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    application = make_viewer()
    get_settings().application.save_window_geometry = False
    get_plugin_settings("napari-2dmamba").analysis.runs_folder = str(Path(_folder.name) / "runs")
    application.run_widget.open_slides([options.slide or sample_slide()])
    viewer, widget = application.viewer, application.run_widget
    widget.model_section.add_checkpoint(options.checkpoint or demo_checkpoint())
    viewer.window.resize(*SIZE)
    settle(application)
    viewer.fit_to_view()

    def shoot(name: str) -> None:
        settle(application)
        picture = viewer.screenshot(canvas_only=False, flash=False)
        write(picture, options.out / f"{name}.webp")

    def crop(name: str, part: QWidget) -> None:
        settle(application)
        write(pixels_of(part), options.out / f"{name}.webp")

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

    sections.show_tissue.setChecked(False)
    sections.show_patches.setChecked(False)
    widget.features_section.encoder_form.form.editor("batch_size").set(4)
    widget.start_run()
    wait_until(lambda: "of" in widget.footer.detail.text() and widget.footer.bar.value() > 150)
    widget.footer.pause.click()
    wait_until(lambda: "paused" in widget.footer.detail.text())
    shoot("features-arriving")
    widget.footer.pause.click()
    wait_until(lambda: not widget.is_running)
    assert widget.shown is not None, widget.footer.message.text()
    shoot("run")

    widget.result_section.set_open(False)
    widget.features_section.set_open(True)
    crop("section-features", widget.features_section)
    widget.export_section.set_open(True)
    crop("section-export", widget.export_section)

    wait_until(lambda: docks.docked(viewer, docks.COMPARE) is not None)
    inspect = docks.show(viewer, docks.INSPECT)
    inspect.mode.click()
    settle(application)
    wait_until(lambda: not inspect.is_busy)
    viewer.fit_to_view()
    viewer.scene.camera.zoom *= 1.6
    mpp = widget.shown.slide.mpp or 1.0
    sides = viewer.layers["Inspected patch"].data[:4]
    viewer.scene.camera.center = sides[:, 0].mean(axis=0) * mpp
    shoot("inspect")

    what_if, trust = inspect.what_if_section, inspect.trust_section
    for section in (inspect.patch_section, inspect.maps_section):
        section.set_open(False)
    what_if.set_open(True)
    what_if.draw.click()
    ask_without_the_top_patches(application)
    wait_until(lambda: not inspect.is_busy)
    crop("inspect-what-if", what_if)
    what_if.set_open(False)
    trust.set_open(True)
    trust.maps.setCurrentText("Attention")
    for check in (trust.check, trust.stability):
        check.click()
        wait_until(lambda: not inspect.is_busy)
    crop("inspect-trust", trust)
    crop("checkpoints", table_of_checkpoints(application))
    inspect.mode.click()
    inspect.let_go()

    compare = docks.show(viewer, docks.COMPARE)
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

    cohort = show(viewer, COHORT)
    dock_of(cohort).setFloating(False)  # it floats where the screen has no room below
    for layer in viewer.layers:
        layer.visible = layer is viewer.layers[0]
    viewer.layers.selection.active = viewer.layers[0]
    widget.features_section.set_open(False)
    widget.export_section.set_open(False)
    viewer.window.resize(SIZE[0], SIZE[1] + 150)
    raise_dock(widget)
    raise_dock(cohort)
    cohort.setMinimumHeight(370)  # the whole table
    settle(application)
    viewer.fit_to_view()
    cohort.add_inputs([small_cohort(Path(_folder.name) / "scans")])
    cohort.features_section.encoder_form.form.editor("batch_size").set(1)
    wait_until(lambda: not cohort.slides_section.is_looking)
    cohort.output_section.set_open(False)
    cohort.start_run()
    wait_until(
        lambda: (
            sum(row.good for row in cohort.table.rows) > 2
            and any(row.state == "running" and row.patches_done for row in cohort.table.rows)
        )
    )
    assert cohort.is_running
    shoot("cohort")
    wait_until(lambda: not cohort.is_running)
    cohort.let_go()
    widget.let_go()
    wait_for_jobs()
    viewer.close()


def pixels_of(part: QWidget) -> np.ndarray:
    """Return what a widget shows, ``(h, w, 3)`` uint8."""
    image = part.grab().toImage().convertToFormat(QImage.Format.Format_RGB888)
    bits = image.constBits()
    assert bits is not None
    bits.setsize(image.sizeInBytes())
    rows = np.frombuffer(bits, np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3)


def write(picture: np.ndarray, path: Path) -> None:
    """Write a picture as WebP, as good as 150 kB allow."""
    for quality in (85, 75, 65, 55, 45):
        Image.fromarray(picture[..., :3]).save(path, quality=quality, method=6)
        if path.stat().st_size <= MOST_BYTES:
            break
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB, quality {quality}")


def small_cohort(folder: Path) -> Path:
    """Make slides of the sample by shifting it, spoil one of them, and return a list of all."""
    folder.mkdir()
    lines = ["slide,label"]
    with open_slide(sample_slide()) as slide:
        assert slide.mpp is not None
        pixels = slide.read_region(0, 0, 0, *slide.dimensions)
        for number in range(1, 10):
            path = folder / f"case-{number:02d}.tif"
            tifffile.imwrite(
                path,
                np.roll(pixels, number * 400, axis=number % 2),
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                resolution=(1e4 / slide.mpp, 1e4 / slide.mpp),
                resolutionunit="CENTIMETER",
            )
            lines.append(f"{path.name},{'control' if number % 3 else 'follow-up'}")
    spoilt = folder / "case-02.tif"
    spoilt.write_bytes(spoilt.read_bytes()[:4000])
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder / "cases.csv"


def ask_without_the_top_patches(application: Application) -> None:
    """Draw a region around the patches of highest attention and ask the model without them."""
    inspect, shown = docks.docked(application.viewer, docks.INSPECT), application.run_widget.shown
    assert shown is not None
    top = np.argsort(-shown.prediction.attention)[: len(shown.grid.coords) // 4]
    centres = shown.grid.coords[top] + shown.grid.patch_size_level0 / 2
    hull = MultiPoint(centres).convex_hull.buffer(shown.grid.patch_size_level0)
    layer = application.viewer.layers["What if"]
    layer.data = [np.asarray(hull.exterior.coords)[:-1, ::-1] - 0.5]
    inspect.what_if_section.apply.click()


def table_of_checkpoints(application: Application) -> QWidget:
    """Return the table of checkpoints with examples: untrained, and one that was cut short."""
    os.environ["HOME"] = _folder.name  # so that paths are shown from here
    models = Path(_folder.name) / "models"
    make_example_checkpoints(models)
    table = show(application.viewer, CHECKPOINTS)
    table.add([str(models)])
    wait_until(lambda: not table.checkpoints.is_reading)
    wait_until(lambda: table.table.view.subject is not None)
    table.table.table.sortByColumn(1, Qt.SortOrder.AscendingOrder)
    table.checkpoints.set_note(str(models / "transmil-uni.safetensors"), "ask for the seed")
    table.table.select(str(models / "dsmil-in-house.safetensors"))
    dock = table.parentWidget()
    while not isinstance(dock, QDockWidget):
        dock = dock.parentWidget()
    dock.setFloating(True)
    dock.resize(1560, 520)
    return table


def make_example_checkpoints(folder: Path) -> None:
    folder.mkdir()
    for name, size, encoder, patch_size in (
        ("mambamil-stain-texture", 102, "stain-texture-v1", 256),
        ("abmil-stain-texture-512", 102, "stain-texture-v1", 512),
        ("transmil-uni", 1024, "uni", 256),
        ("clam-prov-gigapath", 1536, "prov-gigapath", 256),
        ("dsmil-in-house", 768, "in-house", 224),
    ):
        header = CheckpointHeader(
            architecture=name.partition("-")[0],
            config={"feature_size": size, "n_outputs": 2},
            task="classification",
            class_names=("normal", "tumour"),
            encoder=encoder,
            patch_size=patch_size,
            mpp=0.5,
            intended_use="An example for the documentation, without any training.",
        )
        save_checkpoint(Aggregator(build_model(header), header), folder / f"{name}.safetensors")
    whole = (folder / "dsmil-in-house.safetensors").read_bytes()
    (folder / "copied-by-half.safetensors").write_bytes(whole[: len(whole) // 2])
    torch.save(build_model(header).state_dict(), folder / "dsmil-weights-only.pt")


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
