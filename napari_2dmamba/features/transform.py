"""What happens to a patch before a network sees it. A fact of every encoder: costs no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Pooling = Literal["none", "cls", "mean", "cls+mean"]


@dataclass(frozen=True)
class Transform:
    """What happens to a patch before the network sees it: the whole patch, no crop.

    Attributes
    ----------
    size
        Side in pixels the patch is resized to.
    mean, std
        Of the three channels, on a scale from 0 to 1.
    interpolation
        ``"bicubic"`` or ``"bilinear"``, both with an antialiasing filter when shrinking.
    """

    size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def __call__(self, patches: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
        """Turn ``(B, H, W, 3)`` uint8 into ``(B, 3, size, size)`` float32 on ``device``.

        Channels lie last in memory, which suits convolutions on a CPU.
        """
        planes = patches.to(device, non_blocking=True).permute(0, 3, 1, 2)
        if planes.shape[2:] != (self.size, self.size):
            planes = resized(planes, (self.size, self.size), self.interpolation)
        # Whole rows of colours at once: an inner loop over three channels is ten times as slow
        rows = planes.permute(0, 2, 3, 1).reshape(len(planes), self.size, 3 * self.size).float()
        mean, std = (_row(of, self.size, device) for of in (self.mean, self.std))
        pixels = rows.sub_(mean).div_(std).view(len(planes), self.size, self.size, 3)
        return pixels.permute(0, 3, 1, 2)


def _row(channels: tuple[float, float, float], size: int, device: "torch.device") -> "torch.Tensor":
    """Return ``(3 * size,)``: a number of each channel for a row of colours, from 0 to 255.

    Made on the device: for a copy from here the host would wait until the device has done all that
    it was given before, and then give it nothing meanwhile.
    """
    import torch

    each = [torch.full((1,), value, dtype=torch.float32, device=device) for value in channels]
    return torch.cat(each).mul_(255).repeat(size)


def resized(planes: "torch.Tensor", size: tuple[int, int], interpolation: str) -> "torch.Tensor":
    """Return ``(B, C, h, w)`` planes of 8 bits at another size, with an antialiasing filter.

    On the CPU torch computes with whole numbers, as Pillow does. Elsewhere the same is done in
    floating point: along x, rounded and cut to 0 to 255, then along y. Both at once differ by up to
    7 grey levels at sharp edges; so it is one, rarely two.
    """
    from torch.nn import functional as F

    if planes.device.type == "cpu":
        return F.interpolate(planes, size, mode=interpolation, antialias=True)
    for step in ((planes.shape[2], size[1]), size):
        planes = F.interpolate(planes.float(), step, mode=interpolation, antialias=True)
        planes = planes.add_(0.5).floor_().clamp_(0, 255)
    return planes
