"""The model card: what a checkpoint is, in Markdown beside it."""

from pathlib import Path

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.evaluation.scoring import TITLES, Evaluation
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.tasks.table import Table

NOT_TESTED = (
    "Slides of other scanners, laboratories, stains and tissues than those of the table; features "
    "of other encoders or resolutions (they are refused); how the result should be used."
)


def write_model_card(
    header: CheckpointHeader, evaluation: Evaluation | None, table: Table, path: Path
) -> Path:
    """Write the card of a checkpoint; it names no slide and no patient.

    Raises
    ------
    ExportError
        When it cannot be written.
    """
    told = header.training
    settings = told.get("settings", {})
    lines = [
        f"# {header.architecture}: {', '.join(header.class_names)}",
        "",
        f"**Intended use.** {header.intended_use or 'Research. Not for any medical use.'}",
        "",
        f"**Not tested on.** {NOT_TESTED}",
        "",
        "## Data",
        "",
        f"- {told.get('data', table.counts())}",
        f"- table {told.get('table', table.digest())} (hash of names, patients and answers)",
        f"- {told.get('split', '')}",
        f"- features: {header.feature_size} per patch, encoder {header.encoder or 'unknown'}, "
        f"patches of {header.patch_size or '?'} px at {header.mpp or '?'} µm/px",
    ]
    lines += [f"- {problem.sentence}" for problem in table.problems]
    lines += [
        "",
        "## Training",
        "",
        f"Preset {told.get('preset', '?')}; {told.get('epochs_run', '?')} epochs run, weights of "
        f"epoch {told.get('best', {}).get('epoch', -1) + 1} kept.",
        "",
        ", ".join(f"{name} {value}" for name, value in settings.items()) + ".",
        "",
    ]
    lines += [f"{remark}." for remark in told.get("remarks", ())]
    lines += ["", "## Scores", ""]
    if evaluation is None:
        lines.append("Not tested on any slide.")
    else:
        if told.get("model") == "final":
            lines += [
                "Of the models of the folds, each on slides it never saw. This model was trained "
                "in the same way on all slides, so there is no slide left to test it on.",
                "",
            ]
        slides = len(set(evaluation.predictions.slides))
        patients = len(set(evaluation.predictions.groups.tolist()))
        lines += [
            f"{slides} slides of {patients} patients; intervals by bootstrap over patients.",
            "",
            "| score | value |",
            "|---|---|",
        ]
        lines += [
            f"| {TITLES.get(name, name)} | {score} |"
            for name, score in evaluation.scores.items()
            if score.value is not None
        ]
        lines += ["", *(f"- {remark}" for remark in evaluation.remarks)]
    with atomic_write(path) as part:
        part.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path
