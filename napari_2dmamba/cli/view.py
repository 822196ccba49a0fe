"""The commands *view* and *demo*."""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from napari_2dmamba.cli.exit_codes import OK
from napari_2dmamba.cli.options import slide_argument
from napari_2dmamba.cli.output import print_summary, say
from napari_2dmamba.errors import UserError


def add_view_command(commands: Any) -> None:
    """Add ``view`` to the command line."""
    view = commands.add_parser("view", help="open slides in the viewer")
    view.add_argument(
        "slides", nargs="*", type=slide_argument, metavar="SLIDE", help="slides, or one saved run"
    )
    view.add_argument("--run", type=Path, metavar="FOLDER", help="show a saved run on its slide")
    view.set_defaults(action=_view)


def add_demo_command(commands: Any) -> None:
    """Add ``demo`` to the command line."""
    demo = commands.add_parser("demo", help="run on the synthetic sample slide")
    demo.add_argument("--out", type=Path, default=Path("napari-2dmamba-demo"))
    demo.add_argument("--no-view", action="store_true", help="do not open the viewer at the end")
    demo.set_defaults(action=_demo)


def can_view() -> bool:
    """Return whether the viewer is installed and there is a screen for it."""
    return has_screen() and find_spec("napari") is not None and find_spec("qtpy") is not None


def has_screen() -> bool:
    """Return whether a window can be opened here."""
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def _view(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.export.run_folder import open_run

    try:
        from napari_2dmamba.plugin.window.app import view
    except ImportError as error:
        raise UserError(
            f'the viewer is not installed ({error}); run pip install "napari-2dmamba[viewer]"'
        ) from error
    slides, runs = _told_apart(options.slides, options.run)
    if not runs:
        return view(slides)
    if len(runs) > 1:
        raise UserError(
            f"{len(runs)} saved runs were named, and a window opens with one; name one, and open "
            "the others from Runs or drop them on the window"
        )
    saved = open_run(runs[0])  # what is damaged is said here, before a window opens
    return view(slides or [saved.find_slide()], run_folder=saved.folder)


def _told_apart(named: list[Path], run: Path | None) -> tuple[list[Path], list[Path]]:
    """Return slides and saved runs; a run is named by its folder or by the ``run.json`` in it."""
    from napari_2dmamba.export.run_folder import RECORD_FILE

    runs = [one for one in named if one.name == RECORD_FILE or (one / RECORD_FILE).is_file()]
    slides = [one for one in named if one not in runs]
    return slides, runs if run is None else [run, *runs]


def _demo(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.export.exporting import export_run
    from napari_2dmamba.pipeline import run, summary_of
    from napari_2dmamba.sample import demo_checkpoint, sample_slide

    slide = sample_slide()
    with progress_bar("demo") as on_progress:
        result = run(slide, demo_checkpoint(), out=options.out, on_progress=on_progress)
    print_summary(summary_of(result))
    if result.folder is None:
        raise UserError(f"the demo was not saved in {options.out}")
    picture = export_run(result.folder, formats=("png",))[0]
    say(f"heatmap: {picture.resolve()}")
    print("The demo model was trained on synthetic slides and is not for any medical use.")
    if not options.no_view and has_screen():
        from napari_2dmamba.plugin.window.app import view

        view([slide], run_folder=result.folder)
    elif not has_screen():
        print("No screen here, so the viewer was not opened.")
    return OK
