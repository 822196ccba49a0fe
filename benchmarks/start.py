"""How long the app takes from its command to a window that answers, and from closing to its end.

    xvfb-run -a -s "-screen 0 1366x768x24" python benchmarks/start.py [SLIDE ...] [--rounds 3]

Each start is a process of its own: the app as ``napari-2dmamba view`` opens it, and in turn with it
an empty napari window. The clock starts before the process does. *Answers* is when the window is
drawn and its event loop has nothing else to do, *complete* (the app alone) when PyTorch is imported
and the docks that need it are there. From *answers* to *complete* a heartbeat of 5 ms finds the
longest time that the window stands still. *Closed* runs from closing the window to the end of the
process. Processor time is that of all threads. Settings lie in a folder that goes afterwards;
modules are compiled by one start of each more, which is not counted.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_2dmamba.plugin.window.later_widgets import LaterWidgets

BEAT = 5  # milliseconds
PATIENCE = 180.0  # seconds for one start
REPORT = "TIMES "


def watch(main_window: Any, complete_when: "LaterWidgets | None") -> None:
    """Write down the times of this process, and close the window when all is there."""
    from qtpy.QtCore import QTimer

    began = float(os.environ["BEGAN"])
    times = {"still": 0.0}
    timer = QTimer(main_window)
    last = 0.0

    def answers() -> None:
        nonlocal last
        times.update(answers=time.time() - began, cpu=time.process_time())
        last = time.perf_counter()
        timer.start(BEAT)
        if complete_when is None:
            complete()

    def beat() -> None:
        nonlocal last
        now = time.perf_counter()
        times["still"] = max(times["still"], now - last)
        last = now
        if complete_when is not None and not complete_when._left:  # the last dock is there
            complete()

    def complete() -> None:
        timer.stop()
        times.update(complete=time.time() - began, closing=time.time())
        print(REPORT + json.dumps(times), flush=True)
        main_window.close()

    timer.timeout.connect(beat)
    # after what was waiting already, and after the drawing that this asks for
    QTimer.singleShot(0, lambda: QTimer.singleShot(0, answers))


def start_app(slides: list[str]) -> None:
    """Open the app as the command does."""
    from napari_2dmamba.cli import main
    from napari_2dmamba.plugin.window import app

    make_viewer = app.make_viewer

    def watched(*given: Any, **named: Any) -> "app.Application":
        application = make_viewer(*given, **named)
        watch(application.viewer.window._qt_window, application.later)
        return application

    app.make_viewer = watched
    raise SystemExit(main(["view", *slides]))


def start_napari() -> None:
    """Open an empty window."""
    import napari

    watch(napari.Viewer().window._qt_window, None)
    napari.run()


def time_start(which: str, slides: list[str]) -> dict[str, float]:
    """Start once in a process of its own and return its times in seconds."""
    began = time.time()
    command = [sys.executable, __file__, *slides, "--start", which]
    done = subprocess.run(
        command,
        env={**os.environ, "BEGAN": str(began)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    ended = time.time()
    for line in done.stdout.splitlines():
        if line.startswith(REPORT):
            times: dict[str, float] = json.loads(line.removeprefix(REPORT))
            return {**times, "closed": ended - times["closing"]}
    raise SystemExit(f"{which} did not start:\n{done.stdout}\n{done.stderr}")


def main() -> None:
    """Time starts in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--start", choices=("app", "napari"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        start_app(options.slides) if options.start == "app" else start_napari()
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, {len(options.slides)} slides, "
        f"medians of {options.rounds} (least to most)"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        os.environ["NAPARI_2DMAMBA_DATA"] = str(Path(folder) / "list")
        starts: dict[str, list[dict[str, float]]] = {"napari": [], "app": []}
        for number in range(options.rounds + 1):
            for which, seen in starts.items():
                times = time_start(which, options.slides if which == "app" else [])
                if number:
                    seen.append(times)
    for which, seen in starts.items():
        print(which)
        for name in ("answers", "cpu", "complete", "still", "closed"):
            if which == "napari" and name in ("complete", "still"):
                continue
            values = [times[name] for times in seen]
            print(
                f"  {name:9} {statistics.median(values):5.2f} s "
                f"({min(values):.2f} to {max(values):.2f})"
            )


if __name__ == "__main__":
    main()
