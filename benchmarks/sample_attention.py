"""How well the demo checkpoints' attention finds the tumour of synthetic slides.

    python benchmarks/sample_attention.py [--slides 20] [--work DIR]

A patch is positive when more than half of it is tumour in the truth mask, which no training
saw. Beside the attention stands what one feature of the same patches does by itself: mean
haematoxylin. Synthetic tumour is easy; none of these numbers says anything about real tissue.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from napari_2dmamba.evaluation import predict
from napari_2dmamba.evaluation.classification import ranking_auroc
from napari_2dmamba.evaluation.scoring import point_scores
from napari_2dmamba.features.stain_texture import FEATURE_NAMES
from napari_2dmamba.models import Aggregator, load_checkpoint
from napari_2dmamba.sample import demo_checkpoint, demo_survival_checkpoint, sample_slide
from sample_data.demo_checkpoints import HELD_OUT, Case, case_of_file, case_of_seed, labelled

Scorer = Callable[[Case], np.ndarray]


def attention_of(aggregator: Aggregator) -> Scorer:
    """Return what scores the patches of a case by a model's attention."""
    return lambda case: aggregator.predict(case.bag).attention


def haematoxylin(case: Case) -> np.ndarray:
    """Score the patches of a case by their mean haematoxylin."""
    return case.bag.features[:, FEATURE_NAMES.index("H_mean")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=len(HELD_OUT))
    parser.add_argument("--work", type=Path, help="keep held-out slides and features here")
    arguments = parser.parse_args()
    print(
        f"torch {torch.__version__} on {platform.machine()}, {torch.get_num_threads()} threads; "
        "encoder stain-texture-v1, patches of 256 px at 0.5 µm/px"
    )
    started = time.perf_counter()
    sample = case_of_file(sample_slide(), sample_slide().with_name("synthetic-he-truth.tif"))
    positive = sample.tumour_share > 0.5
    print(
        f"{sample_slide().name}: {len(sample.bag)} patches on tissue, {positive.sum()} of them "
        f"tumour; features and truth in {time.perf_counter() - started:.1f} s"
    )
    seeds = HELD_OUT[: arguments.slides]
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        held_out = {seed: case_of_seed(seed, work) for seed in seeds}

    models = {
        "classifier": load_checkpoint(demo_checkpoint()),
        "survival": load_checkpoint(demo_survival_checkpoint()),
    }
    scorers: dict[str, Scorer] = {
        f"attention, {name}": attention_of(model) for name, model in models.items()
    }
    scorers["mean haematoxylin alone"] = haematoxylin
    print(f"{'AUROC of':26}{'sample':>8}{'held-out mean':>15}{'min':>7}{'max':>7}{'slides':>8}")
    for name, scorer in scorers.items():
        on_sample = ranking_auroc(scorer(sample), positive)
        values = [
            ranking_auroc(scorer(case), case.tumour_share > 0.5) for case in held_out.values()
        ]
        found = [value for value in values if value is not None]
        print(
            f"{name:26}{on_sample:8.3f}{np.mean(found):15.3f}{min(found):7.3f}{max(found):7.3f}"
            f"{len(found):8}"
        )
    for name, model in models.items():
        task = model.header.task
        examples = [labelled(seed, case, task) for seed, case in held_out.items()]
        attention = model.predict(sample.bag).attention
        print(
            f"{name}: {attention[positive].sum():.1%} of the attention on the sample's tumour, "
            f"{positive.mean():.1%} of its patches"
        )
        print(f"{name}: {len(examples)} held-out slides: {point_scores(predict(model, examples))}")


if __name__ == "__main__":
    main()
