"""Make everything in this folder again: the slide, its truth and the demo checkpoints.

python sample_data/make.py --out sample_data              # everything
python sample_data/make.py --out DIR --only slide         # slide and truth, one minute
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sample_data.synthetic_slide import SyntheticSlide, write_pyramid
from sample_data.tissue_plan import SlideRecipe

SAMPLE = SlideRecipe(seed=2, width=9216, height=7168, tumour_share=0.20, pieces=2)
"""The committed slide. Training and held-out slides have seeds of 1000 and above."""

TRUTH_DOWNSAMPLE = 16
SLIDE_NAME = "synthetic-he.tif"
TRUTH_NAME = "synthetic-he-truth.tif"


def make_slide(out: Path) -> None:
    """Write the sample slide and the mask of its tumour."""
    started = time.perf_counter()
    slide = SyntheticSlide(SAMPLE)
    write_pyramid(out / SLIDE_NAME, slide.pixels())
    write_truth(out / TRUTH_NAME, slide.truth(TRUTH_DOWNSAMPLE))
    size = (out / SLIDE_NAME).stat().st_size / 1e6
    print(
        f"{SLIDE_NAME}: {SAMPLE.width} x {SAMPLE.height} px, {size:.1f} MB, "
        f"{len(slide.plan.nuclei.x)} nuclei, {time.perf_counter() - started:.0f} s"
    )


def write_truth(path: Path, mask: np.ndarray) -> None:
    """Write a mask as uint8, 255 on tumour; mpp in its resolution tags."""
    per_cm = 1e4 / (0.5 * TRUTH_DOWNSAMPLE)
    temporary = path.with_name(path.name + ".part")
    tifffile.imwrite(
        temporary,
        np.where(mask, 255, 0).astype(np.uint8),
        compression="zlib",
        photometric="minisblack",
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    temporary.replace(path)


def main() -> None:
    """Make what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--only", choices=("slide", "checkpoints"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.only != "checkpoints":
        make_slide(arguments.out)


if __name__ == "__main__":
    main()
