"""The command *rerun*."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from napari_2dmamba.cli.exit_codes import FAILED, OK
from napari_2dmamba.cli.options import slide_argument
from napari_2dmamba.cli.output import report, say


def add_rerun_command(commands: Any) -> None:
    """Add ``rerun`` to the command line."""
    parser = commands.add_parser(
        "rerun",
        help="make a saved run again and say whether a number differs",
        description="Make a saved run again from its record: same slide, checkpoint, settings, "
        "regions and features, known by their content. The exit code is 1 when a number differs "
        "by more than 1e-5 of the largest number of its kind.",
    )
    parser.add_argument("run", type=Path, metavar="FOLDER", help="folder of a saved run")
    parser.add_argument("--out", type=Path, help="save the new run here. Default: nowhere")
    parser.add_argument("--slide", type=slide_argument, help="the slide, where it has moved")
    parser.add_argument(
        "--kept-features",
        action="store_true",
        help="take the features that the run kept, instead of computing them again",
    )
    parser.add_argument(
        "--exact", action="store_true", help="let every bit count, with exit code 1 else"
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.set_defaults(action=_rerun)


def _rerun(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.export.json_file import as_json
    from napari_2dmamba.rerun import TOLERANCE, rerun

    with progress_bar(options.run.name) as on_progress:
        made = rerun(
            options.run,
            out=options.out,
            slide_path=options.slide,
            kept_features=options.kept_features,
            on_progress=on_progress,
        )
    differs = made.differs(exact=options.exact)
    if options.json:
        answer = {
            "run": str(options.run),
            "same": not differs,
            "tolerance": 0.0 if options.exact else TOLERANCE,
            "compared": [dataclasses.asdict(one) for one in made.compared],
            "remarks": list(made.remarks),
            "folder": None if made.result.folder is None else str(made.result.folder),
        }
        report(True, as_json(answer))
        return FAILED if differs else OK
    for one in made.compared:
        say(str(one))
    for remark in made.remarks:
        say(remark)
    allowed = "to the bit" if options.exact else f"within {TOLERANCE:g} of its largest number"
    say(f"a number differs: not the same {allowed}" if differs else f"the same {allowed}")
    return FAILED if differs else OK
