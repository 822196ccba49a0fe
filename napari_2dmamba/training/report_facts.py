"""What the report of a training says beside its scores."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from napari_2dmamba.tasks.splits import Fold
from napari_2dmamba.tasks.table import Table


def remarks(table: Table, validated: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    """Say what a reader of the report must know.

    Parameters
    ----------
    validated
        Scores of each model on the part that chose its epoch.
    """
    told = [problem.sentence for problem in table.problems]
    for name in ("auroc", "concordance", "quadratic_kappa"):
        values = [one[name] for one in validated if name in one]
        if values:
            told.append(
                f"on the validation parts, which chose the epochs, the mean {name} is "
                f"{np.mean(values):.3f}: that number is biased"
                + (
                    ", and published survival results are of this kind"
                    if table.kind == "survival"
                    else ""
                )
            )
    return tuple(told)


def commands(
    table: Table, tested: Mapping[str, Fold], models: Mapping[str, Path]
) -> dict[tuple[str, str], str]:
    """Return for each tested slide and model what opens it in the viewer with its map.

    Parameters
    ----------
    tested, models
        Fold and checkpoint of each model by its name.
    """
    known = table.by_name()
    base = table.path.parent if table.path is not None else Path()
    found = {}
    for called, fold in tested.items():
        for name in fold.test:
            slide = known[name].slide
            if slide is None:
                continue
            with_base = os.path.relpath(slide, base)
            model = os.path.relpath(models[called], base)
            given = "" if known[name].mpp is None else f" --mpp {known[name].mpp:g}"
            if (regions := known[name].regions) is not None:
                given += f' --regions "{os.path.relpath(regions, base)}"'
            found[name, called] = (
                f'napari-2dmamba run "{with_base}" --checkpoint "{model}"{given} --out runs'
                f' && napari-2dmamba view --run "runs/{Path(slide).stem}"'
            )
    return found
