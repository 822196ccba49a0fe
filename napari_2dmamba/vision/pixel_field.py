"""What a network's central feature looks at: its effective receptive field, in pixels.

The gradient of the central cell of a stage, summed over channels, with respect to the pixels,
averaged over many crops (Luo et al., NeurIPS 2016; the figures of VMamba and 2DMamba show it).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_2dmamba.errors import Cancelled, UserError
from napari_2dmamba.settings import ProgressCallback, StopCallback
from napari_2dmamba.vision.backbone import VisionMamba
from napari_2dmamba.vision.region import Place

Stages = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class PixelField:
    """The effective receptive field of the central cell of one stage of one network.

    Attributes
    ----------
    values
        ``(h, w)`` float64: mean over crops of the gradient of the cell's feature, summed over
        channels and colours. Not negative.
    model
        The network, and where its weights are from.
    stage
        From 0.
    stride
        Pixels per cell of the stage.
    crops
        How many were averaged.
    centre
        Row and column, in pixels from the top left corner, of the middle of what the cell's
        convolutions see.
    place
        Where the crop lies.
    """

    values: NDArray[np.float64]
    model: str
    stage: int
    stride: int
    crops: int
    centre: tuple[float, float]
    place: Place = field(default_factory=Place)

    @property
    def name(self) -> str:
        """For a layer or a title."""
        return f"{self.model}, stage {self.stage + 1}"

    def shown(self, power: float = 0.2) -> NDArray[np.float64]:
        """Return the values to show, from 0 to 1: a power of them, over the largest."""
        powered = self.values**power
        return powered / powered.max()

    def square_side(self, share: float) -> int:
        """Return the side in pixels of the smallest square around the centre with a share."""
        distance = self._distances(chebyshev=True)
        order = np.argsort(distance, axis=None)
        total = np.cumsum(self.values.ravel()[order])
        last = int(np.searchsorted(total, share * total[-1]))
        radius = float(distance.ravel()[order[min(last, len(order) - 1)]])
        return min(2 * int(np.ceil(radius + 0.5)), max(self.values.shape))

    def area(self, share: float) -> float:
        """Return the smallest part of the crop that holds a share of the field."""
        ordered = np.sort(self.values, axis=None)[::-1].cumsum()
        count = int(np.searchsorted(ordered, share * ordered[-1])) + 1
        return min(count, self.values.size) / self.values.size

    def area_above(self, level: float, power: float = 0.2) -> float:
        """Return the part of the crop that is shown at a level (0 to 1) or above it."""
        return float((self.shown(power) >= level).mean())

    def cross_strength(self) -> float:
        """Return how much stronger the central row and column are than the rest around them.

        Means of both are taken at equal distance from the centre, in rings as wide as a cell;
        the result is the geometric mean of their ratios over all rings that have both, the
        cell's own neighbours left out: 1 for a round field, whatever its fall with distance,
        less for a square one. Not a number where no ring has both.
        """
        row, col = self.centre
        rows, cols = (np.arange(n) + 0.5 for n in self.values.shape)
        half = self.stride / 2
        cross = (np.abs(rows - row) < half)[:, None] | (np.abs(cols - col) < half)[None]
        ring = (self._distances() / self.stride).round().astype(int)
        cross_sums, rest_sums = (
            np.bincount(ring[where], self.values[where], ring.max() + 1)
            for where in (cross, ~cross)
        )
        cross_counts, rest_counts = (
            np.bincount(ring[where], minlength=ring.max() + 1) for where in (cross, ~cross)
        )
        both = (cross_sums > 0) & (rest_sums > 0) & (np.arange(ring.max() + 1) > 1)
        if not both.any():
            return float("nan")
        on, off = cross_sums[both] / cross_counts[both], rest_sums[both] / rest_counts[both]
        return float(np.exp(np.log(on / off).mean()))

    def quadrants(self) -> dict[str, float]:
        """Return the share of each quadrant in what lies beyond the cell's own row and column."""
        row, col = self.centre
        half = self.stride / 2
        up, down = slice(None, int(row - half)), slice(int(row + half), None)
        left, right = slice(None, int(col - half)), slice(int(col + half), None)
        parts = {
            "up left": self.values[up, left].sum(),
            "up right": self.values[up, right].sum(),
            "down left": self.values[down, left].sum(),
            "down right": self.values[down, right].sum(),
        }
        total = sum(parts.values())
        return {name: float(part / total) if total else 0.0 for name, part in parts.items()}

    def measures(self) -> dict[str, float]:
        """Return the measures in numbers, for a table; without those that are no number."""
        cross = self.cross_strength()
        return {
            **{f"area_{round(100 * s)}": self.area(s) for s in (0.5, 0.9, 0.99)},
            **{f"square_side_{round(100 * s)}_px": self.square_side(s) for s in (0.5, 0.9, 0.99)},
            **({"cross_strength": cross} if np.isfinite(cross) else {}),
            **{f"quadrant_{k.replace(' ', '_')}": v for k, v in self.quadrants().items()},
        }

    def _distances(self, chebyshev: bool = False) -> NDArray[np.float64]:
        row, col = self.centre
        rows = np.abs(np.arange(self.values.shape[0]) + 0.5 - row)[:, None]
        cols = np.abs(np.arange(self.values.shape[1]) + 0.5 - col)[None]
        return np.maximum(rows, cols) if chebyshev else np.hypot(rows, cols)


