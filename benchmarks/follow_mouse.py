"""How *Follow the mouse* of the Inspect widget keeps up in a real window.

    xvfb-run -a -s "-screen 0 1366x768x24" python benchmarks/follow_mouse.py [--rounds 3]

The sample slide with the demo model, provenance and receptive field ticked, as the widget begins.
The mouse moves over as many patches as `--moves` says, one every `--pace` milliseconds, from one
corner of the tissue to the other. A heartbeat of 5 ms in the event loop finds how long the window
stands still: the longest time without one in each move. Beside it stands the CPU time that the
window's thread took in one piece, which other work on the machine lengthens less. Maps are counted
when they are drawn: at a frame of the canvas after their layer took them. The alternatives in the
same run are a bare repaint of the canvas, and the same drag with nothing to follow.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_folder = tempfile.TemporaryDirectory()
os.environ["NAPARI_CONFIG"] = str(Path(_folder.name) / "settings.yaml")
os.environ["NAPARI_2DMAMBA_DATA"] = str(Path(_folder.name) / "list")
os.environ.pop("QT_QPA_PLATFORM", None)  # "offscreen" draws no image layers

import numpy as np  # noqa: E402
from qtpy.QtCore import QEventLoop, QPoint, Qt, QTimer  # noqa: E402
from qtpy.QtTest import QTest  # noqa: E402
from qtpy.QtWidgets import QApplication  # noqa: E402

from napari_2dmamba.pipeline import run  # noqa: E402
from napari_2dmamba.plugin.parts import docks  # noqa: E402
from napari_2dmamba.plugin.parts.jobs import wait_for_jobs  # noqa: E402
from napari_2dmamba.plugin.window.app import Application, make_viewer  # noqa: E402
from napari_2dmamba.sample import demo_checkpoint, sample_slide  # noqa: E402

BEAT, LONG = 5, 100  # milliseconds: of the heartbeat, and what is felt
PATIENCE = 600.0  # seconds


def wait_until(condition: Callable[[], bool]) -> None:
    """Let the window work until something is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {PATIENCE:.0f} s")
        QApplication.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 20)
        time.sleep(0.001)


class Drag:
    """One drag of the mouse over patches, and what was seen of the window meanwhile.

    The mouse is where a hand would have brought it by now, also when the window was late.
    """

    def __init__(self, application: Application, inspect: Any, patches: list[int]) -> None:
        self._inspect, self._viewer = inspect, application.viewer
        self._canvas = self._viewer.window._qt_viewer.canvas
        self._patches = patches
        self.gaps: list[float] = []  # longest of each move
        self.works: list[float] = []  # most CPU time of the window's thread in one piece
        self.shown: list[tuple[float, str, tuple[Any, ...]]] = []  # when, which map, of what
        self.began = self.rested = 0.0

    def run(self, pace: int) -> None:
        """Move, and wait until all is there."""
        loop, waiting = QEventLoop(), []
        last = [time.perf_counter(), time.thread_time()]
        longest = [0.0, 0.0]
        at = [-1]

        def beat() -> None:
            now = [time.perf_counter(), time.thread_time()]
            longest[:] = [max(a, b - c) for a, b, c in zip(longest, now, last, strict=True)]
            last[:] = now
            here = int((now[0] - self.began) * 1000 / pace)
            if here == at[0]:
                return
            if at[0] >= 0:
                self.gaps.append(1000 * longest[0])
                self.works.append(1000 * longest[1])
            longest[:] = [0.0, 0.0]
            at[0] = here
            if here >= len(self._patches):
                beating.stop()
                loop.quit()
                return
            QTest.mouseMove(self._canvas.native, self._at(self._patches[here]))
            self.rested = time.perf_counter()

        def taken() -> None:
            seen = [pair[1:] for pair in self.shown] + waiting
            for name, one in self._inspect.live.maps.items():
                if (name, one.queries) not in seen:
                    waiting.append((name, one.queries))

        def drawn(event: Any) -> None:
            self.shown.extend((time.perf_counter(), *pair) for pair in waiting)
            waiting.clear()

        beating = QTimer()
        beating.setTimerType(Qt.TimerType.PreciseTimer)
        beating.timeout.connect(beat)
        self._inspect.live.changed.connect(taken)
        self._canvas._scene_canvas.events.draw.connect(drawn, position="last")
        self.began = time.perf_counter()
        beating.start(BEAT)
        loop.exec()
        wait_until(lambda: not self._inspect.is_busy and not waiting)
        self._inspect.live.changed.disconnect(taken)
        self._canvas._scene_canvas.events.draw.disconnect(drawn)

    def _at(self, patch: int) -> QPoint:
        subject, slide = self._inspect.live.inspected.subject, self._inspect.live.layers.slide
        x, y = np.array(subject.corner_of(patch)) + (subject.bag.patch_size_level0 - 1) / 2
        camera, (height, width) = self._viewer.scene.camera, self._viewer.canvas.size
        center_y, center_x = camera.center[-2:]
        return QPoint(
            round(width / 2 + (x * slide.unit - center_x) * camera.zoom),
            round(height / 2 + (y * slide.unit - center_y) * camera.zoom),
        )


