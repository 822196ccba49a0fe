"""On the sample slide, of which the truth is known."""

import numpy as np
import tifffile

from napari_2dmamba.explain.faithfulness import faithfulness
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.models import load_checkpoint
from napari_2dmamba.pipeline import run
from napari_2dmamba.sample import demo_checkpoint, sample_slide
from napari_2dmamba.slide import open_slide


def test_a_map_that_knows_the_tumour_beats_random_orders() -> None:
    aggregator = load_checkpoint(demo_checkpoint())
    result = run(sample_slide(), aggregator)
    subject = Subject.of(aggregator, result.bag)
    truth = tifffile.imread(sample_slide().with_name("synthetic-he-truth.tif")) > 0
    side = result.bag.patch_size_level0
    # the mask covers the slide: its share of tumour within each patch, by sampling
    with open_slide(sample_slide()) as slide:
        width, height = slide.dimensions
    scale = np.array(truth.shape) / [height, width]
    steps = (np.arange(8) + 0.5) / 8 * side
    scores = []
    for x, y in result.bag.coords:
        at_row = np.clip((y + steps) * scale[0], 0, truth.shape[0] - 1).astype(int)
        at_col = np.clip((x + steps) * scale[1], 0, truth.shape[1] - 1).astype(int)
        scores.append(truth[np.ix_(at_row, at_col)].mean())
    assert 0.1 < np.mean(np.array(scores) > 0.5) < 0.4
    found = faithfulness(subject, {"truth": np.array(scores)}, steps=8, random_orders=3)
    fell, rose = found.advantage("truth")
    assert fell > 0.1
    assert rose > 0
    assert found.deletion["truth"].area < min(c.area for c in found.random_deletion)
