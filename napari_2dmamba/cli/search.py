"""The command *search*: settings of a training, chosen on its validation part."""

import argparse
from pathlib import Path
from typing import Any

from napari_2dmamba.cli.exit_codes import OK
from napari_2dmamba.cli.options import add_options, given_options, named_values, settings_from
from napari_2dmamba.cli.split import add_split_options, add_table, print_table, table_of
from napari_2dmamba.cli.train import add_model, split_of
from napari_2dmamba.tasks.installed import training_installed


def add_search_command(commands: Any) -> None:
    """Add ``search`` to the command line."""
    from napari_2dmamba.training.settings import FitSettings

    search = commands.add_parser(
        "search", help="try settings of a training, and keep those best on the validation part"
    )
    add_table(search)
    search.add_argument(
        "--out", type=Path, default=Path("search"),
        help="folder of the search; one that was cut off there goes on. Default: search",
    )  # fmt: skip
    search.add_argument("--trials", type=int, default=20, help="settings tried in all. Default: 20")
    search.add_argument(
        "--search-seed", type=int, default=0, help="seed of what is tried. Default: 0"
    )
    add_model(search)
    add_split_options(search)
    add_options(search, FitSettings, "training, the same in every trial", defaults="of the preset")
    search.set_defaults(action=_search)


def _search(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.tasks import SplitSettings, write_split
    from napari_2dmamba.training import FitSettings, search

    if options.trials < 1:
        parser.error("--trials must be at least 1")
    if options.search_seed < 0:
        parser.error("--search-seed must be at least 0")
    table = table_of(options, parser)
    split_settings = settings_from(options, SplitSettings, parser)
    settings_from(options, FitSettings, parser)  # values out of range end here
    with training_installed():
        table.require_usable()
        split = split_of(options, table, split_settings)
        print_table(table, split)
        with progress_bar(options.out.name) as on_progress:
            found = search(
                table,
                split,
                out=options.out,
                architecture=getattr(options, "architecture", "2dmamba"),
                preset_name=getattr(options, "preset", "recommended"),
                fixed=given_options(options, FitSettings),
                config=named_values(options.model_option, "--model-option", parser),
                trials=options.trials,
                seed=options.search_seed,
                on_progress=on_progress,
            )
    kept = write_split(split, options.out / "split.csv")
    for tried, loss in sorted(found.trials, key=lambda one: one[1])[:5]:
        words = ", ".join(f"{name} {value:.3g}" for name, value in tried.items())
        print(f"validation loss {loss:.4f}: {words}")
    print(found.file)
    print(
        f"train with: napari-2dmamba train {options.table} --settings {found.file} "
        f"--split-file {kept}"
    )
    return OK
