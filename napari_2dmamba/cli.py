"""The command line: view, run, explain, compare, extract, export, checkpoints, doctor, demo."""

import argparse
import dataclasses
import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari_2dmamba import __version__
from napari_2dmamba.checkpoints_command import add_checkpoints_command
from napari_2dmamba.command_options import (
    add_options,
    given_options,
    named_values,
    settings_from,
)
from napari_2dmamba.command_output import complain, print_summary, report
from napari_2dmamba.compare_command import add_compare_command
from napari_2dmamba.errors import Cancelled, UserError
from napari_2dmamba.explain_slide import DEFAULT_MAPS

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
_COMMANDS = (
    "view", "run", "explain", "compare", "extract", "export", "checkpoints", "doctor", "demo",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: all went well; 1: at least one slide failed (each failure is one sentence on standard
    error); 2: the command itself is wrong; 130: interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] not in _COMMANDS and not given[0].startswith("-"):
        given.insert(0, "view")
    parser = _parser()
    options = parser.parse_args(given)
    if "action" not in options:
        parser.print_help()
        return OK
    # What cannot be decoded is an error in an analysis; the viewer's remark would say it twice
    logging.getLogger("napari_2dmamba.slide").setLevel(logging.ERROR)
    try:
        return int(options.action(options, parser))
    except UserError as error:
        complain(str(error))
        return FAILED
    except (KeyboardInterrupt, Cancelled):
        complain("stopped; what was finished is kept")
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED


def view_main() -> None:
    """Start the viewer without a console (Windows and desktop launchers)."""
    sys.exit(main(["view", *sys.argv[1:]]))


def _parser() -> argparse.ArgumentParser:
    from napari_2dmamba.features import FeatureSettings
    from napari_2dmamba.slide.grid import GridSettings
    from napari_2dmamba.slide.tissue import TissueSettings

    parser = argparse.ArgumentParser(
        prog="napari-2dmamba",
        description="Open a gigapixel slide, run 2DMambaMIL, and see why the model decided "
        "what it did.",
        epilog="napari-2dmamba SLIDE... is short for napari-2dmamba view SLIDE...",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    view = commands.add_parser("view", help="open slides in the viewer")
    view.add_argument("slides", nargs="*", type=Path, metavar="SLIDE")
    view.set_defaults(action=_view)

    run = commands.add_parser("run", help="run a model on slides and save maps and scores")
    _slides(run)
    _model_options(run)
    run.set_defaults(action=_run)

    explain = commands.add_parser("explain", help="run a model on a slide and save maps of why")
    explain.add_argument("slide", type=Path, metavar="SLIDE")
    explain.add_argument(
        "--maps",
        help="names of maps, with commas; --maps list says which there are. Default: "
        + ",".join(DEFAULT_MAPS),
        default=",".join(DEFAULT_MAPS),
    )
    explain.add_argument(
        "--at",
        metavar="X,Y",
        help="level-0 pixel in the patch that maps of a patch are about. Default: the patch of "
        "highest attention",
    )
    explain.add_argument(
        "--target", help="class or time bin to explain, or risk. Default: the model's answer"
    )
    explain.add_argument(
        "--layer", type=int, help="layer of the model that maps of a patch are about, from 1. "
        "Default: the last",
    )  # fmt: skip
    explain.add_argument(
        "--channels",
        type=_channels,
        default="absolute",
        help="how provenance makes one number of the channels of a scan: absolute (mean of "
        "absolute values), mean (signed), or the number of one. Default: absolute",
    )
    explain.add_argument(
        "--out", type=Path, help="folder of the run. Default: runs/SLIDE-explained"
    )
    explain.add_argument("--mpp", type=float, help="µm per level-0 pixel, where not stated")
    explain.add_argument("--regions", type=Path, metavar="GEOJSON", help="as of run")
    explain.add_argument("--json", action="store_true", help="print the answer as JSON")
    _model_options(explain)
    explain.set_defaults(action=_explain)

    add_compare_command(commands)
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
    extract.set_defaults(action=_extract)

    from napari_2dmamba.export.formats import FORMATS

    export = commands.add_parser("export", help="write pictures and tables of a saved run")
    export.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a saved run")
    export.add_argument(
        "--formats",
        default=",".join(FORMATS),
        help=f"which of {', '.join(FORMATS)} to write, with commas. Default: all",
    )
    export.add_argument("--slide", type=Path, help="the slide, where it has moved")
    export.add_argument(
        "--export-mpp",
        type=float,
        metavar="MPP",
        help="resolution of pictures [µm/px]. Default: 2400 px for the longest side",
    )
    export.add_argument("--json", action="store_true", help="print the written files as JSON")
    export.set_defaults(action=_export)

    add_checkpoints_command(commands)
    doctor = commands.add_parser("doctor", help="say what works here, and what to do")
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")
    doctor.set_defaults(action=_doctor)

    demo = commands.add_parser("demo", help="run on the synthetic sample slide")
    demo.add_argument("--out", type=Path, default=Path("napari-2dmamba-demo"))
    demo.add_argument("--no-view", action="store_true", help="do not open the viewer at the end")
    demo.set_defaults(action=_demo)
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    """Add what a run needs besides its slides."""
    from napari_2dmamba.features import FeatureSettings
    from napari_2dmamba.models.settings import ModelSettings
    from napari_2dmamba.slide.grid import GridSettings
    from napari_2dmamba.slide.tissue import TissueSettings

    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="model checkpoint (default: the demo checkpoint, "
        "trained on synthetic slides, not for any medical use)",
    )
    parser.add_argument(
        "--checkpoint-setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting that a published checkpoint does not hold; may be repeated",
    )
    parser.add_argument(
        "--features",
        dest="feature_file",
        type=Path,
        help="features computed before (.h5, .pt, .parquet), or a folder with one file per slide",
    )
    parser.add_argument(
        "--in-pixels",
        action="store_true",
        help="work in level-0 pixels on slides that state no µm per pixel",
    )
    add_options(parser, TissueSettings, "tissue")
    add_options(parser, GridSettings, "patches", defaults="as the checkpoint was trained")
    add_options(parser, FeatureSettings, "features")
    add_options(parser, ModelSettings, "model")


