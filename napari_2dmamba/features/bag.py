"""The feature bag: what an aggregator sees of a slide, and where it came from."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_2dmamba.errors import FeatureError
from napari_2dmamba.slide.grid import cells_of


@dataclass(frozen=True)
class FeatureBag:
    """Features of the patches of one slide.

    Attributes
    ----------
    features
        ``(N, D)`` float32.
    coords
        ``(N, 2)`` int64, level-0 ``(x, y)`` of each patch's top left corner.
    patch_size_level0
        Side of a patch in level-0 pixels.
    patch_size
        Side of a patch in pixels at `mpp`.
    mpp
        µm per pixel the patches were read at, or None when nobody knows.
    slide_mpp
        µm per level-0 pixel, or None.
    encoder
        Name of the encoder, such as ``"stain-texture-v1"``, or None when a file does not say.
    slide_id
        `Slide.fingerprint` of the slide they were computed from, or None for foreign files.
    source
        More about their making, for the run's record.
    path
        The file they lie in, or None.
    cell_size_level0
        Side of the cells that patches stand in, where it is not the side of a patch: less for
        patches that overlap.
    """

    features: NDArray[np.float32]
    coords: NDArray[np.int64]
    patch_size_level0: int
    patch_size: int | None = None
    mpp: float | None = None
    slide_mpp: float | None = None
    encoder: str | None = None
    slide_id: str | None = None
    source: dict[str, Any] = field(default_factory=dict)
    path: Path | None = field(default=None, compare=False)
    cell_size_level0: int | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.coords.shape != (len(self.features), 2):
            raise FeatureError(
                f"features of shape {self.features.shape} and coordinates of shape "
                f"{self.coords.shape} do not belong together; (N, D) and (N, 2) are expected"
            )

    def __len__(self) -> int:
        return len(self.features)

    @property
    def feature_size(self) -> int:
        """D, the number of features per patch."""
        return int(self.features.shape[1])

    @property
    def cell_size(self) -> int:
        """Side of the cells that patches stand in, in level-0 pixels."""
        return self.cell_size_level0 or self.patch_size_level0

    @property
    def cell_inset(self) -> int:
        """How far right of and below a patch's corner its cell begins: it is in the middle."""
        return (self.patch_size_level0 - self.cell_size) // 2

    def canvas_corner(self, cells: NDArray[np.int64]) -> tuple[int, int]:
        """Return the level-0 ``(x, y)`` where the canvas begins on which the patches stand.

        Cells counted from there hold the very patches that ``cells`` ``(N, 2)`` say. Where all
        patches lie on one lattice the cells lie on it too. Where they lie on several, as those of
        tools that begin anew for every piece of tissue, no place of the cells suits all of them.
        """
        corner = self.coords.min(axis=0) - self.cell_size * cells.min(axis=0)[::-1]
        if not np.array_equal(cells_of(self.coords - corner, self.cell_size), cells):
            corner = np.zeros(2, np.int64)
        return int(corner[0]) + self.cell_inset, int(corner[1]) + self.cell_inset

    def at(self, coords: NDArray[np.int64]) -> "FeatureBag":
        """Return the patches with these corners, in this order; itself where one is missing."""
        numbers = {corner: number for number, corner in enumerate(map(tuple, self.coords.tolist()))}
        rows = [numbers.get(corner, -1) for corner in map(tuple, coords.tolist())]
        if -1 in rows:
            return self
        return replace(self, features=self.features[rows], coords=self.coords[rows])

    def where(self, kept: NDArray[np.bool_]) -> "FeatureBag":
        """Return the patches for which ``kept`` ``(N,)`` is True."""
        return replace(self, features=self.features[kept], coords=self.coords[kept])
