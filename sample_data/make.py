"""Make everything in this folder again: the slide, its truth and the demo checkpoints.

``python sample_data/make.py --out sample_data`` makes everything; ``--only slide`` leaves the
checkpoints out, which take most of the time, and ``--work DIR`` keeps their training slides.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sample_data.synthetic_slide import SyntheticSlide, write_pyramid, write_truth
from sample_data.tissue_plan import SlideRecipe

SAMPLE = SlideRecipe(seed=2, width=9216, height=7168, tumour_share=0.20, pieces=2)
"""The committed slide. Training and held-out slides have seeds of 1000 and above."""

SLIDE_NAME = "synthetic-he.tif"
TRUTH_NAME = "synthetic-he-truth.tif"


def make_slide(out: Path) -> None:
    """Write the sample slide and the mask of its tumour."""
    started = time.perf_counter()
    slide = SyntheticSlide(SAMPLE)
    write_pyramid(out / SLIDE_NAME, slide.pixels())
    write_truth(out / TRUTH_NAME, slide.truth(16))
    size = (out / SLIDE_NAME).stat().st_size / 1e6
    print(
        f"{SLIDE_NAME}: {SAMPLE.width} x {SAMPLE.height} px, {size:.1f} MB, "
        f"{len(slide.plan.nuclei.x)} nuclei, {time.perf_counter() - started:.0f} s"
    )


def main() -> None:
    """Make what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--only", choices=("slide", "checkpoints"))
    parser.add_argument(
        "--demo", action="append", help="make this checkpoint alone, by its file name; repeatable"
    )
    parser.add_argument("--work", type=Path, help="keep training slides and features here")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.only != "checkpoints":
        make_slide(arguments.out)
    if arguments.only != "slide":
        from sample_data.demo_checkpoints import DEMOS, make_checkpoints

        make_checkpoints(
            arguments.out,
            arguments.out / SLIDE_NAME,
            arguments.out / TRUTH_NAME,
            arguments.work,
            [demo for demo in DEMOS if demo.file in (arguments.demo or [d.file for d in DEMOS])],
        )


if __name__ == "__main__":
    main()
