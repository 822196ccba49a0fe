"""The encoder in the package: what a patch's stains and textures look like, no download.

All lengths are in µm: patches are brought to 1 µm per pixel first. Let H, E and R be the
optical densities of haematoxylin, eosin and of what neither explains, unmixed with the
vectors of Ruifrok and Johnston (Anal Quant Cytol Histol 23, 2001), and D the mean optical
density of red, green and blue. The features, in the order of `FEATURE_NAMES`; all but the
filter bank look at means of 2 x 2 µm:

``{H,E,R,D}_mean``, ``{H,E,R,D}_std``
    Mean and standard deviation over the patch.
``{H,E,R}_q05 _q25 _q50 _q75 _q95``
    Quantiles, over points 8 µm apart.
``{red,green,blue}_mean``, ``{red,green,blue}_std``, ``{saturation,brightness}_mean``, ``_std``
    Colour as in the picture, 0 to 1; saturation and brightness (largest of the three
    channels) as in HSV.
``corr_HE``, ``corr_HR``, ``corr_ER``
    Correlation over the patch: 0 where one of the two is constant.
``share_clear``, ``share_H1``, ``share_H2``, ``share_H3``, ``share_E1``, ``share_E2``,
``share_dense``
    Share of the patch that is clear glass or lumen (D < 0.12), that holds more haematoxylin
    than 0.2, 0.35, 0.55 (nuclear area from generous to strict), more eosin than 0.25, 0.5
    (collagen and cytoplasm, red blood cells), or is dark altogether (D > 1: pigment, folds).
``patchiness_{H,E,D}_{16,64}um``
    Standard deviation of the means of 16 and 64 µm squares: glands, nests and borders.
``{H,E}_{1,2,4,8}um_...``
    Filter bank at four scales on a pyramid that halves each time (binomial smoothing, central
    differences; a filter's width is about the scale named):
    ``contrast`` mean gradient magnitude, at 2 µm and up relative to the next finer scale
    (coarse or fine grain); ``sparsity`` root mean square of the gradient over its mean (edges
    few and sharp, or everywhere); ``aligned`` anisotropy of the structure tensor of the whole
    patch, 0 to 1 (fibres that run one way); ``spots`` mean magnitude of the Laplacian over that
    of the gradient (dots or slopes); ``polarity`` skewness of the negative Laplacian (positive:
    dark dots on light, negative: light holes in dark); from 2 µm up ``saddles``, mean difference of
    the Hessian's eigenvalues over the mean magnitude of the Laplacian (0 for straight fibres,
    below where domes prevail, above for rings, crossings and nets).
``nuclei_{all,clear,dark,large}``, ``nuclei_H``, ``nuclei_spread``, ``nuclei_gap``
    Local maxima of a blob filter of nuclear size (about 7 µm) on H: how many per 100 x 100 µm
    above three thresholds, and with a filter of twice the size (large nuclei, clumps), as
    log(1 + n), those in the outermost 8 µm not counted; mean H and standard deviation of H at
    them; share of 32 µm squares without any.

Contrasts, and the ratios of means, enter as logarithms, with 0.001 added to each mean. Each
feature is shifted and scaled by two fixed numbers (`stain_texture_scales`), the mean and
standard deviation over tissue of real H&E slides, and kept within ±8, so that aggregators meet
numbers near one; no slide's own statistics enter, so a patch has the same features whatever it
is extracted with.
"""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch.nn import functional as F

from napari_2dmamba.features.encoder_names import EMBEDDED_ENCODER
from napari_2dmamba.features.stain_texture_scales import SCALES
from napari_2dmamba.features.transform import resized

_WORKING_MPP = 1.0
_NOMINAL_MPP = 0.5
_SCALES_UM = (1, 2, 4, 8)
_QUANTILES = (5, 25, 50, 75, 95)
_CLEAR, _DENSE = 0.12, 1.0
_H_SHARES, _E_SHARES = (0.2, 0.35, 0.55), (0.25, 0.5)
_NUCLEUS_THRESHOLDS = (0.1, 0.2, 0.35)
_LIMIT = 8.0
_PATCHES_PER_LOT = 2
_BANK = ("contrast", "sparsity", "aligned", "spots", "polarity", "saddles")

