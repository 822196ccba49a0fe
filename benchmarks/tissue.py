"""Share of each slide that counts as tissue, against a single Otsu threshold in the same run.

    python benchmarks/tissue.py SLIDE... [--overlays FOLDER]

There is no drawn truth for real slides: look at the overlays. The alternative is Otsu's threshold
on saturation alone, with the same pieces dropped and holes filled.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu

from napari_2dmamba.slide.slide import open_slide
from napari_2dmamba.slide.tissue import TissueSettings, detect_tissue


def main() -> None:
    """Print one line per slide."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--overlays", type=Path)
    given = parser.parse_args()
    print(f"{'slide':44} {'one Otsu':>9} {'ours':>7} {'time ratio':>11}")
    for path in given.slides:
        with open_slide(path) as slide:
            detect_tissue(slide)  # tiles are in the cache for both
            mask, seconds = timed(lambda slide=slide: detect_tissue(slide).mask)
            pixels = np.asarray(Image.fromarray(slide.thumbnail(1000)).resize(mask.shape[::-1]))
            high = pixels.max(-1)
            saturation = (high - pixels.min(-1)) / np.maximum(high, 1)
            plain = TissueSettings(threshold=float(threshold_otsu(saturation)), remove_pen=False)
            other, other_seconds = timed(
                lambda slide=slide, plain=plain: detect_tissue(slide, plain).mask
            )
        print(
            f"{path.name[:44]:44} {other.mean():9.4f} {mask.mean():7.4f} "
            f"{seconds / other_seconds:11.2f}"
        )
        if given.overlays:
            given.overlays.mkdir(parents=True, exist_ok=True)
            shown = pixels.copy()
            shown[ndimage.binary_dilation(mask, iterations=2) ^ mask] = (0, 160, 0)
            Image.fromarray(shown).save(given.overlays / f"{path.stem}.png")


def timed(work):
    """Return the result and the median seconds of three runs."""
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - begun)
    return result, float(np.median(seconds))


if __name__ == "__main__":
    main()
