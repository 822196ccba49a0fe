"""Panning of the panels of *Compare 2DMamba*, by their number.

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/compare_panels.py SLIDE [--panels 1 6]

The linked grid in a window of 1160 x 950 with random maps, one per panel. The camera moves by 40
screen pixels at a time, with the whole slide in every panel. Given are medians of a step: the time
the window is still, the processor time of its thread, and of the whole process; beside them a bare
repaint of the same canvas in the same run.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_folder = tempfile.TemporaryDirectory()
os.environ["NAPARI_CONFIG"] = str(Path(_folder.name) / "settings.yaml")

import numpy as np  # noqa: E402
from napari.qt import get_qapp  # noqa: E402
from qtpy.QtWidgets import QApplication  # noqa: E402

from napari_2dmamba.explain.display import DisplaySettings  # noqa: E402
from napari_2dmamba.explain.grid_map import scatter  # noqa: E402
from napari_2dmamba.plugin.compare_widget.linked_grid import LinkedGrid  # noqa: E402
from napari_2dmamba.plugin.compare_widget.panel import Panel  # noqa: E402
from napari_2dmamba.slide import Slide, open_slide  # noqa: E402

STEP, CELLS = 40, 60


def panels_of(slide: Slide, count: int) -> list[Panel]:
    """Return panels with random maps over the whole slide."""
    side = max(1, min(slide.dimensions) // CELLS)
    rows, cols = np.divmod(np.arange(CELLS**2), CELLS)
    coords = np.stack([cols, rows], axis=1) * side
    numbers = np.random.default_rng(0).random((count, len(coords)), dtype=np.float32)
    return [
        Panel(f"{n}", f"Model {n}", "class 80 %",
              scatter(row, coords, side, name=f"m{n}", meaning="random", mpp=slide.mpp), n)
        for n, row in enumerate(numbers)
    ]  # fmt: skip


def process() -> None:
    """Let the window do all that waits."""
    for _ in range(3):
        QApplication.processEvents()


def timed(act: Callable[[], None]) -> tuple[float, float, float]:
    """Return milliseconds of wall time, of the thread and of the process."""
    began = time.perf_counter(), time.thread_time(), time.process_time()
    act()
    process()
    ended = time.perf_counter(), time.thread_time(), time.process_time()
    wall, thread, whole = (1000 * (b - a) for a, b in zip(began, ended, strict=True))
    return wall, thread, whole


def main() -> None:
    """Pan and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--panels", type=int, nargs="+", default=[1, 6])
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    get_qapp()
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}; ms still / thread / process"
    )
    with open_slide(options.slide) as slide:
        for count in options.panels:
            grid = LinkedGrid(slide, "light")
            grid.resize(1160, 950)
            grid.show()
            process()
            grid.show_panels(panels_of(slide, count), DisplaySettings(opacity=0.6), one_range=False)
            grid.fit()
            end = time.monotonic() + 120
            while not grid.is_loaded and time.monotonic() < end:
                process()
                time.sleep(0.01)
            camera = grid.model.scene.camera

            def move(camera: object = camera) -> None:
                z, y, x = camera.center
                camera.center = (z, y, x + STEP / camera.zoom)

            def repaint(grid: LinkedGrid = grid) -> None:
                grid._view.canvas._scene_canvas.update()

            moves, repaints = [], []
            for _ in range(options.steps):
                moves.append(timed(move))
                repaints.append(timed(repaint))
            told = [
                " / ".join(f"{statistics.median(part):.0f}" for part in zip(*kind, strict=True))
                for kind in (moves, repaints)
            ]
            print(f"  {count} panels: a step {told[0]}; a bare repaint {told[1]}", flush=True)
            grid.let_go()
            grid.close()


if __name__ == "__main__":
    main()
