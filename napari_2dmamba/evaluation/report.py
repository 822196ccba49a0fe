"""The report: one HTML file that needs nothing else."""

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from napari_2dmamba.atomic_files import atomic_write
from napari_2dmamba.evaluation.comparison import Difference
from napari_2dmamba.evaluation.plots import plots
from napari_2dmamba.evaluation.predictions import Predictions
from napari_2dmamba.evaluation.scoring import TITLES, Evaluation

SHOWN = 8
"""Slides shown of the best and of the worst."""


@dataclass(frozen=True)
class Rival:
    """Another model, or a baseline, on the same slides or those of them that it predicted too."""

    name: str
    evaluation: Evaluation
    differences: tuple[Difference, ...] = ()


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1000px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.7em 0}td,th{padding:.25em .8em .25em 0;text-align:left;
vertical-align:top}th{color:#666;font-weight:600}td.n{font-variant-numeric:tabular-nums}
.plots{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0;width:31%;min-width:290px}
figure svg{width:100%;height:auto}figcaption{color:#555;font-weight:600;font-size:.9em}
.note{background:#fff6e0;border-left:3px solid #e0a800;padding:.4em .8em;margin:.4em 0}
code{font-size:.8em;overflow-wrap:anywhere;user-select:all}.quiet{color:#666;font-size:.9em}
"""


def write_report(
    found: Evaluation,
    path: str | os.PathLike[str],
    *,
    commands: Mapping[tuple[str, str], str] | None = None,
    facts: Mapping[str, Any] | None = None,
    rivals: Sequence[Rival] = (),
) -> Path:
    """Write the report of an evaluation.

    Parameters
    ----------
    found
        What was scored.
    path
        Ends in ``.html``.
    commands
        For a slide and a model, the command line that opens it with its map.
    facts
        Names and values told at the end: data, settings.
    rivals
        Other models on the same slides, and how sure the difference is.

    Raises
    ------
    ExportError
        When it cannot be written.
    """
    told = found.predictions
    patients = len(np.unique(told.groups))
    parts = [
        f"<h1>{escape(found.title or 'Evaluation')}</h1>",
        f"<p>{len(set(told.slides))} slides of {patients} patients, "
        f"{len(dict.fromkeys(told.models))} models. Intervals: bootstrap over patients. "
        "Not for any medical use.</p>",
        *(f'<p class="note">{escape(remark)}</p>' for remark in found.remarks),
        "<h2>Scores</h2>",
        _scores(found),
        _details(found),
    ]
    if rivals:
        parts += ["<h2>Compared on the same slides</h2>", _rivals(rivals, set(told.slides))]
    parts.append('<h2>Plots</h2><div class="plots">')
    parts += [
        f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"
        for title, svg in plots(found).items()
    ]
    parts.append("</div>")
    if len(found.by_model) > 1:
        parts += ["<h2>Each model on its own test slides</h2>", _models(found)]
    parts += [_slides(told, commands or {})]
    if facts:
        rows = "".join(
            f"<tr><th>{escape(str(key).replace('_', ' '))}</th><td>{_value(value)}</td></tr>"
            for key, value in facts.items()
            if value not in (None, "", {})
        )
        parts.append(f"<h2>Data and settings</h2><table>{rows}</table>")
    title = escape(found.title or "Evaluation")
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    path = Path(path)
    with atomic_write(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return escape(", ".join(f"{key} {one}" for key, one in value.items()))
    return escape(str(value))


def _scores(found: Evaluation) -> str:
    spread = found.spread()
    head = "<tr><th>score</th><th>all slides together</th><th>interval</th>"
    head += "<th>mean of models</th><th>sd</th></tr>" if spread else "</tr>"
    rows = []
    for name, score in found.scores.items():
        if score.value is None:
            continue
        interval = "" if score.low is None else f"{score.low:.3f} to {score.high:.3f}"
        cells = [TITLES.get(name, name), f"{score.value:.3f}", interval]
        if spread:
            mean, sd, _ = spread.get(name, (None, None, 0))
            cells += ["" if mean is None else f"{mean:.3f}", "" if sd is None else f"{sd:.3f}"]
        rows.append("<tr>" + "".join(f'<td class="n">{escape(c)}</td>' for c in cells) + "</tr>")
    return f"<table>{head}{''.join(rows)}</table>"


def _details(found: Evaluation) -> str:
    pairs = found.details.get("concordance_pairs")
    if pairs is None:
        return ""
    words = (
        f"{found.details['events']} events; {pairs['concordant']} concordant, "
        f"{pairs['discordant']} discordant pairs, {pairs['tied_risk']} with equal risk, "
        f"{pairs['tied_time']} at equal times"
    )
    p_value = found.details["log_rank"]["p_value"]
    if p_value is not None:
        words += f"; log-rank test between the halves of the patients by risk: p = {p_value:.2g}"
    return f'<p class="quiet">{escape(words)}.</p>'


def _rivals(rivals: Sequence[Rival], slides: Set[str]) -> str:
    rows = []
    for rival in rivals:
        certain = {d.score: d for d in rival.differences}
        on = f"{len(slides & set(rival.evaluation.predictions.slides))} of {len(slides)}"
        for name in ("auroc", "balanced_accuracy", "concordance"):
            score = rival.evaluation.scores.get(name)
            if score is None or score.value is None:
                continue
            difference = certain.get(name)
            cells = [rival.name, on, TITLES[name], str(score)]
            if difference is not None:
                cells += [f"{difference.first:.3f}", f"{difference.p_value:.2g}", difference.test]
            rows.append("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>")
    head = "<tr><th>other</th><th>slides</th><th>score</th><th>its value</th><th>this model</th>"
    return f"<table>{head}<th>p</th><th>test</th></tr>{''.join(rows)}</table>"


def _models(found: Evaluation) -> str:
    names = [name for name, score in found.scores.items() if score.value is not None]
    head = "".join(f"<th>{escape(TITLES.get(name, name))}</th>" for name in names)
    rows = []
    for model, scores in found.by_model.items():
        cells = "".join(
            f'<td class="n">{"n/a" if scores.get(n) is None else f"{scores[n]:.3f}"}</td>'
            for n in names
        )
        rows.append(f"<tr><td>{escape(model)}</td>{cells}</tr>")
    return f"<table><tr><th>model</th>{head}</tr>{''.join(rows)}</table>"


def errors_of(told: Predictions) -> np.ndarray:
    """Return ``(n,)`` how wrong each row is: 0 is best.

    Of classes, 1 minus the probability of the right one. Of survival, the share of comparable
    pairs of the slide that its risk orders wrongly; NaN without such pairs.
    """
    if told.kind != "survival":
        return 1 - told.values[np.arange(len(told)), told.labels]
    assert told.times is not None
    assert told.events is not None
    t, e, r = told.times, told.events, told.comparable_risks()
    first = e[:, None] & ((t[:, None] < t) | ((t[:, None] == t) & ~e))
    wrong = first & (r[:, None] < r)
    pairs = first.sum(1) + first.sum(0)
    with np.errstate(invalid="ignore"):
        return (wrong.sum(1) + wrong.sum(0)) / np.where(pairs, pairs, np.nan)


def _slides(told: Predictions, commands: Mapping[tuple[str, str], str]) -> str:
    errors = errors_of(told)
    order = [int(i) for i in np.argsort(errors) if np.isfinite(errors[i])]
    shown = min(SHOWN, (len(order) + 1) // 2)
    text = []
    for title, rows in (("Worst slides", order[::-1][:shown]), ("Best slides", order[:shown])):
        lines = []
        for row in rows:
            command = commands.get((told.slides[row], told.models[row]))
            opened = f"<code>{escape(command)}</code>" if command else ""
            cells = [told.slides[row], told.models[row], *_answer(told, row)]
            line = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            lines.append(f"<tr>{line}<td>{opened}</td></tr>")
        head = (
            "<th>time</th><th>risk</th>" if told.kind == "survival"
            else "<th>label</th><th>answer</th>"
        )  # fmt: skip
        text.append(
            f"<h2>{title}</h2><table><tr><th>slide</th><th>model</th>{head}<th></th></tr>"
            f"{''.join(lines)}</table>"
        )
    if commands:
        text.append(
            '<p class="quiet">Run the commands in the folder of the table; they compute the map '
            "and open it on the slide.</p>"
        )
    return "\n".join(text)


def _answer(told: Predictions, row: int) -> tuple[str, str]:
    if told.kind == "survival":
        assert told.times is not None
        assert told.events is not None
        assert told.risks is not None
        seen = "event" if told.events[row] else "censored"
        return f"{told.times[row]:g} ({seen})", f"{told.risks[row]:.3f}"
    top = int(told.values[row].argmax())
    answer = f"{told.class_names[top]} ({told.values[row, top]:.3f})"
    return told.class_names[told.labels[row]], answer
