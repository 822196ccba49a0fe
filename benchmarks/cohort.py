"""Many tiny slides in one cohort: memory, time per slide, start-up, reading, and the table.

    python benchmarks/cohort.py [--slides 1000 10000] [--workers 1 2] [--parts run table]

Slides are hard links of one 256 x 256 slide with one patch of tissue, so that what a cohort costs
besides its slides is most of the time; the encoder is ``stain-texture-v1``. Every number of
slides is done in a folder of its own by the command line, in a process of its own, then once
more, when everything is done already. Memory is the peak of the command's process, and of the
largest of its workers. The table is the cohort widget's, in a window of its own: the longest time
between two ticks of a timer that should tick every 5 ms, in CPU time of the window's thread, which
is what this program adds, and by the clock, which on a busy machine is mostly others. Compare only
within one run of this file.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATCH = 128


def write_slides(folder: Path, count: int) -> None:
    """Write one tiny slide, and names for it."""
    import numpy as np
    import tifffile

    rng = np.random.default_rng(0)
    pixels = np.full((256, 256, 3), 243, np.uint8)
    stain = np.array([200, 120, 170]) - rng.integers(0, 80, (16, 16, 1))
    pixels[:PATCH, :PATCH] = np.repeat(np.repeat(stain, 8, 0), 8, 1)
    folder.mkdir()
    first = folder / "slide-00000.tif"
    tifffile.imwrite(
        first, pixels, tile=(256, 256), compression="zlib", photometric="rgb",
        resolution=(20000, 20000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    for number in range(1, count):
        os.link(first, folder / f"slide-{number:05d}.tif")


def peak_mb(process: int) -> float:
    """Return the most memory that a process has held, in MB; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    except (OSError, ProcessLookupError):
        pass
    return 0.0


