"""First paint, panning, memory and heatmap drawing in a real window.

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/viewer.py SLIDE...

Every slide is opened in a process of its own. First paint is from the call that opens the slide
to the end of the first screenshot of the finished canvas. Panning moves the camera by 40 screen
pixels at a time, at 1:1; a step's block is the time the main thread spends in it, and its
alternative in the same run is a bare repaint of the same canvas without moving. Peak memory is
the process's, torch not loaded. Drawing is the time from 100,000 scores to the layer's first
painted frame, beside the same array as a plain napari image, and to the next frame when the layer
takes another map, which is what every map but the first costs. Fetches of single viewports are in
`viewer_fetch.py`.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

STEPS, STEP = 40, 40
PATCHES = 316


def main() -> None:
    """Measure each slide in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.slides[0])
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for path in options.slides:
            environment = os.environ | {"NAPARI_CONFIG": str(Path(folder) / "settings.yaml")}
            command = [sys.executable, __file__, "--one", str(path)]
            subprocess.run(command, env=environment, check=True)


def measure(path: Path) -> None:
    """Open one slide, pan, draw a map, and print what it took."""
    import napari
    import numpy as np
    from qtpy.QtWidgets import QApplication

    from napari_2dmamba.explain.display import DisplaySettings, colour_table
    from napari_2dmamba.explain.grid_map import scatter
    from napari_2dmamba.plugin.session import Session
    from napari_2dmamba.plugin.window.app import suit_slides
    from napari_2dmamba.slide import open_slide

    suit_slides()
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window.resize(1600, 1150)
    process = QApplication.processEvents
    for _ in range(5):
        process()
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    started = time.perf_counter()
    slide = open_slide(path)
    session = Session.of(viewer)
    state = session.add(slide)
    layer = session.pyramid_of(state)[0]
    while not layer.loaded:
        process()
    viewer.screenshot(flash=False)
    first = time.perf_counter() - started

    def timed(step: Callable[[], None]) -> float:
        began = time.perf_counter()
        step()
        process()
        return 1e3 * (time.perf_counter() - began)

    width, height = slide.dimensions
    unit = slide.mpp or 1.0
    viewer.scene.camera.zoom = 1 / unit
    viewer.scene.camera.center = (0, height * unit / 2, width * unit / 4)
    process()

    def move() -> None:
        z, y, x = viewer.scene.camera.center
        viewer.scene.camera.center = (z, y, x + STEP * unit)

    canvas = viewer.window._qt_viewer.canvas

    def repaint() -> None:
        canvas._scene_canvas.update()

    moves, repaints = [], []
    for _ in range(STEPS):
        moves.append(timed(move))
        repaints.append(timed(repaint))
    pan, bare = statistics.median(moves), statistics.median(repaints)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    rows, cols = np.divmod(np.arange(PATCHES**2), PATCHES)
    side = max(1, min(width, height) // PATCHES)
    coords = np.stack([cols, rows], axis=1) * side
    scores = np.random.default_rng(0).random(len(coords), dtype=np.float32)
    viewer.fit_to_view()
    process()
    whole = statistics.median(timed(repaint) for _ in range(5))
    colour_table("viridis")  # matplotlib is loaded once a session, for the result's charts too
    began = time.perf_counter()
    grid_map = scatter(scores, coords, side, name="m", meaning="random", mpp=slide.mpp)
    made = time.perf_counter()
    session.runs.show_map(state, grid_map, DisplaySettings())
    process()
    drawn = time.perf_counter()
    unit_name = "pixel" if slide.mpp is None else "µm"
    viewer.add_image(grid_map.values, name="plain", units=(unit_name, unit_name))
    process()
    plain = time.perf_counter() - drawn
    viewer.layers.remove("plain")
    others = [
        scatter(row, coords, side, name="m", meaning="random", mpp=slide.mpp)
        for row in np.random.default_rng(1).random((5, len(coords)), dtype=np.float32)
    ]
    again = statistics.median(
        timed(lambda other=other: session.runs.show_map(state, other)) for other in others
    )
    print(
        f"{path.name}: {width} x {height}, first paint {first:.2f} s; pan {pan:.0f} ms "
        f"(max {max(moves):.0f}), bare repaint {bare:.0f} ms, ratio {pan / bare:.2f}; "
        f"peak {peak:.0f} MB (viewer alone {base:.0f} MB); {len(scores)} patches: map "
        f"{1e3 * (made - began):.0f} ms, first layer {1e3 * (drawn - made):.0f} ms (napari's own "
        f"image {1e3 * plain:.0f} ms), next map {again:.0f} ms (bare repaint {whole:.0f} ms)"
    )
    viewer.close()
    slide.close()


if __name__ == "__main__":
    main()