FEATURE_NAMES: tuple[str, ...] = (
    *(f"{s}_{what}" for what in ("mean", "std") for s in "HERD"),
    *(f"{s}_q{q:02d}" for s in "HER" for q in _QUANTILES),
    *(
        f"{c}_{what}"
        for what in ("mean", "std")
        for c in ("red", "green", "blue", "saturation", "brightness")
    ),
    "corr_HE",
    "corr_HR",
    "corr_ER",
    "share_clear",
    "share_H1",
    "share_H2",
    "share_H3",
    "share_E1",
    "share_E2",
    "share_dense",
    *(f"patchiness_{s}_{um}um" for um in (16, 64) for s in "HED"),
    *(
        f"{s}_{um}um_{what}"
        for um in _SCALES_UM
        for what in (_BANK if um > 1 else _BANK[:-1])
        for s in "HE"
    ),
    "nuclei_all",
    "nuclei_clear",
    "nuclei_dark",
    "nuclei_large",
    "nuclei_H",
    "nuclei_spread",
    "nuclei_gap",
)


_counting = threading.Lock()
_at_work: list[int] = []
"""For each encoding that goes on, how many threads torch had before the first of them."""


@contextmanager
def _threads_of_torch_kept() -> Iterator[None]:
    """Give torch back its number of threads.

    Setting it on one thread sets it for every thread that first uses torch afterwards, whoever
    starts it; so the last encoding to end sets it as it was before the first began.
    """
    with _counting:
        _at_work.append(_at_work[0] if _at_work else torch.get_num_threads())
    try:
        yield
    finally:
        with _counting:
            before = _at_work.pop()
            if not _at_work:
                torch.set_num_threads(before)


def _unmixing() -> torch.Tensor:
    """Return the (3, 3) matrix from optical densities of R, G, B to H, E and residual."""
    h = torch.tensor([0.65, 0.70, 0.29])
    e = torch.tensor([0.07, 0.99, 0.11])
    stains = torch.stack([h / h.norm(), e / e.norm(), torch.linalg.cross(h, e)])
    stains[2] /= stains[2].norm()
    return torch.linalg.inv(stains.T)


class StainTexture:
    """The embedded encoder; see the module for its features."""

    name: str = EMBEDDED_ENCODER
    feature_size: int = len(FEATURE_NAMES)
    input_size: int | None = None
    mpp: float | None = _NOMINAL_MPP
    licence: str = "MIT (part of napari-2dmamba)"
    weights_from: str = "computed: it has no weights"
    identity: str = EMBEDDED_ENCODER
    precision: str = "float32"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        # R, G, B -> H, E, R, D in one product
        self._unmix = torch.cat([_unmixing(), torch.full((1, 3), 1 / 3)]).to(self.device)
        scales = torch.tensor([SCALES[name] for name in FEATURE_NAMES], device=self.device)
        self._shift, self._scale = scales.unbind(1)

    @torch.inference_mode()
    def encode(self, patches: torch.Tensor, mpp: float | None = None) -> torch.Tensor:
        """Return ``(B, D)`` float32; see `Encoder.encode`."""
        raw = self.measure(patches, mpp)
        return ((raw - self._shift) / self._scale).clamp_(-_LIMIT, _LIMIT)

    def measure(self, patches: torch.Tensor, mpp: float | None = None) -> torch.Tensor:
        """Return the features before shift and scale, ``(B, D)``.

        On the CPU a few patches at a time and one thread for each lot: their maps stay in the
        core's own cache, and the numbers do not depend on how many threads there are.
        """
        mpp = mpp or _NOMINAL_MPP
        if self.device.type != "cpu":
            return self._measure(patches.to(self.device), mpp)
        lots = patches.split(_PATCHES_PER_LOT)
        with (
            _threads_of_torch_kept(),
            ThreadPoolExecutor(
                min(len(lots), os.cpu_count() or 1),
                initializer=torch.set_num_threads,
                initargs=(1,),
            ) as pool,
        ):
            return torch.cat(list(pool.map(lambda lot: self._measure(lot, mpp), lots)))

    @torch.inference_mode()
    def _measure(self, patches: torch.Tensor, mpp: float) -> torch.Tensor:
        rgb = _to_working_resolution(patches, mpp)
        density = torch.log((rgb + 1) * (1 / 256)).neg_()
        batch, _, height, width = rgb.shape
        fine = (self._unmix @ density.flatten(2)).view(batch, 4, height, width)
        planes, rgb = _halve(fine), _halve(rgb) * (1 / 255)
        brightness = rgb.amax(1, keepdim=True)
        saturation = (brightness - rgb.amin(1, keepdim=True)) / brightness.clamp(min=1 / 255)

        maps = torch.cat([planes, rgb, saturation, brightness], 1).flatten(2)
        mean = maps.mean(-1)
        # Centred before squaring: a blank patch must come out with zero spread, not with rounding
        centred = maps - mean[:, :, None]
        covariance = centred @ centred.transpose(1, 2) / maps.shape[-1]
        std = covariance.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
        pairs = [(0, 1), (0, 2), (1, 2)]
        correlation = [
            covariance[:, i, j] / (std[:, i] * std[:, j]).clamp(min=1e-4) for i, j in pairs
        ]
        h, e, d = maps[:, 0], maps[:, 1], maps[:, 3]
        shares = [
            (d < _CLEAR),
            *(h > limit for limit in _H_SHARES),
            *(e > limit for limit in _E_SHARES),
            (d > _DENSE),
        ]
        columns = [
            mean[:, :4],
            std[:, :4],
            _quantiles(planes[:, :3]),
            mean[:, 4:],
            std[:, 4:],
            torch.stack(correlation, 1),
            torch.stack([share.float().mean(-1) for share in shares], 1),
            _patchiness(torch.cat([planes[:, :2], planes[:, 3:]], 1)),
            *_filter_bank(fine[:, :2], planes[:, :2]),
            _nuclei(planes[:, 0]),
        ]
        return torch.cat(columns, 1)


