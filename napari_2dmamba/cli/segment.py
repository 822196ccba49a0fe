"""The command *segment*: train, test and use segmenters."""

import argparse
import re
from pathlib import Path
from typing import Any

from napari_2dmamba.cli.exit_codes import OK
from napari_2dmamba.cli.options import add_options, settings_from, slide_argument
from napari_2dmamba.cli.output import report


def add_segment_command(commands: Any) -> None:
    """Add ``segment`` to the command line."""
    from napari_2dmamba.vision.segment_settings import SegmentSettings, SegmentTraining

    segment = commands.add_parser("segment", help="train, test and use segmenters of images")
    actions = segment.add_subparsers(title="actions", metavar="ACTION", required=True)

    train = actions.add_parser("train", help="train on folders of images and of masks")
    _folders(train)
    train.add_argument(
        "--classes",
        required=True,
        metavar="A,B",
        help="names, in order; with colours as stroma=#96c896",
    )
    train.add_argument("--out", type=Path, default=Path("segmenter.safetensors"))
    train.add_argument("--device", default="auto")
    add_options(train, SegmentTraining, "training")
    train.set_defaults(action=_train)

    test = actions.add_parser("evaluate", help="mean IoU on folders of images and of masks")
    _folders(test)
    _segmenter(test)
    test.add_argument("--multi-scale", action="store_true", help="six sizes, and mirrored")
    test.add_argument(
        "--own-size",
        action="store_true",
        help="do not resize images to a shorter side of 512 px, as on ADE20K; those of a "
        "segmenter that states its resolution are never resized",
    )
    test.add_argument("--device", default="auto")
    test.set_defaults(action=_evaluate)

    use = actions.add_parser("slide", help="segment a slide or a region of it")
    use.add_argument("slide", type=slide_argument, metavar="SLIDE")
    _segmenter(use)
    use.add_argument("--region", metavar="X,Y,W,H", help="in level-0 pixels. Default: all")
    use.add_argument(
        "--background", default="", metavar="A,B", help="classes without outlines, with commas"
    )
    use.add_argument("--out", type=Path, help="folder. Default: runs/SLIDE-segmented")
    use.add_argument("--mpp", type=float, help="µm per level-0 pixel, where not stated")
    add_options(use, SegmentSettings, "resolution")
    use.add_argument("--window", type=int, default=512, help="side of a window. Default: 512 px")
    use.add_argument("--overlap", type=float, default=0.25, help="share of it. Default: 0.25")
    use.set_defaults(action=_slide)
    for parser in (train, test, use):
        parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def _folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, metavar="IMAGES")
    parser.add_argument(
        "masks", type=Path, metavar="MASKS", help="PNG files of the same names: 0 no class, 1 ..."
    )


def _segmenter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--segmenter", type=Path, required=True, metavar="FILE")
    from napari_2dmamba.vision.segment_settings import SegmentTraining

    scans = SegmentTraining.__dataclass_fields__["scan"].metadata["choices"]
    parser.add_argument(
        "--scan", choices=scans, help="of a published file: 2d for 2DVMamba, 1d for VMamba"
    )
    parser.add_argument(
        "--class-names", type=Path, metavar="FILE", help="of a published file: one name per line"
    )


def _opened(options: argparse.Namespace) -> Any:
    from napari_2dmamba.vision.segmenter_file import TrainedSegmenter, read_class_names

    names = None if options.class_names is None else read_class_names(options.class_names)
    return TrainedSegmenter.load(options.segmenter, scan=options.scan, classes=names)


