"""The command *split*: a table of labelled slides, checked and split by patient."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba.cli.exit_codes import FAILED, OK
from napari_2dmamba.cli.options import add_options, settings_from
from napari_2dmamba.cli.output import complain
from napari_2dmamba.tasks.installed import training_installed

if TYPE_CHECKING:
    from napari_2dmamba.tasks import Split, Table
    from napari_2dmamba.tasks.table import Problem


def add_split_command(commands: Any) -> None:
    """Add ``split`` to the command line."""
    split = commands.add_parser(
        "split", help="check a table of labelled slides and split it by patient"
    )
    add_table(split)
    split.add_argument(
        "--out", type=Path, help="file of the split (.csv). Without it, the table is only checked"
    )
    add_split_options(split)
    split.set_defaults(action=_split)


def add_table(parser: argparse.ArgumentParser) -> None:
    """Add the table and how it is read."""
    from napari_2dmamba.tasks.settings import TableSettings

    parser.add_argument(
        "table",
        type=Path,
        metavar="TABLE",
        help="CSV with the columns slide (or features), patient, and label (or time and event); "
        "also the published tables of CLAM, TCGA survival, BRACS, DHMC, PANDA and BCNB",
    )
    add_options(parser, TableSettings, "table")


def add_split_options(parser: argparse.ArgumentParser) -> None:
    """Add how a table is split."""
    from napari_2dmamba.tasks.settings import SplitSettings

    add_options(parser, SplitSettings, "split")


def table_of(options: argparse.Namespace, parser: argparse.ArgumentParser) -> "Table":
    """Return the table that a command was given."""
    from napari_2dmamba.tasks import TableSettings, read_table

    return read_table(options.table, settings_from(options, TableSettings, parser))


def print_table(table: "Table", split: "Split | None" = None) -> None:
    """Print what the table holds, how it is split, and what is wrong with it."""
    print(f"{table.layout} table, {table.kind}: {table.counts()}")
    if split is not None:
        print(f"split: {split.method}")
        for number, fold in enumerate(split.folds):
            print(
                f"  fold {number}: {len(fold.train)} train, {len(fold.validation)} validation, "
                f"{len(fold.test)} test"
            )
    print_problems(table.problems)


def print_problems(problems: "tuple[Problem, ...]") -> None:
    """Print problems on standard error, those that stop first."""
    for problem in sorted(problems, key=lambda one: not one.stops):
        complain(("error: " if problem.stops else "note: ") + problem.sentence)


def _split(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.tasks import SplitSettings, make_split, write_split
    from napari_2dmamba.tasks.splits import check_split

    table = table_of(options, parser)
    if any(problem.stops for problem in table.problems):
        print_table(table)
        return FAILED
    with training_installed():
        split = make_split(table, settings_from(options, SplitSettings, parser))
    split, problems = check_split(table, split)
    print_table(table.with_problems(problems), split)
    if any(problem.stops for problem in problems):
        return FAILED
    if options.out is not None:
        print(write_split(split, options.out))
    return OK
