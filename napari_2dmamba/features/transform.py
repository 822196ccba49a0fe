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
            if device.type == "cpu":  # fast 8-bit path, same numbers as Pillow's
                planes = _resize(planes, self.size, self.interpolation).float()
            else:
                planes = _resize(planes.float(), self.size, self.interpolation)
                planes = planes.round().clamp(0, 255)
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


def _resize(planes: "torch.Tensor", size: int, interpolation: str) -> "torch.Tensor":
    from torch.nn import functional as F

    return F.interpolate(planes, (size, size), mode=interpolation, antialias=True)