def _classes(
    given: str, parser: argparse.ArgumentParser
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Return names and colours of ``NAME[=#RRGGBB],...``; all have a colour or none."""
    names, colours = [], []
    for part in given.split(","):
        name, _, ink = (word.strip() for word in part.partition("="))
        if not name:
            continue
        names.append(name)
        if ink:
            if not re.fullmatch(r"#[0-9a-fA-F]{6}", ink):
                parser.error(f"--classes takes colours as #96c896, not {ink!r}")
            red, green, blue = bytes.fromhex(ink[1:])
            colours.append((red, green, blue))
    if colours and len(colours) != len(names):
        parser.error("--classes takes a colour for each class, or for none")
    return tuple(names), tuple(colours)


def _train(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.vision.segment_settings import SegmentTraining

    settings = settings_from(options, SegmentTraining, parser)
    classes, colours = _classes(options.classes, parser)
    if len(classes) < 2:
        parser.error("--classes takes two names or more, with commas")
    if not all(part.strip().isdigit() for part in settings.depths.split(",")):
        parser.error(f"--depths takes numbers with commas, not {settings.depths!r}")
    if options.out.suffix != ".safetensors":
        parser.error(f"--out must end in .safetensors, not {options.out.name!r}")
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.features.encoder import choose_device
    from napari_2dmamba.vision.mask_folder import MaskFolder
    from napari_2dmamba.vision.segment_training import fit_segmenter

    pairs = MaskFolder(options.images, options.masks, len(classes))
    with progress_bar(options.images.name) as on_progress:
        made = fit_segmenter(
            pairs, classes, options.out, settings, colours=colours,
            device=choose_device(options.device), on_progress=on_progress,
        )  # fmt: skip
    answer = {"segmenter": str(options.out), "last_loss": made.training["last_loss"]}
    report(options.json, answer)
    return OK


def _evaluate(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.features.encoder import choose_device
    from napari_2dmamba.vision.mask_folder import MaskFolder
    from napari_2dmamba.vision.segment_evaluation import (
        MULTI_SCALE,
        SINGLE_SCALE,
        evaluate_segmenter,
    )

    segmenter = _opened(options)
    segmenter.network.to(choose_device(options.device))
    pairs = MaskFolder(options.images, options.masks, len(segmenter.classes))
    # One that was trained at a resolution is tested at it: resized images have another
    short_side = None if options.own_size or segmenter.mpp is not None else 512
    with progress_bar(options.images.name) as on_progress:
        found = evaluate_segmenter(
            segmenter,
            pairs,
            short_side=short_side,
            scales=MULTI_SCALE if options.multi_scale else SINGLE_SCALE,
            flip=options.multi_scale,
            on_progress=on_progress,
        )
    seen = "their own size" if short_side is None else f"a shorter side of {short_side} px"
    report(options.json, {**found, "images_seen_at": seen})
    return OK


def _slide(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.vision.segment_settings import SegmentSettings

    settings = settings_from(options, SegmentSettings, parser)
    region = None
    if options.region is not None:
        try:
            x, y, width, height = (int(part) for part in options.region.split(","))
        except ValueError:
            parser.error(f"--region takes X,Y,W,H in level-0 pixels, not {options.region!r}")
        region = (x, y, width, height)
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.segment_slide import segment_slide
    from napari_2dmamba.settings import validate
    from napari_2dmamba.slide import open_slide
    from napari_2dmamba.vision.segment_settings import WindowSettings

    windows = WindowSettings(options.window, options.overlap)
    try:
        validate(windows)
    except ValueError as error:
        parser.error(str(error))
    segmenter = _opened(options)
    background = tuple(name.strip() for name in options.background.split(",") if name.strip())
    out = options.out or Path("runs") / f"{options.slide.stem}-segmented"
    with (
        open_slide(options.slide, mpp=options.mpp) as slide,
        progress_bar(options.slide.name) as on_progress,
    ):
        found, written = segment_slide(
            slide, segmenter, out, settings, windows, region=region, background=background,
            on_progress=on_progress,
        )  # fmt: skip
    area = {name: float((found.labels == k + 1).mean()) for k, name in enumerate(segmenter.classes)}
    told = {"area_of_class": area, "files": [str(path) for path in written]}
    report(options.json, told | ({"remarks": list(found.remarks)} if found.remarks else {}))
    return OK