def _to_working_resolution(patches: torch.Tensor, mpp: float) -> torch.Tensor:
    """Return ``(B, 3, h, w)`` float32, 0 to 255, at 1 µm per pixel (never under 64 px wide)."""
    planes = patches.permute(0, 3, 1, 2)
    # A multiple of 16 pixels: the pyramid halves three times, and squares must fit
    size = [max(64, 16 * round(side * mpp / _WORKING_MPP / 16)) for side in planes.shape[2:]]
    if size != list(planes.shape[2:]):
        planes = resized(planes, (size[0], size[1]), "bilinear")
    return planes.contiguous().float()


def _quantiles(planes: torch.Tensor) -> torch.Tensor:
    """Return ``(B, C * quantiles)`` over every fourth pixel along each axis."""
    ordered = planes[:, :, 1::4, 1::4].flatten(2).sort(-1).values
    last = ordered.shape[-1] - 1
    picks = [round(q / 100 * last) for q in _QUANTILES]
    # Not ordered[:, :, picks], for which a GPU waits: the list is copied there first
    return torch.stack([ordered[:, :, pick] for pick in picks], 2).flatten(1)


def _patchiness(planes: torch.Tensor) -> torch.Tensor:
    """Return ``(B, 2 * C)`` standard deviations of the means of squares of 8 and 32 pixels."""
    fine = F.avg_pool2d(planes, 8)
    coarse = F.avg_pool2d(fine, min(4, *fine.shape[2:]))
    return torch.cat([fine.flatten(2).std(-1, False), coarse.flatten(2).std(-1, False)], 1)


