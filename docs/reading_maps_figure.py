"""Draw docs/images/attention-and-provenance.webp from the sample slide and the demo model.

python docs/reading_maps_figure.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

from napari_2dmamba.explain.contribution import gradient_times_input
from napari_2dmamba.explain.faithfulness import agreement
from napari_2dmamba.explain.provenance import Provenance
from napari_2dmamba.explain.subject import Subject
from napari_2dmamba.models import load_checkpoint
from napari_2dmamba.pipeline import run
from napari_2dmamba.sample import demo_checkpoint, sample_slide
from napari_2dmamba.slide import open_slide


def main() -> None:
    aggregator = load_checkpoint(demo_checkpoint())
    result = run(sample_slide(), aggregator)
    subject = Subject.of(aggregator, result.bag)
    attention = result.prediction.attention
    patch = int(np.argmax(attention))
    provenance = Provenance(subject).on(patch)
    x, y = subject.corner_of(patch)
    found = agreement(attention, subject.scores_of_map(provenance))
    print(f"query: patch {patch} at x {x}, y {y}; {len(subject)} patches")
    print(f"attention and provenance: Spearman {found.spearman:.2f}, {found.overlap:.0%} of the "
          f"highest {found.k} in common, {found.expected_overlap:.0%} by chance")  # fmt: skip
    print("gradient x input:", gradient_times_input(subject).verdict)

    with open_slide(sample_slide()) as slide:
        picture, (width, height), mpp = slide.thumbnail(800), slide.dimensions, slide.mpp or 1.0
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
    extent = (0, width * mpp / 1000, height * mpp / 1000, 0)
    axes[0].imshow(picture, extent=extent)
    axes[0].set_title("synthetic slide")
    for axis, one, title, bar in (
        (axes[1], result.attention_map, "attention", "attention"),
        (
            axes[2],
            provenance,
            "provenance of the marked patch\n(no colour: exactly zero)",
            "mean absolute weight",
        ),
    ):
        rows, cols = one.values.shape
        left, top = (k * mpp / 1000 for k in one.origin)
        side = one.pixel_size / 1000
        axis.imshow(picture, extent=extent, alpha=0.35)
        largest = float(np.nanmax(one.values))
        norm = LogNorm(float(np.nanmin(one.values)) or 1e-5 * largest, largest)
        shown = axis.imshow(
            np.where(one.values > 0, np.maximum(one.values, norm.vmin), np.nan),
            extent=(left, left + cols * side, top + rows * side, top),
            norm=norm,
        )
        figure.colorbar(shown, ax=axis, shrink=0.9, label=bar)
        axis.set_title(title)
    for axis in axes:
        half = subject.bag.patch_size_level0 / 2
        axis.plot((x + half) * mpp / 1000, (y + half) * mpp / 1000, "r+", ms=12, mew=2)
        axis.set(xlim=extent[:2], ylim=extent[2:], xlabel="mm", ylabel="mm")
    folder = Path(__file__).parent / "images"
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / "attention-and-provenance.webp", dpi=90)


if __name__ == "__main__":
    main()
