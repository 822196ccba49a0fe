"""Trivial rivals on the same folds: what a model must beat before it is worth anything."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import Cancelled
from napari_2dmamba.evaluation.predictions import Predictions, together
from napari_2dmamba.settings import StopCallback
from napari_2dmamba.tasks.bags import TableBags
from napari_2dmamba.tasks.splits import Split
from napari_2dmamba.tasks.table import Table

STRENGTH = 0.01
"""Inverse strength of the ridge penalty, fixed so that nothing is chosen on the results."""

NAMES = ("mean of the features", "tissue area")


def baseline_predictions(
    table: Table, split: Split, *, should_stop: StopCallback | None = None
) -> dict[str, Predictions]:
    """Predict the test part of every fold by logistic regression on one vector per slide.

    The vector is the mean of the slide's features, or the logarithm of its number of patches.
    Of a fold, train and validation part are fitted. Nothing for survival.

    Raises
    ------
    FeatureError
        When a features file cannot be read.
    Cancelled
        When ``should_stop()`` said so.
    """
    if table.kind == "survival" or not any(fold.test for fold in split.folds):
        return {}
    names = [slide.name for slide in table.slides]
    means, areas = [], []
    for example in TableBags(table, names, memory_mb=0):
        if should_stop is not None and should_stop():
            raise Cancelled
        means.append(example.bag.features.mean(0, dtype=np.float64))
        areas.append([np.log(len(example.bag))])
    vectors = dict(zip(NAMES, (np.stack(means), np.array(areas)), strict=True))
    return {name: _predicted(table, split, names, x) for name, x in vectors.items()}


def _predicted(
    table: Table, split: Split, names: Sequence[str], vectors: NDArray[np.float64]
) -> Predictions:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    row = {name: index for index, name in enumerate(names)}
    labels = np.array([table.class_index(slide) for slide in table.slides])
    parts, patients = [], []
    for number, fold in enumerate(split.folds):
        fitted = np.array([row[name] for name in (*fold.train, *fold.validation)])
        test = np.array([row[name] for name in fold.test], np.int64)
        if not len(test):
            continue
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000)
        )
        model.fit(vectors[fitted], labels[fitted])
        values = np.zeros((len(test), len(table.classes)))
        values[:, model[-1].classes_] = model.predict_proba(vectors[test])
        patients.append([table.slides[i].patient for i in test])
        parts.append(
            Predictions(
                table.kind,
                table.classes,
                tuple(fold.test),
                np.arange(len(test)),
                (f"fold {number}",) * len(test),
                values,
                labels[test],
            )
        )
    return together(parts, patients)
