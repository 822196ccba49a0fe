"""Read the patches of a grid from a slide, at the grid's resolution."""

import math
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import SlideError
from napari_2dmamba.features.resample import resample
from napari_2dmamba.slide.grid import PatchGrid

if TYPE_CHECKING:
    from napari_2dmamba.slide.slide import Slide

_AHEAD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class PatchBatch:
    """Consecutive patches of a grid.

    Attributes
    ----------
    start
        Index in the grid of the first patch.
    pixels
        ``(B, patch_size, patch_size, 3)`` uint8; white where a patch could not be read.
    unreadable
        Why, by index in the grid, of each patch that could not be read.
    """

    start: int
    pixels: NDArray[np.uint8]
    unreadable: dict[int, str]


class PatchReader:
    """Reads patches from the best stored level, resampled by area, with several threads.

    Parameters
    ----------
    slide, grid
        The patches are `grid`'s, cut from `slide`.
    threads
        Decoding threads.
    """

    def __init__(self, slide: "Slide", grid: PatchGrid, *, threads: int = 2) -> None:
        self.slide, self.grid, self.threads = slide, grid, threads
        wanted = grid.patch_size_level0 / grid.patch_size
        # The coarsest level that is not coarser than wanted, give or take 2 %
        fitting = [i for i, d in enumerate(slide.level_downsamples) if d <= wanted * 1.02]
        self.level = fitting[-1] if fitting else 0
        self.downsample = slide.level_downsamples[self.level]

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return patch ``index`` as ``(patch_size, patch_size, 3)`` uint8.

        Raises
        ------
        SlideError
            Naming the patch.
        """
        x, y = (int(v) for v in self.grid.coords[index])
        size = self.grid.patch_size
        side = self.grid.patch_size_level0 / self.downsample
        left, top = x / self.downsample, y / self.downsample
        if abs(side - size) < 0.5:  # the level is what is asked for: its own pixels, unblurred
            side, left, top = size, round(left), round(top)
        x0, y0 = math.floor(left), math.floor(top)
        width, height = math.ceil(left + side) - x0, math.ceil(top + side) - y0
        corner = (round(x0 * self.downsample), round(y0 * self.downsample))
        try:
            pixels = self.slide.read_region(*corner, self.level, width, height)
        except SlideError as error:
            raise SlideError(
                f"patch {index} of {len(self.grid)} (at x {x}, y {y}) of {self.slide.name} "
                f"cannot be read: {error}"
            ) from error
        return resample(pixels, (left - x0, top - y0, side, side), size)

    def batches(self, size: int, start: int = 0) -> Generator[PatchBatch]:
        """Yield the patches from ``start`` on, ``size`` at a time, read ahead by threads."""
        count, side = len(self.grid), self.grid.patch_size
        ahead = max(2, min(8, _AHEAD_BYTES // (size * side * side * 3)))
        starts = iter(range(start, count, size))
        waiting: deque[tuple[int, NDArray[np.uint8], list[Future[None]]]] = deque()
        with ThreadPoolExecutor(self.threads, "patches") as pool:

            def fill(pixels: NDArray[np.uint8], slot: int, index: int) -> None:
                pixels[slot] = self.read(index)

            def submit() -> None:
                first = next(starts, None)
                if first is None:
                    return
                pixels = np.full((min(size, count - first), side, side, 3), 255, np.uint8)
                jobs = [pool.submit(fill, pixels, i, first + i) for i in range(len(pixels))]
                waiting.append((first, pixels, jobs))

            try:
                for _ in range(ahead):
                    submit()
                while waiting:
                    first, pixels, jobs = waiting.popleft()
                    failures = {first + i: job.exception() for i, job in enumerate(jobs)}
                    unreadable: dict[int, str] = {}
                    for index, failure in failures.items():
                        if isinstance(failure, SlideError):
                            unreadable[index] = str(failure)
                        elif failure is not None:
                            raise failure
                    yield PatchBatch(first, pixels, unreadable)
                    submit()
            finally:
                pool.shutdown(cancel_futures=True)
