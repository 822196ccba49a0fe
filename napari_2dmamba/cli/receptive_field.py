"""The command *receptive-field*."""

import argparse
from pathlib import Path
from typing import Any

from napari_2dmamba.cli.exit_codes import OK
from napari_2dmamba.cli.options import add_options, settings_from, slide_argument
from napari_2dmamba.cli.output import report
from napari_2dmamba.pixel_fields import FieldSettings

_FIGURES = (".png", ".pdf", ".svg")


def add_receptive_field_command(commands: Any) -> None:
    """Add ``receptive-field`` to the command line."""
    field = commands.add_parser(
        "receptive-field", help="draw which pixels the central feature of image networks sees"
    )
    field.add_argument("slide", type=slide_argument, metavar="SLIDE")
    field.add_argument(
        "--at", required=True, metavar="X,Y", help="level-0 pixel in the middle of the crop"
    )
    field.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL[=WEIGHTS]",
        default=["vmamba_tiny", "vmamba2d_tiny"],
        help="timm models with a file of weights, or =pretrained for timm's own; without either, "
        "weights are random, and the figure says so. Default: vmamba_tiny vmamba2d_tiny",
    )
    field.add_argument(
        "--stages",
        default="last",
        metavar="N,N",
        help="numbers from 1, last, or all. Default: last",
    )
    field.add_argument(
        "--figure", type=Path, default=Path("receptive-field.png"), help="png, pdf or svg"
    )
    field.add_argument("--power", type=float, default=0.2, help="of the values shown. Default: 0.2")
    field.add_argument("--colormap", default="Greens", help="of matplotlib. Default: Greens")
    field.add_argument("--mpp", type=float, help="µm per level-0 pixel, where not stated")
    field.add_argument("--json", action="store_true", help="print the measures as JSON")
    add_options(field, FieldSettings, "crops")
    field.set_defaults(action=_receptive_field)


def _receptive_field(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    at = _place(options.at, parser)
    stages = _stages(options.stages, parser)
    if options.figure.suffix not in _FIGURES:
        parser.error(f"--figure must end in {', '.join(_FIGURES)}, not {options.figure.name!r}")
    if not 0 < options.power <= 1:
        parser.error(f"--power must lie above 0 and not above 1, not {options.power:g}")
    settings = settings_from(options, FieldSettings, parser)
    from matplotlib import colormaps

    if options.colormap not in colormaps:
        parser.error(f"matplotlib has no colour map {options.colormap!r}; try Greens or viridis")

    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.pixel_fields import fields_on_slide
    from napari_2dmamba.slide import open_slide
    from napari_2dmamba.vision.pixel_field_figure import write_field_figure

    with (
        open_slide(options.slide, mpp=options.mpp) as slide,
        progress_bar(options.slide.name) as on_progress,
    ):
        found = fields_on_slide(
            slide, options.models, settings, at=at, stages=stages, on_progress=on_progress
        )
    write_field_figure(
        found.fields,
        options.figure,
        image=found.image,
        power=options.power,
        colormap=options.colormap,
    )
    if options.json:
        answer = {field.name: field.measures() for field in found.fields}
        report(True, {"figure": str(options.figure), "fields": answer})
    else:
        report(
            False,
            {"figure": str(options.figure)} | {f.name: f.measures() for f in found.fields},
        )
    return OK


def _place(given: str, parser: argparse.ArgumentParser) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in given.split(","))
    except ValueError:
        parser.error(f"--at takes X,Y in level-0 pixels, not {given!r}")
    return x, y


def _stages(given: str, parser: argparse.ArgumentParser) -> list[int] | None:
    if given == "all":
        return None
    if given == "last":
        return [-1]
    try:
        numbers = [int(part) for part in given.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        parser.error(f"--stages takes numbers from 1, last, or all, not {given!r}")
    return [number - 1 for number in numbers]