def stages_of(network: nn.Module) -> Stages:
    """Return a function from images to the maps ``(batch, C, h, w)`` of a network's stages.

    Raises
    ------
    UserError
        When the network is neither ours nor one of timm's that give their stages.
    """
    if isinstance(network, VisionMamba):
        return network.forward_stages
    intermediates = getattr(network, "forward_intermediates", None)
    if intermediates is None:
        raise UserError(
            f"{type(network).__name__} does not give the maps of its stages; choose a timm model "
            "that has forward_intermediates, such as convnext_tiny or swin_tiny_patch4_window7_224"
        )
    return lambda image: intermediates(image, intermediates_only=True)


def pixel_fields(
    network: nn.Module,
    crops: Iterable[Tensor],
    *,
    model: str,
    stages: Sequence[int] | None = (-1,),
    rectified: bool = True,
    total: int = 0,
    on_progress: ProgressCallback | None = None,
    should_stop: StopCallback | None = None,
) -> list[PixelField]:
    """Return the effective receptive fields of the central cells of some stages.

    Parameters
    ----------
    network
        In evaluation mode, on the device and in the precision to compute in.
    crops
        ``(3, h, w)`` normalised images of one size, taken one at a time.
    model
        Name for titles.
    stages
        Which; negative ones from the last, None for all.
    rectified
        Whether negative features and negative gradients count as 0, as in the published figures;
        otherwise gradients count with their absolute value.
    total
        Number of crops, for progress.
    on_progress, should_stop
        Called for every crop.

    Raises
    ------
    UserError
        When a crop does not suit the network, a stage is not there, or a gradient is zero
        everywhere or not finite.
    """
    maps_of = stages_of(network)
    device = next(network.parameters()).device
    sums: dict[int, NDArray[np.float64]] = {}
    places: dict[int, tuple[int, tuple[float, float]]] = {}
    done = 0
    for crop in crops:
        if should_stop is not None and should_stop():
            raise Cancelled("the receptive fields were not finished")
        image = crop.to(device)[None].requires_grad_()
        with torch.enable_grad():
            try:
                maps = maps_of(image)
            except (AssertionError, RuntimeError, ValueError) as error:  # networks of fixed sizes
                told = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise UserError(
                    f"{model} cannot take crops of {image.shape[2]} x {image.shape[3]} pixels "
                    f"({told}); choose another size of crop"
                ) from error
            wanted = _wanted(stages, len(maps))
            for place, stage in enumerate(wanted):
                features = maps[stage]
                height, width = features.shape[2:]
                central = features[:, :, height // 2, width // 2]
                central = central.relu() if rectified else central
                gradient = torch.autograd.grad(
                    central.sum(), image, retain_graph=place + 1 < len(wanted)
                )[0][0]
                gradient = gradient.relu() if rectified else gradient.abs()
                found = gradient.sum(0).double().cpu().numpy()
                sums[stage] = sums.get(stage, 0) + found
                stride = -(-image.shape[2] // height)
                middle = _middle(network, stride)
                centre = (height // 2 * stride + middle, width // 2 * stride + middle)
                places[stage] = stride, centre
        done += 1
        if on_progress is not None:
            on_progress(done, total, f"Receptive field of {model}")
    if not done:
        raise UserError("no crop was given for the receptive fields; give at least one")
    fields = []
    for stage, summed in sums.items():
        values = np.asarray(summed) / done
        if not np.isfinite(values).all() or not values.any():
            what = "zero everywhere" if np.isfinite(values).all() else "not finite"
            raise UserError(
                f"the gradient of stage {stage + 1} of {model} is {what}; check its weights, or "
                "count absolute gradients instead of rectified ones"
            )
        stride, centre = places[stage]
        fields.append(PixelField(values, model, stage, stride, done, centre))
    return fields


def _middle(network: nn.Module, stride: int) -> float:
    """Return where the middle of a cell's view lies, in pixels from the cell's start.

    Networks that cut an image into patches see whole cells; padded convolutions of stride 2, as
    in VMamba and ResNet, put cell i on pixel ``i * stride``.
    """
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    padded = first is not None and first.padding not in (0, (0, 0), "valid")
    return 0.5 if padded else stride / 2


def _wanted(stages: Sequence[int] | None, count: int) -> list[int]:
    if stages is None:
        return list(range(count))
    found = [s + count if s < 0 else s for s in stages]
    if not found or min(found) < 0 or max(found) >= count:
        raise UserError(
            f"stages {[s + 1 if s >= 0 else s for s in stages]} were asked for, but the network "
            f"has {count}; count from 1, or from the last with -1"
        )
    return found
