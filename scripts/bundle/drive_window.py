"""Drive the window of an installed app: a slide, a run, an export, a picture. See check.sh."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 600.0  # seconds


def main() -> None:
    """Open the sample, run the demo model, export, and take a picture of the window."""
    begin = time.monotonic()
    sample, out = (Path(argument) for argument in sys.argv[1:])
    os.environ["NAPARI_CONFIG"] = str(out / "settings.yaml")
    from napari.settings import get_plugin_settings
    from qtpy import API_NAME
    from qtpy.QtWidgets import QApplication

    from napari_2dmamba.plugin.window.app import make_viewer

    application = make_viewer([sample / "synthetic-he.tif"])
    print(f"window: {time.monotonic() - begin:.1f} s after the start, with {API_NAME}")
    viewer, widget = application.viewer, application.run_widget

    def wait_until(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            QApplication.processEvents()
            time.sleep(0.02)
            if time.monotonic() > end:
                raise SystemExit(f"drive_window: {widget.footer.message.text() or 'too slow'}")

    get_plugin_settings("napari-2dmamba").analysis.runs_folder = str(out / "window runs")
    widget.model_section.add_checkpoint(sample / "demo-2dmamba.safetensors")
    wait_until(lambda: "patches" in widget.slide_section.count.text())
    widget.start_run()
    wait_until(lambda: not widget.is_running)
    if widget.shown is None:
        raise SystemExit(f"drive_window: no run: {widget.footer.message.text()}")
    widget.export_section.all_wanted.emit(str(out / "window exports"))
    wait_until(lambda: not widget.is_running)
    end = time.monotonic() + 3
    wait_until(lambda: all(x.loaded for x in viewer.layers) and time.monotonic() > end)
    viewer.screenshot(str(out / "window.png"), canvas_only=False, flash=False)
    names = sorted(path.name for path in (out / "window exports").iterdir())
    print(f"exported: {', '.join(names)}")
    viewer.close()


if __name__ == "__main__":
    main()
