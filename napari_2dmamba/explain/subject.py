"""What an explanation is about: a model and a bag made ready for it, and where they lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_2dmamba.errors import GridError
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models.aggregator import Aggregator
from napari_2dmamba.models.architecture import Architecture, ModelOutput
from napari_2dmamba.models.finite import require_finite
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.models.settings import ModelSettings
from napari_2dmamba.slide.grid import place_of

Query = int | tuple[int, int]
"""A patch by its number in the bag, or a cell ``(row, col)`` of the canvas, tissue or not."""


@dataclass(frozen=True)
class Entered:
    """What the first layer of a network makes of the features of a bag.

    Attributes
    ----------
    values
        ``(N, d)``; the features themselves where the network names no `Architecture.entrance`.
    weight
        ``(d, D)`` of that layer, or None.
    factor
        ``(min(d, D), d)``: multiplied by it, a gradient has the norm it has before the layer.
    """

    values: Tensor
    weight: Tensor | None = None
    factor: Tensor | None = None


@dataclass(frozen=True)
class Subject:
    """A model and a bag, prepared exactly as `Aggregator.predict` prepares them.

    Attributes
    ----------
    bag
        The bag.
    header
        What is known about the model: task, class names.
    model
        The network with the options of this run.
    features
        ``(N, D)`` on the model's device.
    cells
        ``(N, 2)`` int64 ``(row, col)`` of the patches on the canvas.
    canvas
        ``(rows, cols)``.
    record
        Options of the run, for its record.
    """

    bag: FeatureBag
    header: CheckpointHeader
    model: Architecture
    features: Tensor
    cells: Tensor
    canvas: tuple[int, int]
    record: dict[str, Any]

    @classmethod
    def of(
        cls, aggregator: Aggregator, bag: FeatureBag, settings: ModelSettings | None = None
    ) -> Self:
        """Prepare a model and a bag.

        Raises
        ------
        CheckpointError, GridError, FeatureError, BackendError
            See `Aggregator.prepare`.
        """
        inputs = aggregator.prepare(bag, settings, keeps=True)
        return cls(
            bag,
            aggregator.header,
            inputs.model,
            inputs.features,
            inputs.cells,
            inputs.canvas,
            {**inputs.record, "device": inputs.device},
        )

    def __len__(self) -> int:
        return len(self.bag)

    def run(self, features: Tensor | None = None, **more: Any) -> ModelOutput:
        """Run the network on the bag, or on other features of the same patches."""
        given = self.features if features is None else features
        return self.model(given, self.cells, self.canvas, **more)

    def patch_states(self, features: Tensor, layer: int = -1) -> Tensor:
        """Return the vector of every patch after a layer: see `Architecture.patch_states`."""
        return self.model.patch_states(features, self.cells, self.canvas, layer=layer)

    @cached_property
    def entered(self) -> Entered:
        """What the first layer makes of the features; computed once for all questions."""
        entrance = self.model.entrance
        if entrance is None:
            return Entered(self.features)
        with torch.no_grad():
            weight = entrance.weight.detach()
            factor = torch.linalg.qr(weight.t().double(), mode="r").R.to(weight.dtype)
            return Entered(entrance(self.features), weight, factor)

    def states_of(self, patches: Tensor, entered: Tensor, layer: int = -1) -> Tensor:
        """Return the vectors of a few patches: see `Architecture.states_of`."""
        return self.model.states_of(patches, entered, self.cells, self.canvas, layer=layer)

    @property
    def layers(self) -> int:
        """Layers of the model that can be asked."""
        return self.model.depth

    @property
    def cells_of_patches(self) -> NDArray[np.int64]:
        """``(N, 2)`` cells as numpy."""
        return self.cells.cpu().numpy()

    @cached_property
    def origin(self) -> tuple[int, int]:
        """Level-0 ``(x, y)`` of the top left corner of the canvas."""
        return self.bag.canvas_corner(self.cells_of_patches)

    @property
    def cell_um(self) -> float | None:
        """Side of a cell in µm; None where the slide states no µm per pixel."""
        mpp = self.bag.slide_mpp
        return None if mpp is None else self.bag.cell_size * mpp

    def patch_at(self, x: float, y: float) -> int | None:
        """Return the number of the patch under a level-0 point; None where there is none.

        It is the patch that maps show there: where patches overlap, that of the cell. Where they
        show none, it is the one whose middle is nearest.
        """
        return _patch_at(self.bag, self.cells_of_patches, self.origin, x, y)

    def patch_with_corner(self, corner: tuple[int, int]) -> int | None:
        """Return the number of the patch with this level-0 ``(x, y)`` corner; None without one."""
        found = np.flatnonzero((self.bag.coords == corner).all(axis=1))
        return int(found[-1]) if len(found) else None

    def cell_of(self, query: Query) -> tuple[int, int]:
        """Return the cell of a patch number, or a cell checked against the canvas.

        Raises
        ------
        ValueError
            When there is no such patch or cell.
        """
        if isinstance(query, int | np.integer):
            if not 0 <= query < len(self):
                raise ValueError(f"there is no patch {query}; the bag holds {len(self)}")
            row, col = self.cells_of_patches[query]
            return int(row), int(col)
        row, col = int(query[0]), int(query[1])
        if not (0 <= row < self.canvas[0] and 0 <= col < self.canvas[1]):
            raise ValueError(
                f"the cell ({row}, {col}) lies off the canvas of {self.canvas[0]} x "
                f"{self.canvas[1]} cells"
            )
        return row, col

    def corner_of(self, query: Query) -> tuple[int, int]:
        """Return the level-0 ``(x, y)`` of the top left corner of a patch, as tables have it.

        Of a cell it is that of the patch in whose middle the cell lies, be there one or not.
        """
        if isinstance(query, int | np.integer):
            self.cell_of(query)  # refuses numbers of no patch
            x, y = self.bag.coords[query]
            return int(x), int(y)
        x, y = self.cell_corner_of(query)
        return x - self.bag.cell_inset, y - self.bag.cell_inset

    def cell_corner_of(self, query: Query) -> tuple[int, int]:
        """Return the level-0 ``(x, y)`` of the top left corner of the cell of a patch, on maps."""
        row, col = self.cell_of(query)
        x, y = self.origin
        side = self.bag.cell_size
        return x + col * side, y + row * side

    def place_of(self, query: Query) -> tuple[int, int]:
        """Return ``(row, col)`` of a patch or cell on the slide's grid: see `grid.place_of`."""
        return place_of(self.corner_of(query), self.bag.patch_size_level0)

    def place_words(self, query: Query) -> str:
        """Say where a patch or cell lies on the slide's grid."""
        row, col = self.place_of(query)
        return f"row {row}, column {col}"

    def map_of_canvas(
        self,
        values: Tensor | NDArray[np.floating],
        name: str,
        meaning: str,
        *,
        signed: bool = False,
        all_cells: bool = False,
        quantity: str = "",
        queries: Sequence[Query] = (),
        gaps: bool = False,
    ) -> GridMap:
        """Place ``(rows, cols)`` values of the canvas on the slide; ``queries`` are its subject.

        The map covers the bounding box of the patches, as the attention map does, with NaN
        where there is no patch; with ``all_cells`` the whole canvas, pad cells included.

        Raises
        ------
        NotFiniteError
            When a value is infinite, or not a number where a patch lies; with ``gaps`` NaN may
            stand there too.
        """
        array = _array(values)
        if array.shape != self.canvas:
            raise ValueError(f"values are {array.shape}, but the canvas is {self.canvas}")
        at_patches = array[tuple(self.cells_of_patches.T)]
        require_finite(
            f"values of the map {name!r}",
            at_patches[~np.isnan(at_patches)] if gaps else array if all_cells else at_patches,
        )
        about = tuple(self.cell_corner_of(query) for query in queries)
        if all_cells:
            return self._map(array, (0, 0), name, meaning, signed, quantity, about)
        cells = self.cells_of_patches
        (top, left), (bottom, right) = cells.min(axis=0), cells.max(axis=0) + 1
        shown = np.full(array.shape, np.nan, np.float32)
        shown[cells[:, 0], cells[:, 1]] = array[cells[:, 0], cells[:, 1]]
        corner = int(top), int(left)
        return self._map(
            shown[top:bottom, left:right], corner, name, meaning, signed, quantity, about
        )

    def map_of_patches(
        self,
        scores: Tensor | NDArray[np.floating],
        name: str,
        meaning: str,
        *,
        signed: bool = False,
        quantity: str = "",
        queries: Sequence[Query] = (),
        gaps: bool = False,
    ) -> GridMap:
        """Place one score per patch on the slide; the later patch of a shared cell is shown.

        See `map_of_canvas` for ``gaps`` and errors.
        """
        array = _array(scores)
        if array.shape != (len(self),):
            raise ValueError(f"scores are {array.shape}, but the bag holds {len(self)} patches")
        canvas = np.full(self.canvas, np.nan, np.float32)
        cells = self.cells_of_patches
        canvas[cells[:, 0], cells[:, 1]] = array
        return self.map_of_canvas(
            canvas, name, meaning, signed=signed, quantity=quantity, queries=queries, gaps=gaps
        )

    def scores_of_map(self, grid_map: GridMap) -> NDArray[np.float64]:
        """Return the value of a map at every patch, ``(N,)``, NaN where the map has none."""
        cells = grid_map.cells_of(self.bag.coords, self.bag.patch_size_level0)
        inside = ((cells >= 0) & (cells < grid_map.values.shape)).all(axis=1)
        scores = np.full(len(self), np.nan)
        scores[inside] = grid_map.values[cells[inside, 0], cells[inside, 1]]
        return scores

    def _map(
        self,
        values: NDArray[np.floating],
        corner: tuple[int, int],
        name: str,
        meaning: str,
        signed: bool,
        quantity: str,
        queries: tuple[tuple[int, int], ...],
    ) -> GridMap:
        return GridMap(
            values=np.ascontiguousarray(values, np.float32),
            name=name,
            meaning=meaning,
            patch_size_level0=self.bag.cell_size,
            origin=self.cell_corner_of(corner),
            mpp=self.bag.slide_mpp,
            signed=signed,
            quantity=quantity,
            queries=queries,
        )


