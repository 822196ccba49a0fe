"""Train the demo checkpoints on synthetic slides, and measure what they find.

Training sees one label per slide and nothing else. The truth masks are used afterwards only, to
measure how well the attention of the finished model finds the tumour.
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

from napari_2dmamba.evaluation import predict
from napari_2dmamba.evaluation.classification import ranking_auroc
from napari_2dmamba.evaluation.scoring import point_scores
from napari_2dmamba.features import extract_features, read_features, write_features
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import Aggregator, CheckpointHeader, save_checkpoint
from napari_2dmamba.models.checkpoint import build_model
from napari_2dmamba.slide import GridSettings, detect_tissue, make_grid, open_slide
from napari_2dmamba.slide.tissue import TissueSettings
from napari_2dmamba.tasks import LabelledBag
from napari_2dmamba.training import FitSettings, fit
from napari_2dmamba.training.fitting import Epoch, sentence
from sample_data.cohort import BIN_EDGES, FIRST_SEED, outcome_of, recipe_of
from sample_data.synthetic_slide import SyntheticSlide, write_pyramid, write_truth

PATCH_SIZE, PATCH_MPP = 256, 0.5
"""128 µm patches, half the usual: the sample slide is small, and its map should not be coarse."""

TRAINING = range(FIRST_SEED, FIRST_SEED + 90)
VALIDATION = range(FIRST_SEED + 90, FIRST_SEED + 110)
HELD_OUT = range(FIRST_SEED + 110, FIRST_SEED + 130)

CLASS_NAMES = ("no tumour (synthetic)", "tumour (synthetic)")
BIN_NAMES = tuple(
    f"{low:g} to {high:g} years (synthetic)"
    if np.isfinite(high)
    else f"from {low:g} years on (synthetic)"
    for low, high in zip((0.0, *BIN_EDGES), (*BIN_EDGES, np.inf), strict=True)
)
WARNING = (
    "Demo trained on synthetic slides only, to show how the software works. Its output on real "
    "tissue means nothing. Not for any medical use."
)


@dataclass(frozen=True)
class Case:
    """A synthetic slide as the software sees it, with the truth for afterwards.

    Attributes
    ----------
    bag
        Features by the embedded encoder, through the software's own reader, tissue and grid.
    tumour_share
        ``(N,)``, share of each patch that is tumour.
    """

    bag: FeatureBag
    tumour_share: NDArray[np.float64]


def case_of_file(slide_path: Path, truth_path: Path, store: Path | None = None) -> Case:
    """Extract the features of a slide file and read its truth; `store` keeps the features."""
    if store is not None and store.is_file():
        bag = read_features(store)
    else:
        with open_slide(slide_path) as slide:
            tissue = detect_tissue(slide, TissueSettings())
            grid = make_grid(slide, tissue, GridSettings(PATCH_SIZE, PATCH_MPP))
            bag = extract_features(slide, grid)
        if store is not None:
            write_features(bag, store)
    return Case(bag, tumour_share_of(bag, tifffile.imread(truth_path) > 0))


def tumour_share_of(
    bag: FeatureBag, truth: NDArray[np.bool_], downsample: int = 16
) -> NDArray[np.float64]:
    """Return the share of each patch that a truth mask marks."""
    side = bag.patch_size_level0 // downsample
    corners = np.asarray(bag.coords) // downsample
    return np.array([truth[y : y + side, x : x + side].mean() for x, y in corners])


def case_of_seed(seed: int, work: Path) -> Case:
    """Paint a slide of the cohort into `work`, unless it is there, and extract its features."""
    slide_path, truth_path = work / f"{seed}.tif", work / f"{seed}-truth.tif"
    store = work / f"{seed}.h5"
    if not truth_path.is_file():
        slide = SyntheticSlide(recipe_of(seed))
        write_pyramid(slide_path, slide.pixels())
        write_truth(truth_path, slide.truth(16))
    return case_of_file(slide_path, truth_path, store)


def attention_aurocs(aggregator: Aggregator, cases: Sequence[Case]) -> list[float]:
    """Return how well attention finds patches more than half tumour, one per slide with both."""
    found = []
    for case in cases:
        attention = aggregator.predict(case.bag).attention
        value = ranking_auroc(attention, case.tumour_share > 0.5)
        if value is not None:
            found.append(value)
    return found


@dataclass(frozen=True)
class Demo:
    """A demo model before it is trained.

    Attributes
    ----------
    file
        Name of its checkpoint.
    architecture, config
        As in the header; feature size and outputs are added.
    fit
        How it is trained.
    task
        ``"classification"`` or ``"survival"``.
    """

    file: str
    architecture: str
    config: dict[str, Any]
    fit: FitSettings
    task: str = "classification"

    def untrained(self, feature_size: int) -> Aggregator:
        """Return the model with fresh weights."""
        names = CLASS_NAMES if self.task == "classification" else BIN_NAMES
        header = CheckpointHeader(
            architecture=self.architecture,
            config={"feature_size": feature_size, "n_outputs": len(names), **self.config},
            task=self.task,
            class_names=names,
            encoder="stain-texture-v1",
            patch_size=PATCH_SIZE,
            mpp=PATCH_MPP,
            intended_use=WARNING,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Aggregator(build_model(header), header)


def labelled(seed: int, case: Case, task: str) -> LabelledBag:
    """Return a bag with the label of its slide."""
    recipe = recipe_of(seed)
    if task == "classification":
        return LabelledBag(case.bag, int(recipe.tumour_share > 0))
    outcome = outcome_of(recipe)
    return LabelledBag(case.bag, outcome.time_bin, outcome.censored, outcome.years)


def train(
    untrained: Aggregator, settings: FitSettings, cases: dict[int, Case], *, verbose: bool = True
) -> Aggregator:
    """Fit a demo model and put what was measured on held-out slides into its header."""
    task = untrained.header.task

    def part(seeds: range) -> list[LabelledBag]:
        return [labelled(seed, cases[seed], task) for seed in seeds]

    def tell(epoch: Epoch) -> None:
        if verbose:
            print(f"  {sentence(epoch)}", flush=True)

    result = fit(untrained, part(TRAINING), part(VALIDATION), settings, on_epoch=tell)
    held_out = point_scores(predict(result.aggregator, part(HELD_OUT)))
    aurocs = attention_aurocs(result.aggregator, [cases[seed] for seed in HELD_OUT])
    training = {
        "data": f"{len(TRAINING)} synthetic slides (sample_data/make.py), slide labels only",
        **result.summary(settings),
        "held_out_slides": len(HELD_OUT),
        "held_out": {k: v for k, v in held_out.items() if v is not None},
        "held_out_attention_auroc_mean": float(np.mean(aurocs)),
        "held_out_attention_auroc_min": float(np.min(aurocs)),
        "held_out_attention_slides": len(aurocs),
    }
    header = dataclasses.replace(result.aggregator.header, training=training)
    return Aggregator(result.aggregator.model, header)


_FIT = FitSettings(
    epochs=12, learning_rate=5e-4, weight_decay=1e-2, accumulate=1, patience=0, clip=0.0,
    class_weights=False, device="cpu",
)  # fmt: skip
_SURVIVAL_FIT = dataclasses.replace(_FIT, learning_rate=3e-4, accumulate=4)
_2DMAMBA = {"d_model": 64, "d_state": 16, "canvas_mode": "slide", "attention_over": "tissue"}
_MAMBA = {"d_model": 64, "attention_hidden": 32}

DEMOS = (
    Demo("demo-2dmamba.safetensors", "2dmamba", _2DMAMBA, _FIT),
    Demo("demo-2dmamba-survival.safetensors", "2dmamba", _2DMAMBA, _SURVIVAL_FIT, "survival"),
    Demo("demo-abmil.safetensors", "abmil", {"hidden": 64, "attention_hidden": 32}, _FIT),
    Demo("demo-clam-sb.safetensors", "clam", {"hidden": 64, "attention_hidden": 32}, _FIT),
    Demo("demo-dsmil.safetensors", "dsmil", {"query_size": 32}, _FIT),
    Demo("demo-transmil.safetensors", "transmil", {"dim": 64}, _FIT),
    Demo("demo-mambamil.safetensors", "mambamil", {**_MAMBA, "kind": "mamba"}, _FIT),
    Demo("demo-srmambamil.safetensors", "mambamil", {**_MAMBA, "kind": "srmamba"}, _FIT),
)


def make_checkpoints(
    out: Path,
    slide: Path,
    truth: Path,
    work: Path | None = None,
    demos: Sequence[Demo] = DEMOS,
) -> None:
    """Paint the cohort, train the demo models, write them, and print what was measured."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        cases = {}
        for seed in (*TRAINING, *VALIDATION, *HELD_OUT):
            cases[seed] = case_of_seed(seed, folder)
            print(f"\rslide {seed}: {len(cases[seed].bag)} patches", end="", flush=True)
    print()
    sample = case_of_file(slide, truth)
    size = sample.bag.feature_size
    for demo in demos:
        print(demo.file)
        trained = train(demo.untrained(size), demo.fit, cases)
        save_checkpoint(trained, out / demo.file)
        print(f"  held out: {trained.header.training}")
        (auroc,) = attention_aurocs(trained, [sample])
        print(f"  attention AUROC on {slide.name}: {auroc:.3f}")
