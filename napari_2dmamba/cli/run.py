"""The commands *run* and *extract*: one slide or many."""

import argparse
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari_2dmamba.cli.model_options import (
    add_model_options,
    add_trust_option,
    model_of,
    trust_if_asked,
)
from napari_2dmamba.cli.options import add_options, settings_from
from napari_2dmamba.cli.output import complain, report


def add_run_command(commands: Any) -> None:
    """Add ``run`` to the command line."""
    run = commands.add_parser("run", help="run a model on slides and save maps and scores")
    _slides(run)
    add_model_options(run)
    run.set_defaults(action=_run)


def add_extract_command(commands: Any) -> None:
    """Add ``extract`` to the command line."""
    from napari_2dmamba.features import FeatureSettings
    from napari_2dmamba.slide.grid import GridSettings
    from napari_2dmamba.slide.tissue import TissueSettings

    extract = commands.add_parser("extract", help="compute and save patch features of slides")
    _slides(extract)
    extract.add_argument(
        "--in-pixels",
        action="store_true",
        help="work in level-0 pixels on slides that state no µm per pixel",
    )
    add_options(extract, TissueSettings, "tissue")
    add_options(extract, GridSettings, "patches")
    add_options(extract, FeatureSettings, "features")
    add_trust_option(extract)
    extract.set_defaults(action=_extract)


def _slides(parser: argparse.ArgumentParser) -> None:
    from napari_2dmamba.cohort.settings import CohortSettings

    parser.add_argument(
        "slides",
        nargs="+",
        metavar="SLIDE",
        help="slide files, addresses (https://, s3://), folders, patterns, or .csv lists with the "
        "columns slide, label, mpp",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs"),
        help="folder that gets one folder per slide. Default: runs",
    )
    parser.add_argument(
        "--mpp",
        type=float,
        help="µm per level-0 pixel, where slides do not state it or state it wrongly",
    )
    parser.add_argument(
        "--regions",
        type=Path,
        metavar="GEOJSON",
        help="regions to include and exclude, as QuPath exports them: a file for all slides, or a "
        "folder with one called like each. The column regions of a list comes first",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line per slide")
    add_options(parser, CohortSettings, "cohort")
    parser.add_argument(
        "--resume",
        dest="fresh",
        action="store_false",
        default=argparse.SUPPRESS,
        help="go on with what is in the folder; this is the default",
    )


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort import run_cohort

    checkpoint, given, settings = model_of(options, parser)
    return _each_slide(
        options,
        parser,
        run_cohort,
        checkpoint=checkpoint,
        checkpoint_settings=given,
        settings=settings,
        features=options.feature_file,
    )


def _extract(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort import extract_cohort
    from napari_2dmamba.features import FeatureSettings
    from napari_2dmamba.pipeline import RunSettings
    from napari_2dmamba.slide.grid import GridSettings
    from napari_2dmamba.slide.tissue import TissueSettings

    settings = RunSettings(
        tissue=settings_from(options, TissueSettings, parser),
        grid=settings_from(options, GridSettings, parser),
        features=settings_from(options, FeatureSettings, parser),
        in_pixels=options.in_pixels,
    )
    trust_if_asked(options, settings.features.encoder)
    return _each_slide(options, parser, extract_cohort, settings=settings)


def _each_slide(
    options: argparse.Namespace, parser: argparse.ArgumentParser, act: Any, **arguments: Any
) -> int:
    """Do one thing to every slide; a slide that fails does not stop the rest."""
    from napari_2dmamba.cohort import CohortSettings, SlideStatus, find_slides
    from napari_2dmamba.cohort.display import LiveTable, print_table

    settings = settings_from(options, CohortSettings, parser)
    slides = find_slides(options.slides, mpp=options.mpp, leave_out=options.out)
    several = len(slides) > 1
    with _terminated_like_interrupted(), LiveTable(len(slides)) as live:

        def show(row: SlideStatus) -> None:
            live.show(row)
            if row.good and (options.json or not several):
                report(options.json, row.result)
            elif row.state == "failed":
                report(options.json, {"slide": row.name, "error": row.reason})

        summary = act(
            slides,
            out=options.out,
            cohort=settings,
            regions=options.regions,
            on_status=show,
            **arguments,
        )
    if several and not options.json:
        print_table(summary)
    for warning in summary.warnings:
        complain(warning)
    if several and summary.failed:
        complain(f"{len(summary.failed)} of {len(slides)} slides failed; see {summary.table}")
    return summary.exit_code


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let a scheduler's SIGTERM end the work as Ctrl-C does: what was finished is marked so."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
