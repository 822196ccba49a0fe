"""Explain one slide, start to end: run the pipeline, then compute maps of why."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_2dmamba.errors import GridError
from napari_2dmamba.settings import ProgressCallback, StopCallback

if TYPE_CHECKING:
    from napari_2dmamba.explain.grid_map import GridMap
    from napari_2dmamba.explain.outcome import Target
    from napari_2dmamba.models import Aggregator
    from napari_2dmamba.pipeline import RunResult, RunSettings

DEFAULT_MAPS = ("provenance", "erf", "gradient-x-input")


@dataclass(frozen=True)
class ExplainedRun:
    """A run and maps of why.

    Attributes
    ----------
    result
        The run; its record names the query and the maps.
    patch
        Number of the patch that maps of a patch are about.
    maps
        By name.
    """

    result: RunResult
    patch: int
    maps: dict[str, GridMap]


def explain_run(
    slide: str | Path,
    checkpoint: Aggregator | str | Path,
    maps: Sequence[str] = DEFAULT_MAPS,
    *,
    at: tuple[float, float] | None = None,
    target: Target = None,
    settings: RunSettings | None = None,
    out: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
    **run_options: Any,
) -> ExplainedRun:
    """Run a model on a slide and compute maps by name.

    Parameters
    ----------
    slide, checkpoint, settings, out, on_progress, should_stop
        As in `pipeline.run`; maps are saved with the run.
    maps
        Names of `explain.named_maps.MAPS`.
    at
        Level-0 ``(x, y)`` in the patch that maps of one patch are about; None takes the patch
        of highest attention.
    target
        Class or bin, by name or number, or ``"risk"``; None for the predicted class or the risk.
    run_options
        Further options of `pipeline.run`: features, regions, mpp.

    Raises
    ------
    UserError
        Any of its kinds; also where no patch lies at the point, or a map has no such name.
    Cancelled
        When ``should_stop()`` said so.
    """
    from napari_2dmamba.explain.named_maps import MAPS, Asked, check_names, compute_maps
    from napari_2dmamba.explain.receptive_field import measure_field
    from napari_2dmamba.explain.subject import Subject
    from napari_2dmamba.export.run_folder import save_run
    from napari_2dmamba.models import Aggregator, load_checkpoint
    from napari_2dmamba.pipeline import RunSettings, run

    check_names(maps)
    settings = settings or RunSettings()
    aggregator = checkpoint if isinstance(checkpoint, Aggregator) else load_checkpoint(checkpoint)
    result = run(
        slide,
        aggregator,
        settings,
        out=out,
        on_progress=on_progress,
        should_stop=should_stop,
        **run_options,
    )
    subject = Subject.of(aggregator, result.bag, settings.model)
    patch = int(np.argmax(result.prediction.attention))
    if at is not None:
        found = subject.patch_at(*at)
        if found is None:
            raise GridError(
                f"no patch lies at x {at[0]:g}, y {at[1]:g} of {Path(slide).name}; give a point "
                "on tissue, in level-0 pixels"
            )
        patch = found
    made = compute_maps(Asked(subject, patch, target, on_progress, should_stop), maps)
    about: dict[str, Any] = {
        "target": target,
        "maps": {name: {"title": one.name, "meaning": one.meaning} for name, one in made.items()},
    }
    if any(MAPS[name].at_patch for name in made):
        x, y = subject.corner_of(patch)
        row, col = subject.cell_of(patch)
        about["query"] = {"patch": patch, "x": x, "y": y, "row": row, "col": col}
    for name in ("erf", "erf-figure"):
        if name in made:
            size = measure_field(subject, made[name], patch)
            about["maps"][name]["size"] = dataclasses.asdict(size)
    result = dataclasses.replace(result, record={**result.record, "explanations": about})
    if out is not None:
        save_run(
            out,
            result.record,
            grid=result.grid,
            prediction=result.prediction,
            maps=[result.attention_map, *made.values()],
        )
    return ExplainedRun(result, patch, made)
