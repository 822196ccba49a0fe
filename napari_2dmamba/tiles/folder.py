"""Images in the layout of ImageNet: one folder per class."""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from napari_2dmamba.errors import FeatureError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".webp")

_LOOKED_AT = 200
"""Images of a folder that stand for all when their size is asked for."""


class TileFolder:
    """The images of a folder and their classes; also a data set as torch takes it.

    Parameters
    ----------
    path
        Folder with one folder of images per class; images may lie deeper.
    classes
        Names of the classes, in the order of a classifier's outputs; None for the names of the
        folders in alphabetical order.

    Attributes
    ----------
    classes
        Names.
    files
        Sorted by class and name.
    labels
        Position in `classes` of each file.
    transform
        What turns an image into a tensor, when the folder is used as a data set.

    Raises
    ------
    FeatureError
        When there are no images, a class has none, or a folder is no known class.
    """

    def __init__(self, path: str | Path, classes: Sequence[str] | None = None) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_dir():
            raise FeatureError(f"{self.path} is no folder; give one with a folder per class")
        folders = sorted(p.name for p in self.path.iterdir() if p.is_dir() and p.name[0] != ".")
        self.classes = tuple(classes) if classes is not None else tuple(folders)
        strange = [name for name in folders if name not in self.classes]
        if strange:
            raise FeatureError(
                f"{self.path} has a folder {strange[0]!r}, which is no class of the classifier "
                f"({', '.join(self.classes[:6])}{', ...' if len(self.classes) > 6 else ''}); "
                "rename or remove it"
            )
        self.files: list[Path] = []
        self.labels: list[int] = []
        for label, name in enumerate(self.classes):
            found = sorted(p for p in (self.path / name).rglob("*") if p.suffix.lower() in SUFFIXES)
            if not found and classes is None:
                raise FeatureError(
                    f"the class {name!r} of {self.path} has no images ({', '.join(SUFFIXES)})"
                )
            self.files += found
            self.labels += [label] * len(found)
        if not self.files:
            raise FeatureError(
                f"{self.path} has no images; give a folder with one folder of images per class"
            )
        self.transform: Callable[[Image.Image], Any] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> Image.Image:
        """Return an image in RGB.

        Raises
        ------
        FeatureError
            When it cannot be decoded.
        """
        path = self.files[index]
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
            raise FeatureError(
                f"the image {path} cannot be decoded ({error}); replace or remove it"
            ) from error

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.image(index)
        return image if self.transform is None else self.transform(image), self.labels[index]

    def digest(self) -> str:
        """Return a hash of which images of which class there are, by their names and sizes."""
        told = [
            (path.relative_to(self.path).as_posix(), label, path.stat().st_size)
            for path, label in zip(self.files, self.labels, strict=True)
        ]
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def tile_size(self) -> int | None:
        """Return the side of the images in pixels; None where they are not squares of one size.

        Of many images some are looked at, from all over the folder.
        """
        step = max(1, len(self.files) // _LOOKED_AT)
        sizes = set()
        for index in range(0, len(self.files), step):
            with (
                contextlib.suppress(OSError, ValueError, Image.DecompressionBombError),
                Image.open(self.files[index]) as image,  # its header alone
            ):
                sizes.add(image.size)
        if len(sizes) != 1:
            return None
        ((width, height),) = sizes
        return width if width == height else None

    def also_in(self, other: "TileFolder") -> list[Path]:
        """Return the images whose content is that of an image of another folder."""
        sizes = {path.stat().st_size for path in other.files}
        alike = [path for path in self.files if path.stat().st_size in sizes]
        if not alike:
            return []
        mine = {path.stat().st_size for path in alike}
        known = {_content(path) for path in other.files if path.stat().st_size in mine}
        return [path for path in alike if _content(path) in known]

    def only(self, which: Sequence[int]) -> "TileFolder":
        """Return some of the images, of the same classes."""
        part = object.__new__(TileFolder)
        part.path, part.classes, part.transform = self.path, self.classes, None
        part.files = [self.files[i] for i in which]
        part.labels = [self.labels[i] for i in which]
        return part

    def split(self, share: float, seed: int) -> tuple["TileFolder", "TileFolder"]:
        """Return two parts, the second with a share of each class, at least one image of each.

        Images are drawn one by one: tiles of one slide may lie in both parts, which flatters a
        classifier. Give folders of other slides where that matters.
        """
        draw = np.random.default_rng(seed)
        labels = np.asarray(self.labels)
        held: list[int] = []
        for label in range(len(self.classes)):
            of_class = np.flatnonzero(labels == label)
            if len(of_class) < 2:
                raise FeatureError(
                    f"the class {self.classes[label]!r} has {len(of_class)} image, too few to "
                    "hold some back; give a validation folder or more images"
                )
            count = min(max(1, round(share * len(of_class))), len(of_class) - 1)
            held += draw.permutation(of_class)[:count].tolist()
        kept = np.setdiff1d(np.arange(len(labels)), held).tolist()
        return self.only(kept), self.only(sorted(held))


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
