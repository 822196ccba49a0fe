"""Share of each slide that counts as tissue, against Otsu and CLAM's recipe in the same run.

    python benchmarks/tissue.py SLIDE... [--overlays FOLDER]

There is no drawn truth for real slides: look at the overlays (ours green, CLAM's red). *Otsu* is
Otsu's threshold on saturation alone, with our rules for pieces and holes. *CLAM* is its published
recipe with the default settings (Lu et al., 2021): saturation of HSV in 256 steps, median over
7 x 7, above 8 (or above Otsu's threshold), closed by 4 x 4, pieces of 100 and holes of 16 patches
of 512 px kept, at most 8 holes a piece. It counts in pixels of the full resolution and looks at
the level reduced 64 times, which is meant for 40x: here 0.25 µm/px is taken for that, whatever the
slide has, so that slides stored at lower resolution are judged alike.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu

from napari_2dmamba.slide.slide import Slide, open_slide
from napari_2dmamba.slide.tissue import TissueSettings, detect_tissue

_CLAM_MPP = 0.25 * 64
_CLAM_PATCH = (512 * 0.25) ** 2
"""Area in µm² that CLAM counts pieces and holes in."""


def main() -> None:
    """Print one line per slide."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--overlays", type=Path)
    given = parser.parse_args()
    print(f"{'slide':44} {'ours':>7} {'Otsu':>7} {'CLAM':>7} {'CLAM Otsu':>10} {'time ratio':>11}")
    for path in given.slides:
        with open_slide(path) as slide:
            detect_tissue(slide)  # tiles are in the cache for all
            mask, seconds = timed(lambda slide=slide: detect_tissue(slide).mask)
            pixels = np.asarray(Image.fromarray(slide.thumbnail(1000)).resize(mask.shape[::-1]))
            high = pixels.max(-1)
            saturation = (high - pixels.min(-1)) / np.maximum(high, 1)
            plain = TissueSettings(threshold=float(threshold_otsu(saturation)), remove_pen=False)
            other, other_seconds = timed(
                lambda slide=slide, plain=plain: detect_tissue(slide, plain).mask
            )
            clam, clam_otsu = (clam_recipe(slide, otsu=otsu) for otsu in (False, True))
        print(
            f"{path.name[:44]:44} {mask.mean():7.4f} {other.mean():7.4f} {clam.mean():7.4f} "
            f"{clam_otsu.mean():10.4f} {seconds / other_seconds:11.2f}"
        )
        if given.overlays:
            given.overlays.mkdir(parents=True, exist_ok=True)
            shown = pixels.copy()
            resized = np.asarray(Image.fromarray(clam).resize(mask.shape[::-1]))
            for found, line in ((resized, (220, 0, 0)), (mask, (0, 160, 0))):
                shown[ndimage.binary_dilation(found, iterations=2) ^ found] = line
            Image.fromarray(shown).save(given.overlays / f"{path.stem}.png")


def clam_recipe(slide: Slide, *, otsu: bool) -> NDArray[np.bool_]:
    """Return the tissue as CLAM's recipe finds it; 8 µm/px are assumed for 1000 px without mpp."""
    longest = max(slide.dimensions)
    size = longest * slide.mpp if slide.mpp is not None else 1000 * 8.0
    side = max(1, min(longest, round(size / _CLAM_MPP)))
    pixels = slide.thumbnail(side)
    area = (size / side) ** 2
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV"))
    saturation = ndimage.median_filter(hsv[..., 1], 7)
    mask = saturation > (threshold_otsu(saturation) if otsu else 8)
    mask = ndimage.binary_closing(np.pad(mask, 4), np.ones((4, 4)))[4:-4, 4:-4]
    kept = np.zeros_like(mask)
    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    for number in range(1, count + 1):
        piece = pieces == number
        if piece.sum() * area <= 100 * _CLAM_PATCH:
            continue
        holes, _ = ndimage.label(ndimage.binary_fill_holes(piece) & ~piece)
        sizes = np.bincount(holes.ravel())
        sizes[0] = 0
        large = [
            hole for hole in np.argsort(sizes)[::-1][:8] if sizes[hole] * area > 16 * _CLAM_PATCH
        ]
        kept |= ndimage.binary_fill_holes(piece) & ~np.isin(holes, large)
    return kept


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
