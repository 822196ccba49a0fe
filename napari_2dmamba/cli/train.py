"""The command *train*: from a table to checkpoints, scores and a report."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba.cli.exit_codes import OK
from napari_2dmamba.cli.options import add_options, given_options, named_values, settings_from
from napari_2dmamba.cli.split import (
    add_split_options,
    add_table,
    print_problems,
    print_table,
    table_of,
)
from napari_2dmamba.tasks.installed import training_installed

if TYPE_CHECKING:
    from napari_2dmamba.tasks import Table
    from napari_2dmamba.training import Preset


def add_train_command(commands: Any) -> None:
    """Add ``train`` to the command line."""
    from napari_2dmamba.evaluation.settings import EvaluationSettings
    from napari_2dmamba.slide.grid import GridSettings
    from napari_2dmamba.training.presets import PRESETS
    from napari_2dmamba.training.settings import FitSettings

    train = commands.add_parser(
        "train", help="train models on labelled slides, test them, and write a report"
    )
    add_table(train)
    train.add_argument(
        "--out", type=Path, default=Path("training"),
        help="folder of the training; one that was cut off there goes on. Default: training",
    )  # fmt: skip
    train.add_argument(
        "--split-file", type=Path, metavar="FILE",
        help="a split made before, a CLAM splits_*.csv, or a folder of those",
    )  # fmt: skip
    train.add_argument(
        "--architecture", default="2dmamba", help="aggregator to train. Default: 2dmamba"
    )
    train.add_argument(
        "--preset", choices=PRESETS, default=PRESETS[0],
        help="settings that hold unless others are given. Default: recommended",
    )  # fmt: skip
    train.add_argument(
        "--model-option", action="append", default=[], metavar="NAME=VALUE",
        help="an option of the architecture, such as d_model=64; may be repeated",
    )  # fmt: skip
    train.add_argument(
        "--class-name", action="append", default=[], metavar="LABEL=NAME",
        help="what a label of the table is called in the model; may be repeated",
    )  # fmt: skip
    train.add_argument("--intended-use", default="", help="shown wherever the model's results are")
    train.add_argument(
        "--no-final", dest="final", action="store_false",
        help="train the models of the folds only, and none on all slides",
    )  # fmt: skip
    train.add_argument(
        "--extract", action="store_true",
        help="compute the features of slides that have none first, into OUT/features",
    )  # fmt: skip
    train.add_argument("--encoder", help="encoder of --extract. Default: the embedded one")
    add_split_options(train)
    add_options(train, FitSettings, "training", defaults="of the preset")
    add_options(train, EvaluationSettings, "evaluation")
    add_options(train, GridSettings, "patches of --extract")
    train.set_defaults(action=_train)


def _train(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.evaluation import EvaluationSettings
    from napari_2dmamba.tasks import SplitSettings, make_split, read_split
    from napari_2dmamba.training import FitSettings, preset, train

    table = table_of(options, parser)
    split_settings = settings_from(options, SplitSettings, parser)
    scoring = settings_from(options, EvaluationSettings, parser)
    settings_from(options, FitSettings, parser)  # values out of range end here
    config = named_values(options.model_option, "--model-option", parser)
    called = dict(_pair(given, parser) for given in options.class_name)
    use: Preset = preset(options.preset, options.architecture, table.kind)
    changed = given_options(options, FitSettings)
    use = dataclasses.replace(use, fit=dataclasses.replace(use.fit, **changed))
    if options.extract:
        table = _extracted(table, options, parser)
    print_problems(table.problems)
    table.require_usable()
    with training_installed():
        split = (
            make_split(table, split_settings)
            if options.split_file is None
            else read_split(options.split_file)
        )
        print_table(dataclasses.replace(table, problems=()), split)
        with progress_bar(options.out.name) as on_progress:
            run = train(
                table,
                split,
                out=options.out,
                architecture=options.architecture,
                use=use,
                preset_name=options.preset + ("" if not changed else ", changed"),
                config=config,
                class_names=called,
                intended_use=options.intended_use,
                final=options.final,
                scoring=scoring,
                on_progress=on_progress,
            )
    print_problems(run.problems[len(table.problems) :])
    if run.evaluation is not None:
        for line in run.evaluation.lines():
            print(line)
        for remark in run.evaluation.remarks:
            print(remark)
        print(run.folder / "report.html")
    for checkpoint in run.checkpoints:
        print(checkpoint)
    return OK


def _pair(given: str, parser: argparse.ArgumentParser) -> tuple[str, str]:
    label, equals, name = given.partition("=")
    if not equals or not name:
        parser.error(f"--class-name takes LABEL=NAME, not {given!r}")
    return label, name


def _extracted(
    table: "Table", options: argparse.Namespace, parser: argparse.ArgumentParser
) -> "Table":
    from napari_2dmamba.cohort.display import LiveTable
    from napari_2dmamba.cohort.table_features import extract_table
    from napari_2dmamba.features import FeatureSettings
    from napari_2dmamba.pipeline import RunSettings
    from napari_2dmamba.slide.grid import GridSettings

    features = FeatureSettings()
    if options.encoder is not None:
        features = dataclasses.replace(features, encoder=options.encoder)
    settings = RunSettings(grid=settings_from(options, GridSettings, parser), features=features)
    with LiveTable(len(table)) as live:
        return extract_table(table, settings, out=options.out / "features", on_status=live.show)
