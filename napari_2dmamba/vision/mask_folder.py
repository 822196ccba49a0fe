"""Images and their masks in two folders, as ADE20K lays them out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from napari_2dmamba.errors import FeatureError

_IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


class MaskFolder:
    """Pairs of an image and a mask of the same name.

    Masks hold whole numbers: 0 where nothing is said (it never counts), k + 1 for class k, as in
    ADE20K's annotations.

    Parameters
    ----------
    images, masks
        Folders; masks end in ``.png``.
    classes
        How many there are.

    Raises
    ------
    FeatureError
        When there are no images, or one has no mask.
    """

    def __init__(self, images: str | Path, masks: str | Path, classes: int) -> None:
        images, masks = Path(images).expanduser(), Path(masks).expanduser()
        for folder in (images, masks):
            if not folder.is_dir():
                raise FeatureError(f"{folder} is no folder; give folders of images and of masks")
        self.classes = classes
        self.images = sorted(p for p in images.rglob("*") if p.suffix.lower() in _IMAGES)
        if not self.images:
            raise FeatureError(f"{images} has no images; give a folder with some")
        self.masks = [(masks / p.relative_to(images)).with_suffix(".png") for p in self.images]
        absent = [p for p in self.masks if not p.is_file()]
        if absent:
            raise FeatureError(
                f"{len(absent)} of {len(self.masks)} images have no mask; the first that is not "
                f"there is {absent[0]}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def require_all(self, names: Sequence[str]) -> None:
        """Refuse masks in which a class has no pixel; stops looking when all are found.

        Masks of 0 and 1 for two classes would otherwise teach the first class where the second is
        meant: 0 never counts.

        Raises
        ------
        FeatureError
            Naming the class and the number it should have; and as `pair`.
        """
        seen: set[int] = set()
        for index in range(len(self)):
            seen |= set(np.unique(self.pair(index)[1]).tolist())
            if len(seen - {-1}) == self.classes:
                return
        absent = min(set(range(self.classes)) - seen)
        raise FeatureError(
            f"no mask has a pixel of the class {names[absent]!r}, which is number {absent + 1} "
            "(0 is no class, the first class is 1); number the masks so, or leave the class out"
        )

    def pair(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return an image ``(h, w, 3)`` and its mask ``(h, w)``: class, or -1 for none.

        Raises
        ------
        FeatureError
            When one cannot be decoded, they differ in size, or a mask holds an unknown class.
        """
        try:
            with Image.open(self.images[index]) as opened:
                image = np.asarray(opened.convert("RGB"))
            with Image.open(self.masks[index]) as opened:
                mask = np.asarray(opened)
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
            raise FeatureError(
                f"{self.images[index]} or its mask cannot be decoded ({error}); replace them"
            ) from error
        if mask.ndim != 2 or mask.dtype.kind not in "ui" or mask.shape != image.shape[:2]:
            raise FeatureError(
                f"the mask {self.masks[index]} has shape {mask.shape} and type {mask.dtype}, but "
                f"must hold one whole number for each of {image.shape[:2]} pixels"
            )
        if mask.size and int(mask.max()) > self.classes:
            raise FeatureError(
                f"the mask {self.masks[index]} holds {int(mask.max())}, but there are "
                f"{self.classes} classes (0 is no class)"
            )
        return image, mask.astype(np.int64) - 1