def extract(slides: Path, out: Path, workers: int) -> dict[str, float]:
    """Do a folder of slides by the command line, and return what it took."""
    import psutil

    command = [sys.executable, "-m", "napari_2dmamba.cli", "extract", str(slides), "--json"]
    command += ["--out", str(out), "--patch-size", str(PATCH), "--workers", str(workers)]
    began = time.perf_counter()
    ends: list[float] = []
    own = largest = 0.0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stdout is not None
        for _ in run.stdout:
            ends.append(time.perf_counter() - began)
            if len(ends) % 100 == 0:
                own = max(own, peak_mb(run.pid))
                below = psutil.Process(run.pid).children(recursive=True)
                largest = max([largest, *(peak_mb(one.pid) for one in below)])
    whole = time.perf_counter() - began
    tenth = max(2, len(ends) // 10)

    def pace(times: list[float]) -> float:
        return 1000 * (times[-1] - times[0]) / (len(times) - 1)

    return {
        "ended": len(ends),
        "start s": ends[0],
        "ms per slide": pace(ends),
        "first tenth": pace(ends[:tenth]),
        "last tenth": pace(ends[-tenth:]),
        "end s": whole - ends[-1],
        "MB": own,
        "MB of a worker": largest,
    }


def read(out: Path) -> dict[str, float]:
    """Time the reading of a finished cohort's folder, and of looking at it once more."""
    from napari_2dmamba.cohort.status import CohortReader

    reader = CohortReader(out)
    found: dict[str, float] = {}
    for name in ("read, CPU ms", "look again, CPU ms"):
        began = time.process_time()
        found["rows"] = len(reader.read().rows)
        found[name] = 1000 * (time.process_time() - began)
    return found


@contextmanager
def stalls(found: dict[str, float], name: str) -> Iterator[None]:
    """Measure for how long the window did not answer meanwhile, and how much of it was work."""
    from qtpy.QtCore import QTimer

    gaps, last = [(0.0, 0.0)], (time.perf_counter(), time.thread_time())

    def tick() -> None:
        nonlocal last
        now = time.perf_counter(), time.thread_time()
        gaps.append((now[0] - last[0], now[1] - last[1]))
        last = now

    timer = QTimer()
    timer.timeout.connect(tick)
    timer.start(5)
    yield
    tick()
    timer.stop()
    found[name] = 1000 * max(work for _, work in gaps)
    found[f"{name}, wall"] = 1000 * max(gap for gap, _ in gaps)


def table(count: int) -> dict[str, float]:
    """Fill, sort, filter, scroll and update the cohort widget's table."""
    from dataclasses import replace

    import napari
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QApplication

    from napari_2dmamba.cohort import SlideStatus, find_slides
    from napari_2dmamba.cohort.following import Following
    from napari_2dmamba.plugin.cohort_widget import CohortWidget
    from napari_2dmamba.plugin.cohort_widget.table_model import Column

    def wait(seconds: float) -> None:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            QApplication.processEvents()

    viewer = napari.Viewer()
    widget = CohortWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Cohort 2DMamba", area="bottom")
    wait(1)
    names = [f"/scans/slide-{number:05d}.tif" for number in range(count)]
    slides = [replace(one, label="tumour") for one in find_slides(names)]
    result = {"patches": 900, "prediction": "benign", "probabilities": {"benign": 0.7}}
    running = {"state": "running", "started": "2026-01-01T00:00:00+00:00", "patches_total": 900}
    found: dict[str, float] = {}
    with stalls(found, "fill"):
        widget._show_slides(slides)
        wait(0.5)
    with stalls(found, "sort"):
        for column in (Column.SLIDE, Column.STATE, Column.PATCHES):
            for order in (Qt.SortOrder.DescendingOrder, Qt.SortOrder.AscendingOrder):
                widget.view.view.sortByColumn(column, order)
                wait(0.3)
    with stalls(found, "filter"):
        for text in ("9", "99", "99 tum", ""):
            widget.view.search.setText(text)
            wait(0.3)
    bar = widget.view.view.verticalScrollBar()
    with stalls(found, "scroll"):
        for step in range(100):
            bar.setValue(bar.maximum() * step // 100)
            wait(0.02)
    bar.setValue(0)

    def updates(name: str) -> None:
        """Two slides at work, 40 a second ended: more than any real cohort sends."""
        following = widget._following = Following(slides)
        with stalls(found, name):
            for turn in range(20):
                for number in range(turn * 10, turn * 10 + 10):
                    place = (number * 379) % count
                    row = replace(SlideStatus(names[place]), label="tumour")
                    following.put(replace(row, **running, patches_done=turn))
                    following.put(replace(row, state="done", result=result, seconds=3.0))
                    following.put(replace(widget.table.rows[-1 - turn], **running))
                widget._show_news()
                wait(0.25)
        widget._following = None

    widget.view.view.sortByColumn(-1, Qt.SortOrder.AscendingOrder)
    updates("update")
    widget.view.view.sortByColumn(Column.STATE, Qt.SortOrder.AscendingOrder)
    updates("update sorted")
    widget.view.search.setText("benign")
    updates("update filtered")
    viewer.close()
    return found


def apart(part: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Call a function of this file in a process of its own."""
    command = [sys.executable, __file__, "--one", part.__name__, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compared(name: str, found: dict[int, dict[str, float]]) -> None:
    """Print what was found for each number of slides, and how it grew."""
    counts = list(found)
    print(f"\n{name:28}" + "".join(f"{count:>12}" for count in counts) + "   last / first")
    for quantity in found[counts[0]]:
        values = [found[count][quantity] for count in counts]
        cells = "".join(f"{value:12.1f}" for value in values)
        ratio = f"{values[-1] / values[0]:15.2f}" if values[0] else ""
        print(f"  {quantity:26}{cells}{ratio}", flush=True)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parts", nargs="+", choices=("run", "table"), default=["run", "table"])
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, *given = options.one
        part = {"read": lambda out: read(Path(out)), "table": lambda count: table(int(count))}
        print(json.dumps(part[name](*given)))
        return
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
          f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for count in options.slides:
            write_slides(Path(folder, str(count)), count)
        for workers in options.workers if "run" in options.parts else ():
            first, again, reading = {}, {}, {}
            for count in options.slides:
                slides, out = Path(folder, str(count)), Path(folder, f"{count}-{workers}")
                first[count] = extract(slides, out, workers)
                reading[count] = apart(read, out)
                again[count] = extract(slides, out, workers)
            compared(f"extract, {workers} worker(s)", first)
            compared("once more, all done", again)
            compared("reading the folder", reading)
    if "table" in options.parts:
        compared("the window stood still, ms", {n: apart(table, n) for n in options.slides})


if __name__ == "__main__":
    main()
