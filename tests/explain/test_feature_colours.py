import numpy as np
import pytest

from napari_2dmamba.explain.feature_colours import FeatureColours


def features_of_two_tissues(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    kind = rng.random(count) < 0.4
    features = rng.normal(size=(count, 12)) + kind[:, None] * 5.0
    return features.astype(np.float32), kind


def paint(features: np.ndarray, kept: np.ndarray, batch: int) -> FeatureColours:
    colours = FeatureColours(len(features))
    for first in range(0, len(features), batch):
        part = slice(first, first + batch)
        colours.add(first, features[part], kept[part])
    return colours


def test_the_first_colour_is_the_first_component() -> None:
    features, _ = features_of_two_tissues(400)
    colours = paint(features, np.ones(400, bool), 400)
    z = (features - features.mean(0)) / features.std(0)
    _, vectors = np.linalg.eigh(np.cov(z.astype(np.float64).T))
    for channel in (0, 1):
        score = z @ vectors[:, -1 - channel]
        seen = colours.rgba[:, channel].astype(float)
        inside = (seen > seen.min()) & (seen < seen.max())  # the ends are clipped
        likeness = np.corrcoef(score[inside], seen[inside])[0, 1]
        assert abs(likeness) > 0.999


def test_alike_patches_look_alike_while_they_arrive() -> None:
    features, kind = features_of_two_tissues(300)
    kept = np.ones(300, bool)
    kept[5] = kept[200] = False
    colours = FeatureColours(300)
    reds = []
    for first in range(0, 300, 7):
        part = slice(first, first + 7)
        colours.add(first, features[part], kept[part])
        seen = colours.rgba[:, 3] > 0
        if colours.count >= 16:
            red = colours.rgba[:, 0].astype(int)
            reds.append(red[seen & kind].mean() - red[seen & ~kind].mean())
    assert colours.count == 300
    assert (np.abs(reds) > 60).all()
    assert len(set(np.sign(reds))) == 1  # a tissue does not change its colour meanwhile
    np.testing.assert_array_equal(colours.rgba[:, 3], np.where(kept, 255, 0))


@pytest.mark.parametrize("width", [1, 2, 12])
def test_few_features_and_few_patches(width: int) -> None:
    colours = paint(np.zeros((3, width), np.float32), np.ones(3, bool), 1)
    assert (colours.rgba == [150, 150, 150, 255]).all()  # nothing to compare yet
    colours = paint(np.zeros((9, width), np.float32), np.ones(9, bool), 2)
    assert len(np.unique(colours.rgba, axis=0)) == 1
    colours = paint(np.zeros((9, width), np.float32), np.zeros(9, bool), 2)
    assert not colours.rgba.any()
