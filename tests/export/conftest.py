from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_2dmamba.slide import Slide, open_slide

from .material import CELLS, SIZE


@pytest.fixture(scope="session")
def slide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lossless pyramid of 437 x 333 px, 0.5 µm/px: patches are violet, the rest is white."""
    pixels = np.full((333, 437, 3), 255, dtype=np.uint8)
    for row, col in CELLS:
        pixels[row * SIZE : (row + 1) * SIZE, col * SIZE : (col + 1) * SIZE] = (120, 60, 160)
    path = tmp_path_factory.mktemp("slide") / "squares.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        options = {"tile": (64, 64), "photometric": "rgb", "compression": "zlib"}
        um = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm",
              "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}  # fmt: skip
        writer.write(pixels, subifds=1, metadata={"axes": "YXS", **um}, **options)
        half = pixels[:332, :436].reshape(166, 2, 218, 2, 3).mean((1, 3)).round().astype(np.uint8)
        writer.write(half, subfiletype=1, **options)
    return path


@pytest.fixture
def slide(slide_file: Path) -> Iterator[Slide]:
    with open_slide(slide_file) as opened:
        yield opened
