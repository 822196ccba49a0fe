"""The record of a run that just ended: what it was made of and with."""

import dataclasses
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_2dmamba import __version__
from napari_2dmamba.export.content_hash import features_hash, file_hash
from napari_2dmamba.export.finite import refuse_not_finite
from napari_2dmamba.export.json_file import as_json
from napari_2dmamba.export.record import (
    ExplainedPatch,
    FeaturesRecord,
    GridRecord,
    ModelRecord,
    RegionsRecord,
    ResultRecord,
    RunRecord,
    SlideRecord,
)
from napari_2dmamba.export.typed_json import read_typed
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models.prediction import SlidePrediction
from napari_2dmamba.slide.grid import PatchGrid
from napari_2dmamba.slide.regions import Regions

if TYPE_CHECKING:
    from napari_2dmamba.explain.patch_numbers import Extent
    from napari_2dmamba.explain.subject import Subject
    from napari_2dmamba.slide import Slide

_PACKAGES = (
    "torch", "numpy", "scipy", "scikit-image", "openslide-python", "openslide-bin", "tifffile",
    "imagecodecs", "h5py", "safetensors", "timm", "napari",
)  # fmt: skip


def make_record(
    *,
    slide: "Slide",
    grid: PatchGrid,
    bag: FeatureBag,
    prediction: SlidePrediction,
    settings: Mapping[str, Any],
    checkpoint: str | os.PathLike[str] | None = None,
    features: str | os.PathLike[str] | None = None,
    features_given: bool = False,
    model: Mapping[str, Any] | None = None,
    told: Mapping[str, Any] | None = None,
    regions: Regions | None = None,
    device_reason: str = "",
    warnings: Sequence[str] = (),
    started: datetime | None = None,
) -> RunRecord:
    """Gather what made a result.

    Parameters
    ----------
    slide, grid, bag, prediction
        What went through the pipeline.
    settings
        One settings dataclass per stage, by the stage's name.
    checkpoint
        File of the model; its SHA-256 goes into the record.
    features
        File that the features were read from or are cached in.
    features_given
        Whether that file was the user's.
    model
        What the model says of itself: architecture, training, intended use.
    told
        What the user said of the model because its file does not.
    regions
        What the run was restricted to.
    device_reason
        Why this device and backend were chosen.
    warnings
        Sentences that were shown to the user.
    started
        When the run began, with time zone; now when absent.

    Raises
    ------
    ExportError
        When the prediction holds what is no finite number.
    """
    refuse_not_finite(prediction)
    now = datetime.now(UTC).replace(microsecond=0)
    begun = (started or now).astimezone(UTC)
    return RunRecord(
        started=begun.replace(microsecond=0),
        finished=now,
        seconds=(datetime.now(UTC) - begun).total_seconds(),
        software=software(),
        slide=SlideRecord(
            name=slide.path.name,
            path=str(slide.path.resolve()),
            fingerprint=slide.fingerprint,
            backend=slide.backend,
            dimensions_level0_px=_integers(slide.dimensions),
            bounds_level0_px=_integers(slide.bounds),
            mpp=slide.mpp,
            mpp_source=slide.mpp_source,
            kind=slide.kind,
        ),
        grid=GridRecord(
            patches=len(grid),
            patch_size_px=int(grid.patch_size),
            patch_size_level0_px=int(grid.patch_size_level0),
            mpp=None if grid.mpp is None else float(grid.mpp),
            canvas_rows_cols=_integers(grid.canvas),
        ),
        features=FeaturesRecord(
            path=None if features is None else str(Path(features).resolve()),
            content_sha256=features_hash(bag),
            patches=len(bag),
            size=bag.feature_size,
            encoder=bag.encoder,
            slide_fingerprint=bag.slide_id,
            source=as_json(bag.source),
            given=features_given,
        ),
        model=ModelRecord(
            checkpoint=None if checkpoint is None else Path(checkpoint).name,
            checkpoint_path=None if checkpoint is None else str(Path(checkpoint).resolve()),
            checkpoint_sha256=None if checkpoint is None else file_hash(checkpoint),
            device=prediction.device,
            backend=prediction.backend,
            device_name=_device_name(prediction.device),
            device_reason=device_reason,
            told=as_json(told or {}),
            header=as_json(model or {}),
        ),
        settings=as_json(settings),
        result=read_typed(ResultRecord, as_json(vars(prediction)), "result"),
        regions=regions_record(regions),
        warnings=tuple(warnings),
    )


def regions_record(regions: Regions | None) -> RegionsRecord | None:
    """Return what a record says of regions; None for none, as notes change nothing."""
    roles = [region.role for region in regions or ()]
    included, excluded = roles.count("include"), roles.count("exclude")
    if regions is None or not included + excluded:
        return None
    return RegionsRecord(included, excluded, regions.content_hash())


def _integers(values: Sequence[Any]) -> Any:
    return tuple(int(value) for value in values)


def software() -> dict[str, Any]:
    """Return versions of what computes, and the kind of machine, without names of people."""
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "napari-2dmamba": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "executable": Path(sys.executable).name,
    }


def _device_name(device: str) -> str:
    """Return the model of a GPU, or the processor family."""
    if device.startswith("cuda"):
        import torch

        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return platform.processor() or platform.machine()


def explained_patch(
    subject: "Subject", patch: int, extents: "Mapping[str, Extent]"
) -> ExplainedPatch:
    """Return what a record says of a patch that was asked about, and how far its maps reach."""
    reach = {
        name: as_json({**dataclasses.asdict(one.size), "own_share": one.own_share})
        for name, one in extents.items()
    }
    return ExplainedPatch(patch, *subject.corner_of(patch), *subject.place_of(patch), reach)
