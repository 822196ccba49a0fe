from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_2dmamba.slide import PatchGrid, Slide, open_slide


def picture(height: int = 900, width: int = 1310) -> np.ndarray:
    """A scene with smooth parts, edges, and single-pixel noise that aliases when subsampled."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:height, :width]
    smooth = 128 + 80 * np.sin(x / 37)[..., None] * np.cos(y / 23)[..., None] * [1, 0.6, 0.3]
    noise = rng.integers(-40, 41, (height, width, 1))
    squares = 60 * (((x // 50 + y // 40) % 2)[..., None] - 0.5)
    return np.clip(smooth + noise + squares, 0, 255).astype(np.uint8)


def write_pyramid(path: Path, pixels: np.ndarray, mpp: float = 0.25, steps: int = 2) -> Path:
    """A tiled, lossless TIFF with levels that are 2 x 2 means of one another."""
    with tifffile.TiffWriter(path) as tiff:
        for step in range(steps + 1):
            tiff.write(
                pixels,
                tile=(128, 128),
                photometric="rgb",
                compression="deflate",
                subfiletype=int(step > 0),
                resolution=(1e4 / (mpp * 2**step), 1e4 / (mpp * 2**step)),
                resolutionunit="CENTIMETER",
            )
            h, w = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
            quads = pixels[:h, :w].reshape(h // 2, 2, w // 2, 2, 3)
            pixels = (quads.mean((1, 3)) + 0.5).astype(np.uint8)
    return path


@pytest.fixture(scope="session")
def pyramid_pixels() -> np.ndarray:
    return picture()


@pytest.fixture(scope="session")
def pyramid_path(tmp_path_factory: pytest.TempPathFactory, pyramid_pixels: np.ndarray) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("slide") / "pyramid.tif", pyramid_pixels)


@pytest.fixture
def slide(pyramid_path: Path) -> Iterator[Slide]:
    with open_slide(pyramid_path) as opened:
        yield opened


def full_grid(slide: Slide, patch_size: int, side: int) -> PatchGrid:
    """Every cell of a slide, those that reach over its edge included."""
    width, height = slide.dimensions
    rows, cols = -(-height // side), -(-width // side)
    coords = np.array([(c * side, r * side) for r in range(rows) for c in range(cols)], np.int64)
    return PatchGrid(
        patch_size=patch_size,
        patch_size_level0=side,
        mpp=None if slide.mpp is None else slide.mpp * side / patch_size,
        slide_mpp=slide.mpp,
        canvas=(rows, cols),
        coords=coords,
        tissue_fraction=np.ones(len(coords), np.float32),
    )
