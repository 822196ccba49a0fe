"""The commands *evaluate* and *report*: how good a checkpoint, or given predictions, are."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba.cli.exit_codes import OK
from napari_2dmamba.cli.options import add_options, settings_from
from napari_2dmamba.cli.split import add_table, table_of
from napari_2dmamba.errors import EvaluationError
from napari_2dmamba.tasks.installed import training_installed

if TYPE_CHECKING:
    from napari_2dmamba.evaluation import Evaluation


def add_evaluate_command(commands: Any) -> None:
    """Add ``evaluate`` to the command line."""
    from napari_2dmamba.evaluation.settings import EvaluationSettings
    from napari_2dmamba.models.settings import ModelSettings

    evaluate = commands.add_parser(
        "evaluate", help="score a checkpoint on labelled slides it was not trained on"
    )
    evaluate.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    add_table(evaluate)
    evaluate.add_argument("--out", type=Path, help="folder for predictions, scores and report")
    evaluate.add_argument(
        "--seen",
        choices=("leave out", "keep"),
        default="leave out",
        help="slides of patients the model was trained or chosen on. Default: leave out",
    )
    _add_against(evaluate)
    add_options(evaluate, EvaluationSettings, "evaluation")
    add_options(evaluate, ModelSettings, "model")
    evaluate.set_defaults(action=_evaluate)


def add_report_command(commands: Any) -> None:
    """Add ``report`` to the command line."""
    from napari_2dmamba.evaluation.settings import EvaluationSettings

    report = commands.add_parser(
        "report", help="score predictions again and write the report, beside others if given"
    )
    report.add_argument(
        "predictions", type=Path, help="a predictions.csv, or the folder of a training"
    )
    report.add_argument("--out", type=Path, required=True, help="the report (.html)")
    report.add_argument("--title", default="", help="title of the report")
    _add_against(report)
    add_options(report, EvaluationSettings, "evaluation")
    report.set_defaults(action=_report)


def _add_against(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        type=Path,
        metavar="PREDICTIONS",
        help="predictions.csv of another model on the same slides, to test the difference; may "
        "be repeated",
    )


def _evaluate(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.cohort.display import progress_bar
    from napari_2dmamba.evaluation import EvaluationSettings, evaluate
    from napari_2dmamba.evaluation.scoring import write_evaluation
    from napari_2dmamba.models.settings import ModelSettings

    table = table_of(options, parser)
    scoring = settings_from(options, EvaluationSettings, parser)
    with training_installed(), progress_bar(options.checkpoint.name) as on_progress:
        found = evaluate(
            options.checkpoint,
            table,
            scoring,
            settings_from(options, ModelSettings, parser),
            seen=options.seen,
            on_progress=on_progress,
        )
    _print(found)
    if options.out is not None:
        for path in write_evaluation(found, options.out):
            print(path)
        _write(found, options.out / "report.html", options.against, scoring)
    elif options.against:
        parser.error("--against needs --out")
    return OK


def _report(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.evaluation import (
        EvaluationSettings,
        read_predictions,
        score_predictions,
    )

    if options.out.suffix.lower() not in (".html", ".htm"):
        parser.error("--out must end in .html")
    given = options.predictions
    path = given / "predictions.csv" if given.is_dir() else given
    scoring = settings_from(options, EvaluationSettings, parser)
    title = options.title or (given.name if given.is_dir() else given.stem)
    with training_installed():
        remarks = _remarks_beside(path)
        found = score_predictions(read_predictions(path), scoring, title=title, remarks=remarks)
    _print(found)
    _write(found, options.out, options.against, scoring)
    return OK


def _remarks_beside(predictions: Path) -> tuple[str, ...]:
    """Return what a training or an evaluation said of its predictions: it holds as before."""
    try:
        told = json.loads((predictions.parent / "scores.json").read_text(encoding="utf-8"))
        return tuple(str(remark) for remark in told["remarks"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _print(found: "Evaluation") -> None:
    told = found.predictions
    print(f"{len(set(told.slides))} slides of {len(set(told.groups.tolist()))} patients")
    for line in found.lines():
        print(line)
    for remark in found.remarks:
        print(remark)


def _write(found: "Evaluation", path: Path, against: list[Path], scoring: Any) -> None:
    from napari_2dmamba.evaluation import (
        compare_models,
        read_predictions,
        score_predictions,
        write_report,
    )
    from napari_2dmamba.evaluation.comparison import on_common_slides
    from napari_2dmamba.evaluation.report import Rival

    rivals = []
    for other in against:
        name = str(other.parent.name or other.stem)
        told = read_predictions(other)
        if told.kind != found.predictions.kind:
            raise EvaluationError(f"{other} is about {told.kind}; compare models of one task")
        mine, its = on_common_slides(found.predictions, told)
        rivals.append(
            Rival(
                name,
                score_predictions(its, scoring, title=name),
                compare_models(mine, its, permutations=max(1, scoring.resamples)),
            )
        )
        for one in rivals[-1].differences:
            print(
                f"{one.score}: {one.first:.3f} against {one.second:.3f} ({name}) on the "
                f"{len(its)} slides of both, p = {one.p_value:.3g} ({one.test})"
            )
    print(write_report(found, path, rivals=rivals, facts=_facts(scoring)))


def _facts(scoring: Any) -> dict[str, Any]:
    return dataclasses.asdict(scoring)