def patch_under(
    bag: FeatureBag, cells: NDArray[np.int64], at: tuple[float, float], slide_name: str
) -> int:
    """Return the number of the patch under a level-0 point: `Subject.patch_at`, or an error.

    Parameters
    ----------
    cells
        ``(N, 2)``, from `Aggregator.place`.

    Raises
    ------
    GridError
        When there is none.
    """
    found = _patch_at(bag, cells, bag.canvas_corner(cells), *at)
    if found is None:
        raise GridError(
            f"no patch lies at x {at[0]:g}, y {at[1]:g} of {slide_name}; give a point on tissue, "
            "in level-0 pixels"
        )
    return found


def _patch_at(
    bag: FeatureBag, cells: NDArray[np.int64], origin: tuple[int, int], x: float, y: float
) -> int | None:
    side = bag.cell_size
    cell = (y - origin[1]) // side, (x - origin[0]) // side
    found = np.flatnonzero((cells == cell).all(axis=1))
    if len(found):
        return int(found[-1])
    offset = np.array([x, y]) - bag.coords  # cells smaller than patches may leave gaps
    found = np.flatnonzero(((offset >= 0) & (offset < bag.patch_size_level0)).all(axis=1))
    if not len(found):
        return None
    away = np.abs(offset[found] - bag.patch_size_level0 / 2).max(axis=1)
    return int(found[np.argmin(away)])


def patches_inside(bag: FeatureBag, outline: Sequence[tuple[float, float]]) -> NDArray[np.int64]:
    """Return the numbers of the patches whose centre lies in a polygon of level-0 points."""
    import shapely

    polygon = shapely.make_valid(shapely.Polygon(outline))
    centres = bag.coords + bag.patch_size_level0 / 2
    return np.flatnonzero(shapely.contains_xy(polygon, centres[:, 0], centres[:, 1]))


def _array(values: Tensor | NDArray[np.floating]) -> NDArray[np.float64]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