def sentence(drag: Drag, names: list[str]) -> str:
    """Say how a drag went."""
    gaps, seconds = np.array(drag.gaps), drag.rested - drag.began
    words = (
        f"still for {statistics.median(gaps):4.0f} ms (most {max(gaps):4.0f}; over {LONG} ms in "
        f"{np.mean(gaps > LONG):4.0%}), working for {statistics.median(drag.works):4.0f} "
        f"(most {max(drag.works):4.0f})"
    )
    for name in names:
        times = [when for when, what, _ in drag.shown if what == name]
        before = [when for when in times if when <= drag.rested]
        words += f"; {name} {len(before) / seconds:.1f} a second"
        if times:
            words += f", the last {times[-1] - drag.rested:.2f} s after the mouse"
    return words


def main() -> None:
    """Open the sample, drag, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--pace", type=int, default=100, help="milliseconds between patches")
    parser.add_argument("--screenshot", type=Path, help="where the window is pictured at the end")
    options = parser.parse_args()
    folder = Path(_folder.name) / "sample"
    run(sample_slide(), demo_checkpoint(), out=folder)
    application = make_viewer([sample_slide()])
    viewer, widget = application.viewer, application.run_widget
    viewer.window._qt_window.resize(1366, 768)
    widget.open_saved_run(folder)
    wait_until(lambda: widget.shown is not None)
    inspect = docks.show(viewer, docks.INSPECT)
    docks.raise_dock(inspect)
    inspect.mode.click()
    wait_until(lambda: inspect.live.inspected is not None and not inspect.is_busy)
    viewer.fit_to_view()
    names = inspect.map_list.ticked_names
    cells = inspect.live.inspected.subject.cells_of_patches
    ways = np.argsort(cells.sum(axis=1), kind="stable")  # patches from corner to corner
    patches = ways[np.linspace(0, len(ways) - 1, options.moves).round().astype(int)].tolist()
    canvas = viewer.window._qt_viewer.canvas
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, window "
          f"{viewer.window._qt_window.width()} x {viewer.window._qt_window.height()}, canvas "
          f"{canvas.native.width()} x {canvas.native.height()}, {len(cells)} patches, "
          f"{options.moves} moves, one in {options.pace} ms")  # fmt: skip
    repaints = []
    for _ in range(20):
        began = time.perf_counter()
        canvas._scene_canvas.update()
        QApplication.processEvents()
        repaints.append(1000 * (time.perf_counter() - began))
    print(f"  a bare repaint {statistics.median(repaints):.0f} ms")
    for number in range(options.rounds):
        for follows in (False, True):
            inspect.follow.setChecked(follows)
            drag = Drag(application, inspect, patches[:: -1 if number % 2 else 1])
            began = time.process_time()
            drag.run(options.pace)
            busy = time.process_time() - began
            print(f"  {'following' if follows else 'without':9}  "
                  f"{sentence(drag, names if follows else [])}; "
                  f"CPU {1000 * busy / options.moves:.0f} ms a move", flush=True)  # fmt: skip
    if options.screenshot is not None:
        viewer.window._qt_window.grab().save(str(options.screenshot))
    inspect.mode.click()
    wait_for_jobs()
    viewer.close()


if __name__ == "__main__":
    main()
