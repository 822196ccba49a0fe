r"""Effective receptive fields: which patches a cell's output, or the slide's, depends on.

The gradient of an output with respect to every input feature vector (Luo et al., NeurIPS 2016,
arXiv 1701.04128), through the whole network, for any architecture. Three named measures:

``jacobian``
    Frobenius norm of the Jacobian ``d output[q, :] / d feature[p, :]``. It is estimated without
    bias in its square by random signs over the output channels (Hutchinson 1990), drawn with a
    fixed seed; ``probes=None`` computes it exactly, one backward pass per channel.
``sum``
    Luo et al.: absolute gradient of the sum of the output's channels, added up over features.
``figure``
    As receptive fields of vision Mambas are usually drawn: gradient of the sum of the positive
    outputs, of which the positive part is added up over features. To be shown divided by its
    largest value, to the power 0.2 (or 0.25), with the colour map RdYlGn: `FIGURE_DISPLAY`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_2dmamba.errors import Cancelled, CheckpointError
from napari_2dmamba.explain.display import DisplaySettings
from napari_2dmamba.explain.grid_map import GridMap
from napari_2dmamba.explain.outcome import Target, target_value, words_of
from napari_2dmamba.explain.subject import Entered, Subject
from napari_2dmamba.models.mamba2d import Mamba2DConfig, Mamba2DMIL
from napari_2dmamba.settings import ProgressCallback, StopCallback

Measure = Literal["jacobian", "sum", "figure"]
Output = Literal["state", "score"]
MEASURES: tuple[Measure, ...] = ("jacobian", "sum", "figure")

JACOBIAN = "norm of the Jacobian"
"""Quantity of maps of a patch's state that are one."""

FIGURE_DISPLAY = DisplaySettings(transform="raw", gamma=0.2, colormap="RdYlGn")
"""How the paper's figure is drawn: divided by the largest value, power 0.2, red to green."""
FIGURE_DISPLAY_OLDER = DisplaySettings(transform="raw", gamma=0.25, colormap="RdYlGn")
"""The same with the older power 0.25."""


