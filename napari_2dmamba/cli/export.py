"""The command *export*."""

import argparse
from pathlib import Path
from typing import Any

from napari_2dmamba.cli.exit_codes import FAILED, OK
from napari_2dmamba.cli.output import report
from napari_2dmamba.errors import UserError


def add_export_command(commands: Any) -> None:
    """Add ``export`` to the command line."""
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
