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
    from napari_2dmamba.tasks import Split, SplitSettings, Table
    from napari_2dmamba.training import GivenSettings, TrainingRun


def add_train_command(commands: Any) -> None:
    """Add ``train`` to the command line."""
    from napari_2dmamba.evaluation.settings import EvaluationSettings
    from napari_2dmamba.slide.grid import GridSettings
    from napari_2dmamba.training.settings import FitSettings

    train = commands.add_parser(
        "train", help="train models on labelled slides, test them, and write a report"
    )
    add_table(train)
    train.add_argument(
        "--out", type=Path, default=Path("training"),
        help="folder of the training; one that was cut off there goes on. Default: training",
    )  # fmt: skip
    add_model(train)
    train.add_argument(
        "--settings", type=Path, metavar="FILE",
        help="a settings.json of search; options beside it hold over what is in it",
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
        "--jobs", type=int, default=1, metavar="N",
        help="folds trained at once, in processes of their own (needs Dask), each with a GPU (or "
        "--devices of them) of its own; 0 takes as many as there are GPUs for, or one per four CPU "
        "cores. Default: 1",
    )  # fmt: skip
    train.add_argument(
        "--cluster", metavar="ADDRESS",
        help="train the folds on a running Dask scheduler (tcp://host:8786, or its .json file)",
    )  # fmt: skip
    train.add_argument(
        "--only-fold", type=int, action="append", metavar="NUMBER",
        help="train this fold and do nothing else (one job of many); the same command without it "
        "takes what is there, scores it and writes the report. May be repeated",
    )  # fmt: skip
    train.add_argument(
        "--log", action="append", choices=("none", "tensorboard", "wandb", "mlflow"),
        help="where epochs are written beside history.csv; may be repeated. Default: tensorboard, "
        "where it is installed",
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


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add what is trained, and on which split."""
    from napari_2dmamba.training.presets import PRESETS

    parser.add_argument(
        "--split-file", type=Path, metavar="FILE",
        help="a split made before, a CLAM splits_*.csv, or a folder of those",
    )  # fmt: skip
    parser.add_argument(
        "--architecture", default=argparse.SUPPRESS,
        help="aggregator to train. Default: 2dmamba",
    )  # fmt: skip
    parser.add_argument(
        "--preset", choices=PRESETS, default=argparse.SUPPRESS,
        help="settings that hold unless others are given. Default: recommended",
    )  # fmt: skip
    parser.add_argument(
        "--model-option", action="append", default=[], metavar="NAME=VALUE",
        help="an option of the architecture, such as d_model=64; may be repeated",
    )  # fmt: skip


def split_of(options: argparse.Namespace, table: "Table", settings: "SplitSettings") -> "Split":
    """Return the split that a command was given, or one drawn as it says."""
    from napari_2dmamba.tasks import make_split, read_split

    if options.split_file is not None:
        return read_split(options.split_file)
    return make_split(table, settings)


def _given(options: argparse.Namespace, parser: argparse.ArgumentParser) -> "GivenSettings":
    """Return the settings of the file, if there is one, under those of the options."""
    from napari_2dmamba.training import FitSettings, GivenSettings, read_settings_file

    held = None if options.settings is None else read_settings_file(options.settings)
    architecture = getattr(options, "architecture", None)
    name = getattr(options, "preset", None)
    if held is not None and architecture not in (None, held.architecture):
        parser.error(f"{options.settings} is for {held.architecture}, not for {architecture}")
    held = held or GivenSettings(architecture or "2dmamba")
    return dataclasses.replace(
        held,
        preset=name or held.preset,
        fit={**held.fit, **given_options(options, FitSettings)},
        config={**held.config, **named_values(options.model_option, "--model-option", parser)},
    )


def _train(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.evaluation import EvaluationSettings
    from napari_2dmamba.tasks import SplitSettings
    from napari_2dmamba.training import FitSettings

    table = table_of(options, parser)
    split_settings = settings_from(options, SplitSettings, parser)
    scoring = settings_from(options, EvaluationSettings, parser)
    settings_from(options, FitSettings, parser)  # values out of range end here
    given = _given(options, parser)
    called = dict(_pair(given, parser) for given in options.class_name)
    use = given.of(table.kind)
    shared = options.cluster is not None or options.jobs != 1
    if options.jobs < 0:
        parser.error("--jobs must be at least 0")
    if shared and options.only_fold:
        parser.error("--only-fold trains in this process; give it without --jobs and --cluster")
    if "none" in (options.log or []) and len(set(options.log)) > 1:
        parser.error("--log none goes with no other log")
    if options.extract:
        table = _extracted(table, options, parser)
    print_problems(table.problems)
    table.require_usable()
    with training_installed():
        split = split_of(options, table, split_settings)
        searched = given.problems(table, split)
        print_problems(searched)
        table = table.with_problems(searched)
        print_table(dataclasses.replace(table, problems=()), split)
        how: dict[str, Any] = {
            "out": options.out,
            "architecture": given.architecture,
            "use": use,
            "preset_name": given.preset + (", changed" if given.fit else ""),
            "config": given.config,
            "class_names": called,
            "intended_use": options.intended_use,
            "final": options.final,
            "logs": None if options.log is None else [n for n in options.log if n != "none"],
            "scoring": scoring,
        }
        run = _trained(table, split, options, how)
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


def _trained(
    table: "Table", split: "Split", options: argparse.Namespace, how: dict[str, Any]
) -> "TrainingRun":
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.training import train

    if options.cluster is None and options.jobs == 1:
        with progress_bar(options.out.name) as on_progress:
            return train(table, split, only=options.only_fold, on_progress=on_progress, **how)
    from napari_2dmamba.cohort import train_side_by_side
    from napari_2dmamba.cohort.dask_cluster import dask_client

    jobs = min(options.jobs, len(split.folds))
    fit = how["use"].fit
    with (
        dask_client(jobs, options.cluster, fit.device, fit.devices) as client,
        progress_bar(options.out.name) as on_progress,
    ):
        return train_side_by_side(table, split, client=client, on_progress=on_progress, **how)


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
