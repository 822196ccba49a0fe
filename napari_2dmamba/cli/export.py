"""The command *export*."""

import argparse
import re
from pathlib import Path
from typing import Any

from napari_2dmamba.cli.exit_codes import FAILED, OK
from napari_2dmamba.cli.options import slide_argument
from napari_2dmamba.cli.output import report
from napari_2dmamba.errors import UserError


def add_export_command(commands: Any) -> None:
    """Add ``export`` to the command line."""
    from napari_2dmamba.export.formats import FORMATS, ON_COMMAND_LINE, USUAL

    export = commands.add_parser(
        "export", help="write report, pictures, tables and stores of a saved run"
    )
    export.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a saved run")
    export.add_argument(
        "--as",
        "--formats",
        dest="formats",
        metavar="FORMATS",
        default=",".join(USUAL),
        help="what to write, with commas: "
        + "; ".join(f"{name} ({FORMATS[name].title})" for name in ON_COMMAND_LINE)
        + f". Default: {', '.join(USUAL)}",
    )
    export.add_argument(
        "-o",
        "--out",
        type=Path,
        help="folder for the files, or the file where one format makes one. Default: RUN/exports",
    )
    export.add_argument("--slide", type=slide_argument, help="the slide, where it has moved")
    export.add_argument(
        "--export-mpp",
        type=float,
        metavar="MPP",
        help="resolution of pictures [µm/px]. Default: 2400 px for the longest side",
    )
    export.add_argument(
        "--regions-above",
        type=_threshold,
        metavar="VALUE",
        help="also write what of a map lies above a value (0.9), or above a percentile of its "
        "patches (90%%), as regions for QuPath",
    )
    export.add_argument("--map", help="the map to cut into regions. Default: the attention")
    export.add_argument("--class-name", default="", help="class of the regions. Default: the map")
    export.add_argument(
        "--colour", type=_colour, metavar="RRGGBB", help="colour of the class, as in c80000"
    )
    export.add_argument(
        "--least-patches", type=int, default=1, metavar="N", help="leave out smaller regions"
    )
    export.add_argument(
        "--full-paths",
        action="store_true",
        help="let the record say where slide, features and checkpoint lie, and not only name them",
    )
    export.add_argument(
        "--with-patient",
        action="store_true",
        help="let DICOM results hold the patient's name, ID, birth date and sex, and accession "
        "number, dates, physician, institution and specimen, as the slide does; they are empty "
        "otherwise",
    )
    export.add_argument("--json", action="store_true", help="print the written files as JSON")
    export.set_defaults(action=_export)


def _threshold(text: str) -> Any:
    from napari_2dmamba.explain.map_regions import MapThreshold

    try:
        return MapThreshold.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a value nor a percentile such as 90%"
        ) from None


def _colour(text: str) -> tuple[int, int, int]:
    digits = text.removeprefix("#")
    if not re.fullmatch(r"[0-9a-fA-F]{6}", digits):
        raise argparse.ArgumentTypeError(f"{text!r} is no colour such as c80000")
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


def _export(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.export.exporting import RegionsAbove, export_run
    from napari_2dmamba.export.formats import FORMATS, ON_COMMAND_LINE, TOGETHER

    formats = tuple(name.strip() for name in options.formats.split(",") if name.strip())
    unknown = [name for name in formats if name not in (*ON_COMMAND_LINE, *TOGETHER)]
    if unknown:
        parser.error(f"unknown format {unknown[0]!r}; choose from {', '.join(ON_COMMAND_LINE)}")
    above = None
    if options.regions_above is not None:
        above = RegionsAbove(
            options.regions_above, options.map, options.class_name, options.colour,
            options.least_patches,
        )  # fmt: skip
    if options.with_patient and not any(FORMATS[n].of_dicom for n in formats if n in FORMATS):
        parser.error("--with-patient is about DICOM results; add --as dicom-map")
    if options.out is not None and len(options.runs) > 1:
        parser.error("--out takes the files of one run; leave it out for several")
    failed = False
    for folder in options.runs:
        try:
            written = export_run(
                folder,
                formats=formats,
                out=options.out,
                slide_path=options.slide,
                mpp=options.export_mpp,
                full_paths=options.full_paths,
                with_patient=options.with_patient,
                above=above,
            )
        except UserError as error:
            failed = True
            report(options.json, {"run": str(folder), "error": str(error)})
            continue
        report(options.json, {"run": str(folder), "files": [str(path) for path in written]})
    return FAILED if failed else OK
