"""The model and the features of the run on display, read to be asked more."""

import dataclasses

from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.features.lattice import laid_out
from napari_2dmamba.models import load_checkpoint
from napari_2dmamba.pipeline import settings_of
from napari_2dmamba.plugin.session.shown_run import ShownRun


def subject_of(shown: ShownRun) -> Subject:
    """Read what further maps of a run start from; to be called off the GUI thread.

    Raises
    ------
    UserError
        When model or features of the run are gone, or are not those of the run any more.
    """
    saved = shown.as_saved()
    aggregator = load_checkpoint(saved.find_checkpoint(), **shown.record.model.told)
    chosen = dataclasses.replace(settings_of(shown.record).model, device="auto")
    bag = shown.bag
    if bag is None:
        bag, _ = laid_out(
            saved.read_features(shown.slide),
            uses_grid=aggregator.model.uses_grid,
            shared_cells=chosen.shared_cells,
        )
    if bag.slide_mpp != shown.slide.mpp:  # maps are placed on the slide as it is shown
        bag = dataclasses.replace(bag, slide_mpp=shown.slide.mpp)
    return Subject.of(aggregator, bag, chosen)
