"""Features for the slides of a table that have none yet, by the cohort's machinery."""

import os
from pathlib import Path
from typing import Any

from napari_2dmamba.cohort.run import extract_cohort
from napari_2dmamba.cohort.settings import CohortSettings
from napari_2dmamba.cohort.slides import CohortSlide
from napari_2dmamba.errors import Cancelled, CohortError
from napari_2dmamba.pipeline import RunSettings
from napari_2dmamba.tasks.bags import with_features
from napari_2dmamba.tasks.table import Table


def extract_table(
    table: Table,
    settings: RunSettings | None = None,
    *,
    out: str | os.PathLike[str],
    cohort: CohortSettings | None = None,
    **callbacks: Any,
) -> Table:
    """Return the table with features for every slide; those that are there are kept.

    Parameters
    ----------
    table
        Its slides name slide files where they have no features.
    settings, cohort, callbacks
        As of `extract_cohort`.
    out
        Folder of the features, one folder per slide; what is there already is taken.

    Raises
    ------
    CohortError
        When a slide without features names no slide file, or some slides fail.
    Cancelled
        When it was stopped; what is finished is kept.
    """
    wanted = [s for s in table.slides if s.features is None or not s.features.is_file()]
    if not wanted:
        return table
    nameless = [slide.name for slide in wanted if slide.slide is None]
    if nameless:
        raise CohortError(
            f"{len(nameless)} slides have neither features nor a slide file (first "
            f"{nameless[0]}); name the file in the column slide, or the folder of the features"
        )
    slides = [
        CohortSlide(
            Path(os.path.abspath(s.slide)),
            mpp=s.mpp,
            regions=None if s.regions is None else Path(os.path.abspath(s.regions)),
        )
        for s in wanted
        if s.slide is not None
    ]
    summary = extract_cohort(slides, settings, out=out, cohort=cohort, **callbacks)
    if summary.interrupted:
        raise Cancelled
    if summary.failed:
        first = summary.failed[0]
        raise CohortError(
            f"{len(summary.failed)} of {len(slides)} slides failed (first {first.name}: "
            f"{first.reason}); see {summary.table}, mend or leave out these slides"
        )
    made = {os.path.abspath(row.slide): Path(row.folder, "features.h5") for row in summary.rows}
    return with_features(table, {s.name: made[os.path.abspath(str(s.slide))] for s in wanted})
