"""Options of every command that runs a model."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from napari_2dmamba.cli.options import add_options, given_options, named_values, settings_from


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what a run needs besides its slides."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="model checkpoint (default: the demo checkpoint, "
        "trained on synthetic slides, not for any medical use)",
    )
    add_analysis_options(
        parser,
        trained="as the checkpoint was trained",
        features="features computed before (.h5, .pt, .parquet), or a folder with one file per "
        "slide",
    )


def add_analysis_options(parser: argparse.ArgumentParser, *, trained: str, features: str) -> None:
    """Add how slides are analysed, whatever models are asked; needs settings of every stage.

    Parameters
    ----------
    trained
        The default of patches, in words.
    features
        What ``--features`` may be, in words.
    """
    from napari_2dmamba.features import FeatureFileSettings, FeatureSettings
    from napari_2dmamba.models.settings import ModelSettings
    from napari_2dmamba.slide.grid import GridSettings
    from napari_2dmamba.slide.tissue import TissueSettings

    parser.add_argument(
        "--checkpoint-setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting that a published checkpoint does not hold; may be repeated",
    )
    parser.add_argument(
        "--features",
        dest="feature_file",
        type=Path,
        help=features,
    )
    parser.add_argument(
        "--in-pixels",
        action="store_true",
        help="work in level-0 pixels on slides that state no µm per pixel",
    )
    add_options(parser, TissueSettings, "tissue")
    add_options(parser, GridSettings, "patches", defaults=trained)
    add_options(parser, FeatureSettings, "features")
    add_trust_option(parser)
    add_options(parser, FeatureFileSettings, "features computed before")
    add_options(parser, ModelSettings, "model")


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add the consent to an encoder that is a program."""
    parser.add_argument(
        "--trust-encoder",
        action="store_true",
        help="run the TorchScript file given as --encoder: a program that can do what you can. "
        "Remembered for this content of the file",
    )


def trust_if_asked(options: argparse.Namespace, encoder: str) -> None:
    """Keep the consent to an encoder where it was given."""
    if options.trust_encoder:
        from napari_2dmamba.features.trust import trust_encoder

        trust_encoder(encoder)


def model_of(
    options: argparse.Namespace, parser: argparse.ArgumentParser
) -> tuple[Path, dict[str, Any], Any]:
    """Return checkpoint, what was said about it, and the settings of a run with it."""
    from napari_2dmamba.features import FeatureFileSettings, FeatureSettings
    from napari_2dmamba.features.files import require_features
    from napari_2dmamba.models import checkpoint_header
    from napari_2dmamba.models.settings import ModelSettings
    from napari_2dmamba.pipeline import RunSettings
    from napari_2dmamba.sample import demo_checkpoint
    from napari_2dmamba.slide.grid import GridSettings
    from napari_2dmamba.slide.tissue import TissueSettings

    if options.feature_file is not None:
        require_features(options.feature_file, or_folder=True)
    settings = RunSettings(
        tissue=settings_from(options, TissueSettings, parser),
        features=settings_from(options, FeatureSettings, parser),
        feature_file=settings_from(options, FeatureFileSettings, parser),
        model=settings_from(options, ModelSettings, parser),
        in_pixels=options.in_pixels,
    )
    trust_if_asked(options, settings.features.encoder)
    checkpoint = options.checkpoint or demo_checkpoint()
    given = named_values(options.checkpoint_setting, "--checkpoint-setting", parser)
    trained = GridSettings().trained_for(checkpoint_header(checkpoint, **given))
    grid = dataclasses.replace(trained, **given_options(options, GridSettings))
    return checkpoint, given, dataclasses.replace(settings, grid=grid)
