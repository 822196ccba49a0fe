"""The command *explain*."""

import argparse
from pathlib import Path
from typing import Any

from napari_2dmamba.cli.exit_codes import OK
from napari_2dmamba.cli.model_options import add_model_options, model_of
from napari_2dmamba.cli.options import slide_argument
from napari_2dmamba.cli.output import report
from napari_2dmamba.explain_slide import DEFAULT_MAPS


def add_explain_command(commands: Any) -> None:
    """Add ``explain`` to the command line."""
    explain = commands.add_parser("explain", help="run a model on a slide and save maps of why")
    explain.add_argument("slide", type=slide_argument, metavar="SLIDE")
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
    add_model_options(explain)
    explain.set_defaults(action=_explain)


def _channels(given: str) -> str | int:
    if given in ("absolute", "mean"):
        return given
    if given.isdigit():
        return int(given)
    raise argparse.ArgumentTypeError(f"{given!r} is neither absolute, mean nor a number")


def _explain(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.explain.maps import MAPS
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
    checkpoint, given, settings = model_of(options, parser)
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
    explanations = found.result.record.explanations
    if explanations is not None and explanations.queries:
        query = explanations.queries[0]
        answer["query"] = [query.x, query.y]
    report(options.json, answer)
    return OK