def _filter_bank(fine: torch.Tensor, halved: torch.Tensor) -> list[torch.Tensor]:
    """Return the columns of the filter bank.

    ``fine`` and ``halved`` are H and E, ``(B, 2, h, w)``, at 1 and 2 µm per pixel.
    """
    columns = []
    planes, finer = fine, torch.zeros(())
    for um in _SCALES_UM:
        if um > 1:
            planes = halved if um == 2 else _halve(planes)
        smooth = _binomial(planes)
        centre = smooth[..., 1:-1, 1:-1]
        west, east = smooth[..., 1:-1, :-2], smooth[..., 1:-1, 2:]
        north, south = smooth[..., :-2, 1:-1], smooth[..., 2:, 1:-1]
        dx, dy = (east - west).mul_(0.5), (south - north).mul_(0.5)
        dxx = (east + west).sub_(centre, alpha=2)
        dyy = (north + south).sub_(centre, alpha=2)

        xx, yy = dx * dx, dy * dy
        mean_xx, mean_yy, mean_xy = _mean(xx), _mean(yy), _mean(dx * dy)
        energy = mean_xx + mean_yy
        gradient = _mean(xx.add_(yy).sqrt_())
        aligned = torch.hypot(mean_xx - mean_yy, 2 * mean_xy) / (energy + 1e-6)
        blobness = (dxx + dyy).neg_()
        strength, square = _log(_mean(blobness.abs())), blobness * blobness
        polarity = _mean(square * blobness) / (_mean(square) + 1e-5) ** 1.5
        contrast = _log(gradient)
        columns += [
            contrast - finer,
            energy.sqrt() / (gradient + 1e-3),
            aligned,
            strength - contrast,
            polarity,
        ]
        if um > 1:
            twice_dxy = dx[..., 2:, :] - dx[..., :-2, :]
            ridge = torch.hypot((dxx - dyy)[..., 1:-1, :], twice_dxy)
            columns.append(_log(_mean(ridge)) - strength)
        finer = contrast
    return columns


def _nuclei(h: torch.Tensor) -> torch.Tensor:
    """Return ``(B, 7)``: counts and staining of nucleus-like spots of ``(B, h, w)`` H at 2 µm."""
    smooth = _binomial(_binomial(h))
    blobs = _blobness(smooth)
    found = [_peaks(blobs, limit).float() for limit in _NUCLEUS_THRESHOLDS]
    large = _peaks(_blobness(_binomial(_halve(smooth))), _NUCLEUS_THRESHOLDS[1])
    squares_100um = h[0].numel() * 2.0**2 / 100.0**2
    densities = [spots.sum((1, 2)) / squares_100um for spots in (*found, large)]
    clear = found[1]
    number = clear.sum((1, 2)).clamp(min=1)
    staining = smooth[:, 2:-2, 2:-2]
    mean = (clear * staining).sum((1, 2)) / number
    spread = (clear * (staining - mean[:, None, None]) ** 2).sum((1, 2)) / number
    gap = 1 - F.max_pool2d(clear, 16, ceil_mode=True).mean((1, 2))
    return torch.stack([*(torch.log1p(d) for d in densities), mean, spread.sqrt(), gap], 1)


def _blobness(planes: torch.Tensor) -> torch.Tensor:
    """Return the negative Laplacian of the inner pixels."""
    across = planes[..., 1:-1, :-2] + planes[..., 1:-1, 2:]
    along = planes[..., :-2, 1:-1] + planes[..., 2:, 1:-1]
    return 4 * planes[..., 1:-1, 1:-1] - across - along


def _peaks(blobs: torch.Tensor, limit: float) -> torch.Tensor:
    """Return which inner pixels are the largest of their 3 x 3 and above a limit."""
    rows = torch.maximum(torch.maximum(blobs[:, :-2], blobs[:, 1:-1]), blobs[:, 2:])
    around = torch.maximum(torch.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])
    inner = blobs[:, 1:-1, 1:-1]
    return (inner == around) & (inner > limit)


def _binomial(planes: torch.Tensor) -> torch.Tensor:
    """Smooth with (1, 2, 1) / 4 along both axes; two pixels are lost along each."""
    rows = planes[..., :-1, :] + planes[..., 1:, :]
    rows = rows[..., :-1, :] + rows[..., 1:, :]
    both = rows[..., :-1] + rows[..., 1:]
    return (both[..., :-1] + both[..., 1:]).mul_(1 / 16)


def _halve(planes: torch.Tensor) -> torch.Tensor:
    """Average 2 x 2 pixels."""
    rows = planes[..., 0::2, :] + planes[..., 1::2, :]
    return (rows[..., 0::2] + rows[..., 1::2]).mul_(0.25)


def _mean(planes: torch.Tensor) -> torch.Tensor:
    return planes.mean((-1, -2))


def _log(value: torch.Tensor) -> torch.Tensor:
    return torch.log(1e-3 + value.clamp(min=0))
