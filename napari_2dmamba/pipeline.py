"""One slide, start to end: tissue, patches, features, model, attention map.

The widget, the command line and Python all call `run`, so that a number on screen, in a
table and in an export is the same number.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_2dmamba.errors import Cancelled, FeatureError, MissingMppError
from napari_2dmamba.explain.grid_map import GridMap, scatter
from napari_2dmamba.features import FeatureSettings
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.settings import ProgressCallback, StopCallback, setting, validate
from napari_2dmamba.slide import GridSettings, Slide, TissueSettings, make_grid, open_slide
from napari_2dmamba.slide.grid import PatchGrid, canvas_of_slide
from napari_2dmamba.slide.regions import Regions, read_regions
from napari_2dmamba.slide.tissue import TissueMask, detect_tissue

if TYPE_CHECKING:
    from napari_2dmamba.features.bag import FeatureBag
    from napari_2dmamba.features.encoder import Encoder
    from napari_2dmamba.features.extract import BatchCallback
    from napari_2dmamba.models import Aggregator
    from napari_2dmamba.models.prediction import SlidePrediction


@dataclass(frozen=True)
class RunSettings:
    """Every setting of a run.

    ``grid`` None takes patch size and resolution from the checkpoint, which is what its
    numbers were trained for.
    """

    tissue: TissueSettings = field(default_factory=TissueSettings)
    grid: GridSettings | None = None
    features: FeatureSettings = field(default_factory=FeatureSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    in_pixels: bool = setting(
        False,
        "Work in level-0 pixels when the slide states no µm per pixel.",
        label="Without µm/px, use pixels",
    )


@dataclass(frozen=True)
class RunResult:
    """What a run found, and everything needed to show, export and repeat it.

    Attributes
    ----------
    slide_path
        The slide file.
    grid
        The patches; made from the coordinates when features came from a file.
    bag
        Their features.
    prediction
        The model's answer.
    attention_map
        Attention as a map on the slide.
    record
        Settings, versions and checksums: enough to repeat the run.
    folder
        Where the run was saved, or None.
    """

    slide_path: Path
    grid: PatchGrid
    bag: FeatureBag
    prediction: SlidePrediction
    attention_map: GridMap
    record: dict[str, Any]
    folder: Path | None = None


def grid_settings_for(aggregator: Aggregator, **chosen: Any) -> GridSettings:
    """Return the grid a checkpoint was trained on, with what the user chose put over it."""
    defaults = GridSettings()
    header = aggregator.header
    trained = {
        "patch_size": header.patch_size or defaults.patch_size,
        "target_mpp": header.mpp or defaults.target_mpp,
    }
    return dataclasses.replace(defaults, **(trained | chosen))


def prepare_grid(
    slide: Slide, settings: RunSettings, grid_settings: GridSettings, regions: Regions | None
) -> tuple[TissueMask, PatchGrid]:
    """Find the tissue of a slide and cut it into patches.

    Raises
    ------
    MissingMppError
        When the slide states no µm per pixel and pixels were not asked for.
    """
    slide.require_brightfield()
    if slide.mpp is None and not settings.in_pixels:
        raise MissingMppError(
            f"{slide.name} states no usable µm per pixel ({slide.mpp_source}); give it "
            "(--mpp 0.25, the µm/px field, or the column mpp of a list of slides), or choose to "
            "work in pixels"
        )
    tissue = detect_tissue(slide, settings.tissue, regions)
    return tissue, make_grid(slide, tissue, grid_settings)


def prepare_bag(
    slide: Slide,
    settings: RunSettings,
    grid_settings: GridSettings,
    *,
    features: FeatureBag | str | Path | None = None,
    regions: Regions | str | Path | None = None,
    cache: str | Path | None = None,
    encoder: Encoder | None = None,
    on_progress: ProgressCallback | None = None,
    on_batch: BatchCallback | None = None,
    should_stop: StopCallback | None = None,
) -> tuple[PatchGrid, FeatureBag]:
    """Return the patches of a slide and their features: extracted, or those given.

    ``cache`` is a folder for features; for the other arguments see `run`.

    Raises
    ------
    UserError
        When the slide cannot be analysed, or the features do not belong to it.
    Cancelled
        When ``should_stop`` said so.
    """
    from napari_2dmamba.features import extract_features
    from napari_2dmamba.features.bag import FeatureBag
    from napari_2dmamba.features.files import read_features

    if features is not None:
        bag = features if isinstance(features, FeatureBag) else read_features(features)
        return grid_of_bag(bag, slide), bag
    if on_progress is not None:
        on_progress(0, 0, "finding tissue")
    if isinstance(regions, str | Path):
        regions = read_regions(regions, offset=slide.bounds[:2])
    _, grid = prepare_grid(slide, settings, grid_settings, regions)
    _stop_if(should_stop)
    bag = extract_features(
        slide,
        grid,
        settings.features,
        encoder=encoder,
        cache=Path(cache) if cache is not None else None,
        on_progress=on_progress,
        on_batch=on_batch,
        should_stop=should_stop,
    )
    return grid, bag


def run(
    slide: Slide | str | Path,
    checkpoint: Aggregator | str | Path,
    settings: RunSettings | None = None,
    *,
    features: FeatureBag | str | Path | None = None,
    regions: Regions | str | Path | None = None,
    mpp: float | None = None,
    out: str | Path | None = None,
    encoder: Encoder | None = None,
    on_progress: ProgressCallback | None = None,
    on_batch: BatchCallback | None = None,
    should_stop: StopCallback | None = None,
) -> RunResult:
    """Run an aggregator on one slide.

    Parameters
    ----------
    slide
        An open slide, or the path of one.
    checkpoint
        A loaded aggregator, or the path of a checkpoint.
    settings
        Defaults throughout when None.
    features
        Features computed before (a bag, or an ``.h5`` or ``.pt`` file); None extracts them.
    regions
        Regions to include and exclude, or a GeoJSON file of them.
    mpp
        µm per level-0 pixel, for a slide that does not state it; only with a path.
    out
        Folder for this run; features are cached there and an interrupted run continues from it.
    encoder
        A loaded encoder, instead of the one the settings name.
    on_progress, on_batch, should_stop
        See `settings.ProgressCallback`, `features.extract.BatchCallback` and
        `settings.StopCallback`.

    Raises
    ------
    UserError
        Any of its kinds, with a message that says what to do.
    Cancelled
        When ``should_stop`` said so. Finished batches are kept in ``out``.
    """
    from napari_2dmamba.export.record import make_record
    from napari_2dmamba.export.run_folder import save_run
    from napari_2dmamba.models import Aggregator, load_checkpoint

    started = datetime.now(UTC)
    settings = settings or RunSettings()
    for stage in (settings.tissue, settings.grid, settings.features, settings.model):
        if stage is not None:
            validate(stage)
    say = on_progress or (lambda done, total, message: None)
    own_slide = not isinstance(slide, Slide)
    opened = slide if isinstance(slide, Slide) else open_slide(slide, mpp=mpp)
    try:
        say(0, 0, "loading the checkpoint")
        aggregator = (
            checkpoint if isinstance(checkpoint, Aggregator) else load_checkpoint(checkpoint)
        )
        grid_settings = settings.grid or grid_settings_for(aggregator)
        settings = dataclasses.replace(settings, grid=grid_settings)
        grid, bag = prepare_bag(
            opened,
            settings,
            grid_settings,
            features=features,
            regions=regions,
            cache=out,
            encoder=encoder,
            on_progress=on_progress,
            on_batch=on_batch,
            should_stop=should_stop,
        )
        aggregator.check_fits(bag)
        _stop_if(should_stop)

        say(0, 0, "running the model")
        prediction = aggregator.predict(bag, settings.model)
        attention_map = scatter(
            prediction.attention,
            bag.coords,
            bag.patch_size_level0,
            name="attention",
            meaning=prediction.attention_meaning,
            mpp=opened.mpp,
            shared_cells=settings.model.shared_cells,
        )
        record = make_record(
            slide=opened,
            grid=grid,
            bag=bag,
            prediction=prediction,
            settings={
                "tissue": settings.tissue,
                "grid": grid_settings,
                "features": settings.features,
                "model": settings.model,
                "in_pixels": settings.in_pixels,
            },
            checkpoint=aggregator.path,
            features=bag.path,
            model=dataclasses.asdict(aggregator.header),
            device_reason=prediction.extra.get("device_reason", ""),
            warnings=[*opened.remarks, *prediction.extra.get("unchecked", [])],
            started=started,
        )
        result = RunResult(opened.path, grid, bag, prediction, attention_map, record)
        if out is not None:
            say(0, 0, "saving")
            folder = save_run(out, record, grid=grid, prediction=prediction, maps=[attention_map])
            result = dataclasses.replace(result, folder=folder)
        return result
    finally:
        if own_slide:
            opened.close()


def summary_of(result: RunResult) -> dict[str, Any]:
    """Return what a run says in a few lines: prediction, patches, where it was saved."""
    prediction = result.prediction
    answer: dict[str, Any] = {
        "slide": result.slide_path.name,
        "patches": len(result.bag),
        "task": prediction.task,
        "background_attention": prediction.background_mass,
        "device": prediction.device,
        "backend": prediction.backend,
        "folder": str(result.folder) if result.folder else None,
    }
    if prediction.probabilities is not None:
        answer["prediction"] = prediction.class_names[prediction.top_class]
        answer["probabilities"] = {
            name: float(p)
            for name, p in zip(prediction.class_names, prediction.probabilities, strict=True)
        }
    if prediction.survival is not None:
        answer["risk"] = prediction.risk
        answer["survival"] = [float(s) for s in prediction.survival]
    return answer


def grid_of_bag(bag: FeatureBag, slide: Slide) -> PatchGrid:
    """Return the grid that features from a file lie on, checked against the slide.

    Raises
    ------
    FeatureError
        When the features belong to another slide, or lie outside this one.
    """
    if bag.slide_id is not None and bag.slide_id != slide.fingerprint:
        raise FeatureError(
            f"these features were computed from another slide than {slide.name} (its content "
            "differs); choose the slide they belong to, or extract features again"
        )
    width, height = slide.dimensions
    outside = ((bag.coords < 0) | (bag.coords >= [width, height])).any(axis=1)
    if outside.any():
        raise FeatureError(
            f"{int(outside.sum())} of {len(bag)} patches lie outside {slide.name} "
            f"({width} x {height} px); the features belong to another slide or level"
        )
    patch_size = bag.patch_size or bag.patch_size_level0
    return PatchGrid(
        patch_size=patch_size,
        patch_size_level0=bag.patch_size_level0,
        mpp=bag.mpp,
        slide_mpp=slide.mpp,
        canvas=canvas_of_slide(slide.dimensions, bag.patch_size_level0),
        coords=bag.coords,
        tissue_fraction=np.full(len(bag), np.nan, dtype=np.float32),
    )


def _stop_if(should_stop: StopCallback | None) -> None:
    if should_stop is not None and should_stop():
        raise Cancelled("stopped; what was finished is kept")
