"""The command *tiles*: train, test and use classifiers of tiles."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_2dmamba.cli.exit_codes import OK
from napari_2dmamba.cli.options import (
    add_options,
    given_options,
    named_values,
    settings_from,
    slide_argument,
)
from napari_2dmamba.cli.output import report


def add_tiles_command(commands: Any) -> None:
    """Add ``tiles`` to the command line."""
    from napari_2dmamba.slide.grid import GridSettings
    from napari_2dmamba.slide.tissue import TissueSettings
    from napari_2dmamba.tiles.settings import TileTraining

    tiles = commands.add_parser("tiles", help="train, test and use classifiers of image tiles")
    actions = tiles.add_subparsers(title="actions", metavar="ACTION", required=True)

    train = actions.add_parser("train", help="train on a folder with one folder per class")
    train.add_argument("folder", type=Path, metavar="FOLDER")
    train.add_argument("--validation", type=Path, metavar="FOLDER", help="in the same layout")
    train.add_argument("--out", type=Path, default=Path("tile-classifier"), metavar="FOLDER")
    train.add_argument(
        "--model-arg", action="append", default=[], metavar="NAME=VALUE",
        help="more arguments of timm.create_model, such as depths=[1,1]",
    )  # fmt: skip
    train.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_options(train, TileTraining, "training")
    train.set_defaults(action=_train)

    test = actions.add_parser("evaluate", help="test on a folder with one folder per class")
    test.add_argument("folder", type=Path, metavar="FOLDER")
    test.add_argument("--classifier", type=Path, metavar="FOLDER", help="what training wrote")
    test.add_argument("--model", help="a timm model with published weights, in place of it")
    test.add_argument("--weights", type=Path, help="of --model; classes are those of FOLDER")
    test.add_argument("--batch-size", type=int, default=64)
    test.add_argument("--device", default="auto")
    test.add_argument("--json", action="store_true", help="print the answer as JSON")
    test.set_defaults(action=_evaluate)

    use = actions.add_parser("classify", help="classify the patches of a slide")
    use.add_argument("slide", type=slide_argument, metavar="SLIDE")
    use.add_argument("--classifier", type=Path, required=True, metavar="FOLDER")
    use.add_argument("--out", type=Path, help="folder. Default: runs/SLIDE-tiles")
    use.add_argument("--mpp", type=float, help="µm per level-0 pixel, where not stated")
    use.add_argument("--regions", type=Path, metavar="GEOJSON", help="as of run")
    use.add_argument("--device", default="auto")
    use.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_options(use, TissueSettings, "tissue")
    add_options(use, GridSettings, "patches", defaults="as the classifier was trained")
    use.set_defaults(action=_classify)


def _train(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.tiles.fitting import fit_tiles
    from napari_2dmamba.tiles.folder import TileFolder
    from napari_2dmamba.tiles.settings import TileTraining

    settings = settings_from(options, TileTraining, parser)
    arguments = named_values(options.model_arg, "--model-arg", parser)
    tiles = TileFolder(options.folder)
    validation = options.validation and TileFolder(options.validation, tiles.classes)
    with progress_bar(options.folder.name) as on_progress:
        found = fit_tiles(
            tiles,
            options.out,
            settings,
            validation=validation,
            arguments=arguments,
            on_progress=on_progress,
        )
    told = found.training
    report(
        options.json,
        {
            "classifier": str(options.out),
            "classes": list(found.classes),
            "best_epoch": told["epoch"],
            "balanced_accuracy": told["balanced_accuracy"],
            "warnings": told.get("remarks") or None,
        },
    )
    return OK


def _evaluate(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.tiles.classifier import TileClassifier
    from napari_2dmamba.tiles.evaluation import evaluate
    from napari_2dmamba.tiles.folder import TileFolder

    published = options.model is not None and options.weights is not None
    if published == (options.classifier is not None):
        parser.error("give --classifier, or --model and --weights")
    if published:
        tiles = TileFolder(options.folder)
        classifier = TileClassifier.of_published(options.model, options.weights, tiles.classes)
    else:
        classifier = TileClassifier.load(options.classifier)
        tiles = TileFolder(options.folder, classifier.classes)
    with progress_bar(options.folder.name) as on_progress:
        found = evaluate(
            classifier,
            tiles,
            batch_size=options.batch_size,
            device=options.device,
            on_progress=on_progress,
        )
    report(options.json, found.summary())
    return OK


def _classify(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.features import FeatureSettings
    from napari_2dmamba.slide import open_slide, read_regions
    from napari_2dmamba.slide.grid import GridSettings
    from napari_2dmamba.slide.tissue import TissueSettings
    from napari_2dmamba.tile_exports import write_tile_maps
    from napari_2dmamba.tiles.classifier import TileClassifier
    from napari_2dmamba.tiles.facts import read_facts
    from napari_2dmamba.tiles.on_slide import classify_slide, tile_grid

    tissue = settings_from(options, TissueSettings, parser)
    grid_settings = replace(
        GridSettings().trained_for(read_facts(options.classifier)),
        **given_options(options, GridSettings),
    )
    classifier = TileClassifier.load(options.classifier)
    out = options.out or Path("runs") / f"{options.slide.stem}-tiles"
    with open_slide(options.slide, mpp=options.mpp) as slide:
        regions = None
        if options.regions is not None:
            regions = read_regions(options.regions, offset=slide.bounds[:2])
        grid = tile_grid(slide, grid_settings, tissue, regions)
        with progress_bar(slide.name) as on_progress:
            found = classify_slide(
                slide,
                grid,
                classifier,
                FeatureSettings(device=options.device),
                cache=out / "cache",
                on_progress=on_progress,
            )
        written = write_tile_maps(found, out, slide)
    share = found.probabilities.argmax(1)
    report(
        options.json,
        {
            "patches": len(found.coords),
            "patches_of_class": {
                name: float((share == k).mean()) for k, name in enumerate(found.classes)
            },
            "files": [str(path) for path in written],
        },
    )
    return OK
