"""Patches of a slide as pictures, and pictures as Qt has them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtGui import QImage

from napari_2dmamba.errors import Cancelled
from napari_2dmamba.settings import StopCallback

if TYPE_CHECKING:
    from napari_2dmamba.slide import Slide


def read_patches(
    slide: "Slide",
    corners: Sequence[tuple[int, int]],
    size: int,
    side: int,
    should_stop: StopCallback,
) -> list[NDArray[np.uint8]]:
    """Return pictures of patches from the coarsest level that still fills ``side`` pixels."""
    fine_enough = [i for i, d in enumerate(slide.level_downsamples) if d <= max(1, size / side)]
    level = fine_enough[-1]
    length = max(1, round(size / slide.level_downsamples[level]))
    pictures = []
    for x, y in corners:
        if should_stop():
            raise Cancelled
        pictures.append(slide.read_region(x, y, level, length, length))
    return pictures


def as_qimage(picture: NDArray[np.uint8]) -> QImage:
    """Return an ``(h, w)``, ``(h, w, 1)`` or ``(h, w, 3)`` uint8 picture as a QImage."""
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[..., 0]
    picture = np.ascontiguousarray(picture[..., :3] if picture.ndim == 3 else picture)
    height, width = picture.shape[:2]
    grey = picture.ndim == 2
    kind = QImage.Format.Format_Grayscale8 if grey else QImage.Format.Format_RGB888
    return QImage(picture.tobytes(), width, height, picture.strides[0], kind).copy()