def receptive_field(
    subject: Subject,
    patches: int | Sequence[int] | NDArray[np.integer],
    *,
    output: Output = "state",
    layer: int = -1,
    measure: Measure = "jacobian",
    probes: int | None = 4,
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> GridMap:
    """Return how strongly the output at one or several patches depends on every patch.

    For several patches the outputs are taken together: squares of Jacobians add up.

    Parameters
    ----------
    patches
        Numbers of patches in the bag.
    output
        ``"state"``: its vector, `Architecture.patch_states`; ``"score"``: the patch's score,
        which every architecture has (a softmax makes it depend on all patches).
    layer
        Whose output is asked for, of `Architecture.depth`; -1 is the last.
    measure, probes, seed
        See the module.

    Raises
    ------
    CheckpointError
        When the architecture has no vector per patch.
    Cancelled
        When ``should_stop()`` said so.
    """
    chosen = np.atleast_1d(np.asarray(patches, dtype=np.int64))
    scores = field_of_patches(
        subject, chosen, output=output, layer=layer, measure=measure, probes=probes, seed=seed,
        on_progress=on_progress, should_stop=should_stop,
    )  # fmt: skip
    where = f"patch {chosen[0]}" if len(chosen) == 1 else f"{len(chosen)} patches together"
    grid_map = subject.map_of_patches(
        scores,
        f"receptive field ({measure})",
        f"how strongly the {output} at {where} depends on the features of each patch "
        f"({_WORDS[measure]})",
        quantity=JACOBIAN if (measure, output) == ("jacobian", "state") else "",
        queries=chosen.tolist(),
    )
    return dataclasses.replace(grid_map, display_range=(0.0, float(scores.max())))


_WORDS = {
    "jacobian": "norm of the Jacobian",
    "sum": "absolute gradient of the summed output",
    "figure": "positive gradient of the positive outputs",
}


def field_of_patches(
    subject: Subject,
    patches: NDArray[np.int64],
    *,
    output: Output = "state",
    layer: int = -1,
    measure: Measure = "jacobian",
    probes: int | None = 4,
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> NDArray[np.float64]:
    """Return the values of `receptive_field`, ``(N,)``."""
    if measure not in MEASURES:
        raise ValueError(f"measure is {measure!r}, but must be one of {', '.join(MEASURES)}")
    if should_stop is not None and should_stop():
        raise Cancelled
    entered = Entered(subject.features) if output == "score" else subject.entered
    given = entered.values.detach().requires_grad_()
    chosen = torch.as_tensor(patches, device=given.device)
    if output == "score":
        values = subject.run(given).scores[chosen]
    else:
        values = subject.states_of(chosen, given, layer)
    if measure == "sum":
        return _per_patch(_gradient(values.sum(), given), entered, lambda g: g.abs().sum(1))
    if measure == "figure":
        gradient = _gradient(torch.relu(values).sum(), given)
        return _per_patch(gradient, entered, lambda g: torch.relu(g).sum(1))
    squares = torch.zeros(len(subject), dtype=torch.float64)
    count = values.numel() if probes is None else probes
    generator = torch.Generator().manual_seed(seed)
    for probe in range(count):
        if should_stop is not None and should_stop():
            raise Cancelled
        if probes is None:
            signs = torch.zeros(values.numel(), dtype=values.dtype)
            signs[probe] = 1.0
            signs = signs.view(values.shape)
        else:
            signs = torch.randint(0, 2, values.shape, generator=generator).to(values.dtype) * 2 - 1
        gradient = _gradient((values * signs.to(values.device)).sum(), given, keep=True)
        reached = gradient.any(dim=1).nonzero()[:, 0]
        there = gradient[reached]
        there = there if entered.factor is None else there @ entered.factor.t()
        squares[reached.cpu()] += there.square().sum(1).double().cpu()
        if on_progress is not None:
            on_progress(probe + 1, count, "Receptive field")
    return (squares / (1 if probes is None else count)).sqrt().numpy()


def _per_patch(
    gradient: Tensor, entered: Entered, measure: Callable[[Tensor], Tensor]
) -> NDArray[np.float64]:
    """Return a measure of the gradient with respect to the features of each patch, ``(N,)``."""
    found = torch.zeros(len(gradient), dtype=torch.float64)
    reached = gradient.any(dim=1).nonzero()[:, 0]
    there = gradient[reached]
    there = there if entered.weight is None else there @ entered.weight
    found[reached.cpu()] = measure(there).cpu().double()
    return found.numpy()


def _gradient(scalar: Tensor, features: Tensor, keep: bool = False) -> Tensor:
    (gradient,) = torch.autograd.grad(
        scalar, features, retain_graph=keep, allow_unused=True, materialize_grads=True
    )
    return gradient.detach()


def slide_field(subject: Subject, target: Target = None) -> GridMap:
    """Return how strongly the slide's answer depends on every patch: norm of its gradient."""
    features = subject.features.detach().requires_grad_()
    value = target_value(subject.run(features).logits, subject.header, target)
    return subject.map_of_patches(
        _gradient(value, features).norm(dim=1),
        "receptive field of the slide",
        f"how strongly {words_of(subject.header, target)} depends on the features of each patch "
        "(norm of the gradient)",
    )


def average_field(
    subject: Subject,
    patches: Sequence[int] | NDArray[np.integer] | None = None,
    *,
    count: int = 16,
    layer: int = -1,
    measure: Measure = "jacobian",
    probes: int | None = 1,
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> NDArray[np.float64]:
    """Return the mean field around a patch, by distance in cells.

    The fields of the patches are laid over each other, each divided by its sum, with the query
    in the middle. Where an offset meets no tissue it is not counted.

    Parameters
    ----------
    patches
        Whose fields; None for ``count`` patches of the tissue drawn at random, with ``seed``.
    layer, measure, probes
        As of `receptive_field`.

    Returns
    -------
    ``(2 H - 1, 2 W - 1)`` for a bounding box of H x W cells; the query is at ``(H - 1, W - 1)``
    and NaN stands where no drawn patch had tissue.
    """
    if patches is None:
        rng = np.random.default_rng(seed)
        drawn = rng.choice(len(subject), min(count, len(subject)), replace=False)
    else:
        drawn = np.asarray(patches, dtype=np.int64)
    cells = subject.cells_of_patches
    height, width = cells.max(axis=0) - cells.min(axis=0) + 1
    total, hits = np.zeros((2, 2 * height - 1, 2 * width - 1))
    for done, patch in enumerate(drawn):
        if should_stop is not None and should_stop():
            raise Cancelled
        field = field_of_patches(
            subject, np.array([patch]), layer=layer, measure=measure, probes=probes, seed=seed
        )
        rows, cols = (cells - cells[patch] + [height - 1, width - 1]).T
        total[rows, cols] += field / max(field.sum(), np.finfo(np.float64).tiny)
        hits[rows, cols] += 1
        if on_progress is not None:
            on_progress(done + 1, len(drawn), "Receptive fields of the tissue")
    return np.where(hits > 0, total / np.maximum(hits, 1), np.nan)


def lay_on_patch(subject: Subject, field: NDArray[np.float64], patch: int, what: str) -> GridMap:
    """Place an `average_field` on the slide with its middle on a patch.

    Parameters
    ----------
    what
        Whose field it is, for the sentence: ``"16 patches of the tissue"``.
    """
    cells = subject.cells_of_patches
    rows, cols = (cells - cells[patch] + np.array(field.shape) // 2).T
    return subject.map_of_patches(
        field[rows, cols],
        "average receptive field",
        f"how strongly a patch depends on its surroundings, the mean over {what}, each divided by "
        f"its sum, laid on the patch at {subject.place_words(patch)}",
        queries=(patch,),
        gaps=True,
    )


@dataclass(frozen=True)
class FieldSize:
    """How large a field is.

    Attributes
    ----------
    radii
        Radius around the query within which 50, 90 and 99 % of the mass lie, by percentage:
        distance between centres of cells.
    unit
        ``"µm"``, or ``"cells"`` where the slide states no µm per pixel.
    anisotropy
        Ratio of the long to the short axis of the mass about the query, 1 or more; infinite
        where all lies on one line, NaN where there is nothing besides the query.
    angle
        Direction of the long axis in degrees: 0 along the row, 90 along the column, measured
        towards the lower right.
    left, right, above, below
        Share of the mass strictly on that side of the query.
    zero_share
        Share of the patches whose value is exactly zero.
    """

    radii: dict[int, float]
    unit: str
    anisotropy: float
    angle: float
    left: float
    right: float
    above: float
    below: float
    zero_share: float


def field_size(
    values: NDArray[np.floating], query: tuple[int, int], cell_um: float | None = None
) -> FieldSize:
    """Measure a field around its query.

    Parameters
    ----------
    values
        ``(rows, cols)`` at least 0; NaN does not count.
    query
        ``(row, col)`` in ``values``.
    cell_um
        Side of a cell in µm; None measures in cells.
    """
    array = np.asarray(values, dtype=np.float64)
    rows, cols = np.nonzero(np.isfinite(array))
    mass = array[rows, cols]
    zero = float((mass == 0).mean()) if len(mass) else math.nan
    y, x = rows - query[0], cols - query[1]
    unit = 1.0 if cell_um is None else cell_um
    total = mass.sum()
    if total <= 0:
        nothing = dict.fromkeys((50, 90, 99), math.nan)
        name = "cells" if cell_um is None else "µm"
        return FieldSize(nothing, name, *(math.nan,) * 6, zero)
    share = mass / total
    distance = np.hypot(x, y)
    order = np.argsort(distance, kind="stable")
    gathered = np.cumsum(share[order])
    outwards = distance[order] * unit
    radii = {
        percent: float(outwards[min(int(np.sum(gathered < percent / 100 - 1e-12)), len(mass) - 1)])
        for percent in (50, 90, 99)
    }
    xx, yy, xy = (float((share * v).sum()) for v in (x * x, y * y, x * y))
    short, long = np.linalg.eigvalsh(np.array([[xx, xy], [xy, yy]]))
    ratio = math.nan
    if long > 0:
        ratio = math.sqrt(long / short) if short > long * 1e-15 else math.inf
    return FieldSize(
        radii=radii,
        unit="cells" if cell_um is None else "µm",
        anisotropy=ratio,
        angle=math.degrees(0.5 * math.atan2(2 * xy, xx - yy)),
        left=float(share[x < 0].sum()),
        right=float(share[x > 0].sum()),
        above=float(share[y < 0].sum()),
        below=float(share[y > 0].sum()),
        zero_share=zero,
    )


def measure_field(subject: Subject, grid_map: GridMap, patch: int) -> FieldSize:
    """Measure the field of one patch as `receptive_field` returned it."""
    x, y = np.asarray(subject.cell_corner_of(patch)) - grid_map.origin
    side = subject.bag.cell_size
    return field_size(grid_map.values, (int(y // side), int(x // side)), subject.cell_um)


def reachable(subject: Subject, patch: int, *, layers: int | None = None) -> NDArray[np.bool_]:
    """Return which patches can reach a patch at all, by the wiring of the network, ``(N,)``.

    All others have a gradient of exactly zero whatever the weights: the scan is causal. Cells
    are followed back layer by layer through the scan (no later row, no later column, from each
    of its corners) and the causal convolution (the cells just before in raster order, also over
    the end of a row).

    Parameters
    ----------
    layers
        How many of the first layers are passed; None for all.

    Raises
    ------
    CheckpointError
        For other architectures than 2DMambaMIL.
    """
    model = subject.model
    if not isinstance(model, Mamba2DMIL):
        raise CheckpointError(
            f"what can reach what is worked out for 2DMambaMIL, and this model is {model.title}; "
            "the share of exact zeros of its receptive field says it by measurement"
        )
    config = model.config
    sequence = config.scan == "1d"
    canvas = (1, len(subject)) if sequence else subject.canvas
    cells = subject.cells_of_patches
    cell = (0, patch) if sequence else subject.cell_of(patch)
    reached = np.zeros(canvas, dtype=bool)
    reached[cell] = True
    for _ in range(config.n_layers if layers is None else layers):
        reached |= _inputs_of_layer(reached, config)
    return reached[0] if sequence else reached[cells[:, 0], cells[:, 1]]


def _inputs_of_layer(outputs: NDArray[np.bool_], config: Mamba2DConfig) -> NDArray[np.bool_]:
    """Return the cells that enter the outputs of one layer."""
    scanned = np.zeros_like(outputs)
    for axes in ((), (0,), (1,), (0, 1)) if config.directions == 4 else ((),):
        flipped = np.flip(outputs, axes)[::-1, ::-1]
        before = np.logical_or.accumulate(np.logical_or.accumulate(flipped, 0), 1)[::-1, ::-1]
        scanned |= np.flip(before, axes)
    raster = scanned.ravel()
    inputs = raster.copy()
    for shift in range(1, min(config.d_conv, len(raster))):
        inputs[:-shift] |= raster[shift:]
    return inputs.reshape(outputs.shape)
