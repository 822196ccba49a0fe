"""Run several models on the same patches of one slide."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from napari_2dmamba.compare.comparison import Comparison, Entry, place, title_of
from napari_2dmamba.compare.contender import (
    SCORE,
    Contender,
    check_contenders,
    refuse_strangers,
)
from napari_2dmamba.compare.cost import fastest_pass, peak_of_forward
from napari_2dmamba.errors import Cancelled, UserError
from napari_2dmamba.explain.maps import MAPS, MapRequest, compute_maps
from napari_2dmamba.explain.outcome import Target, named_target
from napari_2dmamba.explain.subject import Subject, patch_under
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.features.lattice import laid_out
from napari_2dmamba.features.on_slide import grid_of
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.pipeline import (
    RunResult,
    RunSettings,
    prepare_bag,
    regions_on,
    run_on_bag,
)
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.slide import GridSettings, Slide, open_slide
from napari_2dmamba.slide.regions import Regions


def compare(
    slide: Slide | str | Path,
    contenders: Sequence[Contender],
    settings: RunSettings | None = None,
    *,
    features: FeatureBag | str | Path | None = None,
    regions: Regions | str | Path | None = None,
    mpp: float | None = None,
    cache: str | Path | None = None,
    at: tuple[float, float] | None = None,
    target: Target = None,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> Comparison:
    """Run models on one slide: one tissue, one grid, one bag of features, one run of each.

    Every model first makes a pass that warms up and in which its memory is counted, then the one
    that gives the prediction; where that took little time, a few more for its time alone.

    Parameters
    ----------
    slide, settings, features, regions, mpp
        As in `pipeline.run`; the first model's checkpoint says how the slide is cut, unless
        the settings do. ``settings.model`` is for contenders without settings of their own.
    contenders
        Two to six maps in all: of as many models, or several of one.
    cache
        Folder for extracted features.
    at
        Level-0 ``(x, y)`` in the patch that maps of one patch are about; None takes the patch
        to which the first model gives its highest score.
    target
        What maps of the answer explain, as in `explain_run`; None for each model's own answer.
    on_progress, should_stop
        See `settings`.

    Raises
    ------
    UserError
        Any of its kinds. Whether the models can share a bag is found out before anything runs.
    Cancelled
        When ``should_stop()`` said so.
    """
    check_contenders(contenders)
    settings = settings or RunSettings()
    say = on_progress or (lambda done, total, message: None)
    say(0, 0, "loading the checkpoints")
    models = [contender.load() for contender in contenders]
    labels = [contender.label for contender in contenders]
    unchecked = refuse_strangers(labels, [model.header for model in models])
    for label, model in zip(labels, models, strict=True):
        with _about(label):
            named_target(model.header, target)
    with _opened(slide, mpp) as opened:
        grid_settings = settings.grid or GridSettings().trained_for(models[0].header)
        settings = dataclasses.replace(settings, grid=grid_settings)
        regions = regions_on(opened, regions)
        grid, bag = prepare_bag(
            opened,
            settings,
            grid_settings,
            features=features,
            regions=regions,
            trained=models[0].header,
            cache=cache,
            on_progress=on_progress,
            should_stop=should_stop,
        )
        for label, model in zip(labels, models, strict=True):
            with _about(label):
                model.check_fits(bag)
        uses_grid = any(model.model.uses_grid for model in models)
        with_grid = contenders[0].settings or settings.model
        bag, overlap = laid_out(bag, uses_grid=uses_grid, shared_cells=with_grid.shared_cells)
        grid = grid_of(bag, opened) if len(bag) != len(grid) else grid
        unchecked = (*unchecked, *overlap)
        query = None
        if at is not None:
            cells, _ = models[0].place(bag, with_grid)
            query = patch_under(bag, cells, at, opened.name)
        entries: list[Entry] = []
        for number, (contender, model) in enumerate(zip(contenders, models, strict=True)):
            _stop_if(should_stop)
            say(number, len(models), f"running {contender.label}")
            options = contender.settings or settings.model
            with _about(contender.label):
                inputs = model.prepare(bag, options)
                peak, meaning = peak_of_forward(inputs)
                result = run_on_bag(
                    opened,
                    model,
                    dataclasses.replace(settings, model=options),
                    grid,
                    bag,
                    features_given=features is not None,
                    regions=regions,
                    should_stop=should_stop,
                )
                seconds = fastest_pass(inputs, result.prediction.extra["seconds"])
                if query is None:
                    query = int(np.argmax(result.prediction.attention))
                asked = MapRequest(
                    Subject.of(model, bag, options),
                    query,
                    target,
                    on_progress=on_progress,
                    should_stop=should_stop,
                )
                entries += _entries(contender, result, asked, seconds, peak)
                unchecked = (*unchecked, *result.record.warnings)
        unchecked = tuple(dict.fromkeys((*unchecked, *_risks_without_scale(labels, models))))
        say(len(models), len(models), "done")
    asks = [name for contender in contenders for name in contender.maps if name != SCORE]
    if not any(MAPS[name].at_patch for name in asks):
        query = None
    return Comparison(opened.path, grid, bag, tuple(entries), meaning, unchecked, query, regions)


def _risks_without_scale(labels: Sequence[str], models: Sequence[Aggregator]) -> Iterator[str]:
    """Say of which models the risks cannot be held against each other."""
    survival = [
        (label, model.header)
        for label, model in zip(labels, models, strict=True)
        if model.header.task == "survival"
    ]
    bins = {header.class_names for _, header in survival}
    cox = any(len(header.class_names) == 1 for _, header in survival)
    if len(survival) > 1 and (len(bins) > 1 or cox):
        yield (
            f"the risks of {', '.join(label for label, _ in survival)} have no common scale ("
            + ("each Cox model has a baseline of its own" if cox else "their time bins differ")
            + "): hold them against other slides of the same model, not against each other"
        )


def _entries(
    contender: Contender, result: RunResult, asked: MapRequest, seconds: float, peak: int | None
) -> Iterator[Entry]:
    """Make the maps that were asked of one model."""
    for name in contender.maps:
        found, scores = result.attention_map, result.prediction.attention.astype(np.float64)
        if name != SCORE:
            found = compute_maps(asked, [name])[name]
            scores = asked.subject.scores_of_map(found)
        yield Entry(
            label=contender.label,
            map_name=name,
            prediction=result.prediction,
            grid_map=place(
                asked.subject.bag,
                scores,
                name=title_of(contender.label, name),
                meaning=found.meaning,
                signed=found.signed,
                display_range=found.display_range,
                quantity=found.quantity,
                queries=found.queries,
            ),
            scores=scores,
            seconds=seconds,
            peak_bytes=peak,
            header=asked.subject.header,
            record=result.record,
        )


@contextmanager
def _about(label: str) -> Iterator[None]:
    """Say whose error it is."""
    try:
        yield
    except UserError as error:
        error.args = (f"{label}: {error}",)  # the kind keeps what else it carries
        raise


@contextmanager
def _opened(slide: Slide | str | Path, mpp: float | None) -> Iterator[Slide]:
    if isinstance(slide, Slide):
        yield slide
        return
    with open_slide(slide, mpp=mpp) as opened:
        yield opened


def _stop_if(should_stop: StopCallback | None) -> None:
    if should_stop is not None and should_stop():
        raise Cancelled("stopped; nothing of the comparison is kept but cached features")
