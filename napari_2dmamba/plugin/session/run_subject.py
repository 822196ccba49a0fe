"""The model and the features of the run on display, read to be asked more."""

import dataclasses
from pathlib import Path

from napari_2dmamba.errors import CheckpointError, FeatureError
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.export.content_hash import features_hash, file_hash
from napari_2dmamba.features import FeatureFileSettings
from napari_2dmamba.features.lattice import laid_out
from napari_2dmamba.features.on_slide import features_on
from napari_2dmamba.models import load_checkpoint
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.plugin.session.shown_run import ShownRun


def subject_of(shown: ShownRun) -> Subject:
    """Read what further maps of a run start from; to be called off the GUI thread.

    Raises
    ------
    CheckpointError, FeatureError
        When model or features of the run are gone, or are not those of the run any more.
    """
    bag = shown.bag
    aggregator = load_checkpoint(_checkpoint(shown), **shown.record.model.told)
    stages = shown.record.settings
    chosen = ModelSettings(**{**stages.get("model", {}), "device": "auto"})
    if bag is None:
        path = _find(shown, shown.record.features.path)
        if path is None:
            raise FeatureError(
                "the features of this run were not kept, or were moved; run the slide again "
                "to inspect it"
            )
        given = FeatureFileSettings(**stages.get("feature_file", {}))
        bag = features_on(shown.slide, path, trained=aggregator.header, given=given)
        if len(bag) > len(shown.grid):  # the run was restricted to regions
            bag = bag.at(shown.grid.coords)
        bag, _ = laid_out(
            bag, uses_grid=aggregator.model.uses_grid, shared_cells=chosen.shared_cells
        )
        if features_hash(bag) != shown.record.features.content_sha256:
            raise FeatureError(
                f"{path} was changed since the run; run the slide again to inspect it"
            )
    if bag.slide_mpp != shown.slide.mpp:  # maps are placed on the slide as it is shown
        bag = dataclasses.replace(bag, slide_mpp=shown.slide.mpp)
    return Subject.of(aggregator, bag, chosen)


def _checkpoint(shown: ShownRun) -> Path:
    said = shown.record.model
    path = _find(shown, said.checkpoint_path)
    if path is None:
        raise CheckpointError(
            f"the checkpoint {said.checkpoint} of this run is neither at "
            f"{said.checkpoint_path} nor in the run's folder; put it back to inspect the run"
        )
    if said.checkpoint_sha256 not in (None, file_hash(path)):
        raise CheckpointError(
            f"{path} is not the checkpoint of this run any more (its checksum differs); put the "
            "old one back, or run the slide again"
        )
    return path


def _find(shown: ShownRun, path: str | None) -> Path | None:
    """Return where a file of the run lies, which may have moved together with the run."""
    if path is None:
        return None
    places = [Path(path)]
    if shown.folder is not None:
        places += [shown.folder / Path(path).name, shown.folder.parent / Path(path).name]
    return next((place for place in places if place.is_file()), None)