def _slides(parser: argparse.ArgumentParser) -> None:
    from napari_2dmamba.cohort.settings import CohortSettings

    parser.add_argument(
        "slides",
        nargs="+",
        metavar="SLIDE",
        help="slide files, folders, patterns, or .csv lists with the columns slide, label, mpp",
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
        help="regions to include and exclude, as QuPath exports them",
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


def _view(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        from napari_2dmamba.plugin.app import view
    except ImportError as error:
        raise UserError(
            f'the viewer is not installed ({error}); run pip install "napari-2dmamba[viewer]"'
        ) from error
    return view(options.slides)


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort import run_cohort

    checkpoint, given, settings = _model_of(options, parser)
    return _each_slide(
        options,
        parser,
        run_cohort,
        checkpoint=checkpoint,
        checkpoint_settings=given,
        settings=settings,
        features=options.feature_file,
    )


def _model_of(
    options: argparse.Namespace, parser: argparse.ArgumentParser
) -> tuple[Path, dict[str, Any], Any]:
    """Return checkpoint, what was said about it, and the settings of a run with it."""
    from napari_2dmamba.features import FeatureSettings
    from napari_2dmamba.models import load_checkpoint
    from napari_2dmamba.models.settings import ModelSettings
    from napari_2dmamba.pipeline import RunSettings, grid_settings_for
    from napari_2dmamba.sample import demo_checkpoint
    from napari_2dmamba.slide.grid import GridSettings
    from napari_2dmamba.slide.tissue import TissueSettings

    settings = RunSettings(
        tissue=settings_from(options, TissueSettings, parser),
        features=settings_from(options, FeatureSettings, parser),
        model=settings_from(options, ModelSettings, parser),
        in_pixels=options.in_pixels,
    )
    checkpoint = options.checkpoint or demo_checkpoint()
    given = named_values(options.checkpoint_setting, "--checkpoint-setting", parser)
    grid = grid_settings_for(
        load_checkpoint(checkpoint, **given), **given_options(options, GridSettings)
    )
    return checkpoint, given, dataclasses.replace(settings, grid=grid)


def _channels(given: str) -> str | int:
    if given in ("absolute", "mean"):
        return given
    if given.isdigit():
        return int(given)
    raise argparse.ArgumentTypeError(f"{given!r} is neither absolute, mean nor a number")


def _explain(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.explain.named_maps import MAPS
    from napari_2dmamba.explain_slide import explain_run
    from napari_2dmamba.models import load_checkpoint
    from napari_2dmamba.pipeline import summary_of

    if options.maps == "list":
        for name, kind in MAPS.items():
            print(f"{name:22} {kind.question}")
        return OK
    names = tuple(name.strip() for name in options.maps.split(",") if name.strip())
    unknown = [name for name in names if name not in MAPS]
    if unknown:
        parser.error(f"unknown map {unknown[0]!r}; choose from {', '.join(MAPS)}")
    at = None
    if options.at is not None:
        try:
            x, y = (float(part) for part in options.at.split(","))
        except ValueError:
            parser.error(f"--at takes X,Y in level-0 pixels, not {options.at!r}")
        at = (x, y)
    checkpoint, given, settings = _model_of(options, parser)
    with progress_bar(options.slide.name) as on_progress:
        found = explain_run(
            options.slide,
            load_checkpoint(checkpoint, **given),
            names,
            at=at,
            target=options.target,
            layer=options.layer,
            channels=options.channels,
            settings=settings,
            out=options.out or Path("runs") / f"{options.slide.stem}-explained",
            on_progress=on_progress,
            features=options.feature_file,
            regions=options.regions,
            mpp=options.mpp,
        )
    answer = summary_of(found.result)
    answer["maps"] = list(found.maps)
    if "query" in found.result.record["explanations"]:
        query = found.result.record["explanations"]["query"]
        answer["query"] = [query["x"], query["y"]]
    report(options.json, answer)
    return OK


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
    return _each_slide(options, parser, extract_cohort, settings=settings)


def _export(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.export.formats import FORMATS, export_run

    formats = tuple(name.strip() for name in options.formats.split(",") if name.strip())
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        parser.error(f"unknown format {unknown[0]!r}; choose from {', '.join(FORMATS)}")
    failed = False
    for folder in options.runs:
        try:
            written = export_run(
                folder, formats=formats, slide_path=options.slide, mpp=options.export_mpp
            )
        except UserError as error:
            failed = True
            report(options.json, {"run": str(folder), "error": str(error)})
            continue
        report(options.json, {"run": str(folder), "files": [str(path) for path in written]})
    return FAILED if failed else OK


def _doctor(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.doctor import examine

    findings = examine()
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            mark = {"ok": "ok  ", "note": "note", "problem": "FAIL"}[finding.state]
            print(f"{mark}  {finding.subject}: {finding.found}")
            if finding.advice:
                print(f"      {finding.advice}")
    return FAILED if any(finding.state == "problem" for finding in findings) else OK


def _demo(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    import os

    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.export.formats import export_run
    from napari_2dmamba.pipeline import run, summary_of
    from napari_2dmamba.sample import demo_checkpoint, sample_slide

    slide = sample_slide()
    with progress_bar("demo") as on_progress:
        result = run(slide, demo_checkpoint(), out=options.out, on_progress=on_progress)
    print_summary(summary_of(result))
    if result.folder is None:
        raise UserError(f"the demo was not saved in {options.out}")
    picture = export_run(result.folder, formats=("png",))[0]
    print(f"heatmap: {picture.resolve()}")
    print("The demo model was trained on synthetic slides and is not for any medical use.")
    has_screen = sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if not options.no_view and has_screen:
        from napari_2dmamba.plugin.app import view

        view([slide], run_folder=result.folder)
    elif not has_screen:
        print("No screen here, so the viewer was not opened.")
    return OK


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


if __name__ == "__main__":
    sys.exit(main())
