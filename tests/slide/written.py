"""Small slides written for a test, whose every pixel is known."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> NDArray[Any]:
    """Return random whole numbers over the whole range of a type."""
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(
        limits.min, limits.max, shape, dtype=dtype, endpoint=True
    )


def write_tiff(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """Write one plain image; tiled and losslessly compressed unless told otherwise."""
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"} | options
    tifffile.imwrite(path, pixels, **options)
    return path


def write_pyramid(
    path: Path, levels: list[NDArray[Any]], *, mpp: float | None = 0.5, **options: Any
) -> Path:
    """Write levels as pages marked as reduced images, as generic pyramids are."""
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"} | options
    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        for index, level in enumerate(levels):
            writer.write(level, subfiletype=int(index > 0), metadata=None, **options)
    return path


def write_ome_pyramid(path: Path, levels: list[NDArray[Any]], **options: Any) -> Path:
    """Write an OME-TIFF whose lower levels are SubIFDs."""
    options = {"tile": (64, 64), "compression": "zlib"} | options
    metadata = options.pop("metadata")
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(levels[0], subifds=len(levels) - 1, metadata=metadata, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **options)
    return path


def write_svs(path: Path, levels: list[NDArray[Any]], *, mpp: float = 0.25) -> Path:
    """Write the layout of an SVS: baseline, thumbnail, lower levels, label, macro."""
    height, width = levels[0].shape[:2]
    head = f"Aperio Image Library v12.0.16 \r\n{width}x{height} [0,0 {width}x{height}] (64x64)"
    described = f"{head} JPEG/RGB Q=90|AppMag = 40|MPP = {mpp}|User = Doe, Jane|Barcode = B-17"
    tiles: dict[str, Any] = {
        "tile": (64, 64), "photometric": "rgb", "compression": "jpeg",
        "compressionargs": {"level": 95}, "metadata": None,
    }  # fmt: skip
    strips = {"photometric": "rgb", "metadata": None, "rowsperstrip": 16, "compression": "lzw"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(levels[0], description=described, **tiles)
        writer.write(levels[-1][::2, ::2].copy(), description=head, **strips)
        for level in levels[1:]:
            writer.write(level, description=head, **tiles)
        label, macro = np.full((40, 90, 3), 7, np.uint8), np.full((50, 160, 3), 9, np.uint8)
        writer.write(label, subfiletype=1, description=f"{head}\r\nlabel 90x40", **strips)
        writer.write(macro, subfiletype=9, description=f"{head}\r\nmacro 160x50", **strips)
    return path


def halved(pixels: NDArray[Any]) -> NDArray[Any]:
    """Means of 2 x 2 blocks by definition, in float64, halves rounded up."""
    height, width = pixels.shape[:2]
    sums = np.zeros((-(-height // 2), -(-width // 2), *pixels.shape[2:]))
    counts = np.zeros(sums.shape[:2] + (1,) * (pixels.ndim - 2))
    for corner in np.ndindex(2, 2):  # blocks at the edges may have fewer pixels
        part = pixels[corner[0] :: 2, corner[1] :: 2]
        sums[: part.shape[0], : part.shape[1]] += part
        counts[: part.shape[0], : part.shape[1]] += 1
    means = sums / counts
    out = means if pixels.dtype.kind == "f" else np.floor(means + 0.5)
    return out.astype(pixels.dtype)
