"""The rules that drop patches, on patches made to break them."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_2dmamba.features.patch_rules import RULES, rule_that_drops
from tests.features.test_stain_texture import discs, stained
from tests.material import shared


def tissue(mpp: float = 0.5) -> np.ndarray:
    nuclei = discs(7, 20.4, mpp)
    return stained(0.9 * nuclei, 0.5 + 0 * nuclei)[0].numpy()


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_good_tissue_passes_every_rule(mpp):
    assert rule_that_drops(tissue(mpp), mpp, RULES) is None


def test_blank():
    patch = np.full((256, 256, 3), 245, np.uint8)
    assert rule_that_drops(patch, 0.5, RULES) == "blank"
    assert rule_that_drops(patch, 0.5, ("blurred", "pen")) is None
    patch[:60] = tissue()[:60, :256]
    assert rule_that_drops(patch, 0.5, RULES) is None


def test_blurred():
    patch = gaussian_filter(tissue().astype(float), (20, 20, 0)).astype(np.uint8)
    assert rule_that_drops(patch, 0.5, RULES) == "blurred"
    assert rule_that_drops(patch, 0.5, ("blank", "pen")) is None


@pytest.mark.parametrize("ink", [(20, 40, 150), (20, 120, 60), (15, 15, 18), (40, 90, 200)])
def test_pen(ink):
    patch = tissue()
    patch[:120] = ink
    assert rule_that_drops(patch, 0.5, RULES) == "pen"
    patch = tissue()
    patch[:40] = ink
    assert rule_that_drops(patch, 0.5, RULES) is None


def test_real_tissue_is_kept():
    from napari_2dmamba.features.patch_reader import PatchReader
    from napari_2dmamba.slide import GridSettings, detect_tissue, make_grid, open_slide

    with open_slide(shared("slides/he/metaplasia-HE.svs")) as slide:
        grid = make_grid(slide, detect_tissue(slide), GridSettings(min_tissue=0.5))
        reader = PatchReader(slide, grid)
        picked = range(0, len(grid), 9)
        assert [rule_that_drops(reader.read(i), grid.mpp, RULES) for i in picked] == [None] * len(
            picked
        )
