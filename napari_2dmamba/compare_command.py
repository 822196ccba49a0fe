"""The command ``compare``: several models or maps on one slide."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba.command_options import (
    add_options,
    given_options,
    named_values,
    settings_from,
)

if TYPE_CHECKING:
    from napari_2dmamba.compare import Comparison


def add_compare_command(commands: Any) -> None:
    """Add ``compare`` to the subcommands."""
    from napari_2dmamba.compare.figure import FigureSettings
    from napari_2dmamba.explain.display import DisplaySettings
    from napari_2dmamba.features import FeatureSettings
    from napari_2dmamba.models.settings import ModelSettings
    from napari_2dmamba.slide.grid import GridSettings
    from napari_2dmamba.slide.tissue import TissueSettings

    parser = commands.add_parser(
        "compare", help="run several models on a slide, side by side, and draw the figure"
    )
    parser.add_argument("slide", type=Path, metavar="SLIDE", nargs="?")
    parser.add_argument(
        "--model",
        dest="models",
        action="append",
        default=[],
        metavar="CHECKPOINT[=LABEL]",
        help="a model; repeat for up to six. Without a label, the name of its architecture",
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="compare the demo models, which were trained on synthetic slides and are not for "
        "any medical use; without SLIDE, on the sample slide",
    )
    parser.add_argument(
        "--maps",
        default="score",
        help="maps of each model, with commas: score is the model's own score of each patch, "
        "napari-2dmamba explain --maps list names the others. Default: score",
    )
    parser.add_argument("--out", type=Path, help="folder for tables, maps and the record")
    parser.add_argument(
        "--figure",
        dest="figures",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="draw the figure as .pdf, .svg or .png; may be repeated",
    )
    parser.add_argument(
        "--zoom",
        dest="zooms",
        action="append",
        default=[],
        metavar="X,Y,WIDTH,HEIGHT",
        help="a region to show enlarged in the figure, in µm from the slide's corner (in level-0 "
        "px where the slide states no µm per pixel); may be repeated",
    )
    parser.add_argument(
        "--difference",
        dest="differences",
        action="append",
        default=[],
        metavar="I,J",
        help="add to the figure by how much map I ranks each patch above map J (numbers from 1); "
        "may be repeated",
    )
    parser.add_argument(
        "--ensemble", action="store_true", help="add mean and spread of all models to the figure"
    )
    parser.add_argument(
        "--at", metavar="X,Y", help="level-0 pixel in the patch that maps of a patch are about"
    )
    parser.add_argument("--mpp", type=float, help="µm per level-0 pixel, where not stated")
    parser.add_argument("--regions", type=Path, metavar="GEOJSON", help="as of run")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.add_argument(
        "--checkpoint-setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting that a published checkpoint does not hold; may be repeated",
    )
    parser.add_argument(
        "--features", dest="feature_file", type=Path, help="features computed before (.h5, .pt)"
    )
    parser.add_argument(
        "--in-pixels",
        action="store_true",
        help="work in level-0 pixels on slides that state no µm per pixel",
    )
    add_options(parser, TissueSettings, "tissue")
    add_options(parser, GridSettings, "patches", defaults="as the first checkpoint was trained")
    add_options(parser, FeatureSettings, "features")
    add_options(parser, ModelSettings, "model")
    add_options(parser, FigureSettings, "figure")
    add_options(parser, DisplaySettings, "colours")
    parser.set_defaults(action=_compare)


def _compare(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.compare import (
        FigureSettings,
        compare,
        contenders_of,
        make_comparison_record,
        write_comparison,
        write_figure,
    )
    from napari_2dmamba.compare.ensemble import ensemble
    from napari_2dmamba.explain.display import DisplaySettings
    from napari_2dmamba.features import FeatureSettings
    from napari_2dmamba.models.settings import ModelSettings
    from napari_2dmamba.pipeline import RunSettings, grid_settings_for
    from napari_2dmamba.sample import demo_rivals, sample_slide
    from napari_2dmamba.slide import open_slide
    from napari_2dmamba.slide.grid import GridSettings
    from napari_2dmamba.slide.tissue import TissueSettings

    models = [_labelled(given) for given in options.models]
    if options.demo:
        models += [(path, None) for path in demo_rivals()]
    if not models:
        parser.error("give the models with --model, or --demo for the demo models")
    if options.slide is None and not options.demo:
        parser.error("give a slide, or --demo for the sample slide")
    zooms = [_numbers(text, 4, "--zoom", parser) for text in options.zooms]
    pairs = [_numbers(text, 2, "--difference", parser) for text in options.differences]
    at = None if options.at is None else _numbers(options.at, 2, "--at", parser)
    figure = settings_from(options, FigureSettings, parser)
    display = settings_from(options, DisplaySettings, parser)
    settings = RunSettings(
        tissue=settings_from(options, TissueSettings, parser),
        features=settings_from(options, FeatureSettings, parser),
        model=settings_from(options, ModelSettings, parser),
        in_pixels=options.in_pixels,
    )
    names = tuple(name.strip() for name in options.maps.split(",") if name.strip())
    given = named_values(options.checkpoint_setting, "--checkpoint-setting", parser)
    contenders = contenders_of(models, names, checkpoint_settings=given)
    count = len(contenders) * len(names)
    if any(not 1 <= number <= count for pair in pairs for number in pair):
        parser.error(f"--difference takes two numbers from 1 to {count}")
    grid = grid_settings_for(contenders[0].load(), **given_options(options, GridSettings))
    path = options.slide or sample_slide()
    written: list[Path] = []
    with progress_bar(path.name) as on_progress, open_slide(path, mpp=options.mpp) as slide:
        found = compare(
            slide,
            contenders,
            dataclasses.replace(settings, grid=grid),
            features=options.feature_file,
            regions=options.regions,
            cache=options.out,
            at=None if at is None else (at[0], at[1]),
            on_progress=on_progress,
        )
        if options.out is not None:
            written = write_comparison(
                found, slide, options.out, display=display, on_progress=on_progress
            )
        if options.figures:
            more = [found.difference(int(i) - 1, int(j) - 1) for i, j in pairs]
            if options.ensemble:
                together = ensemble(found)
                more += [together.mean, together.spread]
            written += write_figure(
                found, slide, options.figures, figure, display=display, zooms=zooms, more=more
            )
    if options.json:
        record = make_comparison_record(found, display)
        chosen = ("slide", "models", "agreement", "peak_bytes_meaning", "seconds_meaning")
        answer = {name: record[name] for name in chosen}
        print(json.dumps({**answer, "files": [str(file) for file in written]}))
    else:
        _print(found, written)
    return 0


def _labelled(given: str) -> tuple[Path, str | None]:
    """Part ``FILE=LABEL``; a file whose own name has an equals sign is taken whole."""
    if "=" not in given or Path(given).exists():
        return Path(given), None
    path, _, label = given.rpartition("=")
    return Path(path), label.strip()


def _numbers(text: str, count: int, flag: str, parser: argparse.ArgumentParser) -> Any:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        parser.error(f"{flag} takes {count} numbers with commas, not {text!r}")
    return numbers


def _print(found: "Comparison", written: list[Path]) -> None:
    """Print predictions, costs and agreement as tables."""
    from rich.console import Console
    from rich.table import Table

    from napari_2dmamba.compare.comparison import FRACTIONS
    from napari_2dmamba.compare.figure import answer_in_words
    from napari_2dmamba.compare.folder import agreement_table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    answers = Table("model", "answer", "time [ms]", "memory [MB]", "device")
    for run in found.runs:
        memory = "n/a" if run.peak_bytes is None else f"{run.peak_bytes / 1e6:.1f}"
        answers.add_row(
            run.label, answer_in_words(run.prediction), f"{1000 * run.seconds:.1f}", memory,
            run.device,
        )  # fmt: skip
    console.print(answers)
    pairs = Table("maps", "", "rank correlation", *(f"top {f:.0%} shared" for f in FRACTIONS))
    for row in agreement_table(found):
        first, second, *values = row.values()
        pairs.add_row(first, second, *(f"{value:.2f}" for value in values))
    console.print(pairs)
    for sentence in found.unchecked:
        print(sentence)
    for use in dict.fromkeys(run.header.intended_use for run in found.runs):
        if use:
            print(use)
    for file in written:
        print(file)
